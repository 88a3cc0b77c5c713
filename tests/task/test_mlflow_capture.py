"""What a task logs through MLflow by itself: on its member's run, and nothing of ours disturbed."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import log_metric as early_log_metric
from mlflow import start_run as early_start_run
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow.tracking.store import Store

pytestmark = pytest.mark.usefixtures("database")

WAYS: dict[str, Callable[[], Any]] = {}
"""The ways in which a task logs the metric `inner` with the value 7 in each turn."""


def way(function: Callable[[], Any]) -> Callable[[], Any]:
    WAYS[function.__name__] = function
    return function


@way
def log_metric() -> None:
    mlflow.log_metric("inner", 7, step=3)


@way
def log_metrics_and_a_metric() -> None:
    mlflow.log_metrics({"inner": 7.0, "other": 8.0})
    mlflow.log_metric("inner", 7)


@way
def in_a_run() -> None:
    for _ in range(2):
        with mlflow.start_run(run_name="mine", tags={"of": "mine"}, description="a note"):
            mlflow.log_metric("inner", 7)


@way
def in_a_run_that_is_left_open() -> None:
    mlflow.start_run()
    mlflow.log_metric("inner", 7)
    mlflow.start_run()


@way
def by_names_that_were_imported_before() -> None:
    for _ in range(2):
        with early_start_run():
            early_log_metric("inner", 7)


@way
def where_a_run_is_active() -> None:
    if mlflow.active_run() is not None:
        mlflow.log_metric("inner", 7)
    while mlflow.active_run() is not None:
        mlflow.end_run()


@way
def after_an_experiment_of_its_own() -> None:
    mlflow.set_experiment("theirs")
    with mlflow.start_run():
        mlflow.log_metric("inner", 7)


@way
def to_a_store_that_is_spelt_otherwise() -> None:
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.log_metric("inner", 7)


@way
def in_a_thread() -> None:
    thread = threading.Thread(target=lambda: mlflow.log_metric("inner", 7))
    thread.start()
    thread.join()


@way
def by_a_client() -> None:
    client = MlflowClient()
    run = client.create_run("0", run_name="a framework's")
    client.log_metric(run.info.run_id, "inner", 7)
    client.set_terminated(run.info.run_id)


@way
def in_nested_runs() -> None:
    mlflow.log_metric("inner", 7)
    with mlflow.start_run(nested=True, run_name="ended"):
        mlflow.log_metric("deep", 1)
    mlflow.start_run(nested=True, run_name="left open")


@way
def in_nested_runs_alone() -> None:
    with mlflow.start_run(nested=True, run_name="ended"):
        mlflow.log_metric("deep", 1)
        with mlflow.start_run(nested=True):
            mlflow.log_metric("deeper", 1)
    mlflow.log_metric("inner", 7)


@way
def asynchronously() -> None:
    mlflow.log_metric("inner", 7, synchronous=False)


@way
def by_autolog() -> None:
    from sklearn.linear_model import LinearRegression

    mlflow.sklearn.autolog(log_models=False, silent=True)
    try:
        LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    finally:
        mlflow.sklearn.autolog(disable=True)
    mlflow.log_metric("inner", 7)


@way
def in_its_own_words_for_ours() -> None:
    mlflow.log_metrics({"score": -1, "turn": 99, "hparam/lr": -1, "train/loss": -1, "inner": 7})
    mlflow.log_metric("step", -1)
    mlflow.log_params({"init/lr": "x", "legend/loss": "y"})
    mlflow.set_tags({"pbt.population": "x", "mlflow.runName": "y", "mine": "z"})
    mlflow.set_tag("mlflow.parentRunId", "x")
    mlflow.delete_tag("mine")
    run_id = mlflow.active_run().info.run_id
    MlflowClient().update_run(run_id, status="FINISHED", name="mine")
    MlflowClient().delete_run(run_id)


class Logs(Regression):
    """Logs in the way that it is told, in `train` and in `evaluate`."""

    def __init__(self, *, seed: int, device: str = "cpu", way: str = ""):
        super().__init__(seed=seed, device=device)
        self.way = way
        if way == "log_metric":
            mlflow.log_metric("built", 1)

    def train(self, hparams: Any, steps: int) -> Any:
        WAYS[self.way]()
        return super().train(hparams, steps)

    def evaluate(self) -> list[float]:
        WAYS[self.way]()
        return super().evaluate()


def run(task: Any, **settings: Any) -> Any:
    small = {"population": 2, "turns": 2, "interval": 2, "engine": "inline", "quiet": True}
    return pbt_flow.run(task, **{**small, **settings})


def everything() -> list[Any]:
    """Every run of the store in the working folder."""
    client = MlflowClient()
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


def variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("MLFLOW")}


def members(result: Any) -> list[Any]:
    found = (r for r in everything() if r.data.tags.get("pbt.role") == "member")
    return sorted(found, key=lambda run: int(run.data.tags["pbt.member"]))


def check_ours(result: Any) -> None:
    """Everything of ours is on the runs as it was written, and nobody is running."""
    assert result.status == "finished", result.reason
    assert {run.info.status for run in everything()} == {"FINISHED"}
    for index, member in enumerate(members(result)):
        last = result.history.turns[index][-1]
        metrics, tags = member.data.metrics, member.data.tags
        assert metrics["score"] == pytest.approx(last.score)
        assert (metrics["turn"], metrics["step"]) == (2, last.step)
        assert metrics["hparam/lr"] == pytest.approx(last.plan.hparams["lr"])
        assert tags["mlflow.runName"] == member.info.run_name == f"member-{index:02d}"
        assert tags["mlflow.parentRunId"] == tags["pbt.population"] == result.run_id
        assert (
            float(member.data.params["init/lr"])
            == result.history.turns[index][0].plan.hparams["lr"]
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_what_a_task_logs_is_on_its_members_run_and_nowhere_else(name: str) -> None:
    stands = mlflow.get_tracking_uri(), variables()
    result = run(Logs, options={"way": name}, finalists="none", samples="none")
    check_ours(result)
    inner = [r for r in everything() if r.data.tags["pbt.role"] == "task"]
    expected = {"in_nested_runs": 16, "in_nested_runs_alone": 16}.get(name, 0)
    assert (len(everything()), len(inner)) == (3 + expected, expected)
    ids = {member.info.run_id for member in members(result)}
    parents = {run.data.tags["mlflow.parentRunId"] for run in inner}
    assert parents <= ids | {run.info.run_id for run in inner}
    for member in members(result):
        points = MlflowClient().get_metric_history(member.info.run_id, "inner")
        # In each of two turns in train and in evaluate, of which MLflow keeps equal points once.
        assert 2 <= len(points) <= 8
        assert {point.value for point in points} == {7.0}
        assert {point.step for point in points} == {3 if name == "log_metric" else 0}
    assert (mlflow.get_tracking_uri(), variables()) == stands
    assert mlflow.active_run() is None


LOGGED = threading.Event()
"""Set once the store was told of a turn."""


class WaitsForTheLog(Logs):
    """Its later turns end only when the store has been told of an earlier one meanwhile."""

    def train(self, hparams: Any, steps: int) -> Any:
        if self.optimizer.state:
            assert LOGGED.wait(30)
        return super().train(hparams, steps)


def test_turns_that_are_logged_while_a_task_trains_in_this_process_are_not_the_tasks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told, log_turns = list[int](), Store.log_turns

    def log(store: Store, turns: Any) -> Any:
        message = log_turns(store, turns)
        told.append(len(turns))
        LOGGED.set()
        return message

    LOGGED.clear()
    monkeypatch.setattr(Store, "log_turns", log)
    result = run(WaitsForTheLog, options={"way": "log_metric"}, turns=2)
    check_ours(result)
    assert sum(told) == 4
    assert not [k for member in members(result) for k in member.data.metrics if "task/" in k]


def test_what_is_ours_keeps_its_names_and_the_tasks_own_are_beside_them() -> None:
    result = run(Logs, options={"way": "in_its_own_words_for_ours"})
    for member in members(result):
        theirs = {k: v for k, v in member.data.metrics.items() if k.startswith("task/")}
        assert theirs == {
            "task/score": -1,
            "task/turn": 99,
            "task/hparam/lr": -1,
            "task/train/loss": -1,
            "task/step": -1,
        }
        assert member.data.params["task/init/lr"] == "x"
        assert member.data.tags["task/pbt.population"] == "x"
        assert "mine" not in member.data.tags


class LogsParams(Regression):
    """Logs what it trains with, as scripts do."""

    def __init__(self, *, seed: int, device: str = "cpu"):
        super().__init__(seed=seed, device=device)
        mlflow.log_params({"width": 3, "noise": self.noise})

    def train(self, hparams: Any, steps: int) -> Any:
        mlflow.log_params(hparams)
        mlflow.log_param("always", "same")
        with mlflow.start_run(nested=True):
            mlflow.log_param("lr", hparams["lr"])
        return super().train(hparams, steps)


def test_params_that_change_fail_no_turn_and_the_newest_value_is_a_tag() -> None:
    result = run(
        LogsParams,
        turns=3,
        exploit="truncation:fraction=0.5",
        explore="perturb",
        warm=1,
        finalists="none",
    )
    assert {t.status for turns in result.history.turns.values() for t in turns} == {"ok"}
    moved = 0
    for index, member in enumerate(members(result)):
        rates = [str(turn.plan.hparams["lr"]) for turn in result.history.turns[index]]
        assert member.data.params["lr"] == rates[0]
        newest = member.data.tags.get("param/lr", rates[0])
        assert newest == rates[-1]
        moved += len(set(rates)) > 1
        assert member.data.params["always"] == "same"
        assert (member.data.params["width"], member.data.params["noise"]) == ("3", "0.1")
    assert moved


class LooksAround(Regression):
    """Logs where it is no turn: in its report, its samples, and in what checks train."""

    defaults = {**Regression.defaults, "samples": "end"}

    def train(self, hparams: Any, steps: int) -> Any:
        mlflow.log_metric("trained", 1, step=steps)
        return super().train(hparams, steps)

    def report(self) -> Any:
        mlflow.log_metric("reported", 1)
        return super().report()

    def samples(self, folder: Path) -> None:
        mlflow.log_text("shown", "shown.txt")
        super().samples(folder)


def test_a_report_is_the_winners_and_what_a_check_trains_is_no_ones() -> None:
    result = run(LooksAround, turns=3)
    client = MlflowClient()
    points = [
        len(client.get_metric_history(member.info.run_id, "trained")) for member in members(result)
    ]
    assert points == [3, 3]
    winner = client.get_run(result.winner.run_id)
    assert winner.data.metrics["reported"] == 1
    assert "shown.txt" in [info.path for info in client.list_artifacts(winner.info.run_id)]
    assert len(everything()) == 3


def test_the_callers_own_run_store_and_experiment_are_theirs_again() -> None:
    experiment = mlflow.set_experiment("of the caller")
    try:
        with mlflow.start_run() as own:
            result = run(Logs, options={"way": "in_a_run"})
            assert mlflow.active_run().info.run_id == own.info.run_id
            mlflow.log_metric("mine", 1)
        assert mlflow.start_run().info.experiment_id == experiment.experiment_id
        mlflow.end_run()
    finally:
        mlflow.tracking.fluent._active_experiment_id = None
    assert mlflow.get_run(own.info.run_id).data.metrics == {"mine": 1}
    assert members(result)[0].data.metrics["inner"] == 7


def test_a_store_that_the_task_chooses_for_itself_is_its_own_affair(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    os.rename(tmp_path / "mlflow.db", tmp_path / "elsewhere/mlflow.db")
    shutil.copy(tmp_path / "elsewhere/mlflow.db", tmp_path / "mlflow.db")
    before = mlflow.get_tracking_uri()
    WAYS["elsewhere"] = lambda: (
        mlflow.set_tracking_uri("sqlite:///elsewhere/mlflow.db"),
        mlflow.log_metric("inner", 7),
    )
    try:
        result = run(Logs, options={"way": "elsewhere"}, finalists="none")
    finally:
        del WAYS["elsewhere"]
    assert mlflow.get_tracking_uri() == before
    check_ours(result)
    theirs = MlflowClient(f"sqlite:///{tmp_path}/elsewhere/mlflow.db").search_runs(["0"])
    assert [(r.info.status, r.data.metrics) for r in theirs] == [("FINISHED", {"inner": 7.0})] * 4


def test_mlflow_is_as_it_was_once_turns_in_this_process_have_ended() -> None:
    before = mlflow.start_run, mlflow.tracking.fluent.start_run, MlflowClient.log_batch
    run(Regression, turns=1)
    assert before == (mlflow.start_run, mlflow.tracking.fluent.start_run, MlflowClient.log_batch)


OF_A_WORKER = """
import os, signal, subprocess, sys, threading
from pathlib import Path
from sample_tasks import Regression

