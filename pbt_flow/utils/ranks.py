"""Ranks of values, how two rankings go together, and how far values scatter."""

from __future__ import annotations

import math
from collections.abc import Sequence


def ranks_of(values: Sequence[float]) -> list[float]:
    """The ranks of some values, evenly from -1 to 1; equal values share theirs."""
    ordered = sorted(values)
    first, last = dict[float, int](), dict[float, int]()
    for place, value in enumerate(ordered):
        first.setdefault(value, place)
        last[value] = place
    span = max(1, len(values) - 1)
    return [(first[value] + last[value]) / span - 1 for value in values]


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one of the two does not vary."""
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    away_a, away_b = [x - mean_a for x in a], [y - mean_b for y in b]
    together = math.fsum(x * y for x, y in zip(away_a, away_b, strict=True))
    spread = math.fsum(x**2 for x in away_a) * math.fsum(y**2 for y in away_b)
    return together / math.sqrt(spread) if spread else 0.0


def scatter(values: Sequence[float]) -> float:
    """The sum of squared distances from the mean; of huge values not finite, but no exception."""
    # Neither fsum() nor ** will have a sum that is too large, and a score may be nearly so.
    mean = sum(values) / len(values)
    return sum((value - mean) * (value - mean) for value in values)
