"""Which hyperparameters an optimiser really trains with, seen at each of its steps."""

from __future__ import annotations

import math
from typing import Any

from pbt_flow.joining.param_groups import groups_key
from pbt_flow.space import Hparams


class WatchedRates:
    """Whether the groups of any optimiser hold the values that were asked for, at each step."""

    def __init__(self, asked: Hparams) -> None:
        self._asked = asked
        self._held: dict[str, dict[tuple[int, int], bool]] = {name: {} for name in asked}
        self._found: dict[str, Any] = {}

    def look(self, optimizer: Any, *_: Any) -> None:
        """Look at an optimiser that is about to make a step."""
        for name, wanted in self._asked.items():
            key = groups_key(name)[1]
            for number, group in enumerate(optimizer.param_groups):
                if key not in group:
                    continue
                place = (id(optimizer), number)
                held = any(_is_close(group.get(one), wanted) for one in _places_of(key))
                if not held and self._held[name].get(place, True):
                    self._found.setdefault(name, group[key])
                self._held[name][place] = held and self._held[name].get(place, True)

    def missed(self) -> dict[str, tuple[Any, Any]]:
        """For each hyperparameter that no group had throughout: what was asked, what was there."""
        missed = {name for name, held in self._held.items() if held and not any(held.values())}
        return {name: (self._asked[name], self._found[name]) for name in sorted(missed)}


def _places_of(key: str) -> tuple[str, ...]:
    """The keys under which a group has a value, or the base from which a schedule makes it."""
    return key, f"initial_{key}", f"max_{key}"


def _is_close(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        return bool(found == wanted)
    # A rate that a graph has captured is a tensor of fewer bits.
    return found is not None and math.isclose(float(found), wanted, rel_tol=1e-6)
