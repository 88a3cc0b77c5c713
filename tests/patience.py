"""How long tests wait for what must come to pass."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 300.0
"""Seconds after which a test gives up. Only one that fails waits for so long. Where three loads
share two slow cores, a worker of Ray or a server has taken more than a minute to start."""


def until(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait until something holds, or fail with these words."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, otherwise
        # Whoever is waited for shares the cores with this process.
        time.sleep(0.02)
