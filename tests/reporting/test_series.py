"""The numbers behind the pictures."""

from __future__ import annotations

import dataclasses

import pytest
from histories import begun, do

from pbt_flow.population.history import History
from pbt_flow.reporting import series
from pbt_flow.reporting.series import SHADES, Point, Shades
from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.testing.simulation import simulate


def scored(history: History, member: int, score: float, **more) -> None:
    """A turn with a score; `do` gives all the same."""
    turn = do(history, member, **more)
    history.turns[member][-1] = dataclasses.replace(turn, score=score)


def timed(history: History, member: int, started: float, ok: bool = True, **seconds) -> None:
    turn = do(history, member, ok=ok)
    history.turns[member][-1] = dataclasses.replace(turn, started=started, seconds=seconds)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_each_shade_has_its_share_of_the_scores_and_the_last_is_the_best(direction):
    history = begun(1)
    history.direction = direction
    for score in range(50):
        scored(history, 0, float(score) ** 3)
    shades = Shades.of(history)
    found = [shades.shade(turn.score) for turn in history.turns[0]]
    assert [found.count(shade) for shade in range(SHADES)] == [5] * SHADES
    assert shades.shade(shades.ends[2]) == SHADES - 1
    assert shades.shade(shades.ends[0]) == 0
    best = max if direction == "maximize" else min
    assert shades.ends[2] == best(turn.score for turn in history.turns[0])


def test_without_a_score_there_are_no_shades():
    history = begun(2)
    do(history, 0, ok=False)
    assert Shades.of(history) is None


def test_scores_leave_out_the_turns_that_failed():
    history = begun(1)
    scored(history, 0, 3.0)
    do(history, 0, ok=False)
    scored(history, 0, 5.0)
    assert series.scores(history) == {0: [Point(10, 3.0), Point(30, 5.0)]}


def test_best_and_mean_wait_until_half_of_the_members_are_there():
    history = begun(4)
    for member, score in enumerate([1.0, 2.0, 3.0, 6.0]):
        scored(history, member, score)
    scored(history, 0, 9.0)
    assert series.best_and_mean(history) == ([Point(10, 6.0)], [Point(10, 3.0)])
    scored(history, 1, 7.0)
    best, mean = series.best_and_mean(history)
    assert (best[-1], mean[-1]) == (Point(20, 9.0), Point(20, 8.0))
    history.direction = "minimize"
    assert series.best_and_mean(history)[0] == [Point(10, 1.0), Point(20, 7.0)]


def test_stretches_cover_every_step_that_was_trained_with_the_value_that_was_live():
    history = simulate(
        NoisyQuadratic, population=5, turns=10, interval=4, options={"dimensions": 2}
    ).history
    shades = Shades.of(history)
    pieces = series.stretches(history, "lr", shades)
    for member, turns in history.turns.items():
        own = [piece for piece in pieces if piece.member == member]
        assert sum(p.end - p.start for p in own) == sum(t.step - t.plan.start_step for t in turns)
        for turn in turns:
            lives = [
                p
                for p in own
                if p.start <= turn.plan.start_step
                and turn.step <= p.end
                and p.value == turn.plan.hparams["lr"]
                and p.shade == shades.shade(turn.score)
            ]
            assert lives
    assert len(pieces) < 50


def test_shares_name_the_founders_that_last_and_add_up_to_the_whole():
    history = simulate(
        NoisyQuadratic, population=12, turns=15, interval=4, options={"dimensions": 2}
    ).history
    lines = series.shares(history, 3)
    assert len(lines) == 4
    assert list(lines)[-1] is None
    assert [sum(column) for column in zip(*lines.values(), strict=True)] == [pytest.approx(1)] * 16
    first = next(iter(lines.values()))
    assert first[-1] == max(share[-1] for share in lines.values())


def test_a_founder_survives_in_a_member_that_has_done_fewer_turns_than_others():
    history = begun(4)
    for member in (0, 1, 3):
        do(history, member)
    do(history, 0)
    do(history, 1, copy=(0, 1))
    do(history, 3, ok=False)
    # Member 2 has not trained yet, and 3 is retired after its failure.
    assert series.surviving_founders(history, max_failures=1) == {0, 2}
    assert series.surviving_founders(history, max_failures=2) == {0, 2, 3}


def test_time_is_told_by_what_the_workers_did():
    history = begun(2)
    # Two workers: both busy for 10 s, then one of them for another 10.
    timed(history, 0, 100.0, train=6.0, evaluate=4.0)
    timed(history, 1, 100.0, train=15.0, checkpoint=5.0)
    spent = series.time_spent(history, 2)
    assert (spent["train"], spent["evaluate"], spent["checkpoint"]) == (21, 4, 5)
    assert spent["waiting"] == pytest.approx(10)
    assert spent["lost"] == 0


def test_a_turn_that_failed_is_time_lost_and_a_pause_is_nobodys():
    history = begun(1)
    timed(history, 0, 100.0, train=10.0)
    timed(history, 0, 111.0, ok=False, train=3.0)
    timed(history, 0, 5000.0, train=10.0)
    spent = series.time_spent(history, 1)
    assert spent["lost"] == 3
    assert spent["train"] == 20
    assert spent["waiting"] == pytest.approx(1)


def test_copies_are_counted():
    history = begun(2)
    do(history, 0)
    do(history, 1, copy=(0, 1))
    do(history, 1)
    assert series.copies(history) == 1
