"""History: the answers to a decision's questions, whoever reported first."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbt_flow.population.history import Candidate, Gain, History, best_of_round
from pbt_flow.population.records import Checkpoint, Donor, Member, Plan, Turn

INTERVAL = 10


def checkpoint(member: int, turn: int) -> Checkpoint:
    return Checkpoint(member=member, turn=turn, digest=f"{member}-{turn}", size=1)


def begun(size: int, direction: Any = "maximize") -> History:
    history = History(direction=direction)
    history.begin(Member(index=m, hparams={"lr": float(m)}) for m in range(size))
    return history


def next_turn(
    history: History, member: int, score: float | None, donor: Turn | None = None
) -> Turn:
    """The next turn of a member, from its own state or a donor's; no score means that it failed."""
    me = history.members[member]
    plan = Plan(
        member=member,
        turn=me.turn + 1,
        seed=0,
        hparams={"lr": me.turn + 1 + member / 10},
        steps=INTERVAL,
        start=donor.checkpoint if donor else me.checkpoint,
        start_step=donor.step if donor else me.step,
        trained=me.trained + INTERVAL,
        donor=Donor(member=donor.member, turn=donor.number, copies="both") if donor else None,
    )
    if score is None:
        return Turn(plan=plan, status="failed")
    return Turn(plan=plan, status="ok", score=score, checkpoint=checkpoint(member, plan.turn))


def do(
    history: History, member: int, score: float | None, donor: tuple[int, int] | None = None
) -> Turn:
    turn = next_turn(history, member, score, history.turn(*donor) if donor else None)
    history.add(turn)
    return turn


def population(size: int, turns: int, seed: int) -> History:
    """A population that trained round by round; now and then a turn fails or a member copies."""
    rng, history = np.random.default_rng(seed), begun(size)
    for _ in range(turns):
        for member in range(size):
            good = [t for ts in history.turns.values() for t in ts if t.ok and t.member != member]
            donor = good[int(rng.integers(len(good)))] if good and rng.random() < 0.3 else None
            score = None if rng.random() < 0.15 else float(rng.integers(0, 6))
            history.add(next_turn(history, member, score, donor))
    return history


def arriving(history: History, order: Sequence[int]) -> History:
    """The same turns, added one member's at a time as `order` shuffles the members."""
    other = begun(len(history.members), history.direction)
    queues = {member: list(turns) for member, turns in history.turns.items()}
    for member in order:
        other.add(queues[member].pop(0))
    assert not any(queues.values())
    return other


shuffled = st.tuples(st.integers(2, 5), st.integers(1, 5), st.integers(0, 10**6)).flatmap(
    lambda sizes: st.tuples(
        st.just(population(*sizes)),
        st.permutations([m for m in range(sizes[0]) for _ in range(sizes[1])]),
    )
)

# --- independence of the order of arrival ---------------------------------------------------------


@given(shuffled)
def test_what_is_comparable_does_not_depend_on_who_arrived_first(
    both: tuple[History, list[int]],
) -> None:
    there = both[0]
    here = arriving(*both)
    ages = list(there.ages(up_to=10**6))
    assert list(here.ages(up_to=10**6)) == ages
    for age in ages:
        assert here.best_at(age) == there.best_at(age)
        for turns in (None, 1, 2, 3):
            ours, theirs = here.at(age, turns), there.at(age, turns)
            assert ours == theirs
            for member in theirs.records:
                assert ours.without(member) == theirs.without(member)
                for donor in theirs.records:
                    copied = there.copyable(donor, theirs, member)
                    assert here.copyable(donor, ours, member) == copied
    assert here.members == there.members
    assert here.winner() == there.winner()


@given(shuffled, st.integers(0, 6), st.integers(1, 12))
def test_the_gains_do_not_depend_on_who_arrived_first(
    both: tuple[History, list[int]], before: int, window: int
) -> None:
    there, here = both[0], arriving(*both)
    assert here.gains(before=before, window=window) == there.gains(before=before, window=window)


