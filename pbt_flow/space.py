"""The domains of hyperparameters: what may be drawn, how a value moves, how it is written down.

A *space* maps each hyperparameter's name to one of Optuna's distributions, and that is the only
vocabulary for domains in this project. Everything that depends on the kind of a distribution is in
this file, one function for each thing that can be done with a value.

>>> import numpy as np
>>> from optuna.distributions import FloatDistribution, IntDistribution
>>> space = {"lr": FloatDistribution(1e-5, 1e-1, log=True), "layers": IntDistribution(1, 4)}
>>> rng = np.random.default_rng(0)
>>> scale(0.01, space["lr"], 0.5, rng)
0.005
>>> scale(1, space["layers"], 1.25, rng)  # rounding alone would leave a 1 for ever
2
"""

from __future__ import annotations

import copy
import json
import math
import re
import warnings
from collections.abc import Collection, Mapping
from functools import singledispatch
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from pbt_flow.exceptions import SpaceError
from pbt_flow.utils.values import (
    Value as Value,
)
from pbt_flow.utils.values import (
    from_tuples,
    has_tuples,
    identity,
    is_container,
    plain,
    with_tuples,
)

if TYPE_CHECKING:
    import numpy as np

Space: TypeAlias = Mapping[str, BaseDistribution]
Hparams: TypeAlias = Mapping[str, Value]

# What MLflow takes as the key of a metric, less the separators that would change its grouping.
_NAME = re.compile(r"\w[\w.\- ]*")
_LONGEST = 240
"""Characters of a name: MLflow's keys have 250, of which `hparam/` and `legend/` take some."""
_MOST_STEPS = 2**53
"""Steps of a domain that a float can still tell apart."""


def check_space(space: Space) -> None:
    """Refuse a space that could not be searched.

    Raises:
        SpaceError: The space is empty, a name cannot be the name of a metric, a domain is not one
            of Optuna's three distributions, or no hyperparameter has more than one value. A choice
            cannot be written down, or a bound cannot be computed with.
    """
    plain_space(space)


def plain_space(space: Space) -> dict[str, BaseDistribution]:
    """The same space with choices in Python's own types, where they are NumPy's.

    Raises:
        SpaceError: See `check_space`.
    """
    _check_kinds(space)
    for name, dist in space.items():
        if len(name) > _LONGEST:
            raise SpaceError(
                f"hyperparameter {name[:40]!r}...: a name has at most {_LONGEST} characters, since "
                f"it becomes the name of an MLflow metric, and this one has {len(name)}"
            )
        try:
            _check_domain(dist)
        except ValueError as error:
            raise SpaceError(f"hyperparameter {name!r}: {error}") from None
    if all(dist.single() for dist in space.values()):
        raise SpaceError(f"no hyperparameter of {sorted(space)} has more than one value to search")
    return {name: _plain_domain(dist) for name, dist in space.items()}


def _check_kinds(space: Space) -> None:
    """Refuse what is no space at all, whoever wrote it."""
    if not isinstance(space, Mapping) or not space:
        raise SpaceError(f"a space maps at least one name to an Optuna distribution, got {space!r}")
    for name, dist in space.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SpaceError(
                f"hyperparameter {name!r}: a name consists of letters and digits of any script, "
                "'_', '-', '.' and spaces, since it becomes the name of an MLflow metric"
            )
        if type(dist) not in (FloatDistribution, IntDistribution, CategoricalDistribution):
            raise SpaceError(
                f"hyperparameter {name!r}: its domain must be a FloatDistribution, an "
                f"IntDistribution or a CategoricalDistribution of Optuna, got {dist!r}"
            )


@singledispatch
def _check_domain(dist: BaseDistribution) -> None:
    """Refuse a domain whose values could not be computed with, or could not be written down."""
    raise TypeError(f"not a distribution of a space: {dist!r}")


@_check_domain.register
def _(dist: FloatDistribution) -> None:
    # Half a step is added at either end of a domain.
    half = dist.step / 2 if dist.step is not None else 0.0
    if not math.isfinite((dist.high + half) - (dist.low - half)):
        raise ValueError(
            "its bounds and their difference must be finite numbers, got low="
            f"{dist.low!r}, high={dist.high!r}; give narrower bounds, or choices"
        )
    if dist.step is None:
        return
    last = max(abs(dist.low), abs(dist.high))
    if (dist.high - dist.low) / dist.step > _MOST_STEPS or dist.step < 2 * math.ulp(last):
        raise ValueError(
            f"its step {dist.step!r} is too small to tell values between {dist.low!r} and "
            f"{dist.high!r} apart; give a greater step, or none"
        )


