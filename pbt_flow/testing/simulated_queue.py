"""A queue whose calls take simulated time beside the training, as those of threads do."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pbt_flow.exceptions import StoreUnavailable
from pbt_flow.training.log_queue import LogQueue, Message


class SimulatedClock(Protocol):
    """What passes the time of a simulation."""

    now: float
    beside: list[SimulatedQueue]

    def pass_time(self, seconds: float) -> None: ...


@dataclass(kw_only=True)
class SimulatedQueue(LogQueue):
    """Calls that each take some simulated seconds, several of them at once.

    What `ThreadedLogQueue` does by the order in which threads happen to run, this does by the
    simulated clock, so that the same seed gives the same order of all calls.

    Args:
        engine: Passes the simulated time.
        seconds: What a call takes.
        at_once: How many calls are made at once, each of another lane.
    """

    engine: SimulatedClock
    seconds: float
    at_once: int = 1
    calls: int = 0
    """How many calls were made."""
    _under_way: list[tuple[float, int, Message, bool]] = field(default_factory=list)
    """A heap of the calls that are being made, by when they end; at last whether the store was
    known to be silent when the call began."""
    _error: BaseException | None = None
    """What ends the run. No call is made any more."""
    _is_begun: bool = False

    def __post_init__(self) -> None:
        self.engine.beside.append(self)

    def next_event(self) -> float:
        """When the next call ends, or is to be begun; infinite if none is."""
        if self._error is not None or not self._is_begun:
            return math.inf
        self._begin()
        if self._under_way:
            return self._under_way[0][0]
        return self.silence.attempt if self.lanes.can_deliver else math.inf

    def happen(self) -> None:
        """Do what the next event is, now that its time has come."""
        if not self._under_way:
            self._begin()
            return
        _, _, message, asked = heapq.heappop(self._under_way)
        try:
            message.deliver()
        except StoreUnavailable as error:
            if self.silence.lasts() and not asked:
                self.lanes.put_back(message)
                return
            try:
                self._not_heard(message, error)
            except StoreUnavailable as silent_for_too_long:
                self._error = silent_for_too_long
        except BaseException as error:
            self.lanes.put_back(message)
            self._error = error
        else:
            self._heard(message)

    def _begin(self) -> None:
        """Begin as many calls as can be made now."""
        while self.lanes.can_deliver and len(self._under_way) < self.at_once:
            asks = self.silence.lasts()
            if asks and (self.clock() < self.silence.attempt or self._is_asking):
                return
            message, self.calls = self.lanes.take(), self.calls + 1
            heapq.heappush(
                self._under_way, (self.clock() + self.seconds, self.calls, message, asks)
            )

    @property
    def _is_asking(self) -> bool:
        """Whether a call under way finds out if a silent store is back. One is enough."""
        return any(asks for *_, asks in self._under_way)

    def flush(self) -> None:
        self._is_begun = True
        # What takes no time is there at once.
        self.engine.pass_time(0.0)
        if self._error is not None:
            raise self._error

    def flush_and_wait(self) -> None:
        self.flush()
        while len(self.lanes):
            self.wait(self.next_event() - self.clock())

    def wait(self, seconds: float) -> None:
        self.engine.pass_time(max(0.0, seconds))
        self.flush()


def queues_beside(
    engine: SimulatedClock, seconds: float, at_once: int
) -> Callable[..., SimulatedQueue]:
    """Return what makes a controller's queues, whose calls take simulated time.

    Args:
        engine: Passes the simulated time.
        seconds: What a call takes.
        at_once: How many calls each queue makes at once.
    """

    def make(*common: Callable[..., object], **named: object) -> SimulatedQueue:
        return SimulatedQueue(
            *common,  # type: ignore[arg-type]
            **named,  # type: ignore[arg-type]
            engine=engine,
            seconds=seconds,
            at_once=at_once,
        )

    return make
