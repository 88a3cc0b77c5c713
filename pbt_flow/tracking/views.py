"""Where MLflow's UI opens: on one population, or on all populations of an experiment."""

from __future__ import annotations

import contextlib

from mlflow.exceptions import MlflowException

from pbt_flow.exceptions import StoreError
from pbt_flow.tracking.catalogue import find_run, find_runs
from pbt_flow.tracking.client import connect_to_present
from pbt_flow.tracking.founding import founding_sentence, founding_state
from pbt_flow.tracking.saved_view import (
    OVERVIEW,
    overview,
    overview_address,
    view_address,
    view_tag,
)


def address_of(run_id: str) -> tuple[str, str]:
    """The tracking store in force, and where its UI opens on a population.

    Raises:
        StoreError: There is no such population.
    """
    client, uri = connect_to_present(f"no run {run_id}")
    run = find_run(client, uri, run_id)
    if (state := founding_state(client, run)) is not None:
        raise StoreError(founding_sentence(run.info.run_id, state))
    return uri, view_address(run.info.experiment_id, run.info.run_id)


def ensure_overview() -> tuple[str, str]:
    """The tracking store in force, and where its UI opens on all populations.

    The experiment is that of the newest one; its view is saved anew.

    Raises:
        StoreError: There is no store, or no population in it.
    """
    client, uri = connect_to_present("no populations")
    runs = find_runs(client, ["population"], 1)
    experiment_id = runs[0].info.experiment_id if runs else "0"
    # A view is a comfort, and never a condition.
    with contextlib.suppress(MlflowException):
        client.set_experiment_tag(experiment_id, view_tag(OVERVIEW), overview())
    return uri, overview_address(experiment_id)
