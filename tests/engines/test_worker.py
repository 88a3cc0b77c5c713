"""One turn: a pure function of its plan, committed or not at all."""

import dataclasses
import gc
import json
import os
import re
import signal
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from sample_tasks import Regression
from single_turns import HPARAMS, plan, state, worker

from pbt_flow.commands.launch import context_of
from pbt_flow.engines.jobs import Inspect, Probe, WorkerContext
from pbt_flow.engines.returned import read_score
from pbt_flow.engines.worker import Worker
from pbt_flow.exceptions import StorageError, StoreError
from pbt_flow.population.checkpoints import LocalFolders, read_record
from pbt_flow.population.turn_files import Attempt
from pbt_flow.settings import Settings
from pbt_flow.task import TaskSpec
from pbt_flow.testing import assert_same
from pbt_flow.utils.reasons import reason_of


def test_a_turn_leaves_a_state_and_a_record_that_agree(tmp_path):
    turn = worker(tmp_path).run(plan())
    assert turn.ok
    assert turn.score == pytest.approx(sum(turn.sample) / 3)
    folder = tmp_path / "m0" / "turns" / "000001"
    assert sorted(p.name for p in folder.iterdir()) == ["state.pt", "turn.json"]
    assert read_record((folder / "turn.json").read_text(), 0, 1) == turn
    assert state(tmp_path, turn)["net"]["weight"].shape == (1, 3)


def test_a_cold_worker_gives_bit_for_bit_what_a_warm_one_gives(tmp_path):
    warm = worker(tmp_path / "warm")
    first = warm.run(plan())
    second = warm.run(plan(turn=2, start=first.checkpoint))
    for_cold = worker(tmp_path / "cold")
    assert for_cold.run(plan()).checkpoint == first.checkpoint
    cold = worker(tmp_path / "cold", warm=1).run(plan(turn=2, start=first.checkpoint))
    assert_same(state(tmp_path / "cold", cold), state(tmp_path / "warm", second))
    assert (cold.score, cold.checkpoint) == (second.score, second.checkpoint)


@pytest.mark.slow
def test_a_turn_in_another_process_gives_the_same_bits(tmp_path):
    here = worker(tmp_path / "here").run(plan())
    code = (
        "import sys, pathlib; sys.path[:0] = sys.argv[2:]\n"
        "from single_turns import plan, worker\n"
        "print(worker(pathlib.Path(sys.argv[1])).run(plan()).checkpoint.digest)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there"), *sys.path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == here.checkpoint.digest


def test_a_copy_begins_with_the_donors_weights_and_obeys_its_own_rate(tmp_path):
    one = worker(tmp_path)
    donor = one.run(plan(member=1))
    one.run(plan(member=0))
    hparams = {**HPARAMS, "lr": 0.2}
    copy = one.run(dataclasses.replace(plan(turn=2, start=donor.checkpoint), hparams=hparams))
    assert copy.metrics["live/lr"] == 0.2
    again = worker(tmp_path / "again")
    again.folders = LocalFolders({0: str(tmp_path / "again"), 1: str(tmp_path / "m1")})
    alone = dataclasses.replace(plan(turn=2, start=donor.checkpoint), hparams=hparams)
    assert again.run(alone).checkpoint == copy.checkpoint


def test_the_same_plan_with_another_seed_gives_other_weights(tmp_path):
    first = worker(tmp_path / "a").run(plan())
    other = worker(tmp_path / "b").run(dataclasses.replace(plan(), seed=99))
    assert first.checkpoint.digest != other.checkpoint.digest


@pytest.mark.parametrize(
    ("order", "status", "error"),
    [
        ("raise-1", "failed", "ZeroDivisionError: as ordered"),
        ("nan-1", "diverged", "nan"),
        ("inf-1", "diverged", "inf"),
    ],
)
def test_what_goes_wrong_in_a_task_is_an_outcome_with_its_reason(tmp_path, order, status, error):
    (tmp_path / order).touch()
    one = worker(tmp_path, "Misbehaving", orders=str(tmp_path))
    turn = one.run(plan())
    assert turn.status == status
    assert error in turn.error
    assert turn.checkpoint is None
    folder = tmp_path / "m0" / "turns" / "000001"
    assert sorted(p.name for p in folder.iterdir()) == ["error.txt", "turn.json"]
    assert error in (folder / "error.txt").read_text()
    assert json.loads((folder / "turn.json").read_text())["score"] is None


