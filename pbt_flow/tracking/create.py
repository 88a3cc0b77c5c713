"""Makes a population in MLflow: its run, its members' runs, and the manifest that defines it.

The population is a parent run, and each member is a child run of it. What never changes is logged
as params (`cfg/...`, `option/...`, `space/...`, `init/...`). The artifact `population.json` of the
parent run holds what a resume needs.
"""

from __future__ import annotations

import colorsys
import contextlib
import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow.entities import Experiment, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from optuna.distributions import CategoricalDistribution

from pbt_flow.exceptions import StoreError
from pbt_flow.population.records import Direction, ReportDirection
from pbt_flow.space import Hparams, Space
from pbt_flow.tracking.adoption import FOUNDING, MANIFEST, adopt, callers_run, launched_run
from pbt_flow.tracking.client import check_artifacts, is_away, needs_server, requests_at_once
from pbt_flow.tracking.drivers import is_store_error, store_message
from pbt_flow.tracking.founding import undone_on_failure
from pbt_flow.tracking.lease import FOUNDER, new_owner
from pbt_flow.utils.at_once import call_at_once
from pbt_flow.utils.passwords import hide_password

_DEFAULT = "Default"
_INITIAL = "init/"
"""What the name of a param with an initial hyperparameter begins with."""
_KIND = {"mlflow.experimentKind": "custom_model_development"}
_MAX_PARAM_LENGTH = 6000
"""The most characters that MLflow keeps of a param."""
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
_GOLDEN = 0.618034
"""The part of the colour circle between two members: no number of them comes round to the first."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What defines a population, kept as the artifact `population.json` of its run."""

    settings: Mapping[str, Any]
    space: Mapping[str, Any]
    """The space, in the form of `pbt_flow.space.space_to_json`."""
    direction: Direction
    members: Sequence[str] = ()
    """The run id of each member; empty until the runs are made."""
    initial: Sequence[Hparams]
    """The initial hyperparameters of each member."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """The versions of Python and of the packages that the population began with."""
    report_direction: ReportDirection = None
    """Which direction of a report's metrics is better; None in populations of the first version."""
    option_defaults: Mapping[str, Any] = field(default_factory=dict)
    """The defaults that the task's code had for its options. Populations of earlier versions do not
    have them, and recorded only the options that were given."""

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain values."""
        return {**vars(self), "initial": [dict(hparams) for hparams in self.initial]}


def create_population(
    client: MlflowClient,
    uri: str,
    plan: Manifest,
    *,
    tags: Mapping[str, str],
    groups: Sequence[int] = (),
) -> tuple[list[Run], Manifest]:
    """Make the runs of a new population and its members, and write the manifest.

    The manifest is written last: a run without one is not a population. The members' runs do not
    have their params then (`member_params`).

    Args:
        client: Talks to the tracking store.
        uri: The URI of the tracking store.
        plan: What defines the population; its members have no runs yet.
        tags: The tags of the population's run.
        groups: The number of each member's sub-population; empty where there is only one.

    Returns:
        The members' runs, and the manifest that names them.

    Raises:
        StoreError: The tracking store cannot be used, or the run that MLFLOW_RUN_ID names is
            something else already.
    """
    settings, founding = plan.settings, uuid.uuid4().hex
    try:
        # Whatever may refuse the population is asked before the first run is made.
        launched = launched_run(client, uri)
        caller: Run | None = None
        if launched is not None:
            experiment_id = launched.info.experiment_id
            check_artifacts(launched.info.artifact_uri, uri)
        else:
            caller = callers_run(client)
            experiment_id = _experiment(client, uri, settings, caller)
            check_artifacts(client.get_experiment(experiment_id).artifact_location, uri)
        mark_experiment(client, client.get_experiment(experiment_id))
        tags = {**tags, FOUNDING: founding, FOUNDER: new_owner()}
        with undone_on_failure(client, uri, experiment_id, founding, launched) as raise_interrupt:
            parent = _parent_run(client, settings, tags, experiment_id, launched, caller)
            run_id = parent.info.run_id
            # MLflow lists runs by when they began, and those that are made at once began together.
            now = int(time.time() * 1000)

            def make(index: int) -> Run:
                raise_interrupt()
                group = {"pbt.group": str(groups[index])} if groups else {}
                own = {FOUNDING: founding, **group}
                return _member_run(client, parent, index, own, now + index)

            members = call_at_once(make, range(len(plan.initial)), requests_at_once(uri))
            manifest = replace(plan, members=[run.info.run_id for run in members])
            raise_interrupt()
            client.log_batch(run_id, params=_population_params(plan))
            client.log_dict(run_id, manifest.to_json(), MANIFEST)
    except Exception as error:
        if not is_store_error(error):
            raise
        raise StoreError(
            f"cannot make runs at {hide_password(uri)}: {store_message(error)}"
        ) from error
    return members, manifest


def _population_params(plan: Manifest) -> list[Param]:
    """Return the params of a population's run: its settings, options and space."""
    texts: dict[str, str] = {}
    for name, value in plan.settings.items():
        # What is not set is not told: thirteen params would say that there is nothing.
        if name != "options" and value is not None:
            texts[f"cfg/{name}"] = param_text(value)
    for name, value in plan.settings["options"].items():
        texts[f"option/{name}"] = param_text(value)
    for name, dist in plan.space.items():
        texts[f"space/{name}"] = json.dumps(dist)
    return [Param(key, shorten_param(text)) for key, text in texts.items()]


