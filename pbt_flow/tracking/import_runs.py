"""Makes the runs of an exported population in another store.

MLflow gives each run a new id. So whatever names a run by its old one, in a tag, in a description
or in a file of ours, gets the new one: members, winner, control, the source of a replay's schedule.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from pbt_flow.exceptions import ExportError
from pbt_flow.population.records import Turn
from pbt_flow.tracking.adoption import FOUNDING, MANIFEST
from pbt_flow.tracking.catalogue import find_runs
from pbt_flow.tracking.client import check_artifacts, local_path
from pbt_flow.tracking.create import ensure_experiment, mark_experiment
from pbt_flow.tracking.export_folder import (
    Export,
    ExportedPopulation,
    model_place,
    read_json,
    run_place,
)
from pbt_flow.tracking.founding import ORIGIN, undo
from pbt_flow.tracking.lease import claim_param, has_died, new_owner
from pbt_flow.tracking.outcome import ARMS, RESULT
from pbt_flow.tracking.store import Store
from pbt_flow.utils.interrupts import one_interrupt_waits
from pbt_flow.utils.scratch import temporary_folder
from pbt_flow.utils.text import byte_count

IMPORTING = "pbt.importing"
"""The tag of a population's run while it is imported: by whom. It is none before that is over."""
_ROLE, _PARENT, _CONTROL = "pbt.role", "mlflow.parentRunId", "pbt.control"
_TASK_PARAM, _TASK_TAG = "cfg/task", "pbt.task"
_OUR_FILES = {MANIFEST, RESULT, ARMS, "schedule.json", "replay.json"}
"""Artifacts of a population's run that name runs, a store, or the task."""
_ANY_ID = re.compile(r"\bm-[0-9a-f]{32}\b|\b[0-9a-f]{32}\b")
_ROLES = ("population", "replay")
_MOST_RUNS = 50_000


def find_present(
    client: MlflowClient, folder: Path, export: Export, population: ExportedPopulation
) -> tuple[str, str]:
    """Whether a population of an export is in a store already.

    Returns:
        The run of one that holds every turn of the exported one, and the run of one that holds
        fewer, from which it has gone on elsewhere. Each is empty if there is none.
    """
    last, whole, earlier = export.last_records(population, folder), "", ""
    known = {population.run_id, population.origin}
    for run in find_runs(client, _ROLES):
        if run.info.run_id not in known and run.data.tags.get(ORIGIN) not in known:
            continue
        store = Store.open(run.info.run_id)
        if all(_is_same(store.record(turn.member, turn.number), turn) for turn in last):
            whole = run.info.run_id
        else:
            earlier = run.info.run_id
    return whole, earlier


def _is_same(here: Turn | None, there: Turn) -> bool:
    """Whether two records are of one turn, or of one that was done twice and came to the same."""
    if here is None:
        return False
    return (here.plan, here.status, here.score, here.checkpoint) == (
        there.plan,
        there.status,
        there.score,
        there.checkpoint,
    )


