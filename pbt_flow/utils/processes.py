"""Which process has started this one, and whether it is still there."""

from __future__ import annotations

import os
from pathlib import Path


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
