"""What workers find out about the task itself: only what is so, once, and at nobody's cost."""

import dataclasses
import math
import os
import signal

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from sample_tasks import DrawsFromItsOwnGenerator, ForgetsMomentum, Regression
from simulated import Counting, slowly, turns_of

import pbt_flow
from pbt_flow.engines.jobs import CheckNoise, CheckRestore, WorkerContext
from pbt_flow.engines.restore_check import first_difference
from pbt_flow.engines.worker import Worker
from pbt_flow.population.checkpoints import LocalFolders
from pbt_flow.population.records import Plan
from pbt_flow.task import TaskSpec
from pbt_flow.tasks.toy import Toy
from pbt_flow.testing.simulation import simulate

HPARAMS = {"lr": 0.01, "batch": 4, "loss": "l2"}


class NeverTheSame(Regression):
    """Every run of it differs, as on many a GPU."""

    def train(self, hparams, steps):
        metrics = super().train(hparams, steps)
        self.net.bias.data += 1e-7 * torch.from_numpy(np.random.default_rng().normal(size=1))
        return metrics


class KeepsItsAverageToItself(Regression):
    """Scores an average of its weights that its state leaves out; the weights are all there."""

    def __init__(self, *, seed, device="cpu"):
        super().__init__(seed=seed, device=device)
        self.running_mean = self.net.weight.detach().clone()

    def train(self, hparams, steps):
        metrics = super().train(hparams, steps)
        self.running_mean.lerp_(self.net.weight.detach(), 0.5)
        return metrics

    def evaluate(self):
        return float((self.running_mean - 1).abs().sum())


class FailsWhenChecked(Regression):
    """Cannot be trained for less than an interval."""

    def train(self, hparams, steps):
        if steps < self.defaults["interval"]:
            raise RuntimeError("as good as never")
        return super().train(hparams, steps)


