"""Domains: every value stays in its distribution, with its type, and can go on moving."""

from __future__ import annotations

import json
import math
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
    distribution_to_json,
    json_to_distribution,
)

from pbt_flow.exceptions import PBTError, SpaceError
from pbt_flow.space import (
    check_hparams,
    check_names,
    check_space,
    draw,
    from_unit,
    index_of,
    is_ordered,
    scale,
    shift,
    snap,
    space_from_json,
    space_to_json,
    to_unit,
)

# --- domains, and values in them ------------------------------------------------------------------

units = st.floats(0.0, 1.0)
seeds = st.integers(0, 2**32 - 1)
log_edges = st.floats(1e-9, 1e6)
edges = st.integers(-(10**6), 10**6).map(lambda n: n / 1000)
widths = st.floats(1e-3, 1e4)


@st.composite
def plain_floats(draw: st.DrawFn) -> FloatDistribution:
    low = draw(edges)
    return FloatDistribution(low, low + draw(widths))


@st.composite
def log_floats(draw: st.DrawFn) -> FloatDistribution:
    low = draw(log_edges)
    return FloatDistribution(low, low * draw(st.floats(1.01, 1e6)), log=True)


@st.composite
def stepped_floats(draw: st.DrawFn) -> FloatDistribution:
    """Grids that people write: the ends and the step are decimal numbers of few digits."""
    step = draw(st.integers(1, 500))
    # A grid around 0 is a hard one: -0.3 + 3 x 0.1 is not 0.
    low = draw(st.one_of(st.integers(-1000, 1000), st.integers(-20, 0).map(lambda n: n * step)))
    high = low + step * draw(st.integers(1, 40))
    return FloatDistribution(low / 1000, high / 1000, step=step / 1000)


@st.composite
def integers(draw: st.DrawFn) -> IntDistribution:
    low, step = draw(st.integers(-100, 100)), draw(st.integers(1, 9))
    return IntDistribution(low, low + step * draw(st.integers(1, 200)), step=step)


@st.composite
def log_integers(draw: st.DrawFn) -> IntDistribution:
    low = draw(st.integers(1, 1000))
    return IntDistribution(low, low + draw(st.integers(1, 10**6)), log=True)


@st.composite
def choices(draw: st.DrawFn) -> CategoricalDistribution:
    kinds = st.sampled_from([None, True, False, 0, 1, 16, 0.5, 1.0, "a", "1", "True"])
    drawn = draw(st.lists(kinds, min_size=2, max_size=6, unique_by=lambda c: (type(c), c)))
    return CategoricalDistribution(drawn)


single = st.sampled_from(
    [
        FloatDistribution(0.5, 0.5),
        FloatDistribution(1e-3, 1e-3, log=True),
        IntDistribution(3, 3),
        IntDistribution(2**60, 2**60, log=True),
        CategoricalDistribution(["only"]),
    ]
)
several = st.one_of(
    plain_floats(), log_floats(), stepped_floats(), integers(), log_integers(), choices()
)
any_domain = st.one_of(several, single)


def value_in(dist: BaseDistribution, unit: float) -> Any:
    """A value by another way than the code under test: counted from the ends of the domain."""
    if isinstance(dist, CategoricalDistribution):
        return dist.choices[round(unit * (len(dist.choices) - 1))]
    assert isinstance(dist, FloatDistribution | IntDistribution)
    if dist.step is None:
        return min(max(dist.low + unit * (dist.high - dist.low), dist.low), dist.high)
    steps = round((dist.high - dist.low) / dist.step)
    value = dist.low + round(unit * steps) * dist.step
    return round(value, 6) if isinstance(dist, FloatDistribution) else value


