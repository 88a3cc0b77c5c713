"""A store that cannot be reached says why, and what to install."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator

import mlflow
import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

import pbt_flow
from pbt_flow.exceptions import StoreError, StoreUnavailable
from pbt_flow.tracking.client import check_artifacts, connect, is_away, talking
from pbt_flow.tracking.drivers import is_store_error, store_message
from pbt_flow.tracking.remote_checkpoints import RemoteFolders
from pbt_flow.utils.passwords import hide_password

WITHOUT = [
    ("postgresql+psycopg://u:secret@127.0.0.1/db", "psycopg", "psycopg[binary]"),
    ("postgresql+psycopg2://u:secret@127.0.0.1/db", "psycopg2", "psycopg2-binary"),
    ("mysql://u:secret@127.0.0.1/db", "MySQLdb", "mysqlclient"),
    ("mysql+pymysql://u:secret@127.0.0.1/db", "pymysql", "pymysql"),
    ("mssql+pymssql://u:secret@127.0.0.1/db", "pymssql", "pymssql"),
]
PLACES = [
    ("s3://bucket/place", "boto3", "boto3"),
    ("gs://bucket/place", "google", "google-cloud-storage"),
    ("wasbs://c@account.blob.core.windows.net/place", "azure", "azure-storage-blob"),
    ("sftp://host/place", "paramiko", "paramiko"),
]


@pytest.mark.parametrize(("uri", "module", "package"), WITHOUT)
def test_a_database_without_its_driver_names_what_to_install(uri, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    began = time.monotonic()
    for ask in (connect, lambda: pbt_flow.load("abc")):
        with pytest.raises(StoreError, match="cannot reach the MLflow tracking store") as told:
            ask()
        said = str(told.value)
        assert f'the package {module} is not installed; pip install "{package}' in said
        assert "secret" not in said
        assert "\n" not in said
    assert time.monotonic() - began < 30  # MLflow tries for 100 seconds


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(("place", "module", "package"), PLACES)
def test_an_artifact_store_without_its_package_is_named_before_a_run_is_made(
    place, module, package, monkeypatch
):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    client = MlflowClient()
    experiment_id = client.create_experiment("there", artifact_location=place)
    with pytest.raises(StoreError, match="cannot reach the artifact store") as told:
        pbt_flow.run("toy", engine="inline", quiet=True, population=2, turns=1, experiment="there")
    assert f'is not installed; pip install "{package}"' in str(told.value)
    assert place in str(told.value)
    assert client.search_runs([experiment_id]) == []
    # A population that somebody else has made there is not called none.
    run_id = client.create_run(experiment_id).info.run_id
    with pytest.raises(StoreError, match=f"cannot read population.json at {place}") as told:
        pbt_flow.load(run_id)
    assert f'pip install "{package}"' in str(told.value)


@pytest.mark.usefixtures("database")
def test_a_worker_that_lacks_the_package_does_not_wait_for_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "boto3", None)
    client = MlflowClient()
    experiment_id = client.create_experiment("there", artifact_location="s3://bucket/place")
    run_id = client.create_run(experiment_id).info.run_id
    folders = RemoteFolders(mlflow.get_tracking_uri(), {0: run_id}, str(tmp_path))
    with pytest.raises(StoreError, match='is not installed; pip install "boto3"') as told:
        folders.record(0, 1)
    assert not isinstance(told.value, StoreUnavailable)


def test_a_place_of_an_unknown_kind_is_refused_in_mlflows_words():
    with pytest.raises(StoreError, match="artifact store odd://place: .*odd://place"):
        check_artifacts("odd://place", "sqlite://")


# --- a database that answers otherwise, or not at all ---------------------------------------------


@pytest.fixture
def refusing() -> Iterator[int]:
    """A server that speaks as much PostgreSQL as it takes to refuse a password."""
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    fields = (b"SFATAL", b"VFATAL", b"C28P01", b'Mpassword authentication failed for user "u"')
    body = b"\0".join(fields) + b"\0\0"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1024)
                    connection.sendall(b"E" + (len(body) + 4).to_bytes(4, "big") + body)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_wrong_password_is_said_at_once_and_not_shown(refusing, monkeypatch):
    uri = f"postgresql+psycopg2://u:secret@127.0.0.1:{refusing}/db?sslmode=disable"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(StoreError, match='password authentication failed for user "u"') as told:
        connect()
    assert "u:***@127.0.0.1" in str(told.value)
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_host_that_does_not_answer_is_named_at_once(monkeypatch):
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://u:secret@127.0.0.1:9/db")
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"127\.0\.0\.1.*port 9 failed: Connection refused"):
        connect()
    assert time.monotonic() - began < 30


def test_a_file_that_is_no_database_is_called_so(monkeypatch, tmp_path):
    (tmp_path / "notes.txt").write_text("no database " * 1000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/notes.txt")
    with pytest.raises(StoreError, match=r"notes\.txt .*: file is not a database"):
        connect()


# --- whose error is it ----------------------------------------------------------------------------


class ClientError(Exception):
    """As botocore raises it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": code}}


