"""What lies on a population's run to be looked at: files, samples, pictures, a model, a view."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from pbt_flow.population.records import Turn
from pbt_flow.space import Space
from pbt_flow.tracking.client import local_path, read_bytes
from pbt_flow.tracking.create import shorten, text
from pbt_flow.tracking.models import ALIAS, log_model, register
from pbt_flow.tracking.population_runs import PopulationRuns
from pbt_flow.tracking.saved_view import MOST, population_view, view_tag

SAMPLES = "samples"
AVERAGE = "average"
_ROUND = "round-"


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """What lies on a population's run to be looked at."""

    runs: PopulationRuns
    space: Space

    def keep(self, folder: Path) -> None:
        """Put the files of a folder on the population's run, under the names they have there."""
        with self.runs.talk():
            self.runs.client.log_artifacts(self.runs.run_id, str(folder))

    def save_view(self, *, staged: bool = False) -> None:
        """Save a view of the population's charts for MLflow's UI. A comfort, never a condition.

        Args:
            staged: Whether members leave at the ends of stages.
        """
        with contextlib.suppress(MlflowException):
            run = self.runs.client.get_run(self.runs.run_id)
            name = f"{run.info.run_name} ({self.runs.run_id[:8]})"
            began = run.info.start_time / 1000
            view = population_view(self.runs.run_id, name, self.space, began, staged=staged)
            if len(view) <= MOST:
                tag = view_tag(self.runs.run_id)
                self.runs.client.set_experiment_tag(run.info.experiment_id, tag, view)

    def log_samples(self, folder: Path, turn: Turn | None = None) -> None:
        """Put what a task's `samples` wrote on the population's run.

        Args:
            folder: What was written.
            turn: The best turn of a round, which it shows; None for the winner.
        """
        place = SAMPLES if turn is None else f"{SAMPLES}/{_ROUND}{turn.number:06d}"
        with self.runs.talk():
            self.runs.client.log_artifacts(self.runs.run_id, str(folder), place)

    def shown(self) -> dict[int, str]:
        """The rounds whose samples are on the population's run, and where."""
        with self.runs.talk():
            listed = self.runs.client.list_artifacts(self.runs.run_id, SAMPLES)
        rounds = (info.path for info in listed if info.is_dir and f"/{_ROUND}" in info.path)
        return {int(path.rpartition(_ROUND)[2]): path for path in sorted(rounds)}

    def pictures(self, most: int = 12) -> dict[int, bytes]:
        """The first picture among the samples of some rounds, by the round.

        Args:
            most: How many; they are spread evenly, the first and the last round among them.
        """
        shown, found = self.shown(), dict[int, bytes]()
        rounds = sorted(shown)
        chosen = (
            {rounds[n * (len(rounds) - 1) // (most - 1)] for n in range(most)} if rounds else ()
        )
        for number in sorted(chosen):
            with self.runs.talk():
                listed = self.runs.client.list_artifacts(self.runs.run_id, shown[number])
                names = sorted(info.path for info in listed if info.path.endswith(".png"))
                if names:
                    found[number] = read_bytes(self.runs.client, self.runs.run_id, names[0])
        return found

    def keep_average(self, folder: Path) -> None:
        """Put the state of an average of finalists on the population's run."""
        with self.runs.talk():
            self.runs.client.log_artifacts(self.runs.run_id, str(folder), AVERAGE)

    def fetch_average(self) -> Path:
        """The folder below which the state of the average now lies on this machine."""
        with self.runs.talk():
            place = local_path(self.runs.client.get_run(self.runs.run_id).info.artifact_uri)
            if place is not None:
                return Path(place, AVERAGE)
            return Path(self.runs.client.download_artifacts(self.runs.run_id, AVERAGE))

    def keep_model(
        self, model: Any, example: Any, turn: Turn, digest: str, register_as: str | None
    ) -> str:
        """Log the winner's model with the population's run, and register it.

        Args:
            model: A torch module on the CPU, in evaluation mode.
            example: An input of it as an array, or None.
            turn: The winner.
            digest: Of the state that the model has: the winner's, or that of an average.
            register_as: The registered model to make it a version of, if any.

        Returns:
            Its address, as `mlflow.pytorch.load_model` takes it.
        """
        with self.runs.talk():
            model_id = log_model(
                self.runs.client,
                self.runs.run_id,
                model,
                example,
                checkpoint=digest,
                params={name: shorten(text(v)) for name, v in turn.plan.hparams.items()},
                step=turn.plan.trained,
            )
            if register_as is None:
                return f"models:/{model_id}"
            register(self.runs.client, model_id, register_as)
            return f"models:/{register_as}@{ALIAS}"
