"""Access to MLflow: a client of the tracking store that is set, and single artifacts of runs."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import mlflow
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

from pbt_flow.exceptions import StoreError, StoreUnavailable
from pbt_flow.tracking.database_file import (
    database_lock,
    missing_database,
    wait_for_its_maker,
    wait_for_mlflow,
    whole_or_gone,
)
from pbt_flow.tracking.drivers import check_database, is_refusal, is_store_error, store_message
from pbt_flow.tracking.new_database import NewDatabase, new_database
from pbt_flow.tracking.slow_answers import AwaitedClient, told_if_slow
from pbt_flow.utils.collection import collection_paused
from pbt_flow.utils.passwords import DATABASES, hide_password
from pbt_flow.utils.scratch import temporary_folder

_SHORT_REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_QUIET = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Of the output of MLflow nobody needs a bar for each file, or a link for each run."""
_THROUGH_SERVER = {
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_REQUESTS_AT_ONCE = 8
"""How many requests go to a tracking server at once. Eight of 100 ms are 80 turns a second."""
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
}
"""MLflow's codes of errors that trying again does not mend, such as a run that was deleted."""
_SERVED_SCHEMES = {"mlflow-artifacts", "http", "https", "dbfs"}
"""Schemes of artifact stores behind a tracking server. That server has answered already."""


def requests_at_once(uri: str) -> int:
    """Return how many requests a store takes at once without making one wait for another.

    Args:
        uri: The URI of the tracking store.
    """
    # SQLite has one writer at a time.
    return 1 if uri.startswith("sqlite") else _REQUESTS_AT_ONCE


def connect(made: NewDatabase | None = None) -> tuple[MlflowClient, str]:
    """Return a client of the tracking store that MLflow is set to, and the store's URI.

    Args:
        made: A database that has been made for the store, in case that it needs one; else one is
            made now.

    Raises:
        StoreError: The store does not answer.
    """
    uri = mlflow.get_tracking_uri()
    _import_store(uri)
    # What goes wrong is raised as well, and then told in a sentence, or tried again in silence.
    logging.getLogger("mlflow.store.db.utils").addFilter(_has_no_traceback)
    with told_if_slow(uri):
        wait_for_its_maker(uri)
    missing = missing_database(uri)
    if missing is None:
        try:
            with told_if_slow(uri):
                check_database(uri)
        except Exception as error:
            raise _unreachable(uri, error) from error
    # In a folder that cannot be written MLflow would try for two minutes to make its database, and
    # then raise an exception of SQLAlchemy.
    if missing is not None and missing.parent.is_dir() and not os.access(missing.parent, os.W_OK):
        raise StoreError(
            f"cannot make the MLflow tracking store {uri}: the folder {missing.parent} cannot be "
            "written; go to a folder of your own, or set MLFLOW_TRACKING_URI"
        )
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(database_lock(missing))
            if missing is not None:
                database = made or stack.enter_context(new_database(uri))
                ours = database.put(missing) if database else not missing.exists()
                if not ours:
                    wait_for_mlflow(missing)
                stack.enter_context(whole_or_gone(missing if ours else None))
            client = AwaitedClient(uri)
            client.search_experiments(view_type=ViewType.ALL, max_results=1)
    except Exception as error:
        if not is_store_error(error):
            raise
        raise _unreachable(uri, error) from error
    return client, uri


def _import_store(uri: str) -> None:
    """Import what MLflow needs for a database, half a second that it would take a little later."""
    if uri.partition("://")[0].partition("+")[0] in DATABASES:
        with collection_paused(), contextlib.suppress(ImportError):
            importlib.import_module("mlflow.store.tracking.sqlalchemy_store")


def _has_no_traceback(record: logging.LogRecord) -> bool:
    return record.exc_info is None


def connect_to_present(what: str) -> tuple[MlflowClient, str]:
    """The same for a store that must be there, since something is looked for in it.

    Args:
        what: What is not found where there is no store, as in "no run 5fa2".

    Raises:
        StoreError: There is none, or it does not answer.
    """
    # A client would make an empty database where there is none, and then find nothing in it.
    uri = mlflow.get_tracking_uri()
    if (file := missing_database(uri)) is not None:
        raise StoreError(
            f"{what} at {uri}: there is no file {file}. Go to the folder that the population began "
            "in, or set MLFLOW_TRACKING_URI to its store"
        )
    return connect()


