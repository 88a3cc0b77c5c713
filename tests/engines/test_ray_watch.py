"""A cluster whose head does not answer holds nobody up, and ends a population in order."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from patience import PATIENCE, until

import pbt_flow
from pbt_flow.engines import ray as ray_engine
from pbt_flow.engines import ray_watch
from pbt_flow.engines.ray import RayEngine
from pbt_flow.engines.ray_watch import ClusterWatch
from pbt_flow.exceptions import EngineError

ROOT = Path(__file__).resolve().parents[2]


class Head:
    """What the watch asks of Ray, and a head that may be silent."""

    def __init__(self):
        self.alive, self.answers = ["mine", "other"], threading.Event()
        self.answers.set()

    def get_runtime_context(self):
        return self

    def get_node_id(self):
        return "mine"

    def nodes(self):
        alive = [{"NodeID": name, "Alive": name in self.alive} for name in ("mine", "other")]
        self.answers.wait()
        return alive


@pytest.fixture
def head(monkeypatch):
    monkeypatch.setattr(ray_watch, "_FRESH_WITHIN", 0.05)
    made = Head()
    yield made
    made.answers.set()


def test_whether_a_node_is_alive_is_asked_now_and_not_remembered(head, monkeypatch):
    monkeypatch.setattr(ray_watch, "_FRESH_WITHIN", 60.0)
    watch = ClusterWatch(head)
    assert watch.is_alive("other")
    head.alive = ["mine"]
    assert not watch.is_alive("other")
    assert watch.alive == {"mine"}
    assert not watch.has_lost_this_machine
    watch.close()


def test_a_question_from_before_the_death_is_no_answer(head, monkeypatch):
    watch = ClusterWatch(head)
    head.answers.clear()
    assert watch.is_alive("other"), "what was known last counts while the head is silent"
    # The question under way was asked while the node lived.
    head.alive = ["mine"]
    monkeypatch.setattr(ray_watch, "_FRESH_WITHIN", 60.0)
    earlier, answered = head.answers, threading.Event()
    # The next question has an answer of its own, which takes longer than that to the earlier one.
    head.answers = answered
    threading.Timer(0.05, earlier.set).start()
    threading.Timer(0.5, answered.set).start()
    assert not watch.is_alive("other")
    watch.close()


@pytest.mark.parametrize(
    ("alive", "answers", "told"),
    [
        (["mine"], True, ""),
        (["other"], True, "Ray on this machine has ended"),
        (["mine", "other"], False, "the head of the Ray cluster has not answered for 0 seconds"),
    ],
)
def test_an_engine_ends_where_ray_will_start_no_worker_any_more(
    head, monkeypatch, alive, answers, told
):
    monkeypatch.setattr(ray_engine, "_HEAD_PATIENCE", 0.0 if not answers else 60.0)
    engine = RayEngine.__new__(RayEngine)
    engine._watch = watch = ClusterWatch(head)
    engine._session = None
    head.alive = alive
    if answers:
        watch.is_alive("mine")
        until(lambda: watch.alive == set(alive), "the watch does not ask")
    else:
        head.answers.clear()
    if told:
        with pytest.raises(EngineError, match=told):
            engine._check_cluster()
    else:
        engine._check_cluster()
    watch.close()


_KILLS = """
import os, signal, sys
from pathlib import Path
import pbt_flow
from pbt_flow.engines import ray

program, file = sys.argv[1:]
ray._HEAD_PATIENCE = 4.0
killed = []

def kill(turn, history):
    waiting = [] if killed else [os.getpid()]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            for pid in map(int, task.read_text().split()):
                waiting.append(pid)
                if Path(f"/proc/{pid}/comm").read_text().strip() == program:
                    killed.append(pid)
                    os.kill(pid, signal.SIGKILL)

settings = {"population": 2, "workers": 1, "turns": 2000, "interval": 1, "engine": "ray"}
options = {"seconds": 0.05}
result = pbt_flow.run(
    f"{file}:Unrepeatable", options=options, quiet=True, on_turn=kill, **settings
)
assert len(killed) == 1, killed
known = sum(len(turns) for turns in result.history.turns.values())
print(result.run_id, result.status, known, result.reason, sep="\\n")
sys.exit(result.status != "finished")
"""
"""A population that kills a process of its own Ray after its first turn."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("gcs_server", "the head of the Ray cluster has not answered for 4 seconds"),
        ("raylet", "Ray on this machine has ended"),
    ],
)
def test_a_population_ends_in_order_when_ray_dies_under_it(program, told, database):
    pytest.importorskip("ray")
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "3",
    }
    environment.pop("RAY_ADDRESS", None)
    arguments = [sys.executable, "-c", _KILLS, program, f"{ROOT}/benchmarks/unrepeatable.py"]
    for _ in range(3):
        done = subprocess.run(
            arguments,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        # Ray gives itself 30 seconds, which is too little where the cores have other work.
        if "timed out during startup" not in done.stderr:
            break
    # What was printed is there although Ray may have ended the process before Python did.
    assert done.stdout.count("\n") == 4, (done.returncode, done.stdout, done.stderr)
    run_id, status, known, reason = done.stdout.splitlines()
    assert (done.returncode, status) == (1, "failed")
    assert told in reason
    client = MlflowClient()
    runs = client.search_runs([client.get_run(run_id).info.experiment_id])
    assert {run.info.status for run in runs} == {"FAILED"}
    # What was committed is safe. A turn that was under way may have been committed since.
    loaded = [len(turns) for turns in pbt_flow.load(run_id).history.turns.values()]
    assert 1 <= int(known) <= sum(loaded)
