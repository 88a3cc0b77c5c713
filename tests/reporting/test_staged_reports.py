"""How a population in stages is shown: members that left, means of one age, a budget shared out."""

from __future__ import annotations

import dataclasses
import io
import json
from statistics import fmean

import pytest
from report_subjects import Rich, text
from rich.console import Console

from pbt_flow.commands.live_table import live_table
from pbt_flow.exceptions import ComparisonError
from pbt_flow.population.result import Result
from pbt_flow.reporting.comparable import Entry, check_equal, check_pair
from pbt_flow.reporting.comparison import Comparison
from pbt_flow.reporting.comparison_page import page
from pbt_flow.reporting.plotly_charts import score_chart
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.reporting.series import best_and_mean, stage_ends
from pbt_flow.reporting.tree_layout import lay_out
from pbt_flow.settings import Settings
from pbt_flow.testing.simulation import simulate

HOW = {"population": 8, "turns": 10, "interval": 5, "options": {"dimensions": 3}, "workers": 2}
PLAN = "16x1:none,8x2:hparams,4x4:hparams,2x16:both"


def entry(seed=0, **more) -> Entry:
    """A simulated population; in stages unless it is said otherwise."""
    given = {**HOW, "stages": "wide", "seed": seed, **more}
    settings, _ = Settings.for_task(Rich, **given)
    history = simulate(Rich, **given).history
    result = Result.of(
        history,
        run_id=f"{settings.method}-{seed}",
        tracking_uri="sqlite:///x.db",
        member_runs=[f"run-{member}" for member in history.members],
        reports={history.winner().checkpoint: {"loss": history.winner().score}},
        max_failures=settings.max_failures,
        status="finished",
        budget=settings.last_turn * settings.interval,
        report_direction="minimize",
    )
    return Entry(result=result, settings=settings)


@pytest.fixture(scope="module")
def ours() -> Entry:
    return entry()


@pytest.fixture(scope="module")
def random_search() -> Entry:
    return entry(stages="none", exploit="none")


def test_the_best_and_the_mean_of_a_round_are_those_of_the_members_that_were_there(ours):
    history = ours.result.history
    best, mean = best_and_mean(history)
    assert [point.trained for point in mean] == [5 * n for n in range(1, 24)]
    for number, (b, m) in enumerate(zip(best, mean, strict=True), 1):
        scores = [own[number - 1].score for own in history.turns.values() if len(own) >= number]
        assert (b.value, m.value) == (min(scores), pytest.approx(fmean(scores)))


def test_the_chart_marks_where_members_left_and_how_many(ours):
    history = ours.result.history
    assert [tuple(end) for end in stage_ends(history)] == [(5, 8), (15, 4), (35, 2)]
    subject = ReportData(result=ours.result, settings=ours.settings, space=Rich.space)
    layout = score_chart(subject)["layout"]
    assert [shape["x0"] for shape in layout["shapes"]] == [5, 15, 35]
    assert [note["text"] for note in layout["annotations"]] == ["8 leave", "4 leave", "2 leave"]


def test_no_mark_is_drawn_without_stages(random_search):
    one = ReportData(result=random_search.result, settings=random_search.settings, space=Rich.space)
    assert "shapes" not in score_chart(one)["layout"]


def test_who_has_left_is_no_present_member_of_the_tree(ours):
    """Lines that live on have more room than those that ended."""
    history = ours.result.history
    as_if_all_lived = dataclasses.replace(history, left={})
    assert lay_out(history).rows < lay_out(as_if_all_lived).rows


def test_the_page_says_the_plan_and_who_left_when(ours, random_search):
    shown = text(
        ReportData(
            result=ours.result,
            settings=ours.settings,
            space=Rich.space,
            control=random_search.result,
        )
    )
    assert "16 members, 80 of 80 turns of 5 steps" in shown
    assert "Stages: 16 members for 1 turn (nobody copies), then the best 8 for 2 turns" in shown
    assert shown.count('class="left" title="left at the end of a stage"') == 14
    assert ">left after stage</button></th>" in shown
    assert "of what the 2 members stand on that are left; the control" in shown
    assert "or left at the end of a stage" in shown
    assert "retired" not in shown.split("<style>")[0]
    plain = ReportData(
        result=random_search.result, settings=random_search.settings, space=Rich.space
    )
    assert "left after stage" not in text(plain)


