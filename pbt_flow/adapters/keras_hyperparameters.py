"""Where hyperparameters live in a compiled model of Keras, and what was live in training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from pbt_flow.exceptions import TaskError
from pbt_flow.space import Hparams


class ModelHyperparameters:
    """The hyperparameters of one model.

    Args:
        net: The model, compiled.
        names: The hyperparameters that are tuned.

    Raises:
        TaskError: The model has not one of them, or it cannot be set.
    """

    def __init__(self, net: keras.Model, names: Iterable[str]) -> None:
        self._net = net
        self.rates = set[float]()
        """The rates that the optimizer has used in this turn."""
        self.layers = [one for one in net._flatten_layers() if hasattr(one, "rate")]
        """The layers that have a probability of dropout."""
        for name in names:
            self._holders(name)

    def begin(self, hparams: Hparams) -> None:
        """Set what is to be live in a turn."""
        self.rates.clear()
        for name, value in hparams.items():
            for holder, attribute in self._holders(name):
                setattr(holder, attribute, value)

    def prove(self, hparams: Hparams) -> Mapping[str, float]:
        """What was live in training, as metrics to record.

        Raises:
            TaskError: It was something else than what was asked for.
        """
        live = {}
        for name, value in hparams.items():
            asked = _number(name, value)
            found = self.rates
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

    def _holders(self, name: str) -> list[tuple[Any, str]]:
        """The objects that have a hyperparameter, and its name there.

        Raises:
            TaskError: There are none, or it cannot be set.
        """
        if name == "dropout" and self.layers:
            return [(layer, "rate") for layer in self.layers]
        optimizer = self._net.optimizer
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


def _number(name: str, value: Any) -> float:
    """A hyperparameter's value as a number.

    Raises:
        TaskError: It is none.
    """
    if not isinstance(value, int | float):
        raise TaskError(f"{name} is {value!r}; what an optimizer or a layer takes is a number")
    return float(value)


class SeenRates(keras.callbacks.Callback):  # type: ignore[misc]
    """Notes the rates that the optimizer uses."""

    def __init__(self, hyperparameters: ModelHyperparameters) -> None:
        super().__init__()
        self._seen = hyperparameters.rates

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._seen.add(float(self.model.optimizer.learning_rate))
