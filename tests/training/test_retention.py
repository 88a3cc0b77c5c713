"""Retention: a checkpoint goes when nobody can need it, and not before."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt_flow.population.lineage import OWN_RECORDS, own_records
from pbt_flow.population.records import Checkpoint, Plan, Turn
from pbt_flow.tasks.toy import Toy
from pbt_flow.testing.simulation import Simulation, simulate
from pbt_flow.training.controller import Controller
from pbt_flow.training.retention import removable


def turn_of(member: int, number: int, step: int | None = None) -> Turn:
    """A turn of 10 steps; its weights are of age `step`, if a copy made that another than usual."""
    age = 10 * number if step is None else step
    plan = Plan(
        member=member,
        turn=number,
        seed=0,
        hparams={"lr": 0.1},
        steps=10,
        start_step=age - 10,
        trained=10 * number,
    )
    checkpoint = Checkpoint(member=member, turn=number, digest=f"{member}-{number}", size=1)
    return Turn(plan=plan, status="ok", score=1.0, checkpoint=checkpoint)


def removed(
    held: Collection[Turn],
    *,
    undecided: int,
    needed: Collection[Checkpoint | None] = (),
    best: Collection[Turn] = (),
    keep: int = 100,
    left: Collection[int] = (),
) -> list[tuple[int, int]]:
    by_member = defaultdict[int, list[Turn]](list)
    for turn in sorted(held, key=lambda turn: turn.number):
        by_member[turn.member].append(turn)
    found = removable(
        by_member,
        undecided=undecided,
        needed=set(needed).__contains__,
        is_best=list(best).__contains__,
        keep=keep,
        left=left,
    )
    return sorted((turn.member, turn.number) for turn in found)


FIVE = [turn_of(0, number) for number in range(1, 6)]


@pytest.mark.parametrize(
    ("undecided", "gone"),
    [
        (10, []),
        (11, [1]),
        (30, [1, 2]),
        (31, [1, 2, 3]),
        (50, [1, 2, 3, 4]),
        # All have gone beyond it, and still it is what the member came to.
        (1000, [1, 2, 3, 4]),
    ],
)
def test_a_checkpoint_goes_when_all_members_have_gone_beyond_its_age(
    undecided: int, gone: list[int]
) -> None:
    assert removed(FIVE, undecided=undecided) == [(0, number) for number in gone]


@pytest.mark.parametrize(
    ("keep", "gone"), [(5, []), (4, [1]), (2, [1, 2, 3]), (1, [1, 2, 3, 4]), (9, [])]
)
def test_a_straggler_holds_on_to_no_more_than_so_many_of_a_member(
    keep: int, gone: list[int]
) -> None:
    assert removed(FIVE, undecided=10, keep=keep) == [(0, number) for number in gone]


def test_beside_them_the_best_of_an_age_stays_until_all_have_passed_it() -> None:
    assert removed(FIVE, undecided=10, best=[FIVE[1]], keep=1) == [(0, 1), (0, 3), (0, 4)]
    assert removed(FIVE, undecided=21, best=[FIVE[1]], keep=1) == [(0, 1), (0, 2), (0, 3), (0, 4)]


def test_each_member_keeps_its_own_number() -> None:
    held = [turn_of(member, number) for member in (2, 0, 1) for number in range(1, 4)]
    assert removed(held, undecided=10, keep=2) == [(0, 1), (1, 1), (2, 1)]


def test_what_is_needed_stays_however_old_it_is() -> None:
    needed = {FIVE[0].checkpoint, FIVE[2].checkpoint, None}
    assert removed(FIVE, undecided=1000, needed=needed, keep=1) == [(0, 2), (0, 4)]


def test_another_members_checkpoint_of_the_same_turn_is_not_needed_for_it() -> None:
    held = [turn_of(member, number) for member in (0, 1) for number in (1, 2)]
    assert removed(held, undecided=1000, needed=[held[0].checkpoint]) == [(1, 1)]


def test_the_age_that_counts_is_that_of_the_weights_and_not_the_number_of_the_turn() -> None:
    # The member copied someone much older, and then someone younger.
    held = [turn_of(0, 1, step=10), turn_of(0, 2, step=60), turn_of(0, 3, step=20)]
    assert removed(held, undecided=30) == [(0, 1)]


def test_the_newest_stays_though_it_is_younger_than_the_others() -> None:
    # Its member copied someone who is an interval behind.
    held = [turn_of(0, 1, step=50), turn_of(0, 2, step=20)]
    assert removed(held, undecided=100, keep=1) == [(0, 1)]


def test_nothing_is_removed_where_nothing_is_held() -> None:
    assert removed([], undecided=1000, keep=1) == []


@given(
    st.sets(st.tuples(st.integers(0, 4), st.integers(1, 6)), max_size=20),
    st.sets(st.tuples(st.integers(0, 4), st.integers(1, 6)), max_size=5),
    st.integers(0, 80),
    st.integers(1, 6),
)
def test_of_each_member_the_newest_stays_and_so_does_all_that_is_needed(
    held: set[tuple[int, int]], needed: set[tuple[int, int]], undecided: int, keep: int
) -> None:
    turns = [turn_of(*key) for key in held]
    pins = [turn_of(*key).checkpoint for key in needed]
    gone = set(removed(turns, undecided=undecided, needed=pins, keep=keep))
    assert gone <= held - needed
    for member in {member for member, _ in held}:
        numbers = sorted(number for m, number in held if m == member)
        left = [number for number in numbers if (member, number) not in gone]
        assert numbers[-1] in left
        assert len([n for n in left if (member, n) not in needed]) <= keep
        # Whatever a member that decides again could copy is there, up to the limit.
        assert set(numbers[-keep:]) - set(left) <= {n for n in numbers if 10 * n < undecided}


# --- what the controller asks it for --------------------------------------------------------------


class Watched(Controller):
    """A controller that compares what it deletes with what a look at everything would delete."""

    def clean(self) -> None:
        """Ask the rule about all members and every use, the slow way."""
        living = [m for m in self.living if m.turn < self.settings.turns]
        used = {member.checkpoint for member in self.history.members.values()}
        used |= {plan.start for plan in self.in_flight.values()}
        initial = self.history.best_initial
        used |= {initial.checkpoint if initial else None}
        used |= {turn.checkpoint for turn in self.history.best_ever}
        used |= self.checks.uses
        expected = removable(
            self.checkpoints.held,
            undecided=min((m.step for m in living), default=sys.maxsize),
            needed=used.__contains__,
            is_best=lambda turn: turn == self.history.best_at(turn.step),
            keep=self.checkpoints.keep,
        )
        before = set(self.engine.states)  # type: ignore[attr-defined]
        super().clean()
        gone = before - set(self.engine.states)  # type: ignore[attr-defined]
        assert gone == {(turn.member, turn.number) for turn in expected}


@given(
    population=st.integers(2, 7),
    slots=st.integers(1, 7),
    mode=st.sampled_from(["async", "generational"]),
    exploit=st.sampled_from(["truncation", "tournament", "tournament:copies=hparams", "none"]),
    keep=st.integers(1, 3),
    faults=st.dictionaries(
        st.tuples(st.integers(0, 6), st.integers(1, 6)),
        st.lists(st.sampled_from(["raises", "nan", "dies"]), min_size=1, max_size=3),
        max_size=8,
    ),
    seed=st.integers(0, 1000),
)
def test_what_is_looked_at_after_a_turn_is_all_that_the_turn_made_superfluous(
    population: int, slots: int, faults: Any, seed: int, **settings: Any
) -> None:
    simulation = simulate(
        Toy,
        controller=Watched,
        population=population,
        slots=slots,
        turns=6,
        faults=faults,
        duration=lambda plan, rng: rng.lognormal(0, 1),
        seed=seed,
        **settings,
    )
    assert isinstance(simulation.controller, Watched)


def test_of_a_member_that_has_left_all_goes_at_once_but_what_somebody_needs():
    """Others have still to pass the age of its checkpoints, and its newest is the best of its age:
    nobody copies it any more.
    """
    stays = turn_of(1, 1)
    pinned = FIVE[2].checkpoint
    how = {"undecided": 10, "needed": [pinned], "best": [FIVE[-1]]}
    assert removed([*FIVE, stays], **how) == []
    assert removed([*FIVE, stays], **how, left={0}) == [(0, 1), (0, 2), (0, 4), (0, 5)]


@pytest.mark.parametrize("mode", ["generational", "async"])
def test_the_control_of_averages_keeps_three_records_of_every_line_and_changes_no_decision(
    mode: str,
) -> None:
    """A line goes on with the donor's records, from whom weights were copied."""

    def trained(finalists: str) -> Simulation:
        return simulate(Toy, population=8, turns=10, finalists=finalists, mode=mode, seed=3)

    kept, usual = trained("own"), trained("average")
    history = kept.history
    for member in history.members.values():
        line = own_records(history, history.turn(member.index, 10))
        assert len(line) == OWN_RECORDS
        assert all((turn.member, turn.number) in kept.engine.states for turn in line)
    # As many for the two best ever, and the best initial setting.
    assert len(kept.engine.states) <= 8 * OWN_RECORDS + 2 * OWN_RECORDS + 1
    assert len(usual.engine.states) <= 8 + 3
    decided = [
        [turn.plan.donor for turns in made.history.turns.values() for turn in turns]
        for made in (kept, usual)
    ]
    assert decided[0] == decided[1]
