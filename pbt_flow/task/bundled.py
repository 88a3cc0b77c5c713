"""The tasks that come with pbt_flow: where they lie, and by which names they are known.

They are the package `pbt_flow.tasks`. In a wheel it lies inside of `pbt_flow`; in a clone it is the
folder `tasks` beside it, which a finder leads to (`pbt_flow/__init__.py`). Earlier versions
installed it as a package `tasks`, and their populations and models name classes by that.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from pbt_flow import FIRST_WORDS, PACKAGE
from pbt_flow.utils.folder_finder import begins_with

EARLIER = "tasks"
"""What the package was called in earlier versions; it is a name that users have as well."""


def bundled_tasks() -> dict[str, str]:
    """The name of each task that comes along, with its `module:Class`."""
    try:
        tasks = importlib.import_module(PACKAGE)
    except ModuleNotFoundError:
        return {}  # Someone has taken the package without its tasks.
    return {name: f"{PACKAGE}.{place}" for name, place in tasks.TASKS.items()}


def module_of(path: Path) -> str | None:
    """The module of `pbt_flow.tasks` that a file is; None if it lies elsewhere."""
    folder = _folder()
    path = path.resolve()
    if folder is None or path.parent != folder or path.suffix != ".py":
        return None
    return f"{PACKAGE}.{path.stem}"


def is_in_some_copy(path: Path) -> bool:
    """Whether a file is one of the tasks in any copy of pbt_flow: this one, a clone, a wheel.

    A wheel of an earlier version had their folder beside the package, as a clone has it. Someone
    who has copied that folder to change it has no `pbt_flow` beside it.
    """
    if module_of(path) is not None:
        return True
    beside = path.parent.parent / "pbt_flow" / "__init__.py"
    return (
        path.parent.name == EARLIER and beside.is_file() and begins_with(path.parent, FIRST_WORDS)
    )


def current_name(name: str) -> str | None:
    """What `tasks.rl:RL` and its like are called now; None for a name of another kind."""
    place = f"pbt_flow.{name}"
    return place if name.startswith(f"{EARLIER}.") and place in bundled_tasks().values() else None


def _folder() -> Path | None:
    """Where the tasks lie."""
    spec = importlib.util.find_spec(PACKAGE)
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent


# --- under the earlier name -----------------------------------------------------------------------


class _SharedModules(MetaPathFinder, Loader):
    """Gives the modules of `pbt_flow.tasks` to whoever imports them from `tasks`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{EARLIER}."):
            return None
        # Another package of this name may have taken the place of ours.
        if sys.modules.get(EARLIER) is not sys.modules.get(PACKAGE):
            return None
        if importlib.util.find_spec(f"pbt_flow.{fullname}") is None:
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"pbt_flow.{spec.name}")
        # Python is about to write the spec of the other name into the module.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


_SHARED = _SharedModules()


def share_modules(file: str | None = None) -> None:
    """Let `tasks` be another name of `pbt_flow.tasks` in this process, with the same modules.

    Two copies of a module would have two classes of each task. A model that was logged by an
    earlier version names its class in this way (see docs/reading.md).

    Args:
        file: The `__init__.py` that is being imported as `tasks`, if one is. Nothing is shared
            where it is that of another copy of pbt_flow, whose modules differ.
    """
    package = importlib.import_module(PACKAGE)
    if file is not None and Path(file).resolve() != Path(str(package.__file__)).resolve():
        return
    sys.modules[EARLIER] = package
    if _SHARED not in sys.meta_path:
        sys.meta_path.insert(0, _SHARED)
