"""The rounds of a population: the turns of one number, once every living member has done it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pbt_flow.population.history import History
from pbt_flow.population.records import Turn
from pbt_flow.utils.means import mean

if TYPE_CHECKING:
    from pbt_flow.training.member_index import MemberIndex


@dataclass(frozen=True, kw_only=True)
class Round:
    """The turns of one number of all members."""

    number: int
    turns: Sequence[Turn]
    metrics: Mapping[str, float]
    """The population's own metrics of it; empty if no turn went well."""
    step: int
    """The steps that each member has trained by then."""
    ended: float
    """When its last turn ended, by the clock."""


@dataclass
class Rounds:
    """How far the rounds of one population are."""

    history: History
    member_index: MemberIndex
    done: int = 0
    """Turns that every living member has done, as far as anybody was told."""

    def complete(self) -> Iterator[Round]:
        """Yield the rounds that have become complete since the last call."""
        while self.member_index.alive and self.member_index.fewest_turns() > self.done:
            self.done += 1
            yield self._round(self.done)

    def _round(self, number: int) -> Round:
        # A member that has been retired since took part in the rounds before: what is logged of a
        # round must be the same whenever it is logged, after a resume as well.
        turns = [own[number - 1] for own in self.history.turns.values() if len(own) >= number]
        scores = [turn.score for turn in turns if turn.score is not None]
        metrics: dict[str, float] = {}
        if scores:
            best = max(scores) if self.history.direction == "maximize" else min(scores)
            copies = sum(turn.plan.donor is not None for turn in turns)
            metrics = {"best_score": best, "mean_score": mean(scores), "copies": copies}
        return Round(
            number=number,
            turns=turns,
            metrics=metrics,
            step=turns[0].plan.trained,
            ended=max(turn.ended for turn in turns),
        )
