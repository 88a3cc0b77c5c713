"""A sign: most of a turn's time is not training."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from pbt_flow.population.records import Turn
from pbt_flow.training.findings import FEW, Finding

_NEGLIGIBLE = 0.1
"""Overhead of so many seconds in a turn is never a sign."""
_ROUNDS = 5
"""The overhead is judged after so many rounds."""


@dataclass
class TurnOverhead:
    """Compares the seconds that the newest turns spent in training with those beside it."""

    _beside: deque[float] = field(default_factory=lambda: deque(maxlen=99))
    _training: deque[float] = field(default_factory=lambda: deque(maxlen=99))

    def find(self, number: int, turns: Sequence[Turn]) -> Finding | None:
        """A finding if the median turn of several rounds trains for less than half of its time.

        A single round may look bad because of a busy second, and the first one because the task
        downloads its data or compiles: the first does not count, and five others are needed.

        Args:
            number: The round: every living member has done so many turns.
            turns: The turns of that number.
        """
        if number == 1:
            return None
        for turn in turns:
            if turn.ok and "train" in turn.seconds:
                training = turn.seconds["train"]
                self._training.append(training)
                self._beside.append(sum(turn.seconds.values()) - training)
        if number <= _ROUNDS or len(self._beside) < _ROUNDS * FEW:
            return None
        beside, training = median(self._beside), median(self._training)
        if beside <= max(training, _NEGLIGIBLE):
            return None
        return Finding(
            "overhead",
            f"a turn trains for {training:.2g} s and takes {beside:.2g} s to restore, evaluate "
            "and save: a larger interval, or a cheaper evaluate(), would use the time better",
        )
