"""A task that leaves by `sys.exit`, or by any other exception, has failed: nothing ends with it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow.engines.jobs import (
    CheckNoise,
    CheckRestore,
    Describe,
    Described,
    Inspect,
    Probe,
    WorkerContext,
)
from pbt_flow.engines.worker import Worker
from pbt_flow.population.checkpoints import LocalFolders
from pbt_flow.population.records import Plan
from pbt_flow.task import TaskError, TaskSpec
from pbt_flow.tracking.store import Store
from pbt_flow.utils.reasons import reason_in


class OwnEnd(BaseException):
    """As a library of the task's may define one."""


def parse() -> None:
    """What a script does with arguments that it does not know."""
    argparse.ArgumentParser(prog="theirs").parse_args(["--unknown"])


def give(error: BaseException) -> Callable[[], None]:
    """A function that raises `error`."""

    def leave() -> None:
        raise error

    return leave


WAYS: dict[str, tuple[Callable[[], Any], str]] = {
    "text": (lambda: sys.exit("license"), "the task called sys.exit: license"),
    "zero": (lambda: sys.exit(0), "the task called sys.exit: exit code 0"),
    "nothing": (lambda: sys.exit(), "the task called sys.exit"),
    "a number": (lambda: sys.exit(3), "the task called sys.exit: exit code 3"),
    "an object": (lambda: sys.exit(("a", 1)), "the task called sys.exit: ('a', 1)"),
    "arguments": (parse, "the task called sys.exit: exit code 2"),
    "a generator": (give(GeneratorExit("closed")), "GeneratorExit: closed"),
    "a coroutine": (give(asyncio.CancelledError("gone")), "CancelledError: gone"),
    "its own": (give(OwnEnd("over")), "OwnEnd: over"),
    "an interrupt": (give(KeyboardInterrupt("stop")), "KeyboardInterrupt: stop"),
}
PARTS = ("build", "load_state_dict", "train", "evaluate", "metrics", "state_dict")


class Leaves(Regression):
    """Leaves in the part, and in the way, that it is told."""

    def __init__(self, *, seed: int, device: str = "cpu", where: str = "", way: str = "text"):
        super().__init__(seed=seed, device=device)
        self.where, self.way = where, way
        self.perhaps_leave("build")

    def perhaps_leave(self, part: str) -> None:
        if self.where == part:
            WAYS[self.way][0]()

    def train(self, hparams: Any, steps: int) -> Any:
        self.perhaps_leave("train")
        return super().train(hparams, steps)

    def evaluate(self) -> list[float]:
        self.perhaps_leave("evaluate")
        return super().evaluate()

    def metrics(self) -> Any:
        self.perhaps_leave("metrics")
        return super().metrics()

    def state_dict(self) -> dict[str, Any]:
        self.perhaps_leave("state_dict")
        return super().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.perhaps_leave("load_state_dict")
        super().load_state_dict(state)

    def report(self) -> Any:
        self.perhaps_leave("report")
        return super().report()

    def samples(self, folder: Path) -> None:
        self.perhaps_leave("samples")
        super().samples(folder)

    def model(self) -> Any:
        self.perhaps_leave("model")
        return super().model()


def worker(folder: Path, reraise: tuple[type[BaseException], ...] = (), **options: str) -> Worker:
    made = Worker(
        WorkerContext(task=TaskSpec(name=f"{__name__}:Leaves", options=options), seed=3),
        reraise=reraise,
    )
    made.folders = LocalFolders({0: str(folder)})
    return made


def plan(turn: int = 1, start: Any = None) -> Plan:
    hparams = {"lr": 0.01, "batch": 4, "loss": "l2"}
    places = {"start": start, "start_step": 2 * turn - 2, "trained": 2 * turn}
    return Plan(member=0, turn=turn, seed=turn, hparams=hparams, steps=2, **places)


@pytest.mark.parametrize("part", PARTS)
def test_a_turn_whose_task_leaves_has_failed_in_whatever_part_it_did(
    tmp_path: Path, part: str
) -> None:
    first = worker(tmp_path).run(plan())
    one = worker(tmp_path, where=part)
    turn = one.run(plan(2, first.checkpoint))
    assert turn.status == "failed"
    assert turn.reason == "the task called sys.exit: license"
    assert "perhaps_leave" in turn.error  # where it did
    assert LocalFolders({0: str(tmp_path)}).record(0, 2) == turn


