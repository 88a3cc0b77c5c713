"""A mean and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The mean of some values, with a 95% interval from 10,000 bootstrap samples (percentiles)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], seed: int = 0) -> Interval:
        there = np.asarray(values)
        rng = np.random.default_rng(seed)
        means = there[rng.integers(len(there), size=(10_000, len(there)))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        return cls(mean=fmean(values), low=float(low), high=float(high))

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"
