"""The loops of a script, as its text has them."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator
from types import FrameType


def loops_of(frame: FrameType) -> list[ast.For | ast.While]:
    """The loops of the function that a frame is of, without those of functions inside of it.

    None are found where there is no text, as of what was typed into an interpreter.
    """
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


def is_in_body(line: int, loop: ast.For | ast.While) -> bool:
    """Whether a line is one of a loop's body."""
    return (_head(loop).end_lineno or 0) < line <= (loop.body[-1].end_lineno or 0)


def is_in_head(line: int, loop: ast.For | ast.While) -> bool:
    """Whether a line is one of what a loop goes through, or asks at each pass."""
    return _head(loop).lineno <= line <= (_head(loop).end_lineno or 0)


def _head(loop: ast.For | ast.While) -> ast.expr:
    return loop.iter if isinstance(loop, ast.For) else loop.test
