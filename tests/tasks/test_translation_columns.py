"""Which columns of a table are the sentences, headers, and quotes of a spreadsheet."""

from __future__ import annotations

import csv
import doctest
import io
import random

import pytest

from pbt_flow.tasks import translation_columns as columns
from pbt_flow.tasks.translation_columns import Pair, Reading, read_table, tidy
from pbt_flow.tasks.translation_texts import CorpusError

PAIRS = [(f"satz {n} hier", f"sentence {n} here") for n in range(40)]


def table(*before: str, form: str = "{s}\t{t}") -> list[str]:
    rng = random.Random(0)
    rows = [form.format(n=n, s=s, t=t, x=round(rng.random(), 4)) for n, (s, t) in enumerate(PAIRS)]
    return [*before, *rows]


def test_the_examples_in_the_docstrings_are_true() -> None:
    found = doctest.testmod(columns)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize(
    ("lines", "pairs"),
    [
        (["ja\tyes", "nein\tno"], [("ja", "yes"), ("nein", "no")]),
        (["ja\tyes\tby somebody"], [("ja", "yes")]),
        (["17\tja\t4\tyes"], [("ja", "yes")]),
        (["ja\tyes\r", "nein\tno\r"], [("ja", "yes"), ("nein", "no")]),
        (["", "ja\tyes", " ", ""], [("ja", "yes")]),
        (
            ["12\ttwelve", "13\tthirteen", "14\tfourteen"],
            [("12", "twelve"), ("13", "thirteen"), ("14", "fourteen")],
        ),
    ],
    ids=["two", "with an attribution", "with ids", "lines of Windows", "blank lines", "numbers"],
)
def test_the_columns_of_a_few_lines_are_told_by_their_number(
    lines: list[str], pairs: list[Pair]
) -> None:
    assert read_table(lines, "x.tsv").pairs == pairs


@pytest.mark.parametrize(
    ("form", "source", "target"),
    [
        ("{s}\t{t}", "column 1", "column 2"),
        ("{s}\t{t}\tCC-BY 2.0 by somebody {n}", "column 1 of 3", "column 2 of 3"),
        ("{x}\t{s}\t{t}", "column 2 of 3", "column 3 of 3"),
        ("{s}\t{t}\t{x}", "column 1 of 3", "column 2 of 3"),
        ("{s}\t{x}\t{t}", "column 1 of 3", "column 3 of 3"),
        ("book-{n}\t{s}\t{t}", "column 2 of 3", "column 3 of 3"),
        ("de-en\t{s}\t{t}", "column 2 of 3", "column 3 of 3"),
        ("{n}\t{s}\t{n}\t{t}", "column 2 of 4", "column 4 of 4"),
        ("de\t{s}\ten\t{t}", "column 2 of 4", "column 4 of 4"),
        ("{n}\t{x}\t{s}\t{t}", "column 3 of 4", "column 4 of 4"),
        ("{s}\t{t}\t{x}\t{n}", "column 1 of 4", "column 2 of 4"),
        ("2024-01-01 12:{n}\t{s}\t{t}", "column 2 of 3", "column 3 of 3"),
        ("news/part_a.txt\t{s}\t{t}\t{x}", "column 2 of 4", "column 3 of 4"),
    ],
)
def test_columns_of_scores_and_names_are_no_sentences(form: str, source: str, target: str) -> None:
    read = read_table(table(form=form), "x.tsv")
    assert read.pairs == PAIRS
    assert (read.source, read.target) == (source, target)
    assert not read.notes


