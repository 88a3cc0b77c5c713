"""The winner of a population alone, in a folder that can be used without its store."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbt_flow.commands.publish import (
    SCHEDULE,
    SCHEDULE_TABLE,
    build_model,
    errors_told,
    winners_schedule,
    write_schedule,
)
from pbt_flow.commands.transfer import absolute, appearing_whole, open_at_rest
from pbt_flow.commands.transfer_progress import TransferProgress
from pbt_flow.exceptions import CheckpointError, PopulationError
from pbt_flow.population.checkpoints import state_place
from pbt_flow.population.finalist import Finalist
from pbt_flow.population.result import Result
from pbt_flow.population.turn_files import STATE
from pbt_flow.utils.text import number, values

if TYPE_CHECKING:
    from pbt_flow.commands.stored_population import StoredPopulation

MODEL, SETTINGS, README = "model", "settings.json", "README.md"


@dataclass(frozen=True, kw_only=True)
class ExportedWinner:
    """A winner in a folder."""

    run_id: str
    """The population's run."""
    folder: str
    files: list[str]
    """What lies in the folder; `model` is one of MLflow's, which is a folder itself."""

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return dict(vars(self))


def export_winner(run_id: str, folder: str | Path, *, quiet: bool = False) -> ExportedWinner:
    """Write the winner of a population alone into a folder that needs no store.

    What is handed over is written: the average of finalists where there is one, else the winner.
    There is its model as one of MLflow's, its state, its schedule, and the population's settings.

    Args:
        run_id: The population's run, the beginning of its id, or `last`.
        folder: The folder, which must not exist.
        quiet: Whether to print nothing.

    Raises:
        StoreError: There is no such population.
        PopulationError: It is running, is a replay, or has no winner.
        CheckpointError: The state is gone, or is not the one that the turn wrote.
        ExportError: The folder exists, or cannot be written.
    """
    from pbt_flow.tracking.client import short_requests
    from pbt_flow.tracking.export_folder import WINNER

    target = absolute(folder)
    with (
        TransferProgress(quiet=quiet) as progress,
        appearing_whole(target) as place,
        short_requests(),
    ):
        stored = open_at_rest(run_id)
        if stored.is_replay:
            raise PopulationError(f"run {stored.run_id} is a replay, which has no winner")
        progress.begin("exporting the winner")
        result = stored.result()
        best = result.best
        if best is None or best.checkpoint is None:
            raise PopulationError(f"population {stored.run_id} has no winner yet")
        _write_state(stored, best, place)
        with errors_told("model", progress.say):
            _write_model(best, place)
        schedule = winners_schedule(result, stored.settings, stored.store.space)
        assert schedule is not None  # There is a winner.
        write_schedule(schedule, place)
        _write_json(place / SETTINGS, stored.settings.to_json())
        _write_json(place / WINNER, {"population": stored.run_id, **best.to_json()})
        files = sorted(path.name for path in place.iterdir())
        (place / README).write_text(_readme(stored, result, best, files), "utf-8")
    return ExportedWinner(run_id=stored.run_id, folder=str(target), files=[README, *files])


def _write_state(stored: StoredPopulation, best: Finalist, folder: Path) -> None:
    """Copy the state of what is handed over.

    Raises:
        CheckpointError: It is gone, or is not the one that the turn wrote.
    """
    from pbt_flow.tracking.export_folder import copy_file

    store, checkpoint = stored.store, best.checkpoint
    assert checkpoint is not None
    root = store.artifacts.fetch_average() if best.parents else store.folders.fetch(checkpoint)
    path = root / state_place(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"the state of the winner is gone: there is no file {path}")
    found = copy_file(path, folder / STATE, lambda size: None)
    if found.sha256 != checkpoint.digest:
        raise CheckpointError(f"the state of the winner was altered or cut short: {path}")


def _write_model(best: Finalist, folder: Path) -> None:
    from pbt_flow.tracking.models import save_model

    model, example = build_model(best)
    try:
        save_model(model, example, folder / MODEL)
    except BaseException:
        shutil.rmtree(folder / MODEL, ignore_errors=True)
        raise


def _write_json(path: Path, plain: Any) -> None:
    path.write_text(json.dumps(plain, indent=1), "utf-8")


def _readme(stored: StoredPopulation, result: Result, best: Finalist, files: list[str]) -> str:
    """What lies in the folder, and how each file is used."""
    settings = stored.settings
    what = f"the average of {len(best.parents)} finalists" if best.parents else "the winner"
    lines = [
        f"# {what.capitalize()} of population {stored.run_id}",
        "",
        f"Member {best.member:02d} after turn {best.turn}, step {best.step:,}: score "
        f"{number(best.score)}" + (f"; report {values(best.report)}" if best.report else "") + ".",
        f"Task {settings.task}, {result.members} members, seed {settings.seed}. Nothing here needs "
        "the tracking store.",
        "",
    ]
    if MODEL in files:
        lines += [
            f'- `{MODEL}/` is a model of MLflow\'s: `mlflow.pytorch.load_model("{MODEL}")`. It is '
            "a pickle, which runs code; a class of a package needs that package.",
        ]
    lines += [
        f'- `{STATE}` is its state, tensors and plain values: `torch.load("{STATE}", '
        "weights_only=True)`, for `Task.load_state_dict`.",
        f"- `{SCHEDULE}` is how it was trained, to be trained again: `python -m pbt_flow replay "
        f"{SCHEDULE}`. `{SCHEDULE_TABLE}` is the same for a spreadsheet.",
        f"- `{SETTINGS}` has all that defines the population, and `winner.json` its numbers and "
        "hyperparameters.",
    ]
    return "\n".join(lines) + "\n"
