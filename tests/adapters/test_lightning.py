"""A Lightning module keeps the contract of a task, and trains with what was asked."""

from pathlib import Path

import mlflow
import pytest
import torch
from mlflow.tracking import MlflowClient
from optuna.distributions import FloatDistribution
from seen_in_training import seen_in_training
from single_turns import trained
from torch import nn

pytest.importorskip("lightning", reason="Lightning is not installed")

import lightning
from lightning import Callback, LightningDataModule
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import MLFlowLogger

import pbt_flow
from pbt_flow import TaskError
from pbt_flow.adapters.lightning_fit import quiet
from pbt_flow.population.checkpoints import load_state, save_state
from pbt_flow.task import find_task
from pbt_flow.testing import TaskContract

Digits = find_task(
    f"{Path(__file__).resolve().parents[2]}/docs/examples/lightning_module.py:Digits"
)
UNIT = FloatDistribution(0.1, 0.9)


class InSteps(Digits):
    """Turns of so many steps of the optimiser, which end within an epoch of 19."""

    unit = "steps"


class TestModuleContract(TaskContract):
    task, steps = Digits, 1


@pytest.mark.slow
class TestModuleInStepsContract(TaskContract):
    task, steps, begins_anew = InSteps, 7, True


def test_after_an_exploit_everything_that_was_asked_is_live():
    donor, copy = Digits(seed=0), Digits(seed=1)
    trained(donor)
    copy.load_state_dict(donor.state_dict())
    asked = {"learning_rate": 0.08, "weight_decay": 0.05, "dropout": 0.37}
    with seen_in_training() as seen:
        told = trained(copy, 2, **asked)
    # The donor is one decay of 0.9 old, and its schedule goes on from there.
    assert seen == {"lr": {0.08 * 0.9}, "weight_decay": {0.05}, "dropout": {0.37}}
    assert {f"live/{name}": value for name, value in asked.items()}.items() <= told.items()
    assert told["factor/learning_rate"] == pytest.approx(0.9)


class SetsARate(Callback):
    def on_train_batch_start(self, trainer, *_):
        trainer.optimizers[0].param_groups[0]["lr"] = 0.5


def test_a_callback_that_sets_the_rate_as_well_fails_the_turn_with_both_numbers():
    task = type("Task", (InSteps,), {"trainer_settings": lambda self: {"callbacks": SetsARate()}})
    task = task(seed=0)
    # The base of the schedule stays; what the optimiser is about to use does not.
    task.module.configure_optimizers = lambda: torch.optim.SGD(task.module.parameters(), lr=1)
    with pytest.raises(TaskError, match=r"learning_rate was 0.08 .* came to 0.5 in training"):
        trained(task, learning_rate=0.08)


def test_a_hyperparameter_that_nothing_has_fails_the_first_turn():
    task = type("Task", (Digits,), {"space": {**Digits.space, "hidden": UNIT}})(seed=0)
    with pytest.raises(TaskError, match="nobody took the hyperparameter hidden .* places()"):
        trained(task)


class Scaled(Digits):
    """Its loss has a factor that only `hparams` know."""

    space = {**Digits.space, "factor": UNIT}

    def make_module(self):
        module = super().make_module()
        module.hparams.factor = 0.5
        return module

    def places(self, name):
        return [(self.module.hparams, "factor")] if name == "factor" else []


def test_a_place_that_the_user_names_is_set_before_training_and_proved():
    task = Scaled(seed=0)
    assert trained(task, factor=0.75)["live/factor"] == 0.75
    assert task.module.hparams.factor == 0.75
    assert "factor: factor of a AttributeDict" in task.understood()["hyperparameters"]


class Unequal(Digits):
    def make_module(self):
        module = super().make_module()
        module.net.append(nn.Dropout(0.5))
        return module


