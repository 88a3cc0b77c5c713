"""Whether the loop of a script stands inside of another loop of it.

A population stays in the loop over `steps()` or `batches()` for as long as it trains: whatever an
outer loop does after it, such as the step of a schedule after each epoch, would never be done, and
nothing would say so.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator, Mapping
from types import CodeType, FrameType

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
        for loop in _loops(one):
            if _is_in_body(line, loop) and not (at_join and _is_in_body(at_join, loop)):
                return f"line {loop.lineno} of {one.f_code.co_name.strip('<>')}"
    return ""


def _stack(frame: FrameType) -> Iterator[FrameType]:
    one: FrameType | None = frame
    while one is not None:
        yield one
        one = one.f_back


def _loops(frame: FrameType) -> list[ast.For | ast.While]:
    """The loops of the function that a frame is of, without those of functions inside of it."""
    code = frame.f_code
    linecache.checkcache(code.co_filename)  # The file may have been edited since it was read.
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename, frame.f_globals)))
    except (SyntaxError, ValueError):
        return []
    body: list[ast.stmt] = tree.body
    if code.co_name != "<module>":
        named = (
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name == code.co_name
            # The code of a decorated function begins with its decorators.
            and code.co_firstlineno in (node.lineno, *(one.lineno for one in node.decorator_list))
        )
        body = next((node.body for node in named), [])
    return [node for part in body for node in _own(part) if isinstance(node, ast.For | ast.While)]


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """A node and those inside of it, but for other functions."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _own(child)


def _is_in_body(line: int, loop: ast.For | ast.While) -> bool:
    head = loop.iter if isinstance(loop, ast.For) else loop.test
    return (head.end_lineno or 0) < line <= (loop.body[-1].end_lineno or 0)
