"""The domains of hyperparameters: their values, how a value is drawn and moved, and their JSON.

A *space* maps the name of each hyperparameter to one of Optuna's distributions, which is its
domain. Everything that depends on the kind of a distribution is in this file, with one function for
each operation on a value.

Each domain has a scale of its own from 0 to 1, linear or logarithmic. Values are drawn uniformly on
this scale, and a move is a distance on it. A stepped domain (integers, ordered choices) gives each
of its values a *part* of the scale.

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
from pbt_flow.utils.text import did_you_mean, listed, shortened
from pbt_flow.utils.values import Value as Value
from pbt_flow.utils.values import (
    from_tuples,
    has_tuples,
    identity,
    is_container,
    is_same_in_json,
    plain,
    with_tuples,
)

if TYPE_CHECKING:
    import numpy as np

Space: TypeAlias = Mapping[str, BaseDistribution]
Hparams: TypeAlias = Mapping[str, Value]

# MLflow also takes slashes and colons in the name of a metric, but they would change its grouping.
_VALID_NAME = re.compile(r"\w[\w.\- ]*")
_MAX_NAME_LENGTH = 240
"""The most characters of a name. MLflow's keys have 250, and `hparam/` or `legend/` precede it."""
_MAX_STEPS = 2**53
"""The most steps of a domain. Beyond them, floats cannot tell neighbouring steps apart."""


def check_space(space: Space) -> None:
    """Refuse a space that cannot be searched.

    Raises:
        SpaceError: The space is empty, a name cannot be the name of a metric, a domain is not one
            of Optuna's three distributions, or no hyperparameter has more than one value. Or JSON
            cannot hold a choice, or the bounds of a domain are too far apart for floats.
    """
    plain_space(space)


def plain_space(space: Space) -> dict[str, BaseDistribution]:
    """Return the space with choices in Python's own types instead of NumPy's.

    Raises:
        SpaceError: See `check_space`.
    """
    _check_kinds(space)
    for name, dist in space.items():
        if len(name) > _MAX_NAME_LENGTH:
            raise SpaceError(
                f"hyperparameter {name[:40]!r}...: a name has at most {_MAX_NAME_LENGTH} "
                "characters, since it becomes the name of an MLflow metric, and this one has "
                f"{len(name)}"
            )
        try:
            _check_domain(dist)
        except ValueError as error:
            raise SpaceError(f"hyperparameter {name!r}: {error}") from None
    if all(dist.single() for dist in space.values()):
        raise SpaceError(
            f"no hyperparameter of {listed(sorted(space))} has more than one value to search"
        )
    return {name: _plain_domain(dist) for name, dist in space.items()}


def _check_kinds(space: Space) -> None:
    """Refuse a wrong kind of name or domain, also in a space that was read from a store."""
    if not isinstance(space, Mapping) or not space:
        raise SpaceError(f"a space maps at least one name to an Optuna distribution, got {space!r}")
    for name, dist in space.items():
        if not isinstance(name, str) or not _VALID_NAME.fullmatch(name):
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
    """Refuse a domain whose values are too great or too close for floats, or not for JSON."""
    raise TypeError(f"not a distribution of a space: {dist!r}")


@_check_domain.register
def _(dist: FloatDistribution) -> None:
    # The scale of a stepped domain reaches half a step beyond its bounds (see `_edges`).
    half = (dist.step or 0.0) / 2
    if not math.isfinite((dist.high + half) - (dist.low - half)):
        raise ValueError(
            "its bounds and their difference must be finite numbers, got low="
            f"{dist.low!r}, high={dist.high!r}; give narrower bounds, or choices"
        )
    if dist.step is None:
        return
    greatest = max(abs(dist.low), abs(dist.high))
    if (dist.high - dist.low) / dist.step > _MAX_STEPS or dist.step < 2 * math.ulp(greatest):
        raise ValueError(
            f"its step {dist.step!r} is too small to tell values between {dist.low!r} and "
            f"{dist.high!r} apart; give a greater step, or none"
        )


