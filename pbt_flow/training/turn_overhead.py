"""Most of a turn is not training."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from pbt_flow.population.records import Turn
from pbt_flow.training.findings import FEW, Finding

_NEGLIGIBLE = 0.1
"""Seconds of overhead a turn that nobody minds."""
_ROUNDS = 5
"""Rounds after which overhead is judged."""


@dataclass
class TurnOverhead:
    """The seconds of the newest turns, in training and beside it."""

    _beside: deque[float] = field(default_factory=lambda: deque(maxlen=99))
    _training: deque[float] = field(default_factory=lambda: deque(maxlen=99))

    def find(self, number: int, turns: Sequence[Turn]) -> Finding | None:
        """A finding where the median turn of several rounds trains for less than half of its time.

        One slow disk or one busy second makes a round look bad, and so does a first turn, which may
        download data or compile.

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
