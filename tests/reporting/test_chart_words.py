"""The charts in words: what a screen reader says, and the numbers that the keyboard reaches."""

from __future__ import annotations

import html
import re

import pytest
from report_subjects import drawn, subject, text

from pbt_flow.reporting.chart_words import ChartWords, chart_words
from pbt_flow.reporting.plotly_charts import MOST_FOUNDERS
from pbt_flow.utils.text import number


def words(one) -> dict[str, ChartWords]:
    return chart_words(one, MOST_FOUNDERS)


@pytest.mark.parametrize(
    "settings",
    [
        {"population": 8, "turns": 10, "control": True},
        {"population": 2, "turns": 1},
        {"population": 8, "turns": 3, "faults": {(0, 2): ["raises"]}},
        {"population": 4, "exploit": "none"},
    ],
    ids=str,
)
def test_every_chart_has_a_sentence_and_a_table_that_the_keyboard_reaches(settings):
    one = subject(**settings)
    whole = text(one)
    told = words(one)
    assert told.keys() == drawn(one).keys()
    for name, found in told.items():
        assert found.sentence.endswith(".")
        assert found.rows
        assert all(len(row) == len(found.head) for row in found.rows)
        label = re.search(rf'id="{name}" role="img" aria-label="([^"]*)"', whole)[1]
        assert html.unescape(label) == found.sentence
    assert whole.count("<summary>in words and numbers</summary>") == len(told)
    assert whole.count('<div class="scroll" tabindex="0" role="region"') == len(told)


def test_the_words_are_of_the_numbers_that_are_drawn():
    one = subject(population=8, turns=10, control=True)
    told, charts = words(one), drawn(one)
    lines = {line["name"]: line for line in charts["scores"]["data"]}
    columns = {"the best": "best", "the mean": "mean", "the control's best": "control, best"}
    for column, name in columns.items():
        place = list(told["scores"].head).index(column)
        seen = [row[place] for row in told["scores"].rows]
        assert seen == [number(float(value)) for value in lines[name]["y"]]
        if column != "the control's best":
            assert f"{column} goes from {seen[0]} to {seen[-1]}" in told["scores"].sentence
    *_, winner = charts["hparam-0"]["data"]
    assert told["hparam-0"].rows[0][0] == str(winner["x"][0])
    assert told["hparam-0"].rows[-1][1] == str(winner["x"][-1])
    assert float(told["hparam-0"].rows[-1][2]) == pytest.approx(winner["y"][-1], rel=1e-3)
    shares = {line["name"]: line["y"] for line in charts["founders"]["data"]}
    assert list(shares) == list(told["founders"].head[1:])
    assert list(told["founders"].rows[-1][1:]) == [f"{share[-1]:.0%}" for share in shares.values()]
    donors = [turn.plan.donor for turn in one.path]
    assert [bool(row[-1]) for row in told["tree"].rows] == [donor is not None for donor in donors]


def test_a_long_training_has_a_table_that_can_be_read():
    one = subject(population=2, turns=90, exploit="none")
    rows = words(one)["scores"].rows
    assert len(rows) <= 40
    assert rows[-1][0] == "450"


def test_a_crowd_opens_with_the_winners_line_alone_and_a_few_do_not():
    for size, checked in ((8, False), (32, True)):
        one = subject(population=size, turns=2)
        switches = re.findall(r'<input type="checkbox" class="fade"( checked)?>', text(one))
        assert [bool(found) for found in switches] == [checked] * 3
    charts = drawn(one)
    for name in ("scores", "hparam-0", "tree"):
        stays = [line for line in charts[name]["data"] if "meta" not in line]
        others = [line for line in charts[name]["data"] if "meta" in line]
        assert stays
        assert others
        assert all(0 < line["meta"] < 1 for line in others)
        inks = [line for line in stays if line["line"]["color"] == "var(--ink)"]
        assert len(inks) == 1, "the winner's line is not faded"


def test_the_winners_line_of_scores_is_that_of_its_ancestors():
    one = subject(population=8, turns=10)
    (line,) = (line for line in drawn(one)["scores"]["data"] if line["name"] == "the winner's line")
    assert line["x"] == [turn.plan.trained for turn in one.path]
    assert line["y"] == pytest.approx([turn.score for turn in one.path], rel=1e-5)
    assert any(turn.plan.donor for turn in one.path), "the case must have a copy in the line"


def test_a_choice_that_looks_like_markup_is_shown_as_it_is():
    axis = drawn(subject())["hparam-3"]["layout"]["yaxis"]
    assert axis["ticktext"] == ["&lt;b&gt;", "&amp;", "None"]
