"""Arithmetic that is right for scores of any size.

Some tasks return the greatest float as the score of what went wrong. Two such scores have a mean,
but their sum is not a float.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from statistics import stdev

_GREATEST = sys.float_info.max
_SAFE_POWER = 256
"""The square of a value below two to this power, and above the inverse of that, is a float."""


def mean(values: Iterable[float]) -> float:
    """Return the mean of some values, at least one; infinite or NaN only if one of them is."""
    numbers = list(values)
    try:
        return math.fsum(numbers) / len(numbers)
    except ValueError:  # both infinity and minus infinity are among the values
        return math.nan
    except OverflowError:
        # Divided by a power of two, which costs them no digit, the values have a sum.
        power = len(numbers).bit_length()
        shrunk = mean(math.ldexp(number, -power) for number in numbers)
        found = _times_power(shrunk, power)
    # By rounding, the mean of the greatest floats may come out greater than each of them.
    return found if math.isnan(found) else min(max(numbers), max(min(numbers), found))


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample of finite values, at least two.

    It is infinite if it is greater than any float.
    """
    power = _power_above(values)
    return _times_power(stdev(math.ldexp(value, -power) for value in values), power)


def difference(a: float, b: float) -> float:
    """Return a - b for finite numbers, cut to the greatest float where no float is so large."""
    return max(-_GREATEST, min(_GREATEST, a - b))


def in_reach(values: Sequence[float]) -> list[float]:
    """Return finite values whose squares are floats, in the same proportions.

    Values that are neither very great nor very small stay as they are. Others are all divided by
    one power of two.
    """
    power = _power_above(values)
    if -_SAFE_POWER < power < _SAFE_POWER:
        return list(values)
    return [math.ldexp(value, -power) for value in values]


def _power_above(values: Iterable[float]) -> int:
    """Return the exponent of the power of two just above all finite values; 0 if all are zero."""
    return math.frexp(max(map(abs, values), default=0.0))[1]


def _times_power(value: float, power: int) -> float:
    """Return a value times two to a power; infinite if it is greater than any float."""
    try:
        return math.ldexp(value, power)
    except OverflowError:
        return math.copysign(math.inf, value)
