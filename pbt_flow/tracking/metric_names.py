"""The names of a task's metrics in MLflow: each is valid there, and no two metrics share one.

MLflow accepts letters of any script and few other characters, normal paths, and 250 characters. If
two metrics come to the same name, the second one gets a suffix that is a digest of its own name. It
keeps this name in all turns of all members, also after a resume, since the turns tell which of the
two came first.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import threading
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pbt_flow.population.records import Turn

_MAX_LENGTH = 250
"""The most characters that a metric's name may have in MLflow."""
_MAX_SHOWN = 5
"""The most names that a message lists."""


@dataclass
class MetricNames:
    """The names that the metrics of one population have in MLflow."""

    owners: dict[str, str] = field(default_factory=dict)
    """The metric that each name stands for, with its group; "" for the population's own metrics."""
    _suffixed: dict[str, str] = field(default_factory=dict)
    """The names with a suffix, by the metrics that have them."""
    _announced: int = 0
    """How many names with a suffix the user has been told of."""
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)
    """Threads log turns of several members at once, and the first metric of a name gets it."""

    def named(self, group: str, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return metrics under their names in MLflow, which begin with the name of their group."""
        # Metrics whose names need no change go first, so that they keep their names.
        order = sorted(metrics, key=lambda name: (_valid(group, name) != f"{group}/{name}", name))
        names = {name: self._name(group, name) for name in order}
        return {names[name]: value for name, value in metrics.items()}

    def reserve(self, *names: str) -> None:
        """Keep names for the population's own metrics, so that no metric of a task gets them."""
        for name in names:
            self.owners[name] = ""

    def learn(self, turns: Iterable[Turn]) -> None:
        """Give the metrics of turns that were logged before the names that they have."""
        for turn in sorted(turns, key=lambda turn: (turn.ended, turn.member, turn.number)):
            self.of_turn(turn)
        # The controller that logged these turns has told the user of their names.
        self._announced = len(self._suffixed)

    def of_turn(self, turn: Turn) -> dict[str, float]:
        """Return the metrics of a turn under their names in MLflow."""
        with self._lock:
            return {**self.named("train", turn.metrics), **self.named("eval", turn.evaluation)}

    def news(self) -> str | None:
        """Return a message about names that got a suffix; None if there are no new ones."""
        with self._lock:
            if len(self._suffixed) == self._announced:
                return None
            self._announced = len(self._suffixed)
            pairs = [f"{metric!r:.60} is {name[-60:]!r}" for metric, name in self._suffixed.items()]
        shown = ", ".join(pairs[:_MAX_SHOWN])
        if len(pairs) > _MAX_SHOWN:
            shown += f", and {len(pairs) - _MAX_SHOWN} others"
        return f"metrics whose names are alike for MLflow have a suffix there: {shown}"

    def _name(self, group: str, metric: str) -> str:
        owner, name = f"{group}/{metric}", _valid(group, metric)
        if owner in self._suffixed:
            return self._suffixed[owner]
        if self.owners.setdefault(name, owner) == owner:
            return name
        digest = hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()
        # Four digits are enough, unless a metric has exactly this name already.
        for length in range(4, len(digest) + 1):
            suffix = f"-{digest[:length]}"
            suffixed = name[: _MAX_LENGTH - len(suffix)].rstrip("/.") + suffix
            if self.owners.setdefault(suffixed, owner) == owner:
                break
        self._suffixed[owner] = suffixed
        return suffixed


def _valid(group: str, metric: str) -> str:
    """Return the name that a metric has in MLflow if no other metric has it."""
    # A combining accent alone is no letter (\w); NFC joins it with its letter.
    accepted = re.sub(r"[^\w\-. :/]", "_", unicodedata.normalize("NFC", metric))
    path = posixpath.normpath(f"/{accepted}").lstrip("/") or "_"
    # A name that was cut may end with a slash, which MLflow refuses.
    return posixpath.normpath(f"{group}/{path}"[:_MAX_LENGTH])