def _unreachable(uri: str, error: Exception) -> StoreError:
    message = store_message(error)
    half = "already exists" in message or "Online migration" in message
    if half and uri.startswith("sqlite"):
        return StoreError(
            f"the database {uri} is only half made ({message}), as if a process was stopped while "
            "MLflow made it, or is still making it; if no process uses it and it was new, delete "
            "its file and try again"
        )
    return StoreError(
        f"cannot reach the MLflow tracking store {hide_password(uri)} (from MLFLOW_TRACKING_URI): "
        f"{message}"
    )


def check_artifacts(location: str, uri: str) -> None:
    """Refuse an artifact store that cannot be reached, before anything is written to it.

    Args:
        location: The artifact location of an experiment or a run.
        uri: The URI of the tracking store.

    Raises:
        StoreError: The artifact store cannot be reached: a package or a credential is missing, say.
    """
    check_served(location, uri)
    if local_path(location) is not None or urlparse(location).scheme in _SERVED_SCHEMES:
        return
    try:
        with told_if_slow(location):
            get_artifact_repository(location, tracking_uri=uri).list_artifacts()
    except Exception as error:
        if not is_store_error(error):
            raise
        raise StoreError(
            f"cannot reach the artifact store {hide_password(location)}: {store_message(error)}"
        ) from error


def needs_server(location: str, uri: str) -> bool:
    """Whether artifacts are those of a tracking server, and a store is not reached through one.

    `mlflow ui` and `mlflow server` give such a place to each experiment that they make.
    """
    place = urlparse(location)
    is_served = place.scheme == "mlflow-artifacts" and not place.netloc
    return is_served and urlparse(uri).scheme not in ("http", "https")


def check_served(location: str, uri: str) -> None:
    """Refuse artifacts that only a server reaches, where there is none.

    Raises:
        StoreError: There is none (see `needs_server`).
    """
    if needs_server(location, uri):
        raise StoreError(
            f"{behind_server(f'the artifacts ({location})', uri)}, or name a new experiment "
            "(experiment in Python, --experiment NAME in a shell)"
        )


def behind_server(what: str, uri: str) -> str:
    """Where artifacts are, and how they are reached, as a sentence (see `needs_server`)."""
    return (
        f"{what} lie behind a tracking server, and {hide_password(uri)} is its database: set "
        "MLFLOW_TRACKING_URI to the server, as http://127.0.0.1:5000"
    )


@contextlib.contextmanager
def short_requests() -> Iterator[None]:
    """Let a request to a tracking server fail soon instead of being repeated for minutes.

    By default MLflow's client repeats a request for four minutes, and the controller could not hand
    out turns in that time. Nor does MLflow print anything meanwhile but warnings. Variables that
    the user has set stay as they are, also the one that asks MLflow for more output.
    """
    with _variables({**_SHORT_REQUESTS, **_QUIET}), _MLFLOW_LOG.only_warnings():
        yield


def downloads_through_server() -> contextlib.AbstractContextManager[None]:
    """Let artifacts behind a tracking server be downloaded through that server.

    By default MLflow's client asks the server for an address in the bucket behind it, and downloads
    from there: the address by which the server knows the bucket, such as one of a network of its
    own. Where the client does not reach that, it tries again for minutes without a word. A variable
    that the user has set stays as it is.
    """
    return _variables(_THROUGH_SERVER)


class _Borrowed:
    """Environment variables that are set for a while, by one or more threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: Counter[str] = Counter()
        """How many have each variable set for them."""

    def take(self, wanted: Mapping[str, str]) -> list[str]:
        """Set variables that the user has not set; return their names."""
        with self._lock:
            # What is set by another thread is not the user's, and must last until both are done.
            ours = [name for name in wanted if name not in os.environ or self._users[name]]
            os.environ.update({name: wanted[name] for name in ours if not self._users[name]})
            self._users.update(ours)
            return ours

    def give_back(self, names: Sequence[str]) -> None:
        with self._lock:
            self._users.subtract(names)
            for name in names:
                if not self._users[name]:
                    os.environ.pop(name, None)


_BORROWED = _Borrowed()
"""Of this process, since the environment is one for all of its threads."""


class _MlflowLog:
    """The level of MLflow's logger, raised for a while by one or more threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users, self._before = 0, logging.NOTSET
        self._logger = logging.getLogger("mlflow")

    @contextlib.contextmanager
    def only_warnings(self) -> Iterator[None]:
        """Let MLflow log no less than warnings, unless the user has asked for more."""
        chosen = logging.getLevelName(os.environ.get("MLFLOW_LOGGING_LEVEL", "WARNING").upper())
        if isinstance(chosen, int) and chosen < logging.WARNING:
            yield
            return
        with self._lock:
            if self._users == 0:
                self._before = self._logger.level
                self._logger.setLevel(max(self._before, logging.WARNING))
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._logger.setLevel(self._before)