def assert_in(value: Any, dist: BaseDistribution) -> None:
    """The value is Python's own type of the distribution, and Optuna, too, finds it inside."""
    if isinstance(dist, CategoricalDistribution):
        assert any(value is choice for choice in dist.choices)
        return
    assert isinstance(dist, FloatDistribution | IntDistribution)
    assert type(value) is (int if isinstance(dist, IntDistribution) else float)
    assert dist.low <= value <= dist.high
    if dist.step is not None:
        steps = (value - dist.low) / dist.step
        assert steps == pytest.approx(round(steps), abs=1e-8)
    assert check_hparams({"x": value}, {"x": dist}) == {"x": value}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- properties -----------------------------------------------------------------------------------


@given(any_domain, seeds)
def test_a_drawn_value_lies_in_its_domain(dist: BaseDistribution, seed: int) -> None:
    assert_in(draw({"x": dist}, np.random.default_rng(seed))["x"], dist)


@given(any_domain, units, st.floats(0.1, 10.0))
def test_a_scaled_value_lies_in_its_domain(
    dist: BaseDistribution, unit: float, factor: float
) -> None:
    assert_in(scale(value_in(dist, unit), dist, factor, rng()), dist)


@given(any_domain, units, st.floats(-2.0, 2.0), st.booleans(), seeds)
def test_a_shifted_value_lies_in_its_domain(
    dist: BaseDistribution, unit: float, share: float, reflect: bool, seed: int
) -> None:
    moved = shift(value_in(dist, unit), dist, share, rng(seed), reflect=reflect)
    assert_in(moved, dist)


@given(any_domain, units, st.integers(1, 6), seeds)
def test_a_value_stays_in_its_domain_however_often_it_moves(
    dist: BaseDistribution, unit: float, moves: int, seed: int
) -> None:
    chance, value = rng(seed), value_in(dist, unit)
    for factor in chance.choice([0.1, 0.5, 0.8, 1.2, 2.0, 10.0], size=moves):
        value = scale(value, dist, float(factor), chance)
        assert_in(value, dist)


@given(any_domain, units)
def test_the_way_to_the_unit_interval_and_back_stays_in_the_domain(
    dist: BaseDistribution, unit: float
) -> None:
    value = value_in(dist, unit)
    place = to_unit(value, dist)
    assert type(place) is float
    assert 0.0 <= place <= 1.0
    back = from_unit(place, dist)
    assert_in(back, dist)
    if isinstance(dist, FloatDistribution) and dist.step is None:
        width = dist.high - dist.low
        assert back == pytest.approx(value, rel=1e-9, abs=1e-9 * width)
    else:
        assert back == value


@given(any_domain, st.floats(-5.0, 5.0))
def test_any_number_has_a_value_at_its_place(dist: BaseDistribution, unit: float) -> None:
    value = from_unit(unit, dist)
    assert_in(value, dist)
    assert value == from_unit(min(max(unit, 0.0), 1.0), dist)


@given(any_domain, units)
def test_snapping_a_value_of_the_domain_changes_nothing(
    dist: BaseDistribution, unit: float
) -> None:
    value = value_in(dist, unit)
    assert snap(value, dist) == value
    assert type(snap(value, dist)) is type(value)


@given(
    st.one_of(integers(), stepped_floats()),
    units,
    st.sampled_from([(0.8, 1.25), (0.99, 1.01)]),
    seeds,
)
def test_a_stepped_number_of_a_linear_range_moves_every_time(
    dist: IntDistribution | FloatDistribution, unit: float, factors: tuple[float, float], seed: int
) -> None:
    value = value_in(dist, unit)
    down, up = (scale(value, dist, factor, rng(seed)) for factor in factors)
    assert (down < value) == (value > dist.low)
    assert (up > value) == (value < from_unit(1.0, dist))


@given(log_integers(), units, st.sampled_from([(0.8, 1.25), (0.99, 1.01)]))
def test_an_integer_of_a_log_range_never_freezes(
    dist: IntDistribution, unit: float, factors: tuple[float, float]
) -> None:
    value = value_in(dist, unit)
    down, up = ([scale(value, dist, f, rng(s)) for s in range(40)] for f in factors)
    # Even from 1 to 2, with the smallest part of all beside the largest, 46 of 100 moves lead.
    assert (min(down) < value) == (value > dist.low)
    assert (max(up) > value) == (value < dist.high)
    assert max(down) <= value <= min(up)


