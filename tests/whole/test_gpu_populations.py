"""Populations on a GPU: where workers train, what they keep in its memory, what its errors do."""

import os
from typing import ClassVar

import pytest
import torch
from optuna.distributions import FloatDistribution
from stored_populations import turns_of

import pbt_flow
from pbt_flow import Task
from pbt_flow.commands.stored_population import StoredPopulation

if not torch.cuda.is_available():
    pytest.skip("this machine has no GPU", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
]

SETTINGS = {"population": 4, "turns": 3, "interval": 1, "mode": "generational", "device": "cuda"}
SETTINGS |= {"quiet": True, "finalists": "none"}


class OnGPU(Task):
    """A small model on the GPU, which tells what its worker has of the GPU's memory."""

    space: ClassVar = {"lr": FloatDistribution(0.01, 0.1)}
    part = 0.0
    """The part of all memory that a model takes."""

    def __init__(self, *, seed, device="cpu"):
        super().__init__(seed=seed, device=device)
        torch.manual_seed(seed)
        self.weight = torch.randn(8, device=device)
        total = torch.cuda.mem_get_info(device)[1]
        self.ballast = torch.empty(int(self.part * total), dtype=torch.uint8, device=device)

    def train(self, hparams, steps):
        self.weight -= hparams["lr"] * self.weight
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return {
            "taken": torch.cuda.max_memory_allocated() / torch.cuda.mem_get_info()[1],
            "gpu": float(gpus) if gpus.isdecimal() else -1.0,
            "pid": float(os.getpid()),
        }

    def evaluate(self):
        return -float(self.weight.square().sum())

    def state_dict(self):
        return {"weight": self.weight}

    def load_state_dict(self, state):
        self.weight = state["weight"].clone()


class Heavy(OnGPU):
    """Three of them have a place on a GPU, and a fourth does not."""

    part = 0.3


class Bursting(Heavy):
    """Trains with as much again, which only shows when others are there."""

    def train(self, hparams, steps):
        total = torch.cuda.mem_get_info()[1]
        burst = torch.empty(int(0.5 * total), dtype=torch.uint8, device=self.device)
        del burst
        return super().train(hparams, steps)


class TooLarge(OnGPU):
    def train(self, hparams, steps):
        torch.empty(2 * torch.cuda.mem_get_info()[1], dtype=torch.uint8, device=self.device)


class Poisoned(OnGPU):
    """The first training of one member reads outside of a tensor, and so spoils its process."""

    def __init__(self, *, seed, device="cpu"):
        super().__init__(seed=seed, device=device)
        self.trained = 0

    def train(self, hparams, steps):
        if hparams["lr"] == 0.0123 and not self.trained:
            place = torch.tensor([1_000_000_000], device=self.device)
            self.weight = self.weight[place].sum().expand(8)
        self.trained += 1
        return super().train(hparams, steps)

    def state_dict(self):
        return {"weight": self.weight, "trained": self.trained}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.trained = state["trained"]


def population(task, **changes):
    return pbt_flow.run(f"{__file__}:{task}", **(SETTINGS | changes))


@pytest.mark.usefixtures("database")
def test_more_workers_than_gpus_share_them_and_come_to_the_same():
    one, three = (population("OnGPU", workers=workers) for workers in (1, 3))
    gpus = torch.cuda.device_count()
    assert {turn.metrics["gpu"] for turn in turns_of(one)} == {0.0}
    assert {turn.metrics["gpu"] for turn in turns_of(three)} == set(map(float, range(min(3, gpus))))
    assert len({turn.metrics["pid"] for turn in turns_of(three)}) == 3
    first, second = (
        {(t.plan.member, t.plan.turn): (t.score, t.checkpoint.digest) for t in turns_of(result)}
        for result in (one, three)
    )
    assert first == second
    told = StoredPopulation.open(three.run_id).store.understood()["device"]
    assert torch.cuda.get_device_name(0) in told


@pytest.mark.usefixtures("database")
def test_a_population_of_a_gpu_is_read_and_goes_on_where_there_is_none(monkeypatch):
    result = pbt_flow.run("gan", quick=True, device="cuda", quiet=True, turns=2)
    assert all(turn.ok for turn in turns_of(result))
    on_cpu = result.winner.task(device="cpu")
    assert next(on_cpu.generator.parameters()).device.type == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    again = pbt_flow.resume(result.run_id, device="cpu", turns=3, quiet=True)
    assert again.status == "finished"
    assert len(turns_of(again)) > len(turns_of(result))


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("engine", ["processes", "inline"])
def test_members_wait_on_the_gpu_as_far_as_there_is_room(engine):
    result = population("Heavy", workers=1, engine=engine)
    turns = turns_of(result)
    assert all(turn.ok for turn in turns), [turn.error for turn in turns]
    # The fourth was known to have no place, by what the first three had needed.
    assert not any("lost" in turn.seconds for turn in turns)
    assert 0.6 < max(turn.metrics["taken"] for turn in turns) < 1
    torch.cuda.empty_cache()


@pytest.mark.usefixtures("database")
def test_members_that_wait_give_way_to_a_turn_that_needs_their_memory():
    result = population("Bursting", workers=1, warm=2, turns=2)
    turns = turns_of(result)
    assert all(turn.ok for turn in turns), [turn.error for turn in turns]


@pytest.mark.usefixtures("database")
def test_a_turn_that_finds_no_memory_at_all_fails_with_the_way_out():
    result = population("TooLarge", workers=1, turns=1, max_failures=1)
    errors = [turn.error.splitlines()[0] for turn in turns_of(result)]
    assert all("out of memory" in error for error in errors), errors
    assert all("give fewer --workers" in error for error in errors), errors


@pytest.mark.usefixtures("database")
def test_an_error_that_spoils_the_gpu_of_a_process_fails_one_turn_and_no_other():
    result = population("Poisoned", workers=1, initial=[{"lr": 0.05}, {"lr": 0.0123}])
    turns = turns_of(result)
    failed = [turn for turn in turns if not turn.ok]
    assert [(turn.plan.member, turn.plan.turn) for turn in failed] == [(1, 1)], [
        t.error for t in failed
    ]
    assert result.status == "finished"
