"""A line of output in a notebook that is written over, as a terminal's live table is."""

from __future__ import annotations

import sys
from typing import Any


def is_in_notebook() -> bool:
    """Whether this process is a notebook's kernel, which has outputs that can change."""
    # Whoever is in a kernel has imported IPython; nobody else shall have to.
    package = sys.modules.get("IPython")
    shell = None if package is None else package.get_ipython()
    return getattr(shell, "kernel", None) is not None


class NotebookLine:
    """One output of the cell that is being executed; each text takes the place of the last one."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Show a text in the place of the last one."""
        from IPython.display import display

        # Plain text has the notebook's own colours.
        data = {"text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)
