"""The ids of populations for the Tab key: read from MLflow's database file, without MLflow.

An import of mlflow takes more than a second, and nobody waits so long for a Tab. Only a database in
a file is read, and it is opened for reading alone. Whatever is otherwise, such as a server or
tables of another version, gives no ids: a Tab that finds nothing is no error. Everything else asks
`MlflowClient`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

_DEFAULT = "sqlite:///mlflow.db"
_SHORT = 8
"""Characters of an id that `list` shows; where ids begin alike, more are given."""
_MOST = 50
_WAIT = 0.5
"""Seconds to wait for a database that is being written."""
_QUERY = """
    SELECT run_uuid, name, status FROM runs
    WHERE lifecycle_stage = 'active'
    AND run_uuid IN (
        SELECT run_uuid FROM tags WHERE key = 'pbt.role' AND value IN ('population', 'replay'))
    AND run_uuid NOT IN (SELECT run_uuid FROM tags WHERE key = 'pbt.population')
    ORDER BY start_time DESC LIMIT ?
"""
"""Each model of a replay has the replay's role as well, and belongs to it."""


def run_words(uri: str | None = None) -> list[tuple[str, str]]:
    """The beginning of each population's run id with its name and status, newest first.

    Args:
        uri: The tracking store; None for the one that MLFLOW_TRACKING_URI or its default names.
    """
    path = _database(uri or os.environ.get("MLFLOW_TRACKING_URI") or _DEFAULT)
    if path is None or not path.is_file():
        return []
    address = f"file:{quote(str(path.resolve()))}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=_WAIT)) as database:
            rows = database.execute(_QUERY, (_MOST,)).fetchall()
    except sqlite3.Error:
        return []
    ids = [str(run_id) for run_id, _, _ in rows]
    return [
        (_beginning(run_id, ids), f"{name}, {str(status).lower()}") for run_id, name, status in rows
    ]


def _beginning(run_id: str, ids: Sequence[str]) -> str:
    """As much of an id as tells it from the others."""
    length = _SHORT
    while length < len(run_id) and sum(one.startswith(run_id[:length]) for one in ids) > 1:
        length += 1
    return run_id[:length]


def _database(uri: str) -> Path | None:
    """The file of a database; None where the store is something else."""
    scheme, _, place = uri.partition(":///")
    if scheme.partition("+")[0] != "sqlite":
        return None
    return Path(place.partition("?")[0])