@_check_domain.register
def _(dist: IntDistribution) -> None:
    # Samplers and MLflow know numbers as floats.
    most = max(abs(dist.low), abs(dist.high))
    if most > _MOST_STEPS and (dist.step != 1 or not all(map(_is_float, (dist.low, dist.high)))):
        raise ValueError(
            f"its bounds {dist.low} and {dist.high} are too great to be computed with exactly; "
            "they may reach 2**53, or any power of two with step 1"
        )


def _is_float(number: int) -> bool:
    """Whether a float holds an integer exactly."""
    try:
        return float(number) == number
    except OverflowError:
        return False


@_check_domain.register
def _(dist: CategoricalDistribution) -> None:
    seen: dict[Any, Any] = {}
    for choice in dist.choices:
        try:
            made = plain(choice)
        except ValueError as error:
            raise ValueError(f"the choice {_short(choice)} cannot be: {error}") from None
        other = seen.setdefault(identity(made), made)
        if with_tuples(other) != with_tuples(made):
            raise ValueError(
                f"the choices {_short(other)} and {_short(made)} are the same in JSON, which has "
                "one form for tuples and lists; leave one of them out"
            )


def _short(value: Any, most: int = 80) -> str:
    """A value in a message: choices may be long, and what is printed of an object too."""
    try:
        text = repr(value)
    except Exception:
        text = f"an object of {type(value).__qualname__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _plain_domain(dist: BaseDistribution) -> BaseDistribution:
    """The domain without NumPy's types, and with containers that nobody else can change."""
    made = copy.copy(dist)
    # Not through the constructor, which would warn of each tuple a second time.
    if isinstance(made, CategoricalDistribution):
        choices = tuple(plain(choice) for choice in made.choices)
        made.choices = choices  # type: ignore[assignment]
    elif isinstance(made, FloatDistribution | IntDistribution):
        made.log = bool(made.log)
    return made


def check_hparams(hparams: Hparams, space: Space) -> dict[str, Value]:
    """Return `hparams` in the order of `space`, each value with the type of its distribution.

    Raises:
        SpaceError: A hyperparameter is missing, unknown, or lies outside its distribution.
    """
    if unknown := sorted(set(hparams) - set(space)):
        raise SpaceError(f"unknown hyperparameter {unknown[0]!r}; the space has {sorted(space)}")
    if missing := [name for name in space if name not in hparams]:
        raise SpaceError(f"hyperparameter {missing[0]!r} has no value; got {sorted(hparams)}")
    checked: dict[str, Value] = {}
    for name, dist in space.items():
        value: Any = hparams[name]
        try:
            inside = snap(value, dist)
            fits = isinstance(dist, CategoricalDistribution) or _is_near(value, inside, dist)
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            raise SpaceError(
                f"hyperparameter {name!r}: {_short(value, 500)} does not lie in {dist}"
            )
        checked[name] = inside
    return checked


