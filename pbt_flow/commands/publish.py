"""What a population leaves on its run besides its turns: report, picture, schedule and model.

All of these follow from the turns and can be made again at any time. So an error here never fails
a run: the user is told of it, and the run goes on.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbt_flow.exceptions import PBTError, PopulationError, StoreUnavailable
from pbt_flow.population.finalist import Finalist
from pbt_flow.population.history import History
from pbt_flow.population.records import Turn
from pbt_flow.population.result import Result
from pbt_flow.population.schedule import Schedule, schedule_of
from pbt_flow.reporting import summary_image
from pbt_flow.reporting.page import page
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.settings import Settings
from pbt_flow.space import Space
from pbt_flow.task.mlflow_capture import logging_dropped
from pbt_flow.training.protocols import ProgressListener
from pbt_flow.utils.reasons import reason_of
from pbt_flow.utils.scratch import temporary_folder

if TYPE_CHECKING:
    from pbt_flow.tracking.artifacts import Artifacts

REPORT = "report/index.html"
PICTURE = "report/summary.png"
SCHEDULE = "schedule.json"
SCHEDULE_TABLE = "schedule.csv"
_REFRESH_SECONDS = 60.0
"""How often a fresh report is put on the run while the population trains, at most."""
_MOST_TIME_SHARE = 0.01
"""How much of the time reports may take."""


def publish(
    report_data: Callable[[], ReportData],
    keep: Callable[[Path], None],
    say: Callable[[str], None],
) -> None:
    """Put the report, the picture and the winner's schedule on the population's run.

    Args:
        report_data: Reads from the store what the report shows.
        keep: Puts the files of a folder on the population's run.
        say: Tells the user what went wrong.

    Raises:
        StoreUnavailable: The store does not answer. The caller may try again.
    """
    with errors_told("report", say), temporary_folder() as folder:
        write(report_data(), Path(folder))
        keep(Path(folder))


def publish_model(
    artifacts: Artifacts, result: Result, register_as: str | None, say: Callable[[str], None]
) -> None:
    """Put the winner's model on the population's run, and register it if a name is given.

    Raises:
        StoreUnavailable: The store does not answer. The caller may try again.
    """
    with errors_told("model", say):
        if result.winner is not None:
            address = keep_model(artifacts, result, register_as)
            say(f'the winner\'s model: mlflow.pytorch.load_model("{address}")')


def keep_model(artifacts: Artifacts, result: Result, register_as: str | None) -> str:
    """Put the winner's model on the population's run, and register it if a name is given.

    Returns:
        The model's address, for `mlflow.pytorch.load_model`.

    Raises:
        PopulationError: There is no winner, or its task keeps no model.
    """
    turn, best = result.history.winner(), result.best
    if turn is None or best is None or best.checkpoint is None:
        raise PopulationError(f"population {result.run_id} has no winner yet")
    model, example = build_model(best)
    digest = best.checkpoint.digest
    return artifacts.keep_model(model, example, turn, digest, register_as)


def build_model(best: Finalist) -> tuple[Any, Any]:
    """The model of what is handed over, in evaluation mode on the CPU, and an input of it or None.

    Raises:
        PopulationError: Its task keeps no model.
    """
    # No turn of a member is under way, so that what the task logs by itself belongs to no run.
    with logging_dropped():
        task = best.task(device="cpu")
        model = task.model()
        if model is None:
            raise PopulationError(f"task {type(task).__name__} keeps no model: it has no model()")
        return model.eval(), task.example()


@contextlib.contextmanager
def errors_told(what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Tell the user of an error in the block, instead of raising it."""
    try:
        yield
    except (StoreUnavailable, KeyboardInterrupt):
        # The caller tries again once the store is back; Ctrl-C is the user's.
        raise
    # Every exception, since the task builds the winner's model: it may call sys.exit, for instance.
    except BaseException as error:
        is_ours = isinstance(error, PBTError)
        say(f"no {what}: {error if is_ours else reason_of(error, with_module=False)}")