class Unwritable(Regression):
    """Its state is such as only some of torch can write, or its errors such as no file holds."""

    def train(self, hparams, steps):
        raise FileNotFoundError("no file caf\udce9.png")


class Parametrised(Regression):
    def state_dict(self):
        return {"net": torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2))}


class HoldsAnArray(Regression):
    def state_dict(self):
        return {**super().state_dict(), "seen": [1, {"mean": np.float64(3)}]}


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Unwritable, r"FileNotFoundError: no file caf\\udce9\.png"),
        (Parametrised, r"state_dict\(\) cannot be written: .*parametrized"),
        (HoldsAnArray, r"weights_only=True; state\['seen'\]\[1\]\['mean'\] is a numpy\.float64"),
    ],
)
def test_a_task_whose_error_or_state_cannot_be_written_fails_its_turn_only(tmp_path, task, reason):
    one = Worker(WorkerContext(task=TaskSpec(name=f"test_worker:{task.__name__}"), seed=3))
    one.folders = LocalFolders({0: str(tmp_path)})
    turn = one.run(plan())
    assert turn.status == "failed"
    assert re.search(reason, turn.reason)
    assert one.folders.record(0, 1) == turn


def test_a_member_that_failed_is_built_anew(tmp_path):
    """What an exception left of the model in memory must not leak into the next turn."""
    (tmp_path / "raise-2").touch()
    one = worker(tmp_path, "Misbehaving", orders=str(tmp_path))
    first = one.run(plan())
    assert not one.run(plan(turn=2, start=first.checkpoint)).ok
    third = one.run(plan(turn=3, start=first.checkpoint))
    assert third.ok
    assert state(tmp_path, third)["count"] == 2


def test_a_state_that_would_need_code_to_load_fails_in_the_turn_that_made_it(tmp_path):
    turn = worker(tmp_path, "SavesAnObject").run(plan())
    assert turn.status == "failed"
    assert "state_dict() must hold tensors and plain values only" in turn.error


class Alive(Regression):
    """Counts how many of it there are in this process, each in a cycle as a scheduler makes it."""

    models = weakref.WeakSet()
    most = 0

    def __init__(self, **given):
        super().__init__(**given)
        self.itself = self
        Alive.models.add(self)
        Alive.most = max(Alive.most, len(Alive.models))


@pytest.mark.parametrize(
    ("device", "warm", "most"), [("cpu", None, 2), ("cpu", 1, 1), ("cuda", None, 2), ("cuda", 3, 3)]
)
def test_a_worker_has_no_more_members_in_memory_than_it_may(device, warm, most, tmp_path):
    settings, _ = Settings.for_task(Alive, population=4, warm=warm, device=device)
    gc.collect()
    Alive.most = len(Alive.models)
    assert Alive.most == 0
    spec, turns = TaskSpec(name="test_worker:Alive", options={}), []
    for name in ("bounded", "all"):
        shop = dataclasses.replace(context_of(settings, slots=2), task=spec)
        one = Worker(shop if name == "bounded" else dataclasses.replace(shop, warm=4))
        one.folders = LocalFolders({m: str(tmp_path / f"{name}{m}") for m in range(4)})
        one.probe(Probe())
        newest = dict.fromkeys(range(4))
        for number in (1, 2, 3):
            for member in range(4):
                turns.append(one.run(plan(member, number, newest[member])))
                newest[member] = turns[-1].checkpoint
        one.inspect(Inspect(member=0, checkpoint=newest[1]))
        assert Alive.most == (most if name == "bounded" else 4)
        del one
        gc.collect()
    # What was kept in memory, and what was built and restored, is the same bit for bit.
    assert [t.checkpoint for t in turns[:12]] == [t.checkpoint for t in turns[12:]]