class UploadFailed(Exception):
    """As boto3 raises it, for what botocore did."""


class NoCredentialsError(Exception):
    """As botocore raises it."""


ClientError.__module__ = NoCredentialsError.__module__ = "botocore.exceptions"
UploadFailed.__module__ = "boto3.exceptions"


def uploading(code: int) -> Exception:
    try:
        try:
            raise ClientError(code)
        except ClientError as error:
            raise UploadFailed(f"Failed to upload: {error}")  # noqa: B904
    except UploadFailed as error:
        return error


def answered(code: int) -> Exception:
    """What requests raises for an artifact that comes through a tracking server."""
    response = requests.Response()
    response.status_code = code
    return requests.HTTPError(f"{code} for url", response=response)


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (ClientError(403), False),
        (ClientError(404), False),
        (ClientError(429), True),
        (ClientError(503), True),
        (uploading(403), False),
        (uploading(500), True),
        (NoCredentialsError("Unable to locate credentials"), False),
        (ConnectionResetError("reset"), True),
        (ModuleNotFoundError("No module named 'boto3'", name="boto3"), False),
        (MlflowException("away"), True),
        (answered(404), False),
        (answered(408), True),
        (answered(429), True),
        (answered(503), True),
    ],
    ids=repr,
)
def test_what_only_a_change_mends_is_a_refusal(error, away):
    assert is_store_error(error)
    assert is_away(error) == away
    with pytest.raises(StoreError) as told, talking("sqlite://", "abc"):
        raise error
    assert isinstance(told.value, StoreUnavailable) == away
    assert store_message(error) in str(told.value)


@pytest.mark.parametrize(
    "error",
    [
        TypeError("ours"),
        KeyError("x"),
        StoreError("said"),
        RuntimeError("CUDA"),
        ModuleNotFoundError("No module named 'mine'", name="mine"),
    ],
    ids=repr,
)
def test_any_other_error_does_not_pass_for_one_of_the_store(error):
    assert not is_store_error(error)
    with pytest.raises(type(error)) as told, talking("sqlite://", "abc"):
        raise error
    assert told.value is error


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p%40ss@h:1/db", "postgresql://u:***@h:1/db"),
        ("at https://user:token@host/x, and s3://b/c", "at https://user:***@host/x, and s3://b/c"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("wasbs://container@account/x", "wasbs://container@account/x"),
        ("http://h:5000/x@y", "http://h:5000/x@y"),
        ("mysql+pymysql://u:p/a@h/db", "mysql+pymysql://u:***@h/db"),
        ("postgresql://u:12/3@h/db", "postgresql://u:***@h/db"),
        ("postgresql://:secret@h/db", "postgresql://:***@h/db"),
        ("https://:token@h/x", "https://:***@h/x"),
    ],
)
def test_passwords_are_hidden_and_nothing_else(text, shown):
    assert hide_password(text) == shown


POOL = "HTTPConnectionPool(host='127.0.0.1', port=9)"
NO_CONNECTION = "Failed to establish a new connection: [Errno 111] Connection refused"


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            f"NewConnectionError(\"HTTPConnection(host='127.0.0.1', port=9): {NO_CONNECTION}\")",
            NO_CONNECTION,
        ),
        (f"ReadTimeoutError('{POOL}: Read timed out. (read timeout=20)')", "Read timed out. (read"),
        ("ResponseError('too many 503 error responses')", "too many 503 error responses"),
    ],
)
def test_of_a_request_that_found_nobody_only_the_last_cause_is_said(cause, said):
    told = f"API request to http://h:9/api failed with exception {POOL}: Max retries exceeded with"
    message = store_message(MlflowException(f"{told} url: /api (Caused by {cause})"))
    assert message.startswith(said)
    assert "Pool" not in message