@_check_domain.register
def _(dist: IntDistribution) -> None:
    # Samplers and MLflow take integers as floats, which hold every integer only up to 2**53.
    greatest = max(abs(dist.low), abs(dist.high))
    is_exact = _fits_float(dist.low) and _fits_float(dist.high)
    if greatest > _MAX_STEPS and (dist.step != 1 or not is_exact):
        raise ValueError(
            f"its bounds {dist.low} and {dist.high} are too great to be computed with exactly; "
            "they may reach 2**53, or any power of two with step 1"
        )


def _fits_float(number: int) -> bool:
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
            plain_choice = plain(choice)
        except ValueError as error:
            raise ValueError(f"the choice {shortened(choice, 80)} cannot be: {error}") from None
        other = seen.setdefault(identity(plain_choice), plain_choice)
        if with_tuples(other) != with_tuples(plain_choice):
            raise ValueError(
                f"the choices {shortened(other, 80)} and {shortened(plain_choice, 80)} are the "
                "same in JSON, which has one form for tuples and lists; leave one of them out"
            )


def _plain_domain(dist: BaseDistribution) -> BaseDistribution:
    """Return the domain without NumPy's types, and with choices that nobody else can change."""
    # A copy, since Optuna's constructor would warn of each tuple a second time.
    copied = copy.copy(dist)
    if isinstance(copied, CategoricalDistribution):
        choices = tuple(plain(choice) for choice in copied.choices)
        copied.choices = choices  # type: ignore[assignment]
    elif isinstance(copied, FloatDistribution | IntDistribution):
        copied.log = bool(copied.log)
    return copied


def check_hparams(hparams: Hparams, space: Space) -> dict[str, Value]:
    """Return `hparams` in the order of `space`, each value with the type of its distribution.

    Raises:
        SpaceError: A hyperparameter is missing, unknown, or lies outside its distribution.
    """
    if unknown := sorted(set(hparams) - set(space)):
        meant = did_you_mean(unknown[0], space)
        raise SpaceError(
            f"unknown hyperparameter {unknown[0]!r}{meant}; the space has {listed(sorted(space))}"
        )
    if missing := [name for name in space if name not in hparams]:
        raise SpaceError(
            f"hyperparameter {missing[0]!r} has no value; got {listed(sorted(hparams))}"
        )
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
                f"hyperparameter {name!r}: {shortened(value, 500)} does not lie in {dist}"
            )
        checked[name] = inside
    return checked