def _parent_run(
    client: MlflowClient,
    settings: Mapping[str, Any],
    tags: Mapping[str, str],
    experiment_id: str,
    launched: Run | None,
    caller: Run | None,
) -> Run:
    """Return the population's own run: the one that was made for this process, or a new one."""
    method = method_of(settings["exploit"], settings.get("stages", "none"))
    default_name = f"{short_task(settings['task'])} {method} s{settings['seed']}"
    name = settings["name"] or default_name
    if launched is not None:
        adopt(client, launched, tags)
        # A name that the user gave to `mlflow run` stays, but one such as `bemused-rook-123` says
        # nothing about the run.
        if settings["name"] or _is_generated(launched.info.run_name or ""):
            client.update_run(launched.info.run_id, name=name)
        return launched
    if caller is not None:
        # MLflow's table then shows the population below the run that asked for it.
        tags = {**tags, "mlflow.parentRunId": caller.info.run_id}
    created: Run = client.create_run(experiment_id, tags=dict(tags), run_name=name)
    return created


def _experiment(
    client: MlflowClient, uri: str, settings: Mapping[str, Any], caller: Run | None
) -> str:
    """Return the id of a new population's experiment, which is made if it does not exist.

    The first of these that is given names it: the settings, the environment variables
    MLFLOW_EXPERIMENT_NAME and MLFLOW_EXPERIMENT_ID, and the run that is active in this process.
    Otherwise it is MLflow's Default, which `mlflow run` takes as well, and `pbt_flow` without one,
    or where its artifacts can be reached through a server alone, and this process has none.

    Raises:
        StoreError: The experiment is deleted, or no experiment has the id.
    """
    name, where = settings["experiment"], ""
    if not name and (name := os.environ.get("MLFLOW_EXPERIMENT_NAME")):
        where = " (from the environment variable MLFLOW_EXPERIMENT_NAME)"
    if not name and (experiment_id := os.environ.get("MLFLOW_EXPERIMENT_ID")):
        return _experiment_of_id(client, experiment_id)
    if not name and caller is not None:
        return str(caller.info.experiment_id)
    if not name:
        default = client.get_experiment_by_name(_DEFAULT)
        if (
            default is not None
            and default.lifecycle_stage == "active"
            and not needs_server(default.artifact_location, uri)
        ):
            return str(default.experiment_id)
        name = "pbt_flow"
    return ensure_experiment(client, name, where)


def ensure_experiment(client: MlflowClient, name: str, where: str = "") -> str:
    """Return the id of the experiment of a name, which is made if it does not exist.

    Args:
        client: Talks to the tracking store.
        name: The name.
        where: Who gave the name, as the end of it in a message.

    Raises:
        StoreError: The experiment is deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, tags=_KIND))
        except MlflowException:
            # Another population that began at the same time may have made it just before.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise StoreError(f"the experiment {name!r}{where} is deleted; restore it or name another")
    return str(found.experiment_id)


def mark_experiment(client: MlflowClient, experiment: Experiment) -> None:
    """Say of an experiment that nobody has said it of that its runs train models.

    MLflow's UI would open it on a page for traces, of which there are none.
    """
    if not set(_KIND) & set(experiment.tags):
        with contextlib.suppress(MlflowException):  # A comfort, never a condition.
            for key, value in _KIND.items():
                client.set_experiment_tag(experiment.experiment_id, key, value)


def _experiment_of_id(client: MlflowClient, experiment_id: str) -> str:
    """Return the id that MLFLOW_EXPERIMENT_ID holds, after a look at the experiment.

    Raises:
        StoreError: The experiment is deleted or does not exist.
    """
    named = f"the environment variable MLFLOW_EXPERIMENT_ID names experiment {experiment_id}"
    remedy = "unset it, or name an experiment (experiment in Python, --experiment in a shell)"
    try:
        found = client.get_experiment(experiment_id)
    except MlflowException as error:
        if is_away(error):
            raise
        raise StoreError(f"{named}, which does not exist ({error.message}); {remedy}") from None
    if found.lifecycle_stage != "active":
        raise StoreError(f"{named}, which is deleted; restore it, or {remedy}")
    return str(found.experiment_id)


def _is_generated(name: str) -> bool:
    """Whether MLflow made up a run's name, such as `bemused-rook-123`."""
    try:
        from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES
    except ImportError:
        # The word lists are private to MLflow. Without them a run keeps its name.
        return False
    predicate, _, rest = name.partition("-")
    noun, _, number = rest.rpartition("-")
    return predicate in _GENERATOR_PREDICATES and noun in _GENERATOR_NOUNS and number.isdigit()


