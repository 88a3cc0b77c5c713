"""How many CPU cores this process may use."""

import os


def count_cores() -> int:
    """Return how many cores this process may use: a scheduler may restrict it to some of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
