"""What a finalist is worth on data that no decision has seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pbt_flow.population.records import Direction, derive_seed, report_seed
from pbt_flow.utils.means import deviation, mean


def fresh_seed(seed: int, number: int) -> int:
    """The seed of an evaluation on data that no decision has seen.

    It is the same for all members of a population, so that they are judged on the same data. No
    turn has it, and no report.

    Args:
        seed: The population's.
        number: Which of these evaluations it is, from 0.
    """
    return derive_seed(report_seed(seed), 1, number)


@dataclass(frozen=True, kw_only=True)
class FreshScore:
    """What evaluations of one checkpoint came to, on data that no decision has seen."""

    mean: float
    readings: int
    """How many evaluations it is the mean of."""
    error: float | None = None
    """The standard error of the mean; None of a single evaluation."""

    @classmethod
    def of(cls, scores: Sequence[float]) -> FreshScore:
        """The mean of some evaluations, at least one."""
        count, middle = len(scores), mean(scores)
        if count == 1 or not all(map(math.isfinite, scores)):
            return cls(mean=middle, readings=count)
        return cls(mean=middle, readings=count, error=deviation(scores) / math.sqrt(count))

    def __str__(self) -> str:
        """The mean with its standard error, and how many evaluations it is of."""
        error = "" if self.error is None else f" (standard error {self.error:.2g})"
        many = "1 evaluation" if self.readings == 1 else f"{self.readings} evaluations"
        return f"{self.mean:.4g}{error} in {many}"

    def rank(self, direction: Direction) -> tuple[int, float]:
        """What finalists are ranked by: a greater one is better.

        A finalist that was evaluated more often stayed longer, so it is better than one that left,
        whatever their means are: the mean of a few evaluations may be luck.
        """
        if not math.isfinite(self.mean):
            return self.readings, -math.inf
        return self.readings, self.mean if direction == "maximize" else -self.mean
