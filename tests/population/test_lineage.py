"""Lineage: who descends from whom, by hand-made histories and by simulated populations."""

from __future__ import annotations

import pytest
from histories import begun, do
from hypothesis import given
from hypothesis import strategies as st

from pbt_flow.population.lineage import (
    Node,
    ancestors,
    count_copies,
    every_turn,
    founder_shares,
    founders,
    hparams_parent,
    node_of,
    weights_parent,
)
from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.testing.simulated_engine import Fault
from pbt_flow.testing.simulation import simulate


@pytest.mark.parametrize(
    ("copies", "weights", "hparams"),
    [("both", (0, 1), (0, 1)), ("weights", (0, 1), (1, 1)), ("hparams", (1, 1), (0, 1))],
)
def test_what_was_copied_has_the_donors_turn_as_its_parent(copies, weights, hparams):
    history = begun(2)
    do(history, 0)
    do(history, 1)
    turn = do(history, 1, copy=(0, 1), copies=copies)
    assert weights_parent(turn) == weights
    assert hparams_parent(turn) == hparams


def test_the_first_turn_of_a_member_has_its_founder_as_the_parent():
    turn = do(begun(2), 1)
    assert weights_parent(turn) == hparams_parent(turn) == Node(1, 0)


def test_a_failed_turn_hands_on_the_weights_that_it_began_with_and_its_hyperparameters():
    history = begun(2)
    do(history, 0)
    do(history, 0, ok=False)
    turn = do(history, 0)
    assert weights_parent(turn) == (0, 1)
    assert hparams_parent(turn) == (0, 2)


def test_weights_copied_before_a_failed_turn_are_those_of_the_donor_afterwards():
    history = begun(2)
    do(history, 0)
    do(history, 1)
    do(history, 1, copy=(0, 1), ok=False)
    turn = do(history, 1)
    assert weights_parent(turn) == (0, 1)
    assert [node_of(t) for t in ancestors(history, turn)] == [(0, 1), (1, 3)]
    assert founders(history)[node_of(turn)] == 0


def test_ancestors_lead_from_a_founder_through_every_donor():
    history = begun(3)
    for member in range(3):
        do(history, member)
    do(history, 1, copy=(2, 1))
    do(history, 0, copy=(1, 2))
    last = do(history, 0)
    assert [node_of(t) for t in ancestors(history, last)] == [(2, 1), (1, 2), (0, 2), (0, 3)]


def test_a_donor_that_was_ahead_of_who_copied_it_is_traced_to_its_founder():
    history = begun(3)
    do(history, 2)
    do(history, 1, copy=(2, 1))
    do(history, 1)
    turn = do(history, 0, copy=(1, 2))
    assert founders(history)[node_of(turn)] == 2
    assert founders(history)[Node(0, 0)] == 0


def test_shares_follow_the_founders_that_are_left():
    history = begun(4)
    for member in range(4):
        do(history, member)
    for member in (0, 1):
        do(history, member)
    do(history, 2, copy=(0, 1))
    do(history, 3, copy=(2, 2))
    assert founder_shares(history) == [
        {0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25},
        {0: 0.25, 1: 0.25, 2: 0.25, 3: 0.25},
        {0: 0.75, 1: 0.25},
    ]


def test_a_share_counts_the_members_that_have_got_that_far():
    history = begun(2)
    do(history, 0)
    assert founder_shares(history) == [{0: 0.5, 1: 0.5}, {0: 1.0}]


def test_every_copy_counts_whatever_was_taken():
    history = begun(3)
    do(history, 0)
    do(history, 1)
    do(history, 1, copy=(0, 1), copies="hparams")
    do(history, 2, copy=(0, 1), copies="weights")
    do(history, 0, copy=(1, 2))
    assert count_copies(history) == {0: 2, 1: 1}


def test_a_population_that_has_not_trained_is_a_tree_of_founders():
    history = begun(2)
    assert founders(history) == {Node(0, 0): 0, Node(1, 0): 1}
    assert founder_shares(history) == [{0: 0.5, 1: 0.5}]
    assert not count_copies(history)


FAULTS: list[Fault] = ["raises", "nan", "dies"]


@given(
    seed=st.integers(0, 10**6),
    mode=st.sampled_from(["async", "generational"]),
    copies=st.sampled_from(["both", "weights", "hparams"]),
    faults=st.dictionaries(
        st.tuples(st.integers(0, 4), st.integers(1, 8)),
        st.lists(st.sampled_from(FAULTS), min_size=1, max_size=2),
        max_size=5,
    ),
)
def test_the_lineage_of_any_population_holds_together(seed, mode, copies, faults):
    history = simulate(
        NoisyQuadratic,
        seed=seed,
        mode=mode,
        population=5,
        turns=8,
        interval=2,
        exploit=f"truncation:copies={copies}",
        options={"dimensions": 2},
        duration=lambda plan, rng: float(rng.uniform(0.2, 3)),
        faults=faults,
    ).history
    of, turns = founders(history), list(every_turn(history))
    assert len(turns) == sum(len(of_member) for of_member in history.turns.values())
    for turn in turns:
        path = ancestors(history, turn)
        # Steps follow each other without a gap from 0 to the age of the weights.
        ends = [0, *(ancestor.step for ancestor in path)]
        assert [ancestor.plan.start_step for ancestor in path] == ends[:-1]
        assert all(ancestor.ok for ancestor in path[:-1])
        assert path[0].plan.start is None
        assert {of[node_of(ancestor)] for ancestor in path} == {path[0].member}
        if not turn.plan.donor:
            assert turn.plan.hparams == (
                history.turn(*hparams_parent(turn)).plan.hparams
                if hparams_parent(turn).turn
                else turn.plan.hparams
            )
    for share in founder_shares(history):
        assert sum(share.values()) == pytest.approx(1)
    assert sum(count_copies(history).values()) == sum(turn.plan.donor is not None for turn in turns)
