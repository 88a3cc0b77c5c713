"""What waits to reach the store: what is logged of a population, and what is to be deleted.

No decision waits for the store. Only if too much waits, no turn begins until the store has caught
up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from pbt_flow.population.records import Turn
from pbt_flow.training.findings import Finding
from pbt_flow.training.log_queue import LogCall, LogQueue, MakeQueue
from pbt_flow.training.notices import Notices
from pbt_flow.training.protocols import PopulationStore

_MOST_UNTOLD = 20_000
"""How many things may wait to be logged before no turn begins any more: about what a thousand
members do in the ten minutes for which a store may be silent. Each takes kilobytes of memory."""
_LONG_HOLD = 10.0
"""Seconds for which no turn begins before the user is told."""
_SEGMENTS = (100, 500)
"""How many turns the journal gets at once, at least and at most: a twentieth of all so far. After a
kill so many records are read one by one at most. A long record does not become many files."""


@dataclass
class StoreQueues:
    """The two queues of one population's controller, and what goes through them of each turn."""

    store: PopulationStore
    notices: Notices
    clock: Callable[[], float]
    pause: Callable[[float], None]
    make_queue: MakeQueue
    members: int
    """How many members the population has."""
    logged: dict[int, int]
    """Of each member how many turns the store was told of, or is going to be."""
    unwritten: list[Turn] = field(default_factory=list)
    """Committed turns that the journal does not have yet."""
    log: LogQueue = field(init=False)
    """What is logged. The lane of a member's run is the member's number."""
    deletions: LogQueue = field(init=False)
    """Apart from the others, since the disk that has the checkpoints may be there when the tracking
    store is not. What waits here takes room: a checkpoint for each member. The journal goes with
    them, onto the same disk."""
    holds_up: bool = False
    """Whether no turn begins for now, since the store has not been told of too many."""
    _since: float = 0.0
    """Since when, by the clock; infinity once the user was told."""

    def __post_init__(self) -> None:
        self.log = self._make(_MOST_UNTOLD, "what is logged")
        self.deletions = self._make(2 * self.members, "what is to be deleted")

    def _make(self, limit: int, waits: str) -> LogQueue:
        return self.make_queue(self.notices.say, self.clock, self.pause, limit=limit, waits=waits)

    # --- turns ---

    def log_turn(self, turn: Turn) -> None:
        """Have the store told of a turn."""
        self.log.add_item(self._tell_turns, turn, lane=turn.member)
        self.logged[turn.member] = turn.number

    def _tell_turns(self, turns: Sequence[Turn]) -> None:
        """Tell the store of turns of one member, and the user of the names of their metrics."""
        if (text := self.store.log_turns(turns)) is not None:
            self.notices.warn(Finding("names", text))

    def write_full_segment(self) -> None:
        """Have the store write to the journal what it does not have yet, once that is much."""
        least, most = _SEGMENTS
        if len(self.unwritten) < least:
            return
        if len(self.unwritten) >= min(most, sum(self.logged.values()) // 20):
            self._write_journal()

    def _write_journal(self) -> None:
        most = max(_SEGMENTS)
        for first in range(0, len(self.unwritten), most):
            turns = self.unwritten[first : first + most]
            # Not behind what is logged, of which thousands of turns may wait when a controller is
            # killed: a resume reads one by one what the journal lacks.
            self.deletions.add(partial(self.store.log_records, turns), lane="journal")
        self.unwritten = []

    # --- when too much waits ---

    def must_hold_up(self) -> bool:
        """Whether no turn may begin, since too much waits for the store."""
        full = self.log.is_full or self.deletions.is_full
        if full and not self.holds_up:
            self._since = self.clock()
        # Where turns take milliseconds the store is often behind for a moment, which is no news.
        if full and self.clock() >= self._since + _LONG_HOLD:
            self._since = math.inf
            self.notices.soon.append(
                f"{len(self.log.lanes)} things wait to be logged and {len(self.deletions.lanes)} "
                "checkpoints to be deleted; no turn begins until the store has caught up"
            )
        self.holds_up = full
        return full

    def wait(self, seconds: float) -> None:
        """Wait for room in what the store is to be told, for so many seconds at most."""
        full = self.log if self.log.is_full else self.deletions
        full.wait(seconds)

    # --- the end ---

    def drain(self) -> None:
        """Have the store told all that it is to know so far, and wait for it.

        Raises:
            StoreError: The tracking store refuses what is logged, or was away for too long.
        """
        self._write_journal()
        # First the deletions: they may have something to be logged.
        self.deletions.flush_and_wait()
        self.log.flush_and_wait()
        self.notices.say_now()

    def say_last(self, calls: Sequence[LogCall]) -> None:
        """Have the store told how it ended, once it knows all that came before.

        Each call is made in this thread, after the one before.

        Raises:
            StoreError: The tracking store refuses what is logged, or was away for too long.
        """
        self.drain()
        last = LogQueue(self.notices.say, self.clock, self.pause)
        for call in calls:
            last.add(call)
        last.flush_and_wait()

    def close(self) -> None:
        """Give up what the store has not been told: it follows from the turns."""
        self.deletions.close()
        self.log.close()
