"""A hyperparameter in the parameter groups of an optimiser: set there, and found there again.

With the optimiser's scheduler among the objects of the script, the hyperparameter is the base of
the learning rate, and the factor that the schedule has come to is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pbt_flow.exceptions import TaskError

_ALIASES = {"learning_rate": "lr"}
_BASES = ("max_lr", "initial_lr")
"""The keys under which schedulers keep the base of a rate in a group, the one that people set
first."""


def groups_key(hyperparameter: str) -> tuple[str, str]:
    """The optimiser that a hyperparameter names, or no name, and its key in parameter groups.

    `generator.lr` is `lr` of the optimiser called `generator`, and `learning_rate` is `lr` of all.
    """
    owner, _, key = hyperparameter.rpartition(".")
    return owner, _ALIASES.get(key, key)


def is_optimizer(value: Any) -> bool:
    """Whether an object has parameter groups, as torch's optimisers have."""
    return isinstance(getattr(value, "param_groups", None), list)


@dataclass(frozen=True, kw_only=True)
class _SetValue:
    """A value that was set, and where: in a group, or in the rates of a scheduler."""

    scheduler: Any
    """None where it is in a group of the optimiser."""
    number: int
    key: str
    value: Any


class GroupTarget:
    """One hyperparameter in the groups of one optimiser.

    Args:
        hyperparameter: Its name in the space.
        name: The optimiser's name.
        optimizer: The optimiser, as the script has made it.
        schedulers: Those objects of the script that schedule this optimiser's rate.

    Raises:
        TaskError: The groups differ in what is no number.
    """

    def __init__(
        self, hyperparameter: str, name: str, optimizer: Any, schedulers: Sequence[Any]
    ) -> None:
        self.hyperparameter, self.optimizer_name, self.optimizer = hyperparameter, name, optimizer
        _, self.key = groups_key(hyperparameter)
        self.schedulers = list(_with_inner(schedulers)) if self.key == "lr" else []
        self._set: list[_SetValue] = []
        self._factor_of_step: float | None = None
        self._shares = self._shares_of(self._values())

    @property
    def own_value(self) -> Any:
        """The value that the script itself has set: the greatest, where groups differ."""
        values = self._values()
        return values[0] if self._shares[0] is None else max(values)

    def describe(self) -> str:
        """Where the hyperparameter goes, in words."""
        many = "every group of " if len(self._groups()) > 1 else ""
        base = ", as the base of its schedule" if self.schedulers else ""
        return f"{self.key} of {many}{self.optimizer_name}{base}"

    def set(self, value: Any) -> None:
        """Put a value into every group, and keep the schedule's factor and the groups' ratios."""
        self._set, self._factor_of_step = [], None
        for number, group in enumerate(self._groups()):
            share = self._shares[number] if number < len(self._shares) else None
            wanted = value if share is None else value * share
            if self.schedulers:
                self._set_base(number, group, wanted)
            else:
                _put(group, self.key, wanted)
                self._note(None, number, self.key)

    def difference(self) -> tuple[Any, Any] | None:
        """What was set and what is there now, at the first place where the two differ."""
        for one in self._set:
            now = self._read(one.scheduler, one.number, one.key)
            if now != one.value:
                return one.value, now
        return None

    def note_step(self) -> None:
        """Keep the factor of a step that the optimiser is about to make."""
        self._factor_of_step = self._factor()

    def factor(self) -> float | None:
        """What the schedule had made of its base at the turn's last step; None without a schedule.

        A schedule that moves behind that step says what the next turn begins with.
        """
        return self._factor() if self._factor_of_step is None else self._factor_of_step

    def _factor(self) -> float | None:
        if not self.schedulers:
            return None
        group = self._groups()[0]
        base = float(_plain(group[_base_key(group)]))
        return float(_plain(group["lr"])) / base if base else None

    def _groups(self) -> list[dict[str, Any]]:
        # Asked anew each time: `load_state_dict` replaces the groups.
        return [group for group in self.optimizer.param_groups if self.key in group]

    def _values(self) -> list[Any]:
        keys = [_base_key(group) if self.schedulers else self.key for group in self._groups()]
        return [_plain(group[key]) for key, group in zip(keys, self._groups(), strict=True)]

    def _set_base(self, number: int, group: dict[str, Any], base: float) -> None:
        """Make `base` what the schedule scales; where it is that already, nothing is touched."""
        # A scheduler that waits for a plateau notes no base anywhere.
        group.setdefault("initial_lr", _plain(group["lr"]))
        key = _base_key(group)
        before, initial = float(_plain(group[key])), float(_plain(group["initial_lr"]))
        if before != base:
            factor = float(_plain(group["lr"])) / before if before else 1.0
            for other in ("initial_lr", "min_lr"):
                if other in group and other != key and before:
                    _put(group, other, float(_plain(group[other])) / before * base)
            _put(group, key, base)
            _put(group, "lr", factor * base)
            for scheduler in self.schedulers:
                _scale_scheduler(scheduler, number, group, before=before, initial=initial)
        self._note(None, number, key)
        for scheduler in self.schedulers:
            if number < len(getattr(scheduler, "base_lrs", ())):
                self._note(scheduler, number, "base_lrs")

    def _note(self, scheduler: Any, number: int, key: str) -> None:
        value = self._read(scheduler, number, key)
        self._set.append(_SetValue(scheduler=scheduler, number=number, key=key, value=value))

    def _read(self, scheduler: Any, number: int, key: str) -> Any:
        if scheduler is not None:
            return _plain(getattr(scheduler, key)[number])
        groups = self._groups()
        return _plain(groups[number].get(key)) if number < len(groups) else None

    def _shares_of(self, found: Sequence[Any]) -> list[float | None]:
        """What part each group has of the greatest value; None where all are equal."""
        if all(value == found[0] for value in found):
            return [None] * len(found)
        numbers = [value for value in found if isinstance(value, int | float)]
        if len(numbers) < len(found) or max(numbers) <= 0:
            raise TaskError(
                f"{self.hyperparameter}: the groups of {self.optimizer_name} begin with different "
                f"values of {self.key}, {', '.join(map(repr, found))}, which no one value can "
                "scale; let them begin with one, or tune another hyperparameter"
            )
        return [value / max(numbers) for value in numbers]