class Mine(Regression):
    def __init__(self, *, seed, device="cpu"):
        import mlflow
        from mlflow import start_run
        super().__init__(seed=seed, device=device)
        self.start_run = start_run
        mlflow.log_params({"built": 1})
        mlflow.log_metric("building", 1)

    def train(self, hparams, steps):
        import mlflow
        mlflow.log_params(hparams)
        with self.start_run():
            mlflow.log_metric("inner", 7)
            with self.start_run(nested=True):
                mlflow.log_metric("deep", 1)
            self.start_run(nested=True)
            if not Path("died").exists():
                Path("died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        code = "import mlflow; mlflow.log_metric('of a child', 1)"
        if not Path("child").exists():
            Path("child").touch()
            subprocess.run([sys.executable, "-c", code], check=True)
        return super().train(hparams, steps)
"""


@pytest.mark.slow
def test_in_workers_too_and_what_a_dead_worker_left_open_is_ended(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OF_A_WORKER, encoding="utf-8")
    result = run("mine.py", engine="processes", workers=2)
    check_ours_of_workers(result)


def check_ours_of_workers(result: Any) -> None:
    assert result.status == "finished", result.reason
    assert {turn.status for turns in result.history.turns.values() for turn in turns} == {"ok"}
    inner = [r for r in everything() if r.data.tags["pbt.role"] == "task"]
    ended = sorted(run.info.status for run in inner)
    # Of the turn that died and was run again there are both; its open run has failed.
    assert ended == ["FAILED"] + ["FINISHED"] * 10
    assert len(everything()) == 3 + len(inner)
    assert {r.info.experiment_id for r in everything()} == {"0"}
    ids = {member.info.run_id for member in members(result)}
    assert {run.data.tags["mlflow.parentRunId"] for run in inner} == ids
    assert sum("of a child" in run.data.metrics for run in inner) == 1
    for member in members(result):
        assert member.info.status == "FINISHED"
        assert (member.data.metrics["inner"], member.data.metrics["building"]) == (7, 1)
        assert member.data.metrics["turn"] == 2
        assert member.data.params["built"] == "1"
