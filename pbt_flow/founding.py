"""The founding of a population: its run in MLflow, its members' runs, and what defines it.

The population is a parent run and each member a child run. What never changes is a param
(`cfg/...`, `space/...`, `init/...`), and `population.json` on the parent is what a resume needs.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from optuna.distributions import CategoricalDistribution

from pbt_flow.errors import StoreError
from pbt_flow.member import Direction, ReportDirection
from pbt_flow.space import Hparams, Space, space_to_json

MANIFEST = "population.json"
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
    members: Sequence[str]
    """The run id of each member."""
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


def found_population(
    client: MlflowClient,
    uri: str,
    *,
    settings: Mapping[str, Any],
    space: Space,
    direction: Direction,
    initial: Sequence[Hparams],
    tags: Mapping[str, str],
    versions: Mapping[str, str],
    report_direction: ReportDirection = None,
    option_defaults: Mapping[str, Any],
) -> tuple[list[Run], Manifest]:
    """Make the runs of a new population: those of its members, and its manifest.

    The manifest is written last: a run without one is not a population.

    Raises:
        StoreError: The tracking server cannot be used.
    """
    space_json = space_to_json(space)
    try:
        parent = _parent_run(client, settings, tags)
        run_id = parent.info.run_id
        with _all_or_ended(client, parent):
            members = [
                _member_run(client, parent, index, hparams, space)
                for index, hparams in enumerate(initial)
            ]
            manifest = Manifest(
                settings=settings,
                space=space_json,
                direction=direction,
                members=[run.info.run_id for run in members],
                initial=initial,
                versions=versions,
                report_direction=report_direction,
                option_defaults=option_defaults,
            )
            params = {f"cfg/{k}": text(v) for k, v in settings.items()}
            params |= {f"option/{k}": text(v) for k, v in settings["options"].items()}
            params |= {f"space/{name}": json.dumps(dist) for name, dist in space_json.items()}
            client.log_batch(
                run_id,
                params=[Param(key, shorten(value)) for key, value in params.items()],
                tags=[RunTag(key, value) for key, value in tags.items()],
            )
            client.log_dict(run_id, manifest.to_json(), MANIFEST)
    except (MlflowException, OSError) as error:
        reason = error.message if isinstance(error, MlflowException) else str(error)
        raise StoreError(f"cannot make runs at {uri}: {reason}") from error
    return members, manifest


def _parent_run(client: MlflowClient, settings: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
    # What runs are called in MLflow's table when nobody named them tells nothing apart.
    method = "random search" if settings["exploit"] == "none" else "pbt"
    plain = f"{Path(settings['task'].partition(':')[0]).stem} {method}"
    if run_id := os.environ.pop("MLFLOW_RUN_ID", None):
        run = client.get_run(run_id)
        if settings["name"] or _is_made_up(run.info.run_name or ""):
            client.update_run(run_id, name=settings["name"] or plain)
        return run
    experiment = settings["experiment"] or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    experiment_id = None if experiment else os.environ.get("MLFLOW_EXPERIMENT_ID")
    if experiment_id is None:
        experiment = experiment or "pbt_flow"
        found = client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage != "active":
            raise StoreError(
                f"the experiment {experiment!r} is deleted; restore it or name another"
            )
        if found is None:
            kind = {"mlflow.experimentKind": "custom_model_development"}
            try:
                experiment_id = client.create_experiment(experiment, tags=kind)
            except MlflowException:
                # Another population that began at the same time was faster.
                found = client.get_experiment_by_name(experiment)
                if found is None:
                    raise
                experiment_id = found.experiment_id
        else:
            experiment_id = found.experiment_id
    name = settings["name"] or plain
    created: Run = client.create_run(experiment_id, tags=dict(tags), run_name=name)
    return created


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
def _all_or_ended(client: MlflowClient, parent: Run) -> Iterator[None]:
    """Where a population's runs cannot all be made, let none say for ever that it is running."""
    try:
        yield
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with contextlib.suppress(MlflowException, OSError):
            # Asked for: the call that was interrupted may have made one that nobody here knows.
            made = client.search_runs(
                [parent.info.experiment_id],
                f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'",
                max_results=_MOST_RUNS,
            )
            for run in [*made, parent]:
                client.set_terminated(run.info.run_id, status=status)
        raise


def _member_run(
    client: MlflowClient, parent: Run, index: int, hparams: Hparams, space: Space
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
