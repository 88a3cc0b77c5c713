"""A queue of calls to a store, which keeps them while the store does not answer.

A turn is committed by its record on disk, and MLflow shows a projection of it. So a store that is
away, restarted or locked need not stop the training: the calls wait here and are made when the
store answers again. Only a store that is away for too long ends the run, which can then be resumed.

Calls of one lane are made in order, one after another. A lane is what concerns one run. This queue
makes its calls in the thread of its owner; `log_threads` has one that does not.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from pbt_flow.exceptions import PATIENCE, StoreUnavailable

_SHORTEST, _LONGEST = 1.0, 30.0
"""The first and the longest pause between two attempts, in seconds."""
_MOST_ITEMS = 32
"""How many things one call tells at most: a request of any size would take any time."""
POPULATION = "population"
"""The lane of the population's own run. The lane of a member's run is the member's number."""
LISTENER = "listener"
"""The lane of what the listener to the progress does: it may take long, and nobody waits for it."""

LogCall: TypeAlias = Callable[[], None]
"""Tells the store one thing. It may be called twice, and must change nothing the second time."""
Tell: TypeAlias = Callable[[Sequence[Any]], None]
"""Tells the store several things of one lane with one request. It may be called twice as well."""


@dataclass(eq=False)
class Message:
    """What one call tells the store: one thing, or several that waited one behind the other."""

    lane: Hashable
    order: int
    """Its place among all messages."""
    tell: Tell
    items: list[Any]
    joins: bool = False
    """Whether other things for the same `tell` may join it while it waits."""

    def deliver(self) -> None:
        """Make the call."""
        self.tell(self.items)


@dataclass
class Lanes:
    """Messages that wait: those of one lane one behind the other, the oldest of all first."""

    _waiting: dict[Hashable, deque[Message]] = field(default_factory=dict)
    """The messages of each lane that has some, without those that are being delivered."""
    _first: list[tuple[int, Hashable]] = field(default_factory=list)
    """A heap of the lanes that can deliver, by the place of their first message."""
    _busy: set[Hashable] = field(default_factory=set)
    """The lanes of which a message is being delivered."""
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _items: int = 0

    def __len__(self) -> int:
        """How many things the store has not heard yet."""
        return self._items

    def add(self, tell: Tell, item: Any, lane: Hashable, *, joins: bool) -> None:
        """Add a thing behind all that waits in its lane."""
        self._items += 1
        waiting = self._waiting.setdefault(lane, deque())
        if joins and waiting:
            last = waiting[-1]
            # Bound methods are equal if they are the same method of the same object.
            if last.joins and last.tell == tell and len(last.items) < _MOST_ITEMS:
                last.items.append(item)
                return
        waiting.append(Message(lane, next(self._numbers), tell, [item], joins))
        if len(waiting) == 1 and lane not in self._busy:
            heapq.heappush(self._first, (waiting[0].order, lane))

    @property
    def can_deliver(self) -> bool:
        """Whether there is a message that `take` would return."""
        return bool(self._first)

    def take(self) -> Message:
        """Return the oldest message that can be delivered. Its lane waits until it is `done`."""
        _, lane = heapq.heappop(self._first)
        self._busy.add(lane)
        return self._waiting[lane].popleft()

    def done(self, message: Message) -> None:
        """Let the next message of the lane follow one that was delivered."""
        self._items -= len(message.items)
        self._free(message.lane)

    def put_back(self, message: Message) -> None:
        """Let a message wait again that could not be delivered, as the first of its lane."""
        self._waiting[message.lane].appendleft(message)
        self._free(message.lane)

    def _free(self, lane: Hashable) -> None:
        self._busy.remove(lane)
        if self._waiting[lane]:
            heapq.heappush(self._first, (self._waiting[lane][0].order, lane))
        else:
            del self._waiting[lane]


@dataclass
class Silence:
    """Since when a store has not answered, and when it is to be asked again."""

    since: float | None = None
    """None while the store answers."""
    attempt: float = 0.0
    """When to ask again, by the clock."""
    heard: bool = False
    """Whether the store has heard something since it last did not answer."""
    missed: int = 0
    """How many things waited when the store answered again."""
    _left: int = 0
    """How many of them it has still to hear."""
    _gap: float = _SHORTEST
    """How many seconds to wait between the next two attempts."""

    def lasts(self) -> bool:
        """Whether the store has not answered the last time that it was asked."""
        return self.since is not None and not self.heard

    def begin(self, now: float) -> bool:
        """Note that the store has not answered, and plan the next attempt.

        Returns:
            Whether it was thought to be there before.
        """
        is_new = self.since is None
        if is_new or self.heard:
            # Patience begins anew when the store has heard something.
            self.since, self._gap, self.heard = now, _SHORTEST, False
        self.attempt = now + self._gap
        self._gap = min(2 * self._gap, _LONGEST)
        return is_new

    def end(self, told: int, waiting: int) -> bool:
        """Note that the store has heard something.

        Args:
            told: How many things.
            waiting: How many it had not heard before, these included.

        Returns:
            Whether it has now heard all that it had missed.
        """
        if self.since is None:
            return False
        if not self.heard:
            self.heard, self.missed, self._left = True, waiting, waiting
        self._left -= told
        if self._left > 0:
            return False
        self.since, self.heard = None, False
        return True