def _member_run(
    client: MlflowClient, parent: Run, index: int, tags: Mapping[str, str], began: int
) -> Run:
    run: Run = client.create_run(
        parent.info.experiment_id,
        start_time=began,
        run_name=member_name(index),
        tags={
            "mlflow.parentRunId": parent.info.run_id,
            "mlflow.runColor": member_colour(index),
            "pbt.role": "member",
            "pbt.member": str(index),
            "pbt.population": parent.info.run_id,
            **tags,
        },
    )
    return run


def member_params(hparams: Hparams, space: Space) -> list[Param]:
    """The params of a member's run: its initial hyperparameters, and what choices' numbers mean.

    MLflow takes them only once the run is there. `population.json` has the same, so that no turn
    waits for them, and a resume logs those that a killed controller has not.
    """
    texts = {f"{_INITIAL}{name}": param_text(value) for name, value in hparams.items()}
    for name, dist in space.items():
        # A metric is a number, so a choice is logged as its index among the choices.
        if isinstance(dist, CategoricalDistribution):
            choices = [f"{index}={choice!r}" for index, choice in enumerate(dist.choices)]
            texts[f"legend/{name}"] = ", ".join(choices)
    return [Param(key, shorten_param(text)) for key, text in texts.items()]


def lacks_params(run: Run) -> bool:
    """Whether the params of a member's run have not been logged."""
    # MLflow takes all params of one request, or none.
    return not any(name.startswith(_INITIAL) for name in run.data.params)


def method_of(exploit: str, stages: str) -> str:
    """What a way of training a population is called, given two settings."""
    if stages != "none":
        return "successive halving" if exploit == "none" else "pbt in stages"
    return "random search" if exploit == "none" else "pbt"


def short_task(name: str) -> str:
    """The name of a task as people say it: that of its file or module, without its place."""
    place, _, attribute = name.partition(":")
    if place == "__main__":
        return attribute  # of a notebook's cell
    return Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]


def short_tasks(names: Iterable[str]) -> dict[str, str]:
    """The names of tasks as people say them, each by its whole name.

    Of two that would be called the same each is called by its class or function as well, and where
    that is the same by the folder of its file.
    """
    short = {name: short_task(name) for name in names}
    for name in _called_alike(short):
        attribute = name.partition(":")[2]
        short[name] += f":{attribute}" if attribute and attribute != short[name] else ""
    for name in _called_alike(short):
        place, _, attribute = name.partition(":")
        folder = Path(place).parent.name
        short[name] = f"{folder}/{short[name]}" if place.endswith(".py") else name
    return short


def _called_alike(short: Mapping[str, str]) -> list[str]:
    """The whole names of tasks that share their short name with another."""
    count = Counter(short.values())
    return [name for name, called in short.items() if count[called] > 1]


def member_colour(index: int) -> str:
    """The colour of a member's lines, which holds on a light and on a dark page."""
    if index < len(_COLOURS):
        return _COLOURS[index]
    parts = colorsys.hls_to_rgb(index * _GOLDEN % 1.0, 0.52, 0.6)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def member_name(index: int) -> str:
    """Return the name of a member's run."""
    return f"member-{index:02d}"


def shorten_param(text: str) -> str:
    """Return the text of a param, cut to what MLflow keeps; population.json has the whole value."""
    return text if len(text) <= _MAX_PARAM_LENGTH else f"{text[: _MAX_PARAM_LENGTH - 3]}..."


def param_text(value: Any) -> str:
    """Return a value as the text of a param; None as MLflow itself writes it."""
    if value is None:
        return "None"
    return value if isinstance(value, str) else json.dumps(value)
