"""The door for users: a `Task` is a learning problem behind five methods, and how one is named."""

from __future__ import annotations

import abc
import dataclasses
import importlib
import importlib.util
import inspect
import random
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pbt_flow.errors import TaskError as TaskError
from pbt_flow.member import Direction, ReportDirection
from pbt_flow.options import (
    Option,
    OptionError,
    arguments_of,
    check_known,
    compare_with_code,
    describe,
    options_of,
)
from pbt_flow.space import Hparams, Space, SpaceError, check_space, plain_space
from pbt_flow.task_files import is_nameless, load_file

if TYPE_CHECKING:
    from torch import nn

GROUP = "pbt_flow.tasks"


class Task(abc.ABC):
    """A model in training: built from a seed, trained under given hyperparameters, scored, saved.

    A member of the population owns one task. Each turn calls, in this order: `load_state_dict` (not
    for a fresh model, nor where the worker still has the member in memory), `reseed`, `train`,
    `evaluate`, `metrics`, `state_dict`. What a turn computes must follow from the state, the
    hyperparameters, the seed and the steps alone, so that a turn can be run again on any machine.
    Therefore looking (`evaluate`, `understood`, `metrics`, `report`, `samples`, `model`, `example`)
    must change nothing that the next turn depends on: no weight, no running statistic, and no mode
    that `train` does not set for itself. Inherit `pbt_flow.testing.TaskContract` in a test to check
    all that.

    A subclass gives `space`, a constructor and the four abstract methods; the rest is optional.
    """

    space: ClassVar[Space]
    """The hyperparameters that PBT tunes: names to Optuna distributions."""
    direction: ClassVar[Direction] = "maximize"
    """Whether a greater or a smaller score is better."""
    report_direction: ClassVar[ReportDirection] = None
    """Whether a greater or a smaller number in `report` is better, which need not be so as for the
    score (an accuracy beside a loss): of the first metric, or a mapping of metrics to directions.
    None says nothing, and differences between reports are then shown without a judgement."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Settings that suit this task (fields of `pbt_flow.Settings`, such as `interval`), used where
    the user gives none."""
    quick: ClassVar[Mapping[str, Any]] = {}
    """Settings for a run of seconds, to see it work; with `--quick` they go before `defaults`."""

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        """Build a fresh model.

        Subclasses add their options as keyword arguments with defaults; `--set name=value` sets
        them, converted to the type of the default.

        Args:
            seed: Seeds the initial weights; a function of the population's seed and the member.
            device: Where to put the model, as torch names it.
        """
        self.seed = seed
        self.device = device
        self.rng = np.random.default_rng(seed)

    def reseed(self, seed: int) -> None:
        """Begin a turn: restart every source of randomness from `seed`.

        Seeds Python's, NumPy's and torch's global generators and makes a new `self.rng`. Extend it
        where the task holds others, and reset here what a state does not carry (an environment).
        """
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - tasks may use it
        if (torch := sys.modules.get("torch")) is not None:
            # torch.manual_seed takes 2 ms, to note where it was called from for each accelerator.
            on_cpu = self.device == "cpu"
            torch.default_generator.manual_seed(seed) if on_cpu else torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)

    @abc.abstractmethod
    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        """Train for `steps` under `hparams`, and return metrics to record (perhaps none).

        The hyperparameters must be obeyed from the first step, whatever a restored optimiser
        remembers: `optimizer.load_state_dict` brings back the learning rate of the donor.

        Where a module behaves otherwise in evaluation (dropout, batch normalisation), begin with
        `module.train()`: whoever looked at it since the last turn has called `module.eval()`.
        """

    @abc.abstractmethod
    def evaluate(self) -> float | Sequence[float]:
        """The score that PBT selects by; a sequence is a sample (episodes), scored by its mean.

        It changes nothing that the next turn depends on.
        """

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that training depends on (weights, optimiser, statistics), as tensors and
        plain values: it is read back with `torch.load(weights_only=True)`.
        """

    @abc.abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state, perhaps of another member that trained under other hyperparameters."""

    def understood(self) -> Mapping[str, str]:
        """What the task made of its data, its options and its environment: a sentence a topic.

        The user reads these before the first turn, as `topic: sentence`, and they are kept on the
        population's run, so that a misunderstanding shows: the classes that were found in a folder,
        say, with their sizes, and the files that were passed over.

        It is asked for after a fresh model was built, and after each `evaluate`. A topic that is
        new then, or says something else, is told as well, once: `episodes` that do not end, say.
        It is cheap, and changes nothing that the next turn depends on.
        """
        return {}

    def metrics(self) -> Mapping[str, float]:
        """What the last `evaluate` found beside the score, to record with it.

        It changes nothing that the next turn depends on.
        """
        return {}

    def report(self) -> Mapping[str, float]:
        """Metrics on data that selection never saw, computed for the winner; the first is the
        headline.

        The task is reseeded before, with one seed for all members of a population: a report that
        draws its data from `self.rng` draws the same for the winner as for those it is compared
        with, and for a control with the same seed. It changes nothing that the next turn depends
        on.
        """
        return {}

    def samples(self, folder: Path) -> None:  # noqa: B027 - optional
        """Write pictures, texts or animations of what the model does into `folder`.

        It changes nothing that the next turn depends on.
        """

    def model(self) -> nn.Module | None:
        """The module to keep when training is over.

        It may be the very module that is trained. Callers put it into evaluation mode and use it,
        and training may go on afterwards: see `train`.
        """
        return None

    def example(self) -> NDArray[Any] | None:
        """An input of `model()`: MLflow shows it, and reads the model's signature from it.

        To make one changes nothing that the next turn depends on.
        """
        return None