@given(shuffled)
def test_the_best_initial_score_does_not_depend_on_who_arrived_first(
    both: tuple[History, list[int]],
) -> None:
    there, here = both[0].best_initial, arriving(*both).best_initial
    assert (there and there.score) == (here and here.score)


def test_the_best_initial_turn_among_equals_does_not_depend_on_who_arrived_first() -> None:
    found = []
    for order in ((0, 1), (1, 0)):
        history = begun(2)
        for member in order:
            do(history, member, score=1.0)
        assert history.best_initial is not None
        found.append(history.best_initial.member)
    assert found[0] == found[1]


# --- who is comparable ----------------------------------------------------------------------------


def test_at_an_age_stand_the_records_with_weights_of_exactly_that_age() -> None:
    history = begun(3)
    do(history, 0, 1.0)
    do(history, 0, 2.0)
    do(history, 1, 3.0)
    do(history, 2, None)
    assert history.at(10).records == {
        0: Candidate(member=0, turn=1, fitness=1.0, age=1),
        1: Candidate(member=1, turn=1, fitness=3.0, age=1),
    }
    assert history.at(20).records == {0: Candidate(member=0, turn=2, fitness=2.0, age=2)}
    assert history.at(15).records == {}


def test_a_copy_that_comes_back_to_an_age_replaces_its_members_older_record() -> None:
    history = begun(2)
    do(history, 0, 1.0)
    do(history, 1, 2.0)
    do(history, 0, 5.0)
    do(history, 0, 7.0, donor=(1, 1))  # from age 10 to age 20, where member 0 has been before
    assert history.at(20).records[0] == Candidate(member=0, turn=3, fitness=7.0, age=2)
    # As it was after its second turn, and before it had come so far.
    assert history.at(20, turns=2).records[0] == Candidate(member=0, turn=2, fitness=5.0, age=2)
    assert history.at(20, turns=1).records == {}
    assert history.members[0].step == 20
    assert history.members[0].trained == 30


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_a_candidate_has_greater_numbers_for_better_scores(direction: Any, sign: int) -> None:
    history = begun(1, direction)
    turn = dataclasses.replace(next_turn(history, 0, 2.0), sample=(1.0, 3.0))
    history.add(turn)
    candidate = history.at(10).records[0]
    assert candidate.fitness == sign * 2.0
    assert candidate.sample == (sign * 1.0, sign * 3.0)


@pytest.mark.parametrize(
    ("up_to", "ages"), [(100, [30, 20, 10]), (20, [20, 10]), (19, [10]), (9, [])]
)
def test_ages_go_downwards_from_a_bound(up_to: int, ages: list[int]) -> None:
    history = begun(2)
    for member in (1, 0):
        for _ in range(3):
            do(history, member, 0.0)
    assert list(history.ages(up_to=up_to)) == ages


def test_worse_are_those_with_a_score_below_and_not_those_with_an_equal_one() -> None:
    history = begun(5)
    for member, score in enumerate([2.0, 1.0, 2.0, 3.0]):
        do(history, member, score)
    ranking = history.at(10)
    counts = {m: ranking.count_worse(one) for m, one in ranking.records.items()}
    assert counts == {0: 1, 1: 0, 2: 1, 3: 3}


# --- health, winner, best initial -----------------------------------------------------------------


def test_a_member_lives_until_it_has_failed_too_often_in_a_row() -> None:
    history = begun(3)
    for score in (None, 1.0, None, None):
        do(history, 1, score)
    do(history, 2, None)
    assert [m.index for m in history.living(3)] == [0, 1, 2]
    assert [m.index for m in history.living(2)] == [0, 2]
    assert [m.index for m in history.living(1)] == [0]


def test_the_winner_is_the_best_of_the_newest_turns() -> None:
    history = begun(3)
    assert history.winner() is None
    do(history, 0, 9.0)
    do(history, 0, 2.0)  # what it once was does not count
    do(history, 1, 3.0)
    do(history, 2, 1.0)
    assert history.winner() == history.turn(1, 1)