@given(several, units)
def test_from_every_value_one_of_two_factors_leads_away(
    dist: BaseDistribution, unit: float
) -> None:
    value = value_in(dist, unit)
    moved = [scale(value, dist, factor, rng(seed)) for factor in (0.8, 1.25) for seed in range(20)]
    # True and 1 are equal, and still two choices.
    assert any((type(m), m) != (type(value), value) for m in moved)


@given(several, units)
def test_a_factor_above_one_never_lowers_a_number_nor_one_below_raises_it(
    dist: BaseDistribution, unit: float
) -> None:
    if isinstance(dist, CategoricalDistribution):
        return
    value = value_in(dist, unit)
    assert scale(value, dist, 0.8, rng()) <= value <= scale(value, dist, 1.25, rng())


@given(single, st.floats(0.1, 10.0))
def test_a_single_value_stays_where_it_is(dist: BaseDistribution, factor: float) -> None:
    value = value_in(dist, 0.5)
    assert scale(value, dist, factor, rng()) == value
    assert draw({"x": dist}, np.random.default_rng(0)) == {"x": value}


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), several, min_size=1))
def test_a_space_comes_back_from_json_and_optuna_reads_each_domain_of_it(
    space: dict[str, BaseDistribution],
) -> None:
    plain = json.loads(json.dumps(space_to_json(space)))
    assert space_from_json(plain) == space
    assert list(space_from_json(plain)) == list(space)
    for name, dist in space.items():
        assert json_to_distribution(json.dumps(plain[name])) == dist
        assert plain[name] == json.loads(distribution_to_json(dist))


# --- how a value moves ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dist", "factor", "moved"),
    [
        (0.01, FloatDistribution(1e-5, 1e-1, log=True), 1.25, 0.0125),
        (0.09, FloatDistribution(1e-5, 1e-1, log=True), 1.25, 0.1),
        # Not log: the logarithm of the factor, in widths of the range, and as far either way.
        (2.0, FloatDistribution(1.0, 10.0), 2.0, 2 + 9 * math.log(2)),
        (0.0, FloatDistribution(0.0, 1.0), 1.25, 0.22314),
        (0.5, FloatDistribution(0.0, 1.0), 0.8, 0.27686),
        (0.5, FloatDistribution(0.0, 1.0), 1.25, 0.72314),
        (-0.5, FloatDistribution(-1.0, 1.0), 1.25, -0.05371),
        (0.95, FloatDistribution(0.9, 1.0), 1.25, 0.972314),
        (0.95, FloatDistribution(0.9, 1.0), 0.8, 0.927686),
        (0.99, FloatDistribution(0.9, 0.999), 1.25, 0.999),
        (0.5, FloatDistribution(0.0, 1.0, step=0.1), 0.99, 0.4),
        (1, IntDistribution(1, 4), 1.25, 2),
        (2, IntDistribution(1, 4), 0.8, 1),
        (64, IntDistribution(16, 256, step=16), 1.05, 80),
        (0, IntDistribution(0, 8), 1.25, 2),
        (32, CategoricalDistribution([16, 32, 64]), 1.25, 64),
        (32, CategoricalDistribution([16, 32, 64]), 0.8, 16),
        (64, CategoricalDistribution([16, 32, 64]), 1.25, 64),
        (64, CategoricalDistribution([16, 32, 64]), 1, 64),
        (3, IntDistribution(1, 8), 1, 3),
    ],
)
def test_a_factor_moves_a_value_as_its_domain_says(
    value: Any, dist: BaseDistribution, factor: float, moved: Any
) -> None:
    assert scale(value, dist, factor, rng()) == pytest.approx(moved, rel=1e-4)
    assert type(scale(value, dist, factor, rng())) is type(moved)


