"""What a task declares of itself, and with which options it is built."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pbt_flow.exceptions import OptionError, SpaceError
from pbt_flow.exceptions import TaskError as TaskError
from pbt_flow.population.records import Direction, ReportDirection
from pbt_flow.space import Space, check_space, plain_space
from pbt_flow.task.options import (
    Option,
    arguments_of,
    check_known,
    compare_with_code,
    describe,
    options_of,
)

if TYPE_CHECKING:
    pass

from pbt_flow.task.base import Task
from pbt_flow.task.construction import constructing
from pbt_flow.task.joined_script import ScriptTask, with_options
from pbt_flow.task.naming import find_task, name_task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a task class says of itself: all that a controller needs, which then needs no torch."""

    name: str
    """By which any process finds the class (see `find_task`)."""
    label: str
    """What the class is called in messages."""
    space: Space
    direction: Direction
    report_direction: ReportDirection = None
    defaults: Mapping[str, Any]
    """Settings that suit the task."""
    quick: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings for a run of seconds."""
    has_model: bool = False
    """Whether there is a module to keep when training is over."""
    options: Mapping[str, Option]
    """What else the constructor takes."""

    @property
    def option_defaults(self) -> dict[str, Any]:
        """The default of each option that has one, as a record holds it."""
        return {name: one.default for name, one in self.options.items() if not one.required}


def declare(task: str | type[Task], options: Any = None) -> Declaration:
    """Read what a task declares.

    Args:
        task: The class, or its name.
        options: Those that it is going to be built with. What a script declares may follow from its
            own arguments.

    Raises:
        TaskError: The task is not found, or its declarations contradict each other.
    """
    if not isinstance(task, str):
        check_class(task)
    kind = with_options(find_task(task) if isinstance(task, str) else task, options)
    check_task(kind)
    return Declaration(
        name=name_task(task),
        label=kind.__name__,
        space=plain_space(kind.space),
        direction=kind.direction,
        report_direction=_plain_direction(kind.report_direction),
        defaults=kind.defaults,
        quick=kind.quick,
        has_model=kind.model is not Task.model,
        options=options_of(kind),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task with its options: what any process needs to build one of its models."""

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """As a record holds them."""
    device: str = "cpu"

    def build(self, seed: int, device: str | None = None) -> Task:
        """A fresh model.

        Raises:
            TaskError: The class does not take an option that is recorded, or not its value.
        """
        return build_task(find_task(self.name), seed, device or self.device, self.options)


def build_task(kind: type[Task], seed: int, device: str, options: Mapping[str, Any]) -> Task:
    """A fresh model of a class, under options as a record holds them.

    Raises:
        TaskError: The class does not take one of the options, or not its value.
    """
    try:
        arguments = arguments_of(kind, options)
    except OptionError as error:
        raise TaskError(f"task {kind.__name__}: {error}") from None
    with constructing(kind.__name__):
        return kind(seed=seed, device=device, **arguments)


def check_class(task: Any) -> None:
    """Refuse what is no class of a task.

    Raises:
        TaskError: It is an object, or another class.
    """
    if isinstance(task, Task):
        raise TaskError(
            f"a task is given as its class, {type(task).__name__}, and not as an object of it: "
            "each member builds its own"
        )
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise TaskError(
            f"a task is a subclass of pbt_flow.Task, or the name of one, got {task!r:.200}"
        )


def check_found(task: type[Task]) -> None:
    """Refuse a class that its module does not have under the name of the class.

    Raises:
        TaskError: Another process would not find it, or would find another class.
    """
    if issubclass(task, ScriptTask):
        return  # It is found by its file.
    there = getattr(sys.modules.get(task.__module__), task.__qualname__, None)
    if there is None:
        raise TaskError(
            f"there is no {task.__qualname__} in module {task.__module__}, which it says that it "
            "is defined in; define it by a class statement at the top of a file"
        )
    if there is not task:
        raise TaskError(
            f"{task.__qualname__} is not what {task.__module__} has under that name by now; import "
            "it again from there"
        )


def check_task(task: type[Task]) -> None:
    """Refuse a class whose declarations contradict each other.

    Raises:
        TaskError: The space or a direction is missing or wrong.
    """
    try:
        check_space(getattr(task, "space", {}))
    except SpaceError as error:
        raise TaskError(f"task {task.__name__}: {error}") from None
    if task.direction not in ("maximize", "minimize"):
        raise TaskError(
            f"task {task.__name__}: direction is 'maximize' or 'minimize', got {task.direction!r}"
        )
    told = task.report_direction
    if isinstance(told, Mapping):
        for metric, direction in told.items():
            if not isinstance(metric, str) or direction not in ("maximize", "minimize"):
                raise TaskError(
                    f"task {task.__name__}: report_direction maps the name of a metric to "
                    f"'maximize' or 'minimize', got {metric!r}: {direction!r}"
                )
    elif told not in (None, "maximize", "minimize"):
        raise TaskError(
            f"task {task.__name__}: report_direction is 'maximize' or 'minimize' for the first "
            f"metric of report(), or a mapping such as {{'accuracy': 'maximize'}}, got {told!r}"
        )


def _plain_direction(told: ReportDirection) -> ReportDirection:
    """The same in a form that JSON can hold."""
    return dict(told) if isinstance(told, Mapping) else told


def check_options(task: Declaration, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` as a record holds them, each read as the task takes it.

    Raises:
        TaskError: The task has no such option, or the option does not take the value.
    """
    return {name: _read_option(task, name, value) for name, value in options.items()}


def complete_options(task: Declaration, options: Mapping[str, Any]) -> dict[str, Any]:
    """The same with all other options of the task at their defaults, in its own order.

    Raises:
        TaskError: As of `check_options`; or an option without a default is not given.
    """
    given = check_options(task, options)
    for name, option in task.options.items():
        if option.required and name not in given:
            raise TaskError(
                f"task {task.label}: option {name} has no default; give --set {name}=..., "
                f"{describe(option.takes)}"
            )
    return {name: given.get(name, option.default) for name, option in task.options.items()}


def recorded_options(
    task: Declaration, recorded: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The options that a population goes on with, and what the user should know of them.

    Raises:
        TaskError: The class does not take an option any more, or not its value.
    """
    try:
        return compare_with_code(task.options, recorded, defaults)
    except OptionError as error:
        raise TaskError(f"task {task.label}: {error}") from None


def _read_option(task: Declaration, name: str, value: Any) -> Any:
    try:
        check_known(name, task.options)
    except OptionError as error:
        raise TaskError(f"task {task.label} has {error}") from None
    try:
        return task.options[name].read(value)
    except OptionError as error:
        raise TaskError(f"task {task.label}: {error}") from None
