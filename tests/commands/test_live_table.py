"""The live table at any width: no number is ever cut, and what is left out is said."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from pbt_flow.commands.live_table import live_table
from pbt_flow.population.history import History
from pbt_flow.population.records import Donor, Member, Source
from pbt_flow.utils.text import number

NAMES = ("lr", "weight_decay", "score", "entropy_cost", "one_minus_gamma", "gae_lambda", "clip")
LONG = ("a_hyperparameter_of_a_long_name", "a_hyperparameter_of_another_name")


def history(size: int = 4, names: tuple[str, ...] = NAMES) -> History:
    made = History(direction="minimize")
    made.begin(
        Member(
            index=index,
            hparams={name: 1.2345678e-9 * (index + 1) * 7**n for n, name in enumerate(names)},
            score=None if index == 2 else 1.28e-7 * (index + 1),
            turn=3,
            step=210_000,
        )
        for index in range(size)
    )
    return made


def drawn(width: int, height: int = 40, **given) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width)
    console.print(live_table(history(**given), "population", width=width, height=height))
    return text.getvalue()


@pytest.mark.parametrize("names", [NAMES, NAMES + LONG, ("λ",)])
@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 100, 132, 200])
def test_every_number_that_is_shown_is_whole(width: int, names: tuple[str, ...]) -> None:
    shown = drawn(width, names=names)
    whole = {"", "-", "3", "210000", *(f"{index:02d}" for index in range(4))}
    for member in history(names=names).members.values():
        whole |= {number(value) for value in (member.score, *member.hparams.values())}
    cells = [cell.strip() for line in shown.splitlines() if "│" in line for cell in line.split("│")]
    assert cells
    assert set(cells) <= whole
    assert all(len(line) <= width for line in shown.splitlines())


def test_what_there_is_no_room_for_is_counted() -> None:
    assert "more column" not in drawn(200)
    shown = drawn(80)
    (left_out,) = map(int, re.findall(r"(\d+) more columns in a wider terminal", shown))
    heads = next(line for line in shown.splitlines() if "member" in line)
    assert len(re.findall(r"┃[^┃]+", heads)) + left_out == 5 + len(NAMES)
    assert "and 5 more members" in drawn(200, height=9, size=8)


def test_a_hyperparameter_called_like_a_column_of_ours_has_its_own() -> None:
    heads = next(line for line in drawn(200).splitlines() if "member" in line)
    assert heads.count("score") == 2
    first = next(line for line in drawn(200).splitlines() if re.match(r"│ +00 │", line))
    assert re.findall(r"1\.28e-07|6\.049e-08", first) == ["1.28e-07", "6.049e-08"]


def test_two_long_names_are_told_apart() -> None:
    shown = drawn(200, names=LONG)
    assert "a_hyper…ong_name" in shown
    assert "a_hyper…her_name" in shown


@pytest.mark.parametrize(
    ("donor", "cell"),
    [
        (Donor(member=3, turn=1, copies="both"), "03"),
        (
            Donor(member=3, turn=1, copies="weights", hparams_of=Source(member=2, turn=1)),
            "03+02",
        ),
    ],
)
def test_whom_a_member_copied_is_there_and_of_two_sources_both(donor: Donor, cell: str) -> None:
    made = history(names=("lr",))
    made.members[0] = replace(made.members[0], donor=donor)
    text = io.StringIO()
    table = live_table(made, "population", width=100, height=40)
    Console(file=text, width=100).print(table)
    rows = [[part.strip() for part in line.split("│")] for line in text.getvalue().splitlines()]
    (mine,) = (row for row in rows if row[1:2] == ["00"])
    assert cell in mine
