"""Which populations a tracking store has, and which of them a word means."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pbt_flow.exceptions import StoreError
from pbt_flow.population.stages import NOBODY, StagePlan
from pbt_flow.tracking.client import is_away, local_path
from pbt_flow.tracking.create import method_of, short_task
from pbt_flow.tracking.drivers import store_message
from pbt_flow.tracking.founding import founding_state
from pbt_flow.tracking.lease import is_orphan
from pbt_flow.tracking.population_runs import STATUSES
from pbt_flow.utils.passwords import hide_password

LAST = "last"
"""The word for the population that began last."""
_LONG = re.compile("[0-9a-f]{32}")
_MOST = 1000


@dataclass(frozen=True, kw_only=True)
class ListedPopulation:
    """What is known of a population or a replay without reading its turns."""

    run_id: str
    name: str
    experiment: str
    task: str
    """The name of its task as people say it, without its place and its class."""
    method: str
    """`pbt`, `random search`, what they are called in stages, or `replay`."""
    seed: int | None
    members: int
    turns: int
    """Turns that its members have done together."""
    budget: int | None
    """Turns that they were given together."""
    best: float | None
    """The winner's score; while it trains that of the best member of the newest round."""
    status: str
    began: float
    """Seconds since the epoch."""
    disk: int | None
    """Bytes of its artifacts; None where they are not on a disk of this machine."""
    whole_task: str = ""
    """The name of its task as its settings have it."""

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return dict(vars(self))


def find_runs(client: MlflowClient, roles: Sequence[str], most: int | None = None) -> list[Run]:
    """The runs of populations or replays, newest first.

    Args:
        client: Talks to the tracking store.
        roles: Which of `population` and `replay`.
        most: How many at most; None for all.
    """
    experiments = [one.experiment_id for one in client.search_experiments()]
    found = list[Run]()
    for role in roles:
        found += _search(client, experiments, f"tags.`pbt.role` = '{role}'", most)
    # Each model of a replay has the replay's role as well, and belongs to it.
    found = [run for run in found if "pbt.population" not in run.data.tags]
    found.sort(key=lambda run: run.info.start_time, reverse=True)
    return found[:most]


