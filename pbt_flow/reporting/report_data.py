"""What a report is about: a population, and what it is to be seen beside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
    """A population, and what it is to be seen beside."""

    result: Result
    settings: Settings
    space: Space
    warnings: Mapping[str, str] = field(default_factory=dict)
    """What the population warns of, by the name of the warning."""
    understood: Mapping[str, str] = field(default_factory=dict)
    """What the task understood of its data, options and environment, by topic."""
    control: Result | None = None
    """A population to compare with: the same budget, as a rule without copies."""

    pictures: Mapping[int, bytes] = field(default_factory=dict)
    """What the best member of a round shows, as a PNG, by the round."""

    @property
    def history(self) -> History:
        return self.result.history

    @property
    def headline(self) -> str:
        """What came of it, in one sentence, beside the control if there is one."""
        return dataclasses.replace(self.result, control=self.control).headline

    @property
    def path(self) -> list[Turn]:
        """The winner's ancestors; empty if there is no winner."""
        winner = self.history.winner()
        return ancestors(self.history, winner) if winner else []

    @property
    def title(self) -> str:
        """What the population is called."""
        settings = self.settings
        if settings.name:
            return settings.name
        place, _, attribute = settings.task.partition(":")
        task = attribute or Path(place).stem
        return f"{task}: {settings.method}"