class DiesWhenChecked(Regression):
    """Takes its worker with it if it is trained for less than an interval."""

    def train(self, hparams, steps):
        if steps < self.defaults["interval"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(hparams, steps)


def worker(tmp_path, task):
    made = Worker(
        WorkerContext(task=TaskSpec(name=f"{task.__module__}:{task.__name__}"), seed=3, warm=2)
    )
    made.folders = LocalFolders({0: str(tmp_path / "m0"), 1: str(tmp_path / "m1")})
    return made


def plan(turn=1, start=None):
    values = {"member": 0, "turn": turn, "seed": turn, "hparams": HPARAMS, "steps": 5}
    return Plan(**values, trained=5 * turn, start=start, start_step=5 * (turn - 1))


def restoring(checkpoint):
    return CheckRestore(member=0, other=1, checkpoint=checkpoint, hparams=HPARAMS, steps=2)


@pytest.mark.parametrize(
    ("task", "where"),
    [
        (Regression, None),
        (NeverTheSame, None),
        (ForgetsMomentum, "state['net']['weight']"),
        (DrawsFromItsOwnGenerator, "state['net']['bias']"),
        (KeepsItsAverageToItself, "the score"),
    ],
)
def test_a_state_that_leaves_something_out_is_found_and_no_other(tmp_path, task, where):
    one = worker(tmp_path, task)
    checked = one.do(restoring(one.run(plan()).checkpoint))
    assert not checked.error
    assert (checked.difference and checked.difference.where) == where
    if where is not None:
        assert checked.difference.warm != checked.difference.cold


def test_a_check_that_fails_says_why_and_leaves_the_worker_as_it_was(tmp_path):
    one = worker(tmp_path, FailsWhenChecked)
    first = one.run(plan())
    checked = one.do(restoring(first.checkpoint))
    assert checked.error.strip().endswith("RuntimeError: as good as never")
    assert one.run(plan(turn=2, start=first.checkpoint)).ok


def test_checks_change_nothing_of_the_turns_that_follow(tmp_path):
    checked, alone = worker(tmp_path / "a", Regression), worker(tmp_path / "b", Regression)
    first, same = checked.run(plan()), alone.run(plan())
    before = sorted((tmp_path / "a").rglob("*"))
    checked.do(restoring(first.checkpoint))
    again = checked.do(CheckNoise(member=0, checkpoint=first.checkpoint, times=3))
    assert sorted((tmp_path / "a").rglob("*")) == before
    assert len(set(again.scores)) == 3
    after = checked.run(plan(turn=2, start=first.checkpoint))
    assert after.checkpoint == alone.run(plan(turn=2, start=same.checkpoint)).checkpoint


@pytest.mark.parametrize(
    ("a", "b", "where"),
    [
        ({"x": 1}, {"x": 1}, ""),
        ({"x": 1}, {"y": 1}, "the keys of state"),
        ({"x": [1, {"y": 2}]}, {"x": [1, {"y": 3}]}, "state['x'][1]['y']"),
        ({"x": (1, 2)}, {"x": (1, 2, 3)}, "state['x']"),
        ({"x": 1}, {"x": 1.0}, "state['x']"),
        ({"x": float("nan")}, {"x": float("nan")}, ""),
        ({"x": torch.tensor([1.0, np.nan])}, {"x": torch.tensor([1.0, np.nan])}, ""),
        ({"x": torch.ones(2)}, {"x": torch.ones(3)}, "state['x']"),
        ({"x": torch.ones(2)}, {"x": torch.ones(2).double()}, "state['x']"),
        ({"x": np.ones(2)}, {"x": np.array([1.0, 2.0])}, "state['x']"),
    ],
)
def test_the_first_difference_of_two_states_is_named(a, b, where):
    assert first_difference(a, b, "state") == where


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch calls these kinds experimental
@pytest.mark.parametrize(
    "make",
    [
        lambda values: values.to_sparse(),
        lambda values: values.to_sparse_csr(),
        lambda values: values.to_sparse_csc(),
        lambda values: values.to_sparse_bsr((2, 2)),
        lambda values: torch.nested.nested_tensor([values[0, :1], values[1]]),
        lambda values: torch.nested.nested_tensor([values[0, :1], values[1]], layout=torch.jagged),
    ],
    ids=["coo", "csr", "csc", "bsr", "nested", "jagged"],
)
def test_tensors_that_torch_does_not_compare_are_compared(make):
    one = torch.tensor([[1.0, 0.0], [0.0, math.nan]])
    other = torch.tensor([[2.0, 0.0], [0.0, math.nan]])
    dense = torch.tensor([[1.0, 0.0], [3.0, math.nan]])
    assert first_difference({"x": make(one)}, {"x": make(one)}, "state") == ""
    assert first_difference({"x": make(one)}, {"x": make(other)}, "state") == "state['x']"
    assert first_difference({"x": make(one)}, {"x": make(dense)}, "state") == "state['x']"
    assert first_difference({"x": make(one)}, {"x": one}, "state") == "state['x']"


# --- in a population ------------------------------------------------------------------------------


class Forgetful(Counting):
    """Its momentum is in no state."""

    def __init__(self, *, seed, device="cpu"):
        super().__init__(seed=seed, device=device)
        self.speed = 0.0

    def train(self, hparams, steps):
        self.speed = 0.9 * self.speed + float(hparams["gain"])
        self.value += self.speed
        return super().train(hparams, steps)


@pytest.mark.parametrize(("mode", "slots"), [("async", 2), ("async", 4), ("generational", 3)])
def test_a_population_is_told_once_that_its_state_leaves_something_out(mode, slots):
    settings = {"mode": mode, "slots": slots, "turns": 10, "duration": slowly}
    simulation = simulate(Forgetful, **settings)
    (text,) = [text for text in simulation.said if "does not train on" in text]
    assert simulation.store.tags["pbt.warning/restores"] == text.removeprefix("warning: ")
    assert "(the first difference: state['value'])" in text
    assert "what join(...) does not name, such as a counter" in text
    assert not any(
        "restores" in k for k in simulate(Counting, **settings).store.tags if "warn" in k
    )


@pytest.mark.parametrize(("mode", "slots"), [("async", 3), ("generational", 2)])
def test_a_population_with_checks_decides_as_one_without(mode, slots, monkeypatch):
    def outcome():
        simulation = simulate(Counting, mode=mode, slots=slots, turns=20, duration=slowly, seed=2)
        return simulation, turns_of(simulation)

    simulation, turns = outcome()
    assert "pbt.checked/restores" in simulation.store.tags
    states = set(simulation.engine.states)
    monkeypatch.setattr("pbt_flow.training.checks._LEAST_TURNS", 10**6)
    without, same = outcome()
    assert not any(name.startswith("pbt.checked/") for name in without.store.tags)
    assert (turns, states) == (same, set(without.engine.states))


@pytest.mark.parametrize("settings", [{"turns": 9}, {"turns": 10, "exploit": "none"}])
def test_small_populations_and_random_search_are_not_checked(settings):
    assert "pbt.checked/restores" not in simulate(Counting, **settings).store.tags
    assert "pbt.checked/restores" in simulate(Counting, turns=10).store.tags


def test_what_is_not_checked_when_a_population_stops_is_let_go_of():
    simulation = simulate(Counting, turns=10, target=0.0)
    controller = simulation.controller
    assert controller.stopping
    assert not controller.checks.uses


def test_noise_is_not_evaluated_for_longer_than_a_tenth_of_the_run():
    from pbt_flow.settings import Settings
    from pbt_flow.training.checks import _evaluating

    turns = [own[-1] for own in simulate(Counting, turns=10).history.turns.values()]
    settings, _ = Settings.for_task(Counting, turns=10)

    def times(evaluate):
        spent = {"train": 1 - evaluate, "evaluate": evaluate}
        timed = [dataclasses.replace(turn, seconds=spent) for turn in turns]
        return [check.times for check in _evaluating(timed, settings)]

    assert times(0.001) == [64] * 4
    assert times(0.1) == [10] * 4  # a tenth of 40 turns of 1 s, at 0.1 s each
    assert times(0.9) == []


class ForgetfulToy(Toy):
    """Counts its turns where no state sees it, and is the better for it."""

    count = 0

    def train(self, hparams, steps):
        self.count += 1
        metrics = super().train(hparams, steps)
        self.theta = (self.theta[0] * 0.9999**self.count, self.theta[1])
        return metrics


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_a_resume_neither_checks_again_nor_says_what_was_said(capfd):
    result = pbt_flow.run(ForgetfulToy, turns=14, engine="inline")
    said = "".join(capfd.readouterr())
    assert said.count("warning: a restored model") == 1
    assert said.count("upper bound") >= 1
    tags = MlflowClient().get_run(result.run_id).data.tags
    assert tags["pbt.checked/restores"] == "differs"
    assert "it scores" in tags["pbt.warning/restores"]
    pbt_flow.resume(result.run_id, turns=15)
    said = "".join(capfd.readouterr())
    assert "a restored model" not in said
    # Of a hyperparameter that has come to its bound since it is said; of the others not again.
    told = {name for name in tags if name.startswith("pbt.warning/pinned/")}
    assert not any(f"have {name.rpartition('/')[2]} at" in said for name in told)


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_a_check_that_kills_its_worker_harms_nothing_and_is_not_tried_again(capfd):
    result = pbt_flow.run(DiesWhenChecked, turns=10, workers=2, max_failures=1, quiet=True)
    assert result.status == "finished"
    assert [len(own) for own in result.history.turns.values()] == [10] * 4
    tags = MlflowClient().get_run(result.run_id).data.tags
    assert tags["pbt.checked/restores"] == "the worker was lost"
    assert "pbt.warning/restores" not in tags
