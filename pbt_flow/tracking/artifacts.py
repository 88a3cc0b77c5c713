"""The artifacts of a population's run that people look at: files, samples, a model, a view."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from pbt_flow.exceptions import RecordError
from pbt_flow.population.accepted import (
    ACCEPTED,
    NOTHING,
    Accepted,
    claim_of_file,
    file_of_claim,
)
from pbt_flow.population.checkpoints import write_new_file
from pbt_flow.population.records import Direction, Turn
from pbt_flow.space import Space
from pbt_flow.tracking.client import (
    downloads_through_server,
    local_path,
    read_bytes,
    read_text,
)
from pbt_flow.tracking.create import param_text, shorten_param
from pbt_flow.tracking.models import ALIAS, log_model, register
from pbt_flow.tracking.population_runs import PopulationRuns
from pbt_flow.tracking.saved_view import MOST, OVERVIEW, overview, population_view, view_tag

SAMPLES = "samples"
"""The folder of the samples among a run's artifacts."""
AVERAGE = "average"
"""The folder of the average of finalists among a run's artifacts."""
_ROUND_PREFIX = "round-"
"""What the folder of a round's samples begins with; its number follows."""


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """The artifacts of a population's run that people look at."""

    runs: PopulationRuns
    space: Space

    def keep(self, folder: Path) -> None:
        """Log the files of a folder with the population's run, under the names they have there."""
        with self.runs.talk():
            self.runs.client.log_artifacts(self.runs.run_id, str(folder))

    def save_view(
        self, direction: Direction, *, staged: bool = False, grouped: bool = False
    ) -> None:
        """Save a view of the population for MLflow's UI, and that of all, if the store takes them.

        Args:
            direction: Which direction of the score is better.
            staged: Whether members leave at the ends of stages.
            grouped: Whether there are sub-populations.
        """
        # A population can do without its view, so a store that refuses it ends nothing.
        with contextlib.suppress(MlflowException):
            run = self.runs.client.get_run(self.runs.run_id)
            name = f"{run.info.run_name} ({self.runs.run_id[:8]})"
            began = run.info.start_time / 1000
            view = population_view(
                self.runs.run_id,
                name,
                self.space,
                began,
                direction=direction,
                staged=staged,
                grouped=grouped,
            )
            if len(view) <= MOST:
                tag = view_tag(self.runs.run_id)
                self.runs.client.set_experiment_tag(run.info.experiment_id, tag, view)
            # The list of all populations is then in MLflow's menu, however the UI was opened.
            self.runs.client.set_experiment_tag(
                run.info.experiment_id, view_tag(OVERVIEW), overview()
            )

    def log_samples(self, folder: Path, turn: Turn | None = None) -> None:
        """Log what a task's `samples` wrote with the population's run.

        Args:
            folder: The folder that `samples` wrote.
            turn: The turn whose model made the samples, the best of its round; None for the winner.
        """
        place = SAMPLES if turn is None else _round_folder(turn.number)
        with self.runs.talk():
            self.runs.client.log_artifacts(self.runs.run_id, str(folder), place)

    def shown(self) -> dict[int, str]:
        """Return the rounds whose samples are logged, each with the folder of its samples."""
        with self.runs.talk():
            listed = self.runs.client.list_artifacts(self.runs.run_id, SAMPLES)
        folders: dict[int, str] = {}
        for info in listed:
            number = info.path.rpartition(_ROUND_PREFIX)[2]
            # The winner's samples lie beside the rounds, in folders of any name.
            if info.is_dir and number.isdecimal() and info.path == _round_folder(int(number)):
                folders[int(number)] = info.path
        return folders

    def pictures(self, most: int = 12) -> dict[int, bytes]:
        """Return the first PNG among the samples of each of some rounds, by the round's number.

        Args:
            most: How many rounds, at least two. They are spread evenly from the first to the last.
        """
        folders, found = self.shown(), dict[int, bytes]()
        rounds = sorted(folders)
        if len(rounds) > most:
            rounds = [rounds[place * (len(rounds) - 1) // (most - 1)] for place in range(most)]
        for number in rounds:
            with self.runs.talk():
                listed = self.runs.client.list_artifacts(self.runs.run_id, folders[number])
                names = sorted(info.path for info in listed if info.path.endswith(".png"))
                if names:
                    found[number] = read_bytes(self.runs.client, self.runs.run_id, names[0])
        return found

    def accepted(self) -> Accepted:
        """Return what the controller of the newest claim accepted of earlier ones.

        Raises:
            RecordError: The file is not what a controller writes.
        """
        with self.runs.talk():
            listed = self.runs.client.list_artifacts(self.runs.run_id, ACCEPTED)
        claims = [claim_of_file(info.path.rpartition("/")[2]) or 0 for info in listed]
        for claim in sorted(filter(None, claims), reverse=True):
            place = f"{ACCEPTED}/{file_of_claim(claim)}"
            with self.runs.talk():
                text = read_text(self.runs.client, self.runs.run_id, place)
            try:
                accepted = Accepted.from_json(text)
            except RecordError as error:
                raise RecordError(f"run {self.runs.run_id}, {place}: {error}") from None
            if accepted is not None:
                return accepted
        return NOTHING

    def keep_accepted(self, accepted: Accepted) -> None:
        """Put what a controller has accepted on the population's run, in a file of its claim."""
        name, text = file_of_claim(accepted.claim), accepted.to_json()
        with self.runs.talk():
            uri = self.runs.client.get_run(self.runs.run_id).info.artifact_uri
            place = local_path(uri)
            if place is None:
                self.runs.client.log_text(self.runs.run_id, text, f"{ACCEPTED}/{name}")
                return
            path = Path(place, ACCEPTED, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_new_file(path, text)

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
            with downloads_through_server():
                return Path(self.runs.client.download_artifacts(self.runs.run_id, AVERAGE))

    def keep_model(
        self, model: Any, example: Any, turn: Turn, digest: str, register_as: str | None
    ) -> str:
        """Log the winner's model with the population's run, and register it.

        Args:
            model: A torch module on the CPU, in evaluation mode.
            example: An input of the model as an array, or None.
            turn: The winner.
            digest: The digest of the model's state: the winner's, or that of an average.
            register_as: The registered model that gets it as a version; None for no registration.

        Returns:
            The model's URI, as `mlflow.pytorch.load_model` takes it.
        """
        with self.runs.talk():
            model_id = log_model(
                self.runs.client,
                self.runs.run_id,
                model,
                example,
                checkpoint=digest,
                params={
                    name: shorten_param(param_text(value))
                    for name, value in turn.plan.hparams.items()
                },
                step=turn.plan.trained,
            )
            if register_as is None:
                return f"models:/{model_id}"
            tags, description = self._about_version(turn, digest)
            register(self.runs.client, model_id, register_as, tags=tags, description=description)
            return f"models:/{register_as}@{ALIAS}"

    def _about_version(self, turn: Turn, digest: str) -> tuple[dict[str, str], str]:
        """What a person wants to know of a version of a registered model: tags, and a sentence.

        Args:
            turn: The winner.
            digest: The digest of the model's state: the winner's, or that of an average.
        """
        own = turn.checkpoint is not None and turn.checkpoint.digest == digest
        who = "The winner" if own else "The average of finalists, of which the best is the winner,"
        run = self.runs.client.get_run(self.runs.run_id)
        place = f"#/experiments/{run.info.experiment_id}/runs/{self.runs.run_id}"
        task = run.data.params.get("cfg/task", "")
        tags = {"pbt.task": task, "pbt.population": self.runs.run_id, "pbt.score": f"{turn.score}"}
        hparams = ", ".join(f"{k} {param_text(v)}" for k, v in turn.plan.hparams.items())
        description = (
            f"{who} of [{run.info.run_name}]({place}), task {task}: score {turn.score:.4g} "
            f"after step {turn.step:,}, with {hparams}. How it was trained is in "
            f"[schedule.json]({place}/artifacts/schedule.json)."
        )
        return tags, description


def _round_folder(number: int) -> str:
    """Return the folder of a round's samples among a run's artifacts."""
    return f"{SAMPLES}/{_ROUND_PREFIX}{number:06d}"
