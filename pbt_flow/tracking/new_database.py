"""A new SQLite database for MLflow: made in a folder of its own, and put in its place whole.

MLflow makes a new database by replaying all of its migrations, hundreds of statements that each
wait for the disk. Here the disk is waited for once, when the file is whole. Nobody ever sees half a
database, whatever ends this process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from mlflow.tracking import MlflowClient

from pbt_flow.tracking.drivers import is_store_error
from pbt_flow.utils.scratch import temporary_folder

_HURRY = ("PRAGMA synchronous = OFF", "PRAGMA journal_mode = MEMORY")
"""Of a file that is thrown away unless all goes well."""


class NewDatabase:
    """A database that nobody has seen yet.

    Args:
        made: Its file, in a folder that will be deleted.
    """

    def __init__(self, made: Path) -> None:
        self._made = made

    def put(self, file: Path) -> bool:
        """Put it where MLflow looks for it, unless another process has made one there meanwhile.

        Args:
            file: The database's place.

        Returns:
            Whether it has come to its place.

        Raises:
            OSError: The folder cannot be written.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = file.with_name(f"{file.name}.{secrets.token_hex(4)}.partial")
        try:
            with self._made.open("rb") as source, whole.open("xb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
            return _take_name(whole, file)
        finally:
            whole.unlink(missing_ok=True)


def _take_name(whole: Path, file: Path) -> bool:
    """Give a file its name, unless a file of that name is there; return whether it has it."""
    try:
        # A rename would replace what another process has put there a moment ago.
        os.link(whole, file)
    except FileExistsError:
        return False
    except OSError:
        # Some file systems have no links.
        if file.exists():
            return False
        whole.rename(file)
    return True


@contextlib.contextmanager
def new_database(uri: str) -> Iterator[NewDatabase | None]:
    """Make an MLflow database apart; what was not put in its place is gone after the block.

    Args:
        uri: The tracking store for which it is made. Only an SQLite database gets a new file.

    Yields:
        The database; None where MLflow has to make its own, in its own time.
    """
    with contextlib.ExitStack() as stack:
        database: NewDatabase | None = None
        # Behind another driver, such as that of encrypted files, a plain file would be useless.
        if uri.startswith("sqlite:"):
            try:
                folder = stack.enter_context(temporary_folder())
                made = Path(folder, "mlflow.db")
                _make(made)
                database = NewDatabase(made)
            except Exception as error:
                # A comfort, never a condition: what is wrong shows where MLflow makes its own.
                if not is_store_error(error) and not isinstance(error, sqlite3.Error):
                    raise
        yield database


def _make(file: Path) -> None:
    """Let MLflow make a database without waiting for the disk."""
    import sqlalchemy

    connections: list[sqlite3.Connection] = []

    def hurry(connection: sqlite3.Connection, _: object) -> None:
        # Another thread of the user's program may connect to a database of its own, of any kind.
        if isinstance(connection, sqlite3.Connection) and _is_open_in(connection, file):
            connections.append(connection)
            for statement in _HURRY:
                connection.execute(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", hurry)
    try:
        MlflowClient(f"sqlite:///{file.as_posix()}")
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", hurry)
        # MLflow keeps each connection for as long as the process lives.
        for connection in connections:
            connection.close()


def _is_open_in(connection: sqlite3.Connection, file: Path) -> bool:
    """Whether a connection is one to a file of a folder that has a name like no other."""
    _, _, place = connection.execute("PRAGMA database_list").fetchone()
    # A folder of the system may be a link, so that the two paths begin in different ways.
    return Path(place).parts[-2:] == file.parts[-2:]
