"""Stages: the plans of any budget, their text, and what is refused at the door."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt_flow.exceptions import SettingsError
from pbt_flow.population.stages import SHAPES, StagePlan


def plan_of(text: str, population: int = 8, turns: int = 20, workers: int = 2) -> StagePlan:
    plan = StagePlan.of(text, population=population, turns=turns, workers=workers)
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    ("population", "turns", "narrow", "wide", "ages"),
    [
        (8, 10, "8x3 4x6 2x16", "16x1 8x2 4x4 2x16", (25, 23)),
        (8, 20, "8x6 4x13 2x30", "16x2 8x4 4x8 2x32", (49, 46)),
        (8, 12, "8x4 4x8 2x16", "16x1 8x2 4x4 2x24", (28, 31)),
        (6, 9, "6x3 3x6 2x9", "12x1 6x1 3x3 2x13", (18, 18)),
        (20, 100, "20x33 10x66 5x136", "40x10 20x20 10x40 5x160", (235, 230)),
        (4, 12, "4x4 2x8 2x8", "8x1 4x2 2x4 2x12", (20, 19)),
        # Two members stay to the end.
        (2, 20, "2x6 2x6 2x8", "4x2 2x4 2x4 2x8", (20, 18)),
    ],
)
def test_a_named_plan_is_that_of_the_table(population, turns, narrow, wide, ages):
    plans = plan_of("narrow", population, turns), plan_of("wide", population, turns)
    assert [plan.short for plan in plans] == [narrow, wide]
    assert tuple(plan.ends[-1] for plan in plans) == ages
    copies = [[stage.copies for stage in plan.stages] for plan in plans]
    assert copies == [["hparams", "hparams", "both"], [None, "hparams", "hparams", "both"]]


@given(
    name=st.sampled_from(list(SHAPES)),
    population=st.integers(2, 60),
    turns=st.integers(1, 200),
    workers=st.integers(1, 70),
)
def test_a_named_plan_spends_the_budget_and_keeps_all_workers_busy(
    name, population, turns, workers
):
    try:
        plan = plan_of(name, population, turns, workers)
    except SettingsError as refused:
        # It fits from the number of turns on that the message names.
        least = int(str(refused).split("turns=")[1].split()[0])
        assert turns < least
        plan = plan_of(name, population, least, workers)
    assert 0 <= plan.unspent < plan.stages[-1].members
    sizes = [stage.members for stage in plan.stages]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] >= max(2, min(workers, population))
    assert all(stage.turns >= 1 for stage in plan.stages)
    assert StagePlan.of(str(plan), population=population, turns=plan.turns, workers=1) == plan
    assert StagePlan.resumed(str(plan), population=population, turns=plan.turns) == plan


def test_no_stages_are_no_plan():
    assert StagePlan.of("none", population=8, turns=20, workers=2) is None
    assert StagePlan.resumed("none", population=8, turns=20) is None


def test_more_turns_make_the_last_stage_longer_and_change_nothing_before():
    plan = StagePlan.resumed("16x2:none,8x4:hparams,4x8:hparams,2x32:both", population=8, turns=25)
    assert str(plan) == "16x2:none,8x4:hparams,4x8:hparams,2x52:both"


@pytest.mark.parametrize(
    ("turn", "stage"), [(1, 0), (2, 0), (3, 1), (6, 1), (7, 2), (14, 2), (15, 3), (46, 3)]
)
def test_a_turn_belongs_to_the_stage_in_which_it_is_done(turn, stage):
    assert plan_of("wide").stage_at(turn) == stage


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("broad", "stages must be none, narrow, wide, or a list as in .*, got 'broad'"),
        ("8x20", "got '8x20'"),
        ("8x20:all", "what is copied, which is none, both, weights, hparams.*got '8x20:all'"),
        ("8x10:both,", "got '' in '8x10:both,'"),
        ("1x160:none", "at least 2 members and 1 turn each, got 1x160:none as stage 1"),
        ("8x0:none,2x80:both", "at least 2 members and 1 turn each, got 8x0:none as stage 1"),
        (
            "4x20:none,8x10:both",
            "only become smaller, since who has left does not come back, got 8x10:both after "
            "4x20:none",
        ),
        (
            "16x2:none,2x32:both",
            "are 96 turns of all members together, and population=8 times turns=20 makes 160; "
            "make the last stage 2x64:both, or give turns=12, or write narrow or wide",
        ),
        ("16x20:none", "are 320 turns .* makes 160; make the last stage 16x10:none"),
        ("16x20:none,2x32:both", "makes 160; give turns=48, or write narrow"),
    ],
)
def test_what_cannot_be_a_plan_is_refused_with_the_way_out(text, message):
    with pytest.raises(SettingsError, match=message):
        plan_of(text)


def test_a_budget_too_small_for_a_turn_of_each_stage_is_refused():
    message = "stages wide need at least turns=4 with population=8.*got turns=3; give more turns"
    with pytest.raises(SettingsError, match=message):
        plan_of("wide", turns=3)
    text = str(plan_of("wide", turns=4))
    with pytest.raises(SettingsError, match="leave no turn for the last 2 members"):
        StagePlan.resumed(text, population=8, turns=3)


def test_of_members_that_all_go_on_the_sentence_says_so() -> None:
    told = StagePlan.of("narrow", population=2, turns=8, workers=1).describe()
    assert "2 members for 2 turns (hyperparameters are copied), then the same for 2 turns" in told
    assert told.endswith("and the winner trains for 8 turns, as without stages")
