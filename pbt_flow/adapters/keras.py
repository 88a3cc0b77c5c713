"""A compiled model of Keras 3, on torch, as a task.

A subclass says what is tuned and makes the model and its data: see docs/examples/convolution.py.
Keras takes its backend from a variable when it is imported; here that is torch if none is named.

A step is an epoch. A turn is one `fit`. Keras counts its layers' names through a process, so the
state holds variables by their place and not by their names.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping
from typing import Any, ClassVar

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

from pbt_flow.adapters.keras_hyperparameters import ModelHyperparameters, SeenRates
from pbt_flow.adapters.randomness import drawn_alike
from pbt_flow.exceptions import TaskError
from pbt_flow.space import Hparams
from pbt_flow.task import Task


class ModelTask(Task):
    """A model that `make_model` makes, scored by a metric that it was compiled with."""

    score: ClassVar[str]
    """The name of that metric, such as `accuracy`, or `loss`."""
    fit_settings: ClassVar[Mapping[str, Any]] = {}
    """Arguments of `fit`, such as `{"batch_size": 64}`, and callbacks among them."""
    defaults: ClassVar[Mapping[str, Any]] = {"interval": 1}

    @abc.abstractmethod
    def make_model(self) -> keras.Model:
        """A fresh model, compiled; Keras' random numbers are seeded for this member."""

    @abc.abstractmethod
    def make_data(self) -> tuple[Any, Any]:
        """Data to train on and to validate with, as arguments of `fit` and `evaluate`.

        They are drawn alike in all members.
        """

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        if keras.backend.backend() != "torch":
            raise TaskError(
                f"Keras computes with {keras.backend.backend()}; set KERAS_BACKEND=torch before "
                "it is imported"
            )
        self._training, self._validation = drawn_alike(self.make_data)()
        keras.utils.set_random_seed(seed % 2**32)
        with keras.device(device):
            self.net = self.make_model()
            self.net.optimizer.build(self.net.trainable_variables)
            # The first call builds loss and metrics, for which it draws random numbers.
            self.net.evaluate(*self._validation, steps=1, verbose=0)
        self._live = ModelHyperparameters(self.net, self.space)
        self._found: Mapping[str, float] = {}

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        keras.utils.set_random_seed(seed % 2**32)
        for layer in self.net._flatten_layers():
            for generator in layer._seed_generators:
                # A generator that is given a seed counts on from there, in 32 bits with a sign.
                generator.state.assign(np.array([seed % 2**31, 0]))

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        self._live.begin(hparams)
        settings = dict(self.fit_settings)
        # Ours goes last, and sees what the user's have set.
        callbacks = [*settings.pop("callbacks", ()), SeenRates(self._live)]
        with keras.device(self.device):
            fitted = self.net.fit(
                *self._training, epochs=steps, verbose=0, callbacks=callbacks, **settings
            )
        losses = fitted.history["loss"]
        if len(losses) != steps:
            raise TaskError(f"fit made {len(losses)} of {steps} epochs")
        return {"loss": float(losses[-1]), **self._live.prove(hparams)}

    def evaluate(self) -> float:
        with keras.device(self.device):
            found = self.net.evaluate(*self._validation, verbose=0, return_dict=True)
        if self.score not in found:
            raise TaskError(f"evaluate() gives no {self.score!r}; it gives {', '.join(found)}")
        self._found = {name: float(one) for name, one in found.items() if name != self.score}
        return float(found[self.score])

    def metrics(self) -> Mapping[str, float]:
        return self._found

    def state_dict(self) -> dict[str, Any]:
        return {"variables": [one.value.detach().clone() for one in self._variables()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for variable, value in zip(self._variables(), state["variables"], strict=True):
            variable.assign(value)

    def understood(self) -> Mapping[str, str]:
        return {"model": f"{type(self.net).__name__} of {self.net.count_params():,} weights"}

    def _variables(self) -> list[Any]:
        return [*self.net.variables, *self.net.optimizer.variables]
