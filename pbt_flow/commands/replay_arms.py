"""The arms of a replay: what models are trained in each, what they came to, as rows and as text."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pbt_flow.exceptions import PBTError, ReplayError
from pbt_flow.population.schedule import Schedule
from pbt_flow.space import Hparams, check_hparams
from pbt_flow.utils.interval import Interval

SCHEDULE, LAST, INITIAL = "schedule", "last", "best_initial"
"""The names of the arms."""
ARM_TITLES = {
    SCHEDULE: "the winner's schedule",
    LAST: "its last hyperparameters, held constant",
    INITIAL: "the best initial setting, held constant",
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train fresh models, and the results of the models that were trained in it."""

    name: str
    members: Sequence[int]
    """The members of the replay that are the arm's models."""
    hparams: Hparams | None
    """The hyperparameters that are held constant; None if the models follow the schedule."""
    scores: list[float] = field(default_factory=list)
    """The last score of each model that was trained to the end."""
    reports: list[Mapping[str, float]] = field(default_factory=list)
    """What `Task.report` returned for each of these models."""
    errors: dict[int, str] = field(default_factory=dict)
    """Why each other model failed, by member."""

    def label(self, member: int) -> str:
        """The name of the run of one of the arm's models."""
        return f"{self.name}-{self.members.index(member):02d}"

    @property
    def metric(self) -> str:
        """The headline of the reports, which is their first metric; empty if there is none."""
        return next(iter(self.reports[0]), "") if self.reports else ""

    @property
    def column(self) -> str:
        """The headline's title in the table, where the score has a column too."""
        return "score of the report" if self.metric == "score" else self.metric

    def summary(self) -> dict[str, Interval]:
        """Mean and confidence interval of the score, and of the report's headline, by title."""
        found: dict[str, Interval] = {}
        if self.scores:
            found["score"] = Interval.of(self.scores)
        if self.metric:
            # A task may leave a metric out of some reports.
            told = [report[self.metric] for report in self.reports if self.metric in report]
            found[self.column] = Interval.of(told)
        return found


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The result of a replay."""

    run_id: str
    tracking_uri: str
    schedule: Schedule
    arms: Sequence[Arm]

    def table(self) -> list[list[str]]:
        """The results as rows of text: a heading, a row for each arm, and the winner itself."""
        heading = ["", "models", "score"]
        metric = next((arm.column for arm in self.arms if arm.metric), "")
        if metric:
            heading.append(metric)
        rows = [heading]
        for arm in self.arms:
            summary = arm.summary()
            row = [ARM_TITLES[arm.name], f"{len(arm.scores)}/{len(arm.members)}"]
            for title in heading[2:]:
                row.append(str(summary.get(title, "-")))
            rows.append(row)
        winner = ["the winner itself", "1", f"{self.schedule.score:.4g}"]
        # The winner's report is not in the schedule: its cell stays empty.
        rows.append(winner + [""] * (len(heading) - len(winner)))
        return rows

    def to_json(self) -> dict[str, Any]:
        """The replay as plain JSON values."""
        return {
            "replay": self.run_id,
            "source": self.schedule.source,
            "winner_score": self.schedule.score,
            "arms": {
                arm.name: {
                    "scores": arm.scores,
                    "reports": [dict(report) for report in arm.reports],
                    "errors": list(arm.errors.values()),
                    "mean": {key: vars(value) for key, value in arm.summary().items()},
                }
                for arm in self.arms
            },
        }


def arms_of(schedule: Schedule, seeds: int) -> list[Arm]:
    """The arms of a replay, with `seeds` models each."""
    last = schedule.segments[-1].hparams
    ways: list[tuple[str, Hparams | None]] = [(SCHEDULE, None), (LAST, last)]
    # The best initial setting makes an arm of its own only if it is not what another arm trains.
    if schedule.best_initial not in (None, last):
        ways.append((INITIAL, schedule.best_initial))
    arms = []
    for number, (name, hparams) in enumerate(ways):
        members = range(number * seeds, (number + 1) * seeds)
        arms.append(Arm(name=name, members=members, hparams=hparams))
    return arms


def arms_to_json(result: Replay) -> dict[str, Any]:
    """The schedule and the arms as plain values."""
    return {
        "version": 1,
        "schedule": result.schedule.to_json(),
        "arms": [
            {
                "name": arm.name,
                "members": list(arm.members),
                "hparams": None if arm.hparams is None else dict(arm.hparams),
            }
            for arm in result.arms
        ],
    }


def arms_from_json(plain: Any, run_id: str) -> tuple[Schedule, list[Arm]]:
    """The inverse of `arms_to_json`.

    Raises:
        ReplayError: The text is not what `arms_to_json` wrote.
        ScheduleError: The schedule in it is not valid.
    """
    try:
        if plain["version"] != 1:
            raise ValueError(f"version {plain['version']!r}, this program reads version 1")
        schedule = Schedule.from_json(plain["schedule"])
        arms = []
        for arm in plain["arms"]:
            hparams = arm["hparams"]
            if hparams is not None:
                hparams = check_hparams(hparams, schedule.space)
            members = [int(member) for member in arm["members"]]
            arms.append(Arm(name=arm["name"], members=members, hparams=hparams))
    except PBTError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ReplayError(f"run {run_id}: its arms cannot be read: {error}") from None
    return schedule, arms


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _row_by_row(rows: Sequence[Sequence[str]]) -> list[str]:
    """The same for a narrow terminal: the name of each row, and its cells below."""
    heads, *body = rows
    lines = []
    for name, *cells in body:
        lines.append(name)
        lines += [f"  {head} {cell}" for head, cell in zip(heads[1:], cells, strict=True) if cell]
    return lines


def note(result: Replay) -> str:
    """The description on the replay's page in MLflow, in Markdown."""
    heading, *rows = result.table()
    table = [heading, ["---"] * len(heading), *rows]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    title = f"**Replay of {result.schedule.source}**: mean and 95% t interval over fresh models"
    return "\n".join([title, "", *lines])


def summary(result: Replay, *, width: int | None = None) -> str:
    """What the command prints when a replay has ended: the table, and why models failed.

    Args:
        result: The replay.
        width: Characters of a line; None for those of the terminal, or any number in a file.
    """
    if width is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    rows = result.table()
    lines = _aligned(rows)
    if max(map(len, lines)) > width:
        lines = _row_by_row(rows)
    better = "greater" if result.schedule.direction == "maximize" else "smaller"
    lines.append(f"mean and 95% t interval over a row's models; a {better} score is better")
    for arm in result.arms:
        lines += [f"{arm.name}: a model failed: {error}" for error in arm.errors.values()]
    lines += [f"replay {result.run_id}", "look at it in MLflow's UI with"]
    return "\n".join([*lines, f"  python -m pbt_flow ui {result.run_id[:12]}"])
