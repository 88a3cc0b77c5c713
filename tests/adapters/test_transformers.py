"""A Trainer of transformers keeps the contract, and trains with what was asked."""

import gc
from copy import deepcopy
from pathlib import Path

import pytest
import single_turns
import torch
from mlflow.tracking import MlflowClient
from optuna.distributions import FloatDistribution
from seen_in_training import seen_in_training

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("peft", reason="peft is not installed")

from transformers import Trainer, TrainerCallback

import pbt_flow
from pbt_flow import TaskError
from pbt_flow.adapters.transformers import TrainerTask, with_shared_weights
from pbt_flow.adapters.transformers_weights import weights_of
from pbt_flow.task import find_task
from pbt_flow.testing import TaskContract

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "lora.py"
Adapters = find_task(f"{EXAMPLE}:Adapters")
UNIT = FloatDistribution(0.1, 0.9)

# PEFT asks transformers for what transformers will have no more.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@pytest.mark.slow
class TestAdapterContract(TaskContract):
    task, steps, begins_anew = Adapters, 3, True


def trained(task, number=1, steps=2, **hparams):
    return single_turns.trained(task, number, steps, **hparams)


def test_after_an_exploit_everything_that_was_asked_is_live():
    donor, copy = Adapters(seed=0), Adapters(seed=1)
    trained(donor)
    copy.load_state_dict(donor.state_dict())
    asked = {"learning_rate": 0.005, "weight_decay": 0.07, "lora_dropout": 0.37}
    with seen_in_training() as seen:
        told = trained(copy, 2, **asked)
    assert seen["lr"] == {0.005}
    assert seen["weight_decay"] == {0.07}
    assert seen["dropout"] == {0.37}
    assert {f"live/{name}": value for name, value in asked.items()}.items() <= told.items()


def test_a_checkpoint_holds_the_adapter_and_members_share_what_is_frozen():
    first, second = Adapters(seed=0), Adapters(seed=1)
    state = first.state_dict()
    assert all("lora_" in name for name in state["trained"])
    one, two = (dict(task.model().named_parameters()) for task in (first, second))
    for name, parameter in one.items():
        assert (parameter is two[name]) == (name not in state["trained"])
    assert first.understood()["model"].endswith(" frozen")
    name = next(name for name in state["trained"] if "lora_A" in name)
    assert not torch.equal(one[name], two[name])


def test_an_average_of_adapters_leaves_the_shared_weights_alone():
    tasks = [Adapters(seed=seed) for seed in range(3)]
    frozen = {
        name: one.clone() for name, one in weights_of(tasks[0].model(), trained=False).items()
    }
    states = [deepcopy(task.state_dict()) for task in tasks]
    mean = tasks[0].average(states)
    tasks[1].load_state_dict(mean)
    for name, tensor in tasks[1].state_dict()["trained"].items():
        expected = torch.stack([state["trained"][name] for state in states]).mean(0)
        assert torch.equal(tensor, expected)
    for name, tensor in weights_of(tasks[2].model(), trained=False).items():
        assert torch.equal(tensor, frozen[name])


def test_a_state_that_was_trained_on_other_frozen_weights_is_refused():
    task = Adapters(seed=0)
    other = with_shared_weights(task.model())
    with torch.no_grad():
        next(one for one in other.parameters() if not one.requires_grad).data = torch.ones(128, 32)
    state = {**task.state_dict(), "frozen": "another"}
    with pytest.raises(TaskError, match="the frozen weights are others"):
        task.load_state_dict(state)


class StopsAtOnce(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = True


class SetsTheRate(TrainerCallback):
    def on_step_begin(self, args, state, control, optimizer, **_):
        optimizer.param_groups[0]["lr"] = 0.25


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (StopsAtOnce(), "the Trainer made 1 of 2 steps"),
        (SetsTheRate(), r"learning_rate was 0.005 .* came to 0.25 in training"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_callback_that_meddles_fails_the_turn(callback, said):
    task = Adapters(seed=0)
    task.trainer.add_callback(callback)
    with pytest.raises(TaskError, match=said):
        trained(task, learning_rate=0.005)


def test_a_hyperparameter_that_has_no_place_is_refused_when_it_is_built():
    task = type("Task", (Adapters,), {"space": {**Adapters.space, "warmup_ratio": UNIT}})
    with pytest.raises(TaskError, match=r"no place for the hyperparameter warmup_ratio.*places\("):
        task(seed=0)


class InitialisesEachTime(TrainerTask):
    space = {"learning_rate": UNIT}

    def make_trainer(self):
        made = Adapters(seed=0).trainer
        return Trainer(model_init=lambda: made.model, args=made.args)


def test_a_trainer_that_makes_its_model_anew_is_refused():
    with pytest.raises(TaskError, match="gives model_init"):
        InitialisesEachTime(seed=0)


class Reported(Adapters):
    def make_trainer(self):
        trainer = super().make_trainer()
        trainer.args.report_to, trainer.args.logging_steps = ["mlflow"], 1
        return Trainer(
            trainer.model, trainer.args, train_dataset=trainer.train_dataset, eval_dataset=[]
        )

    def evaluate(self):
        return 1.0


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_what_transformers_reports_to_mlflow_lands_on_the_members_run():
    settings = {"population": 2, "turns": 1, "interval": 3, "engine": "inline", "quiet": True}
    result = pbt_flow.run(Reported, **settings)
    assert result.status == "finished"
    gc.collect()  # The callback ends its run when it is freed.
    client = MlflowClient()
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert sorted(run.data.tags["pbt.role"] for run in runs) == ["member", "member", "population"]
    for run in runs:
        assert run.info.status == "FINISHED"
        if run.data.tags["pbt.role"] == "member":
            assert len(client.get_metric_history(run.info.run_id, "grad_norm")) == 3
            assert run.data.params["per_device_train_batch_size"] == "16"


def test_the_order_of_the_data_follows_from_the_turns_seed():
    first, second = Adapters(seed=0), Adapters(seed=1)
    seen = []
    for task, number in ((first, 1), (first, 2), (second, 2)):
        task.reseed(number)
        seen.append(next(iter(task.trainer.get_train_dataloader()))["input_ids"])
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