def test_the_way_back_from_a_bound_ends_at_the_bound() -> None:
    dist = FloatDistribution(0.0, 0.5)
    for bound, out, back in [(0.0, 1.25, 0.8), (0.5, 0.8, 1.25)]:
        value: Any = bound
        for factor in [out] * 3 + [back] * 3:
            value = scale(value, dist, factor, rng())
        assert value == bound


# --- many moves without selection -----------------------------------------------------------------


def walk(values: list[Any], dist: BaseDistribution, moves: int = 60) -> list[Any]:
    """Where the default factors of `perturb` lead without any selection."""
    chance = rng()
    for _ in range(moves):
        factors = chance.choice([0.8, 1.25], size=len(values)).tolist()
        values = [scale(v, dist, f, chance) for v, f in zip(values, factors, strict=True)]
    return values


def mean_place(values: list[Any], dist: BaseDistribution) -> float:
    return float(np.mean([to_unit(value, dist) for value in values]))


@pytest.mark.parametrize(
    "dist",
    [
        FloatDistribution(0.0, 1.0),
        FloatDistribution(0.9, 0.999),
        FloatDistribution(1e-5, 1e-1, log=True),
        FloatDistribution(-1.0, 1.0, step=0.5),
        IntDistribution(1, 5),
        IntDistribution(16, 256, step=16),
        CategoricalDistribution([16, 32, 64, 128, 256]),
    ],
    ids=str,
)
def test_from_the_middle_moves_lead_up_and_down_alike(dist: BaseDistribution) -> None:
    ends = walk([from_unit(0.5, dist)] * 1000, dist)
    # Four standard errors: of a mean place with a spread of at most 0.4, and of two shares of 0.2.
    assert mean_place(ends, dist) == pytest.approx(
        mean_place([from_unit(0.5, dist)], dist), abs=0.05
    )
    places = np.array([to_unit(value, dist) for value in ends])
    first, last = (to_unit(from_unit(end, dist), dist) for end in (0.0, 1.0))
    low, high = np.mean(places < first + 1e-9), np.mean(places > last - 1e-9)
    assert low == pytest.approx(high, abs=0.07)
    assert low < 0.25


@pytest.mark.parametrize(
    "dist",
    [
        IntDistribution(1, 4),
        IntDistribution(1, 8, log=True),
        IntDistribution(1, 512, log=True),
        IntDistribution(8, 512, log=True),
        FloatDistribution(0.1, 0.9, step=0.2),
        CategoricalDistribution([0.5, 0.9, 0.99]),
    ],
    ids=str,
)
def test_moves_leave_stepped_values_spread_as_they_were_drawn(dist: BaseDistribution) -> None:
    chance = rng(1)
    begun = [draw({"x": dist}, chance)["x"] for _ in range(1500)]
    ends = walk(begun, dist, moves=30)
    # Four standard errors of a difference, with a spread of 0.29, and of one of shares below 0.4.
    assert mean_place(ends, dist) == pytest.approx(mean_place(begun, dist), abs=0.045)
    for end in (0.0, 1.0):
        value = from_unit(end, dist)
        before, after = begun.count(value) / 1500, ends.count(value) / 1500
        assert after == pytest.approx(before, abs=0.07)


def test_a_small_integer_of_a_log_range_goes_no_further_up_than_a_float() -> None:
    """The lower bound alone lifts the mean; a step of 1 that was forced lifted it to 2.8."""
    whole, real = IntDistribution(1, 512, log=True), FloatDistribution(1.0, 512.0, log=True)
    ints, floats = (
        np.log2(walk([start] * 1000, dist)) for start, dist in ((3, whole), (3.0, real))
    )
    # Four standard errors of a difference, with a spread of 1.7.
    assert ints.mean() < floats.mean() + 0.3
    assert ints.mean() > math.log2(3)


