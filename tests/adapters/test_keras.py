"""A model of Keras keeps the contract of a task, and trains with what was asked."""

import os
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from single_turns import trained

os.environ["KERAS_BACKEND"] = "torch"
pytest.importorskip("keras", reason="Keras is not installed")

import keras

from pbt_flow import TaskError
from pbt_flow.task import find_task
from pbt_flow.testing import TaskContract

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "convolution.py"
Digits = find_task(f"{EXAMPLE}:Digits")


@pytest.mark.slow
class TestModelContract(TaskContract):
    task, steps, begins_anew = Digits, 1, False


def test_after_an_exploit_everything_that_was_asked_is_live(monkeypatch):
    donor, copy = Digits(seed=0), Digits(seed=1)
    trained(donor)
    copy.load_state_dict(donor.state_dict())
    asked = {"learning_rate": 0.03, "weight_decay": 0.05, "dropout": 0.37}
    seen = {"rate": set(), "decay": set(), "dropout": set()}
    optimizer, layer = copy.net.optimizer, copy._layers[0]
    step, call = optimizer.apply, layer.call

    def look_at_step(*given, **named):
        seen["rate"].add(round(float(optimizer.learning_rate), 7))
        seen["decay"].add(optimizer.weight_decay)
        return step(*given, **named)

    def look_at_layer(inputs, training=False):
        seen["dropout"].add(layer.rate)
        return call(inputs, training=training)

    monkeypatch.setattr(optimizer, "apply", look_at_step)
    monkeypatch.setattr(layer, "call", look_at_layer)
    told = trained(copy, 2, **asked)
    assert seen == {"rate": {0.03}, "decay": {0.05}, "dropout": {0.37}}
    assert {f"live/{name}": value for name, value in asked.items()}.items() <= told.items()


class Meddling(Digits):
    class SetsTheRate(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.optimizer.learning_rate = 0.25

    def train(self, hparams, steps):
        fit = self.net.fit
        self.net.fit = lambda *given, callbacks, **named: fit(
            *given, callbacks=[*callbacks, self.SetsTheRate()], **named
        )
        return super().train(hparams, steps)


def test_a_callback_that_sets_the_rate_as_well_fails_the_turn_with_both_numbers():
    with pytest.raises(TaskError, match=r"learning_rate: 0.03 was asked for.*with 0.25"):
        trained(Meddling(seed=0), learning_rate=0.03)


def test_a_hyperparameter_that_nothing_has_is_refused_when_it_is_built():
    space = {**Digits.space, "momentum": FloatDistribution(0.1, 0.9)}
    with pytest.raises(TaskError, match="momentum: neither an attribute of AdamW"):
        type("Task", (Digits,), {"space": space})(seed=0)
