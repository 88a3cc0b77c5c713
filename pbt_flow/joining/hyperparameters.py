"""How hyperparameters reach the training of a script, and the proof that they were live there.

There are four ways: keys of parameter groups, attributes of what was given to `into`, the base of a
scheduler, and values that the script asks for by name. What was set is compared at each step of an
optimiser and after training. A hyperparameter that took none of these ways is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from pbt_flow.exceptions import TaskError, UnusableTask
from pbt_flow.joining.param_groups import GroupTarget, groups_key, is_optimizer, targets_in
from pbt_flow.space import Hparams, Space
from pbt_flow.utils.text import did_you_mean


@dataclass(frozen=True, kw_only=True)
class WaysOut:
    """What a user can do about a hyperparameter that was not live: the ends of three messages.

    In each, `{name}` stands for the hyperparameter, and `{key}` for its name without an optimiser.
    `{cycle}` stands for what helps where a cycle of the learning rate moves it too, and
    `{scheduler}` for what helps where any scheduler does: both are empty where nothing does.
    """

    changed: str
    """Something else has set it, too."""
    not_stepped: str
    """The optimiser that has it made no step."""
    not_taken: str
    """Nothing has it."""


_OF_A_SCRIPT = WaysOut(
    changed="since something in the script sets it too; {scheduler}drop it, or let the script "
    "compute it from what pbt.into(holder, {key}={name!r}) sets",
    not_stepped="name the optimiser that trains in join(...), make it before the loop, or let a "
    "turn be longer by --interval",
    not_taken="name the optimiser that has {name} in its groups in join(...), give its holder to "
    "pbt.into(...), or ask for pbt[{name!r}] in the loop",
)
_NO_CYCLE = "give cycle_momentum=False to a OneCycleLR or CyclicLR, "


class AttributeTarget:
    """One hyperparameter as an attribute of an object, or as an entry of a dict.

    Args:
        hyperparameter: Its name in the space.
        holder: The object that has it.
        attribute: Its name there.
        place: What the object is called in messages; by default it was given to `into`.
    """

    def __init__(self, hyperparameter: str, holder: Any, attribute: str, place: str = "") -> None:
        self.hyperparameter, self.holder, self.attribute = hyperparameter, holder, attribute
        self._place = place or f"the {type(holder).__name__} given to into()"

    @property
    def own_value(self) -> Any:
        if isinstance(self.holder, MutableMapping):
            return self.holder[self.attribute]
        return getattr(self.holder, self.attribute)

    def describe(self) -> str:
        return f"{self.attribute} of {self._place}"

    def set(self, value: Any) -> None:
        self._value = value
        if isinstance(self.holder, MutableMapping):
            self.holder[self.attribute] = value
            return
        try:
            setattr(self.holder, self.attribute, value)
        except AttributeError as error:
            raise TaskError(
                f"{self.hyperparameter}: {self.attribute} of a {type(self.holder).__name__} cannot "
                f"be set ({error}); give into() an object that can change"
            ) from None

    def difference(self) -> tuple[Any, Any] | None:
        now = self.own_value
        return None if now == self._value else (self._value, now)


class Hyperparameters:
    """The hyperparameters of a script: what they are now, where they go, and who took them.

    Args:
        space: The script's space.
        label: What the script is called in messages.
        ways_out: What the messages advise.
    """

    def __init__(self, space: Space, label: str, ways_out: WaysOut = _OF_A_SCRIPT) -> None:
        self.space, self.label, self._ways_out = space, label, ways_out
        self.values: Hparams | None = None
        """Those of the turn under way; None before the first, and where a script runs alone."""
        self._groups: list[GroupTarget] = []
        self._attributes: list[AttributeTarget] = []
        self._spread_by_script: set[str] = set()
        """Those that the script spreads by itself from the attribute that it was told."""
        self._read: set[str] = set()
        self.steps: dict[int, int] = {}
        """The steps that each optimiser has made in this turn, by its id."""
        self._changed: tuple[GroupTarget, tuple[Any, Any]] | None = None

    # --- where they go ----------------------------------------------------------------------------

    def attach(self, objects: Mapping[str, Any]) -> None:
        """Find the places in the script's objects.

        Raises:
            TaskError: An optimiser's groups begin with values that no one value can scale.
        """
        space = [name for name in self.space if name not in self._spread_by_script]
        self._groups = targets_in(space, objects)

    def watch(self, objects: Mapping[str, Any]) -> None:
        """Be told of each step that the script's optimisers make."""
        for value in objects.values():
            if is_optimizer(value) and hasattr(value, "register_step_pre_hook"):
                self.steps[id(value)] = 0
                value.register_step_pre_hook(self._before_step)

    def add_holder(self, holder: Any, named: Mapping[str, str]) -> None:
        """Let hyperparameters be set in an object: its namesakes, or those that are named.

        Raises:
            TaskError: It has none of them, or there is no such hyperparameter.
        """
        for attribute, hyperparameter in named.items():
            self.check(hyperparameter)
            if not _has(holder, attribute):
                raise TaskError(
                    f"into(): a {type(holder).__name__} has no {attribute} that {hyperparameter} "
                    "could be set in"
                )
        pairs = dict(named) or {name: name for name in self.space if _has(holder, name)}
        if not pairs:
            raise TaskError(
                f"into(): a {type(holder).__name__} has no attribute that is called as one of the "
                f"hyperparameters ({', '.join(self.space)}); name one, as in into(holder, p='drop')"
            )
        self._spread_by_script.update(named.values())
        self._attributes += [AttributeTarget(name, holder, at) for at, name in pairs.items()]

    def add_targets(self, targets: Iterable[AttributeTarget]) -> None:
        """Let hyperparameters be set in attributes as well as in parameter groups."""
        self._attributes += targets

    def check_taken(self) -> None:
        """Refuse a hyperparameter that has no place.

        Raises:
            TaskError: One has none.
        """
        for name in self.space:
            if not self._targets(name):
                raise TaskError(
                    f"{self.label} has no place for the hyperparameter {name}; "
                    f"{self._told(self._ways_out.not_taken, name)}"
                )

    def describe(self) -> str:
        """Where each of them goes, in words."""
        found = []
        for name in self.space:
            places = [target.describe() for target in self._targets(name)]
            found.append(f"{name}: {' and '.join(places) or 'asked for by name'}")
        return "; ".join(found)

    # --- what they are ----------------------------------------------------------------------------

    def check(self, name: str) -> None:
        """Refuse what is no hyperparameter of the space.

        Raises:
            UnusableTask: It is none.
        """
        if name not in self.space:
            known = ", ".join(self.space)
            raise UnusableTask(
                f"there is no hyperparameter {name!r} in the space"
                f"{did_you_mean(name, self.space)}; it has {known}"
            )

    def read(self, name: str) -> Any:
        """The value of one in the turn under way."""
        assert self.values is not None
        self._read.add(name)
        return self.values[name]

    def own_value(self, name: str) -> Any:
        """What a script that runs alone has set itself.

        Raises:
            TaskError: It has set it nowhere that is known.
        """
        for target in self._targets(name):
            return target.own_value
        raise TaskError(
            f"{self.label} runs alone, and nothing says what {name} is then; ask for it by "
            f"pbt.get({name!r}, VALUE), or give into() the object that has it"
        )

    # --- a turn -----------------------------------------------------------------------------------

    def begin(self, values: Hparams) -> None:
        """Set the hyperparameters of a turn, whatever a donor's state has brought along."""
        self.values, self._read, self._changed = values, set(), None
        self.steps = dict.fromkeys(self.steps, 0)
        for name, value in values.items():
            for target in self._targets(name):
                target.set(value)

    def prove(self, *, is_first: bool = False) -> dict[str, float]:
        """What was live in the turn that has ended, as metrics to record with it.

        Args:
            is_first: Whether it was the first turn of the weights.

        Raises:
            UnusableTask: Nobody took a hyperparameter in a first turn, so that nobody ever will.
            TaskError: Something else was live than was asked for, or a hyperparameter was not used.
        """
        assert self.values is not None
        live: dict[str, float] = {}
        for name, value in self.values.items():
            targets = self._targets(name)
            self._check_unchanged(name, targets)
            self._check_stepped(name)
            if not targets and name not in self._read:
                raise (UnusableTask if is_first else TaskError)(
                    f"{self.label}: nobody took the hyperparameter {name} in this turn; "
                    f"{self._told(self._ways_out.not_taken, name)}"
                )
            if isinstance(value, int | float):
                live[f"live/{name}"] = float(value)
            for target in self._groups:
                factor = target.factor() if target.hyperparameter == name else None
                if factor is not None:
                    live[f"factor/{name}"] = factor
        return live

    def _targets(self, name: str) -> list[GroupTarget | AttributeTarget]:
        both: list[GroupTarget | AttributeTarget] = [*self._groups, *self._attributes]
        return [target for target in both if target.hyperparameter == name]

    def _check_unchanged(self, name: str, targets: list[GroupTarget | AttributeTarget]) -> None:
        for target in targets:
            changed = target.difference()
            if self._changed is not None and self._changed[0] is target:
                changed = self._changed[1]
            if changed is not None:
                raise TaskError(
                    f"{self.label}: {name} was {changed[0]!r} when the turn began and came to "
                    f"{changed[1]!r} in training ({target.describe()}), "
                    f"{self._told(self._ways_out.changed, name)}"
                )

    def _check_stepped(self, name: str) -> None:
        """Refuse a turn in which no optimiser that has a hyperparameter has made a step."""
        targets = [target for target in self._groups if target.hyperparameter == name]
        steps = [self.steps.get(id(target.optimizer)) for target in targets]
        # Of an optimiser that is not torch's nobody knows the steps.
        if steps and all(made == 0 for made in steps):
            names = " and ".join(target.optimizer_name for target in targets)
            raise TaskError(
                f"{self.label}: {name} was set in {names}, which made no step in this turn; "
                f"{self._told(self._ways_out.not_stepped, name)}"
            )

    @staticmethod
    def _told(way_out: str, name: str) -> str:
        _, key = groups_key(name)
        cycle = _NO_CYCLE if key in ("momentum", "betas") else ""
        # A named scheduler gets the base of a rate, and of nothing else.
        scheduler = "name its scheduler in join(...), " if key == "lr" else cycle
        key = name.rpartition(".")[2]
        return way_out.format(name=name, key=key, cycle=cycle, scheduler=scheduler)

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        """Compare what an optimiser is about to use with what was set."""
        self.steps[id(optimizer)] += 1
        for target in self._groups:
            if target.optimizer is optimizer:
                target.note_step()
        if self._changed is None:
            for target in self._groups:
                if target.optimizer is optimizer and (found := target.difference()) is not None:
                    self._changed = target, found


def _has(holder: Any, attribute: str) -> bool:
    if isinstance(holder, MutableMapping):
        return attribute in holder
    return hasattr(holder, attribute)