def test_an_altered_checkpoint_is_refused_by_name(tmp_path):
    one = worker(tmp_path, warm=1)
    first = one.run(plan())
    file = tmp_path / "m0" / "turns" / "000001" / "state.pt"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    turn = worker(tmp_path).run(plan(turn=2, start=first.checkpoint))
    assert turn.status == "failed"
    assert "checkpoint of member 0, turn 1" in turn.error
    assert "altered" in turn.error


class Refuses:
    """Something in a state that raises what it is told to when it is written."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


class Nests(Regression):
    """Holds a tensor that is read in full only: torch has no empty one of its kind."""

    def state_dict(self):
        parts = [torch.ones(2), torch.ones(3)]
        return {**super().state_dict(), "parts": torch.nested.nested_tensor(parts)}


OWN_ERRORS = {
    "a missing data file in train": ("train", FileNotFoundError(2, "No such file", "data.csv")),
    "a full disk of its own in evaluate": ("evaluate", OSError(28, "No space left on device")),
    "a dead server in state_dict": ("state_dict", ConnectionResetError("its data server")),
    "an error of torch in state_dict": ("state_dict", RuntimeError("size mismatch")),
    "MLflow in metrics": ("metrics", MlflowException("no such experiment")),
    "a store of its own in train": ("train", StoreError("its own population is gone")),
}


@pytest.mark.parametrize("what", OWN_ERRORS)
def test_what_a_task_raises_itself_is_no_trouble_with_storage(what, tmp_path, monkeypatch):
    method, error = OWN_ERRORS[what]

    def fails(*_):
        raise error

    made = worker(tmp_path)
    monkeypatch.setattr(f"sample_tasks.Regression.{method}", fails)
    turn = made.run(plan())
    assert turn.status == "failed"
    assert turn.reason == reason_of(error)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("CUDA error"), ValueError("odd")],
    ids=repr,
)
def test_nor_is_what_its_state_raises_when_it_is_written(error, tmp_path, monkeypatch):
    made = worker(tmp_path)
    monkeypatch.setattr("sample_tasks.Regression.state_dict", lambda self: {"x": Refuses(error)})
    turn = made.run(plan())
    assert turn.status == "failed"
    assert reason_of(error) in turn.reason
    assert not list(tmp_path.rglob("*.pt*"))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_state_that_torch_reads_in_full_only_is_a_good_one(tmp_path):
    one = Worker(WorkerContext(task=TaskSpec(name="test_worker:Nests"), seed=3))
    one.folders = LocalFolders({0: str(tmp_path / "m0")})
    turn = one.run(plan())
    assert turn.ok, turn.error
    assert [part.tolist() for part in state(tmp_path, turn)["parts"]] == [[1, 1], [1, 1, 1]]


class Elsewhere(LocalFolders):
    """Folders of a store that has been away for too long."""

    def fetch(self, checkpoint):
        raise StoreError("it was away for 600 s")


def test_a_checkpoint_that_cannot_be_read_is_trouble_with_storage(tmp_path, monkeypatch):
    first = worker(tmp_path).run(plan())
    made = worker(tmp_path)
    made.folders = Elsewhere(made.folders.roots)
    said = "cannot read the checkpoint of member 0, turn 1: "
    with pytest.raises(StorageError, match=f"{said}it was away for 600 s$"):
        made.run(plan(turn=2, start=first.checkpoint))
    made = worker(tmp_path)

    def fails(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("pbt_flow.population.checkpoints.file_digest", fails)
    with pytest.raises(StorageError, match=rf"{said}\[Errno 5\] .*; make .* readable for the user"):
        made.run(plan(turn=2, start=first.checkpoint))
    assert made.folders.record(0, 2) is None


def test_two_processes_that_end_one_turn_are_told_apart_from_a_full_disk(tmp_path):
    """As where a task forks and both go on: room and rights are not the cause."""
    turn = plan()
    made = worker(tmp_path)
    made.run(turn)
    (path,) = (tmp_path / "m0").rglob("turn*.json")
    path.unlink()
    with pytest.raises(StorageError, match=r"File exists.*; two processes have ended one turn: "):
        worker(tmp_path).run(turn)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_disk_is_trouble_with_storage_and_not_with_the_task(tmp_path):
    disk = tmp_path / "m0"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        (disk / "filler").write_bytes(b"x" * 8192)
        with pytest.raises(StorageError, match="cannot write the checkpoint of member 0, turn 1"):
            worker(tmp_path).run(plan())
        assert not list(disk.rglob("turn*.json"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_worker_killed_between_state_and_record_leaves_no_turn(tmp_path):
    """The record is the commit: at any instruction before it the turn has not happened."""
    code = (
        "import os, signal, sys, pathlib; sys.path[:0] = sys.argv[2:]\n"
        "import pbt_flow.population.checkpoints as c\n"
        "c.save_record = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from single_turns import plan, worker\n"
        "worker(pathlib.Path(sys.argv[1])).run(plan())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), *sys.path])
    assert done.returncode == -signal.SIGKILL
    folders = LocalFolders({0: str(tmp_path / "m0")})
    assert folders.record(0, 1) is None
    again = worker(tmp_path).run(plan(attempt=Attempt(claim=1, number=2)))
    assert folders.record(0, 1) == again


def test_a_look_reports_and_writes_samples_without_training(tmp_path):
    one = worker(tmp_path)
    turn = one.run(plan())
    (tmp_path / "samples").mkdir()
    look = Inspect(member=0, checkpoint=turn.checkpoint, samples=str(tmp_path / "samples"))
    report = one.inspect(look)
    weight = state(tmp_path, turn)["net"]["weight"]
    assert report.metrics["error"] == pytest.approx((weight - 1).abs().max().item())
    assert (tmp_path / "samples" / "weights.txt").exists()


def test_all_reports_of_a_population_are_drawn_from_its_seed(tmp_path):
    """Else the winner and the best initial setting are compared on different data."""
    reports = []
    for seed in (3, 3, 4):  # a population, a control with its seed, and another population
        one = worker(tmp_path / str(len(reports)), "DrawsItsReport")
        one.context = dataclasses.replace(one.context, seed=seed)
        turns = [one.run(plan(member=member)) for member in (0, 1)]
        looks = [
            Inspect(member=turn.checkpoint.member, checkpoint=turn.checkpoint) for turn in turns
        ]
        first, second = (one.inspect(look).metrics for look in looks)
        assert first == second
        reports.append(first)
    assert reports[0] == reports[1] != reports[2]


def test_a_probe_says_why_a_task_cannot_be_built(tmp_path):
    assert worker(tmp_path).probe(Probe()).error == ""
    assert worker(tmp_path, "CannotBeBuilt").probe(Probe()).error == (
        "OSError: the data set is not there"
    )


def test_the_model_that_a_probe_built_is_the_one_that_trains(tmp_path):
    probed = worker(tmp_path / "a")
    probed.probe(Probe())
    assert probed.run(plan()).checkpoint == worker(tmp_path / "b").run(plan()).checkpoint


@pytest.mark.parametrize(
    ("returned", "score", "sample"),
    [
        (1, 1.0, ()),
        (torch.tensor(2.5), 2.5, ()),
        ([1.0, 2.0], 1.5, (1.0, 2.0)),
        (torch.tensor([1.0, 2.0]), 1.5, (1.0, 2.0)),
    ],
)
def test_a_score_is_a_number_or_the_mean_of_a_sample(returned, score, sample):
    assert read_score(returned) == (score, sample)


@pytest.mark.parametrize("returned", [None, [], "high", {"score": 1}, ["a"]])
def test_anything_else_is_refused_as_a_score(returned):
    with pytest.raises(TypeError, match=r"evaluate\(\) must return a number or a sequence"):
        read_score(returned)
