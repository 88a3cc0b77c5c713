"""Several calls at once, where each only waits for an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def call_at_once(
    call: Callable[[_Item], _Answer], items: Iterable[_Item], at_once: int
) -> list[_Answer]:
    """Call a function with each item, and return the answers in the order of the items.

    When it returns or raises, no call is under way any more, and after an error none begins.

    Args:
        call: The function. Threads call it, unless there is only one call at a time.
        items: What it is given.
        at_once: How many calls are under way at once, at most.
    """
    if at_once == 1:
        return [call(item) for item in items]
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="pbt_flow-request")
    try:
        return list(pool.map(call, items))
    finally:
        pool.shutdown(cancel_futures=True)
