"""The fresh score of a finalist: its evaluations on data that no decision has seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pbt_flow.population.records import Direction, derive_seed, report_seed
from pbt_flow.utils.means import deviation, mean


def fresh_seed(seed: int, number: int) -> int:
    """Return the seed of an evaluation on data that no decision has seen.

    It is the same for all members of a population, so that they are judged on the same data.

    Args:
        seed: The population's seed.
        number: The number of the evaluation, from 0.
    """
    # The seeds of turns and of reports follow from the population's seed itself, so theirs differ.
    return derive_seed(report_seed(seed), 1, number)


@dataclass(frozen=True, kw_only=True)
class FreshScore:
    """The mean of several evaluations of one checkpoint, on data that no decision has seen."""

    mean: float
    readings: int
    """How many evaluations the mean is of."""
    error: float | None = None
    """The standard error of the mean; None for a single evaluation or one that is not finite."""

    @classmethod
    def of(cls, scores: Sequence[float]) -> FreshScore:
        """Return the fresh score that follows from some evaluations, at least one."""
        count, average = len(scores), mean(scores)
        if count == 1 or not all(map(math.isfinite, scores)):
            return cls(mean=average, readings=count)
        return cls(mean=average, readings=count, error=deviation(scores) / math.sqrt(count))

    def __str__(self) -> str:
        """Return the mean, its standard error, and the number of evaluations, in words."""
        error = "" if self.error is None else f" (standard error {self.error:.2g})"
        count = "1 evaluation" if self.readings == 1 else f"{self.readings} evaluations"
        return f"{self.mean:.4g}{error} in {count}"

    def rank(self, direction: Direction) -> tuple[int, float]:
        """Return the key by which finalists are ranked: a greater one is better.

        The number of evaluations counts first. The better finalists are evaluated more often than
        those that drop out early, and the mean of a few evaluations may be luck.
        """
        if not math.isfinite(self.mean):
            return self.readings, -math.inf
        return self.readings, self.mean if direction == "maximize" else -self.mean
