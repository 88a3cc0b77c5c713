"""Signs that a population is not doing what its owner thinks: pure rules on the turns of a round.

Each sign is seen at most once, at the end of a round, and says what was measured and what to try.
Nothing here changes what a population does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from optuna.distributions import BaseDistribution, CategoricalDistribution

from pbt_flow.history import History
from pbt_flow.member import Checkpoint, Turn
from pbt_flow.space import Space, to_unit

_FEW = 4
"""Of smaller populations nothing is said: two members always agree."""
_PAIRS = 30
"""So many members seen in two rounds one after the other tell rank from chance."""
_COPIES = 12
"""So many copies seen beside their donors tell a loss from chance."""
_OVERHEAD = 0.1
"""Seconds of overhead a turn that nobody minds."""
_EDGE = 0.01
"""A value within this share of its range from a bound counts as at the bound."""


@dataclass(frozen=True)
class Warned:
    """One sign, in words."""

    name: str
    """Of the tag `pbt.warning/<name>` on the population's run."""
    text: str


@dataclass
class Diagnosis:
    """Looks at a population round by round, and remembers what it has said."""

    history: History
    space: Space
    budget: int
    """Turns of each member."""
    seen: set[str] = field(default_factory=set)
    """The names of the signs that were seen."""
    _founders: dict[tuple[int, int], int] = field(default_factory=dict)
    _ranks: deque[tuple[float, float]] = field(default_factory=deque)
    """Ranks of members that copied nobody, in one round and in the next; from -1 to 1."""
    _copies: int = 0
    _worse: int = 0
    _beside: int = 0

    def round(self, number: int, turns: Sequence[Turn]) -> list[Warned]:
        """The signs that are new after a round.

        Args:
            number: The round: every living member has done so many turns.
            turns: The turns of that number.
        """
        signs = [
            *self._one_founder(number, turns),
            *self._noise(number, turns),
            *self._pinned(number, turns),
            *self._overhead(number, turns),
            *self._restores(turns),
        ]
        new = [sign for sign in signs if sign.name not in self.seen]
        self.seen.update(sign.name for sign in new)
        return new

    def _one_founder(self, number: int, turns: Sequence[Turn]) -> Iterator[Warned]:
        """All weights descend from one member's fresh model: the population has become one run."""
        founders = {self._founder(turn) for turn in turns if turn.ok}
        if len(turns) >= _FEW and len(founders) == 1 and 2 * number < self.budget:
            yield Warned(
                "one_founder",
                f"after {number} of {self.budget} turns all weights descend from member "
                f"{founders.pop()}: the population searches around one beginning; a larger "
                "interval, a smaller fraction or more members keep it apart for longer",
            )

    def _founder(self, turn: Turn) -> int:
        """The member whose fresh model the weights of a turn descend from."""
        path: list[tuple[int, int]] = []
        while (key := (turn.member, turn.number)) not in self._founders:
            path.append(key)
            start: Checkpoint | None = turn.plan.start
            if start is None:
                self._founders[key] = turn.member
                break
            turn = self.history.turn(start.member, start.turn)
        founder = self._founders[key]
        self._founders.update(dict.fromkeys(path, founder))
        return founder

    def _noise(self, number: int, turns: Sequence[Turn]) -> Iterator[Warned]:
        """A member's rank says nothing of its next rank, so that who copies whom is chance."""
        self._copies += sum(turn.plan.donor is not None for turn in turns)
        stayed = [
            (self.history.turn(turn.member, number - 1), turn)
            for turn in turns
            if number > 1 and turn.plan.donor is None and turn.ok
        ]
        stayed = [(before, after) for before, after in stayed if before.ok]
        if len(stayed) < 2:
            stayed = []  # one alone has no rank
        befores = _spread([self.history.fitness(before) for before, _ in stayed])
        afters = _spread([self.history.fitness(after) for _, after in stayed])
        self._ranks.extend(zip(befores, afters, strict=True))
        while len(self._ranks) > max(_PAIRS, 5 * len(turns)):
            self._ranks.popleft()
        if len(self._ranks) < _PAIRS or not self._copies:
            return
        together = math.fsum(a * b for a, b in self._ranks)
        spread = math.fsum(a * a for a, _ in self._ranks) * math.fsum(b * b for _, b in self._ranks)
        correlation = together / math.sqrt(spread) if spread else 1.0
        # In pure noise the correlation has this standard deviation, and lies below it 5 times of 6.
        if correlation < 1 / math.sqrt(len(self._ranks)):
            yield Warned(
                "noise",
                f"a member's rank says nothing of its rank a turn later (correlation "
                f"{correlation:.2f} over the last {len(self._ranks)} pairs of turns): members "
                "copy at the rate of pure noise; evaluate on more data, train for longer "
                "between decisions, or use exploit ttest",
            )

    def _pinned(self, number: int, turns: Sequence[Turn]) -> Iterator[Warned]:
        """Most members have moved a hyperparameter to the same bound."""
        for name, dist in self.space.items():
            if len(turns) < _FEW or isinstance(dist, CategoricalDistribution):
                continue
            for bound, edge in (("lower", 0.0), ("upper", 1.0)):
                there = [t for t in turns if abs(_place(t.plan.hparams[name], dist) - edge) < _EDGE]
                first = [self.history.turn(turn.member, 1) for turn in there]
                moved = any(
                    old.plan.hparams[name] != new.plan.hparams[name]
                    for old, new in zip(first, there, strict=True)
                )
                if moved and 2 * len(there) > len(turns):
                    yield Warned(
                        f"pinned/{name}",
                        f"{len(there)} of {len(turns)} members have {name} at its {bound} bound "
                        f"after {number} turns: the best value may lie beyond; widen its range",
                    )

    def _overhead(self, number: int, turns: Sequence[Turn]) -> Iterator[Warned]:
        """Most of a turn is not training."""
        spent = [turn.seconds for turn in turns if turn.ok and "train" in turn.seconds]
        if number < 2 or not spent:
            return
        train = median(seconds["train"] for seconds in spent)
        rest = median(sum(seconds.values()) - seconds["train"] for seconds in spent)
        if rest > max(train, _OVERHEAD):
            yield Warned(
                "overhead",
                f"a turn trains for {train:.2g} s and takes {rest:.2g} s to restore, evaluate and "
                "save: a larger interval, or a cheaper evaluate(), would use the time better",
            )

    def _restores(self, turns: Sequence[Turn]) -> Iterator[Warned]:
        """Copies do worse than their donors did from the very same weights."""
        for turn in turns:
            donor = turn.plan.donor
            if donor is None or donor.copies == "hparams" or not turn.ok:
                continue
            own = self.history.turns[donor.member]
            # The donor's next turn, if it went on from the record that was copied.
            after = own[donor.turn] if len(own) > donor.turn else None
            if after is None or not after.ok or after.plan.start != turn.plan.start:
                continue
            self._beside += 1
            self._worse += self.history.fitness(turn) < self.history.fitness(after)
        # Where a copy is as likely to do worse as to do better, this is as rare as 1 in 100.
        if self._beside >= _COPIES and self._worse >= self._beside / 2 + 1.2 * math.sqrt(
            self._beside
        ):
            yield Warned(
                "restores",
                f"{self._worse} of {self._beside} copies scored less than their donor, which went "
                "on from the same weights: state_dict() may leave something out (an optimiser's "
                "moments, a schedule's position), or explore moves too far",
            )


def _spread(values: Sequence[float]) -> Iterable[float]:
    """The ranks of some values, evenly from -1 to 1; equal values share theirs."""
    ordered = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(ordered)))}
    last = {value: place for place, value in enumerate(ordered)}
    span = max(1, len(values) - 1)
    return [(first[value] + last[value]) / span - 1 for value in values]


def _place(value: object, dist: BaseDistribution) -> float:
    """Where a value lies in its range, from 0 to 1."""
    low, high = to_unit(dist.low, dist), to_unit(dist.high, dist)  # type: ignore[attr-defined]
    return (to_unit(value, dist) - low) / (high - low) if high > low else 0.5
