"""Signs that a population is not doing what its owner thinks: pure rules on the turns of a round.

Each sign is seen at most once, at the end of a round, and says what was measured and what to try.
Nothing here changes what a population does. Each rule has a file of its own beside this one, and a
rate of false alarms and a power (docs/reliability.md).
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
    """Looks at a population round by round, and remembers what it has said."""

    history: History
    space: Space
    seen: set[str] = field(default_factory=set)
    """The names of the signs that were seen."""

    def __post_init__(self) -> None:
        self._noise = RankNoise(self.history)
        self._pinned = PinnedValues(self.history, self.space)
        self._overhead = TurnOverhead()

    def round(self, number: int, turns: Sequence[Turn]) -> list[Finding]:
        """The signs that are new after a round.

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
        # Ranks that lasted once are no chance, though one stage may end in a tie.
        race = None if self._noise.ranks_last else find_chance_race(self.history, number, turns)
        if race is not None:
            yield race

    @property
    def looks_noisy(self) -> bool:
        """Whether ranks look like chance: a reason to look at the scores, and not yet a sign."""
        return self._noise.is_suspected and "noise" not in self.seen

    def judge_noise(self, scores: Sequence[Sequence[float]]) -> Finding | None:
        """Whether members differ by chance alone: their checkpoints were evaluated again.

        Args:
            scores: For each member the scores of one checkpoint; as many for each.
        """
        return self._noise.judge(scores)
