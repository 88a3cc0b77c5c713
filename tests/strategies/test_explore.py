"""Explore: every child lies in the space, and moves as its strategy says."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from pbt_flow.exceptions import SpaceError
from pbt_flow.space import Value, check_hparams, draw, from_unit, to_unit
from pbt_flow.strategies.explore import EXPLORES, Explore, Gaussian, NoExplore, Perturb, Resample

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
    "discount": FloatDistribution(0.9, 0.999),
    "mix": FloatDistribution(-1.0, 1.0, step=0.25),
    "layers": IntDistribution(1, 4),
    "unroll": IntDistribution(8, 512, log=True),
    "batch": CategoricalDistribution([16, 32, 64, 128]),
    "momentum": CategoricalDistribution([0.5, 0.9, 0.99]),
    "activation": CategoricalDistribution(["relu", "tanh", None]),
    "clip": CategoricalDistribution([True, False]),
    "fixed": FloatDistribution(0.3, 0.3),
}

STRATEGIES: list[Explore] = [
    Perturb(),
    Perturb(factors=(0.5, 2.0), resample_probability=0.0),
    Perturb(factors=(1.2,), resample_probability=1.0, ordered=("activation", "clip")),
    Gaussian(),
    Gaussian(sigma=1.0, resample_probability=0.5),
    Gaussian(sigma=1e-3),
    Resample(),
    Resample(probability=0.3),
    NoExplore(),
]

every_strategy = pytest.mark.parametrize("explore", STRATEGIES, ids=str)


def never() -> dict[str, Value]:
    raise AssertionError("a fresh configuration was asked for")


def child(
    explore: Explore,
    hparams: dict[str, Any],
    space: dict[str, BaseDistribution],
    seed: int,
    fresh: Callable[[], dict[str, Value]] | None = None,
) -> dict[str, Value]:
    other = np.random.default_rng(seed + 1)
    return explore(hparams, space, fresh or (lambda: draw(space, other)), rng(seed))


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- every strategy -------------------------------------------------------------------------------


@every_strategy
@given(seed=st.integers(0, 10**6))
def test_children_of_children_stay_in_the_space(explore: Explore, seed: int) -> None:
    hparams: dict[str, Any] = draw(SPACE, rng(seed))
    for generation in range(5):
        hparams = child(explore, hparams, SPACE, seed + generation)
        assert list(hparams) == list(SPACE)
        checked = check_hparams(hparams, SPACE)
        assert [type(value) for value in checked.values()] == [type(v) for v in hparams.values()]


@every_strategy
@given(seed=st.integers(0, 10**6))
def test_the_parent_is_left_as_it_was(explore: Explore, seed: int) -> None:
    parent = draw(SPACE, rng(seed))
    before = copy.deepcopy(parent)
    born = child(explore, parent, SPACE, seed)
    assert parent == before
    assert born is not parent


@every_strategy
@given(seed=st.integers(0, 10**6))
def test_the_same_chance_gives_the_same_child(explore: Explore, seed: int) -> None:
    parent = draw(SPACE, rng(seed))
    assert child(explore, parent, SPACE, seed) == child(explore, parent, SPACE, seed)


@every_strategy
@given(seed=st.integers(0, 10**6))
def test_a_single_value_never_moves(explore: Explore, seed: int) -> None:
    assert child(explore, draw(SPACE, rng(seed)), SPACE, seed)["fixed"] == 0.3


@every_strategy
def test_a_fresh_configuration_is_asked_for_at_most_once(explore: Explore) -> None:
    parent, asked = draw(SPACE, rng(0)), list[int]()
    for seed in range(30):
        calls = Counter[str]()

        def fresh(seed: int = seed, calls: Counter[str] = calls) -> dict[str, Value]:
            calls["fresh"] += 1
            return draw(SPACE, rng(seed))

        child(explore, parent, SPACE, seed, fresh)
        asked.append(calls["fresh"])
    assert set(asked) <= {0, 1}


@pytest.mark.parametrize(
    "explore",
    [
        Perturb(resample_probability=0.0, choice_probability=0.0),
        Gaussian(choice_probability=0.0),
        Resample(probability=0.0),
        NoExplore(),
    ],
    ids=str,
)
def test_without_resampling_no_fresh_configuration_is_asked_for(explore: Explore) -> None:
    for seed in range(30):
        child(explore, draw(SPACE, rng(seed)), SPACE, seed, never)


@pytest.mark.parametrize(
    "explore",
    [
        Perturb(resample_probability=1.0, choice_probability=1.0),
        Gaussian(resample_probability=1.0, choice_probability=1.0),
        Resample(),
    ],
    ids=str,
)
def test_resampled_with_certainty_a_child_is_the_fresh_configuration(explore: Explore) -> None:
    parent, fresh = draw(SPACE, rng(1)), draw(SPACE, rng(2))
    assert child(explore, parent, SPACE, 3, lambda: fresh) == fresh


@pytest.mark.parametrize("explore", [Perturb(), Gaussian(), Resample(probability=0.25)], ids=str)
def test_each_hyperparameter_is_resampled_on_its_own(explore: Explore) -> None:
    # The fresh values cannot be reached by a move from the parent's.
    space = {name: CategoricalDistribution(["old", "new"]) for name in "abcd"}
    old, new = dict.fromkeys(space, "old"), dict.fromkeys(space, "new")
    children = [child(explore, old, space, seed, lambda: dict(new)) for seed in range(2000)]
    counts = Counter(sum(born[name] == "new" for name in space) for born in children)
    # A binomial with 4 draws of 1/4; five standard errors are at most 0.056.
    for count, share in enumerate([0.316, 0.422, 0.211, 0.047, 0.004]):
        assert counts[count] / 2000 == pytest.approx(share, abs=0.056)


# --- unordered choices ----------------------------------------------------------------------------

_MIXED: dict[str, BaseDistribution] = {
    "kind": CategoricalDistribution(["old", "new"]),
    "flag": CategoricalDistribution([True, False]),
    "size": CategoricalDistribution(["small", "middle", "large"]),
    "batch": CategoricalDistribution([16, 32, 64]),
    "width": IntDistribution(1, 100),
}
_OLD: dict[str, Value] = {"kind": "old", "flag": True, "size": "small", "batch": 16, "width": 1}
_NEW: dict[str, Value] = {"kind": "new", "flag": False, "size": "large", "batch": 64, "width": 99}


def resampled(explore: Explore) -> dict[str, float]:
    """How often each hyperparameter takes the fresh value, which no move leads to."""
    children = [child(explore, _OLD, _MIXED, seed, lambda: dict(_NEW)) for seed in range(1000)]
    return {name: sum(c[name] == _NEW[name] for c in children) / 1000 for name in _MIXED}


@pytest.mark.parametrize(
    "explore",
    [
        Perturb(resample_probability=0.0, ordered=("size",)),
        Gaussian(sigma=0.01, resample_probability=0.0),
    ],
    ids=str,
)
def test_an_unordered_choice_is_resampled_where_nothing_else_is(explore: Explore) -> None:
    # Gaussian knows no choices that are ordered by name.
    unordered = {"kind", "flag"} if isinstance(explore, Perturb) else {"kind", "flag", "size"}
    for name, share in resampled(explore).items():
        # Five standard errors of a quarter in 1000 are 0.068.
        assert share == (pytest.approx(0.25, abs=0.068) if name in unordered else 0.0)


@pytest.mark.parametrize(
    "explore",
    [
        Perturb(resample_probability=1.0, choice_probability=0.0, ordered=("size",)),
        Gaussian(sigma=0.01, resample_probability=1.0, choice_probability=0.0),
    ],
    ids=str,
)
def test_a_choice_that_is_not_to_be_resampled_stays_where_all_else_is(explore: Explore) -> None:
    unordered = {"kind", "flag"} if isinstance(explore, Perturb) else {"kind", "flag", "size"}
    assert resampled(explore) == {name: float(name not in unordered) for name in _MIXED}


# --- perturb --------------------------------------------------------------------------------------


def test_perturb_multiplies_by_each_of_its_factors_as_often() -> None:
    space: dict[str, BaseDistribution] = {"lr": FloatDistribution(1e-6, 1.0, log=True)}
    explore = Perturb(factors=(0.5, 0.8, 2.0), resample_probability=0.0)
    drawn = Counter(child(explore, {"lr": 0.01}, space, seed)["lr"] for seed in range(3000))
    assert sorted(drawn) == pytest.approx([0.005, 0.008, 0.02])
    assert all(abs(count / 3000 - 1 / 3) < 0.043 for count in drawn.values())


def test_perturb_moves_hyperparameters_independently() -> None:
    space: dict[str, BaseDistribution] = {
        name: FloatDistribution(1e-6, 1.0, log=True) for name in "ab"
    }
    explore = Perturb(resample_probability=0.0)
    children = (child(explore, {"a": 0.01, "b": 0.01}, space, seed) for seed in range(4000))
    drawn = Counter(tuple(born.values()) for born in children)
    assert len(drawn) == 4
    assert all(abs(count / 4000 - 0.25) < 0.034 for count in drawn.values())


def test_the_default_factors_do_not_drift() -> None:
    assert math.prod(Perturb().factors) == 1.0
    places = {"lr": 0.5, "dropout": 0.5, "discount": 0.5, "unroll": 0.5}
    space = {name: SPACE[name] for name in places}
    explore, chance, ends = Perturb(resample_probability=0.0), rng(0), []
    for _ in range(500):
        hparams = {name: from_unit(0.5, dist) for name, dist in space.items()}
        for _ in range(60):
            hparams = explore(hparams, space, never, chance)
        ends.append([to_unit(hparams[name], space[name]) for name in space])
    # Five standard errors of a mean of 500 with a spread of 0.35.
    assert np.mean(ends, axis=0) == pytest.approx(list(places.values()), abs=0.078)


def test_factors_that_are_not_each_others_inverse_drift_alike_on_every_scale() -> None:
    explore = Perturb(factors=(0.8, 1.2), resample_probability=0.0)
    space: dict[str, BaseDistribution] = {
        "log": FloatDistribution(1e-10, math.exp(100) * 1e-10, log=True),
        "linear": FloatDistribution(0.0, 1.0),
    }
    start: dict[str, Value] = {"log": math.exp(50) * 1e-10, "linear": 0.5}
    born = [child(explore, start, space, seed) for seed in range(20)]
    # The paper's pair: down by more than up, by 2% a move in logarithms as in widths of a range.
    for name, unit in (("log", 100.0), ("linear", 1.0)):
        moves = sorted({round((to_unit(b[name], space[name]) - 0.5) * unit, 6) for b in born})
        assert moves == pytest.approx([math.log(0.8), math.log(1.2)], abs=1e-6)


def test_perturb_moves_every_hyperparameter_that_has_a_neighbour_on_both_sides() -> None:
    middle = {
        "lr": 1e-3,
        "dropout": 0.25,
        "discount": 0.95,
        "mix": 0.0,
        "layers": 2,
        "unroll": 64,
        "batch": 32,
        "momentum": 0.9,
        "activation": "tanh",
        "clip": True,
        "fixed": 0.3,
    }
    still = Perturb(resample_probability=0.0, choice_probability=0.0)
    for seed in range(20):
        born = child(still, middle, SPACE, seed)
        kept = {name for name in SPACE if born[name] == middle[name]}
        # Unordered choices have no direction to move in.
        assert kept == {"activation", "clip", "fixed"}


def test_choices_named_as_ordered_move_to_a_neighbour() -> None:
    space: dict[str, BaseDistribution] = {
        "size": CategoricalDistribution(["small", "middle", "large"])
    }
    explore = Perturb(resample_probability=0.0, ordered=("size",))
    born = {child(explore, {"size": "middle"}, space, seed)["size"] for seed in range(20)}
    assert born == {"small", "large"}
    assert {child(explore, {"size": "small"}, space, s)["size"] for s in range(20)} == {
        "small",
        "middle",
    }


def test_an_ordered_choice_that_the_space_does_not_have_is_named() -> None:
    with pytest.raises(SpaceError, match="explore perturb, ordered: 'sise' is not a hyperparam"):
        child(Perturb(ordered=("sise",)), draw(SPACE, rng(0)), SPACE, 0)


def test_one_more_unordered_choice_does_not_shift_the_others_chance() -> None:
    numbers: dict[str, BaseDistribution] = {
        "a": FloatDistribution(1e-6, 1.0, log=True),
        "kind": CategoricalDistribution([1, 2, 3]),
        "b": FloatDistribution(1e-6, 1.0, log=True),
    }
    words = {**numbers, "kind": CategoricalDistribution(["x", "y", "z"])}
    explore = Perturb(resample_probability=0.0)
    for seed in range(20):
        first = child(explore, {"a": 0.1, "kind": 2, "b": 0.1}, numbers, seed)
        other = child(explore, {"a": 0.1, "kind": "y", "b": 0.1}, words, seed)
        assert (first["a"], first["b"]) == (other["a"], other["b"])


# --- gaussian -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lr", "dropout", "discount"])
def test_a_gaussian_step_has_the_same_size_on_every_scale(name: str) -> None:
    dist = SPACE[name]
    assert isinstance(dist, FloatDistribution)
    low, high, middle = dist.low, dist.high, (dist.low + dist.high) / 2
    if dist.log:
        low, high, middle = math.log(low), math.log(high), math.sqrt(dist.low * dist.high)
    steps = []
    for seed in range(2000):
        moved = child(Gaussian(sigma=0.05), {name: middle}, {name: dist}, seed)[name]
        assert isinstance(moved, float)
        steps.append((math.log(moved) if dist.log else moved) / (high - low))
    # The standard error of a standard deviation in 2000 draws is 1.6%.
    assert np.std(steps) == pytest.approx(0.05, rel=0.08)
    assert np.mean(steps) == pytest.approx((low + high) / 2 / (high - low), abs=0.006)


def test_a_gaussian_step_beyond_the_end_is_reflected_and_does_not_stick_to_it() -> None:
    space: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0)}
    for end in (0.0, 1.0):
        moved = [child(Gaussian(sigma=0.1), {"x": end}, space, s)["x"] for s in range(500)]
        distances = [abs(x - end) for x in moved]  # type: ignore[operator]
        assert min(distances) > 0.0
        # The mean of half a normal distribution.
        assert np.mean(distances) == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.15)


_SHARE_OF_STAYING = 0.05


@pytest.mark.parametrize(
    ("value", "dist"),
    [
        (2, IntDistribution(1, 3)),
        (32, CategoricalDistribution([16, 32, 64])),
        (0.5, FloatDistribution(0.0, 1.0, step=0.5)),
        (0.9, CategoricalDistribution([0.5, 0.9, 0.99])),
    ],
    ids=str,
)
def test_a_gaussian_step_moves_a_value_of_a_coarse_domain(
    value: float, dist: BaseDistribution
) -> None:
    born = [child(Gaussian(sigma=0.05), {"x": value}, {"x": dist}, s)["x"] for s in range(200)]
    assert sum(x == value for x in born) / 200 <= _SHARE_OF_STAYING
    assert len({x for x in born if x != value}) == 2


def test_gaussian_leaves_unordered_choices_to_resampling() -> None:
    for seed in range(20):
        parent = draw(SPACE, rng(seed))
        born = child(Gaussian(sigma=1.0, choice_probability=0.0), parent, SPACE, seed)
        assert (born["activation"], born["clip"]) == (parent["activation"], parent["clip"])


# --- the controls, and what is refused ------------------------------------------------------------


def test_no_explore_keeps_what_was_copied() -> None:
    parent = draw(SPACE, rng(0))
    assert child(NoExplore(), parent, SPACE, 0, never) == parent


def test_the_names_of_the_strategies_are_those_of_the_settings() -> None:
    assert {
        "perturb": Perturb,
        "gaussian": Gaussian,
        "resample": Resample,
        "none": NoExplore,
    } == EXPLORES


@pytest.mark.parametrize(
    "factors",
    [
        (),
        (0.0, 1.2),
        (-0.8,),
        (0.8, 1),
        (1.0,),
        (math.nan,),
        (0.8, math.inf),
    ],
)
def test_a_factor_that_does_not_move_or_turns_the_sign_is_refused(
    factors: tuple[float, ...],
) -> None:
    with pytest.raises(ValueError, match="factors must be finite, above 0 and not 1, got "):
        Perturb(factors=factors)


@pytest.mark.parametrize("sigma", [0.0, -0.1, 1.5, math.nan])
def test_a_step_that_does_not_fit_into_the_domain_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match=f"sigma must lie above 0 and not above 1, got {sigma}"):
        Gaussian(sigma=sigma)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize(
    "build",
    [
        lambda p: Perturb(resample_probability=p),
        lambda p: Perturb(choice_probability=p),
        lambda p: Gaussian(resample_probability=p),
        lambda p: Gaussian(choice_probability=p),
        lambda p: Resample(probability=p),
    ],
)
def test_a_probability_outside_of_nought_to_one_is_refused(
    build: Callable[[float], Explore], probability: float
) -> None:
    with pytest.raises(ValueError, match=rf"must lie in \[0, 1\], got {probability}"):
        build(probability)


def test_gaussian_steps_leave_small_integers_of_a_log_range_spread_as_they_were_drawn() -> None:
    space: dict[str, BaseDistribution] = {"n": IntDistribution(1, 8, log=True)}
    chance, explore = rng(0), Gaussian(sigma=0.1)
    children = [draw(space, chance) for _ in range(1500)]
    begun = Counter(c["n"] for c in children)
    for _ in range(20):
        children = [explore(c, space, never, chance) for c in children]
    ended = Counter(c["n"] for c in children)
    # Four standard errors of a difference of two shares of 0.4.
    for value in range(1, 9):
        assert ended[value] / 1500 == pytest.approx(begun[value] / 1500, abs=0.072)


def test_a_gaussian_step_that_a_coarse_domain_rounds_away_is_one_step() -> None:
    space = {"width": IntDistribution(1, 100)}
    steps = {
        child(Gaussian(sigma=0.01), {"width": 50}, space, seed)["width"] for seed in range(300)
    }
    # At most four standard deviations of one unit each.
    assert {49, 51} <= steps <= set(range(46, 55)) - {50}
