"""Runs that exist before a population does: the one made for this process, and the caller's own.

`mlflow run` makes a run for the process that it starts and names it in MLFLOW_RUN_ID. That run
becomes the population's. A shell or a pipeline may pass the same variable on to a second command,
however. By then the run is something else already, and must not be written to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

import mlflow
from mlflow.entities import Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pbt_flow.exceptions import StoreError
from pbt_flow.tracking.client import is_away

MANIFEST = "population.json"
FOUNDING = "pbt.founding"
"""The tag with which all runs of one population are made, by one attempt to make it.

Its value is an id of that attempt. A run that was adopted has a param of this name as well, since a
param can be written only once."""
_VARIABLE = "MLFLOW_RUN_ID"


def launched_run(client: MlflowClient, uri: str) -> Run | None:
    """Return the run that MLFLOW_RUN_ID names, if it is free to become a population's run.

    Returns:
        The run; None if the variable is not set, or names the run that is active in this process.

    Raises:
        StoreError: The run does not exist, or is something else already.
    """
    run_id, active = os.environ.get(_VARIABLE), mlflow.active_run()
    # An active run belongs to the caller, who logs to it and will end it.
    if not run_id or (active is not None and active.info.run_id == run_id):
        return None
    named = f"the environment variable {_VARIABLE} names run {run_id}"
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if is_away(error):
            raise
        raise StoreError(
            f"{named}, which is not at {uri} ({error.message}); unset {_VARIABLE}, or set "
            "MLFLOW_TRACKING_URI to the store of that run"
        ) from None
    found, population = describe_run(client, run)
    if not found:
        return run
    remedy = f"unset {_VARIABLE}, and a new run is made"
    if population:
        remedy = (
            f"go on with it: python -m pbt_flow resume {population}; or unset {_VARIABLE}, and a "
            "new run is made"
        )
    raise StoreError(f"{named}, which {found}: nothing new is written into it; {remedy}")


def take_launched_run(client: MlflowClient) -> str | None:
    """Return the id of the run that MLFLOW_RUN_ID names, and unset the variable.

    A command that goes on with an older population has no use for the run but a note in it.

    Returns:
        The run id; None if there is no such run, or if it is something else already.
    """
    try:
        run = launched_run(client, "")
    except Exception:  # whatever the store raises: the command can do without the note
        run = None
    os.environ.pop(_VARIABLE, None)
    return None if run is None else str(run.info.run_id)


def callers_run(client: MlflowClient) -> Run | None:
    """Return the run that is active in this process, for a new population to be a child of.

    Returns:
        The run; None if no run is active, if it is not in this store, or if it belongs to a
        population itself.
    """
    active = mlflow.active_run()
    if active is None:
        return None
    try:
        run = client.get_run(active.info.run_id)
    except (MlflowException, OSError):
        # The active run is in another store.
        return None
    found, _ = describe_run(client, run)
    return None if found else run


def describe_run(client: MlflowClient, run: Run) -> tuple[str, str]:
    """Say what a run is already.

    Returns:
        What it is, as the end of a sentence, and the population that a user could go on with. Both
        are empty if the run is free.
    """
    run_id, tags = run.info.run_id, run.data.tags
    if run.info.lifecycle_stage != "active":
        return "is deleted", ""
    population = tags.get("pbt.population")
    if population is not None:
        return f"is a member of population {population}", population
    role = tags.get("pbt.role")
    has_manifest = any(file.path == MANIFEST for file in client.list_artifacts(run_id))
    if has_manifest:
        return f"is a {role or 'population'} already", run_id
    if role is not None or FOUNDING in tags or FOUNDING in run.data.params:
        return "is the run of a population that is just being made, or never was complete", ""
    parent = tags.get("mlflow.parentRunId")
    if parent is not None and _belongs_to_population(client, parent):
        return "is a child of a run of a population", ""
    if RunStatus.is_terminated(RunStatus.from_string(run.info.status)):
        return f"has ended ({run.info.status})", ""
    return "", ""


def _belongs_to_population(client: MlflowClient, run_id: str) -> bool:
    with contextlib.suppress(MlflowException):
        tags = client.get_run(run_id).data.tags
        return "pbt.role" in tags or "pbt.population" in tags
    return False


def adopt(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    """Mark a run as one of the population that is being made, and unset MLFLOW_RUN_ID.

    Args:
        client: Talks to the tracking store.
        run: The run that MLFLOW_RUN_ID names.
        tags: The tags of the population's run, with the id of this attempt (see `FOUNDING`).

    Raises:
        StoreError: Another process has just done the same.
    """
    run_id = run.info.run_id
    try:
        # A param can be written only once, so if two processes try, exactly one succeeds.
        client.log_param(run_id, FOUNDING, tags[FOUNDING])
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        raise StoreError(
            f"the environment variable {_VARIABLE} names run {run_id}, into which another process "
            f"is just writing a population; unset {_VARIABLE}, and a new run is made"
        ) from None
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    # A process that this one starts must not take the run for free.
    os.environ.pop(_VARIABLE, None)
