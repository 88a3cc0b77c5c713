"""Runs that were there before: the one that this process was started for, and the caller's own.

`mlflow run` names its run in MLFLOW_RUN_ID, and that run becomes the population. A shell or a
pipeline may hand the same name on, though, to a second command: by then the run is something else.
"""

from __future__ import annotations

import contextlib
import os

import mlflow
from mlflow.entities import Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pbt_flow.exceptions import StoreError
from pbt_flow.tracking.client import is_away

MANIFEST = "population.json"
FOUNDING = "pbt.founding"
"""The tag that tells the runs of one founding from all others; on a run that was adopted a param of
this name as well, since a param can be written only once."""
_VARIABLE = "MLFLOW_RUN_ID"


def launched_run(client: MlflowClient, uri: str) -> Run | None:
    """The run that MLFLOW_RUN_ID names, if it is still nothing else; None if nothing is named, or
    the caller's own run.

    Raises:
        StoreError: There is no such run, or it is something already.
    """
    run_id, active = os.environ.get(_VARIABLE), mlflow.active_run()
    # A run that is active here will be ended by the caller, who goes on with it until then.
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
    found, population = described(client, run)
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
    """The run of MLFLOW_RUN_ID for a note, and take the variable away; None if it is not free.

    What is noted there is a comfort: where the run is something else, it is left alone.
    """
    try:
        run = launched_run(client, "")
    except Exception:  # of the store: a comfort is no reason to stop
        run = None
    os.environ.pop(_VARIABLE, None)
    return None if run is None else str(run.info.run_id)


def callers_run(client: MlflowClient) -> Run | None:
    """The run that is active in this process, if the store has it and it is nothing of ours."""
    active = mlflow.active_run()
    if active is None:
        return None
    try:
        run = client.get_run(active.info.run_id)
    except (MlflowException, OSError):
        return None  # it is in another store
    found, _ = described(client, run)
    return None if found else run


def described(client: MlflowClient, run: Run) -> tuple[str, str]:
    """What a run is already, in words, and the population to go on with; both empty if nothing."""
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


def adopt(client: MlflowClient, run: Run, founding: str) -> None:
    """Make a run one that this founding has made.

    Raises:
        StoreError: Another process was faster.
    """
    run_id = run.info.run_id
    try:
        # A param can be written only once, so of two processes exactly one succeeds here.
        client.log_param(run_id, FOUNDING, founding)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        raise StoreError(
            f"the environment variable {_VARIABLE} names run {run_id}, into which another process "
            f"writes a population just now; unset {_VARIABLE}, and a new run is made"
        ) from None
    client.log_batch(run_id, tags=[RunTag(FOUNDING, founding)])
    os.environ.pop(_VARIABLE, None)
