"""A compiled model of Keras 3, on torch, as a task.

A subclass says what is tuned and makes the model and its data: see docs/examples/convolution.py.
Keras takes its backend from a variable when it is imported; here that is torch if none is named.

A step is an epoch. A turn is one `fit`. Keras counts its layers' names through a process, so the
state holds variables by their place and not by their names.
"""

from __future__ import annotations

import abc
import math
import os
from collections.abc import Mapping
from typing import Any, ClassVar

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

from pbt_flow.adapters.randomness import drawn_alike
from pbt_flow.exceptions import TaskError
from pbt_flow.space import Hparams
from pbt_flow.task import Task


class ModelTask(Task):
    """A model that `make_model` makes, scored by a metric that it was compiled with."""

    score: ClassVar[str]
    """The name of that metric, such as `accuracy`, or `loss`."""
    fit_settings: ClassVar[Mapping[str, Any]] = {}
    """Arguments of `fit`, such as `{"batch_size": 64}`."""
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
        self._layers = [one for one in self.net._flatten_layers() if hasattr(one, "rate")]
        for name in self.space:
            self._holders(name)
        self._found: Mapping[str, float] = {}

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        keras.utils.set_random_seed(seed % 2**32)
        for layer in self.net._flatten_layers():
            for generator in layer._seed_generators:
                # A generator that is given a seed counts on from there, in 32 bits with a sign.
                generator.state.assign(np.array([seed % 2**31, 0]))

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        for name, value in hparams.items():
            for holder, attribute in self._holders(name):
                setattr(holder, attribute, value)
        seen = _SeenRates()
        with keras.device(self.device):
            fitted = self.net.fit(
                *self._training, epochs=steps, verbose=0, callbacks=[seen], **self.fit_settings
            )
        losses = fitted.history["loss"]
        if len(losses) != steps:
            raise TaskError(f"fit made {len(losses)} of {steps} epochs")
        return {"loss": float(losses[-1]), **self._prove(hparams, seen)}

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

    def _holders(self, name: str) -> list[tuple[Any, str]]:
        """The objects that have a hyperparameter, and its name there.

        Raises:
            TaskError: There are none, or it cannot be set.
        """
        if name == "dropout" and self._layers:
            return [(layer, "rate") for layer in self._layers]
        optimizer = self.net.optimizer
        if name == "learning_rate":
            if isinstance(
                optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule
            ):
                raise TaskError("learning_rate is a schedule of the optimizer's; give it a number")
            return [(optimizer, name)]
        if isinstance(vars(optimizer).get(name), int | float):
            return [(optimizer, name)]
        raise TaskError(
            f"{name}: neither an attribute of {type(optimizer).__name__} that is a number, as "
            "learning_rate or weight_decay where it was given one, nor dropout of layers that the "
            "model has"
        )

    def _prove(self, hparams: Hparams, seen: _SeenRates) -> dict[str, float]:
        """What was live in training, as metrics to record.

        Raises:
            TaskError: It was something else than what was asked for.
        """
        live = {}
        for name, value in hparams.items():
            asked = _number(name, value)
            found = seen.rates
            if name != "learning_rate":
                found = {getattr(holder, attribute) for holder, attribute in self._holders(name)}
            for one in found:
                # The rate is a variable of 32 bits.
                if not math.isclose(float(one), asked, rel_tol=1e-6):
                    raise TaskError(
                        f"{name}: {asked!r} was asked for, and Keras trained with {float(one)!r}; "
                        "a callback or a schedule sets it too"
                    )
            live[f"live/{name}"] = asked
        return live


def _number(name: str, value: Any) -> float:
    """A hyperparameter's value as a number.

    Raises:
        TaskError: It is none.
    """
    if not isinstance(value, int | float):
        raise TaskError(f"{name} is {value!r}; what an optimizer or a layer takes is a number")
    return float(value)


class _SeenRates(keras.callbacks.Callback):  # type: ignore[misc]
    """The rates that the optimizer has used."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: set[float] = set()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.rates.add(float(self.model.optimizer.learning_rate))
