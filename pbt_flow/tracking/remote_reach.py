"""The proof that a worker reaches the artifact store of its population, and the same as all others.

What a worker cannot reach would show only after its first turn, and be waited for as a store that
is away. Before that turn, each worker therefore looks for a token that the controller has left on
the run of a member, and writes, reads and deletes one of its own there, in the way of turns.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlparse

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from pbt_flow.exceptions import StorageError, StoreError
from pbt_flow.population.reach import TOKEN_PREFIX, Token, new_token
from pbt_flow.tracking.client import downloads_through_server, short_requests
from pbt_flow.tracking.database_file import missing_database
from pbt_flow.utils.machines import this_machine
from pbt_flow.utils.passwords import hide_password
from pbt_flow.utils.scratch import temporary_folder

Ask: TypeAlias = Callable[[Callable[[MlflowClient], Any]], Any]
"""Asks the store for something, for as long as it may be silent.

It raises `StoreError` if the store refuses or stays silent.
"""
_LOOPBACK = {"localhost", "::1", "0.0.0.0", "::"}
"""Names of the machine itself; so is every address that begins with 127."""
_ENDPOINTS = ("MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables with the address of an S3 server; the first that is set counts."""


def leave_token_on(run_id: str, ask: Ask) -> Token:
    """Leave a token on a run, and delete those that controllers which were killed have left.

    Raises:
        StoreError: The store refuses it, or does not answer.
    """

    def leave(client: MlflowClient) -> Token:
        for listed in client.list_artifacts(run_id):
            if listed.path.startswith(TOKEN_PREFIX):
                # Where the store cannot delete, they stay, as superfluous checkpoints do.
                with contextlib.suppress(Exception):
                    _delete(client, run_id, listed.path)
        token = new_token()
        _write(client, run_id, token.name)
        return token

    left: Token = ask(leave)
    return left


def remove_token_of(run_id: str, token: Token, tracking_uri: str) -> None:
    """Delete a token, if the store can delete and answers."""
    with contextlib.suppress(Exception), short_requests():
        _delete(MlflowClient(tracking_uri), run_id, token.name)


def prove_store_is_shared(run_id: str, token: Token, tracking_uri: str, ask: Ask) -> None:
    """Refuse a store that is not the controller's, or that cannot be used from here.

    Args:
        run_id: The run that has the token.
        token: The controller's token.
        tracking_uri: The URI of the tracking store.
        ask: Asks the store.

    Raises:
        StorageError: The message names what is not reached, from which machine, and the way out.
    """
    here, uri = this_machine().host, hide_password(tracking_uri)
    # A client would make a new database where there is none, and find nothing in it.
    if missing_database(tracking_uri) is not None:
        raise StorageError(
            f"a worker on {here} does not have the tracking store {uri}: it is a file of "
            f"{token.machine.host}; {_through_a_server(token)}"
        )
    with short_requests(), downloads_through_server():
        try:
            place = ask(lambda client: client.get_run(run_id).info.artifact_uri)
        except StoreError as error:
            way_out = _way_out(tracking_uri, token, str(error), f"let {here} reach that address")
            raise StorageError(
                f"a worker on {here} cannot use the tracking store {uri}: {error}; {way_out}"
            ) from error
        shown = hide_password(place)
        through_server = urlparse(place).scheme == "mlflow-artifacts"
        address = tracking_uri if through_server else _endpoint()
        try:
            if not ask(lambda client: _is_found(client, run_id, token)):
                way_out = _way_out(address, token, "", "let its address mean the same there")
                raise StorageError(
                    f"a worker on {here} does not find what {token.machine.host} has written to "
                    f"{shown}: there it leads to another store; {way_out}"
                )
            ask(lambda client: _try_own_token(client, run_id))
        except StoreError as error:
            way_out = _way_out(address, token, str(error), f"let {here} reach it")
            raise StorageError(
                f"a worker on {here} cannot use the artifact store {shown}: {error}; {way_out}"
            ) from error


# --- the way out ----------------------------------------------------------------------------------


def _way_out(address: str, token: Token, told: str, otherwise: str) -> str:
    """What is to be done about a store that cannot be used.

    Args:
        address: The address of the server that did not do what it was asked; empty if none is set.
        token: The controller's token.
        told: What was said about it.
        otherwise: What to do where nothing better is known.
    """
    here = this_machine().host
    if token.is_elsewhere and is_loopback(address):
        variable = next(
            (name for name in _ENDPOINTS if os.environ.get(name) == address), "MLFLOW_TRACKING_URI"
        )
        return (
            f"{urlparse(address).hostname} means {here} itself there; begin with {variable} set to "
            f"an address of {token.machine.host} that every machine reaches"
        )
    if address.startswith("sqlite"):
        return _through_a_server(token)
    if "is not installed" in told:
        return f"install it on {here}, as on every machine"
    if any(word in told.lower() for word in ("credential", "accessdenied", "forbidden", "403")):
        return (
            f"give the workers on {here} the credentials that {token.machine.host} has, or let "
            "artifacts go through mlflow server --artifacts-destination, which alone needs them"
        )
    return otherwise


def _through_a_server(token: Token) -> str:
    return (
        f"start mlflow server --host 0.0.0.0 on {token.machine.host}, and begin with "
        f"MLFLOW_TRACKING_URI=http://{token.machine.host}:5000"
    )


def is_loopback(address: str) -> bool:
    """Whether an address means, on each machine, that machine itself."""
    host = urlparse(address).hostname or ""
    return host in _LOOPBACK or host.startswith("127.")


def _endpoint() -> str:
    """The address of an S3 server that this process is set to; empty if it is set to none."""
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")


# --- tokens on a run ------------------------------------------------------------------------------


def _try_own_token(client: MlflowClient, run_id: str) -> None:
    """Write a token of this process, read it back and delete it.

    Raises:
        StoreError: What was written is not there.
    """
    own = new_token()
    _write(client, run_id, own.name)
    found = _is_found(client, run_id, own)
    with contextlib.suppress(Exception):
        _delete(client, run_id, own.name)
    if not found:
        raise StoreError(f"{own.name} was written without an error, and is not there")


def _is_found(client: MlflowClient, run_id: str, token: Token) -> bool:
    """Whether a run has a token."""
    if token.name not in [listed.path for listed in client.list_artifacts(run_id)]:
        return False
    with temporary_folder() as folder:
        found = Path(client.download_artifacts(run_id, token.name, folder)).read_text("utf-8")
    return found == token.name


def _write(client: MlflowClient, run_id: str, name: str) -> None:
    with temporary_folder() as folder:
        path = Path(folder, name)
        path.write_text(name, encoding="utf-8")
        client.log_artifact(run_id, str(path))


def _delete(client: MlflowClient, run_id: str, name: str) -> None:
    uri = client.get_run(run_id).info.artifact_uri
    repository: Any = get_artifact_repository(uri, tracking_uri=client.tracking_uri)
    repository.delete_artifacts(name)