def test_the_headline_says_how_long_each_trained_and_that_the_budget_was_one(ours, random_search):
    told = dataclasses.replace(ours.result, control=random_search.result).headline
    assert "after 115 steps, the winner of the control" in told
    assert told.endswith("after 50, with the same budget in all")


def test_a_winner_of_stages_is_not_over_its_budget(ours):
    assert ours.result.winner_share == 1
    assert not ours.result.is_over_budget
    assert (ours.result.left, ours.result.retired, ours.result.turns) == (14, 0, 80)
    assert ours.result.to_json()["left"] == 14


def test_stages_and_their_random_search_had_the_same_budget(ours, random_search):
    check_equal(ours, random_search)
    check_pair(random_search, ours.settings)
    made = Comparison.of([ours, random_search])
    assert made.is_equal
    assert list(made.methods) == ["random search", "PBT in stages"]
    assert made.warnings() == []
    assert json.loads(json.dumps(made.to_json()))["equal_budgets"]


def test_a_population_that_ended_before_its_last_stage_is_not_compared(random_search):
    short = entry(target=1e9)
    assert short.result.turns < 80
    with pytest.raises(ComparisonError, match=r"their members did \d+ of 80 turns of all members"):
        check_equal(short, random_search)


def test_another_total_is_another_budget(ours):
    longer = entry(stages="none", exploit="none", turns=11)
    with pytest.raises(ComparisonError, match="their turns is 10 and 11"):
        check_equal(ours, longer)


def test_turns_of_the_budget_that_are_left_over_are_told():
    how = {"population": 6, "turns": 9}
    made = Comparison.of([entry(**how), entry(**how, stages="none", exploit="none")])
    assert made.is_equal
    assert any("leave 1 of the 54 turns of the budget over" in note for note in made.notes())


def test_means_are_compared_at_the_age_of_those_without_stages(ours, random_search):
    made = Comparison.of([ours, random_search])
    turns = ours.result.history.turns.values()
    expected = fmean(own[9].score for own in turns if len(own) >= 10)
    assert made.measures(ours)["mean score"] == pytest.approx(expected)
    assert made.measures(random_search)["mean score"] == random_search.result.mean_score
    note = "its mean score is that of the 2 members that were left after 10 turns, the age of the"
    assert any(note in said for said in made.notes())
    assert note in page(made)


def test_halving_is_no_random_search_and_is_called_by_its_name(ours, random_search):
    halving = entry(exploit="none")
    with pytest.raises(ComparisonError, match="is no control: its stages are 16x1:none"):
        check_pair(halving, ours.settings)
    pbt = entry(stages="none")
    made = Comparison.of([ours, pbt, halving, random_search])
    assert made.baseline == "random search"
    assert set(made.methods) == {"random search", "successive halving", "PBT", "PBT in stages"}
    assert Comparison.of([ours, halving]).baseline == "successive halving"


def test_two_plans_are_told_apart(ours, random_search):
    made = Comparison.of([ours, entry(stages="narrow"), random_search])
    assert f"PBT in stages {PLAN}" in made.methods
    assert "PBT in stages 8x3:hparams,4x6:hparams,2x16:both" in made.methods


def test_the_live_table_shows_who_trains_and_counts_who_left(ours):
    shown = io.StringIO()
    table = live_table(ours.result.history, "population", width=100, height=40)
    Console(file=shown, width=100).print(table)
    rows = [line for line in shown.getvalue().splitlines() if line.startswith("│")]
    assert len(rows) == 2
    assert "14 members that left" in shown.getvalue()
