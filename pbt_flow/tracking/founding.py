"""A population that is just being made, and what is left of one whose making was cut short.

The manifest is written last, and a run without one is no population. What an exception or Ctrl-C
interrupts deletes what it has made. After a kill the runs are still there: they are told from a
population, so that a list says what they are and `delete` takes them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from pbt_flow.tracking.adoption import FOUNDING, MANIFEST
from pbt_flow.tracking.client import artifacts_at, delete_artifacts, local_path, read_text
from pbt_flow.tracking.lease import FOUNDER, has_died, newest_claim
from pbt_flow.utils.interrupts import one_interrupt_waits

FoundingState = Literal["being made", "never begun"]
ORIGIN = "pbt.origin"
"""The tag of an imported population: its run in the store that it began in."""
_ROLES = ("population", "replay")
_LONGEST_SECONDS = 600.0
"""After so long nobody makes a population any more, if nothing is known of the process that did."""
_MAX_RUNS_FOUND = 50_000
"""The most runs that MLflow returns for one search."""


@contextlib.contextmanager
def undone_on_failure(
    client: MlflowClient, uri: str, experiment_id: str, founding: str, launched: Run | None
) -> Iterator[Callable[[], None]]:
    """Delete the runs that were made so far if not all runs of a population can be made.

    Other runs below the same parent are left alone. So is the run that `mlflow run` has made, which
    will write there how it ended: it ends, and is no population's any more.

    Args:
        client: Talks to the tracking store.
        uri: The URI of the tracking store.
        experiment_id: The experiment that the runs are made in.
        founding: The id of this attempt (see `FOUNDING`).
        launched: The run that `mlflow run` has made for this process, if it has.

    Yields:
        What is called between two requests: it raises the Ctrl-C that has come during one, since an
        interrupted request may make a run whose id nobody hears of.
    """
    try:
        with one_interrupt_waits() as raise_interrupt:
            yield raise_interrupt
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        # The first error is the one to report. Where the store is away, `list` says what is left.
        with one_interrupt_waits(), contextlib.suppress(Exception):
            undo(client, uri, [experiment_id], founding, spared=launched)
            if launched is not None:
                _let_go(client, uri, launched, founding, status)
        raise


def undo(
    client: MlflowClient,
    uri: str,
    experiments: Sequence[str],
    founding: str,
    *,
    spared: Run | None = None,
) -> None:
    """Delete what one attempt to make populations has made so far: runs, models and artifacts.

    Args:
        client: Talks to the tracking store.
        uri: The URI of the tracking store.
        experiments: The experiments that its runs are in.
        founding: The id of the attempt.
        spared: A run that was there before, whose artifacts go and which stays itself.
    """
    if not experiments:
        return
    made = client.search_runs(
        list(experiments), f"tags.`{FOUNDING}` = '{founding}'", max_results=_MAX_RUNS_FOUND
    )
    for run in made:
        models = client.search_logged_models(
            [run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'"
        )
        for model in models:
            delete_whole_place(uri, model.artifact_location)
            client.delete_logged_model(model.model_id)
        if spared is None or run.info.run_id != spared.info.run_id:
            delete_whole_place(uri, run.info.artifact_uri)
            client.delete_run(run.info.run_id)


def _let_go(client: MlflowClient, uri: str, launched: Run, founding: str, status: str) -> None:
    """End a run that was adopted, and take from it what made it a population's."""
    run = client.get_run(launched.info.run_id)
    if run.data.params.get(FOUNDING) != founding:
        return  # Another process has been quicker, and the run is its population's.
    repository = artifacts_at(run.info.artifact_uri, uri)
    if any(file.path == MANIFEST for file in repository.list_artifacts()):
        repository.delete_artifacts(MANIFEST)
    for name in run.data.tags:
        if name.startswith("pbt.") and name not in launched.data.tags:
            client.delete_tag(run.info.run_id, name)
    client.set_terminated(run.info.run_id, status=status)


def delete_whole_place(uri: str, location: str) -> None:
    """Delete all artifacts at a place, and their folder where it is one of this machine."""
    place = local_path(location)
    if place is None:
        delete_artifacts(artifacts_at(location, uri))
        return
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):
        Path(place).parent.rmdir()


def founding_state(client: MlflowClient, run: Run) -> FoundingState | None:
    """What the run of a population is that has no manifest; None of a population that has begun.

    Only a run that no controller has claimed is looked at closely, so that a list of populations
    costs no request for each of them.

    Args:
        client: Talks to the tracking store.
        run: The run.
    """
    tags = run.data.tags
    if tags.get("pbt.role") not in _ROLES or newest_claim(run)[0] > 0 or ORIGIN in tags:
        return None
    try:
        if _has_manifest(client, run.info.run_id):
            return None
    except Exception:
        return None  # What cannot be looked at is not called left over.
    founder = tags.get(FOUNDER, "")
    ended = run.info.status != "RUNNING" or has_died(founder)
    is_old = time.time() - run.info.start_time / 1000 > _LONGEST_SECONDS
    return "never begun" if ended or is_old else "being made"


def _has_manifest(client: MlflowClient, run_id: str) -> bool:
    """Whether the manifest of a population is there, and in whole."""
    if all(file.path != MANIFEST for file in client.list_artifacts(run_id)):
        return False
    try:
        json.loads(read_text(client, run_id, MANIFEST))
    except ValueError:
        return False  # A kill came while it was written.
    return True


def founding_sentence(run_id: str, state: FoundingState) -> str:
    """What a user reads who asks something of a population that has not begun."""
    if state == "being made":
        return f"population {run_id} is just being made; try again in a moment"
    return (
        f"population {run_id} never began: it was stopped while its runs were made; delete it with "
        f"python -m pbt_flow delete {run_id[:12]}"
    )
