"""Samplers: even beginnings, and fresh values where the recent turns did well."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from scipy.stats import qmc

from pbt_flow.population.history import Gain
from pbt_flow.space import check_hparams, draw, to_unit
from pbt_flow.strategies.bandit import PB2
from pbt_flow.strategies.samplers import (
    SAMPLERS,
    LatinHypercube,
    OptunaSampler,
    Sampler,
    Sobol,
    Uniform,
)

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
    "layers": IntDistribution(1, 4),
    "batch": CategoricalDistribution([16, 32, 64]),
    "kind": CategoricalDistribution(["relu", "tanh"]),
    "fixed": IntDistribution(3, 3),
}
SQUARE: dict[str, BaseDistribution] = {
    "x": FloatDistribution(0.0, 1.0),
    "y": FloatDistribution(0.0, 1.0),
}
GOOD = (0.8, 0.2)

TPE = OptunaSampler(sampler="TPESampler")
GP = OptunaSampler(sampler="GPSampler")


class OwnTPE(optuna.samplers.TPESampler):
    """A sampler of a user's own."""


class GridSampler(optuna.samplers.RandomSampler):
    """Learns as little as its base, and says so by its name."""


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def distance(point: Any) -> float:
    return math.dist((point["x"], point["y"]), GOOD)


def observed(count: int, seed: int = 0) -> list[Gain]:
    """Turns that brought the more, the nearer their hyperparameters were to the good region."""
    chance = rng(seed)
    points = [draw(SQUARE, chance) for _ in range(count)]
    return [Gain(hparams=point, gain=1.0 - distance(point)) for point in points]


# --- the initial population -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler",
    [
        Uniform(),
        LatinHypercube(),
        Sobol(),
        TPE,
        GP,
        OptunaSampler(sampler="RandomSampler"),
        OptunaSampler(sampler="QMCSampler"),
        OptunaSampler(sampler="NSGAIISampler"),
        OptunaSampler(sampler=f"{__name__}.OwnTPE"),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [2, 5, 8, 13])
def test_every_value_of_an_initial_population_lies_in_its_domain(
    sampler: Sampler, size: int
) -> None:
    points = sampler.initial(SPACE, size, rng(0))
    assert len(points) == size
    for point in points:
        assert check_hparams(point, SPACE) == point
        assert {type(value).__module__ for value in point.values()} == {"builtins"}
    assert len({tuple(point.values()) for point in points}) == size


@pytest.mark.parametrize("sampler", [Uniform(), LatinHypercube(), Sobol(), TPE], ids=str)
def test_the_same_chance_gives_the_same_initial_population(sampler: Sampler) -> None:
    first, again = (sampler.initial(SPACE, 6, rng(4)) for _ in range(2))
    assert first == again
    assert first != sampler.initial(SPACE, 6, rng(5))


@pytest.mark.parametrize("even", [LatinHypercube(), Sobol()], ids=str)
@pytest.mark.parametrize("size", [4, 8, 10, 20])
def test_sobol_and_latin_hypercube_are_more_even_than_chance(size: int, even: Sampler) -> None:
    def unevenness(sampler: Sampler, seed: int) -> float:
        points = sampler.initial(SPACE, size, rng(seed))
        searched = {
            name: dist for name, dist in SPACE.items() if isinstance(dist, FloatDistribution)
        }
        cube = [[to_unit(p[name], dist) for name, dist in searched.items()] for p in points]
        return float(qmc.discrepancy(np.array(cube)))

    planned, chance = (
        np.mean([unevenness(sampler, seed) for seed in range(40)]) for sampler in (even, Uniform())
    )
    assert planned < 0.75 * chance


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 50])
@pytest.mark.parametrize("seed", range(5))
def test_a_latin_hypercube_has_one_member_in_each_share_of_every_domain(
    size: int, seed: int
) -> None:
    points = LatinHypercube().initial(SPACE, size, rng(seed))
    orders = [
        [int(to_unit(point[name], SPACE[name]) * size) for point in points]
        for name in ("lr", "dropout")
    ]
    assert [sorted(order) for order in orders] == [list(range(size))] * 2
    # Nor do the members lie on a diagonal; two orders of 7 agree once in 5040 times.
    assert size < 7 or orders[0] != orders[1]
    # Of 4 values each comes as often as another, but for the shares that lie across two of them.
    layers = [point["layers"] for point in points]
    assert all(abs(layers.count(value) - size / 4) < 2 for value in range(1, 5))


@pytest.mark.parametrize("size", range(1, 24))
def test_sobol_makes_any_number_of_members_without_a_warning(size: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Sobol().initial(SPACE, size, rng(0))) == size


@pytest.mark.parametrize("sampler", ["TPESampler", "RandomSampler", "QMCSampler"])
def test_a_stepped_float_of_optuna_lies_on_the_grid_of_the_space(sampler: str) -> None:
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0, step=0.1)}
    optunas, chance = OptunaSampler(sampler=sampler), rng(0)
    points = optunas.initial(space, 24, chance)
    gains = [Gain(hparams=point, gain=float(chance.normal())) for point in points]
    points += [optunas.fresh(space, gains, chance) for _ in range(12)]
    for point in points:
        assert check_hparams(point, space) == point


def test_qmc_does_not_put_a_member_on_every_lower_bound() -> None:
    points = OptunaSampler(sampler="QMCSampler").initial(SQUARE, 8, rng(0))
    assert {"x": 0.0, "y": 0.0} not in points