def test_a_smaller_score_wins_where_smaller_is_better() -> None:
    history = begun(3, direction="minimize")
    for member, score in enumerate([3.0, 1.0, 2.0]):
        do(history, member, score)
    winner, initial = history.winner(), history.best_initial
    assert winner is not None
    assert initial is not None
    assert (winner.member, initial.member) == (1, 1)
    assert history.fitness(winner) == -1.0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_equal_members_the_lowest_wins(order: tuple[int, ...]) -> None:
    history = begun(3)
    scores = {0: 1.0, 1: 5.0, 2: 5.0}
    for member in order:
        do(history, member, scores[member])
    winner = history.winner()
    assert winner is not None
    assert winner.member == 1


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_best_of_a_round_among_equals_does_not_depend_on_who_arrived_first(
    order: tuple[int, ...], direction: Any
) -> None:
    history = begun(3, direction)
    for member in order:
        do(history, member, None if member == 0 else 1.0)
    assert best_of_round(history, 1).member == 1


def test_one_failed_last_turn_does_not_throw_the_best_member_away() -> None:
    history = begun(2)
    do(history, 0, 9.0)
    do(history, 0, None)
    do(history, 1, 1.0)
    assert history.winner() == history.turn(0, 1)


def test_a_population_full_of_good_checkpoints_has_a_winner_though_every_last_turn_failed() -> None:
    history = begun(3)
    for member, score in enumerate([1.0, 3.0, None]):
        do(history, member, score)
        do(history, member, None)
    assert history.winner() == history.turn(1, 1)


def test_a_member_that_copied_and_then_failed_stands_on_what_it_copied() -> None:
    history = begun(2)
    do(history, 0, 9.0)
    do(history, 1, 5.0)
    do(history, 0, 4.0)
    do(history, 1, None, donor=(0, 1))
    assert history.standing(history.members[1]) == history.turn(0, 1)
    assert history.winner() == history.turn(0, 1)


def test_where_no_turn_went_well_nobody_wins() -> None:
    history = begun(2)
    do(history, 0, None)
    assert history.standing(history.members[0]) is None
    assert history.winner() is None


def test_the_best_initial_is_the_best_turn_before_a_member_first_copied() -> None:
    history = begun(2)
    assert history.best_initial is None
    do(history, 0, None)
    assert history.best_initial is None
    do(history, 0, 1.0)
    do(history, 1, 3.0)
    do(history, 1, 2.0)
    assert history.best_initial == history.turn(1, 1)
    do(history, 0, 8.0, donor=(1, 2))
    do(history, 0, 9.0)
    assert history.best_initial == history.turn(1, 1)
    do(history, 1, 4.0)
    assert history.best_initial == history.turn(1, 3)


# --- what can be copied ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "member", "copied"),
    [
        # Ranked 0 < 1 < 2 < 3; member 2 was chosen.
        ((), 0, 2),
        ((3,), 0, 2),
        ((2,), 0, 3),
        ((2, 3), 0, 1),
        ((1, 2, 3), 0, None),
        # Never what is worse than one's own, nor one's own.
        ((2, 3), 1, None),
        # Whoever failed has no score of that age, and takes what there is.
        ((1, 2, 3), 4, 0),
        ((0, 1, 2, 3), 4, None),
    ],
)
def test_what_is_copied_was_ranked_the_chosen_or_the_best_whose_checkpoint_is_left(
    gone: Iterable[int], member: int, copied: int | None
) -> None:
    history = begun(5)
    for index in range(4):
        do(history, index, float(index))
        do(history, index, 10.0 - index)  # what they scored later does not matter
    do(history, 4, None)
    for index in gone:
        history.forget(index, 1)
    found = history.copyable(2, history.at(10), member)
    assert (found and (found.member, found.number)) == (None if copied is None else (copied, 1))


def test_a_failed_turn_has_no_checkpoint() -> None:
    history = begun(1)
    do(history, 0, 1.0)
    do(history, 0, None)
    assert history.has_checkpoint(history.turn(0, 1))
    assert not history.has_checkpoint(history.turn(0, 2))


