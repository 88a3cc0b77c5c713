"""A queue of calls to the tracking store, which keeps them while the store does not answer.

A turn is committed by its record on disk, and MLflow shows a projection of it. So a store that is
away, restarted or locked need not stop the training: the calls wait here, in order, and are made
when the store answers again. Only a store that is away for too long ends the run, which can then be
resumed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from pbt_flow.exceptions import PATIENCE, StoreUnavailable

_SHORTEST, _LONGEST = 1.0, 30.0
"""The first and the longest pause between two attempts, in seconds."""

LogCall: TypeAlias = Callable[[], None]
"""Tells the store one thing. It may be called twice, and must change nothing the second time."""


@dataclass
class LogQueue:
    """Calls to a store that may be away for a while.

    Args:
        say: Tells the user when the store stops answering, and when it answers again.
        clock: Returns the seconds since any fixed moment.
        pause: Waits for a number of seconds.
        patience: How many seconds the store may be silent; None stands for `PATIENCE`.
    """

    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    patience: float | None = None
    waiting: deque[LogCall] = field(default_factory=deque)
    _silent_since: float | None = None
    _attempt: float = 0.0
    """When to try again, by the clock, while the store is silent."""
    _gap: float = _SHORTEST
    """How many seconds to wait between the next two attempts."""

    def add(self, message: LogCall) -> None:
        """Add a call after those that wait already."""
        self.waiting.append(message)

    def flush(self) -> None:
        """Make the calls that wait, until one finds no answer. Never wait for the store.

        Raises:
            StoreUnavailable: The store has been silent for longer than the patience lasts.
            StoreError: The store answers, and refuses.
        """
        if self._silent_since is not None and self.clock() < self._attempt:
            return
        kept = len(self.waiting)
        while self.waiting:
            try:
                self.waiting[0]()
            except StoreUnavailable as error:
                self._wait_for_it(error, heard=len(self.waiting) < kept)
                return
            self.waiting.popleft()
        if self._silent_since is not None:
            self.say(f"the tracking store is back; it now knows the {kept} things that waited")
            self._silent_since, self._gap = None, _SHORTEST

    def flush_and_wait(self) -> None:
        """Make all calls that wait, and wait for the store while it is silent.

        Raises:
            StoreUnavailable: The store has been silent for longer than the patience lasts.
            StoreError: The store answers, and refuses.
        """
        self.flush()
        while self.waiting:
            self.pause(max(0.0, self._attempt - self.clock()))
            self.flush()

    def _wait_for_it(self, error: StoreUnavailable, *, heard: bool) -> None:
        """Plan the next attempt, or give the store up.

        Args:
            error: Why the store did not answer.
            heard: Whether the store has answered a call before that, in the same attempt.

        Raises:
            StoreUnavailable: The store has been silent for longer than the patience lasts.
        """
        now = self.clock()
        patience = PATIENCE if self.patience is None else self.patience
        if self._silent_since is None:
            self.say(
                f"{error.reason}. Training goes on, and what is logged waits for the store, for "
                f"{patience:g} seconds at most"
            )
        if self._silent_since is None or heard:
            self._silent_since, self._gap = now, _SHORTEST
        elif now - self._silent_since >= patience:
            raise error
        self._attempt = now + self._gap
        self._gap = min(2 * self._gap, _LONGEST)