# --- fresh values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [Uniform(), LatinHypercube(), Sobol(), TPE, GP], ids=str)
def test_a_fresh_configuration_lies_in_the_space(sampler: Sampler) -> None:
    chance = rng(1)
    gains = [Gain(hparams=draw(SPACE, chance), gain=float(chance.normal())) for _ in range(15)]
    for seen in ([], gains[:1], gains):
        point = sampler.fresh(SPACE, seen, rng(0))
        assert check_hparams(point, SPACE) == point
        assert {type(value).__module__ for value in point.values()} == {"builtins"}


@pytest.mark.parametrize(("sampler", "draws"), [(TPE, 40), (GP, 4)], ids=str)
def test_a_sampler_that_learns_draws_near_what_brought_gains(
    sampler: OptunaSampler, draws: int
) -> None:
    gains = observed(60)
    learnt = np.mean([distance(sampler.fresh(SQUARE, gains, rng(s))) for s in range(draws)])
    chance = np.mean([distance(Uniform().fresh(SQUARE, gains, rng(s))) for s in range(400)])
    assert learnt < chance / 2


def test_what_lost_is_avoided_as_what_won_is_sought() -> None:
    lost = [Gain(hparams=g.hparams, gain=-g.gain) for g in observed(60)]
    away = np.mean([distance(TPE.fresh(SQUARE, lost, rng(s))) for s in range(40)])
    chance = np.mean([distance(Uniform().fresh(SQUARE, lost, rng(s))) for s in range(400)])
    assert away > chance


@pytest.mark.parametrize("sampler", [Uniform(), TPE, GP], ids=str)
def test_the_same_chance_gives_the_same_fresh_configuration(sampler: Sampler) -> None:
    gains = observed(20)
    first, again = (sampler.fresh(SQUARE, gains, rng(3)) for _ in range(2))
    assert first == again
    assert first != sampler.fresh(SQUARE, gains, rng(4))


def test_what_does_not_learn_does_not_ask_for_history() -> None:
    assert [s.window for s in (Uniform(), LatinHypercube(), Sobol(), TPE)] == [0, 0, 0, 200]


def test_no_throw_away_study_is_announced_and_the_users_logging_stays_as_it_was() -> None:
    # In a process of its own: Optuna's handler holds on to the stderr of its first message.
    code = (
        "import numpy as np, optuna, sys\n"
        "from optuna.distributions import FloatDistribution\n"
        "from pbt_flow.strategies.samplers import OptunaSampler\n"
        "space = {'x': FloatDistribution(0, 1)}\n"
        "before = optuna.logging.get_verbosity()\n"
        "OptunaSampler().initial(space, 2, np.random.default_rng(0))\n"
        "OptunaSampler().fresh(space, [], np.random.default_rng(0))\n"
        # Of a range with a single value Optuna would say that the space has conditions.
        "space = {'one': FloatDistribution(1, 1), **space}\n"
        "OptunaSampler(sampler='QMCSampler').initial(space, 4, np.random.default_rng(0))\n"
        "assert optuna.logging.get_verbosity() == before\n"
        "print('drawn', file=sys.stderr)\n"
        "optuna.create_study(study_name='ours')\n"
    )
    path = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path)
    assert done.returncode == 0, done.stderr
    quiet, _, loud = done.stderr.partition("drawn\n")
    assert quiet == ""
    assert "A new study created" in loud


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "reason"),
    [
        ("CmaEsSampler", "it keeps its state in the study that it sampled from"),
        ("NSGAIISampler", "it keeps its generations in the study that it sampled from"),
        ("NSGAIIISampler", "it keeps its generations in the study that it sampled from"),
        ("QMCSampler", "it does not learn"),
        ("RandomSampler", r"it does not learn \(choose uniform\)"),
        ("GridSampler", "it does not learn"),
        ("BruteForceSampler", "it does not learn"),
        (f"{__name__}.GridSampler", "it does not learn"),
    ],
)
def test_a_sampler_that_cannot_learn_here_is_refused_with_the_reason(
    sampler: str, reason: str
) -> None:
    with pytest.raises(
        ValueError,
        match=f"{sampler} cannot propose resampled values: {reason}; choose TPESampler or GP",
    ):
        OptunaSampler(sampler=sampler).check_learns()


@pytest.mark.parametrize("sampler", ["TPESampler", "GPSampler", f"{__name__}.OwnTPE"])
def test_a_sampler_that_learns_is_accepted(sampler: str) -> None:
    OptunaSampler(sampler=sampler).check_learns()


@pytest.mark.parametrize("name", ["TPE", "", "optuna.samplers.Missing", "no.such.Sampler"])
def test_a_sampler_that_does_not_exist_is_refused_with_those_that_do(name: str) -> None:
    with pytest.raises(ValueError, match=f"Optuna has no sampler '{name}'; it has ") as refused:
        OptunaSampler(sampler=name)
    assert "TPESampler" in str(refused.value)
    assert "BaseSampler" not in str(refused.value)


@pytest.mark.parametrize("name", ["optuna.samplers.nsgaii", "pathlib.Path", "numpy.mean"])
def test_what_is_no_sampler_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name!r} is no subclass of optuna.samplers.BaseSampler"):
        OptunaSampler(sampler=name)


@pytest.mark.parametrize("name", ["GridSampler", "PartialFixedSampler", "BaseSampler"])
def test_a_sampler_that_needs_more_than_a_seed_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be built from a seed"):
        OptunaSampler(sampler=name).initial(SQUARE, 2, rng(0))


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_without_turns_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match=f"window must be at least 1, got {window}"):
        OptunaSampler(window=window)


def test_the_names_of_the_samplers_are_those_of_the_settings() -> None:
    assert {
        "uniform": Uniform,
        "latin": LatinHypercube,
        "sobol": Sobol,
        "optuna": OptunaSampler,
        "pb2": PB2,
    } == SAMPLERS
