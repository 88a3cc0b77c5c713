"""The layout of the family tree: nothing crosses, the winner runs straight, rows are shared."""

from __future__ import annotations

from itertools import combinations

import pytest
from histories import begun, do
from hypothesis import given
from hypothesis import strategies as st

from pbt_flow.population.history import History
from pbt_flow.population.lineage import Node, ancestors, every_turn, node_of, weights_parent
from pbt_flow.reporting.tree_layout import lay_out
from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.testing.simulation import simulate


def population(seed: int, turns: int = 8, **settings) -> History:
    return simulate(
        NoisyQuadratic,
        seed=seed,
        population=6,
        turns=turns,
        interval=2,
        options={"dimensions": 2},
        duration=lambda plan, rng: float(rng.uniform(0.2, 3)),
        **settings,
    ).history


def cross(one, other) -> bool:
    """Whether two lines from left to right have a point in common other than an end of both."""
    (ax, ay), (bx, by) = one
    (cx, cy), (dx, dy) = other
    left, right = max(ax, cx), min(bx, dx)
    if left >= right:
        return False

    def gap(x: float) -> float:
        return (ay + (by - ay) * (x - ax) / (bx - ax)) - (cy + (dy - cy) * (x - cx) / (dx - cx))

    first, last = gap(left), gap(right)
    return first * last < -1e-9 or (abs(first) < 1e-9 and abs(last) < 1e-9)


@given(seed=st.integers(0, 10**6), copies=st.sampled_from(["both", "weights"]))
def test_no_line_of_any_tree_crosses_or_covers_another(seed, copies):
    tree = lay_out(population(seed, exploit=f"truncation:fraction=0.4,copies={copies}"))
    lines = [(tree.places[parent], tree.places[child]) for parent, child in tree.edges]
    assert not any(cross(one, other) for one, other in combinations(lines, 2))


@given(seed=st.integers(0, 10**6))
def test_every_turn_that_went_well_is_a_node_right_of_its_parent(seed):
    history = population(seed, faults={(1, 3): ["raises"], (2, 2): ["nan"], (2, 3): ["nan"]})
    tree = lay_out(history)
    good = [turn for turn in every_turn(history) if turn.ok]
    founders = {Node(member, 0) for member in history.members}
    assert tree.places.keys() == founders | {node_of(turn) for turn in good}
    assert sorted(tree.edges) == sorted((weights_parent(turn), node_of(turn)) for turn in good)
    for parent, child in tree.edges:
        assert tree.places[parent][0] < tree.places[child][0]
    assert all(0 < row < tree.rows for _, row in tree.places.values())
    assert [turn.ok for turn, _ in tree.failed] == [False] * 3


@pytest.mark.parametrize("seed", range(5))
def test_the_winners_line_is_straight(seed):
    history = population(seed)
    tree = lay_out(history)
    path = ancestors(history, history.winner())
    assert len({tree.places[node_of(turn)][1] for turn in path}) == 1


def test_branches_that_came_and_went_at_different_times_share_a_row():
    history = begun(2)
    do(history, 0)
    for _ in range(3):
        # Member 1 copies, trains alone for a turn, and is given up for the next copy.
        last = len(history.turns[0])
        do(history, 1, copy=(0, last))
        do(history, 0)
        do(history, 0)
    tree = lay_out(history)
    rows = {tree.places[Node(1, number)][1] for number in (1, 2)}
    assert len(rows) == 1
    assert rows != {tree.places[Node(0, 1)][1]}


def test_a_population_that_has_not_trained_has_its_founders_below_each_other():
    tree = lay_out(begun(3))
    assert [tree.places[Node(member, 0)][0] for member in range(3)] == [0, 0, 0]
    rows = [tree.places[Node(member, 0)][1] for member in range(3)]
    assert rows == sorted(set(rows))
    assert not tree.edges
