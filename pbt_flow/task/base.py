"""The door for users: a `Task` is a learning problem behind five methods."""

from __future__ import annotations

import abc
import inspect
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pbt_flow.exceptions import TaskError as TaskError
from pbt_flow.population.records import Direction, ReportDirection
from pbt_flow.space import Hparams, Space

if TYPE_CHECKING:
    from torch import nn


class Task(abc.ABC):
    """A model in training: built from a seed, trained under given hyperparameters, scored, saved.

    A member of the population owns one task. Each turn calls, in this order: `load_state_dict` (not
    for a fresh model, nor where the worker still has the member in memory), `reseed`, `train`,
    `evaluate`, `metrics`, `state_dict`. What a turn computes must follow from the state, the
    hyperparameters, the seed and the steps alone, so that a turn can be run again on any machine.
    Therefore looking (`evaluate`, `evaluate_fresh`, `understood`, `metrics`, `report`, `samples`,
    `model`, `example`) must change nothing that the next turn depends on: no weight, no running
    statistic, and no mode that `train` does not set for itself. Inherit
    `pbt_flow.testing.TaskContract` in a test to check all that.

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
    follows_budget: bool = False
    """Whether training depends on how long it is going to be, as under a rate that falls to 0 at
    the end. A constructor sets it, perhaps by an option. Then `budget` is given, and a resume with
    other `turns` is refused, since it would bend a schedule that has been trained along."""
    budget: int | None = None
    """The steps that a member trains which stays to the end of its population; set as soon as the
    constructor is done, and only where `follows_budget` is True. Weights may get older than that: a
    member that copies an older one trains its own turns all the same. How many steps the weights
    have trained is not given, and belongs into the state."""

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        for name, value in vars(cls).items():
            # What Python binds to an object can be called as its method, and so can a function.
            is_method = callable(value) and hasattr(type(value), "__get__")
            is_wrapped = isinstance(value, staticmethod | classmethod)
            if not (is_method or is_wrapped or inspect.isroutine(value)):
                _check_attribute(cls, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        # A function may be put in the place of a method on purpose, as a compiled `train`.
        if not inspect.isroutine(value):
            _check_attribute(type(self), name, value)
        super().__setattr__(name, value)

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

    def evaluate_fresh(self) -> float | Sequence[float]:
        """The score on data that no decision has seen, by which the winner is chosen at the end.

        The task is reseeded before, with a seed that no turn has had. So an `evaluate` that draws
        its data from `self.rng` is fresh as it stands, which is the default. A task whose
        `evaluate` looks at the same drawn data each time (latent vectors, start states) draws
        others here. One that has no others, since its data is a fixed split, need do nothing: it
        gives the score that is known, and the winner is chosen by that.

        It changes nothing that the next turn depends on.
        """
        return self.evaluate()

    def average(self, states: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """The state whose weights are the mean of those of some states, the best of them first.

        When training is over, averages of the finalists are tried, and one that is better than the
        winner is handed over in its place. By default the tensors of `model()` are averaged, and
        all else comes from the first state. The task's own state may be overwritten.

        Returns:
            The state; None if the states of this task have no mean.
        """
        if "torch" not in sys.modules:
            return None  # Without torch no module is averaged.
        from pbt_flow.task.averaging import average_models

        return average_models(self, states)

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


_METHODS = frozenset(
    name
    for name, value in vars(Task).items()
    if inspect.isfunction(value) and not name.startswith("_")
)
"""What is called on a task: an attribute of such a name would be called in the method's place."""


def _check_attribute(kind: type[Task], name: str, value: Any) -> None:
    """Refuse an attribute that hides a method.

    Raises:
        TaskError: It does. In training code, `self.model = Net()` is the commonest attribute of
            all; torch would be called where the population asks for the model to keep.
    """
    if name in _METHODS:
        raise TaskError(
            f"task {kind.__name__}: the attribute {name}, a {type(value).__name__}, hides the "
            f"method {name}(), which is called {_CALLED_FOR.get(name, 'in every turn')}; give the "
            f"attribute another name, such as {_OTHER_NAMES.get(name, f'own_{name}')}"
        )


_CALLED_FOR = {
    "model": "for the module to keep",
    "report": "for metrics of the winner",
    "samples": "for what the winner shows",
    "example": "for an input of the model",
}
_OTHER_NAMES = {"model": "net", "metrics": "measures", "samples": "data", "train": "training"}