@contextlib.contextmanager
def writing_to(out: str) -> Iterator[None]:
    """Name the user's folder `out` in the error if the block cannot write to it.

    Raises:
        PopulationError: The folder cannot be written to.
    """
    try:
        yield
    except OSError as error:
        raise PopulationError(f"cannot write to the folder {out}: {error}") from None


def write(data: ReportData, folder: Path) -> list[Path]:
    """Write the report, the picture and the winner's schedule below `folder`.

    Returns:
        The paths of the files.
    """
    report, picture = folder / REPORT, folder / PICTURE
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(page(data), encoding="utf-8")
    summary_image.draw(data, picture)
    schedule = winners_schedule(data.result, data.settings, data.space)
    if schedule is None:
        return [report, picture]
    return [report, picture, *write_schedule(schedule, folder)]


def write_schedule(schedule: Schedule, folder: Path) -> list[Path]:
    """Write a schedule, to be replayed and to be read, and return the paths of the files."""
    file, table = folder / SCHEDULE, folder / SCHEDULE_TABLE
    file.write_text(json.dumps(schedule.to_json(), indent=1), encoding="utf-8")
    table.write_text(schedule.to_csv(), encoding="utf-8")
    return [file, table]


def winners_schedule(result: Result, settings: Settings, space: Space) -> Schedule | None:
    """The schedule that the winner was trained along; None if there is no winner."""
    winner = result.history.winner()
    if winner is None:
        return None
    return schedule_of(
        winner,
        result.history,
        task=settings.task,
        options=settings.options,
        space=space,
        source=result.run_id,
        seed=settings.seed,
        budget=settings.budget,
    )


class LiveReport:
    """Puts a fresh report on the run now and then, while the population trains.

    It stands between the controller and another listener, to which it passes everything on. The
    page of a large population takes seconds, and so may the requests for it. So the controller only
    takes a snapshot here, and a thread does the rest.

    Args:
        inner: The other listener.
        snapshot: Returns what has become of the population so far, as nothing changes it later.
        report_data: Reads from the store what a report of that shows. A thread calls it.
        keep: Puts the files of a folder on the population's run. A thread calls it.
        later: Has a thread make a call, once those before it are made.
        clock: Returns the seconds since any fixed moment.
    """

    def __init__(
        self,
        inner: ProgressListener,
        snapshot: Callable[[], Result],
        report_data: Callable[[Result], ReportData],
        keep: Callable[[Path], None],
        later: Callable[[Callable[[], None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner, self._clock = inner, clock
        self._snapshot, self._report_data = snapshot, report_data
        self._keep, self._later = keep, later
        self._next_due = clock() + _REFRESH_SECONDS
        self._has_new_turns = False
        self._trouble = deque[str]()
        """Why there was no report. Only the controller's thread writes to the screen."""

    def turn(self, turn: Turn, history: History) -> None:
        self._has_new_turns = True
        self._inner.turn(turn, history)

    def say(self, text: str) -> None:
        self._inner.say(text)

    def tick(self) -> None:
        self._inner.tick()
        while self._trouble:
            self._inner.say(self._trouble.popleft())
        if not self._has_new_turns or self._clock() < self._next_due:
            return
        self._has_new_turns = False
        # No other is begun before this one is there.
        self._next_due = math.inf
        self._later(partial(self._refresh, self._snapshot()))

    def _refresh(self, result: Result) -> None:
        """Make a report and put it on the run."""
        began = self._clock()
        try:
            with temporary_folder() as folder:
                path = Path(folder, REPORT)
                path.parent.mkdir()
                path.write_text(page(self._report_data(result)), encoding="utf-8")
                self._keep(Path(folder))
        except Exception as error:
            self._trouble.append(f"no report for now: {reason_of(error, with_module=False)}")
        ended = self._clock()
        # The thread logs no turn meanwhile, and takes its part of a core.
        self._next_due = ended + max(_REFRESH_SECONDS, (ended - began) / _MOST_TIME_SHARE)
