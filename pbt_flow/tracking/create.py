"""The founding of a population: its run in MLflow, its members' runs, and what defines it.

The population is a parent run and each member a child run. What never changes is a param
(`cfg/...`, `space/...`, `init/...`), and `population.json` on the parent is what a resume needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow.entities import Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from optuna.distributions import CategoricalDistribution

from pbt_flow.exceptions import StoreError
from pbt_flow.population.records import Direction, ReportDirection
from pbt_flow.space import Hparams, Space, space_from_json
from pbt_flow.tracking.adoption import FOUNDING, MANIFEST, adopt, callers_run, launched_run
from pbt_flow.tracking.client import check_artifacts, is_away
from pbt_flow.tracking.drivers import hide_password, is_of_a_store, says

_MOST_RUNS = 50_000
"""Runs that MLflow finds in one search."""
_LONGEST = 6000
"""Characters of a param in MLflow."""
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What defines a population, kept as `population.json` on its run."""

    settings: Mapping[str, Any]
    space: Mapping[str, Any]
    """The space, in the form of `pbt_flow.space.space_to_json`."""
    direction: Direction
    members: Sequence[str] = ()
    """The run id of each member; of a population that is not made yet, none."""
    initial: Sequence[Hparams]
    """The first hyperparameters of each member."""
    versions: Mapping[str, str] = field(default_factory=dict)
    report_direction: ReportDirection = None
    """Which way a report is better; populations of the first version do not say."""
    option_defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the defaults of the task's options were in the code; earlier versions do not say, and
    recorded only the options that were given."""

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain values."""
        return {**vars(self), "initial": [dict(hparams) for hparams in self.initial]}


def create_population(
    client: MlflowClient, uri: str, plan: Manifest, *, tags: Mapping[str, str]
) -> tuple[list[Run], Manifest]:
    """Make the runs of a new population: those of its members, and its manifest.

    The manifest is written last: a run without one is not a population.

    Args:
        client: Talks to the tracking server.
        uri: Where that is, for messages.
        plan: What defines the population; its members have no runs yet.
        tags: Of the population's run.

    Returns:
        The members' runs, and the manifest that names them.

    Raises:
        StoreError: The tracking server cannot be used, or the run that MLFLOW_RUN_ID names is
            something already.
    """
    settings, space = plan.settings, space_from_json(plan.space)
    founding = uuid.uuid4().hex
    try:
        # Looked at before anything is written.
        launched = launched_run(client, uri)
        caller = None if launched else callers_run(client)
        experiment_id = (
            launched.info.experiment_id if launched else _experiment(client, settings, caller)
        )
        experiment = client.get_experiment(experiment_id)
        check_artifacts(
            launched.info.artifact_uri if launched else experiment.artifact_location, uri
        )
        with _all_or_ended(client, experiment_id, founding):
            parent = _parent_run(
                client, settings, {**tags, FOUNDING: founding}, experiment_id, launched, caller
            )
            run_id = parent.info.run_id
            members = [
                _member_run(client, parent, index, hparams, space, founding)
                for index, hparams in enumerate(plan.initial)
            ]
            manifest = replace(plan, members=[run.info.run_id for run in members])
            params = {f"cfg/{k}": text(v) for k, v in settings.items() if k != "options"}
            params |= {f"option/{k}": text(v) for k, v in settings["options"].items()}
            params |= {f"space/{name}": json.dumps(dist) for name, dist in plan.space.items()}
            client.log_batch(
                run_id,
                params=[Param(key, shorten(value)) for key, value in params.items()],
                tags=[RunTag(key, value) for key, value in tags.items()],
            )
            client.log_dict(run_id, manifest.to_json(), MANIFEST)
    except Exception as error:
        if not is_of_a_store(error):
            raise
        raise StoreError(f"cannot make runs at {hide_password(uri)}: {says(error)}") from error
    return members, manifest


def _parent_run(
    client: MlflowClient,
    settings: Mapping[str, Any],
    tags: Mapping[str, str],
    experiment_id: str,
    launched: Run | None,
    caller: Run | None,
) -> Run:
    """The population's own run: the one that was made for this process, or a new one."""
    # What runs are called in MLflow's table when nobody named them tells nothing apart.
    method = "random search" if settings["exploit"] == "none" else "pbt"
    if settings.get("stages", "none") != "none":
        method = "successive halving" if settings["exploit"] == "none" else "pbt in stages"
    plain = f"{Path(settings['task'].partition(':')[0]).stem} {method}"
    if launched is not None:
        adopt(client, launched, tags[FOUNDING])
        if settings["name"] or _is_made_up(launched.info.run_name or ""):
            client.update_run(launched.info.run_id, name=settings["name"] or plain)
        return launched
    # MLflow's table then shows the population below the run that asked for it.
    above = {} if caller is None else {"mlflow.parentRunId": caller.info.run_id}
    name = settings["name"] or plain
    created: Run = client.create_run(experiment_id, tags={**tags, **above}, run_name=name)
    return created


