"""Which process has started this one, whether it is still there, and when this one began."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

_COMMAND_BEGAN: ContextVar[float | None] = ContextVar("command_began", default=None)


def process_began() -> float:
    """When this process began, by `time.monotonic`; now, where the system does not tell.

    Whoever times a command times the imports as well.
    """
    now = time.monotonic()
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        return now - max(0.0, since_boot - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError):
        return now


@contextlib.contextmanager
def timed_from(began: float) -> Iterator[None]:
    """Let the first call below, which asks `call_began`, count its time from a moment before it."""
    token = _COMMAND_BEGAN.set(began)
    try:
        yield
    finally:
        _COMMAND_BEGAN.reset(token)


def call_began() -> float:
    """When what a user times has begun: the command, for the first who asks, or else now."""
    began = _COMMAND_BEGAN.get()
    _COMMAND_BEGAN.set(None)
    return time.monotonic() if began is None else began


def ancestors() -> tuple[int, ...]:
    """The parent, and where /proc tells, the grandparent: a launcher may put a shell between."""
    parent = os.getppid()
    try:
        status = Path(f"/proc/{parent}/status").read_text()
    except OSError:
        return (parent,)
    return (parent, *(int(line.split()[1]) for line in status.splitlines() if line[:5] == "PPid:"))


def launched_by(program: str) -> int | None:
    """The process id of the ancestor whose command names a program; None if there is none."""
    for process in ancestors():
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if any(Path(word).name == program for word in words.split("\0")):
            return process
    return None


def is_alive(process: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        if Path("/proc/self").exists():
            return False
        try:  # macOS has no /proc
            os.kill(process, 0)
        except OSError:
            return False
        return True
    return state not in "ZX"
