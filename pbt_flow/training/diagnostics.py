"""Signs that a population is not doing what its owner thinks: rules on the turns of a round.

A rule finds each sign at most once, at the end of a round. The finding says what was measured and
what to try. No rule changes what a population does. Each has a file of its own beside this one, and
a measured rate of false alarms and power (docs/reliability.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pbt_flow.population.history import History
from pbt_flow.population.records import Turn
from pbt_flow.space import Space
from pbt_flow.training.chance_race import find_chance_race
from pbt_flow.training.findings import Finding
from pbt_flow.training.pinned_values import PinnedValues
from pbt_flow.training.rank_noise import RankNoise
from pbt_flow.training.turn_overhead import TurnOverhead


@dataclass
class Diagnostics:
    """Looks at a population round by round, and remembers which signs it has found."""

    history: History
    space: Space
    seen: set[str] = field(default_factory=set)
    """The names of the signs that were found."""

    def __post_init__(self) -> None:
        self._noise = RankNoise(self.history)
        self._pinned = PinnedValues(self.history, self.space)
        self._overhead = TurnOverhead()

    def round(self, number: int, turns: Sequence[Turn]) -> list[Finding]:
        """The signs that this round shows for the first time.

        Args:
            number: The round: every living member has done so many turns.
            turns: The turns of that number.
        """
        self._noise.add_round(number, turns)
        new = [sign for sign in self._find(number, turns) if sign.name not in self.seen]
        self.seen.update(sign.name for sign in new)
        return new

    def _find(self, number: int, turns: Sequence[Turn]) -> Iterator[Finding]:
        yield from self._pinned.find(number, turns)
        overhead = self._overhead.find(number, turns)
        if overhead is not None:
            yield overhead
        # Ranks that once lasted are not chance, even if a later stage ends in a tie.
        race = None if self._noise.ranks_last else find_chance_race(self.history, number, turns)
        if race is not None:
            yield race

    @property
    def looks_noisy(self) -> bool:
        """Whether ranks look like chance: a reason to evaluate again, and not yet a sign."""
        return self._noise.is_suspected and "noise" not in self.seen

    def judge_noise(self, scores: Sequence[Sequence[float]]) -> Finding | None:
        """A finding if members differ by chance alone.

        Args:
            scores: For each member the scores of one checkpoint that was evaluated again and again,
                equally often for each.
        """
        return self._noise.judge(scores)
