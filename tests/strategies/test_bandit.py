"""PB2: what it proposes follows the gains, forgets old ones, and does not mind their scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from simulated import Counting, turns_of

from pbt_flow.exceptions import StrategyError
from pbt_flow.population.history import Gain
from pbt_flow.settings import Settings
from pbt_flow.space import Space, draw, to_unit
from pbt_flow.strategies.bandit import PB2
from pbt_flow.testing.simulation import simulate

RATE = FloatDistribution(1e-4, 1e-1, log=True)
SPACE: Space = {"rate": RATE, "other": FloatDistribution(0, 1)}


def observed(
    gain: Callable[[Any, int], float], *, space: Space = SPACE, turns: int = 12, members: int = 8
) -> list[Gain]:
    """What so many members gained in so many turns, with hyperparameters drawn from the space."""
    rng, found = np.random.default_rng(0), list[Gain]()
    for turn in range(1, turns + 1):
        for _ in range(members):
            hparams = draw(space, rng)
            found.append(Gain(hparams=hparams, gain=gain(hparams, turn), turn=turn))
    return found


def places(gains: list[Gain], proposals: int = 12) -> list[float]:
    """Where on their scale the proposed rates lie."""
    return [
        to_unit(PB2().fresh(SPACE, gains, np.random.default_rng(seed))["rate"], RATE)
        for seed in range(proposals)
    ]


def off(hparams: Any, good: float) -> float:
    return (to_unit(hparams["rate"], RATE) - good) ** 2


@pytest.mark.parametrize("good", [0.2, 0.75])
def test_proposals_lie_where_gains_were_great(good):
    found = places(observed(lambda hparams, turn: math.exp(-off(hparams, good) / 0.02)))
    assert np.mean(found) == pytest.approx(good, abs=0.1)
    assert np.max(np.abs(np.array(found) - good)) < 0.25


def test_old_gains_are_forgotten_where_the_good_place_moves():
    def gain(hparams: Any, turn: int) -> float:
        return -off(hparams, 0.9 - 0.06 * turn)

    # At turn 13 it is 0.12, and over all turns it was 0.51.
    assert np.mean(places(observed(gain))) < 0.3


@pytest.mark.parametrize("unit", [1e-200, 1.0, 1e150])
def test_gains_of_each_turn_count_alike_whatever_their_size(unit):
    """Early gains are a thousand times as great, and every second turn has a bad start."""

    def gain(hparams: Any, turn: int) -> float:
        size = 10.0 ** (3 - turn / 3)
        return unit * size * (10 * (-1) ** turn + math.exp(-off(hparams, 0.2) / 0.02))

    assert np.mean(places(observed(gain))) == pytest.approx(0.2, abs=0.1)


def test_a_choice_without_an_order_is_learnt_for_itself():
    choices = CategoricalDistribution(["a", "b", "c", "d"])
    space: Space = {"kind": choices}
    gains = observed(lambda hparams, turn: float(hparams["kind"] == "c"), space=space)
    proposed = [PB2().fresh(space, gains, np.random.default_rng(seed)) for seed in range(10)]
    assert [one["kind"] for one in proposed] == ["c"] * 10


@pytest.mark.parametrize("gains", [0, 1])
def test_with_nothing_to_learn_from_it_draws_from_the_space(gains):
    known = observed(lambda hparams, turn: 0.0)[:gains]
    proposed = PB2().fresh(SPACE, known, np.random.default_rng(3))
    assert proposed == draw(SPACE, np.random.default_rng(3))


def test_gains_that_are_all_alike_and_single_ones_are_no_error():
    for members in (1, 8):
        assert places(observed(lambda hparams, turn: 1.0, members=members), 1)


def test_a_window_of_nothing_is_refused():
    with pytest.raises(StrategyError, match="window must be at least 2, got 1"):
        Settings.for_task(Counting, resample="pb2:window=1")


def test_a_population_learns_from_it_and_is_the_same_again_and_after_a_resume():
    how = {
        "population": 8,
        "turns": 8,
        "explore": "resample",
        "resample": "pb2:window=40",
        "mode": "generational",
    }

    def outcome(made: Any) -> dict[tuple[int, int], Any]:
        return {(turn.member, turn.number): turn.plan for turn in turns_of(made)}

    there = outcome(simulate(Counting, **how))
    half = simulate(Counting, seconds=16.0, **how).resumed()
    half.controller.settings = half.controller.settings.changed({"seconds": None})
    assert outcome(half.go()) == there
    gained = [plan.hparams["gain"] for plan in there.values() if plan.donor and plan.turn > 4]
    # `gain` is drawn from 0.1 to 10, and more is better; the median draw is 1.
    assert np.median(gained) > 4
