"""The picture of docs/choosing.md is drawn from tables that the documents have."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def make() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "pictures" / "make.py"), run_name="make")


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("0.213 ± 0.099", [0.213, 0.099]),
        ("+57.1 (+5.27 to +109)", [57.1, 5.27, 109.0]),
        ("-0.857 (-1.38 to -0.338)", [-0.857, -1.38, -0.338]),
        ("15", [15.0]),
    ],
)
def test_the_numbers_of_a_cell_are_read_with_their_signs(
    make: dict[str, Any], cell: str, found: list[float]
) -> None:
    assert make["numbers"](cell) == found


def test_the_picture_shows_what_the_tables_say(make: dict[str, Any]) -> None:
    interval, members, copying, tasks = make["draw_choices"]().axes
    (losses, search) = interval.lines
    head, _, row = make["table"]("choices.md", "Interval", "interval")
    assert list(losses.get_xdata()) == [float(cell) for cell in head[1:-1]]
    assert list(losses.get_ydata()) == [float(cell) for cell in row[1:-1]]
    assert search.get_ydata()[0] == float(row[-1])
    assert len(members.containers) == len(copying.containers) == 2
    sizes = make["table"]("choices.md", "Population", "members")[1:]
    assert [label.get_text() for label in members.get_xticklabels()] == [row[0] for row in sizes]
    # Each difference from random search that the results have is in the last part.
    shown = {label.get_text() for label in tasks.get_yticklabels()}
    results = (DOCS / "results.md").read_text("utf-8")
    for task in ("GAN on digits", "LunarLander-v3"):
        section = results.split(f"### {task}")[1].split("\n### ")[0]
        methods = re.findall(
            r"^\| ((?:PBT|halving)[^|]*?) \| [\d.]+ \| [+-]", section, re.MULTILINE
        )
        assert methods
        assert {f"{task.split('-')[0]}: {method}" for method in methods} <= shown
