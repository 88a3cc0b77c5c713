"""The file of a database in SQLite: whether it is there, whole, and just being made by somebody.

Two processes that make one database at once break it, and so does one that uses it meanwhile.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_STILL_SECONDS = 5.0
"""After so long without a change nobody makes a database any more. MLflow changes it many times a
second."""
_MAKING_SECONDS = 120.0
"""The longest that it is waited for: on a slow disk MLflow takes half a minute."""


def missing_database(uri: str) -> Path | None:
    """Return the file of an SQLite store if it does not exist; None for any other store."""
    file = _database_file(uri)
    return None if file is None or file.exists() else file


def _database_file(uri: str) -> Path | None:
    """Return the file of an SQLite store; None for any other store."""
    scheme, _, place = uri.partition(":///")
    # A place that begins with a colon is in memory.
    if scheme.partition("+")[0] != "sqlite" or place.startswith((":", "file:")):
        return None
    # MLflow writes a space in its default URI as %20. SQLAlchemy decodes it from version 2.1 on,
    # and takes it literally before.
    name = place.partition("?")[0]
    decoded, literal = Path(unquote(name)).absolute(), Path(name).absolute()
    return literal if literal.exists() and not decoded.exists() else decoded


@contextlib.contextmanager
def database_lock(file: Path | None, *, makes: bool = True) -> Iterator[None]:
    """Let only one process at a time make a database, and nobody use it meanwhile.

    If two processes make the same database at once, MLflow's migrations break.

    Args:
        file: The file of the database; None if there is none to be waited for.
        makes: Whether it is made in the block. Those that do not make it do not wait for another.
    """
    if file is None or sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        # The folder is locked, since a lock file of our own would stay behind in it.
        folder = os.open(file.parent, os.O_RDONLY)
    except OSError:
        # MLflow will say what is wrong with the folder.
        yield
        return
    try:
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(folder, fcntl.LOCK_EX if makes else fcntl.LOCK_SH)
        yield
    finally:
        os.close(folder)


def wait_for_its_maker(uri: str) -> None:
    """Wait while another process makes the database, whose file is there from the first moment."""
    file = _database_file(uri)
    if file is None or not file.exists():
        return
    with database_lock(file, makes=False):
        pass
    wait_for_mlflow(file)


def wait_for_mlflow(file: Path) -> None:
    """Wait while MLflow itself makes a database, as `mlflow ui` does in a new folder.

    It takes no lock. Who used the database meanwhile would make it as well, and both would fail.
    """
    end = time.monotonic() + _MAKING_SECONDS
    # What has not changed for a while is not being made; it may be of another version of MLflow.
    while time.time() < _changed(file) + _STILL_SECONDS and not is_whole(file):
        if time.monotonic() > end:
            return
        time.sleep(0.1)


def _changed(file: Path) -> float:
    """When a database was changed last, in seconds of Unix time."""
    times = [0.0]
    # While it is written, SQLite keeps a journal beside it.
    for path in (file, file.with_name(f"{file.name}-journal")):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def is_whole(file: Path) -> bool:
    """Whether a database has all that this version of MLflow gives to a new one."""
    try:
        latest: Any = importlib.import_module("mlflow.store.db.utils")._get_latest_schema_revision
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as opened:
            found = opened.execute("SELECT version_num FROM alembic_version").fetchall()
        return bool(found == [(latest(),)])
    except sqlite3.OperationalError:
        return False  # Nothing is in it yet, or it is being written.
    except (sqlite3.DatabaseError, ImportError, AttributeError):
        return True  # It is no database, or one of an MLflow that keeps it otherwise.


@contextlib.contextmanager
def whole_or_gone(missing: Path | None) -> Iterator[None]:
    """Let an interrupt in the middle of a database's making leave nothing of it.

    Args:
        missing: The file that is to be made, if it is one.
    """
    try:
        yield
    except KeyboardInterrupt:
        if missing is not None:
            missing.unlink(missing_ok=True)
        raise
