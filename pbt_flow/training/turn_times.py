"""How long turns take, and which of those under way have taken longer than a turn may."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from pbt_flow.population.records import Turn

_HUNG, _SURELY, _KNOWN = 20.0, 300.0, 5
"""A turn is hung after so many times the median of those before it, and so many seconds at least;
of fewer turns than the last number nothing is concluded. The first turns may download data."""


@dataclass
class TurnTimes:
    """The seconds of the newest turns, and when those under way began."""

    given: float | None
    """Seconds after which a turn is hung, as the settings say; infinite for never; None to conclude
    it from the turns before."""
    patience: float
    """Seconds that the turns' files may be away for, which does not make a turn hung."""
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=99))
    """Seconds of the newest turns."""
    begun: dict[int, float] = field(default_factory=dict)
    """When the turn under way of a member began, by the clock. One that is run again goes on being
    as late as it was: a generation that waits for it has waited all that time."""

    def count(self, turns: Iterable[Turn]) -> None:
        """Count turns that went well."""
        self.durations.extend(turn.took for turn in turns)

    @property
    def median(self) -> float:
        """The seconds of a turn; 0 while none is known."""
        return median(self.durations) if self.durations else 0.0

    @property
    def limit(self) -> float | None:
        """The seconds after which a turn is hung; None while there is no limit."""
        limit = self.given
        if limit is None and len(self.durations) >= _KNOWN:
            limit = max(_SURELY, _HUNG * self.median) + self.patience
        return None if limit == math.inf else limit

    def is_late(self, member: int, now: float) -> bool:
        """Whether the turn under way of a member has taken longer than a turn may."""
        limit = self.limit
        return limit is not None and now - self.begun[member] > limit
