"""What the documents say of the measured pairs follows from what the runs came to."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import evidence
from benchmarks.domains import METHODS, PAIRS, STUDIED
from benchmarks.evidence import CONTROL, Pairs, recorded
from pbt_flow.utils.interval import Interval

DOCS = Path(__file__).resolve().parents[2] / "docs"
HEADINGS = {"gan": "GAN on digits", "rl": "LunarLander-v3", "translation": "Translation, Chinese"}


def tables(task):
    """The tables of a task's section in docs/results.md, each as a list of rows of cells."""
    text = (DOCS / "results.md").read_text("utf-8")
    section = text.split(f"\n### {HEADINGS[task]}")[1].split("\n### ")[0]
    for block in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        yield [rows[0], *rows[2:]]


@pytest.mark.parametrize("task", HEADINGS)
def test_the_table_of_seeds_has_what_is_recorded(task):
    (_, *methods), *rows = next(tables(task))
    shown = {method: {} for method in methods}
    for seed, *cells in rows:
        for method, cell in zip(methods, cells, strict=True):
            shown[method][seed] = float(cell)
    assert shown == {m: seeds for m, seeds in recorded()[task].items() if m in METHODS}


@pytest.mark.parametrize("task", HEADINGS)
def test_the_table_of_methods_is_what_the_seeds_come_to(task):
    _, shown = list(tables(task))[:2]
    methods = {m: seeds for m, seeds in recorded()[task].items() if m in METHODS}
    lines = evidence.table(methods, CONTROL).splitlines()
    told = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    assert [row[:5] for row in shown] == [told[0], *told[2:]]


@pytest.mark.parametrize("task", HEADINGS)
def test_every_method_has_the_seeds_that_were_fixed_beforehand(task):
    fixed = json.loads(PAIRS.read_text("utf-8"))["tasks"][task]["seeds"]
    for method, seeds in recorded()[task].items():
        assert method in METHODS | STUDIED
        assert seeds.keys() == set(map(str, fixed)), method


@pytest.mark.parametrize(
    ("document", "task", "method", "against", "digits"),
    [
        ("../README.md", "rl", "PBT", CONTROL, 0),
        ("../README.md", "translation", "PBT in stages, narrow", CONTROL, 1),
        ("../README.md", "gan", "PBT in stages, narrow", CONTROL, 2),
        ("results.md", "translation", "PBT in stages, narrow", "halving, narrow", 2),
        ("results.md", "gan", "PBT in stages, narrow", "halving, narrow", 2),
        ("results.md", "gan", "PBT in stages, wide", "halving, wide", 2),
        ("results.md", "rl", "PBT in stages, narrow", "halving, narrow", 0),
        ("results.md", "rl", "PBT in stages, wide", "halving, wide", 0),
        ("results.md", "gan", "PBT in stages, narrow", "PBT", 2),
        ("results.md", "gan", "PBT in stages, wide", "PBT", 2),
        ("results.md", "translation", "PBT in stages, narrow", "PBT", 2),
        ("choices.md", "rl", "PBT, no resampling", "PBT", 1),
        ("choosing.md", "rl", "PBT, no resampling", "PBT", 0),
        ("choosing.md", "gan", "narrow, no resampling", "PBT in stages, narrow", 2),
        ("choices.md", "gan", "narrow, no resampling", "PBT in stages, narrow", 2),
        ("choices.md", "gan", "narrow, a tenth resampled", "PBT in stages, narrow", 2),
        ("choices.md", "gan", "PBT, no resampling", "PBT", 2),
        ("choices.md", "translation", "narrow, no resampling", "PBT in stages, narrow", 2),
        ("choices.md", "translation", "narrow, no resampling", "halving, narrow", 2),
        ("choosing.md", "translation", "narrow, no resampling", "PBT in stages, narrow", 2),
        ("choosing.md", "translation", "PBT", CONTROL, 2),
        ("choosing.md", "translation", "PBT in stages, narrow", "PBT", 2),
        ("choosing.md", "gan", "PBT in stages, narrow", "PBT", 2),
        ("choosing.md", "rl", "PBT in stages, narrow", "halving, narrow", 0),
        ("choosing.md", "rl", "PBT in stages, wide", "halving, wide", 0),
        ("choosing.md", "translation", "PBT in stages, narrow", "halving, narrow", 2),
        ("choosing.md", "gan", "PBT in stages, narrow", "halving, narrow", 2),
        ("choosing.md", "gan", "PBT in stages, wide", "halving, wide", 2),
        *[
            ("choices.md", task, method, CONTROL, 0 if task == "rl" else 2)
            for task in HEADINGS
            for method in METHODS
            if method != CONTROL and "decay" not in method
        ],
    ],
)
def test_a_difference_in_a_text_is_what_the_pairs_come_to(document, task, method, against, digits):
    reports = recorded()[task]
    if method not in reports:
        pytest.skip("this was not run")
    found = Interval.of(Pairs.of(reports[method], reports[against]).differences)
    mean, low, high = (f"{x:+.{digits}f}" for x in (found.mean, found.low, found.high))
    said = " ".join((DOCS / document).read_text("utf-8").split())
    assert re.search(rf"{re.escape(mean)}\b[^+]*\W{re.escape(low)} to {re.escape(high)}", said)


def test_a_difference_is_better_where_less_is_better():
    pairs = Pairs.of({"0": 1.0, "1": 2.0, "7": 0.0}, {"0": 3.0, "1": 3.0}, minimize=True)
    assert pairs.differences == [2.0, 1.0]
    assert pairs.cells[1:] == ["2 of 2", "0.5"]


def test_a_new_report_is_entered_beside_the_others(tmp_path, monkeypatch):
    copy = tmp_path / "reports.json"
    before = evidence.REPORTS.read_text("utf-8")
    copy.write_text(before, "utf-8")
    monkeypatch.setattr(evidence, "REPORTS", copy)
    evidence.record({})
    assert copy.read_text("utf-8") == before
    evidence.record({"rl": {"PBT": {"8": 1.5}, "new": {"0": 2.0}}})
    reports = recorded()["rl"]
    assert (reports["PBT"]["8"], reports["new"]) == (1.5, {"0": 2.0})
    assert list(reports["PBT"]) == [*map(str, range(9))]
