"""Writes the runs of populations into a folder: all that MLflow keeps of them, and their files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModel, Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from pbt_flow.exceptions import ExportError
from pbt_flow.tracking.adoption import FOUNDING
from pbt_flow.tracking.catalogue import runs_below
from pbt_flow.tracking.client import downloads_through_server, local_path
from pbt_flow.tracking.export_folder import (
    Export,
    ExportedPopulation,
    FileEntry,
    copy_file,
    entry_of,
    model_place,
    run_place,
    write_export,
    write_json,
)
from pbt_flow.tracking.founding import ORIGIN
from pbt_flow.tracking.lease import CLAIM_PREFIX, FOUNDER, HEARTBEAT, STOP, newest_claim
from pbt_flow.tracking.store import Store

_OF_THIS_STORE = {FOUNDING, FOUNDER, HEARTBEAT, STOP, "mlflow.runName"}
"""Tags and params that say something of a store or of a controller, and nothing of a population."""


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """The artifacts of one run or model."""

    repository: Any
    """MLflow's access to them."""
    place: str
    """Their folder in the export."""
    sizes: Mapping[str, int]
    """The bytes of each, as far as the place for artifacts knows."""

    @classmethod
    def look(cls, uri: str, tracking_uri: str, place: str) -> Shelf:
        """Find out what there is."""
        repository = get_artifact_repository(uri, tracking_uri=tracking_uri)
        sizes = dict(_files_below(repository, None))
        return cls(repository=repository, place=f"{place}/artifacts", sizes=sizes)

    def fetch(
        self, folder: Path, advance: Callable[[int], None]
    ) -> Iterator[tuple[str, FileEntry]]:
        """Copy all of it into the folder, and tell of each file what it is."""
        here, target = local_path(self.repository.artifact_uri), folder / self.place
        if here is None and self.sizes:
            target.mkdir(parents=True, exist_ok=True)
            # All at once: MLflow then fetches several at a time.
            with downloads_through_server():
                self.repository.download_artifacts("", str(target))
        for artifact in self.sizes:
            if here is None:
                yield f"{self.place}/{artifact}", entry_of(target / artifact, advance)
            else:
                source = Path(here, artifact)
                yield f"{self.place}/{artifact}", copy_file(source, target / artifact, advance)


