"""A sign: half of the members have moved a hyperparameter to one bound, and gained by it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from optuna.distributions import BaseDistribution, CategoricalDistribution

from pbt_flow.population.history import History
from pbt_flow.population.records import Turn
from pbt_flow.space import Space, to_unit
from pbt_flow.training.findings import FEW, Finding
from pbt_flow.utils.means import difference
from pbt_flow.utils.ranks import correlation, ranks_of

_GAINED = 4.0
"""By how many standard deviations of chance the members nearer a bound must have gained more.

There are so many because a population has many hyperparameters and rounds, and because a
hyperparameter that does nothing is copied along with one that does.
"""
_EDGE = 0.01
"""A value within this share of its range from a bound counts as at the bound."""


@dataclass
class _Pull:
    """How the ranks of a hyperparameter's values and of the members' gains go together."""

    total: float = 0.0
    """The sum of the correlations of all rounds, each times its degrees of freedom."""
    freedom: int = 0
    """The sum of these degrees of freedom."""


@dataclass
class PinnedValues:
    """Looks for bounds that a population would rather cross.

    A hyperparameter that does nothing comes to a bound as well, in two of three long runs: copies
    carry it along with those that do something, and explore moves it at random. What tells the two
    apart is whether the members nearer the bound have gained more in their turns so far.
    """

    history: History
    space: Space
    _pulls: dict[str, _Pull] = field(default_factory=dict)

    def find(self, number: int, turns: Sequence[Turn]) -> Iterator[Finding]:
        """A finding for each hyperparameter that is pinned after a round.

        Args:
            number: The round: every living member has done so many turns.
            turns: The turns of that number.
        """
        ok = [turn for turn in turns if turn.ok]
        gains = ranks_of([self._gain(turn) for turn in ok])
        for name, dist in self.space.items():
            if isinstance(dist, CategoricalDistribution) or dist.single():
                continue
            pull = self._pulls.setdefault(name, _Pull())
            places = [_place(turn.plan.hparams[name], dist) for turn in ok]
            if len(ok) > 1 and max(places) > min(places):
                freedom = len(ok) - 1
                pull.total += freedom * correlation(ranks_of(places), gains)
                pull.freedom += freedom
            yield from self._at_a_bound(name, dist, pull, number, turns)

    def _at_a_bound(
        self, name: str, dist: BaseDistribution, pull: _Pull, number: int, turns: Sequence[Turn]
    ) -> Iterator[Finding]:
        for bound, edge, sign in (("lower", 0.0, -1), ("upper", 1.0, 1)):
            # Before any round counts, `freedom` is 0, and any pull would look certain.
            if sign * pull.total < _GAINED * math.sqrt(pull.freedom or 1):
                continue
            there = [t for t in turns if abs(_place(t.plan.hparams[name], dist) - edge) < _EDGE]
            if len(turns) < FEW or 2 * len(there) < len(turns):
                continue
            # A value that was drawn at a bound and never moved says nothing.
            if all(self._first(turn, name) == turn.plan.hparams[name] for turn in there):
                continue
            yield Finding(
                f"pinned/{name}",
                f"{len(there)} of {len(turns)} members have {name} at its {bound} bound "
                f"after {number} turns, and those nearer to it gained more: the best value "
                "may lie beyond; widen its range",
            )

    def _first(self, turn: Turn, name: str) -> object:
        """The value with which a turn's member began."""
        return self.history.turn(turn.member, 1).plan.hparams[name]

    def _gain(self, turn: Turn) -> float:
        """What a turn added to the fitness that it began with."""
        start = turn.plan.start
        fitness = self.history.fitness(turn)
        if start is None:
            return fitness
        return difference(
            fitness, self.history.fitness(self.history.turn(start.member, start.turn))
        )


def _place(value: object, dist: BaseDistribution) -> float:
    """Where a value lies in its range, from 0 to 1."""
    low, high = to_unit(dist.low, dist), to_unit(dist.high, dist)  # type: ignore[attr-defined]
    return (to_unit(value, dist) - low) / (high - low) if high > low else 0.5
