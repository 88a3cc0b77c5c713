"""The checkpoints that exist, what holds on to them, and which have become superfluous.

`retention.removable` is the rule. Here stands what it is asked about: not every checkpoint after
every turn, but those of the members that the turn touched.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pbt_flow.population.history import History
from pbt_flow.population.lineage import own_records
from pbt_flow.population.records import Checkpoint, Turn
from pbt_flow.settings import Settings
from pbt_flow.training.member_index import MemberIndex
from pbt_flow.training.retention import removable


@dataclass
class KeptCheckpoints:
    """The checkpoints of one population."""

    history: History
    settings: Settings
    member_index: MemberIndex
    compares: bool
    """Whether members are compared; in a replay nobody is the best of anything."""
    held: dict[int, list[Turn]] = field(default_factory=lambda: defaultdict(list))
    """Of each member the turns whose checkpoints exist, oldest first."""
    touched: set[int] = field(default_factory=set)
    """Members of whose checkpoints one may have become superfluous."""
    pinned: list[Checkpoint] = field(default_factory=list)
    """What the end looks at, whoever stands on it."""

    def __post_init__(self) -> None:
        self.pin()
        self._undecided = self.member_index.undecided()

    def touch(self, checkpoints: Iterable[Checkpoint | None]) -> None:
        """Note that some checkpoints may have become superfluous."""
        self.touched.update(one.member for one in checkpoints if one is not None)

    def pin(self) -> None:
        """Hold on to what the end looks at: the best initial setting, and the best records ever."""
        wanted = list[Turn]()
        if self.compares:
            if self.history.best_initial is not None:
                wanted.append(self.history.best_initial)
            if self.settings.finalists != "none":
                wanted += self.history.best_ever
            if self.settings.finalists == "own":
                wanted += self._earlier_records()
        pinned = [turn.checkpoint for turn in wanted if turn.checkpoint is not None]
        if pinned == self.pinned:
            return
        for checkpoint in self.pinned:
            self.member_index.count_use(checkpoint, -1)
        for checkpoint in pinned:
            self.member_index.count_use(checkpoint)
        self.pinned = pinned

    def _earlier_records(self) -> list[Turn]:
        """The records before those that may be finalists, as far back as a running average goes."""
        found = dict[tuple[int, int], Turn]()
        for turn in self.history.finalists(with_best_ever=True):
            for own in own_records(self.history, turn)[1:]:
                found[own.member, own.number] = own
        return list(found.values())

    @property
    def keep(self) -> int:
        """How many checkpoints of a member are kept for stragglers at most.

        A generation has none, only members that are younger since a rescue. What those can copy
        must not depend on which of the others has finished its turn first.
        """
        return sys.maxsize if self.settings.mode == "generational" else self.settings.keep

    def forget_touched(self) -> list[Turn]:
        """Forget what nobody can need any more since the last call; return the turns of it."""
        undecided, before = self.member_index.undecided(), self._undecided
        self._undecided = undecided
        # Once a round the last member goes beyond an age, which may concern everybody.
        touched = self.touched if undecided <= before else set(self.held)
        held = {member: self.held[member] for member in sorted(touched)}
        self.touched.clear()
        return self.forget_unneeded(held)

    def forget_unneeded(
        self, held: Mapping[int, Sequence[Turn]], to_be_shown: Container[Checkpoint] = ()
    ) -> list[Turn]:
        """Forget the checkpoints among some that nobody can need any more; return their turns.

        They are forgotten before they are deleted: one that a decision can still see must exist.

        Args:
            held: Of each member the turns whose checkpoints exist, oldest first.
            to_be_shown: Checkpoints of which somebody will still want samples.
        """
        unneeded = removable(
            held,
            undecided=self.member_index.undecided(),
            needed=lambda one: self.member_index.needs(one) or one in to_be_shown,
            is_best=self._is_best,
            keep=self.keep,
            left=self.member_index.left,
        )
        for turn in unneeded:
            self.history.forget(turn.member, turn.number)
            self.held[turn.member].remove(turn)
        return unneeded

    def _is_best(self, turn: Turn) -> bool:
        """Whether a turn is the best of its age and sub-population that can be copied."""
        group = self.history.members[turn.member].group
        return self.compares and turn == self.history.best_at(turn.step, group)
