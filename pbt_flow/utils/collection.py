"""Python's garbage collector, which has nothing to find while libraries are imported."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_MANY = 10_000
"""A block that has made fewer objects leaves them to the collector, which is quick then, and may
find garbage of before among them."""


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Let the garbage collector rest in a block that only makes objects, such as an import.

    MLflow and torch make hundreds of thousands of objects, of which none is garbage, and the
    collector would go through them again and again: a fifth of the CPU time of their import.
    """
    if not gc.isenabled():
        yield
        return
    before = gc.get_count()[0]
    gc.disable()
    try:
        yield
    finally:
        # So many objects join the oldest generation unseen. Otherwise the next small collection
        # would go through all of them. What somebody froze before is to stay frozen, and Python
        # counts it object by object.
        if gc.get_count()[0] > before + _MANY and not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        gc.enable()