_MLFLOW_LOG = _MlflowLog()
"""Of this process, as the logger is."""


@contextlib.contextmanager
def _variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that the user has not set, for a while."""
    ours = _BORROWED.take(wanted)
    try:
        yield
    finally:
        _BORROWED.give_back(ours)


@contextlib.contextmanager
def talking(uri: str, run_id: str) -> Iterator[None]:
    """Turn what the store of a population raises into errors that name the store and the way out.

    Raises:
        StoreUnavailable: The store does not answer now, and may answer later.
        StoreError: The store refuses, and would refuse again.
    """
    try:
        yield
    except Exception as error:
        if not is_store_error(error):
            raise
        what = (
            f"the tracking store {hide_password(uri)} does not take what is logged: "
            f"{store_message(error)}"
        )
        remedy = (
            f"every turn that was committed is safe; go on with python -m pbt_flow resume {run_id}"
        )
        if not is_away(error):
            raise StoreError(f"{what}; {remedy}") from error
        raise StoreUnavailable(what, remedy) from error


@contextlib.contextmanager
def moving(uri: str, what: str) -> Iterator[None]:
    """Turn what a store raises while a population comes or goes into an error that names the store.

    Args:
        uri: The URI of the tracking store.
        what: What the store does not do, as in "does not take what is imported".

    Raises:
        StoreError: The store does not answer, or refuses.
        OSError: A disk of this machine is full, or cannot be read.
    """
    try:
        # There is a bar of ours for all of it, in place of MLflow's for each run.
        with _variables({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}):
            yield
    except OSError:
        raise
    except Exception as error:
        if not is_store_error(error):
            raise
        raise StoreError(
            f"the store {hide_password(uri)} {what}: {store_message(error)}"
        ) from error


def is_away(error: BaseException) -> bool:
    """Whether the store that raised an error may answer later; it would only repeat a refusal."""
    if isinstance(error, MlflowException):
        return error.error_code not in _REFUSALS
    return not is_refusal(error)


@contextlib.contextmanager
def store_prepared() -> Iterator[NewDatabase | None]:
    """Do what `connect` will need and what takes long, without writing anything that stays.

    Yields:
        The database of the tracking store that MLflow is set to, if it is missing: for `connect`,
        which puts it in its place. Without that nothing is left of it after the block.
    """
    uri = mlflow.get_tracking_uri()
    _import_store(uri)
    with contextlib.ExitStack() as stack:
        missing = missing_database(uri) is not None
        yield stack.enter_context(new_database(uri)) if missing else None


def artifacts_at(place: str, uri: str) -> Any:
    """Return MLflow's access to the artifacts of a run whose place is known.

    A client asks the tracking store for the run and for its models before each look into a folder:
    three requests in place of one.

    Args:
        place: The artifact URI of the run.
        uri: The URI of the tracking store.
    """
    own = add_databricks_profile_info_to_artifact_uri(place, uri)  # type: ignore[no-untyped-call]
    return get_artifact_repository(own, tracking_uri=uri)


def read_text(client: MlflowClient, run_id: str, artifact: str) -> str:
    """Return the text of an artifact of a run."""
    return read_bytes(client, run_id, artifact).decode()


def read_bytes(client: MlflowClient, run_id: str, artifact: str) -> bytes:
    """Return the content of an artifact of a run, without a download if it is on this machine."""
    place = local_path(client.get_run(run_id).info.artifact_uri)
    if place is not None:
        return Path(place, artifact).read_bytes()
    with temporary_folder() as folder, downloads_through_server():
        return Path(client.download_artifacts(run_id, artifact, folder)).read_bytes()


def delete_artifacts(repository: Any) -> None:
    """Delete what a run or a model has left, where the place for artifacts can."""
    for listed in repository.list_artifacts():
        # In its base class MLflow's deletion says that it is not possible.
        with contextlib.suppress(NotImplementedError):
            repository.delete_artifacts(listed.path)


def local_path(artifact_uri: str) -> str | None:
    """Return the folder that an artifact URI names; None if it is not on this machine's disks."""
    parts = urlparse(artifact_uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return url2pathname(parts.path)
    return artifact_uri if not parts.scheme else None
