"""How a task is named: an entry point, a module and its class, or a file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbt_flow.exceptions import TaskError as TaskError
from pbt_flow.joining import is_joining
from pbt_flow.task.files import is_nameless, load_file

if TYPE_CHECKING:
    pass

from pbt_flow.task.base import Task
from pbt_flow.task.joined_script import ScriptTask, task_of

GROUP = "pbt_flow.tasks"
"""The group of entry points in which packages announce tasks."""


def find_task(name: str) -> type[Task]:
    """The task class that `name` means.

    Args:
        name: An entry point of the group `pbt_flow.tasks` (`rl`), `module:Class`,
            `path/to/file.py:Class` (the class may be left out where the file has just one),
            `path/to/script.py` that calls `pbt_flow.join`, or the name of a file in the folder
            `tasks` of the working folder.

    Raises:
        TaskError: There is no such task; the message lists what there is.
    """
    place, _, attribute = name.partition(":")
    if place.endswith(".py"):
        if not attribute and is_joining(Path(place)):
            return task_of(Path(place).resolve())
        found = load_file(Path(place))
    elif ":" in name:
        found = _import(place)
    else:
        known = _registered()
        local = Path("tasks", f"{name}.py")
        if name in known:
            place, _, attribute = known[name].partition(":")
            found = _import(place)
        elif name.isidentifier() and is_joining(local):
            return task_of(local.resolve())
        elif name.isidentifier() and local.is_file():
            found = load_file(local)
        else:
            files = (p for p in Path("tasks").glob("[!_]*.py") if "(Task)" in p.read_text("utf-8"))
            names = sorted({*known, *(path.stem for path in files)})
            there = f"there are {names}" if names else "none is installed, and none in ./tasks"
            raise TaskError(
                f"no task is called {name!r}; {there}, or name one as module:Class or "
                "path/to/file.py:Class"
            )
    return _pick(found, attribute, name)


def _registered() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=GROUP)}


def _import(module: str) -> Any:
    if not all(part.isidentifier() for part in module.split(".")):
        raise TaskError(f"{module!r} is no module's name to take a task from")
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
        if attribute not in own:
            raise TaskError(f"task {name!r}: no Task called {attribute!r}; there are {sorted(own)}")
        return own[attribute]
    here = [task for task in own.values() if task.__module__ == module.__name__]
    if len(here) != 1:
        raise TaskError(
            f"task {name!r}: name the class, as in file.py:Class; there are {sorted(own)}, and "
            "it is no script that calls pbt_flow.join"
        )
    return here[0]


def name_task(task: str | type[Task]) -> str:
    """A name by which any process finds `task` again (see `find_task`).

    Raises:
        TaskError: The class is defined where no other process can find it.
    """
    if isinstance(task, str):
        place, colon, attribute = task.partition(":")
        if not colon and place.isidentifier() and place not in _registered():
            place = str(Path("tasks", f"{place}.py"))
        # A path is made absolute, so that a resume from another folder finds the same file.
        return f"{Path(place).resolve()}{colon}{attribute}" if place.endswith(".py") else task
    if issubclass(task, ScriptTask):
        return str(task.path)
    if "." in task.__qualname__:
        inside = "function" if "<locals>" in task.__qualname__ else "class"
        raise TaskError(
            f"{task.__qualname__} is defined inside a {inside}; move it to the top of a file"
        )
    module = sys.modules.get(task.__module__)
    if not is_nameless(task.__module__):
        return f"{task.__module__}:{task.__qualname__}"
    source = getattr(module, "__file__", None)
    if source is None:
        raise TaskError(f"{task.__qualname__} is defined at a prompt; move it to a file")
    path = Path(source).resolve()
    if not path.is_file():
        raise TaskError(
            f"{task.__qualname__} is defined in {source}, which other processes cannot read; move "
            "it to a file"
        )
    if path.suffix != ".py":
        raise TaskError(
            f"{task.__qualname__} is defined in {path}, whose name does not end in .py, as that of "
            f"a module must; call it {path.name}.py"
        )
    return f"{path}:{task.__qualname__}"


def is_same_task(first: str, second: str) -> bool:
    """Whether two names of tasks (see `name_task`) mean one class.

    `rl` and `tasks.rl:RL` do, and so does the path of that file. Nothing is imported to find out,
    since a task's libraries may take seconds, or may not be here.
    """
    if first == second:
        return True
    (place, attribute), (other, its) = _locate(first), _locate(second)
    # A name may leave the class out where the file has just one, and then it means that one.
    return place == other and (attribute == its or not attribute or not its)


def _locate(name: str) -> tuple[str, str]:
    """Where the class that a name means is written: its file, or else its module; and the class."""
    place, _, attribute = _registered().get(name, name).partition(":")
    if place.endswith(".py"):
        return str(Path(place).resolve()), attribute
    return _file_of(place) or place, attribute


def _file_of(module: str) -> str | None:
    """The file of a module; None if it is not found. No package around it is imported either."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for depth in range(len(rest)):
            if spec is None or spec.submodule_search_locations is None:
                return None
            inner = ".".join([top, *rest[: depth + 1]])
            spec = PathFinder.find_spec(inner, list(spec.submodule_search_locations))
    except (ImportError, ValueError):  # ValueError: what is loaded under that name has no spec.
        return None
    return None if spec is None or spec.origin is None else str(Path(spec.origin).resolve())
