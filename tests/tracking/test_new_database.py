"""A new database is MLflow's own, and comes to its place whole or not at all."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from pathlib import Path

import mlflow
import pytest
import sqlalchemy

import pbt_flow
from pbt_flow.tracking.client import connect, store_prepared
from pbt_flow.tracking.new_database import new_database
from pbt_flow.utils import scratch

SYNCHRONOUS_FULL = 2


def rows(file: Path, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return sorted(connection.execute(query).fetchall(), key=repr)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A database that has been made apart, and the folder of its place."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    with new_database("sqlite:///mlflow.db") as database:
        assert database is not None
        yield database, place


@pytest.mark.parametrize(
    "query",
    [
        "SELECT type, name, tbl_name FROM sqlite_master",
        # Not the statements as they were written: MLflow draws the order of constraints.
        'SELECT m.name, c.name, c.type, c."notnull", c.dflt_value, c.pk FROM sqlite_master m '
        "JOIN pragma_table_info(m.name) c WHERE m.type = 'table'",
        "SELECT version_num FROM alembic_version",
        "SELECT experiment_id, name, lifecycle_stage FROM experiments",
    ],
)
def test_it_is_the_database_that_mlflow_makes(query, made, migrated_database):
    database, place = made
    assert database.put(place / "mlflow.db")
    assert rows(place / "mlflow.db", query) == rows(migrated_database, query) != []


def test_the_default_experiment_keeps_its_artifacts_in_the_working_folder(made):
    database, place = made
    database.put(place / "mlflow.db")
    ((location,),) = rows(place / "mlflow.db", "SELECT artifact_location FROM experiments")
    assert Path(str(location)) == place / "mlruns" / "0"


def test_of_two_that_are_put_in_one_place_the_first_stays(made):
    database, place = made
    file = place / "mlflow.db"
    assert database.put(file)
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO experiments (name) VALUES ('of the first')")
    with new_database("sqlite:///mlflow.db") as other:
        assert other is not None
        assert not other.put(file)
    assert ("of the first",) in rows(file, "SELECT name FROM experiments")
    assert [path.name for path in place.iterdir()] == ["mlflow.db"]


def test_where_a_file_system_has_no_links_the_first_stays_as_well(made, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    database, place = made
    assert database.put(place / "mlflow.db")
    assert not database.put(place / "mlflow.db")
    assert [path.name for path in place.iterdir()] == ["mlflow.db"]


def test_a_folder_that_is_missing_is_made(made):
    database, place = made
    assert database.put(place / "deep" / "er" / "mlflow.db")


def test_what_was_not_put_in_its_place_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_held", None)

    def interrupted() -> None:
        with store_prepared() as database:
            assert database is not None
            assert list(scratch.scratch_folder().iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(scratch.scratch_folder().iterdir()) == []
    assert list(tmp_path.iterdir()) == [scratch.scratch_folder()]


@pytest.mark.durable
def test_the_database_in_its_place_waits_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = []

    def look(connection, _):
        settings.append(connection)

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", look)
    try:
        with store_prepared() as database:
            settings.clear()
            client, _ = connect(database)
        client.create_experiment("mine")
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", look)
    assert settings
    for connection in settings:
        assert connection.execute("PRAGMA synchronous").fetchone() == (SYNCHRONOUS_FULL,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.durable
def test_a_connection_of_somebody_else_keeps_waiting_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = []

    def connect_as_well(connection, _):
        if not found:
            found.append(None)
            found[0] = own.connect().exec_driver_sql("PRAGMA synchronous").scalar()

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", connect_as_well)
    try:
        with new_database("sqlite:///other.db") as database:
            assert database is not None
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", connect_as_well)
        own.dispose()
    assert found == [SYNCHRONOUS_FULL]


def test_mlflow_makes_its_own_where_no_temporary_file_can_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr(scratch, "_held", None)
    with store_prepared() as database:
        assert database is None
        client, _ = connect(database)
    assert (tmp_path / "mlflow.db").exists()
    assert client.get_experiment("0").name == "Default"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "sqlite+pysqlcipher://:key@/x.db", "mlruns"])
def test_only_a_plain_file_of_sqlite_is_made(uri):
    with new_database(uri) as database:
        assert database is None


def test_a_population_that_is_refused_leaves_no_database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pbt_flow.SettingsError):
        pbt_flow.run("gan", population=-1, engine="inline", quiet=True)
    assert mlflow.get_tracking_uri().endswith("mlflow.db")
    assert list(tmp_path.iterdir()) == []
