"""The end of a stage: who leaves, in which order, and the same again after a resume."""

from __future__ import annotations

import pytest

from pbt_flow.population.history import History
from pbt_flow.population.leaving import StageEnd, end_stages
from pbt_flow.population.records import Checkpoint, Member, Plan, Turn
from pbt_flow.population.stages import StagePlan

STEPS = 10


def begun(text: str, direction: str = "maximize") -> History:
    """The members of a plan written out; the numbers of its first stage are all that matter."""
    members = int(text.partition("x")[0])
    total = sum(
        int(part.partition("x")[0]) * int(part.partition("x")[2].partition(":")[0])
        for part in text.split(",")
    )
    plan = StagePlan.of(text, population=total, turns=1, workers=1)
    history = History(direction=direction, stages=plan)
    history.begin(Member(index=m, hparams={"lr": float(m)}) for m in range(members))
    return history


def do(history: History, member: int, *scores: float | None) -> None:
    """The next turns of a member; None for one that failed."""
    for score in scores:
        me = history.members[member]
        plan = Plan(
            member=member,
            turn=me.turn + 1,
            seed=0,
            hparams=me.hparams,
            steps=STEPS,
            start=me.checkpoint,
            start_step=me.step,
            trained=me.trained + STEPS,
        )
        if score is None:
            history.add(Turn(plan=plan, status="failed"))
            continue
        left = Checkpoint(member=member, turn=plan.turn, digest="", size=0)
        history.add(Turn(plan=plan, status="ok", score=score, checkpoint=left))


def left(history: History, **how) -> list[tuple[int, ...]]:
    return [end.left for end in end_stages(history, max_failures=3, **how)]


@pytest.mark.parametrize(
    ("direction", "scores", "expected"),
    [
        ("maximize", [4, 1, 3, 2], (1, 3)),
        ("minimize", [4, 1, 3, 2], (0, 2)),
        # Of equals the higher index goes.
        ("maximize", [1, 1, 1, 1], (2, 3)),
        ("maximize", [2, 1, 1, 1], (2, 3)),
        # Whoever failed goes before the worst, and of those the higher index.
        ("maximize", [None, 1, 3, 2], (0, 1)),
        ("maximize", [None, None, None, 2], (1, 2)),
        ("minimize", [None, 1e300, 3, None], (0, 3)),
    ],
)
def test_those_that_failed_leave_first_and_then_the_worst(direction, scores, expected):
    history = begun("4x1:none,2x2:both", direction)
    for member, score in enumerate(scores):
        do(history, member, score)
    assert left(history) == [expected]
    assert history.left == dict.fromkeys(expected, 0)
    assert {member.index for member in history.present} == set(range(4)) - set(expected)


def test_a_stage_is_not_over_before_everybody_has_come_to_its_end():
    history = begun("4x2:none,2x2:both")
    for member in range(4):
        do(history, member, float(member))
    for member in (1, 2, 3):
        do(history, member, float(member))
        assert left(history) == []
    do(history, 0, 9.0)
    assert end_stages(history, max_failures=3) == [StageEnd(stage=0, left=(1, 2))]
    assert left(history) == []


def test_what_counts_is_the_score_at_the_end_and_none_before():
    history = begun("4x2:none,2x2:both")
    for member, scores in enumerate([(9, 1), (8, 2), (1, 8), (2, 9)]):
        do(history, member, *map(float, scores))
    assert left(history) == [(0, 1)]


def test_nobody_waits_for_a_retired_member_and_it_has_no_place():
    history = begun("4x4:none,2x2:both")
    do(history, 0, 9.0, None, None, None)
    do(history, 1, 1.0, 1.0, 1.0, 1.0)
    do(history, 2, 2.0, 2.0, 2.0, 2.0)
    assert left(history) == []
    do(history, 3, 3.0, 3.0, 3.0, 3.0)
    assert left(history) == [(1,)]
    assert [m.index for m in history.living(3)] == [2, 3]


def test_where_too_many_are_retired_fewer_go_on_and_nobody_leaves():
    history = begun("4x4:none,2x2:both")
    for member in range(3):
        do(history, member, 1.0, None, None, None)
    do(history, 3, 1.0, 1.0, 1.0, 1.0)
    assert left(history) == [()]
    assert [m.index for m in history.living(3)] == [3]


def test_where_everybody_is_retired_the_stage_is_not_over():
    history = begun("4x4:none,2x2:both")
    for member in range(4):
        do(history, member, 1.0, None, None, None)
    assert left(history) == []
    assert history.left == {}


def test_a_straggler_past_its_deadline_counts_as_last():
    history = begun("4x2:none,2x2:both")
    for member in range(3):
        do(history, member, 1.0, float(member))
    do(history, 3, 99.0)
    assert left(history) == []
    assert left(history, late={3}) == [(0, 3)]


def test_but_not_where_too_few_others_have_come_to_the_end():
    history = begun("4x2:none,2x2:both")
    do(history, 0, 1.0, 1.0)
    for member in (1, 2, 3):
        do(history, member, 1.0)
    assert left(history, late={1, 2, 3}) == []


def test_whoever_has_a_turn_of_the_next_stage_has_gone_on_whatever_the_ranks_are():
    """A straggler came in after its stage had ended without it, and then the controller died."""
    history = begun("4x1:none,2x2:both")
    for member, score in enumerate([1.0, 2.0, 3.0]):
        do(history, member, score)
    assert left(history, late={3}) == [(0, 3)]
    do(history, 2, 3.5)
    do(history, 3, 99.0)
    again = begun("4x1:none,2x2:both")
    for member, turns in history.turns.items():
        do(again, member, *(turn.score for turn in turns))
    # Member 1 had not committed a turn of the next stage, and its place goes to the best.
    assert left(again) == [(0, 1)]
    do(history, 1, 2.5)
    last = begun("4x1:none,2x2:both")
    for member, turns in history.turns.items():
        do(last, member, *(turn.score for turn in turns))
    assert left(last) == [(0, 3)]


def test_a_member_that_is_allowed_to_live_again_after_the_others_went_on_has_left():
    history = begun("4x4:none,2x2:both")
    do(history, 0, 9.0, None, None, None)
    for member in (1, 2, 3):
        do(history, member, 1.0, 1.0, 1.0, float(member))
    for member in (2, 3):
        do(history, member, 1.0)
    assert [end.left for end in end_stages(history, max_failures=9)] == [(0, 1)]


def test_all_stages_that_are_over_end_at_once():
    history = begun("4x1:none,3x1:none,2x2:both")
    do(history, 0, 1.0)
    do(history, 1, 2.0, 1.0)
    do(history, 2, 3.0, 2.0)
    do(history, 3, 4.0, 3.0)
    assert left(history) == [(0,), (1,)]
    assert (history.stage, history.left) == (2, {0: 0, 1: 1})


def test_the_winner_is_one_of_those_that_are_left_though_another_once_scored_more():
    history = begun("4x1:none,2x1:both")
    for member, score in enumerate([5.0, 6.0, 7.0, 8.0]):
        do(history, member, score)
    left(history)
    do(history, 2, 1.0)
    do(history, 3, 2.0)
    winner = history.winner()
    assert winner is not None
    assert (winner.member, winner.score) == (3, 2.0)
