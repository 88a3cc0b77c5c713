"""Which attempt at a turn counts, whether a lost one is followed by another, and what is deleted.

That a worker has died is a verdict: it may be alive all the same, and still write. It does so under
the names of its own attempt (`population/turn_files.py`), which does not count beside a later one.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from pbt_flow.engines.batch import MOST_MOVES
from pbt_flow.exceptions import StoreUnavailable
from pbt_flow.population.history import History
from pbt_flow.population.records import Plan, Turn, fitted_turn
from pbt_flow.population.turn_files import Attempt
from pbt_flow.training.log_queue import LogQueue
from pbt_flow.training.protocols import PopulationStore

_ATTEMPTS = "attempts"
"""The lane in which what lost attempts have left is deleted."""
_TRIES = 2
"""How often a turn whose worker dies is run before it counts as lost."""


@dataclass
class TurnAttempts:
    """The attempts at the turns of one population, since its present controller claimed it."""

    history: History
    store: PopulationStore
    deletions: LogQueue
    claim: int
    """How many times controllers have claimed the population, this one included."""
    in_flight: Mapping[int, Plan]
    """Of each member the turn that is under way, with the attempt that was given out last."""
    disputed: set[tuple[int, int]] = field(default_factory=set)
    """The turns, by member and number, at which there may have been several attempts."""
    _moves: Counter[tuple[int, int]] = field(default_factory=Counter)
    """For each member and turn, how often its machine was taken away."""

    def first(self, plan: Plan) -> Plan:
        """A plan as it is given out the first time."""
        return replace(plan, attempt=Attempt(claim=self.claim, number=1))

    def is_under_way(self, plan: Plan) -> bool:
        """Whether an outcome is that of the attempt that was given out last.

        An engine may hear late of one that it has told to be lost.
        """
        given = self.in_flight.get(plan.member)
        return given is not None and (given.turn, given.attempt) == (plan.turn, plan.attempt)

    def committed(self, plan: Plan) -> Turn | None:
        """The turn of a plan whose worker died after its commit: then the turn has happened.

        The record of an earlier attempt is none: a later one may still be written over its head.
        """
        turn = self.store.folders.record(plan.member, plan.turn)
        if turn is None or turn.plan.attempt != plan.attempt:
            return None
        return fitted_turn(turn, self.store.space)

    def count_loss(self, plan: Plan, *, blameless: bool) -> bool:
        """Count that the worker of an attempt was lost.

        Args:
            plan: The turn, with the attempt that was lost.
            blameless: Whether the machine was taken away, so that the turn is not at fault.

        Returns:
            Whether the turn is to be run again.
        """
        turn = plan.member, plan.turn
        is_move = blameless and self._moves[turn] < MOST_MOVES
        self._moves[turn] += is_move
        # Of all attempts those that a worker died of.
        deaths = plan.attempt.number - self._moves[turn]
        return is_move or deaths < _TRIES

    def next(self, plan: Plan) -> Plan:
        """A plan with the attempt after its own.

        The record of a turn that is given up has that name, too: it counts, whatever the worker of
        the last attempt may still write.
        """
        return replace(plan, attempt=replace(plan.attempt, number=plan.attempt.number + 1))

    # --- what the others have left ---

    def discard(self, turns: Iterable[tuple[int, int]]) -> None:
        """Delete what attempts at some turns have left that do not count, and wait for it.

        Args:
            turns: The member and the number of each turn. None of them is under way.
        """
        self._discard(self._counting(turns))

    def discard_later(self, turns: Iterable[tuple[int, int]]) -> None:
        """The same for turns that are decided, and nobody waits: which attempts count is settled
        now, whenever the others are deleted.
        """
        if kept := self._counting(turns):
            self.deletions.add(partial(self._discard, kept), lane=_ATTEMPTS)

    def _counting(self, turns: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Attempt | None]:
        """Of each turn, by member and number, the attempt that counts; None if none does."""
        kept = dict[tuple[int, int], Attempt | None]()
        for member, number in sorted(turns):
            own = self.history.turns[member]
            kept[member, number] = own[number - 1].plan.attempt if number <= len(own) else None
        return kept

    def _discard(self, kept: Mapping[tuple[int, int], Attempt | None]) -> None:
        """Delete what attempts at some turns have left, but for those that are kept."""
        if not kept:
            return
        # What stays takes room, and is looked for once more at the end.
        with contextlib.suppress(StoreUnavailable):
            self.store.discard_attempts(kept, claim=self.claim)
