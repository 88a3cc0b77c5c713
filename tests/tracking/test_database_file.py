"""A database in a file is waited for while somebody makes it, and no longer."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from pbt_flow.exceptions import StoreError
from pbt_flow.tracking import database_file
from pbt_flow.tracking.client import connect


def test_a_database_that_mlflow_is_just_making_is_waited_for(
    tmp_path, monkeypatch, migrated_database
):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER)")
    whole = shutil.copy(migrated_database, tmp_path / "whole")
    # Nobody may be through with it before MLflow is.
    looks = threading.Event()
    is_whole = database_file.is_whole

    def look(place: Path) -> bool:
        found = is_whole(place)
        if not found:
            looks.set()
        return found

    def make() -> None:
        looks.wait()
        os.replace(whole, file)

    monkeypatch.setattr(database_file, "is_whole", look)
    maker = threading.Thread(target=make, daemon=True)
    maker.start()
    client, _ = connect()
    maker.join()
    assert client.get_experiment("0").name == "Default"


def test_a_database_that_nobody_makes_any_more_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER)")
    os.utime(file, (1.0, 1.0))

    def ask(_: Path) -> bool:
        raise AssertionError("somebody waits")

    monkeypatch.setattr(database_file, "is_whole", ask)
    with pytest.raises(StoreError):
        connect()
