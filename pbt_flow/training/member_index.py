"""An index of the members: who lives, who is idle, who is youngest, which checkpoints are in use.

A decision must not look at every member: with a thousand of them that would take longer than the
decision itself. So the index keeps these answers, and each accepted turn changes the entry of one
member.
"""

from __future__ import annotations

import bisect
import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from pbt_flow.population.records import Checkpoint, Member

_Key = TypeVar("_Key")


@dataclass
class MemberIndex:
    """The members of a population as they stand between their turns."""

    budget: int
    """How many turns each living member does in all, or until its stage ends."""
    max_failures: int
    """Turns in a row that may fail before a member is retired."""
    longest_first: bool = False
    """Whether the idle member with the most turns goes first, and not the one with the fewest."""
    alive: int = 0
    """How many members train on: they are not retired, and have not left."""
    retired: set[int] = field(default_factory=set)
    """The members that failed too often."""
    left: set[int] = field(default_factory=set)
    """The members that have left at the end of a stage."""
    out: set[int] = field(default_factory=set)
    """The members that are retired or have left. Their scores are compared, but make no quorum."""
    _turns: Counter[int] = field(default_factory=Counter)
    """For each number of turns, how many living members have done so many."""
    _ages: Counter[int] = field(default_factory=Counter)
    """For each age, how many of the members that will decide again are compared at it."""
    _steps: Counter[int] = field(default_factory=Counter)
    """For each age, how many of the members that will decide again have weights of it."""
    _uses: Counter[tuple[int, int]] = field(default_factory=Counter)
    """For each checkpoint, how many members, turns under way and pins use it."""
    _idle: list[tuple[int, int]] = field(default_factory=list)
    """The idle members, sorted by the turns that they have done, and then by their index. With
    `longest_first` the number of turns is negative."""
    _targets: Counter[int] = field(default_factory=Counter)
    """For each age, how many turns under way end at it."""

    def add_all(self, members: Iterable[Member], left: Iterable[int] = ()) -> None:
        """Enter members that are all idle, some of which have left."""
        self.left.update(left)
        self.out.update(self.left)
        for member in members:
            self.add(member)
            self.mark_idle(member)

    def begin_stage(
        self, budget: int, members: Iterable[Member], left: Iterable[int], busy: Container[int]
    ) -> None:
        """Let some members leave, and the others have more turns to do.

        Args:
            budget: Turns that a member will have done at the end of the next stage.
            members: The members that have not left before.
            left: The members that leave now.
            busy: The members that are in the middle of a turn.
        """
        there = list(members)
        for member in there:
            self.remove(member)
        self.budget = budget
        self._idle.clear()
        self.left.update(left)
        self.out.update(self.left)
        for member in there:
            self.add(member)
            if member.index not in busy:
                self.mark_idle(member)

    def add(self, member: Member) -> None:
        """Count a member as it stands now."""
        self._count(member, 1)

    def remove(self, member: Member) -> None:
        """Take a member out of the counts, as it stood when it was added."""
        self._count(member, -1)

    def _count(self, member: Member, one: int) -> None:
        if member.index in self.left:
            return  # Nobody stands on its checkpoint any more.
        self.count_use(member.checkpoint, one)
        if member.failures >= self.max_failures:
            if one > 0:
                self.retired.add(member.index)
                self.out.add(member.index)
            else:
                self.retired.discard(member.index)
                self.out.discard(member.index)
        else:
            self.alive += one
            _add(self._turns, member.turn, one)
            if member.turn < self.budget:
                _add(self._ages, member.age, one)
                _add(self._steps, member.step, one)

    # --- who trains next ---

    def mark_idle(self, member: Member) -> None:
        """Note that a member has nothing to do."""
        goes_on = member.failures < self.max_failures and member.index not in self.left
        if goes_on and member.turn < self.budget:
            bisect.insort(self._idle, self._place(member))

    def idle(self) -> Iterator[int]:
        """The members that have nothing to do, in the order in which they may go on."""
        return (index for _, index in self._idle)

    def pop_idle(self, member: Member, target: int) -> None:
        """Note that an idle member has begun a turn that ends at the age `target`."""
        del self._idle[bisect.bisect_left(self._idle, self._place(member))]
        _add(self._targets, target, 1)

    def count_arrival(self, target: int) -> None:
        """Note that a turn that was to end at the age `target` is over."""
        _add(self._targets, target, -1)

    def _place(self, member: Member) -> tuple[int, int]:
        """Where a member stands among those that have nothing to do."""
        return -member.turn if self.longest_first else member.turn, member.index

    # --- whom a decision waits for ---

    def behind(self, age: int) -> int:
        """How many living members are younger than `age` and will train on."""
        return sum(count for younger, count in self._ages.items() if younger < age)

    def is_target(self, age: int) -> bool:
        """Whether a turn under way ends at this age."""
        return age in self._targets

    def fewest_turns(self) -> int:
        """Turns that every living member has done."""
        return min(self._turns, default=0)

    # --- what may be deleted ---

    def undecided(self) -> int:
        """The smallest age that a member may still copy; a number above all ages if nobody may.

        A member that failed is compared at the age of its effort, but it may be rescued by a record
        as young as its own weights.
        """
        return min(self._steps, default=sys.maxsize)

    def count_use(self, checkpoint: Checkpoint | None, one: int = 1) -> None:
        """Count one more use of a checkpoint, or with -1 one less."""
        if checkpoint is not None:
            _add(self._uses, (checkpoint.member, checkpoint.turn), one)

    def needs(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint is in use."""
        return (checkpoint.member, checkpoint.turn) in self._uses


def _add(counter: Counter[_Key], key: _Key, one: int) -> None:
    """Add to a count, and remove a key whose count is 0: `min` must find keys that count."""
    counter[key] += one
    if not counter[key]:
        del counter[key]