def _is_near(value: Any, inside: Any, dist: BaseDistribution) -> bool:
    """Whether a value is a number that lies in its domain; `inside` is the nearest that does."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    if isinstance(dist, FloatDistribution) and dist.step is not None:
        # A sampler of Optuna proposes 3 * 0.1, which is 0.30000000000000004, for 0.3.
        return math.isclose(inside, value, rel_tol=1e-12, abs_tol=1e-12)
    return bool(inside == value)


# --- one value ------------------------------------------------------------------------------------


def snap(value: Any, dist: BaseDistribution) -> Value:
    """Return the value of `dist` that is nearest to `value`, with the type of the distribution.

    >>> snap(0.37, FloatDistribution(0.0, 1.0, step=0.25)), snap(9, IntDistribution(1, 8))
    (0.25, 8)
    """
    if isinstance(dist, CategoricalDistribution):
        return dist.choices[index_of(value, dist)]
    numbers = _of_numbers(dist)
    if isinstance(numbers, IntDistribution):
        return _nearest_integer(value, numbers)
    return _nearest_float(value, numbers)


def _of_numbers(dist: BaseDistribution) -> FloatDistribution | IntDistribution:
    """Return a domain that has no choices, and so has numbers."""
    if isinstance(dist, FloatDistribution | IntDistribution):
        return dist
    raise TypeError(f"not a distribution of a space: {dist!r}")


def _nearest_float(value: Any, dist: FloatDistribution) -> float:
    if dist.step is None:
        return min(max(float(value), dist.low), dist.high)
    # 1e-9: the quotient of a range that is a whole number of steps may lie just below that number.
    last_step = math.floor((dist.high - dist.low) / dist.step + 1e-9)
    nearest_step = min(max(round((float(value) - dist.low) / dist.step), 0), last_step)
    exact = dist.low + nearest_step * dist.step
    # 0.1 + 2 * 0.1 is 0.30000000000000004. If a short decimal is that near, the user means it.
    short = round(exact, 12)
    rounding_error = 4 * math.ulp(max(abs(dist.low), abs(dist.high)))
    is_near = abs(short - exact) <= rounding_error and dist.low <= short <= dist.high
    return short if is_near else min(exact, dist.high)


def _nearest_integer(value: Any, dist: IntDistribution) -> int:
    last_step = (dist.high - dist.low) // dist.step
    if isinstance(value, int):
        # An integer stays an integer here, since a float does not hold every great one.
        steps, rest = divmod(value - dist.low, dist.step)
        if not rest:
            return dist.low + min(max(steps, 0), last_step) * dist.step
    nearest_step = min(max(round((float(value) - dist.low) / dist.step), 0), last_step)
    return dist.low + nearest_step * dist.step


def index_of(value: Any, dist: CategoricalDistribution) -> int:
    """Return the index of `value` among the choices.

    1, 1.0 and True are different choices. A list counts as the tuple with the same values, since
    JSON has only lists, and a NumPy number as the Python number of the same value.

    Raises:
        ValueError: The value is not among the choices.
    """
    wanted = identity(value)
    for index, choice in enumerate(dist.choices):
        if identity(choice) == wanted:
            return index
    raise ValueError(f"{value!r} is not one of {dist.choices}")


def _edges(dist: FloatDistribution | IntDistribution) -> tuple[float, float]:
    """Return the ends of a domain's scale, as numbers or, for a log domain, their logarithms."""
    # Half a step beyond the bounds, so that the first and last value get a whole part, too.
    half = (dist.step or 0.0) / 2
    low, high = dist.low - half, float(snap(dist.high, dist)) + half  # type: ignore[arg-type]
    return (math.log(low), math.log(high)) if dist.log else (low, high)


def to_unit(value: Any, dist: BaseDistribution) -> float:
    """Return the place of `value` on its domain's own (perhaps log) scale, from 0 to 1."""
    if isinstance(dist, CategoricalDistribution):
        return (index_of(value, dist) + 0.5) / len(dist.choices)
    numbers = _of_numbers(dist)
    low, high = _edges(numbers)
    if high == low:
        return 0.5
    place = math.log(value) if numbers.log else float(value)
    return min(max((place - low) / (high - low), 0.0), 1.0)


def from_unit(unit: float, dist: BaseDistribution) -> Value:
    """Return the value at a place of its domain's scale; a place outside [0, 1] is its nearer end.

    It is the inverse of `to_unit`.
    """
    unit = min(max(float(unit), 0.0), 1.0)
    if isinstance(dist, CategoricalDistribution):
        return dist.choices[min(int(unit * len(dist.choices)), len(dist.choices) - 1)]
    numbers = _of_numbers(dist)
    low, high = _edges(numbers)
    place = low + unit * (high - low)
    return snap(math.exp(place) if numbers.log else place, dist)


