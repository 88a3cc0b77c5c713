"""The populations that there are, as a list; and one of them, shown."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pbt_flow.population.result import Result
from pbt_flow.settings import Settings
from pbt_flow.utils.text import age, byte_count, number, values

if TYPE_CHECKING:
    from pbt_flow.tracking.catalogue import ListedPopulation

_WANTED = ("id", "status", "turns", "best", "age", "task", "method", "seed", "disk", "name")
"""The columns of the table, the most wanted first."""
_ORDER = ("id", "name", "task", "method", "seed", "turns", "best", "status", "age", "disk")
_GAP = 2
_ENDLESS = 10_000


def list_populations(most: int | None = None) -> list[ListedPopulation]:
    """The populations and replays of the tracking store in force, newest first.

    Args:
        most: How many at most; None for all.

    Raises:
        StoreError: The store does not answer, or there is none.
    """
    from pbt_flow.tracking.catalogue import describe_runs, find_runs
    from pbt_flow.tracking.client import connect_to_present, short_requests

    with short_requests():
        client, _ = connect_to_present("no populations")
        return describe_runs(client, find_runs(client, ["population", "replay"], most))


def table(found: Sequence[ListedPopulation], *, width: int | None = None) -> str:
    """Populations as a table of whole columns, as many as there is room for.

    Args:
        found: The populations.
        width: Characters of a line; None for those of the terminal, or any number in a file.
    """
    if not found:
        return "no populations yet"
    if width is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _ENDLESS
    from pbt_flow.tracking.create import short_tasks

    tasks = short_tasks({one.whole_task for one in found})
    found = [replace(one, task=tasks[one.whole_task] or one.task) for one in found]
    now = time.time()
    columns = {name: [name, *(_cell(one, name, now) for one in found)] for name in _ORDER}
    shown, used = set[str](), -_GAP
    for name in _WANTED:
        used += max(map(len, columns[name])) + _GAP
        if used > width and shown:
            break
        shown.add(name)
    rows = zip(*(_aligned(name, columns[name]) for name in _ORDER if name in shown), strict=True)
    lines = [(" " * _GAP).join(row).rstrip() for row in rows]
    if left_out := len(_ORDER) - len(shown):
        columns_left_out = "1 more column" if left_out == 1 else f"{left_out} more columns"
        lines.append(f"({columns_left_out} in a wider terminal, or with --json)")
    return "\n".join(lines)


def _cell(one: ListedPopulation, column: str, now: float) -> str:
    if column == "id":
        return one.run_id[:8]
    if column == "turns":
        return f"{one.turns}/{one.budget if one.budget is not None else '?'}"
    if column == "age":
        return age(now - one.began)
    if column == "disk":
        return "-" if one.disk is None else byte_count(one.disk)
    return number(getattr(one, column))


def _aligned(column: str, cells: Sequence[str]) -> list[str]:
    wide = max(map(len, cells))
    to_the_right = column in ("seed", "turns", "best", "age", "disk")
    return [cell.rjust(wide) if to_the_right else cell.ljust(wide) for cell in cells]


@dataclass(frozen=True, kw_only=True)
class ShownPopulation:
    """A population with all that defines it and all that became of it."""

    about: ListedPopulation
    settings: Settings
    warnings: dict[str, str]
    """What it warns of, by the name of the warning."""
    result: Result

    def text(self) -> str:
        """What a person reads."""
        from pbt_flow.commands.summary import summary

        about, settings = self.about, self.settings
        lines = [
            f"{about.name}, in experiment {about.experiment}",
            f"{about.status}: {about.turns} of {about.budget or '?'} turns; began "
            f"{age(time.time() - about.began)} ago"
            + ("" if about.disk is None else f"; {byte_count(about.disk)} on disk"),
            "",
            "settings",
        ]
        plain = settings.to_json()
        if settings.stage_plan is not None:
            # As it is after the resumes: its last stage takes what the budget leaves.
            plain["stages"] = str(settings.stage_plan)
        for name, value in plain.items():
            if value not in (None, [], {}) and name != "options":
                lines.append(f"  {name}={number(value)}")
        if settings.options:
            lines.append(f"  options: {values(settings.options)}")
        lines += [f"warning: {told}" for told in self.warnings.values()]
        return "\n".join(lines) + "\n" + summary(self.result)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            **self.about.to_json(),
            "settings": self.settings.to_json(),
            "warnings": self.warnings,
            "result": self.result.to_json(),
        }


def show(run_id: str) -> ShownPopulation:
    """A population with all that defines it and all that became of it.

    Args:
        run_id: The population's run, the beginning of its id, or `last`.

    Raises:
        StoreError: There is no such population.
        RecordError: A turn record cannot be trusted.
    """
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.catalogue import describe_runs
    from pbt_flow.tracking.client import short_requests

    with short_requests():
        stored = StoredPopulation.open(run_id)
        client = stored.store.client
        (about,) = describe_runs(client, [client.get_run(stored.run_id)])
        return ShownPopulation(
            about=about,
            settings=stored.settings,
            warnings=stored.store.warnings(),
            result=stored.result(),
        )
