"""How a task is named: an entry point, a module and its class, or a file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from pbt_flow import PACKAGE
from pbt_flow.exceptions import TaskError as TaskError
from pbt_flow.joining import is_joining, is_training
from pbt_flow.task.base import Task
from pbt_flow.task.bundled import bundled_tasks, current_name, is_in_some_copy, module_of
from pbt_flow.task.files import is_nameless, load_file
from pbt_flow.task.joined_function import function_task
from pbt_flow.task.joined_script import task_of
from pbt_flow.task.session import MAIN, has_no_file, is_of_session, main_module
from pbt_flow.utils.entry_points import announced
from pbt_flow.utils.text import did_you_mean, listed

GROUP = "pbt_flow.tasks"
"""The group of entry points in which packages announce tasks."""


def find_task(name: str) -> type[Task]:
    """The task class that `name` means.

    Args:
        name: A task that comes along (`rl`) or an entry point of the group `pbt_flow.tasks`,
            `module:Class`, `path/to/file.py:Class` (the class may be left out where the file has
            just one), `path/to/script.py` that calls `pbt_flow.join`, `__main__:Class` (of a
            notebook's cell), or the name of a file in the folder `tasks` of the working folder.

    Raises:
        TaskError: There is no such task; the message lists what there is.
    """
    place, _, attribute = _now(name).partition(":")
    if place.endswith(".py"):
        if not attribute and is_joining(Path(place)):
            return task_of(Path(place).resolve())
        if not attribute and is_training(Path(place)):
            # It is not run to find out: a training script would train to its end.
            raise TaskError(
                f"{place} is no task: it has a loop and no class, and does not call pbt_flow.join; "
                "a script joins by a few lines, see docs/writing.md"
            )
        found = load_file(Path(place))
    elif is_of_session(name):
        found = main_module(name)
    elif ":" in name:
        found = _import(place)
    else:
        known = _registered()
        local = Path("tasks", f"{name}.py")
        if name in known:
            place, _, attribute = _now(known[name]).partition(":")
            found = _import(place)
        elif name.isidentifier() and is_joining(local):
            return task_of(local.resolve())
        elif name.isidentifier() and local.is_file():
            found = load_file(local)
        else:
            files = (p for p in Path("tasks").glob("[!_]*.py") if "(Task)" in p.read_text("utf-8"))
            names = sorted({*known, *(path.stem for path in files)})
            there = (
                f"there are {listed(names)}" if names else "none is installed, and none in ./tasks"
            )
            raise TaskError(
                f"no task is called {name!r}{did_you_mean(name, names)}; {there}, or name one as "
                "module:Class or path/to/file.py:Class"
            )
    return _pick(found, attribute, name)


def _registered() -> dict[str, str]:
    """The names of tasks that stand for `module:Class`; those that come along go first."""
    installed = {name: point.value for name, point in announced(GROUP).items()}
    return {**installed, **bundled_tasks()}


def _now(name: str) -> str:
    """A name as it is written now, if it is one that an earlier version gave to a task of ours.

    `tasks.rl:RL` is now `pbt_flow.tasks.rl:RL`. But it means a user's file where they have one at
    that place, which is found without importing anything of theirs.
    """
    current = current_name(name)
    if current is None:
        return name
    module, _, attribute = name.partition(":")
    found = _file_of(module)
    for file in (_local_file(module), None if found is None else Path(found)):
        if file is not None and not is_in_some_copy(file):
            return f"{file}:{attribute}"
    return current


def _local_file(module: str) -> Path | None:
    """The file of a module in the working folder, where only `python -m` looks by itself."""
    path = Path(*module.split(".")).resolve()
    files = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _file_in_working_folder(module: str) -> Path | None:
    """The file of a user's module in the working folder, where the module is not found otherwise.

    The folder of a clone is found as `tasks`, and would hide a `tasks` of the user's.
    """
    found = _file_of(module)
    if found is None or is_in_some_copy(Path(found)):
        local = _local_file(module)
        if local is not None and not is_in_some_copy(local):
            return local
    return None


def _import(module: str) -> Any:
    if not all(part.isidentifier() for part in module.split(".")):
        raise TaskError(f"{module!r} is no module's name to take a task from")
    local = _file_in_working_folder(module)
    if local is not None:
        return load_file(local)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise TaskError(f"there is no module {module!r} to take a task from") from None
        raise


def _pick(module: Any, attribute: str, name: str) -> type[Task]:
    own: dict[str, type[Task]] = {
        key: value
        for key, value in vars(module).items()
        # On Python 3.10 an alias such as `Mapping[str, int]` passes for a class itself.
        if issubclass(type(value), type)
        and issubclass(value, Task)
        and not inspect.isabstract(value)
    }
    if attribute:
        function = vars(module).get(attribute)
        if inspect.isfunction(function):
            return function_task(function)
        if attribute not in own:
            missing = sorted(getattr(function, "__abstractmethods__", ()))
            if missing and function is not Task:
                raise TaskError(f"task {name!r}: {attribute} lacks {listed(missing)}")
            raise TaskError(
                f"task {name!r}: no Task called {attribute!r}; there are {listed(sorted(own))}"
            )
        return own[attribute]
    here = [task for task in own.values() if task.__module__ == module.__name__]
    if len(here) != 1:
        raise TaskError(
            f"task {name!r}: name the class, as in file.py:Class; there are "
            f"{listed(sorted(own)) if own else 'no tasks in it'}, and it is no script that calls "
            "pbt_flow.join"
        )
    return here[0]


def name_task(task: str | type[Task] | Callable[[], Any]) -> str:
    """A name by which any process finds `task` again (see `find_task`).

    What no file holds, since it stands in a notebook's cell, is named `__main__:Class`, and found
    where the cell has been executed (see `pbt_flow.task.session`).

    Raises:
        TaskError: The class is defined where no other process can find it.
    """
    if isinstance(task, str):
        place, colon, attribute = _now(task).partition(":")
        if not colon and place.isidentifier() and place not in _registered():
            place = str(Path("tasks", f"{place}.py"))
        if not place.endswith(".py"):
            return f"{place}{colon}{attribute}"
        # A path is made absolute, so that a resume from another folder finds the same file.
        return _name_of_file(Path(place).resolve(), attribute)
    if "." in task.__qualname__:
        inside = "function" if "<locals>" in task.__qualname__ else "class"
        raise TaskError(
            f"{task.__qualname__} is defined inside a {inside}; move it to the top of a file or of "
            "a notebook's cell"
        )
    module = sys.modules.get(task.__module__)
    name = f"{task.__module__}:{task.__qualname__}"
    # A user's class may be called like one of ours was by an earlier version: then its file is
    # named, which means nothing else.
    if not is_nameless(task.__module__) and current_name(name) is None:
        return name
    if task.__module__ == MAIN and has_no_file(task, module):
        return name
    path = Path(str(getattr(module, "__file__", None))).resolve()
    if path.suffix != ".py":
        raise TaskError(
            f"{task.__qualname__} is defined in {path}, whose name does not end in .py, as that of "
            f"a module must; call it {path.name}.py"
        )
    return f"{path}:{task.__qualname__}"


def _name_of_file(file: Path, attribute: str) -> str:
    """The name of a class in a file: its path, unless it is one of the tasks that come along.

    The name of such a task means the same in another clone, and in a wheel.
    """
    module = module_of(file)
    for place in bundled_tasks().values():
        if place == f"{module}:{attribute}" or (place.startswith(f"{module}:") and not attribute):
            return place
    return f"{file}:{attribute}" if attribute else str(file)


def is_same_task(first: str, second: str) -> bool:
    """Whether two names of tasks (see `name_task`) mean one class.

    `rl` and `pbt_flow.tasks.rl:RL` do, `tasks.rl:RL` as an earlier version has it, and the path of
    that file in any copy of pbt_flow. Nothing is imported to find out, since a task's libraries may
    take seconds, or may not be here.
    """
    if first == second:
        return True
    (place, attribute), (other, its) = _locate(first), _locate(second)
    # A name may leave the class out where the file has just one, and then it means that one.
    return place == other and (attribute == its or not attribute or not its)


def source_of(name: str) -> Path | None:
    """The file in which the class of a name (see `name_task`) is written; None if it is not found.

    Nothing is imported to find out.
    """
    place = _now(_registered().get(name, name)).partition(":")[0]
    if place.endswith(".py"):
        return Path(place).resolve()
    local = _file_in_working_folder(place)
    found = _file_of(place)
    return local or (None if found is None else Path(found))


def _locate(name: str) -> tuple[str, str]:
    """Where the class that a name means is written: its file, or else its module; and the class."""
    place, _, attribute = _now(_registered().get(name, name)).partition(":")
    file = str(Path(place).resolve()) if place.endswith(".py") else _file_of(place)
    if file is None:
        return place, attribute
    module = f"{PACKAGE}.{Path(file).stem}"
    ours = {known.partition(":")[0] for known in bundled_tasks().values()}
    return module if module in ours and is_in_some_copy(Path(file)) else file, attribute


def _file_of(module: str) -> str | None:
    """The file of a module; None if it is not found. No package around it is imported either."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for depth in range(len(rest)):
            if spec is None or spec.submodule_search_locations is None:
                return None
            inner = ".".join([top, *rest[: depth + 1]])
            # In a clone, no folder of pbt_flow holds its tasks.
            spec = (
                importlib.util.find_spec(inner)
                if inner == PACKAGE
                else PathFinder.find_spec(inner, list(spec.submodule_search_locations))
            )
    except (ImportError, ValueError):  # ValueError: what is loaded under that name has no spec.
        return None
    return None if spec is None or spec.origin is None else str(Path(spec.origin).resolve())
