"""A Trainer of transformers as a task; with adapters of PEFT, a checkpoint is the adapter alone.

A subclass says what is tuned and makes the trainer: see docs/examples/lora.py.

A step is a step of the optimiser. A turn is one `train()`, which begins its data anew. The rate is
constant in it: a schedule that the arguments name is for a run of known length, and PBT finds one.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn
from transformers import Trainer

from pbt_flow.adapters.places import WAYS_OUT, targets_in_module, targets_named
from pbt_flow.adapters.transformers_trainer import prepare_trainer
from pbt_flow.adapters.transformers_weights import fingerprint, mean_weights, weights_of
from pbt_flow.adapters.transformers_weights import with_shared_weights as with_shared_weights
from pbt_flow.exceptions import TaskError
from pbt_flow.joining.hyperparameters import AttributeTarget, Hyperparameters
from pbt_flow.joining.randomness import seed_generators
from pbt_flow.space import Hparams
from pbt_flow.task import Task

_READ_AT_EACH_STEP = ("max_grad_norm",)
"""Arguments that a trainer looks up while it trains, and not only when it is made."""
_TIMES = ("_runtime", "_per_second", "epoch")
"""Ends of names that `evaluate()` gives beside what it has measured."""


class TrainerTask(Task):
    """A trainer that `make_trainer` makes, scored by a metric of its `evaluate()`.

    The state has the trained weights only. What is frozen is made alike in all members: loaded, or
    drawn from a seed of its own.
    """

    score: ClassVar[str] = "eval_loss"
    """The name of that metric."""

    @abc.abstractmethod
    def make_trainer(self) -> Trainer:
        """A fresh trainer with its model; torch's generators are seeded for this member."""

    def places(self, name: str) -> Iterable[tuple[Any, str]]:
        """Where a hyperparameter lives beside the optimiser, as objects and attributes' names.

        Give those that are not found: what is neither in the optimiser's groups, nor a dropout
        layer, nor an attribute of a module that is called so.
        """
        return []

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        seed_generators(seed)
        self.trainer = trainer = self.make_trainer()
        prepare_trainer(trainer, self.space, self.device)
        self._optimizer = trainer.create_optimizer()
        self._live = Hyperparameters(self.space, type(self).__name__, WAYS_OUT)
        self._live.attach({"optimizer": self._optimizer})
        self._live.watch({"optimizer": self._optimizer})
        self._live.add_targets(target for name in self.space for target in self._targets_of(name))
        self._live.check_taken()
        self._frozen = fingerprint(weights_of(self.model(), trained=False))
        self._found: Mapping[str, float] = {}

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        self.trainer.args.seed = seed
        self.trainer.accelerator.dataloader_config.data_seed = seed

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        trainer = self.trainer
        trainer.args.max_steps = steps
        trainer.optimizer, trainer.lr_scheduler = self._optimizer, None
        self._live.begin(hparams)
        loss = trainer.train().training_loss
        made = trainer.state.global_step
        for group in self._optimizer.param_groups:
            group.pop("initial_lr", None)  # The next turn's scheduler would begin with it.
        if made != steps:
            raise TaskError(
                f"the Trainer made {made} of {steps} steps: a callback ended it; drop it, since "
                "the population decides when training ends"
            )
        return {"loss": float(loss), **self._live.prove()}

    def evaluate(self) -> float:
        found = self.trainer.evaluate()
        if self.score not in found:
            raise TaskError(f"evaluate() gives no {self.score!r}; it gives {', '.join(found)}")
        ours = [name for name in found if name != self.score and not name.endswith(_TIMES)]
        self._found = {name: found[name] for name in ours}
        return float(found[self.score])

    def metrics(self) -> Mapping[str, float]:
        return self._found

    def state_dict(self) -> dict[str, Any]:
        return {
            "trained": weights_of(self.model(), trained=True),
            "optimizer": self._optimizer.state_dict(),
            "frozen": self._frozen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["frozen"] != self._frozen:
            raise TaskError(
                "the frozen weights are others than those that this state was trained on; make "
                "them alike in all members, loaded or drawn from a seed of their own"
            )
        self.model().load_state_dict(state["trained"], strict=False)
        self._optimizer.load_state_dict(state["optimizer"])

    def average(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        # Not the frozen weights, which other members may share.
        return {**states[0], "trained": mean_weights([state["trained"] for state in states])}

    def model(self) -> nn.Module:
        assert self.trainer.model is not None
        return self.trainer.model

    def understood(self) -> Mapping[str, str]:
        trained, frozen = (
            sum(tensor.numel() for tensor in weights_of(self.model(), trained=which).values())
            for which in (True, False)
        )
        kind = f"{type(self.model()).__name__}; {trained:,} weights are trained, {frozen:,} frozen"
        return {"model": kind, "hyperparameters": self._live.describe()}

    def _targets_of(self, name: str) -> list[AttributeTarget]:
        places = list(self.places(name))
        if name in _READ_AT_EACH_STEP:
            places.append((self.trainer.args, name))
        return targets_named(name, places) or targets_in_module(name, self.model())
