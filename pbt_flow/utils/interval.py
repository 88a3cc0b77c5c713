"""A mean and how far it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pbt_flow.utils.means import deviation, mean


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The mean of some values, with its 95% interval by Student's t distribution.

    Of five normal values it holds the true mean in 95 of 100 cases; percentiles of bootstrap
    samples, which are often shown, do in 85.
    """

    mean: float
    low: float | None
    """None for a single value, of which nothing else is known, and of values so far apart that no
    float is a bound."""
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """The mean and the interval of finite values, at least one."""
        from scipy.special import stdtrit  # scipy.stats would cost a second of imports

        middle, count = mean(values), len(values)
        if count == 1:
            return cls(mean=middle, low=None, high=None)
        reach = float(stdtrit(count - 1, 0.975)) / math.sqrt(count) * deviation(values)
        low, high = middle - reach, middle + reach
        if math.isinf(low) or math.isinf(high):
            return cls(mean=middle, low=None, high=None)
        return cls(mean=middle, low=low, high=high)

    def __str__(self) -> str:
        bounds = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.mean:.4g}{bounds}"

    @property
    def bounds(self) -> str:
        """The bounds of a difference, with their signs; empty where there are none."""
        return "" if self.low is None else f"{self.low:+.3g} to {self.high:+.3g}"
