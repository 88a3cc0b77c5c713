"""Output streams that keep a program running after their reader has gone."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

_COMMAND = re.compile(r"\s*(python -m pbt_flow|pbt-flow|mlflow) \w+\b(?!:)")
"""How a line begins that is a command; behind the colon stands what a command says of itself."""


class Unbroken(io.TextIOBase):
    """A stream that drops its output once nobody reads it any more.

    Otherwise a terminal that is closed, or `| head` that has seen enough, would end a population.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._redirect_to_null()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._redirect_to_null()

    def _redirect_to_null(self) -> None:
        # The file descriptor itself is redirected, for the rest in the stream's buffer, and for
        # others that write to the same descriptor.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Make standard output and standard error unbroken streams while this context lasts."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Unbroken(before[0]), Unbroken(before[1])
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def fitted(text: str, stream: TextIO) -> str:
    """A text whose long lines end between words, where a terminal would cut them inside of one.

    A line goes on with its own indentation. A command stays in one line, since it is copied, and
    so does all that goes into a file.

    Args:
        text: What is going to be printed.
        stream: Where it is printed.
    """
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    lines = list[str]()
    for line in _without_wide_tables(text.split("\n"), width):
        if len(line) <= width or _COMMAND.match(line):
            lines.append(line)
            continue
        indent = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    return "\n".join(lines)


def _without_wide_tables(lines: Sequence[str], width: int) -> Iterator[str]:
    """Lines in which a table that is wider than the terminal is told row by row.

    A table begins with its head and a line of dashes, as in Markdown.
    """
    for is_table, group in itertools.groupby(lines, key=lambda line: line.startswith("|")):
        rows = list(group)
        if not is_table or max(map(len, rows)) <= width:
            yield from rows
            continue
        head, _, *body = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
        if " " in head[0]:
            # A name of several words is not of a column alone: it says what the table is of.
            yield head[0]
        for row in body:
            yield ", ".join(row[:2])
            for name, cell in zip(head[2:], row[2:], strict=False):
                yield f"  {name} {cell}"
