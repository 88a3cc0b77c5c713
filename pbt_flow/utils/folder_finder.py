"""A package that lies in a folder beside another one, and not inside of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


class FolderFinder(MetaPathFinder):
    """Finds one package in a folder, if that begins with the words that it is known by.

    Args:
        package: The full name of the package.
        folder: Where it lies.
        first_words: What its `__init__.py` begins with.
    """

    def __init__(self, package: str, folder: Path, first_words: str) -> None:
        self._package, self._folder, self._first_words = package, folder, first_words

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._package or not begins_with(self._folder, self._first_words):
            return None
        return importlib.util.spec_from_file_location(fullname, self._folder / "__init__.py")


def begins_with(folder: Path, words: str) -> bool:
    """Whether a folder is a package whose `__init__.py` begins with some words; nothing is run."""
    try:
        with (folder / "__init__.py").open(encoding="utf-8") as file:
            return file.read(len(words)) == words
    except (OSError, UnicodeDecodeError):
        return False
