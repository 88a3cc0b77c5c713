"""The data of a report: a population, and the control that it is shown beside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pbt_flow.population.history import History
from pbt_flow.population.lineage import ancestors
from pbt_flow.population.records import Turn
from pbt_flow.population.result import Result
from pbt_flow.settings import Settings
from pbt_flow.space import Space


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """A population, and the control that it is shown beside."""

    result: Result
    settings: Settings
    space: Space
    warnings: Mapping[str, str] = field(default_factory=dict)
    """The warnings about the population, by name."""
    understood: Mapping[str, str] = field(default_factory=dict)
    """What the task understood of its data, options and environment: a sentence for each topic."""
    control: Result | None = None
    """A population of the same budget to compare with, as a rule one without copies."""
    pictures: Mapping[int, bytes] = field(default_factory=dict)
    """The sample of the best member of each round, as a PNG."""
    member_runs: Sequence[str] = ()
    """The run id of each member."""
    runs_address: str = ""
    """What an address of a run in MLflow's UI begins with; empty where no server shows the runs."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """The versions of Python and of the packages that the population began with."""

    @property
    def history(self) -> History:
        return self.result.history

    @property
    def headline(self) -> str:
        """The result in one sentence, beside the control's if there is a control."""
        return dataclasses.replace(self.result, control=self.control).headline

    @property
    def path(self) -> list[Turn]:
        """The turns that made the winner, in order; empty if there is no winner."""
        winner = self.history.winner()
        return ancestors(self.history, winner) if winner else []

    @property
    def slots(self) -> int:
        """How many turns could run at once."""
        settings = self.settings
        return 1 if settings.engine == "inline" else min(settings.workers, settings.founders)

    @property
    def title(self) -> str:
        """The population's name; if it has none, its task and method."""
        settings = self.settings
        if settings.name:
            return settings.name
        place, _, attribute = settings.task.partition(":")
        task = attribute or Path(place).stem
        return f"{task}: {settings.method}"