def _is_near(value: Any, inside: Any, dist: BaseDistribution) -> bool:
    """Whether a value is a number, and the one of its domain that is nearest to it."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    if isinstance(dist, FloatDistribution) and dist.step is not None:
        # A sampler of Optuna writes 3 x 0.1 as 0.30000000000000004.
        return math.isclose(inside, value, rel_tol=1e-12, abs_tol=1e-12)
    return bool(inside == value)


# --- one value ------------------------------------------------------------------------------------


@singledispatch
def _snap(dist: BaseDistribution, value: Any) -> Value:
    raise TypeError(f"not a distribution of a space: {dist!r}")


@_snap.register
def _(dist: FloatDistribution, value: Any) -> Value:
    if dist.step is not None:
        last = math.floor((dist.high - dist.low) / dist.step + 1e-9)
        nearest = min(max(round((float(value) - dist.low) / dist.step), 0), last)
        # 0.1 + 2 * 0.1 is 0.30000000000000004; where a short decimal is as near, it is meant.
        exact = dist.low + nearest * dist.step
        short = round(exact, 12)
        error = 4 * math.ulp(max(abs(dist.low), abs(dist.high)))
        near = abs(short - exact) <= error and dist.low <= short <= dist.high
        return short if near else min(exact, dist.high)
    return min(max(float(value), dist.low), dist.high)


@_snap.register
def _(dist: IntDistribution, value: Any) -> Value:
    last = (dist.high - dist.low) // dist.step
    if isinstance(value, int):
        steps, rest = divmod(value - dist.low, dist.step)
        if not rest:  # A float would not hold each great integer.
            return dist.low + min(max(steps, 0), last) * dist.step
    nearest = min(max(round((float(value) - dist.low) / dist.step), 0), last)
    return dist.low + nearest * dist.step


@_snap.register
def _(dist: CategoricalDistribution, value: Any) -> Value:
    return dist.choices[index_of(value, dist)]


def snap(value: Any, dist: BaseDistribution) -> Value:
    """The value of `dist` nearest to `value`, with the type of the distribution.

    >>> snap(0.37, FloatDistribution(0.0, 1.0, step=0.25)), snap(9, IntDistribution(1, 8))
    (0.25, 8)
    """
    return _snap(dist, value)


def index_of(value: Any, dist: CategoricalDistribution) -> int:
    """The place of `value` among the choices.

    1, 1.0 and True are different choices. A list is found at a tuple of the same values, since
    JSON has lists only, and a number of NumPy's at the same number of Python's.
    """
    wanted = identity(value)
    for index, choice in enumerate(dist.choices):
        if identity(choice) == wanted:
            return index
    raise ValueError(f"{value!r} is not one of {dist.choices}")


def _edges(dist: FloatDistribution | IntDistribution) -> tuple[float, float]:
    """The ends of a domain on its own scale, half a step out, so that each value gets one share."""
    half = dist.step / 2 if dist.step is not None else 0.0
    low, high = dist.low - half, float(_snap(dist, dist.high)) + half  # type: ignore[arg-type]
    return (math.log(low), math.log(high)) if dist.log else (low, high)


@singledispatch
def _to_unit(dist: BaseDistribution, value: Any) -> float:
    raise TypeError(f"not a distribution of a space: {dist!r}")


@_to_unit.register(FloatDistribution)
@_to_unit.register(IntDistribution)
def _(dist: FloatDistribution | IntDistribution, value: Any) -> float:
    low, high = _edges(dist)
    place = math.log(value) if dist.log else float(value)
    return 0.5 if high == low else min(max((place - low) / (high - low), 0.0), 1.0)


@_to_unit.register
def _(dist: CategoricalDistribution, value: Any) -> float:
    return (index_of(value, dist) + 0.5) / len(dist.choices)


def to_unit(value: Any, dist: BaseDistribution) -> float:
    """Where `value` lies in its domain, from 0 to 1, on the domain's own (perhaps log) scale."""
    return _to_unit(dist, value)


@singledispatch
def _from_unit(dist: BaseDistribution, unit: float) -> Value:
    raise TypeError(f"not a distribution of a space: {dist!r}")


@_from_unit.register(FloatDistribution)
@_from_unit.register(IntDistribution)
def _(dist: FloatDistribution | IntDistribution, unit: float) -> Value:
    low, high = _edges(dist)
    place = low + unit * (high - low)
    return snap(math.exp(place) if dist.log else place, dist)


@_from_unit.register
def _(dist: CategoricalDistribution, unit: float) -> Value:
    return dist.choices[min(int(unit * len(dist.choices)), len(dist.choices) - 1)]


def from_unit(unit: float, dist: BaseDistribution) -> Value:
    """The inverse of `to_unit`; a number outside [0, 1] counts as the nearer end."""
    return _from_unit(dist, min(max(float(unit), 0.0), 1.0))


