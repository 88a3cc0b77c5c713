"""A task's file as a module that other processes can import, those that the task starts as well.

A file is imported by its own stem, with its folder at the end of `sys.path`: what Python's
`multiprocessing` starts inherits that path, whatever its start method is. Where the stem means
another module here (`random.py`, or a second `mine.py`), the file is imported as a submodule of
this one, under a name that holds the file's path: whoever can import `pbt_flow` can import it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from pbt_flow.exceptions import TaskError
from pbt_flow.task.bundled import module_of
from pbt_flow.utils.import_order import beside_before_here

__path__: list[str] = []  # Python asks the finders for submodules only of what has a path.

_NO_PACKAGE = "attempted relative import with no known parent package"
"""What Python says to `from .beside import ...` in a file by itself."""
_LOADING = ContextVar("loading", default=False)
_LOADED: set[str] = set()
"""The modules that were loaded as a task's file; a note on `sys.modules`, and as global."""
_FOLDERS: list[str] = []
"""The folders that were put on `sys.path` for a task's file; a note on `sys.path`."""


def load_file(path: Path) -> ModuleType:
    """Import a task's file.

    Raises:
        TaskError: There is no such file, or what it imports cannot be told from another's.
    """
    path = path.resolve()
    if not path.is_file():
        raise TaskError(f"there is no file {path} to take a task from")
    token = _LOADING.set(True)
    try:
        if (ours := module_of(path)) is not None:
            return importlib.import_module(ours)
        # A file inside a package is imported as part of it, so that its own imports work.
        if (path.parent / "__init__.py").is_file():
            return _load_in_package(path)
        return _load_alone(path)
    finally:
        _LOADING.reset(token)


def add_siblings(path: Path) -> None:
    """Let a script that is run, and not imported, import what stands beside it.

    Raises:
        TaskError: What it imports cannot be told from what stands beside another task's file.
    """
    _check_siblings(path.resolve())
    _add_folder(str(path.resolve().parent))


def is_loading() -> bool:
    """Whether this is called by a file that is being imported, by us or in a child process."""
    # A child of this process imports the main script anew; multiprocessing knows it by this mark.
    inheriting = getattr(multiprocessing.current_process(), "_inheriting", False)
    return _LOADING.get() or inheriting or bool(os.environ.get("PBT_FLOW_WORKER"))


def is_nameless(module: str) -> bool:
    """Whether a process that has not been told where to look cannot import a module by its name."""
    if module == "__main__" or module in _LOADED:
        return True
    if module.partition(".")[0] == "pbt_flow":
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    # A module beside a task's file is found through the folder that was added for that.
    return file is not None and str(package_root(Path(file).resolve())) in _FOLDERS


def search_path() -> list[str]:
    """`sys.path` without what was added for a task's file: each process adds what it needs."""
    return [entry for entry in sys.path if entry not in _FOLDERS]


def _load_in_package(path: Path) -> ModuleType:
    root = package_root(path)
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    top = name.partition(".")[0]
    importlib.invalidate_caches()
    # Another package of this name may come before: a clone's `tasks` before a user's.
    if top not in sys.modules and _place_of(top) != root / top / "__init__.py":
        sys.path.insert(0, str(root))
    taken = _place_of(top)
    if taken != root / top / "__init__.py":
        raise TaskError(
            f"{path} cannot be imported: {top} is already {taken or 'another package'}; rename one "
            f"of the two packages {top}, or train in a process of its own"
        )
    return importlib.import_module(name)