@pytest.mark.parametrize(
    ("value", "dist", "nearest"),
    [
        (0.37, FloatDistribution(0.0, 1.0, step=0.25), 0.25),
        (-3, FloatDistribution(0.0, 1.0), 0.0),
        (math.inf, FloatDistribution(0.0, 1.0), 1.0),
        (np.float64(0.5), FloatDistribution(0.0, 1.0), 0.5),
        (0.1 + 0.2, FloatDistribution(0.0, 1.0, step=0.1), 0.3),
        (9, IntDistribution(1, 8), 8),
        (4.4, IntDistribution(1, 8), 4),
        (np.int64(4), IntDistribution(1, 8), 4),
        (6, IntDistribution(1, 9, step=4), 5),
        ("b", CategoricalDistribution(["a", "b"]), "b"),
    ],
)
def test_snap_gives_the_nearest_value_with_its_type(
    value: Any, dist: BaseDistribution, nearest: Any
) -> None:
    assert snap(value, dist) == nearest
    assert type(snap(value, dist)) is type(nearest)


@pytest.mark.parametrize(
    "dist",
    [
        IntDistribution(0, 3),
        IntDistribution(1, 10, step=3),
        FloatDistribution(0.0, 0.9, step=0.3),
        CategoricalDistribution(["a", "b", "c", "d"]),
    ],
    ids=str,
)
def test_each_of_four_values_gets_a_quarter_of_the_draws(dist: BaseDistribution) -> None:
    rng = np.random.default_rng(0)
    drawn = [draw({"x": dist}, rng)["x"] for _ in range(4000)]
    assert len(set(drawn)) == 4
    # Five standard errors of a share of 1/4 in 4000 draws are 0.034.
    assert all(abs(drawn.count(value) / 4000 - 0.25) < 0.034 for value in set(drawn))


def test_a_log_domain_is_drawn_evenly_by_orders_of_magnitude() -> None:
    rng, dist = np.random.default_rng(0), FloatDistribution(1e-4, 1.0, log=True)
    exponents = [math.log10(draw({"x": dist}, rng)["x"]) for _ in range(4000)]  # type: ignore[arg-type]
    counts, _ = np.histogram(exponents, bins=4, range=(-4, 0))
    assert np.abs(counts / 4000 - 0.25).max() < 0.034


def test_the_same_generator_draws_the_same_configuration() -> None:
    space = {"lr": FloatDistribution(0, 1), "n": IntDistribution(1, 99)}
    first, again = (draw(space, np.random.default_rng(7)) for _ in range(2))
    assert first == again
    assert first != draw(space, np.random.default_rng(8))


@pytest.mark.parametrize(
    ("dist", "ordered"),
    [
        (FloatDistribution(0, 1), True),
        (IntDistribution(0, 1), True),
        (CategoricalDistribution([16, 32, 64]), True),
        (CategoricalDistribution([0.9, 0.5, 0.1]), True),
        (CategoricalDistribution([16, 64, 32]), False),
        (CategoricalDistribution(["a", "b"]), False),
        (CategoricalDistribution([False, True]), False),
        (CategoricalDistribution([1, 2, None]), False),
    ],
    ids=str,
)
def test_numbers_and_sorted_choices_of_numbers_are_ordered(
    dist: BaseDistribution, ordered: bool
) -> None:
    assert is_ordered(dist) is ordered


def test_one_and_true_and_one_point_nought_are_three_choices() -> None:
    dist = CategoricalDistribution([1, True, 1.0])
    assert [index_of(value, dist) for value in (1, True, 1.0)] == [0, 1, 2]
    assert check_hparams({"x": True}, {"x": dist})["x"] is True


def test_a_nan_choice_is_not_found() -> None:
    with pytest.raises(ValueError, match=r"nan is not one of \(1, 2\)"):
        index_of(math.nan, CategoricalDistribution([1, 2]))


# --- what is refused ------------------------------------------------------------------------------