def shift(
    value: Any,
    dist: BaseDistribution,
    share: float,
    rng: np.random.Generator,
    *,
    reflect: bool = False,
) -> Value:
    """Move `value` by a share of its domain, on the domain's own (perhaps log) scale.

    Each value of a stepped domain (integers, ordered choices) has a part of that scale to itself,
    and where in its part a value lies is drawn. So a move rounds up as often as it rounds down, and
    values that are moved again and again without selection stay spread as `draw` spreads them.

    Where a part is wider than the move, the value goes to its neighbour all the same. It does so
    with certainty if the neighbour's part is as wide, as it is on a linear scale. If that part is
    narrower (2 has less of a log scale than 1), the value sometimes stays: otherwise it would go
    there more often than come back.

    Args:
        value: The value to move.
        dist: Its domain, an ordered one (see `is_ordered`).
        share: How far, in widths of the domain.
        rng: Decides where a stepped value lies in its part, and whether it goes to its neighbour.
        reflect: Whether a move beyond an end of the domain turns back there; else it stops there.
    """
    if share == 0:
        return cast(Value, value)
    low, high = _part(dist, value)
    stepped = high > low
    place = (rng.uniform(low, high) if stepped else low) + share
    if reflect:
        place = 1 - abs(1 - abs(place) % 2)
    moved = from_unit(place, dist)
    if moved != value or not stepped:
        return moved
    neighbour = _neighbour(dist, value, share)
    # How much of each part is wider than the move.
    left, right = _part(dist, neighbour)
    here, there = high - low - abs(share), right - left - abs(share)
    return neighbour if here > 0 and rng.random() * here < there else moved


@singledispatch
def _part(dist: BaseDistribution, value: Any) -> tuple[float, float]:
    raise TypeError(f"not a distribution of a space: {dist!r}")


@_part.register(FloatDistribution)
@_part.register(IntDistribution)
def _(dist: FloatDistribution | IntDistribution, value: Any) -> tuple[float, float]:
    half = dist.step / 2 if dist.step is not None else 0.0
    return _to_unit(dist, value - half), _to_unit(dist, value + half)


@_part.register
def _(dist: CategoricalDistribution, value: Any) -> tuple[float, float]:
    index = index_of(value, dist)
    return index / len(dist.choices), (index + 1) / len(dist.choices)


@singledispatch
def _neighbour(dist: BaseDistribution, value: Any, direction: float) -> Value:
    raise TypeError(f"not a distribution of a space: {dist!r}")


@_neighbour.register(FloatDistribution)
@_neighbour.register(IntDistribution)
def _(dist: FloatDistribution | IntDistribution, value: Any, direction: float) -> Value:
    assert dist.step is not None
    return _snap(dist, value + math.copysign(dist.step, direction))


@_neighbour.register
def _(dist: CategoricalDistribution, value: Any, direction: float) -> Value:
    neighbour = index_of(value, dist) + (1 if direction > 0 else -1)
    return dist.choices[min(max(neighbour, 0), len(dist.choices) - 1)]


@singledispatch
def _scale(dist: BaseDistribution, value: Any, factor: float, rng: np.random.Generator) -> Value:
    raise TypeError(f"not a distribution of a space: {dist!r}")


@_scale.register(FloatDistribution)
@_scale.register(IntDistribution)
def _(
    dist: FloatDistribution | IntDistribution,
    value: Any,
    factor: float,
    rng: np.random.Generator,
) -> Value:
    if dist.step is not None:
        low, high = _edges(dist)
        return shift(value, dist, math.log(factor) / (high - low if dist.log else 1), rng)
    if dist.log:
        return _snap(dist, value * factor)
    # A product cannot leave 0, jumps from end to end of a narrow range far from 0 (a discount of
    # 0.9 to 0.999), and adds more with 1.25 than it takes away with 0.8. Logarithms are equal, and
    # rounded the way back from a bound ends at the bound, and not at 5e-17 beside it.
    place = round(_to_unit(dist, value) + math.log(factor), 12)
    return dist.high if place >= 1 else from_unit(place, dist)


@_scale.register(CategoricalDistribution)
def _(dist: CategoricalDistribution, value: Any, factor: float, rng: np.random.Generator) -> Value:
    return cast(Value, value) if factor == 1 else _neighbour(dist, value, factor - 1)


def scale(value: Any, dist: BaseDistribution, factor: float, rng: np.random.Generator) -> Value:
    """Move `value` by `factor` and stay in its domain.

    A number of a log range is multiplied. A number of another range moves by the factor's
    logarithm in widths of the range, so that a factor and its inverse lead equally far: 1.25 up by
    0.22 of the width, 0.8 down by as much. A move beyond an end of the range stops there.

    A stepped number (an integer has step 1) is moved by `shift`: by at least one step on a range
    that is not log, and now and then by none on a log range whose first integers lie further apart
    than a move. A choice moves to its neighbour: only ordered ones should be scaled (see
    `is_ordered`).
    """
    return _scale(dist, value, factor, rng)