def _load_alone(path: Path) -> ModuleType:
    added = _add_folder(str(path.parent))
    try:
        _check_siblings(path)
        name = path.stem if _stem_means(path) else f"{__name__}.{_submodule_of(path)}"
        with beside_before_here(path):
            module = importlib.import_module(name)
    except BaseException as error:
        if added:
            sys.path.remove(str(path.parent))
            _FOLDERS.remove(str(path.parent))
        if isinstance(error, ImportError) and _is_relative(error):
            raise TaskError(
                f"{path} has a relative import (`from .module import ...`) and lies in no package; "
                "write whose module it is, in a copy of one of our tasks `from "
                "pbt_flow.tasks.module import ...`"
            ) from error
        raise
    _LOADED.add(module.__name__)
    # Pickles of earlier versions know the file by this name.
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    sys.modules.setdefault(f"pbt_flow_task_{path.stem}_{digest}", module)
    return module


def _is_relative(error: ImportError) -> bool:
    """Whether an import failed because it is relative, in a file by itself."""
    # A file whose stem means another module is loaded as a submodule of this one.
    return _NO_PACKAGE in str(error) or (error.name or "").startswith(f"{__name__}.")


def _add_folder(folder: str) -> bool:
    """Let modules of a folder be found, after all others; False if they are already."""
    if any(os.path.realpath(entry) == folder for entry in sys.path):
        return False
    # At the end: a file called random.py must not become everybody's random.
    sys.path.append(folder)
    _FOLDERS.append(folder)
    return True


def _stem_means(path: Path) -> bool:
    """Whether a file is what its stem means, in this process and in its children."""
    if "." in path.stem:
        return False
    if (loaded := sys.modules.get(path.stem)) is not None:
        return _is_file_of(loaded, path)
    # A finder remembers a folder's files for as long as its time of change looks the same.
    importlib.invalidate_caches()
    return _place_of(path.stem) == path


def _place_of(module: str) -> Path | None:
    """The file that a top-level module has, or would have."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        return None if file is None else Path(file).resolve()
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return None if spec is None or not spec.has_location else Path(str(spec.origin)).resolve()


def _is_file_of(module: ModuleType, path: Path) -> bool:
    return Path(str(getattr(module, "__file__", None))).resolve() == path


def package_root(path: Path) -> Path:
    """The folder that a file is imported from: the first one above it that is no package."""
    root = path.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    return root


def _check_siblings(path: Path) -> None:
    """Refuse a file whose `import helper` would take the helper of another task's folder.

    Two copies of an experiment have files of the same names, and a process has one module of each.

    Raises:
        TaskError: It would.
    """
    others = [folder for folder in _FOLDERS if folder != str(path.parent)]
    if not others:
        return
    for name in sorted(_imports(path)):
        beside = [path.with_name(f"{name}.py"), path.parent / name / "__init__.py"]
        taken = _place_of(name)
        if taken is None or taken in beside or not any(place.is_file() for place in beside):
            continue
        if str(package_root(taken)) in others:
            raise TaskError(
                f"{path} imports {name}, which in this process means {taken}, of another task; "
                f"train the two in processes of their own, or rename one {name}"
            )


def _imports(path: Path) -> set[str]:
    """The top-level modules that a file imports, inside of functions as well."""
    found: set[str] = set()
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return found  # Python says so when it imports it
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


# --- files whose stem means another module --------------------------------------------------------


def _submodule_of(path: Path) -> str:
    """The name of a file among the submodules of this module; it holds the path."""
    plain = "".join(letter if letter.isalnum() else "_" for letter in path.stem)
    return f"{plain}_{os.fsencode(path).hex()}"


def _file_in(submodule: str) -> Path | None:
    """The file that such a name holds; None if it is no such name."""
    try:
        return Path(os.fsdecode(bytes.fromhex(submodule.rpartition("_")[2])))
    except ValueError:
        return None


class _Finder(MetaPathFinder):
    """Finds the files whose paths the names of submodules hold."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, submodule = fullname.rpartition(".")
        file = _file_in(submodule) if package == __name__ else None
        if file is None:
            return None
        if not file.is_file():
            raise ModuleNotFoundError(f"there is no file {file} any more", name=fullname)
        return importlib.util.spec_from_file_location(fullname, file)


# A child process imports this module as the parent of such a submodule, and nothing before it.
sys.meta_path.append(_Finder())