def shift(
    value: Any,
    dist: BaseDistribution,
    share: float,
    rng: np.random.Generator,
    *,
    reflect: bool = False,
) -> Value:
    """Move `value` by a share of its domain, on the domain's own (perhaps log) scale.

    Each value of a stepped domain (integers, ordered choices) has a part of the scale, and the
    place of a value in its part is drawn. A move therefore rounds up as often as it rounds down,
    and values that are moved again and again without selection stay spread as `draw` spreads them.

    If a part is wider than the move, the value could stay where it is for ever. It then goes to its
    neighbour. If the neighbour's part is as wide, as on a linear scale, it always does. If that
    part is narrower (2 has less of a log scale than 1), the value sometimes stays; otherwise it
    would go there more often than it comes back.

    Args:
        value: The value to move.
        dist: The value's domain, an ordered one (see `is_ordered`).
        share: How far to move, in widths of the domain.
        rng: Draws the place of a stepped value, and whether it goes to its neighbour.
        reflect: Whether a move beyond an end of the domain turns back at the end. Otherwise it
            stops there.
    """
    if share == 0:
        return cast(Value, value)
    low, high = _part(dist, value)
    is_stepped = high > low
    place = (rng.uniform(low, high) if is_stepped else low) + share
    if reflect:
        # A triangle wave: 1.2 becomes 0.8, and -0.2 becomes 0.2.
        place = 1 - abs(1 - abs(place) % 2)
    moved = from_unit(place, dist)
    if moved != value or not is_stepped:
        return moved
    neighbour = _neighbour(dist, value, share)
    # The place is in the rest of the part that is wider than the move. The value leaves it in
    # proportion to the two rests, so that as many values go to the neighbour as come back.
    neighbour_low, neighbour_high = _part(dist, neighbour)
    rest = high - low - abs(share)
    neighbour_rest = neighbour_high - neighbour_low - abs(share)
    goes = rest > 0 and rng.random() * rest < neighbour_rest
    return neighbour if goes else moved


def _part(dist: BaseDistribution, value: Any) -> tuple[float, float]:
    """Return the part of its domain's scale that belongs to a value: one point without steps."""
    if isinstance(dist, CategoricalDistribution):
        index = index_of(value, dist)
        return index / len(dist.choices), (index + 1) / len(dist.choices)
    half = (_of_numbers(dist).step or 0.0) / 2
    return to_unit(value - half, dist), to_unit(value + half, dist)


def _neighbour(dist: BaseDistribution, value: Any, direction: float) -> Value:
    """Return the next value of a stepped domain, upwards if `direction` is positive."""
    if isinstance(dist, CategoricalDistribution):
        neighbour = index_of(value, dist) + (1 if direction > 0 else -1)
        return dist.choices[min(max(neighbour, 0), len(dist.choices) - 1)]
    step = _of_numbers(dist).step
    assert step is not None
    return snap(value + math.copysign(step, direction), dist)


def scale(value: Any, dist: BaseDistribution, factor: float, rng: np.random.Generator) -> Value:
    """Move `value` by `factor`, within its domain.

    On a log range the value is multiplied. On another range it moves by the factor's logarithm,
    measured in widths of the range, so that a factor and its inverse lead equally far: 1.25 moves
    it up by 0.22 of the width, and 0.8 down by as much. A move beyond an end of the range stops
    there.

    A stepped number (an integer has step 1) is moved by `shift`. On a range that is not log, it
    moves by at least one step. On a log range it may stay where its part is wider than the move. A
    choice moves to its neighbour, so only ordered choices should be scaled (see `is_ordered`).
    """
    if isinstance(dist, CategoricalDistribution):
        return cast(Value, value) if factor == 1 else _neighbour(dist, value, factor - 1)
    numbers = _of_numbers(dist)
    if numbers.step is not None:
        share = math.log(factor)
        if numbers.log:
            # On a log scale the logarithm of the factor is the distance itself.
            low, high = _edges(numbers)
            # Very great integers that lie close together have one logarithm.
            share /= (high - low) or 1.0
        return shift(value, dist, share, rng)
    if numbers.log:
        return snap(value * factor, dist)
    # Multiplying would be wrong on a linear range. It cannot leave 0. It jumps from end to end of a
    # narrow range far from 0 (a discount of 0.9 to 0.999). And 1.25 adds more than 0.8 takes away,
    # while their logarithms are equal.
    place = to_unit(value, dist) + math.log(factor)
    # Without rounding, a move away from a bound and back would end 5e-17 beside the bound.
    place = round(place, 12)
    return numbers.high if place >= 1 else from_unit(place, dist)