def is_ordered(dist: BaseDistribution) -> bool:
    """Whether neighbouring values of a domain are alike: numbers, or sorted choices of numbers.

    >>> is_ordered(CategoricalDistribution([16, 32, 64])), is_ordered(CategoricalDistribution("ab"))
    (True, False)
    """
    if not isinstance(dist, CategoricalDistribution):
        return True
    choices = list(dist.choices)
    if not all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices):
        return False
    if len(set(choices)) < len(choices):
        return False  # No move would lead from 16 past the second 16 of 16, 16, 32.
    return choices in (sorted(choices), sorted(choices, reverse=True))  # type: ignore[type-var]


# --- a whole configuration ------------------------------------------------------------------------


def draw(space: Space, rng: np.random.Generator) -> dict[str, Value]:
    """One configuration drawn uniformly, each hyperparameter on its own scale."""
    return {name: from_unit(rng.random(), dist) for name, dist in space.items()}


def check_names(names: Collection[str], space: Space, what: str) -> None:
    """Refuse names that are no hyperparameters of `space`; `what` says whose names they are."""
    for name in names:
        if name not in space:
            raise SpaceError(f"{what}: {name!r} is not a hyperparameter; known: {sorted(space)}")


# --- on paper -------------------------------------------------------------------------------------


def own_hparams(hparams: Hparams) -> dict[str, Value]:
    """A copy that a task may change: a list among the values is not the one in its space."""
    return {
        name: copy.deepcopy(value) if is_container(value) else value
        for name, value in hparams.items()
    }


def fitted(hparams: Hparams, space: Space) -> Hparams:
    """Hyperparameters from JSON, with the tuples of the space where JSON has lists.

    Raises:
        SpaceError: A list or a mapping is among them that is no choice of the space.
    """
    read = dict(hparams)
    for name, value in hparams.items():
        if is_container(value):
            dist = space.get(name, CategoricalDistribution([None]))
            read |= check_hparams({name: value}, {name: dist})
    return read


_TUPLES = "tuples"
"""Beside Optuna's own form of a domain: its choices with the kind of each container."""


def space_to_json(space: Space) -> dict[str, Any]:
    """The space as plain values, in the form of Optuna's own `distribution_to_json`.

    Where choices are tuples, which JSON writes as lists, they are there a second time with the kind
    of each container.
    """
    written = {name: json.loads(distribution_to_json(dist)) for name, dist in space.items()}
    for name, dist in space.items():
        if isinstance(dist, CategoricalDistribution) and any(map(has_tuples, dist.choices)):
            written[name][_TUPLES] = [with_tuples(choice) for choice in dist.choices]
    return written


def is_same_space(written: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two spaces, in the form of `space_to_json`, have the same domains.

    The first version did not write down which choices are tuples: they may be then.
    """

    def domains(space: Mapping[str, Any], without: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {k: v for k, v in dist.items() if k != _TUPLES or k in without.get(name, {})}
            for name, dist in space.items()
        }

    # Compared as text, so that 1, 1.0 and True are three choices.
    first, second = domains(written, other), domains(other, written)
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def space_from_json(plain: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """The inverse of `space_to_json`.

    Raises:
        SpaceError: A domain is not in the form of Optuna's distributions.
    """
    space = {}
    for name, dist in plain.items():
        try:
            space[name] = _domain_from_json(dist)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SpaceError(
                f"hyperparameter {name!r}: unreadable domain {dist!r}: {error}"
            ) from None
    _check_kinds(space)
    return space


def _domain_from_json(plain: Any) -> BaseDistribution:
    with warnings.catch_warnings():
        # Optuna's storages take no list; none of them sees these choices.
        warnings.simplefilter("ignore")
        read = json_to_distribution(json.dumps(plain))
    if isinstance(read, FloatDistribution) and read.step is not None:
        # Optuna fits the bound to the steps each time, and rounds down by a whole step now and
        # then where that has been done.
        read.high = float(plain.get("attributes", plain)["high"])
    if isinstance(read, CategoricalDistribution) and _TUPLES in plain:
        choices = tuple(from_tuples(choice) for choice in plain[_TUPLES])
        if list(map(identity, choices)) != list(map(identity, read.choices)):
            raise ValueError(f"its {_TUPLES!r} are not its choices")
        read.choices = choices  # type: ignore[assignment]
    return read