# --- how a task is named --------------------------------------------------------------------------


def find_task(name: str) -> type[Task]:
    """The task class that `name` means.

    Args:
        name: An entry point of the group `pbt_flow.tasks` (`rl`), `module:Class`,
            `path/to/file.py:Class` (the class may be left out where the file has just one), or the
            name of a file in the folder `tasks` of the working folder.

    Raises:
        TaskError: There is no such task; the message lists what there is.
    """
    place, _, attribute = name.partition(":")
    if place.endswith(".py"):
        found = load_file(Path(place))
    elif ":" in name:
        found = _import(place)
    else:
        known = _registered()
        local = Path("tasks", f"{name}.py")
        if name in known:
            place, _, attribute = known[name].partition(":")
            found = _import(place)
        elif name.isidentifier() and local.is_file():
            found = load_file(local)
        else:
            files = (p for p in Path("tasks").glob("[!_]*.py") if "(Task)" in p.read_text("utf-8"))
            names = sorted({*known, *(path.stem for path in files)})
            there = f"there are {names}" if names else "none is installed, and none in ./tasks"
            raise TaskError(
                f"no task is called {name!r}; {there}, or name one as module:Class or "
                "path/to/file.py:Class"
            )
    return _pick(found, attribute, name)


def _registered() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=GROUP)}


def _import(module: str) -> Any:
    if not all(part.isidentifier() for part in module.split(".")):
        raise TaskError(f"{module!r} is no module's name to take a task from")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise TaskError(f"there is no module {module!r} to take a task from") from None
        raise


def _pick(module: Any, attribute: str, name: str) -> type[Task]:
    own: dict[str, type[Task]] = {
        key: value
        for key, value in vars(module).items()
        # On Python 3.10 an alias such as `Mapping[str, int]` passes for a class itself.
        if issubclass(type(value), type)
        and issubclass(value, Task)
        and not inspect.isabstract(value)
    }
    if attribute:
        if attribute not in own:
            raise TaskError(f"task {name!r}: no Task called {attribute!r}; there are {sorted(own)}")
        return own[attribute]
    here = [task for task in own.values() if task.__module__ == module.__name__]
    if len(here) != 1:
        raise TaskError(
            f"task {name!r}: name the class, as in file.py:Class; there are {sorted(own)}"
        )
    return here[0]


def name_task(task: str | type[Task]) -> str:
    """A name by which any process finds `task` again (see `find_task`).

    Raises:
        TaskError: The class is defined where no other process can find it.
    """
    if isinstance(task, str):
        place, colon, attribute = task.partition(":")
        if not colon and place.isidentifier() and place not in _registered():
            place = str(Path("tasks", f"{place}.py"))
        # A path is made absolute, so that a resume from another folder finds the same file.
        return f"{Path(place).resolve()}{colon}{attribute}" if place.endswith(".py") else task
    if "." in task.__qualname__:
        inside = "function" if "<locals>" in task.__qualname__ else "class"
        raise TaskError(
            f"{task.__qualname__} is defined inside a {inside}; move it to the top of a file"
        )
    module = sys.modules.get(task.__module__)
    if not is_nameless(task.__module__):
        return f"{task.__module__}:{task.__qualname__}"
    source = getattr(module, "__file__", None)
    if source is None:
        raise TaskError(f"{task.__qualname__} is defined at a prompt; move it to a file")
    path = Path(source).resolve()
    if not path.is_file():
        raise TaskError(
            f"{task.__qualname__} is defined in {source}, which other processes cannot read; move "
            "it to a file"
        )
    if path.suffix != ".py":
        raise TaskError(
            f"{task.__qualname__} is defined in {path}, whose name does not end in .py, as that of "
            f"a module must; call it {path.name}.py"
        )
    return f"{path}:{task.__qualname__}"


def is_same_task(first: str, second: str) -> bool:
    """Whether two names of tasks (see `name_task`) mean one class.

    `rl` and `tasks.rl:RL` do, and so does the path of that file. Nothing is imported to find out,
    since a task's libraries may take seconds, or may not be here.
    """
    if first == second:
        return True
    (place, attribute), (other, its) = _locate(first), _locate(second)
    # A name may leave the class out where the file has just one, and then it means that one.
    return place == other and (attribute == its or not attribute or not its)


def _locate(name: str) -> tuple[str, str]:
    """Where the class that a name means is written: its file, or else its module; and the class."""
    place, _, attribute = _registered().get(name, name).partition(":")
    if place.endswith(".py"):
        return str(Path(place).resolve()), attribute
    return _file_of(place) or place, attribute


def _file_of(module: str) -> str | None:
    """The file of a module; None if it is not found. No package around it is imported either."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for depth in range(len(rest)):
            if spec is None or spec.submodule_search_locations is None:
                return None
            inner = ".".join([top, *rest[: depth + 1]])
            spec = PathFinder.find_spec(inner, list(spec.submodule_search_locations))
    except (ImportError, ValueError):  # ValueError: what is loaded under that name has no spec.
        return None
    return None if spec is None or spec.origin is None else str(Path(spec.origin).resolve())


# --- what it declares -----------------------------------------------------------------------------


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


def declare(task: str | type[Task]) -> Declaration:
    """Read what a task declares.

    Raises:
        TaskError: The task is not found, or its declarations contradict each other.
    """
    if not isinstance(task, str):
        check_class(task)
    kind = find_task(task) if isinstance(task, str) else task
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
