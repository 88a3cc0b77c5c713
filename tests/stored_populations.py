"""Populations that tests begin with: trained once in a session, and copied for whoever asks."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

import pbt_flow
from pbt_flow.population.records import Turn
from pbt_flow.population.result import Result
from pbt_flow.task import Task

SMALL = {"engine": "inline", "quiet": True, "population": 2, "turns": 2, "interval": 3}
"""The settings of a population where a test gives no others."""
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
"""The columns in which MLflow keeps folders."""


class TrainedOnce:
    """Trains what it has not trained yet, each set of populations in a store of its own.

    Args:
        folder: Where the stores lie.
        empty: An empty database of MLflow's, which needs no migration.
    """

    def __init__(self, folder: Path, empty: Path) -> None:
        self._folder, self._empty = folder, empty
        self._made: dict[str, tuple[Path, list[str]]] = {}

    def copy_to(
        self, here: Path, task: type[Task] | str, populations: Sequence[Mapping[str, Any]]
    ) -> list[Result]:
        """Copy a store with these populations into the working folder `here`.

        The copy is the test's own: it may resume, harm or delete what is in it. The test must not
        have used the store of its working folder before.
        """
        key = repr((task, [sorted(settings.items()) for settings in populations]))
        if key not in self._made:
            folder = self._folder / str(len(self._made))
            folder.mkdir()
            self._made[key] = folder, self._train(folder, task, populations)
        folder, run_ids = self._made[key]
        shutil.copytree(folder, here, dirs_exist_ok=True)
        # MLflow remembers by a run's id where its artifacts are: they are in another folder now.
        _artifact_repos_cache.clear()
        move(here / "mlflow.db", folder, here)
        return [pbt_flow.load(run_id) for run_id in run_ids]

    def _train(
        self, folder: Path, task: type[Task] | str, populations: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        copy_empty(self._empty, folder)
        with working_in(folder):
            return [pbt_flow.run(task, **{**SMALL, **settings}).run_id for settings in populations]


def copy_empty(database: Path, folder: Path) -> Path:
    """Put an empty store into a folder, as MLflow would have made it there."""
    path = Path(shutil.copy(database, folder / "mlflow.db"))
    move(path, database.parent, folder)
    return path


def move(database: Path, before: Path, after: Path) -> None:
    """Have a database look for artifacts in another folder than before."""
    folders = f"{before.resolve()}/", f"{after.resolve()}/"
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for table, column in _PLACES:
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", folders)


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make a folder the working one for the time of the block."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def turns_of(result: Result) -> list[Turn]:
    """All turns of a population."""
    return [turn for turns in result.history.turns.values() for turn in turns]


def essence(result: Result) -> dict[tuple[int, int], tuple[Any, ...]]:
    """What must not depend on who trained what where: scores, donors, the bytes of the states."""
    return {
        (turn.member, turn.number): (turn.score, turn.plan.donor, turn.checkpoint, turn.metrics)
        for turn in turns_of(result)
    }
