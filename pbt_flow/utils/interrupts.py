"""Ctrl-C and SIGTERM: what they ask for at each moment, and which of them is only an echo.

A terminal sends Ctrl-C to every process in its foreground. A launcher such as `mlflow run`, which
gets it too, then sends SIGTERM to the process that it has launched. The user pressed once, so the
launched process must not take the two signals for two wishes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_AGAIN = 0.05
"""Seconds after which an interrupt that Python has swallowed is sent once more."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def interrupt(number: int) -> None:
    """Raise what Ctrl-C raises."""
    raise KeyboardInterrupt


class Interrupts:
    """The handler of Ctrl-C and of SIGTERM in one process.

    Args:
        has_launcher: Whether the launcher of this process is there. Its first SIGTERM after a
            Ctrl-C is an echo.
    """

    def __init__(self, has_launcher: Callable[[], bool] = lambda: False) -> None:
        self.asked = False
        """Whether anybody has asked for an end."""
        self._has_launcher = has_launcher
        self._pressed = self._heard_echo = False
        self._action: Callable[[int], None] = interrupt

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        echo = number == signal.SIGTERM and self._pressed and not self._heard_echo
        if echo and self._has_launcher():
            self._heard_echo = True
            return
        self.asked = True
        self._pressed = self._pressed or number == signal.SIGINT
        self._action(number)

    def note_only(self) -> None:
        """Let signals lead to nothing from now on but that it is known that they came."""
        self._action = lambda number: None

    @contextlib.contextmanager
    def doing(self, action: Callable[[int], None]) -> Iterator[None]:
        """Let a signal lead to `action`, which is given its number, while this lasts."""
        before, self._action = self._action, action
        try:
            yield
        finally:
            self._action = before


def handle_by(handler: Interrupts) -> Callable[[], None]:
    """Let a handler have all signals from now on; called outside of the main thread it gets none.

    Python calls some functions, such as those of weak references, where it can only print an error
    and go on. An interrupt that ended there would be lost, so it is sent again.

    Returns:
        A function that brings the handlers of before back.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    told = sys.unraisablehook

    def hook(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            told(lost)
            return
        again = threading.Timer(_AGAIN, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()

    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    sys.unraisablehook = hook

    def restore() -> None:
        sys.unraisablehook = told
        for number, old in before.items():
            signal.signal(number, old)

    return restore


@contextlib.contextmanager
def handled_by(handler: Interrupts) -> Iterator[None]:
    """Let a handler have all signals while this lasts, as `handle_by` does."""
    restore = handle_by(handler)
    try:
        yield
    finally:
        restore()


@contextlib.contextmanager
def interrupts_lead_to(action: Callable[[int], None]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM lead to `action` while this lasts.

    A process that has an `Interrupts` keeps it, and with it what it knows of its launcher. Outside
    of the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    present = signal.getsignal(signal.SIGINT)
    if isinstance(present, Interrupts):
        with present.doing(action):
            yield
        return
    handler = Interrupts()
    with handled_by(handler), handler.doing(action):
        yield


@contextlib.contextmanager
def one_interrupt_waits() -> Iterator[Callable[[], None]]:
    """Let a first interrupt wait until this has ended; a second one is raised at once.

    What must not be left half done takes a moment, and an impatient user presses Ctrl-C twice.

    Yields:
        What raises the interrupt that waits, if one does: for a moment at which it may be raised.
    """
    waiting = list[int]()

    def note(number: int) -> None:
        if waiting:
            raise KeyboardInterrupt
        waiting.append(number)

    def raise_it() -> None:
        if waiting:
            raise KeyboardInterrupt

    with interrupts_lead_to(note):
        yield raise_it
    raise_it()