@pytest.mark.parametrize("way", WAYS)
def test_whatever_a_task_leaves_by_the_turn_says_it(tmp_path: Path, way: str) -> None:
    turn = worker(tmp_path, where="train", way=way).run(plan())
    assert turn.status == "failed"
    assert turn.reason.endswith(WAYS[way][1])


@pytest.mark.parametrize("way", ["text", "a generator", "an interrupt"])
def test_no_job_ends_a_worker(tmp_path: Path, way: str) -> None:
    first = worker(tmp_path).run(plan()).checkpoint
    assert first is not None
    told = WAYS[way][1]
    probed = worker(tmp_path, where="build", way=way).do(Probe())
    assert probed.error == told
    hparams = plan().hparams
    jobs = {
        "report": Inspect(member=0, checkpoint=first),
        "samples": Inspect(member=0, checkpoint=first, samples=str(tmp_path)),
        "train": CheckRestore(member=0, other=0, checkpoint=first, hparams=hparams, steps=1),
        "evaluate": CheckNoise(member=0, checkpoint=first, times=2),
    }
    for where, job in jobs.items():
        assert reason_in(worker(tmp_path, where=where, way=way).do(job).error) == told
    (tmp_path / "leaving.py").write_text(
        f"import {__name__} as those\nthose.WAYS[{way!r}][0]()\n", encoding="utf-8"
    )
    described = worker(tmp_path).do(Describe(task=f"{tmp_path}/leaving.py:Mine"))
    assert described == Described(declaration=b"")


def test_ctrl_c_is_the_users_where_it_reaches_the_task(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        worker(tmp_path, (KeyboardInterrupt,), where="train", way="an interrupt").run(plan())


def statuses() -> list[str]:
    """The status of every run in the store of the working folder."""
    client = MlflowClient()
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return sorted({run.info.status for run in found})


def run(where: str, way: str = "text", **settings: Any) -> Any:
    options = {"where": where, "way": way}
    small = {"population": 2, "turns": 1, "engine": "inline", "max_failures": 1, "quiet": True}
    return pbt_flow.run(Leaves, options=options, **{**small, **settings})


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("way", ["text", "zero", "its own"])
def test_a_population_whose_task_leaves_ends_in_this_process_too(way: str) -> None:
    result = run("train", way)
    assert (result.status, result.reason) == ("failed", "every member failed")
    assert statuses() == ["FAILED"]


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("where", ["report", "model"])
def test_what_leaves_at_the_end_of_a_population_does_not_fail_it(
    where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(where, quiet=False).status == "finished"
    assert statuses() == ["FINISHED"]
    assert "the task called sys.exit: license" in capfd.readouterr().err


@pytest.mark.usefixtures("database")
def test_a_task_that_cannot_be_built_or_imported_since_it_leaves_is_refused_with_that(
    tmp_path: Path,
) -> None:
    with pytest.raises(TaskError, match=r"cannot be built: the task called sys\.exit: exit code 2"):
        run("build", "arguments")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit('no license')\n", encoding="utf-8")
    for name in ("leaving.py", "leaving.py:Mine"):
        with pytest.raises(
            TaskError, match=r"leaving\.py.* imported: the task called sys\.exit: no license$"
        ):
            pbt_flow.run(name, engine="inline")
    assert statuses() == []


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("error", [SystemExit("unforeseen"), OwnEnd(), KeyboardInterrupt()])
def test_no_run_goes_on_saying_that_it_is_running_whatever_ends_its_controller(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_turns(self: Store, turns: Any) -> None:
        raise error

    monkeypatch.setattr(Store, "log_turns", log_turns)
    ended = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
    with pytest.raises(type(error)) as raised:
        run("")
    assert raised.value is error
    assert statuses() == [ended]
    assert mlflow.active_run() is None


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_in_a_worker_a_task_that_leaves_costs_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs.py").write_text(
        "import os, sys\n"
        "from sample_tasks import Regression\n"
        "class Mine(Regression):\n"
        "    def train(self, hparams, steps):\n"
        "        with open(os.environ['PIDS'], 'a') as pids: print(os.getpid(), file=pids)\n"
        "        sys.exit('license')\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    result = pbt_flow.run(
        f"{tmp_path}/theirs.py", population=2, turns=2, workers=1, max_failures=2, quiet=True
    )
    assert {turn.status for turns in result.history.turns.values() for turn in turns} == {"failed"}
    pids = (tmp_path / "pids").read_text(encoding="utf-8").split()
    assert (len(pids), len(set(pids))) == (4, 1)
    assert statuses() == ["FAILED"]
