"""What a task's metrics are called in MLflow: under names that it takes, and no two under one.

MLflow takes letters of any script, few other characters, tidy paths and 250 characters. Where the
names of two metrics come to the same, the second of them gets a suffix made of its own name. It
keeps that name for the whole population, in all turns of all members, and after a resume: who came
first follows from the turns.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pbt_flow.population.records import Turn

_LONGEST = 250
"""Characters of a metric's name in MLflow."""
_SHOWN = 5
"""Names that a message tells."""


@dataclass
class MetricNames:
    """The names that the metrics of one population have in MLflow."""

    owners: dict[str, str] = field(default_factory=dict)
    """Which metric, with its group, each name stands for; none where it is the population's own."""
    _suffixed: dict[str, str] = field(default_factory=dict)
    _told: int = 0

    def named(self, group: str, metrics: Mapping[str, float]) -> dict[str, float]:
        """Metrics under their names in MLflow, which begin with the name of their group."""
        # A metric whose name MLflow takes as it is goes before one whose name must be changed.
        order = sorted(metrics, key=lambda name: (_tidy(group, name) != f"{group}/{name}", name))
        names = {name: self._name(group, name) for name in order}
        return {names[name]: value for name, value in metrics.items()}

    def reserve(self, *names: str) -> None:
        """Keep names of the population's own from a task's metrics."""
        for name in names:
            self.owners[name] = ""

    def learn(self, turns: Iterable[Turn]) -> None:
        """Take in the names of turns that were logged before, in the order of their ends."""
        for turn in sorted(turns, key=lambda turn: (turn.ended, turn.member, turn.number)):
            self.of_turn(turn)
        self._told = len(self._suffixed)  # the controller that logged them told of them

    def of_turn(self, turn: Turn) -> dict[str, float]:
        """The metrics of a turn under their names in MLflow."""
        return {**self.named("train", turn.metrics), **self.named("eval", turn.evaluation)}

    def news(self) -> str | None:
        """What the user must know of names that got a suffix; None if that has been said."""
        if len(self._suffixed) == self._told:
            return None
        self._told = len(self._suffixed)
        told = [f"{own!r:.60} is {name[-60:]!r}" for own, name in self._suffixed.items()]
        more = f", and {len(told) - _SHOWN} others" if len(told) > _SHOWN else ""
        return (
            "metrics whose names are alike for MLflow have a suffix there: "
            f"{', '.join(told[:_SHOWN])}{more}"
        )

    def _name(self, group: str, metric: str) -> str:
        own, plain = f"{group}/{metric}", _tidy(group, metric)
        if own in self._suffixed:
            return self._suffixed[own]
        if self.owners.setdefault(plain, own) == own:
            return plain
        digest = hashlib.sha256(own.encode("utf-8", "surrogatepass")).hexdigest()
        for length in range(4, len(digest) + 1):
            suffix = f"-{digest[:length]}"
            name = plain[: _LONGEST - len(suffix)].rstrip("/.") + suffix
            if self.owners.setdefault(name, own) == own:
                break
        self._suffixed[own] = name
        return name


def _tidy(group: str, metric: str) -> str:
    """The name that a metric has if no other comes to the same."""
    # An accent that stands for itself is no letter; together with its letter it is.
    known = re.sub(r"[^\w\-. :/]", "_", unicodedata.normalize("NFC", metric))
    path = posixpath.normpath(f"/{known}").lstrip("/") or "_"
    # What is cut may end as no path does.
    return posixpath.normpath(f"{group}/{path}"[:_LONGEST])