@dataclass(kw_only=True)
class Importer:
    """Makes the runs of exported populations in a store; either all of them come in, or none.

    Nobody finds a population before its last request, which says what the run is.
    """

    client: MlflowClient
    uri: str
    folder: Path
    export: Export
    wanted: list[ExportedPopulation]
    """Which of the export's populations are to be made: the others are there."""
    present: Mapping[str, str]
    """The runs of the export's populations that are there, by their runs in the export."""
    experiment: str | None = None
    """The name of the experiment; None for that of the export."""
    task_there: str
    """The name of the task where the export was made."""
    task: str | None = None
    """Its name here; None if it is the same."""
    _attempt: str = field(default_factory=lambda: uuid.uuid4().hex)
    _ids: dict[str, str] = field(default_factory=dict)
    """The new id of each run and model, by its old one."""
    _experiments: dict[str, Experiment] = field(default_factory=dict)
    _made_experiments: list[str] = field(default_factory=list)

    # --- making ---

    def make(self, free: Callable[[Path], int], advance: Callable[[int], None]) -> list[str]:
        """Make all runs, and return those of the populations, the one that was asked for first.

        Args:
            free: Returns the free bytes of the disk that a folder is on.
            advance: Is told how many more bytes have been stored.

        Raises:
            ExportError: There is not enough room.
        """
        self._ids.update(self._known_origins())
        self._ids.update(self.present)
        with self._nothing_half():
            for population in self.wanted:
                check_room(self._experiment_of(population), self.export.size, free)
            for population in self.wanted:
                self._make_runs(population)
            for model_id in self.export.models:
                self._make_model(model_id, advance)
            for population in self.wanted:
                for run_id in population.runs:
                    self._fill(population, run_id, advance)
            for population in reversed(self.wanted):
                self._complete(population)
        return [self._ids[population.run_id] for population in self.wanted]

    def _known_origins(self) -> dict[str, str]:
        """The runs of populations that were imported before: a replay names its source by them."""
        found = find_runs(self.client, _ROLES)
        return {r.data.tags[ORIGIN]: r.info.run_id for r in found if ORIGIN in r.data.tags}

    def _experiment_of(self, population: ExportedPopulation) -> Experiment:
        name = self.experiment or population.experiment
        if name not in self._experiments:
            found = self.client.get_experiment_by_name(name)
            experiment_id = ensure_experiment(self.client, name)
            if found is None:
                self._made_experiments.append(experiment_id)
            self._experiments[name] = self.client.get_experiment(experiment_id)
            mark_experiment(self.client, self._experiments[name])
            check_artifacts(self._experiments[name].artifact_location, self.uri)
        return self._experiments[name]

    def _make_runs(self, population: ExportedPopulation) -> None:
        """Make its runs with nothing in them, so that each has an id."""
        experiment = self._experiment_of(population)
        for run_id in population.runs:
            plain = self._plain(run_id)
            tags = {FOUNDING: self._attempt}
            if run_id == population.run_id:
                tags[IMPORTING] = new_owner()
            made = self.client.create_run(
                experiment.experiment_id,
                start_time=plain["start"],
                tags=tags,
                run_name=plain["name"],
            )
            self._ids[run_id] = made.info.run_id

    def _make_model(self, model_id: str, advance: Callable[[int], None]) -> None:
        plain = read_json(self.folder, f"{model_place(model_id)}/model.json")
        if plain["run_id"] not in {run_id for one in self.wanted for run_id in one.runs}:
            return
        source = self._ids[plain["run_id"]]
        run = self.client.get_run(source)
        made = self.client.create_logged_model(
            run.info.experiment_id,
            name=plain["name"],
            source_run_id=source,
            tags=plain["tags"],
            params=plain["params"],
            model_type=plain["type"],
        )
        self._ids[model_id] = made.model_id
        self._upload(made.artifact_location, model_place(model_id), advance)
        self.client.finalize_logged_model(made.model_id, plain["status"])

    def _fill(
        self, population: ExportedPopulation, run_id: str, advance: Callable[[int], None]
    ) -> None:
        """Give a run all that it had: what it logged, its files, its tags but for the last one."""
        plain, new = self._plain(run_id), self._ids[run_id]
        params = dict(plain["params"])
        if self.task is not None and run_id == population.run_id:
            params[_TASK_PARAM] = self.task
        if run_id == population.run_id and (claim := self.export.last_claim(population)):
            params[claim_param(claim)] = "imported"
        self.client.log_batch(new, params=[Param(*item) for item in params.items()])
        histories = read_json(self.folder, f"{run_place(run_id)}/metrics.json")
        for name, points in histories.items():
            metrics = [Metric(name, float(value), when, step) for value, when, step in points]
            self.client.log_batch(new, metrics=metrics)
        if plain["datasets"]:
            self.client.log_inputs(new, datasets=[_dataset(one) for one in plain["datasets"]])
        outputs = [
            LoggedModelOutput(self._ids[one["model_id"]], step=one["step"])
            for one in plain["models"]
            if one["model_id"] in self._ids
        ]
        if outputs:
            self.client.log_outputs(new, outputs)
        uri = self.client.get_run(new).info.artifact_uri
        self._upload(uri, run_place(run_id), advance)
        tags = self._tags(population, run_id, plain["tags"])
        self.client.log_batch(new, tags=[RunTag(*item) for item in tags.items()])
        self.client.set_terminated(new, status=plain["status"], end_time=plain["end"])

    def _tags(
        self, population: ExportedPopulation, run_id: str, tags: Mapping[str, str]
    ) -> dict[str, str]:
        found = {name: self._mapped(text) for name, text in tags.items()}
        for name in (_PARENT, _CONTROL):
            # It may have been a run of somebody's, which is not here.
            if tags.get(name) not in self._ids:
                found.pop(name, None)
        if run_id == population.run_id:
            found.pop(_ROLE, None)
            found[ORIGIN] = population.origin
            if self.task is not None:
                found[_TASK_TAG] = self.task
        return found

    def _complete(self, population: ExportedPopulation) -> None:
        """Say what a population's run is: from then on it is there."""
        new = self._ids[population.run_id]
        self.client.delete_tag(new, IMPORTING)
        tags = self._plain(population.run_id)["tags"]
        # A population of the first version has none.
        self.client.set_tag(new, _ROLE, tags.get(_ROLE, _ROLES[0]))

    def _plain(self, run_id: str) -> dict[str, Any]:
        plain: dict[str, Any] = read_json(self.folder, f"{run_place(run_id)}/run.json")
        return plain

    # --- files ---

    def _upload(self, uri: str, place: str, advance: Callable[[int], None]) -> None:
        """Store the artifacts of a run or a model."""
        repository: Any = get_artifact_repository(uri, tracking_uri=self.uri)
        own_runs = {run_place(population.run_id) for population in self.wanted}
        with temporary_folder() as changed:
            for artifact, name in self.export.artifacts(place).items():
                path, into = self.folder / name, posixpath.dirname(artifact) or None
                is_ours = place in own_runs and artifact in _OUR_FILES
                if is_ours or posixpath.basename(artifact) == "MLmodel":
                    text = path.read_text("utf-8")
                    path = Path(changed, path.name)
                    path.write_text(self._rewritten(text, artifact), "utf-8")
                repository.log_artifact(str(path), into)
                advance(self.export.files[name].size)

    def _rewritten(self, text: str, artifact: str) -> str:
        """What a file of ours says, with the runs, the store and the task that there are here."""
        text = self._mapped(text)
        if artifact not in _OUR_FILES:
            return text
        task = {self.task_there: self.task or self.task_there}
        return json.dumps(_here(json.loads(text), self.uri, task))

    def _mapped(self, text: str) -> str:
        """A text with the new id in place of each old one."""
        return _ANY_ID.sub(lambda match: self._ids.get(match[0], match[0]), text)

    # --- nothing half ---

    @contextlib.contextmanager
    def _nothing_half(self) -> Iterator[None]:
        """Delete whatever was made if the block does not come to its end."""
        try:
            yield
        except BaseException as error:
            # Where the store is away, the next import deletes what is left; `error` says why.
            with one_interrupt_waits(), contextlib.suppress(Exception):
                experiments = [one.experiment_id for one in self._experiments.values()]
                undo(self.client, self.uri, experiments, self._attempt)
                for experiment_id in self._made_experiments:
                    _delete_experiment(self.client, experiment_id)
            if isinstance(error, OSError):
                raise ExportError(f"cannot import {self.folder}: {error}") from error
            raise


