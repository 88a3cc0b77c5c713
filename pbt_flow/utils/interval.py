"""A mean with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pbt_flow.utils.means import deviation, mean


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The mean of some values, with its 95% confidence interval by Student's t distribution.

    For five values of a normal distribution, the interval contains the true mean in 95 of 100
    cases. The often used percentiles of bootstrap samples contain it in 85.
    """

    mean: float
    low: float | None
    """The lower bound.

    It is None for a single value, which has no interval, and for values so far apart that a bound
    would be greater than any float."""
    high: float | None
    """The upper bound; None where `low` is."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Return the mean and the interval of finite values, at least one."""
        # Importing scipy.stats would take a second.
        from scipy.special import stdtrit

        average, count = mean(values), len(values)
        if count == 1:
            return cls(mean=average, low=None, high=None)
        half_width = float(stdtrit(count - 1, 0.975)) / math.sqrt(count) * deviation(values)
        low, high = average - half_width, average + half_width
        if math.isinf(low) or math.isinf(high):
            return cls(mean=average, low=None, high=None)
        return cls(mean=average, low=low, high=high)

    def __str__(self) -> str:
        bounds = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.mean:.4g}{bounds}"

    @property
    def bounds(self) -> str:
        """The bounds of a difference, with their signs; empty if there are none."""
        return "" if self.low is None else f"{self.low:+.3g} to {self.high:+.3g}"