def _search(
    client: MlflowClient, experiments: Sequence[str], wanted: str, most: int | None = None
) -> list[Run]:
    found, token = list[Run](), None
    while experiments and (most is None or len(found) < most):
        page = client.search_runs(
            list(experiments),
            wanted,
            max_results=min(_MOST, most or _MOST),
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            break
    return found


def whole_run_id(client: MlflowClient, uri: str, word: str) -> str:
    """The run that a word means: a run id, the unique beginning of one, or `last`.

    Raises:
        StoreError: No population is meant, or more than one.
    """
    if not isinstance(word, str) or not word:
        raise StoreError(
            f"a run id is a text, its beginning, or the word {LAST}, got {word!r}; python -m "
            "pbt_flow list shows what there is"
        )
    if _LONG.fullmatch(word):
        return word
    if word == LAST:
        return _last(client, find_runs(client, ["population"]), uri)
    runs = find_runs(client, ["population", "replay"])
    meant = [run for run in runs if run.info.run_id.startswith(word)]
    if len(meant) == 1:
        return str(meant[0].info.run_id)
    see = "python -m pbt_flow list shows what there is"
    if not meant:
        raise StoreError(
            f"no run {word} at {hide_password(uri)}: no population's run id begins so; {see}"
        )
    several = ", ".join(f"{run.info.run_id[:12]} ({run.info.run_name})" for run in meant[:4])
    raise StoreError(f"{word} is the beginning of {len(meant)} run ids: {several}; give more of it")


def find_run(client: MlflowClient, uri: str, word: str) -> Run:
    """The run of the population or the replay that a word means (see `whole_run_id`).

    Raises:
        StoreError: No population is meant, more than one, or a member; or the store is away.
    """
    try:
        run_id = whole_run_id(client, uri, word)
        run = client.get_run(run_id)
    except MlflowException as error:
        where = hide_password(uri)
        if is_away(error):
            raise StoreError(f"{where} does not answer: {store_message(error)}") from None
        raise StoreError(f"no run {word} at {where}: {error.message}") from None
    if (parent := run.data.tags.get("pbt.population")) is not None:
        raise StoreError(f"run {run_id} is a member; its population is {parent}")
    return run


def find_run_to_delete(client: MlflowClient, uri: str, word: str) -> Run:
    """The same, whatever is left of the population: nothing of it need be readable.

    Raises:
        StoreError: As in `find_run`, or the run is deleted, or was never a population's.
    """
    run = find_run(client, uri, word)
    run_id, where = run.info.run_id, hide_password(uri)
    if run.info.lifecycle_stage != "active":
        raise StoreError(f"run {run_id} at {where} is deleted already; `mlflow gc` takes it out")
    if run.data.tags.get("pbt.role") not in ("population", "replay"):
        raise StoreError(f"run {run_id} at {where} is no population, and is left alone")
    return run


def _last(client: MlflowClient, runs: Sequence[Run], uri: str) -> str:
    """The newest population that has begun and was not trained as the control of another."""
    controls = {run.data.tags.get("pbt.control") for run in runs}
    for run in runs:
        if run.info.run_id not in controls and founding_state(client, run) is None:
            return str(run.info.run_id)
    if runs:
        raise StoreError(
            f"no population at {hide_password(uri)} has begun; python -m pbt_flow list shows them, "
            "and delete RUN_ID takes those whose making was cut short"
        )
    raise StoreError(
        f"there is no population at {hide_password(uri)}; go to the folder that it began in, or "
        "set MLFLOW_TRACKING_URI to its store"
    )


def runs_below(client: MlflowClient, parent: Run) -> list[Run]:
    """All runs of a population but its own: its members', and those that its task began."""
    wanted = f"tags.`pbt.population` = '{parent.info.run_id}'"
    return _search(client, [parent.info.experiment_id], wanted)


def runs_of_members(client: MlflowClient, parent: Run) -> list[Run]:
    """The runs of a population's members."""
    wanted = f"tags.`pbt.population` = '{parent.info.run_id}' AND tags.`pbt.member` != ''"
    return _search(client, [parent.info.experiment_id], wanted)


def describe_runs(client: MlflowClient, runs: Iterable[Run]) -> list[ListedPopulation]:
    """What is known of populations or replays, given their runs."""
    names = {one.experiment_id: one.name for one in client.search_experiments()}
    return [_describe(client, run, names) for run in runs]


def _describe(client: MlflowClient, run: Run, experiments: dict[str, str]) -> ListedPopulation:
    tags, params, metrics = run.data.tags, run.data.params, run.data.metrics
    members = runs_of_members(client, run)
    turns = _number(_changed(tags).get("turns", params.get("cfg/turns")))
    is_replay = tags["pbt.role"] == "replay"
    method = method_of(params.get("cfg/exploit", ""), params.get("cfg/stages", "none"))
    task = params.get("cfg/task", tags.get("pbt.task", ""))
    best = metrics.get("winner/score", metrics.get("best_score"))
    return ListedPopulation(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        experiment=experiments.get(run.info.experiment_id, run.info.experiment_id),
        task=short_task(task),
        whole_task=task,
        method="replay" if is_replay else method,
        seed=_number(params.get("cfg/seed")),
        members=len(members),
        turns=sum(int(one.data.metrics.get("turn", 0)) for one in members),
        budget=_budget(params.get("cfg/stages", NOBODY), turns, params, len(members)),
        best=best,
        status=founding_state(client, run) or status_of(run),
        began=run.info.start_time / 1000,
        disk=_disk([run, *members]),
    )


def status_of(run: Run) -> str:
    """What became of the population of a run, in a word."""
    if run.info.status == "RUNNING":
        return "interrupted" if is_orphan(run) else "running"
    # What the launcher wrote on the run is less than what the controller knew.
    told = run.data.tags.get("pbt.status", "running")
    return told if told != "running" else STATUSES.get(run.info.status, "running")


def _budget(stages: str, turns: int | None, params: dict[str, str], members: int) -> int | None:
    """The turns of all members together; None where the settings do not say."""
    size = _number(params.get("cfg/population"))
    if turns is None or size is None:
        return None
    plan = StagePlan.resumed(stages, population=size, turns=turns)
    return turns * members if plan is None else plan.total


def _changed(tags: dict[str, str]) -> dict[str, Any]:
    """The settings that resumes have changed; none where the tag cannot be read."""
    try:
        told = json.loads(tags.get("pbt.settings", "{}"))
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _number(told: Any) -> int | None:
    return int(told) if str(told).isdigit() else None


def _disk(runs: Iterable[Run]) -> int | None:
    """Bytes below the artifacts of some runs."""
    total = 0
    for run in runs:
        place = local_path(run.info.artifact_uri)
        if place is None:
            return None
        total += size_of(Path(place))
    return total


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder; one that vanishes meanwhile counts for nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total
