"""Modules that are changed as soon as somebody imports them, and not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class ImportHook(MetaPathFinder):
    """Patches modules as soon as they are imported.

    Args:
        patches: The patch of each module, by the module's name.
    """

    def __init__(self, patches: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self.patches = patches

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.patches:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader, self.patches[fullname])
        return spec


class _PatchingLoader(Loader):
    """Loads a module with another loader, and then patches it."""

    def __init__(self, theirs: Loader, patch: Callable[[ModuleType], None]) -> None:
        self._theirs, self._patch = theirs, patch

    def __getattr__(self, name: str) -> Any:
        # Python asks loaders for more than `Loader` declares, such as a module's source.
        return getattr(self._theirs, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._theirs.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._theirs.exec_module(module)
        self._patch(module)