def check_room(experiment: Experiment, size: int, free: Callable[[Path], int]) -> None:
    """Refuse an export that does not fit where the artifacts of an experiment lie.

    Raises:
        ExportError: There is not enough room.
    """
    place = local_path(experiment.artifact_location)
    if place is None:
        return
    folder = next(path for path in [Path(place), *Path(place).parents] if path.is_dir())
    if (there := free(folder)) < size:
        raise ExportError(
            f"the export needs {byte_count(size)}, and {byte_count(there)} are free where its "
            f"artifacts are to lie ({place})"
        )


def _here(plain: Any, uri: str, task: Mapping[str, str]) -> Any:
    """The values of a file of ours with this store, and with the name that the task has here."""
    if isinstance(plain, list):
        return [_here(value, uri, task) for value in plain]
    if not isinstance(plain, dict):
        return plain
    found = {name: _here(value, uri, task) for name, value in plain.items()}
    if isinstance(found.get("tracking_uri"), str):
        found["tracking_uri"] = uri
    if isinstance(name := found.get("task"), str):
        found["task"] = task.get(name, name)
    return found


def _dataset(plain: Mapping[str, Any]) -> DatasetInput:
    tags = [InputTag(*item) for item in plain["tags"].items()]
    return DatasetInput(Dataset(**plain["dataset"]), tags)


def delete_abandoned(client: MlflowClient, uri: str) -> int:
    """Delete what imports have left that were killed, and return how many there were."""
    experiments = [one.experiment_id for one in client.search_experiments()]
    if not experiments:
        return 0
    found = client.search_runs(experiments, f"tags.`{IMPORTING}` != ''", max_results=_MOST_RUNS)
    abandoned = [run for run in found if has_died(run.data.tags[IMPORTING])]
    for run in abandoned:
        undo(client, uri, experiments, run.data.tags[FOUNDING])
    return len(abandoned)


def _delete_experiment(client: MlflowClient, experiment_id: str) -> None:
    # A deleted experiment keeps its name, and the next import would be refused it.
    client.rename_experiment(experiment_id, f"half imported {uuid.uuid4().hex}")
    client.delete_experiment(experiment_id)
