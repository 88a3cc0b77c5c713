"""Whether the loop of a script stands inside of another loop of it.

A population stays in the loop over `steps()` or `batches()` for as long as it trains: whatever an
outer loop does after it, such as the step of a schedule after each epoch, would never be done, and
nothing would say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import CodeType, FrameType

from pbt_flow.joining.script_loops import is_in_body, loops_of

Places = Mapping[CodeType, int]
"""The line at which each function of a stack stands."""


def places_of(frame: FrameType) -> Places:
    """Where a frame and those that have called it stand. No frame is kept."""
    return {one.f_code: one.f_lineno for one in _stack(frame)}


def outer_loop(frame: FrameType, joined: Places) -> str:
    """Another loop that a script's loop stands in, in words; empty if there is none.

    A loop that the script joins in, as for several folds, is none: alone the script joins anew in
    each of its passes.

    Args:
        frame: Where the script's loop is.
        joined: Where the script was when it joined.
    """
    for one in _stack(frame):
        line, at_join = one.f_lineno, joined.get(one.f_code)
        if line == at_join:
            continue  # Both are in the same loops, and most libraries on a stack end here.
        for loop in loops_of(one):
            if is_in_body(line, loop) and not (at_join and is_in_body(at_join, loop)):
                return f"line {loop.lineno} of {one.f_code.co_name.strip('<>')}"
    return ""


def _stack(frame: FrameType) -> Iterator[FrameType]:
    one: FrameType | None = frame
    while one is not None:
        yield one
        one = one.f_back
