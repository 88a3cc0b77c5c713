"""What the population has done so far, indexed for the questions that a decision asks.

Turns go in one at a time, as they are committed; nothing is ever read back from a tracker in order
to decide. Each question costs the same however long the history is.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pbt_flow.exploit import Candidate
from pbt_flow.member import Direction, Member, Turn
from pbt_flow.space import Hparams


def _rank(candidate: Candidate) -> tuple[float, int]:
    return candidate.fitness, candidate.member


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What one turn's hyperparameters brought: the data from which a sampler may learn."""

    hparams: Hparams
    gain: float
    """Fitness after the turn less the fitness of the record that the turn began with."""


@dataclass
class History:
    """The committed turns of one population."""

    direction: Direction
    members: dict[int, Member] = field(default_factory=dict)
    """Every member as it stands now."""
    turns: dict[int, list[Turn]] = field(default_factory=lambda: defaultdict(list))
    """Every turn of each member, in order."""
    best_initial: Turn | None = None
    """The best that an initial configuration came to, unchanged, before PBT replaced it."""
    _at_age: dict[int, dict[int, Candidate]] = field(default_factory=lambda: defaultdict(dict))
    _ranked: dict[int, list[Candidate]] = field(default_factory=lambda: defaultdict(list))
    _ages: list[int] = field(default_factory=list)
    _gone: set[tuple[int, int]] = field(default_factory=set)

    def begin(self, members: Iterable[Member]) -> None:
        """Enter the members that have not trained yet."""
        self.members.update({member.index: member for member in members})

    def add(self, turn: Turn) -> None:
        """Commit a turn: its member moves on, and its record joins those of its age."""
        member = self.members[turn.member] = self.members[turn.member].after(turn)
        self.turns[turn.member].append(turn)
        if turn.ok:
            never_copied = member.copied_after == 0
            best = self.best_initial
            # Of equals the earliest turn, so that the order of arrival does not matter.
            rank = (self.fitness(turn), -turn.number, -turn.member)
            if never_copied and (
                best is None or rank > (self.fitness(best), -best.number, -best.member)
            ):
                self.best_initial = turn
            if turn.step not in self._at_age:
                bisect.insort(self._ages, turn.step)
            sign = 1.0 if self.direction == "maximize" else -1.0
            candidate = Candidate(
                member=turn.member,
                turn=turn.number,
                fitness=self.fitness(turn),
                sample=tuple(sign * value for value in turn.sample),
            )
            ranked, older = self._ranked[turn.step], self._at_age[turn.step].get(turn.member)
            if older is not None:
                del ranked[bisect.bisect_left(ranked, _rank(older), key=_rank)]
            bisect.insort(ranked, candidate, key=_rank)
            self._at_age[turn.step][turn.member] = candidate

    def fitness(self, turn: Turn) -> float:
        return turn.fitness(self.direction)

    def turn(self, member: int, number: int) -> Turn:
        """One committed turn."""
        return self.turns[member][number - 1]

    # --- who is in good health ---

    def living(self, max_failures: int) -> list[Member]:
        """The members that have not failed so often in a row that they are retired."""
        return [m for m in self.members.values() if m.failures < max_failures]

    def winner(self) -> Turn | None:
        """The best of what the members came to: of each the newest turn, if that went well."""
        newest = [turns[-1] for turns in self.turns.values() if turns and turns[-1].ok]
        return max(newest, key=lambda t: (self.fitness(t), -t.member), default=None)

    # --- who is comparable ---

    def at(self, age: int) -> Mapping[int, Candidate]:
        """Each member's newest score with weights of exactly this age."""
        return self._at_age.get(age, {})

    def others(self, member: int, age: int) -> Sequence[Candidate]:
        """The same of all members but one, from the worst to the best."""
        ranked, mine = self._ranked.get(age, []), self.at(age).get(member)
        if mine is None:
            return list(ranked)
        place = bisect.bisect_left(ranked, _rank(mine), key=_rank)
        return ranked[:place] + ranked[place + 1 :]

    def ages(self, *, above: int | None, up_to: int) -> Iterable[int]:
        """The ages that have records, from `up_to` downwards and greater than `above`."""
        for index in range(bisect.bisect_right(self._ages, up_to) - 1, -1, -1):
            if above is not None and self._ages[index] <= above:
                return
            yield self._ages[index]

    # --- what can be copied ---

    def forget(self, member: int, turn: int) -> None:
        """Note that the checkpoint of a turn has been deleted."""
        self._gone.add((member, turn))

    def has_checkpoint(self, turn: Turn) -> bool:
        return turn.ok and (turn.member, turn.number) not in self._gone

    def copyable(self, member: int, age: int) -> Turn | None:
        """The record of `member` to copy for someone of this age: never younger weights than there
        are, and older ones only where the checkpoints of that age are gone.
        """
        older = None
        for turn in reversed(self.turns[member]):
            if self.has_checkpoint(turn):
                if turn.step <= age:
                    return turn
                older = turn
            elif turn.ok:
                break  # checkpoints are deleted oldest first: there is nothing behind this one
        return older

    # --- what can be learnt ---

    def gains(self, *, before: int, window: int) -> list[Gain]:
        """The gains of the newest `window` turns whose number is at most `before`.

        They are ordered by turn and member, not by arrival, so that what a sampler learns does not
        depend on which worker was faster.
        """
        found: list[Gain] = []
        for number in range(before, 0, -1):
            for index in sorted(self.members, reverse=True):
                if len(self.turns[index]) < number or len(found) == window:
                    continue
                turn = self.turn(index, number)
                start = turn.plan.start
                if not turn.ok or start is None:
                    continue
                begun_with = self.turn(start.member, start.turn)
                gain = self.fitness(turn) - self.fitness(begun_with)
                found.append(Gain(hparams=turn.plan.hparams, gain=gain))
            if len(found) == window:
                break
        return found[::-1]
