"""A queue whose calls to the store are made by threads of their own.

A request to a tracking server takes a tenth of a second or more. If the controller made it, all
workers that finish a turn meanwhile would wait for their next one. So the controller only adds
calls here. What it must know of them, it is told when it flushes: what the user is to read, and the
exception that ends the run.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from pbt_flow.exceptions import StoreUnavailable
from pbt_flow.task.mlflow_capture import leave_this_thread_alone
from pbt_flow.training.log_queue import LISTENER, LogQueue, Message, Tell

_LOOK_SECONDS = 0.2
"""How often the owner looks up while it waits, so that Ctrl-C reaches it on every system."""
_SLOW_SECONDS = 10.0
"""How long a request may take before the user is told: MLflow's client waits for 40 seconds, and
that of a database for ever."""
_END_SECONDS = 5.0
"""How long a request that is under way may hold up an end that gives up what waits."""


@dataclass(kw_only=True)
class ThreadedLogQueue(LogQueue):
    """Calls to a store, made by threads. All methods but `add` and `add_item` are its owner's.

    The threads begin with the first flush. What is added before waits for that.

    Args:
        threads: How many calls are made at once, each of another lane.
        check: Is called before each call. What it raises ends the run.
    """

    threads: int = 1
    check: Callable[[], None] = lambda: None
    _lock: threading.RLock = field(default_factory=threading.RLock)
    """Guards all that follows, and what the base class has."""
    _begun: list[threading.Thread] = field(default_factory=list)
    _said: deque[str] = field(default_factory=deque)
    """What the user is told at the next flush: only the owner's thread writes to the screen."""
    _error: BaseException | None = None
    """What ends the run. No call is made any more."""
    _is_asking: bool = False
    """Whether a thread is finding out if a silent store is back. One is enough."""
    _closed: bool = False
    _under_way: dict[Hashable, float] = field(default_factory=dict)
    """The lanes of which a call is being made, and since when, by the clock."""
    _told_of: float | None = None
    """Since when the call was under way that the user was told of; None while there is none."""

    def __post_init__(self) -> None:
        self._tell_user, self.say = self.say, self._said.append
        self._is_work = threading.Condition(self._lock)
        self._is_progress = threading.Condition(self._lock)

    def _add(self, tell: Tell, item: Any, lane: Hashable, *, joins: bool) -> None:
        with self._lock:
            super()._add(tell, item, lane, joins=joins)
            self._is_work.notify()

    def flush(self) -> None:
        """Tell the user what the threads have to say, and raise what they met. Never wait.

        Raises:
            StoreUnavailable: The store has been silent for longer than the patience lasts.
            StoreError: The store answers, and refuses.
        """
        if not self._begun:
            for _ in range(self.threads):
                thread = threading.Thread(target=self._work, daemon=True, name="pbt_flow-log")
                self._begun.append(thread)
                thread.start()
        self._notice_slow_call()
        while self._said:
            self._tell_user(self._said.popleft())
        if self._error is not None:
            raise self._error

    def _notice_slow_call(self) -> None:
        """Tell the user once of a call that has no answer for long, and neither fails."""
        with self._lock:
            oldest = min(self._under_way.values(), default=self.clock())
            slow = self.clock() - oldest >= _SLOW_SECONDS and not self.silence.lasts()
            if slow and self._told_of is None:
                self._told_of = oldest
                self.say(
                    f"the tracking store has not answered for {_SLOW_SECONDS:.0f} s. Training goes "
                    f"on, and {self.waits} waits for the store"
                )
            elif self._told_of is not None and oldest > self._told_of:
                # Of one that has failed there are words, and of the store's return.
                if self.silence.since is None:
                    self.say("the tracking store answers again")
                self._told_of = None

    def flush_and_wait(self) -> None:
        """Wait until the threads have made all calls, or one has met what ends the run.

        Raises:
            StoreUnavailable: The store has been silent for longer than the patience lasts.
            StoreError: The store answers, and refuses.
        """
        self.flush()
        while len(self.lanes):
            with self._lock:
                if len(self.lanes) and self._error is None:
                    self._is_progress.wait(_LOOK_SECONDS)
            self.flush()
        self.flush()

    def wait(self, seconds: float) -> None:
        self.flush()
        with self._lock:
            if self.is_full and self._error is None:
                self._is_progress.wait(seconds)
        self.flush()

    def close(self) -> None:
        """Give up what waits, and let the threads end."""
        with self._lock:
            self._closed = True
            self._is_work.notify_all()
        for thread in self._begun:
            thread.join(_END_SECONDS)

    # --- in the threads ---------------------------------------------------------------------------

    def _work(self) -> None:
        """Make one call after another until the queue is closed, or a call has failed."""
        # A task of the inline engine may train in this process just now.
        leave_this_thread_alone()
        while True:
            with self._lock:
                message = self._next()
                # A silent store is asked by one thread at a time.
                asks = self.silence.lasts()
                # What the listener does may take long, without any store.
                if message is not None and message.lane != LISTENER:
                    self._under_way[message.lane] = self.clock()
            if message is None:
                return
            error: BaseException | None = None
            try:
                self.check()
                message.deliver()
            except BaseException as raised:
                error = raised
            with self._lock:
                self._under_way.pop(message.lane, None)
                if asks:
                    self._is_asking = False
                    self._is_work.notify_all()
                if error is None:
                    self._heard(message)
                else:
                    self._failed(message, error, asks)
                self._is_progress.notify()

    def _next(self) -> Message | None:
        """Wait for a message that can be delivered; None if none is to be delivered any more."""
        while not self._closed and self._error is None:
            if not self.lanes.can_deliver:
                self._is_work.wait()
            elif not self.silence.lasts():
                return self.lanes.take()
            elif self._is_asking:
                self._is_work.wait()
            elif self.clock() < self.silence.attempt:
                self._is_work.wait(self.silence.attempt - self.clock())
            else:
                self._is_asking = True
                return self.lanes.take()
        return None

    def _failed(self, message: Message, error: BaseException, asked: bool) -> None:
        """Let a message wait that found no answer, or keep what ends the run.

        Args:
            message: What could not be delivered.
            error: What the call raised.
            asked: Whether the store was known to be silent when the call began.
        """
        if not isinstance(error, StoreUnavailable):
            self.lanes.put_back(message)
            self._end(error)
        elif self.silence.lasts() and not asked:
            # Several calls were under way when the store went. It counts as one attempt.
            self.lanes.put_back(message)
        else:
            try:
                self._not_heard(message, error)
            except StoreUnavailable as silent_for_too_long:
                self._end(silent_for_too_long)

    def _end(self, error: BaseException) -> None:
        """Let no thread make a call any more."""
        self._error = error
        self._is_work.notify_all()