def _experiment(client: MlflowClient, settings: Mapping[str, Any], caller: Run | None) -> str:
    """The experiment of a new population, made if there is none of its name.

    It is the one of the settings, of MLFLOW_EXPERIMENT_NAME, of MLFLOW_EXPERIMENT_ID, that of the
    run which is active in this process, or pbt_flow: the first of them that there is.

    Raises:
        StoreError: It is deleted, or no experiment has the id.
    """
    name, where = settings["experiment"], ""
    if not name and (name := os.environ.get("MLFLOW_EXPERIMENT_NAME")):
        where = " (from the environment variable MLFLOW_EXPERIMENT_NAME)"
    if not name and (experiment_id := os.environ.get("MLFLOW_EXPERIMENT_ID")):
        return _experiment_of_id(client, experiment_id)
    if not name and caller is not None:
        return str(caller.info.experiment_id)
    name = name or "pbt_flow"
    found = client.get_experiment_by_name(name)
    if found is None:
        kind = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(client.create_experiment(name, tags=kind))
        except MlflowException:
            # Another population that began at the same time was faster.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise StoreError(f"the experiment {name!r}{where} is deleted; restore it or name another")
    return str(found.experiment_id)


def _experiment_of_id(client: MlflowClient, experiment_id: str) -> str:
    """The experiment that MLFLOW_EXPERIMENT_ID names.

    Raises:
        StoreError: It is deleted, or there is none.
    """
    named = f"the environment variable MLFLOW_EXPERIMENT_ID names experiment {experiment_id}"
    remedy = "unset it, or name an experiment (experiment in Python, --experiment in a shell)"
    try:
        found = client.get_experiment(experiment_id)
    except MlflowException as error:
        if is_away(error):
            raise
        raise StoreError(f"{named}, which is not there ({error.message}); {remedy}") from None
    if found.lifecycle_stage != "active":
        raise StoreError(f"{named}, which is deleted; restore it, or {remedy}")
    return str(found.experiment_id)


def _is_made_up(name: str) -> bool:
    """Whether a run's name is of MLflow's own making, such as `bemused-rook-123`."""
    try:
        from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES
    except ImportError:  # They are MLflow's own affair; then it keeps its name.
        return False
    predicate, _, rest = name.partition("-")
    noun, _, number = rest.rpartition("-")
    return predicate in _GENERATOR_PREDICATES and noun in _GENERATOR_NOUNS and number.isdigit()


@contextlib.contextmanager
def _all_or_ended(client: MlflowClient, experiment_id: str, founding: str) -> Iterator[None]:
    """Where a population's runs cannot all be made, let none say for ever that it is running.

    Only runs of this founding are ended. Others may stand below the same parent.
    """
    try:
        yield
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with contextlib.suppress(Exception):  # it would hide what went wrong
            # Asked for: the call that was interrupted may have made one that nobody here knows.
            made = client.search_runs(
                [experiment_id], f"tags.`{FOUNDING}` = '{founding}'", max_results=_MOST_RUNS
            )
            for run in made:
                client.set_terminated(run.info.run_id, status=status)
        raise


def _member_run(
    client: MlflowClient,
    parent: Run,
    index: int,
    hparams: Hparams,
    space: Space,
    founding: str,
) -> Run:
    run: Run = client.create_run(
        parent.info.experiment_id,
        run_name=member_name(index),
        tags={
            "mlflow.parentRunId": parent.info.run_id,
            "mlflow.runColor": _COLOURS[index % len(_COLOURS)],
            "pbt.role": "member",
            "pbt.member": str(index),
            "pbt.population": parent.info.run_id,
            FOUNDING: founding,
        },
    )
    params = {f"init/{name}": text(value) for name, value in hparams.items()}
    for name, dist in space.items():
        if isinstance(dist, CategoricalDistribution):
            legend = ", ".join(f"{i}={choice!r}" for i, choice in enumerate(dist.choices))
            params[f"legend/{name}"] = legend
    client.log_batch(run.info.run_id, params=[Param(k, shorten(v)) for k, v in params.items()])
    return run


def member_name(index: int) -> str:
    """The name of a member's run."""
    return f"member-{index:02d}"


def shorten(value: str) -> str:
    """A param as long as MLflow takes it; population.json has the whole value."""
    return value if len(value) <= _LONGEST else f"{value[: _LONGEST - 3]}..."


def text(value: Any) -> str:
    """A value as a param."""
    return value if isinstance(value, str) else json.dumps(value)