@dataclass
class LogQueue:
    """Calls to a store that may be away for a while.

    Args:
        say: Tells the user when the store stops answering, and when it answers again.
        clock: Returns the seconds since any fixed moment.
        pause: Waits for a number of seconds.
        patience: How many seconds the store may be silent; None stands for `PATIENCE`.
        limit: How many things may wait before the queue counts as full; None for any number.
        waits: What waits, as the subject of a sentence.
    """

    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    patience: float | None = None
    limit: int | None = None
    waits: str = "what is logged"
    lanes: Lanes = field(default_factory=Lanes)
    silence: Silence = field(default_factory=Silence)

    def add(self, call: LogCall, lane: Hashable = POPULATION) -> None:
        """Add a call after those of its lane that wait already. It never waits itself."""
        self._add(lambda items: call(), None, lane, joins=False)

    def add_item(self, tell: Tell, item: Any, lane: Hashable) -> None:
        """Add a thing to be told. If one for the same `tell` waits just before it, both are told
        with one call.
        """
        self._add(tell, item, lane, joins=True)

    def _add(self, tell: Tell, item: Any, lane: Hashable, *, joins: bool) -> None:
        self.lanes.add(tell, item, lane, joins=joins)

    @property
    def is_full(self) -> bool:
        """Whether so much waits that nothing should be begun that makes more of it."""
        return self.limit is not None and len(self.lanes) >= self.limit

    def flush(self) -> None:
        """Make the calls that wait, until one finds no answer. Never wait for the store.

        Raises:
            StoreUnavailable: The store has been silent for longer than the patience lasts.
            StoreError: The store answers, and refuses.
        """
        while self.lanes.can_deliver:
            if self.silence.lasts() and self.clock() < self.silence.attempt:
                return
            message = self.lanes.take()
            try:
                message.deliver()
            except StoreUnavailable as error:
                self._not_heard(message, error)
            except BaseException:
                self.lanes.put_back(message)
                raise
            else:
                self._heard(message)

    def flush_and_wait(self) -> None:
        """Make all calls that wait, and wait for the store while it is silent.

        Raises:
            StoreUnavailable: The store has been silent for longer than the patience lasts.
            StoreError: The store answers, and refuses.
        """
        self.flush()
        while len(self.lanes):
            self.wait(max(0.0, self.silence.attempt - self.clock()))

    def wait(self, seconds: float) -> None:
        """Wait for so many seconds at most, or until there is room again, and then flush.

        Raises:
            StoreUnavailable: The store has been silent for longer than the patience lasts.
            StoreError: The store answers, and refuses.
        """
        self.pause(seconds)
        self.flush()

    def close(self) -> None:
        """Give up what waits."""

    def _heard(self, message: Message) -> None:
        """Note that a message was delivered."""
        waiting = len(self.lanes)
        self.lanes.done(message)
        if self.silence.end(told=len(message.items), waiting=waiting):
            known = f"{self.silence.missed} things that waited"
            self.say(f"the tracking store is back; it now knows the {known}")

    def _not_heard(self, message: Message, error: StoreUnavailable) -> None:
        """Let a message wait, or give the store up.

        Raises:
            StoreUnavailable: The store has been silent for longer than the patience lasts.
        """
        self.lanes.put_back(message)
        now, since = self.clock(), self.silence.since
        patience = PATIENCE if self.patience is None else self.patience
        if since is not None and not self.silence.heard and now - since >= patience:
            raise error
        if self.silence.begin(now):
            self.say(
                f"{error.reason}. Training goes on, and {self.waits} waits for the store, for "
                f"{patience:g} seconds at most"
            )


class MakeQueue(Protocol):
    """Makes a queue; the arguments are those of `LogQueue`."""

    def __call__(
        self,
        say: Callable[[str], None],
        clock: Callable[[], float],
        pause: Callable[[float], None],
        *,
        limit: int | None,
        waits: str,
    ) -> LogQueue: ...