def test_dropout_layers_that_begin_with_different_probabilities_are_refused():
    with pytest.raises(TaskError, match=r"dropout layers begin with .*0.2 \(p of net.2\), 0.5"):
        Unequal(seed=0)


def test_a_trainer_that_ends_before_its_turn_does_is_refused():
    stopping = EarlyStopping("loss", patience=1, check_on_train_epoch_end=True, min_delta=9.0)
    task = type("Task", (Digits,), {"trainer_settings": lambda self: {"callbacks": [stopping]}})
    with pytest.raises(TaskError, match="the Trainer made 2 of 4 epochs"):
        trained(task(seed=0), steps=4)


class DrawsItsSplit(LightningDataModule):
    """As many data modules do: each `setup` draws the split from the global generator."""

    def setup(self, stage):
        digits = Digits.make_data()[1].dataset.dataset
        training, self.validation = torch.utils.data.random_split(digits, [1200, 597])
        self.loader = torch.utils.data.DataLoader(training, 64, shuffle=True)

    def train_dataloader(self):
        return self.loader

    def val_dataloader(self):
        return torch.utils.data.DataLoader(self.validation, 597)


def test_the_split_that_a_data_module_draws_is_one_in_all_members_and_turns():
    kind = type("Task", (Digits,), {"make_data": staticmethod(DrawsItsSplit)})
    first, second = kind(seed=0), kind(seed=1)
    assert not torch.equal(first.module.net[0].weight, second.module.net[0].weight)
    splits = []
    for number, task in enumerate([first, first, second]):
        trained(task, number)
        splits.append(list(task.data.validation.indices))
        task.evaluate()
        splits.append(list(task.data.validation.indices))
    assert all(split == splits[0] for split in splits)


class Logged(Digits):
    def trainer_settings(self):
        logger = MLFlowLogger("theirs", tracking_uri=mlflow.get_tracking_uri())
        return {"logger": logger, "log_every_n_steps": 1}


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_what_lightnings_mlflow_logger_logs_lands_on_the_members_run():
    result = pbt_flow.run(Logged, population=2, turns=1, engine="inline", quiet=True)
    assert result.status == "finished"
    client = MlflowClient()
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments)
    assert sorted(run.data.tags["pbt.role"] for run in runs) == ["member", "member", "population"]
    for run in runs:
        assert run.info.status == "FINISHED"
        if run.data.tags["pbt.role"] == "member":
            assert len(client.get_metric_history(run.info.run_id, "loss")) == 19
            assert run.data.metrics["accuracy"] == run.data.metrics["score"]


def test_a_donors_checkpoint_given_to_fit_brings_the_donors_values_back(tmp_path):
    """What the table in docs/writing.md has beside the adapter: the library alone."""
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings = {"enable_checkpointing": False, "limit_val_batches": 0, **silent}
    module, path = type(Digits(seed=0).module), tmp_path / "donor.ckpt"
    with quiet():
        donor = lightning.Trainer(max_epochs=1, **settings)
        donor.fit(module(0.001, 0.03, 0.1), *Digits.make_data())
        donor.save_checkpoint(path)
        copy = lightning.Trainer(max_epochs=2, **settings)
        with seen_in_training() as seen:
            copy.fit(module(0.08, 0.05, 0.37), *Digits.make_data(), ckpt_path=path)
    assert seen == {"lr": {0.001 * 0.9}, "weight_decay": {0.03}, "dropout": {0.37}}


def test_a_restored_member_writes_the_bytes_that_one_kept_in_memory_writes(tmp_path):
    warm, cold = Digits(seed=0), Digits(seed=1)
    trained(warm)
    first = save_state(warm.state_dict(), 0, 1, tmp_path / "first")
    cold.load_state_dict(load_state(first, tmp_path / "first"))
    digests = set()
    for name, task in (("warm", warm), ("cold", cold)):
        trained(task, 2)
        digests.add(save_state(task.state_dict(), 0, 2, tmp_path / name).digest)
    assert len(digests) == 1
