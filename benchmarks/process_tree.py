"""The processes below a process, as Linux tells of them."""

from __future__ import annotations

from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that a process has begun and that have not been waited for."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(one) for thread in threads for one in (thread / "children").read_text().split()]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """Those, and all below them."""
    own = children(pid)
    return [*own, *(one for child in own for one in descendants(child))]
