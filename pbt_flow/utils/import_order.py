"""The order in which Python looks for modules while a user's own file runs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def beside_before_here(file: Path | None) -> Iterator[None]:
    """Let modules beside a file be found before those of the working folder, which come last.

    `python -m` puts that folder first. A file elsewhere that imports `utils` means the one beside
    it, as where it runs alone, and not one that happens to lie where the user stands.

    Args:
        file: The file; None for what no file holds, which changes nothing.
    """
    is_here = file is None or os.path.realpath(file.parent) == os.path.realpath(".")
    here = set() if is_here else {"", os.getcwd()}
    moved = [entry for entry in sys.path if entry in here]
    for entry in moved:
        sys.path.remove(entry)
    sys.path.extend(moved)
    try:
        yield
    finally:
        # What the file has done to the path itself stays.
        for entry in reversed(moved):
            if entry in sys.path:
                sys.path.remove(entry)
                sys.path.insert(0, entry)