def is_ordered(dist: BaseDistribution) -> bool:
    """Whether neighbouring values of a domain are alike: numbers, or sorted choices of numbers.

    >>> is_ordered(CategoricalDistribution([16, 32, 64])), is_ordered(CategoricalDistribution("ab"))
    (True, False)
    """
    if not isinstance(dist, CategoricalDistribution):
        return True
    choices = list(dist.choices)
    if any(isinstance(choice, bool) or not isinstance(choice, int | float) for choice in choices):
        return False
    if len(set(choices)) < len(choices):
        # A value is found at its first place, so no move would lead from 16 to 32 in 16, 16, 32.
        return False
    return choices in (sorted(choices), sorted(choices, reverse=True))  # type: ignore[type-var]


# --- a whole configuration ------------------------------------------------------------------------


def draw(space: Space, rng: np.random.Generator) -> dict[str, Value]:
    """Return one configuration, drawn uniformly on each hyperparameter's own scale."""
    return {name: from_unit(rng.random(), dist) for name, dist in space.items()}


def check_names(names: Collection[str], space: Space, what: str) -> None:
    """Refuse names that are no hyperparameters of `space`; `what` says whose names they are."""
    for name in names:
        if name not in space:
            raise SpaceError(
                f"{what}: {name!r} is not a hyperparameter; known: {listed(sorted(space))}"
            )


def own_hparams(hparams: Hparams) -> dict[str, Value]:
    """Return a copy that a task may change, since a choice may be a list of the space itself."""
    return {
        name: copy.deepcopy(value) if is_container(value) else value
        for name, value in hparams.items()
    }


# --- JSON -----------------------------------------------------------------------------------------


def fitted(hparams: Hparams, space: Space) -> Hparams:
    """Return hyperparameters from JSON with the tuples of the space where JSON has lists.

    Raises:
        SpaceError: A value is a list or a mapping that is not a choice of the space.
    """
    found = dict(hparams)
    for name, value in hparams.items():
        if is_container(value):
            if name not in space:
                meant = did_you_mean(name, space)
                raise SpaceError(
                    f"unknown hyperparameter {name!r}{meant}; the space has {listed(sorted(space))}"
                )
            found |= check_hparams({name: value}, {name: space[name]})
    return found


_TUPLES = "tuples"
"""The key, beside those of Optuna's form, under which choices have the kind of each container."""


def space_to_json(space: Space) -> dict[str, Any]:
    """Return the space as plain values, in the form of Optuna's `distribution_to_json`.

    JSON writes tuples as lists. If some choices have tuples, all choices of the domain are written
    a second time, with the kind of each container.
    """
    written = {name: json.loads(distribution_to_json(dist)) for name, dist in space.items()}
    for name, dist in space.items():
        if isinstance(dist, CategoricalDistribution) and any(map(has_tuples, dist.choices)):
            written[name][_TUPLES] = [with_tuples(choice) for choice in dist.choices]
    return written


def is_same_space(written: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two spaces, in the form of `space_to_json`, have the same domains.

    The first version did not write which choices are tuples. If one of the spaces does not say so
    for a domain, tuples and lists count as the same there.
    """

    def comparable(space: Mapping[str, Any], another: Mapping[str, Any]) -> dict[str, Any]:
        domains: dict[str, Any] = {}
        for name, dist in space.items():
            domains[name] = dict(dist)
            if _TUPLES not in another.get(name, {}):
                domains[name].pop(_TUPLES, None)
        return domains

    return is_same_in_json(comparable(written, other), comparable(other, written))


def space_from_json(plain: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Return the space that `space_to_json` wrote.

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
        # Optuna warns that its storages do not take lists. None of them will see these choices.
        warnings.simplefilter("ignore")
        read = json_to_distribution(json.dumps(plain))
    if isinstance(read, FloatDistribution) and read.step is not None:
        # Optuna rounds the upper bound down to a whole step. The bound in JSON was rounded before,
        # and rounding it once more may lose a step.
        read.high = float(plain.get("attributes", plain)["high"])
    if isinstance(read, CategoricalDistribution) and _TUPLES in plain:
        choices = tuple(from_tuples(choice) for choice in plain[_TUPLES])
        if list(map(identity, choices)) != list(map(identity, read.choices)):
            raise ValueError(f"its {_TUPLES!r} are not its choices")
        read.choices = choices  # type: ignore[assignment]
    return read
