"""What a task class declares, and how a model of it is built under given options."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pbt_flow.exceptions import OptionError, SpaceError
from pbt_flow.exceptions import TaskError as TaskError
from pbt_flow.population.records import Direction, ReportDirection
from pbt_flow.space import Space, check_space, plain_space
from pbt_flow.task.base import Task
from pbt_flow.task.construction import constructing
from pbt_flow.task.joined_function import function_task
from pbt_flow.task.joined_script import ScriptTask, with_options
from pbt_flow.task.naming import find_task, name_task
from pbt_flow.task.option_types import describe
from pbt_flow.task.options import (
    NOT_OPTIONS,
    Option,
    arguments_of,
    check_known,
    compare_with_code,
    options_of,
)
from pbt_flow.task.session import found_in_main, is_of_session, pickle_by_value, unpickle


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a task class declares.

    It is all that a controller needs to know of the class, so that the controller need not import
    the class, nor torch.
    """

    name: str
    """The name by which any process finds the class (see `find_task`)."""
    label: str
    """The name of the class in messages."""
    space: Space
    direction: Direction
    report_direction: ReportDirection = None
    defaults: Mapping[str, Any]
    """Settings that suit the task."""
    quick: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings for a run of seconds."""
    has_model: bool = False
    """Whether the task has a module to keep when training is over."""
    options: Mapping[str, Option]
    """The arguments of the constructor besides `seed` and `device`."""

    @property
    def option_defaults(self) -> dict[str, Any]:
        """The default of each option that has one, as a record holds it."""
        return {
            name: option.default for name, option in self.options.items() if not option.required
        }


def declare(task: str | type[Task] | Callable[[], Any], options: Any = None) -> Declaration:
    """Return what a task class declares.

    Args:
        task: The class, or a function that joins, or the name of either.
        options: Those that it is going to be built with. What a script declares may follow from its
            own arguments.

    Raises:
        TaskError: The task is not found, or one of its declarations is missing or wrong.
    """
    kind = with_options(find_task(task) if isinstance(task, str) else as_class(task), options)
    check_task(kind)
    return Declaration(
        name=name_task(task),
        label=kind.__name__,
        space=plain_space(kind.space),
        direction=kind.direction,
        report_direction=_in_plain_types(kind.report_direction),
        defaults=kind.defaults,
        quick=kind.quick,
        has_model=kind.model is not Task.model,
        options=options_of(kind),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task with its options: all that any process needs to build a model of it."""

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The options, as a record holds them."""
    device: str = "cpu"
    budget: int | None = None
    """The steps of a member that trains to the end (see `Task.budget`); None if not known."""
    code: bytes = dataclasses.field(default=b"", repr=False)
    """The task itself, for other processes, if no file holds it (see `pbt_flow.task.session`)."""

    def with_code(self) -> TaskSpec:
        """The same with all that another process needs.

        Raises:
            TaskError: No file holds the task, and it cannot be sent.
        """
        if not is_of_session(self.name):
            return self
        return dataclasses.replace(self, code=pickle_by_value(found_in_main(self.name)))

    @property
    def file(self) -> str:
        """The file that the name names; empty if it names a module."""
        place = self.name.partition(":")[0]
        return place if place.endswith(".py") else ""

    def build(self, seed: int, device: str | None = None) -> Task:
        """Build a fresh model.

        Raises:
            TaskError: The class does not take one of the options, or not its value.
        """
        kind = as_class(unpickle(self.code)) if self.code else find_task(self.name)
        return build_task(kind, seed, device or self.device, self.options, budget=self.budget)


def build_task(
    kind: type[Task],
    seed: int,
    device: str,
    options: Mapping[str, Any],
    *,
    budget: int | None = None,
) -> Task:
    """Build a fresh model of a class, under options as a record holds them.

    Args:
        kind: The class.
        seed: Seeds the initial weights.
        device: Where to put the model, as torch names it.
        options: What the class takes besides.
        budget: The steps of a member that trains to the end, for a task that follows them.

    Raises:
        TaskError: The class does not take one of the options, or not its value; or its
            `__init__` leaves out that of `Task`.
    """
    try:
        arguments = arguments_of(kind, options)
    except OptionError as error:
        raise TaskError(f"task {kind.__name__}: {error}") from None
    with constructing(kind.__name__):
        made = kind(seed=seed, device=device, **arguments)
    # Otherwise every turn of every member would fail, by what is missing and not by the reason.
    if not hasattr(made, "device"):
        raise TaskError(
            f"task {kind.__name__}: its __init__ must begin with "
            "super().__init__(seed=seed, device=device)"
        )
    # Others may have an attribute of their own by this name.
    if made.follows_budget:
        made.budget = budget
    return made


def as_class(task: Any) -> type[Task]:
    """The task class that was given as such, or as a function that joins.

    Raises:
        TaskError: It is neither.
    """
    return function_task(task) if inspect.isfunction(task) else check_class(task)


def check_class(task: Any) -> type[Task]:
    """Check that `task` is a subclass of `Task`, and return it.

    Raises:
        TaskError: `task` is an object of such a class, or something else.
    """
    if isinstance(task, Task):
        raise TaskError(
            f"a task is given as its class, {type(task).__name__}, and not as an object of the "
            "class: each member builds an object of its own"
        )
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise TaskError(
            "a task is a subclass of pbt_flow.Task, a function that calls pbt_flow.join, or the "
            f"name of either, got {task!r:.200}"
        )
    return task


def check_found(task: type[Task] | Callable[[], Any]) -> None:
    """Check that another process finds the class or the function by its module and name.

    Raises:
        TaskError: The module has no class of that name, or has another one.
    """
    if isinstance(task, type) and issubclass(task, ScriptTask):
        return  # It is found by its file.
    there = getattr(sys.modules.get(task.__module__), task.__qualname__, None)
    if there is None:
        raise TaskError(
            f"the class {task.__qualname__} says that it is defined in module {task.__module__}, "
            "which has no class of that name; define it by a class statement at the top level of "
            "a file"
        )
    if there is not task:
        raise TaskError(
            f"{task.__qualname__} is not what {task.__module__} has under that name by now; import "
            "the class from the module again"
        )


def check_task(task: type[Task]) -> None:
    """Check the declarations of a task class.

    Raises:
        TaskError: The space or a direction is missing or wrong; or the constructor does not take
            what every task's does.
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
    _check_constructor(task)