_UNIT, _STEPPED = FloatDistribution(0.0, 1.0), FloatDistribution(0.0, 1.0, step=0.25)
_LOG, _INT, _EVEN = (
    FloatDistribution(1e-4, 1, log=True),
    IntDistribution(1, 8),
    IntDistribution(2, 8, step=2),
)
_WORDS, _SIZES = CategoricalDistribution(["a", "b"]), CategoricalDistribution([16, 32])


@pytest.mark.parametrize(
    ("value", "dist"),
    [
        (True, _INT),
        (False, _UNIT),
        ("1", _INT),
        ("0.5", _UNIT),
        ("abc", _UNIT),
        (None, _UNIT),
        ([0.5], _UNIT),
        (1.5, _INT),
        (0, _INT),
        (9, _INT),
        (3, _EVEN),
        (1.0001, _UNIT),
        (-1e-12, _UNIT),
        (0.0, _LOG),
        (0.3, _STEPPED),
        (1.25, _STEPPED),
        (math.nan, _UNIT),
        (math.nan, _STEPPED),
        (math.nan, _INT),
        (math.inf, _UNIT),
        (-math.inf, _LOG),
        (math.inf, _STEPPED),
        (math.inf, _INT),
        (10**400, _INT),
        (np.True_, _INT),
        ("c", _WORDS),
        (0, _WORDS),
        (None, _WORDS),
        (16.0, _SIZES),
        ("16", _SIZES),
        (True, CategoricalDistribution([1, 2])),
        (1, CategoricalDistribution([True, False])),
        (math.nan, _SIZES),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseDistribution) else repr(x)[:8],
)
def test_a_value_that_does_not_lie_in_its_domain_is_refused_by_name(
    value: Any, dist: BaseDistribution
) -> None:
    with pytest.raises(SpaceError, match=r"hyperparameter 'x': .* does not lie in") as refused:
        check_hparams({"x": value}, {"x": dist})
    assert repr(value) in str(refused.value)


_AROUND_NOUGHT = FloatDistribution(-0.3, 0.3, step=0.1)


@pytest.mark.parametrize(
    ("value", "dist", "checked"),
    [
        (1, _UNIT, 1.0),
        (4.0, _INT, 4),
        (np.float32(0.5), _UNIT, 0.5),
        (np.int64(3), _INT, 3),
        (0.75, _STEPPED, 0.75),
        (0.1 + 0.2, FloatDistribution(0.0, 1.0), 0.1 + 0.2),
        # So Optuna's samplers write the third step of 0.1.
        (0.1 + 0.2, FloatDistribution(0.0, 1.0, step=0.1), 0.3),
        (1 - 0.9, FloatDistribution(0.0, 1.0, step=0.1), 0.1),
        (0.0, _AROUND_NOUGHT, 0.0),
        (-0.3 + 3 * 0.1, _AROUND_NOUGHT, 0.0),
    ],
)
def test_a_number_inside_takes_the_type_of_its_domain(
    value: Any, dist: BaseDistribution, checked: Any
) -> None:
    (found,) = check_hparams({"x": value}, {"x": dist}).values()
    assert found == checked
    assert type(found) is type(checked)


@pytest.mark.filterwarnings("ignore:The distribution is specified by:UserWarning")
@pytest.mark.parametrize(
    "dist",
    [FloatDistribution(0.0, 2 / 3, step=1 / 3), FloatDistribution(1e13, 1e13 + 9, step=1.0)],
    ids=["a third", "large"],
)
def test_a_step_that_is_no_short_decimal_keeps_its_grid(dist: FloatDistribution) -> None:
    assert dist.step is not None
    value = dist.low + 2 * dist.step
    assert snap(value, dist) == value
    assert_in(snap(dist.high, dist), dist)


