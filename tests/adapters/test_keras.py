"""A model of Keras keeps the contract of a task, and trains with what was asked."""

import os
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution
from single_turns import trained

os.environ["KERAS_BACKEND"] = "torch"
pytest.importorskip("keras", reason="Keras is not installed")

import keras
import mlflow
from mlflow.tracking import MlflowClient

import pbt_flow
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
    optimizer, layer = copy.net.optimizer, copy._live.layers[0]
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


class SetsTheRate(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = 0.25


class Meddling(Digits):
    fit_settings = {**Digits.fit_settings, "callbacks": [SetsTheRate()]}


def test_a_callback_that_sets_the_rate_as_well_fails_the_turn_with_both_numbers():
    with pytest.raises(TaskError, match=r"learning_rate: 0.03 was asked for.*with 0.25"):
        trained(Meddling(seed=0), learning_rate=0.03)


def test_a_hyperparameter_that_nothing_has_is_refused_when_it_is_built():
    space = {**Digits.space, "momentum": FloatDistribution(0.1, 0.9)}
    with pytest.raises(TaskError, match="momentum: neither an attribute of AdamW"):
        type("Task", (Digits,), {"space": space})(seed=0)


class Logged(Digits):
    fit_settings = {**Digits.fit_settings, "callbacks": [mlflow.keras.MlflowCallback()]}


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_what_keras_logs_through_mlflow_is_on_the_members_runs():
    settings = {"population": 2, "turns": 2, "engine": "inline", "quiet": True}
    result = pbt_flow.run(Logged, finalists="none", **settings)
    assert result.status == "finished"
    client = MlflowClient()
    runs = client.search_runs([client.get_run(result.run_id).info.experiment_id])
    members = [run for run in runs if run.data.tags.get("pbt.role") == "member"]
    # No run of Keras' own is left, and none runs on.
    assert len(members) == 2
    assert len(runs) == 3
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in members:
        assert len(client.get_metric_history(run.info.run_id, "accuracy")) >= 2
        assert any(name.startswith("optimizer_") for name in run.data.params)
    assert not mlflow.active_run()