def _check_constructor(task: type[Task]) -> None:
    """Check that a constructor takes a seed and a device by their names.

    Raises:
        TaskError: It does not.
    """
    try:
        inspect.signature(task).bind_partial(**dict.fromkeys(NOT_OPTIONS))
    except TypeError as error:
        raise TaskError(
            f"task {task.__name__}: its __init__ {error}; it must take seed and device, as in "
            '__init__(self, *, seed, device="cpu")'
        ) from None


def _in_plain_types(told: ReportDirection) -> ReportDirection:
    """A report direction in the types that JSON can hold."""
    return dict(told) if isinstance(told, Mapping) else told


def check_options(task: Declaration, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` as a record holds them.

    Raises:
        TaskError: The task has no such option, or the option does not take the value.
    """
    return {name: _read_option(task, name, value) for name, value in options.items()}


def complete_options(task: Declaration, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of the task as a record holds them: the given ones, the rest at defaults.

    Raises:
        TaskError: The task has no such option, or the option does not take the value, or an option
            without a default is not given.
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

    Args:
        task: What the task declares now.
        recorded: The options that the population was trained with.
        defaults: The defaults when the population began.

    Raises:
        TaskError: The class no longer takes an option, or not its value.
    """
    try:
        return compare_with_code(task.options, recorded, defaults)
    except OptionError as error:
        raise TaskError(f"task {task.label}: {error}") from None


def _read_option(task: Declaration, name: str, value: Any) -> Any:
    """The value of an option as a record holds it.

    Raises:
        TaskError: The task has no such option, or the option does not take the value.
    """
    try:
        check_known(name, task.options)
    except OptionError as error:
        raise TaskError(f"task {task.label} has {error}") from None
    try:
        return task.options[name].read(value)
    except OptionError as error:
        raise TaskError(f"task {task.label}: {error}") from None
