"""A Lightning module, its data and its Trainer as a task.

A subclass says what is tuned and makes the module and its data: see
docs/examples/lightning_module.py.

A turn is one `fit`. Lightning makes the optimisers anew in each, so it is continued from a
checkpoint, which is held in memory and is the state of the task. Restoring one brings back the
donor's hyperparameters; those of the turn are set after that, in `on_train_start`.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import lightning
import torch

from pbt_flow.adapters.lightning_fit import (
    HeldCheckpoint,
    LiveHyperparameters,
    with_interned_keys,
)
from pbt_flow.adapters.lightning_trainer import Function, device_settings, run_trainer
from pbt_flow.adapters.places import targets_in_module, targets_named
from pbt_flow.adapters.randomness import drawn_alike
from pbt_flow.exceptions import TaskError
from pbt_flow.joining.hyperparameters import AttributeTarget
from pbt_flow.joining.randomness import seed_generators
from pbt_flow.space import Hparams
from pbt_flow.task import Task


class ModuleTask(Task):
    """A module that `make_module` makes, scored by a metric that its `validation_step` logs."""

    defaults: ClassVar[Mapping[str, Any]] = {"interval": 1}
    score: ClassVar[str]
    """The name of that metric, such as `val_acc`."""
    unit: ClassVar[Literal["epochs", "steps"]] = "epochs"
    """What a step of a turn is: an epoch, or a step of the optimiser. Where a turn ends within an
    epoch, Lightning begins its data anew."""

    @abc.abstractmethod
    def make_module(self) -> lightning.LightningModule:
        """A fresh module; torch's generators are seeded for this member."""

    def make_data(self) -> Any:
        """A data module, or a training and a validation loader; None where the module has them.

        It is made from the same random numbers in all members, as is what the data module's
        `setup` draws: a split into training and validation must be one split in all turns.
        """
        return None

    def trainer_settings(self) -> dict[str, Any]:
        """Arguments of `Trainer`, made anew for each turn: callbacks, loggers, clipping."""
        return {}

    def places(self, name: str) -> Iterable[tuple[Any, str]]:
        """Where a hyperparameter lives beside the optimisers, as objects and attributes' names.

        Give those that are not found: what is neither in the optimisers' groups, nor a dropout
        layer, nor an attribute of a module that is called so.
        """
        return []

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        self.data = drawn_alike(self.make_data)()
        if isinstance(self.data, lightning.LightningDataModule):
            self.data.setup = drawn_alike(self.data.setup)  # type: ignore[method-assign]
        seed_generators(seed)
        self.module = self.make_module()
        self._held = HeldCheckpoint()
        self._found: Mapping[str, float] = {}
        self._modes = [(one, one.training) for one in self.module.modules()]
        self._targets = [target for name in self.space for target in self._targets_of(name)]

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        for one, training in self._modes:
            one.training = training  # Lightning trains in the mode that it finds.
        for target in self._targets:
            target.set(hparams[target.hyperparameter])
        for name, value in hparams.items():
            if name in self.module.hparams:  # `configure_optimizers` may look there.
                self.module.hparams[name] = value
        live = LiveHyperparameters(self.space, type(self.module).__name__, self._targets, hparams)
        before = self._held.age(self.unit)
        limits = {"max_epochs": before + steps, "max_steps": -1}
        if self.unit == "steps":
            limits = {"max_epochs": -1, "max_steps": before + steps}
        trainer = self._call("fit", [live], {"limit_val_batches": 0, **limits})
        if (made := self._held.age(self.unit) - before) != steps:
            raise TaskError(
                f"the Trainer made {made} of {steps} {self.unit}: a callback or a limit of its own "
                "ended it; drop it, since the population decides when training ends"
            )
        logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
        return {**logged, **live.proved}

    def evaluate(self) -> float:
        trainer = self._call("validate", [], {})
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.score not in found:
            logged = ", ".join(sorted(found)) or "nothing"
            raise TaskError(f"validation logs no {self.score!r}; it logs {logged}")
        self._found = {name: value for name, value in found.items() if name != self.score}
        return found[self.score]

    def metrics(self) -> Mapping[str, float]:
        return self._found

    def state_dict(self) -> dict[str, Any]:
        return self._held.checkpoint or {"state_dict": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["state_dict"])
        self._held.checkpoint = with_interned_keys(state) if "loops" in state else None

    def model(self) -> torch.nn.Module:
        return self.module

    def understood(self) -> Mapping[str, str]:
        places = "; ".join(f"{one.hyperparameter}: {one.describe()}" for one in self._targets)
        kind = f"{type(self.module).__name__}; a step is one of its {self.unit}"
        return {"module": kind} | ({"hyperparameters": places} if places else {})

    # --- Lightning --------------------------------------------------------------------------------

    def _targets_of(self, name: str) -> list[AttributeTarget]:
        named = targets_named(name, self.places(name))
        return named or targets_in_module(name, self.module)

    def _call(self, function: Function, callbacks: list[Any], settings: dict[str, Any]) -> Any:
        """Let a new Trainer fit or validate, from the held checkpoint on; the Trainer."""
        own = {**device_settings(self.device), **self.trainer_settings()}
        return run_trainer(
            function,
            self.module,
            self.data,
            held=self._held,
            callbacks=callbacks,
            settings=settings,
            own=own,
        )