def test_a_forgotten_checkpoint_is_that_of_one_turn_of_one_member() -> None:
    history = begun(2)
    turns = [do(history, member, 1.0) for member in (0, 0, 1, 1)]
    history.forget(1, 1)
    assert [history.has_checkpoint(turn) for turn in turns] == [True, True, False, True]


# --- gains ----------------------------------------------------------------------------------------


def test_a_gain_is_measured_from_the_record_that_the_turn_began_with() -> None:
    history = begun(2)
    do(history, 0, 1.0)
    do(history, 1, 5.0)
    do(history, 1, 6.0)
    do(history, 0, 5.5, donor=(1, 1))
    assert history.gains(before=2, window=10) == [
        Gain(hparams={"lr": 2.0}, gain=0.5, turn=2),  # member 0, from member 1's first turn
        Gain(hparams={"lr": 2.1}, gain=1.0, turn=2),
    ]


def test_a_gain_is_a_fall_of_the_score_where_smaller_is_better() -> None:
    history = begun(1, direction="minimize")
    do(history, 0, 5.0)
    do(history, 0, 3.0)
    assert [gain.gain for gain in history.gains(before=2, window=10)] == [2.0]


def test_first_turns_and_failed_ones_bring_no_gain() -> None:
    history = begun(1)
    do(history, 0, 1.0)
    do(history, 0, None)
    do(history, 0, 4.0)  # began with turn 1's state, as turn 2 did
    assert history.gains(before=3, window=10) == [Gain(hparams={"lr": 3.0}, gain=3.0, turn=3)]


@pytest.mark.parametrize(
    ("before", "window", "found"),
    [
        (4, 10, [2.0, 2.1, 3.0, 3.1, 4.0, 4.1]),
        (4, 3, [3.1, 4.0, 4.1]),
        (4, 2, [4.0, 4.1]),
        (3, 3, [2.1, 3.0, 3.1]),
        (1, 10, []),
        (0, 10, []),
        (99, 1, [4.1]),
    ],
)
def test_the_newest_gains_are_those_of_the_latest_turns(
    before: int, window: int, found: list[float]
) -> None:
    history = begun(2)
    for turn in range(4):
        for member in (0, 1):
            do(history, member, float(turn))
    gains = history.gains(before=before, window=window)
    assert [gain.hparams["lr"] for gain in gains] == pytest.approx(found)


# --- the record itself ----------------------------------------------------------------------------


def test_a_turn_out_of_order_is_refused_and_leaves_the_history_as_it_was() -> None:
    history = begun(1)
    first = next_turn(history, 0, 1.0)
    second = dataclasses.replace(first, plan=dataclasses.replace(first.plan, turn=2))
    with pytest.raises(ValueError, match="turn 2 of member 0 cannot follow turn 0 of member 0"):
        history.add(second)
    assert history == begun(1)
    history.add(first)
    with pytest.raises(ValueError, match="turn 1 of member 0 cannot follow turn 1"):
        history.add(first)


def test_turns_are_found_by_member_and_number() -> None:
    history = population(3, 4, seed=0)
    for member in range(3):
        for number in range(1, 5):
            turn = history.turn(member, number)
            assert (turn.member, turn.number) == (member, number)


def test_nothing_that_happens_later_changes_a_snapshot_or_is_missing_in_the_history() -> None:
    history, all_along = begun(3), begun(3)
    for both in (history, all_along):
        for member in (0, 1, 2, 0):
            do(both, member, float(member))
    snapshot = history.snapshot()
    before = copy.deepcopy(vars(snapshot))
    assert vars(snapshot) == vars(history)
    for both in (history, all_along):
        # New ages, and scores at an age that has some; the best ever; a stage; a deletion.
        do(both, 1, None)
        do(both, 1, 5.0)
        do(both, 2, 9.0, donor=(0, 1))
        both.end_stage([0])
        both.forget(0, 1)
    assert vars(snapshot) == before
    assert vars(history) == vars(all_along)
    do(snapshot, 2, 3.0)
    assert vars(history) == vars(all_along)
