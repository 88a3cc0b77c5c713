"""How far an export or an import has come: a bar in a terminal, and lines in a file.

Everything goes to standard error; standard output is for the result.
"""

from __future__ import annotations

import sys
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pbt_flow.utils.terminal import Unbroken

_STEPS = 10
"""Lines in a file for the whole of what is copied."""


class TransferProgress:
    """Shows how far it has come.

    Args:
        quiet: Whether to show nothing at all.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(file=cast("IO[str]", Unbroken(sys.stderr)), quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None
        self._what, self._total, self._done, self._told = "", 0, 0, 0

    def __enter__(self) -> TransferProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        soft = not self._console.is_terminal
        self._console.print(text, highlight=False, markup=False, soft_wrap=soft)

    def begin(self, what: str, total: int | None = None) -> None:
        """Begin another part.

        Args:
            what: What is done.
            total: How many bytes it has; None if nobody counts.
        """
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(what, total=total)
        self._what, self._total, self._done, self._told = what, total or 0, 0, 0
        if not self._console.is_terminal:
            self.say(what)

    def advance(self, size: int) -> None:
        """So many more bytes are done."""
        self._done += size
        if self._task is not None:
            self._bar.advance(self._task, size)
        share = _STEPS * self._done // self._total if self._total else 0
        # Few bytes are done before anybody reads of it.
        if not self._console.is_terminal and self._told < share < _STEPS and self._total > 1e8:
            self._told = share
            self.say(f"{self._what}: {100 * share // _STEPS}%")
