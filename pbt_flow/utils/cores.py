"""How much of this machine is ours."""

import os


def count_cores() -> int:
    """The cores that this process may use: a cluster's scheduler may leave it few of many."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
