"""What a population leaves on its run besides its turns: report, picture, schedule, model.

All of it follows from the turns and can be made again at any time, so nothing here may fail a run:
what goes wrong is said, and the run goes on.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pbt_flow.exceptions import PopulationError, StoreUnavailable
from pbt_flow.population.history import History
from pbt_flow.population.records import Turn
from pbt_flow.population.result import Result
from pbt_flow.population.schedule import Schedule, schedule_of
from pbt_flow.reporting import summary_image as picture
from pbt_flow.reporting.page import page
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.task.mlflow_capture import dropped
from pbt_flow.training.controller import ProgressListener
from pbt_flow.utils.reasons import reason_of

if TYPE_CHECKING:
    from pbt_flow.tracking.artifacts import Artifacts

REPORT = "report/index.html"
PICTURE = "report/summary.png"
SCHEDULE = "schedule.json"
TABLE = "schedule.csv"
_EVERY = 60.0
_SHARE = 0.01


def publish(
    report_data: Callable[[], ReportData],
    keep: Callable[[Path], None],
    say: Callable[[str], None],
) -> None:
    """Put the report, the picture and the winner's schedule on the population's run.

    Args:
        report_data: Asks the store what the report is about.
        keep: Puts the files of a folder on the population's run.
        say: Tells the user what went wrong.

    Raises:
        StoreUnavailable: The store does not answer; to be tried again.
    """
    with _or_say("report", say), tempfile.TemporaryDirectory() as folder:
        write(report_data(), Path(folder))
        keep(Path(folder))


def publish_model(
    artifacts: Artifacts, result: Result, register_as: str | None, say: Callable[[str], None]
) -> None:
    """Put the winner's model on the population's run, and register it if there is a name for it.

    Raises:
        StoreUnavailable: The store does not answer; to be tried again.
    """
    with _or_say("model", say):
        if result.winner is not None:
            address = keep_model(artifacts, result, register_as)
            say(f'the winner\'s model: mlflow.pytorch.load_model("{address}")')


def keep_model(artifacts: Artifacts, result: Result, register_as: str | None) -> str:
    """Put the winner's model on the population's run, and register it if there is a name for it.

    Returns:
        Its address, as `mlflow.pytorch.load_model` takes it.

    Raises:
        PopulationError: There is no winner, or its task keeps no model.
    """
    turn, best = result.history.winner(), result.best
    if turn is None or best is None or best.checkpoint is None:
        raise PopulationError(f"population {result.run_id} has no winner yet")
    with dropped():
        task = best.task(device="cpu")
        if (model := task.model()) is None:
            raise PopulationError(f"task {type(task).__name__} keeps no model: it has no model()")
        example = task.example()
    digest = best.checkpoint.digest
    return artifacts.keep_model(model.eval(), example, turn, digest, register_as)


@contextlib.contextmanager
def _or_say(what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Nothing that is left on a run may fail it."""
    try:
        yield
    except (StoreUnavailable, KeyboardInterrupt):
        raise
    # The winner's model is built by the task, which may end with anything.
    except BaseException as error:
        say(f"no {what}: {reason_of(error, with_module=False)}")


@contextlib.contextmanager
def writing_to(out: str) -> Iterator[None]:
    """Write into a folder of the user's.

    Raises:
        PopulationError: It cannot be written to.
    """
    try:
        yield
    except OSError as error:
        raise PopulationError(f"cannot write to the folder {out}: {error}") from None


def write(data: ReportData, folder: Path) -> list[Path]:
    """Write the report, the picture and the winner's schedule below `folder`."""
    paths = [folder / REPORT, folder / PICTURE]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    paths[0].write_text(page(data), encoding="utf-8")
    picture.draw(data, paths[1])
    if (schedule := winners_schedule(data)) is not None:
        paths += [folder / SCHEDULE, folder / TABLE]
        text = json.dumps(schedule.to_json(), indent=1)
        paths[2].write_text(text, encoding="utf-8")
        paths[3].write_text(schedule.to_csv(), encoding="utf-8")
    return paths


def winners_schedule(data: ReportData) -> Schedule | None:
    """What made the winner; None if there is no winner."""
    winner, settings = data.history.winner(), data.settings
    if winner is None:
        return None
    return schedule_of(
        winner,
        data.history,
        task=settings.task,
        options=settings.options,
        space=data.space,
        source=data.result.run_id,
        seed=settings.seed,
    )


class LiveReport:
    """Passes on what the controller tells, and now and then puts a fresh report on the run.

    Args:
        inner: Who watches as well.
        report_data: Asks the store what a report is about, as things stand.
        keep: Puts the files of a folder on the population's run.
        clock: Seconds since any fixed moment.
    """

    def __init__(
        self,
        inner: ProgressListener,
        report_data: Callable[[], ReportData],
        keep: Callable[[Path], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner, self._clock = inner, clock
        self._report_data, self._keep = report_data, keep
        self._due = clock() + _EVERY
        self._news = False

    def turn(self, turn: Turn, history: History) -> None:
        self._news = True
        self._inner.turn(turn, history)

    def say(self, text: str) -> None:
        self._inner.say(text)

    def tick(self) -> None:
        self._inner.tick()
        began = self._clock()
        if not self._news or began < self._due:
            return
        self._news = False
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, REPORT)
                path.parent.mkdir()
                path.write_text(page(self._report_data()), encoding="utf-8")
                self._keep(Path(folder))
        except Exception as error:
            self._inner.say(f"no report for now: {reason_of(error, with_module=False)}")
        # The report of a large population takes seconds; it must not take a worker's time.
        ended = self._clock()
        self._due = ended + max(_EVERY, (ended - began) / _SHARE)