def targets_in(space: Iterable[str], objects: Mapping[str, Any]) -> list[GroupTarget]:
    """Where the hyperparameters go that are keys of parameter groups."""
    found = []
    for hyperparameter in space:
        owner, key = groups_key(hyperparameter)
        for name, value in objects.items():
            if owner not in ("", name) or not is_optimizer(value):
                continue
            if any(key in group for group in value.param_groups):
                schedulers = [one for one in objects.values() if _schedules(one, value)]
                found.append(GroupTarget(hyperparameter, name, value, schedulers))
    return found


def _schedules(value: Any, optimizer: Any) -> bool:
    return getattr(value, "optimizer", None) is optimizer and hasattr(value, "step")


def _with_inner(schedulers: Iterable[Any]) -> Iterable[Any]:
    """Schedulers with those that they are made of, as `SequentialLR` is."""
    for scheduler in schedulers:
        yield scheduler
        yield from _with_inner(getattr(scheduler, "_schedulers", ()))


def _base_key(group: Mapping[str, Any]) -> str:
    """Under which key the base of a group's rate is: of a single cycle it is the rate's peak."""
    return next((key for key in _BASES if key in group), "lr")


def _scale_scheduler(
    scheduler: Any, number: int, group: Mapping[str, Any], *, before: float, initial: float
) -> None:
    """Bring the rates that a scheduler keeps for itself to the base that its group has now.

    Args:
        scheduler: The scheduler.
        number: Of which group.
        group: The group, with its new base.
        before: The base until now.
        initial: The group's initial rate until now.
    """
    base = float(_plain(group[_base_key(group)]))
    for name in ("base_lrs", "max_lrs"):
        rates = getattr(scheduler, name, None)
        if isinstance(rates, list) and number < len(rates):
            rate = float(_plain(rates[number]))
            new = rate / before * base if before else base
            # Written as it stands in the group, and not rounded once more.
            rates[number] = _plain(group["initial_lr"]) if rate == initial else new
    last = getattr(scheduler, "_last_lr", None)
    if isinstance(last, list) and number < len(last):
        last[number] = _plain(group["lr"])


def _put(group: dict[str, Any], key: str, value: Any) -> None:
    """Set a value as torch's schedulers do: a rate may be a tensor that a graph has captured."""
    there: Any = group.get(key)
    if hasattr(there, "fill_"):
        there.fill_(value)
    else:
        group[key] = tuple(value) if isinstance(there, tuple) else value


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "fill_") else value
