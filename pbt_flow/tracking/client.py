"""The way to MLflow: the client of the tracking store that is set, and single files of its runs."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

import mlflow
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from pbt_flow.exceptions import StoreError, StoreUnavailable
from pbt_flow.tracking.drivers import check_database, hide_password, is_of_a_store, is_refusal, says

_REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
}
"""What MLflow calls an error that trying again does not mend, such as a run that was deleted."""
_BY_SERVER = {"mlflow-artifacts", "http", "https", "dbfs"}
"""Places for artifacts that a tracking server, which has answered, looks after."""


def connect() -> tuple[MlflowClient, str]:
    """A client of the tracking store that MLflow is set to, and the store's URI.

    Raises:
        StoreError: It does not answer.
    """
    uri = mlflow.get_tracking_uri()
    missing = missing_database(uri)
    if missing is None:
        try:
            check_database(uri)
        except Exception as error:
            raise _unreachable(uri, error) from error
    # MLflow would try for two minutes, and then raise what its database library raised.
    if missing is not None and missing.parent.is_dir() and not os.access(missing.parent, os.W_OK):
        raise StoreError(
            f"cannot make the MLflow tracking store {uri}: the folder {missing.parent} cannot be "
            "written; go to a folder of your own, or set MLFLOW_TRACKING_URI"
        )
    try:
        with _alone(missing):
            client = MlflowClient(uri)
            client.search_experiments(view_type=ViewType.ALL, max_results=1)
    except Exception as error:
        if not is_of_a_store(error):
            raise
        raise _unreachable(uri, error) from error
    return client, uri


def _unreachable(uri: str, error: Exception) -> StoreError:
    said = says(error)
    if "already exists" in said and uri.startswith("sqlite"):
        return StoreError(
            f"the database {uri} was left half made ({said}), as by a process that was stopped "
            "while MLflow made it; if it was new, delete its file and try again"
        )
    return StoreError(
        f"cannot reach the MLflow tracking store {hide_password(uri)} (from MLFLOW_TRACKING_URI): "
        f"{said}"
    )


def check_artifacts(location: str, uri: str) -> None:
    """Look into a place for artifacts that is elsewhere, before anything is written there.

    Args:
        location: Of an experiment or a run.
        uri: Of the tracking store.

    Raises:
        StoreError: It cannot be reached: a package is missing, say, or a credential.
    """
    if local_path(location) is not None or urlparse(location).scheme in _BY_SERVER:
        return
    try:
        get_artifact_repository(location, tracking_uri=uri).list_artifacts()
    except Exception as error:
        if not is_of_a_store(error):
            raise
        raise StoreError(
            f"cannot reach the place for artifacts {hide_password(location)}: {says(error)}"
        ) from error


@contextlib.contextmanager
def _alone(missing: Path | None) -> Iterator[None]:
    """Let one process at a time make a database: two that do it at once break MLflow's migrations.

    Args:
        missing: The file that is to be made, if it is one.
    """
    if missing is None or sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        folder = os.open(missing.parent, os.O_RDONLY)
    except OSError:  # MLflow says what is wrong with it
        yield
        return
    try:
        with contextlib.suppress(OSError):  # some file systems know no locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextlib.contextmanager
def short_requests() -> Iterator[None]:
    """Let no request to a tracking server last longer than a moment, while this lasts.

    MLflow's client repeats one for four minutes, in which a controller could hand out no turns.
    What the user has set stays as it is.
    """
    ours = {name: value for name, value in _REQUESTS.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextlib.contextmanager
def talking(uri: str, run_id: str) -> Iterator[None]:
    """Talk to the store of a population, and tell a refusal from a store that does not answer.

    Raises:
        StoreUnavailable: It does not answer now, and may do so later.
        StoreError: It refuses, and would do so again.
    """
    try:
        yield
    except Exception as error:
        if not is_of_a_store(error):
            raise
        what = (
            f"the tracking store {hide_password(uri)} does not take what is logged: {says(error)}"
        )
        remedy = (
            f"every turn that was committed is safe, go on with python -m pbt_flow resume {run_id}"
        )
        if not is_away(error):
            raise StoreError(f"{what}; {remedy}") from error
        raise StoreUnavailable(what, remedy) from error


def is_away(error: BaseException) -> bool:
    """Whether the store that raised this may answer later; a refusal it would only repeat."""
    if isinstance(error, MlflowException):
        return error.error_code not in _REFUSALS
    if not isinstance(error, OSError):
        return not is_refusal(error)
    # An answer of an HTTP server that blames the request: an artifact that is not there, say.
    answer = getattr(error, "response", None)
    return answer is None or answer.status_code >= 500


def missing_database(uri: str) -> Path | None:
    """The file of an SQLite store that does not exist; None of any other store."""
    scheme, _, place = uri.partition(":///")
    if scheme.partition("+")[0] != "sqlite" or place.startswith((":", "file:")):
        return None
    # MLflow writes a space in its default as %20. SQLAlchemy reads it as the space from version 2.1
    # on, and literally before.
    name = place.partition("?")[0]
    read, literal = Path(unquote(name)).absolute(), Path(name).absolute()
    return None if read.exists() or literal.exists() else read


def read_text(client: MlflowClient, run_id: str, artifact: str) -> str:
    """What an artifact of a run says."""
    return read_bytes(client, run_id, artifact).decode()


def read_bytes(client: MlflowClient, run_id: str, artifact: str) -> bytes:
    """What an artifact of a run holds; from the disk where it lies there."""
    place = local_path(client.get_run(run_id).info.artifact_uri)
    if place is not None:
        return Path(place, artifact).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, artifact, folder)).read_bytes()


def local_path(artifact_uri: str) -> str | None:
    """The folder behind an artifact URI, or None if it is not on a disk of this machine."""
    parts = urlparse(artifact_uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return url2pathname(parts.path)
    return artifact_uri if not parts.scheme else None
