"""The toys' known answers, by simulation: the same controller, no MLflow, no waiting."""

from statistics import fmean, median

import numpy as np
import pytest

from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.tasks.toy import Toy, figure
from pbt_flow.testing import TaskContract
from pbt_flow.testing.simulation import simulate

HALVES = [{"h0": 1.0, "h1": 0.0}] * 4 + [{"h0": 0.0, "h1": 1.0}] * 4
PAIR = [HALVES[0], HALVES[-1]]


class TestToyContract(TaskContract):
    task = Toy


class TestNoisyQuadraticContract(TaskContract):
    task = NoisyQuadratic
    options = {"dimensions": 10}


def test_grid_search_on_the_toy_ends_at_exactly_0_39():
    best = simulate(Toy, population=2, initial=PAIR, exploit="none", interval=500).best
    assert best == pytest.approx(1.2 - 0.9**2, abs=1e-12)


@pytest.mark.parametrize(("copies", "at_least"), [("weights", 1.17), ("both", 1.17)])
def test_pbt_of_two_solves_the_toy(copies, at_least):
    best = [
        simulate(
            Toy,
            population=2,
            initial=PAIR,
            turns=50,
            mode="generational",
            exploit=f"truncation:fraction=0.5,copies={copies},ties=true",
            explore="gaussian:sigma=0.1",
            seed=seed,
        ).best
        for seed in range(10)
    ]
    assert median(best) >= at_least


def test_exploit_alone_solves_the_toy_only_if_each_member_keeps_its_own_h():
    def best(copies):
        exploit = f"truncation:fraction=0.5,copies={copies},ties=true"
        settings = {"exploit": exploit, "explore": "none", "mode": "generational", "turns": 50}
        return simulate(Toy, population=2, initial=PAIR, **settings).best

    assert best("weights") > 1.17
    assert best("both") == pytest.approx(0.39, abs=1e-3)


def test_without_a_rule_for_ties_two_symmetric_members_never_copy():
    history = simulate(
        Toy, population=2, initial=PAIR, turns=50, exploit="truncation:fraction=0.5"
    ).history
    first_copies = [turn for turn in history.turns[0] if turn.plan.donor]
    scores = [(a.score, b.score) for a, b in zip(history.turns[0], history.turns[1], strict=True)]
    tied = next((n for n, (a, b) in enumerate(scores) if a != b), len(scores))
    assert all(turn.number > tied for turn in first_copies)


@pytest.mark.parametrize("mode", ["generational", "async"])
def test_a_population_of_8_solves_the_toy_within_its_ranges_in_both_modes(mode):
    best = []
    for seed in range(12):
        simulation = simulate(Toy, mode=mode, population=8, initial=HALVES, seed=seed, slots=2)
        best.append(simulation.best)
        values = [
            value
            for turns in simulation.history.turns.values()
            for turn in turns
            for value in turn.plan.hparams.values()
        ]
        assert 0 <= min(values) <= max(values) <= 1
    assert median(best) >= 1.09


def test_asynchronous_members_exploit_as_generational_ones_do():
    """Whoever has just reported must not look better for being an interval older.

    Ray Tune, which compares members of different ages, never exploits at all on this problem.
    """

    def copies(mode):
        found = []
        for seed in range(10):
            history = simulate(Toy, mode=mode, population=8, initial=HALVES, seed=seed).history
            turns = [turn for turns in history.turns.values() for turn in turns]
            found.append(sum(turn.plan.donor is not None for turn in turns))
        return fmean(found)

    assert copies("async") == pytest.approx(copies("generational"), rel=0.15)


def quadratic(seeds=10, **settings):
    results = [
        simulate(
            NoisyQuadratic,
            mode="generational",
            seed=seed,
            **{
                "init": "uniform",
                "exploit": "truncation:fraction=0.2",
                "explore": "perturb:resample_probability=0",
                **settings,
            },
        ).best
        for seed in range(seeds)
    ]
    return np.array(results)


@pytest.mark.slow
def test_the_noisy_quadratic_has_its_known_answers():
    """All that one reference is compared with: it is most of the time."""
    pbt, search = quadratic(), quadratic(exploit="none")
    assert pbt.mean() == pytest.approx(0.110, abs=0.025)
    assert search.mean() == pytest.approx(0.240, abs=0.05)
    assert (search > pbt).all()
    assert pbt.mean() < quadratic(exploit="tournament").mean()
    # Too short an interval selects chance, and too long a one decides too rarely.
    for interval, seeds in ((5, 2), (400, 4)):
        loss = quadratic(seeds, interval=interval, turns=2000 // interval)
        assert pbt[:seeds].mean() < loss.mean(), interval


@pytest.mark.paints
def test_the_figure_is_drawn(tmp_path):
    path = tmp_path / "figure.png"
    figure(str(path))
    assert path.read_bytes()[:4] == b"\x89PNG"
