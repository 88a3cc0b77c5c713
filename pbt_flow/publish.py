"""What a population leaves on its run besides its turns: the report, a picture, the schedule.

All of it follows from the turns and can be made again at any time, so nothing here may fail a run:
what goes wrong is said, and the run goes on.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from pbt_flow import picture
from pbt_flow.errors import StoreAway
from pbt_flow.history import History
from pbt_flow.member import Turn
from pbt_flow.report import page
from pbt_flow.result import Result
from pbt_flow.schedule import Schedule, schedule_of
from pbt_flow.settings import Settings
from pbt_flow.space import Space
from pbt_flow.subject import Subject

REPORT = "report/index.html"
PICTURE = "report/summary.png"
SCHEDULE = "schedule.json"
TABLE = "schedule.csv"
_EVERY = 60.0
_SHARE = 0.01


class Place(Protocol):
    """What publishing needs of a store."""

    run_id: str
    space: Space

    def keep(self, folder: Path) -> None: ...

    def warnings(self) -> Mapping[str, str]: ...

    def pictures(self) -> Mapping[int, bytes]: ...


class Watcher(Protocol):
    """What the controller tells about its progress."""

    def turn(self, turn: Turn, history: History) -> None: ...

    def tick(self) -> None: ...

    def say(self, text: str) -> None: ...


def publish(place: Place, settings: Settings, result: Result, say: Callable[[str], None]) -> None:
    """Put the report, the picture and the winner's schedule on the population's run.

    Raises:
        StoreAway: The store does not answer; to be tried again.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            write(_subject(place, settings, result), Path(folder))
            place.keep(Path(folder))
    except StoreAway:
        raise
    except Exception as error:
        say(f"no report: {type(error).__name__}: {error}")


def write(subject: Subject, folder: Path) -> list[Path]:
    """Write the report, the picture and the winner's schedule below `folder`."""
    paths = [folder / REPORT, folder / PICTURE]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    paths[0].write_text(page(subject), encoding="utf-8")
    picture.draw(subject, paths[1])
    if (schedule := winners_schedule(subject)) is not None:
        paths += [folder / SCHEDULE, folder / TABLE]
        text = json.dumps(schedule.to_json(), indent=1, allow_nan=False)
        paths[2].write_text(text, encoding="utf-8")
        paths[3].write_text(schedule.to_csv(), encoding="utf-8")
    return paths


def winners_schedule(subject: Subject) -> Schedule | None:
    """What made the winner; None if there is no winner."""
    winner, settings = subject.history.winner(), subject.settings
    if winner is None:
        return None
    return schedule_of(
        winner,
        subject.history,
        task=settings.task,
        options=settings.options,
        space=subject.space,
        source=subject.result.run_id,
        seed=settings.seed,
    )


def _subject(place: Place, settings: Settings, result: Result) -> Subject:
    return Subject(
        result=result,
        settings=settings,
        space=place.space,
        warnings=place.warnings(),
        pictures=place.pictures(),
    )


class LiveReport:
    """Passes on what the controller tells, and now and then puts a fresh report on the run.

    Args:
        inner: Who watches as well.
        place: The population's store.
        settings: The population's settings.
        result: What has become of the population so far.
        clock: Seconds since any fixed moment.
    """

    def __init__(
        self,
        inner: Watcher,
        place: Place,
        settings: Settings,
        result: Callable[[], Result],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner, self._place, self._settings = inner, place, settings
        self._result, self._clock = result, clock
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
                subject = _subject(self._place, self._settings, self._result())
                path.write_text(page(subject), encoding="utf-8")
                self._place.keep(Path(folder))
        except Exception as error:
            self._inner.say(f"no report for now: {type(error).__name__}: {error}")
        # The report of a large population takes seconds; it must not take a worker's time.
        ended = self._clock()
        self._due = ended + max(_EVERY, (ended - began) / _SHARE)