@pytest.mark.parametrize(
    ("first", "form"),
    [
        ("source\ttarget", "{s}\t{t}"),
        ("de\ten", "{s}\t{t}"),
        ("German\tEnglish", "{s}\t{t}"),
        ("zh-CN\ten_US", "{s}\t{t}"),
        ("Source sentence\tTarget sentence", "{s}\t{t}"),
        ("text_de\ttext_en", "{s}\t{t}"),
        ("中文\t英文", "{s}\t{t}"),
        ("ja_JP\tko-KR", "{s}\t{t}"),
        ("sentence1\tsentence2", "{s}\t{t}"),
        ('"source"\t"target"', "{s}\t{t}"),
        ("id\tsource\tid\ttarget", "{n}\t{s}\t{n}\t{t}"),
        ("score\tfrase\tzin", "{x}\t{s}\t{t}"),
    ],
)
def test_a_header_is_no_pair_and_is_said(first: str, form: str) -> None:
    read = read_table(table(first, form=form), "x.tsv")
    assert read.pairs == PAIRS
    assert read.passed_over == {"blank": 0, "header": 1}
    assert "the first line is a header (" in read.notes[-1]


@pytest.mark.parametrize(
    "first", ["Hallo\tHello", "nein\tno", "de\tde", "die Quelle\tthe source", "text 3 b\tx"]
)
def test_a_sentence_is_no_header(first: str) -> None:
    read = read_table(table(first), "x.tsv")
    assert read.pairs == [tuple(first.split("\t")), *PAIRS]
    assert not read.notes


def test_a_header_is_only_looked_for_in_the_first_line() -> None:
    assert len(read_table([*table(), "source\ttarget"], "x").pairs) == len(PAIRS) + 1


SAID = [('er sagt "ja", leise', 'he says "yes", softly'), ("kurz", "short"), *PAIRS]


@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
def test_the_quotes_of_a_spreadsheet_are_taken_away(quoting: int) -> None:
    text = io.StringIO()
    csv.writer(text, "excel-tab", quoting=quoting, lineterminator="\n").writerows(SAID)
    read = read_table(text.getvalue().splitlines(), "x.tsv")
    assert read.pairs == SAID
    number = 2 * len(SAID) if quoting == csv.QUOTE_ALL else 2
    assert f"the quotes around {number} cells were taken away" in read.notes[0]


@pytest.mark.parametrize(
    "pairs",
    [
        [('"Ja."', '"Yes."'), *PAIRS],
        [('"Ja", sagt er', '"Yes," he says'), ('"A ""B"""', '"A ""B"""'), *PAIRS],
        [("5\" und 6'", "5\" and 6'"), *PAIRS],
    ],
    ids=["quotations", "quotes by no rule", "inches"],
)
def test_the_quotes_of_a_text_stay(pairs: list[Pair]) -> None:
    assert tidy(Reading(pairs=pairs, source="a", target="b")).pairs == pairs


def test_traces_of_html_and_of_damage_are_said() -> None:
    pairs = [("er sagt &quot;ja&quot;", "yes"), ("f\ufffdnf", "five"), *PAIRS[:8]]
    read = tidy(Reading(pairs=pairs, source="a", target="b"))
    assert read.pairs == pairs
    assert read.notes == (
        "codes of HTML such as &quot; in 1 sentence were left as they are",
        "1 pair with \ufffd, damaged before it came here",
    )


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["a,b", "c,d"], r"1 column\(s\) .* it looks like a table with commas: save it with tabs"),
        (["a;b", "c;d"], "with semicolons"),
        (['{"de": "a"}'], "it looks like lines of JSON: give its folder as data=hf:FOLDER"),
        (["no", "tab"], "of two files, one for each language, give both: data=files:SOURCE,TARGET"),
        (["a\tb\tc\td\te"], r"5 column\(s\)"),
        ([], r"0 column\(s\)"),
        (["a\tb", 'c\t"d', 'e"\tf\tg'], r"line 3 has 3 column\(s\).* a cell in quotes holds"),
    ],
)
def test_a_table_of_another_kind_is_refused_with_a_hint(lines: list[str], complaint: str) -> None:
    with pytest.raises(CorpusError, match=complaint):
        read_table(lines, "x.tsv")
