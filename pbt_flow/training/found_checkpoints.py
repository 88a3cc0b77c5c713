"""Which checkpoints of a population exist when a controller begins to go on with it.

Where a look at a state takes requests, only those that may be needed are looked for. No decision
sees anything of the others, and earlier controllers have deleted them, all but the newest perhaps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from pbt_flow.population.history import History
from pbt_flow.population.records import Checkpoint, Turn
from pbt_flow.training.protocols import PopulationStore

_LEFT_OVER = 4
"""How many superfluous states of a member a resume tries to delete where it cannot see which there
are. An earlier controller had at most two a member still to delete, or had no turn begin."""


@dataclass
class FoundCheckpoints:
    """The search for the checkpoints of committed turns.

    What is not there, and what nobody needs, is forgotten by the history.
    """

    history: History
    store: PopulationStore
    held: dict[int, list[Turn]]
    """Of each member the turns whose checkpoints exist, oldest first; `look` fills it."""
    forget_unneeded: Callable[[], list[Turn]]
    """Forgets those among the held that nobody can need any more, and returns their turns."""
    _known: set[tuple[int, int]] = field(default_factory=set)
    """By member and number the turns of whose states it is known whether they exist."""
    _unneeded: list[Turn] = field(default_factory=list)

    def look(self) -> None:
        """Find out which checkpoints of the committed turns still exist."""
        for turns in self.history.turns.values():
            for turn in turns:
                if turn.checkpoint is not None:
                    self.held[turn.member].append(turn)
        while unknown := self._unknown():
            asked = [turn.checkpoint for turn in unknown if turn.checkpoint is not None]
            for turn, exists in zip(unknown, self.store.have_states(asked), strict=True):
                self._known.add((turn.member, turn.number))
                if not exists:
                    self.history.forget(turn.member, turn.number)
                    self.held[turn.member].remove(turn)

    def _unknown(self) -> list[Turn]:
        """The turns whose states must still be looked for."""
        if not self.store.sees_states:
            # Again after each look: if the best of an age is gone, another one is the best.
            self._unneeded += self.forget_unneeded()
        return [
            turn
            for own in self.held.values()
            for turn in own
            if (turn.member, turn.number) not in self._known
        ]

    def left_over(self) -> dict[int, list[Checkpoint]]:
        """Of each member the states that nobody needs and an earlier controller may have left."""
        newest = defaultdict[int, list[Checkpoint]](list)
        for turn in sorted(self._unneeded, key=lambda turn: turn.number, reverse=True):
            own = newest[turn.member]
            is_known = (turn.member, turn.number) in self._known
            if turn.checkpoint is not None and (is_known or len(own) < _LEFT_OVER):
                own.append(turn.checkpoint)
        return newest
