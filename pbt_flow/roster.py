"""Who lives, who is idle, who is youngest, and what they stand on: counted turn by turn.

A decision must not look at everybody: with a thousand members that alone would take longer than the
decision. So each of these answers is kept, and a turn that is accepted changes one member in it.
"""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from pbt_flow.member import Checkpoint, Member

_Key = TypeVar("_Key")


@dataclass
class Roster:
    """The members of a population as they stand between their turns."""

    budget: int
    """Turns of each member."""
    max_failures: int
    """Turns in a row that may fail before a member is retired."""
    longest_first: bool = False
    """Whether the idle member with the most turns goes first, and not the one with the fewest."""
    alive: int = 0
    """How many members are not retired."""
    _turns: Counter[int] = field(default_factory=Counter)
    """How many living members have done so many turns."""
    _ages: Counter[int] = field(default_factory=Counter)
    """How many members that will decide again are of an age."""
    _uses: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How many members stand on a checkpoint, turns under way began with it, or pins name it."""
    _idle: list[tuple[int, int]] = field(default_factory=list)
    """Who may begin a turn, as turns done (negative, if most go first) and index: a heap."""

    def begin(self, members: Iterable[Member]) -> None:
        """Enter members that are all idle."""
        for member in members:
            self.enter(member)
            self.rest(member)

    def enter(self, member: Member) -> None:
        """Count a member as it stands now."""
        self._count(member, 1)

    def leave(self, member: Member) -> None:
        """Undo `enter`."""
        self._count(member, -1)

    def _count(self, member: Member, one: int) -> None:
        self.use(member.checkpoint, one)
        if member.failures < self.max_failures:
            self.alive += one
            _add(self._turns, member.turn, one)
            if member.turn < self.budget:
                _add(self._ages, member.age, one)

    # --- who trains next ---

    def rest(self, member: Member) -> None:
        """Note that a member has nothing to do."""
        if member.failures < self.max_failures and member.turn < self.budget:
            turns = -member.turn if self.longest_first else member.turn
            heapq.heappush(self._idle, (turns, member.index))

    def first(self) -> int | None:
        """Of the idle members the one that goes first by its turns, and of equals by its index."""
        return self._idle[0][1] if self._idle else None

    def take(self) -> None:
        """Note that the first of the idle members has begun a turn."""
        heapq.heappop(self._idle)

    def fewest_turns(self) -> int:
        """Turns that every living member has done."""
        return min(self._turns, default=0)

    # --- what may be deleted ---

    def undecided(self) -> int:
        """The smallest age of the members that will decide again, or more than any age."""
        return min(self._ages, default=sys.maxsize)

    def use(self, checkpoint: Checkpoint | None, one: int = 1) -> None:
        """Count one more use of a checkpoint, or with -1 one less."""
        if checkpoint is not None:
            _add(self._uses, (checkpoint.member, checkpoint.turn), one)

    def needs(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint is in use."""
        return (checkpoint.member, checkpoint.turn) in self._uses


def _add(counter: Counter[_Key], key: _Key, one: int) -> None:
    """Count, and forget what is counted no more: the smallest key must be one that there is."""
    counter[key] += one
    if not counter[key]:
        del counter[key]