def test_checked_hyperparameters_come_in_the_order_of_the_space() -> None:
    space = {"b": _UNIT, "a": _INT}
    assert list(check_hparams({"a": 1, "b": 0.5}, space)) == ["b", "a"]


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"lr": 0.5, "typo": 1}, r"unknown hyperparameter 'typo'; the space has 'lr', 'n'"),
        ({"lr": 0.5}, r"hyperparameter 'n' has no value; got 'lr'"),
        ({}, r"hyperparameter 'lr' has no value; got none"),
    ],
)
def test_a_missing_or_unknown_hyperparameter_is_named(
    hparams: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpaceError, match=message):
        check_hparams(hparams, {"lr": _UNIT, "n": _INT})


class _OwnDomain(FloatDistribution):
    """Optuna cannot read a subclass back from JSON."""


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, r"a space maps at least one name to an Optuna distribution, got \{\}"),
        ([_UNIT], "a space maps at least one name to an Optuna distribution"),
        ({"": _UNIT}, "hyperparameter '': a name consists of letters"),
        ({"a/b": _UNIT}, "hyperparameter 'a/b': a name consists of letters"),
        ({" a": _UNIT}, "hyperparameter ' a': a name consists of letters"),
        ({"lr\n": _UNIT}, "a name consists of letters"),
        ({"lr?": _UNIT}, "hyperparameter 'lr\\?': a name consists of letters"),
        ({"x" * 241: _UNIT}, "a name has at most 240 characters, .* and this one has 241"),
        ({7: _UNIT}, "hyperparameter 7: a name consists of letters"),
        ({"lr": (0, 1)}, r"hyperparameter 'lr': its domain must be .* got \(0, 1\)"),
        ({"lr": FloatDistribution}, "hyperparameter 'lr': its domain must be"),
        ({"lr": _OwnDomain(0, 1)}, "hyperparameter 'lr': its domain must be"),
        ({"b": IntDistribution(1, 1), "a": FloatDistribution(2, 2)}, r"no hyperparameter of .*'a'"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(space: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        check_space(space)


def test_a_space_may_have_single_values_beside_others() -> None:
    check_space({"lr": _UNIT, "layers": IntDistribution(3, 3), "ent.cost-2 b": _LOG})


def test_names_of_no_hyperparameters_are_refused_with_whose_they_are() -> None:
    check_names(["lr"], {"lr": _UNIT}, "explore")
    with pytest.raises(SpaceError, match=r"explore: 'lt' is not a hyperparameter; known: 'lr'"):
        check_names(["lr", "lt"], {"lr": _UNIT}, "explore")


@pytest.mark.parametrize(
    "plain",
    [
        {"lr": 3},
        {"lr": {"name": "FloatDistribution"}},
        {"lr": {"name": "OwnDistribution", "attributes": {}}},
        {"lr": {"name": "FloatDistribution", "attributes": {"low": 1, "high": 0}}},
        {"lr": {"name": "IntDistribution", "attributes": {"low": 1, "high": 2, "mean": 1}}},
    ],
)
def test_a_domain_that_cannot_be_read_back_is_named(plain: dict[str, Any]) -> None:
    with pytest.raises(SpaceError, match="hyperparameter 'lr': unreadable domain"):
        space_from_json(plain)


def test_an_empty_space_is_not_read_back() -> None:
    with pytest.raises(SpaceError, match="at least one name"):
        space_from_json({})


@pytest.mark.parametrize(
    "ask",
    [
        lambda dist: snap(0.5, dist),
        lambda dist: to_unit(0.5, dist),
        lambda dist: from_unit(0.5, dist),
        lambda dist: scale(0.5, dist, 2, rng()),
        lambda dist: shift(0.5, dist, 0.1, rng()),
    ],
)
def test_what_is_no_distribution_is_a_type_error(ask: Any) -> None:
    with pytest.raises(TypeError, match=r"not a distribution of a space: \(0, 1\)"):
        ask((0, 1))


def test_an_error_of_the_space_is_one_that_a_user_can_mend() -> None:
    assert issubclass(SpaceError, PBTError)
    assert issubclass(SpaceError, ValueError)
