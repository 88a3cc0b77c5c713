"""Brings the package and a task's folder to workers on machines that have neither.

Ray zips two folders when a driver attaches to a cluster, and each node unpacks them: the package,
which becomes importable there, and the folder that the task is imported from, which becomes the
working folder of the workers. The libraries of the task (torch, gymnasium) are not shipped: each
node must have them.
"""

from __future__ import annotations

import os
import shutil
import site
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pbt_flow
from pbt_flow.task.files import package_root
from pbt_flow.task.naming import source_of

_ALWAYS_LEFT_OUT = ("mlruns", "mlartifacts", "mlflow.db*", ".git", "__pycache__")
"""What no worker needs, as patterns of a .gitignore. MLflow's own store lies in the very folder
that a population is begun in, and grows with each turn."""
_ENVIRONMENT_MARKS = ("pyvenv.cfg", "conda-meta")
"""What only a folder with a Python environment of its own has."""
_HERE = "./"
"""What the name of a task's file begins with, if it is relative to the working folder."""


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """What workers elsewhere are sent, and what the task is called there."""

    package: Path
    """A copy of the package `pbt_flow`, with the tasks that come along inside of it."""
    folder: Path | None
    """The folder that the task is imported from; None if the task comes with a package that each
    node must have anyway."""
    task: str
    """The name of the task. The path of a file in it is relative to the folder."""

    def runtime_environment(self) -> dict[str, Any]:
        """What Ray is given when the driver attaches."""
        shipped: dict[str, Any] = {"py_modules": [str(self.package)]}
        if self.folder is not None:
            shipped["working_dir"] = str(self.folder)
            shipped["excludes"] = left_out(self.folder)
        return shipped


def pack(task: str, scratch: Path) -> Shipment:
    """Find what the workers of a population need.

    Args:
        task: The task's name (see `name_task`), which may hold the path of a file.
        scratch: An empty folder for the copy of the package. It must stay until the driver has
            attached.
    """
    file = source_of(task)
    folder = None
    if file is not None and not _comes_with_a_package(file):
        place = task.partition(":")[0]
        folder = package_root(file)
        if not place.endswith(".py"):
            # A module `a.b` is found from the folder above `a`, which need not be a package.
            inner = len(place.split(".")) - 1
            folder = file.parents[inner + 1 if file.name == "__init__.py" else inner]
    return Shipment(package=_copy_package(scratch), folder=folder, task=_relative(task, folder))


def unpacked(task: str) -> str:
    """The name of a shipped task in a worker, whose working folder holds the task's folder."""
    return str(Path.cwd() / task.removeprefix(_HERE)) if task.startswith(_HERE) else task


def left_out(folder: Path) -> list[str]:
    """What is not sent of a task's folder, as patterns of a .gitignore.

    What the folder's own .gitignore and .rayignore name is left out by Ray itself.
    """
    patterns = list(_ALWAYS_LEFT_OUT)
    for walked, folders, files in os.walk(folder):
        place = Path(walked)
        if place != folder and any(mark in (*folders, *files) for mark in _ENVIRONMENT_MARKS):
            patterns.append(f"/{place.relative_to(folder).as_posix()}")
            folders.clear()
        # Ray leaves them out, and they may hold a million files.
        folders[:] = [name for name in folders if name not in _ALWAYS_LEFT_OUT]
    database = os.environ.get("MLFLOW_TRACKING_URI", "").partition("sqlite:///")[2]
    store = Path(database).resolve() if database else None
    if store is not None and store.is_relative_to(folder):
        patterns.append(f"/{store.relative_to(folder).as_posix()}*")
    return patterns + _temporary(folder)


def _temporary(folder: Path) -> list[str]:
    """What is temporary in a task's folder: Ray would pack its own archive into itself."""
    patterns = list[str]()
    for name in (tempfile.gettempdir(), os.environ.get("RAY_TMPDIR")):
        place = Path(name).resolve() if name else None
        if place is not None and place.is_relative_to(folder):
            inside = place.relative_to(folder).as_posix()
            patterns += ["/ray", "/pbt_flow-*"] if place == folder else [f"/{inside}"]
    return patterns


def _relative(task: str, folder: Path | None) -> str:
    """The task's name, with a file's path relative to the folder that is shipped."""
    place, colon, attribute = task.partition(":")
    if folder is None or not place.endswith(".py"):
        return task
    return f"{_HERE}{Path(place).resolve().relative_to(folder).as_posix()}{colon}{attribute}"


def _comes_with_a_package(file: Path) -> bool:
    """Whether a file belongs to an installed package, to Python, or to pbt_flow."""
    installed = {*sysconfig.get_paths().values(), *site.getsitepackages()}
    installed |= {site.getusersitepackages(), *map(str, _own_folders())}
    # The folder of Python's scripts and data may be any, such as the user's own.
    roots = {Path(path).resolve() for path in installed if Path(path).name != "bin"}
    roots -= {Path(sysconfig.get_path("data")).resolve()}
    return any(file.resolve().is_relative_to(root) for root in roots)


def _own_folders() -> list[Path]:
    """The folder of this package, and that of the tasks that come along."""
    package = Path(str(pbt_flow.__file__)).resolve().parent
    tasks = source_of(f"{pbt_flow.PACKAGE}.toy")
    return [package] if tasks is None else [package, tasks.parent]


def _copy_package(scratch: Path) -> Path:
    """Copy the package as a wheel has it, where the tasks lie inside; in a clone they lie beside.

    A copy, since Ray looks at each file twice, and a clone may hold more than the package.
    """
    package, *tasks = _own_folders()
    copy = scratch / "pbt_flow"
    skip = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(package, copy, ignore=skip)
    if tasks and not (copy / "tasks").exists():
        shutil.copytree(tasks[0], copy / "tasks", ignore=skip)
    return copy