@dataclass(kw_only=True)
class Exporter:
    """Writes populations of one store into a folder.

    It first says how much there is, so that the room can be looked at, and then copies.
    """

    client: MlflowClient
    uri: str
    populations: Sequence[Store]
    """The population that was asked for, and then its control, if it has one."""
    _runs: dict[str, list[Run]] = field(default_factory=dict)
    """The runs of each population, its own first."""
    _models: list[LoggedModel] = field(default_factory=list)
    _shelves: list[Shelf] = field(default_factory=list)

    def look(self) -> int:
        """Find out what there is, and return how many bytes all files have."""
        for store in self.populations:
            own = self.client.get_run(store.run_id)
            runs = [own, *runs_below(self.client, own)]
            self._runs[store.run_id] = runs
            for run in runs:
                self._look_into(run.info.artifact_uri, run_place(run.info.run_id))
                self._look_at_models(run)
        return sum(sum(shelf.sizes.values()) for shelf in self._shelves)

    def _look_at_models(self, run: Run) -> None:
        found = self.client.search_logged_models(
            [run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'"
        )
        for model in found:
            self._look_into(model.artifact_location, model_place(model.model_id))
            self._models.append(model)

    def _look_into(self, uri: str, place: str) -> None:
        self._shelves.append(Shelf.look(uri, self.uri, place))

    def write(
        self, folder: Path, versions: Mapping[str, str], advance: Callable[[int], None]
    ) -> Export:
        """Write all of it, after `look`.

        Args:
            folder: An empty folder.
            versions: The versions of what writes it.
            advance: Is told how many more bytes have been copied.

        Raises:
            ExportError: A population has gone on meanwhile.
            OSError: The disk is full, or a file cannot be read.
        """
        files = dict[str, FileEntry]()
        for runs in self._runs.values():
            for run in runs:
                place = run_place(run.info.run_id)
                files[f"{place}/run.json"] = write_json(
                    folder, f"{place}/run.json", _plain_run(run)
                )
                files[f"{place}/metrics.json"] = write_json(
                    folder, f"{place}/metrics.json", self._plain_metrics(run)
                )
        for model in self._models:
            name = f"{model_place(model.model_id)}/model.json"
            files[name] = write_json(folder, name, _plain_model(model))
        for shelf in self._shelves:
            files.update(shelf.fetch(folder, advance))
        export = Export(
            populations=[self._describe(store) for store in self.populations],
            models=[model.model_id for model in self._models],
            files=files,
            versions=versions,
        )
        for store in self.populations:
            self._check_unchanged(store)
        write_export(folder, export)
        return export

    def _plain_metrics(self, run: Run) -> dict[str, list[list[Any]]]:
        histories = dict[str, list[list[Any]]]()
        for name in run.data.metrics:
            points = self.client.get_metric_history(run.info.run_id, name)
            histories[name] = [[_number(p.value), p.timestamp, p.step] for p in points]
        return histories

    def _describe(self, store: Store) -> ExportedPopulation:
        own, *_ = runs = self._runs[store.run_id]
        return ExportedPopulation(
            run_id=store.run_id,
            origin=own.data.tags.get(ORIGIN, store.run_id),
            name=own.info.run_name or "",
            experiment=self.client.get_experiment(own.info.experiment_id).name,
            members=list(store.members),
            runs=[run.info.run_id for run in runs],
        )

    def _check_unchanged(self, store: Store) -> None:
        before, now = self._runs[store.run_id][0], self.client.get_run(store.run_id)
        if newest_claim(before) != newest_claim(now) or store.status == "running":
            raise ExportError(
                f"population {store.run_id} was resumed while it was exported; stop it first: "
                f"python -m pbt_flow stop {store.run_id[:12]}"
            )


def _files_below(repository: Any, folder: str | None) -> Iterator[tuple[str, int]]:
    """The files of a place for artifacts, each with its size."""
    for info in sorted(repository.list_artifacts(folder), key=lambda info: info.path):
        if info.is_dir:
            yield from _files_below(repository, info.path)
        else:
            yield info.path, info.file_size or 0


def _plain_run(run: Run) -> dict[str, Any]:
    """A run as plain values, without what belongs to its store or its controllers."""
    tags = {name: text for name, text in run.data.tags.items() if name not in _OF_THIS_STORE}
    status = run.info.status
    if status == "RUNNING":
        # Whoever was to end it was killed.
        status = "KILLED"
        if "pbt.status" in tags:
            tags["pbt.status"] = "interrupted"
    params = {
        name: text
        for name, text in run.data.params.items()
        if name not in _OF_THIS_STORE and not name.startswith(CLAIM_PREFIX)
    }
    inputs = run.inputs.dataset_inputs if run.inputs else ()
    outputs = run.outputs.model_outputs if run.outputs else ()
    return {
        "name": run.info.run_name,
        "status": status,
        "start": run.info.start_time,
        "end": run.info.end_time,
        "tags": tags,
        "params": params,
        "datasets": [one.to_dictionary() for one in inputs],
        "models": [{"model_id": one.model_id, "step": one.step} for one in outputs],
    }


def _plain_model(model: LoggedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "run_id": model.source_run_id,
        "type": model.model_type,
        "status": str(model.status),
        "tags": dict(model.tags),
        "params": dict(model.params),
    }


def _number(value: float) -> float | str:
    """A metric's value as JSON: what is no number is a text that `float` reads."""
    return value if math.isfinite(value) else str(value)
