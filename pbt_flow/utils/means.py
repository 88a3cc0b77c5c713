"""Arithmetic that is right for any scores: one may be as large as a float can be.

Some give the greatest float as the score of what went wrong. Two of them have a mean, and no sum.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from statistics import stdev

_GREATEST = sys.float_info.max
_USUAL = 256
"""Of values below two to this power, and above its inverse, the squares are floats."""


def mean(values: Iterable[float]) -> float:
    """The mean of some values, at least one; infinite or NaN only if one of them is."""
    those = list(values)
    try:
        return math.fsum(those) / len(those)
    except ValueError:  # plus and minus infinity are among them
        return math.nan
    except OverflowError:
        # Divided by a power of two, which costs them no digit, they have a sum.
        power = len(those).bit_length()
        shrunk = mean(math.ldexp(value, -power) for value in those)
        found = _times_power(shrunk, power)
    # Rounding may take the mean of the greatest floats beyond them.
    return found if math.isnan(found) else min(max(those), max(min(those), found))


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample of finite values, at least two; infinite if no float is
    so large.
    """
    power = _power_above(values)
    return _times_power(stdev(math.ldexp(value, -power) for value in values), power)


def difference(a: float, b: float) -> float:
    """How far a lies above b, both finite; the greatest float where none is so large."""
    return max(-_GREATEST, min(_GREATEST, a - b))


def in_reach(values: Sequence[float]) -> list[float]:
    """Finite values in the same proportions, such as can be squared; usual ones as they are."""
    power = _power_above(values)
    if -_USUAL < power < _USUAL:
        return list(values)
    return [math.ldexp(value, -power) for value in values]


def _power_above(values: Iterable[float]) -> int:
    """The power of two just above the greatest of some finite values; 0 if all are zero."""
    return math.frexp(max(map(abs, values), default=0.0))[1]


def _times_power(value: float, power: int) -> float:
    """A value times a power of two; infinite if no float is so large."""
    try:
        return math.ldexp(value, power)
    except OverflowError:
        return math.copysign(math.inf, value)
