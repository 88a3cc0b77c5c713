"""What is printed fits the terminal that it is printed to, and a file gets it as it is."""

from __future__ import annotations

import io
import os
import shutil

import pytest

from pbt_flow.utils.terminal import fitted


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


SENTENCE = "  warning: 4 of 8 members have h0 at its upper bound after 11 turns"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))


def test_a_line_ends_between_words_and_goes_on_with_its_indentation() -> None:
    lines = fitted(f"short\n{SENTENCE}\n", Terminal()).split("\n")
    assert (lines[0], lines[-1]) == ("short", "")
    assert len(lines) == 4
    assert all(len(line) <= 40 for line in lines)
    assert all(line.startswith("  ") for line in lines[1:3])
    assert " ".join(" ".join(lines[1:3]).split()) == SENTENCE.strip()


@pytest.mark.parametrize(
    "line",
    [
        "  python -m pbt_flow ui 0123456789abcdef0123456789abcdef",
        "  pbt-flow resume 0123456789abcdef0123456789abcdef",
        "population 0123456789abcdef0123456789abcdef0123456789",
    ],
)
def test_a_command_and_a_long_word_are_copied_whole(line: str) -> None:
    assert line.split()[-1] in fitted(line, Terminal()).split("\n")[-1]
    if not line.startswith("population"):
        assert fitted(line, Terminal()) == line


def test_what_a_command_says_of_itself_is_a_sentence() -> None:
    told = "python -m pbt_flow show: error: no run nonsense at sqlite:///mlflow.db"
    assert len(fitted(told, Terminal()).split("\n")) == 2


def test_a_file_gets_the_text_as_it_is() -> None:
    assert fitted(SENTENCE, io.StringIO()) == SENTENCE


TABLE = """| seed | method | mean score | best report (return) |
|---|---|---|---|
| 0 | random search | 78.77 | 209.4 |
| 0 | PBT | 188.8 | 458.8 |"""


def test_a_table_that_is_too_wide_is_told_row_by_row_and_no_number_is_cut() -> None:
    assert fitted(f"{TABLE}\n\nthe end", Terminal()).split("\n") == [
        "0, random search",
        "  mean score 78.77",
        "  best report (return) 209.4",
        "0, PBT",
        "  mean score 188.8",
        "  best report (return) 458.8",
        "",
        "the end",
    ]
    narrow = "\n".join(["| a | b |", "|---|---|", "| 1 | 2 |"])
    assert fitted(narrow, Terminal()) == narrow


def test_a_table_that_is_too_wide_still_says_what_it_is_of() -> None:
    """Of five methods there are four tables of differences, which nothing else tells apart."""
    rows = ["| PBT tournament against random search | mean difference | pairs |", "|---|---|---|"]
    spread = "+0.366 (95% t interval +0.22 to +0.511 over 2 seeds)"
    told = "\n".join([*rows, f"| mean score, better by | {spread} | ahead in 2 of 2 |"])
    lines = fitted(told, Terminal()).split("\n")
    assert lines[0] == "PBT tournament against random search"
    assert lines[1].startswith("mean score, better by, +0.366")
