"""Worker processes: they run turns side by side, die alone, and never outlive their controller."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from patience import PATIENCE, until
from sample_tasks import Regression

import pbt_flow
from pbt_flow.engines import InlineEngine, LostJob, ProcessEngine
from pbt_flow.engines.jobs import Inspect, Probe, Probed, Retry, WorkerContext
from pbt_flow.exceptions import EngineError
from pbt_flow.population.checkpoints import LocalFolders
from pbt_flow.population.records import Plan, Turn
from pbt_flow.task import TaskSpec

HPARAMS = {"lr": 0.01, "batch": 4, "loss": "l2"}


def plan(member, turn=1, start=None):
    return Plan(
        member=member,
        turn=turn,
        seed=turn,
        hparams=HPARAMS,
        steps=2,
        start=start,
        start_step=2 * (turn - 1),
        trained=2 * turn,
    )


def opened(engine, tmp_path, slots=2, turn_timeout=None):
    task = TaskSpec(name="sample_tasks:Misbehaving", options={"orders": str(tmp_path)})
    engine.turn_timeout = turn_timeout
    engine.start(WorkerContext(task=task, seed=0, warm=2), slots=slots)
    engine.open(LocalFolders({member: str(tmp_path / str(member)) for member in range(4)}))
    return engine


@pytest.fixture
def engine(tmp_path):
    engine = opened(ProcessEngine(), tmp_path, turn_timeout=2 * PATIENCE)
    yield engine
    engine.close()


def wait(engine, count=1):
    done = []
    while len(done) < count:
        done += engine.wait(timeout=PATIENCE)
    return done


def pids(engine):
    for process in engine._processes:
        process.fork_server.read_pids()
    return [process.pid for process in engine._processes]


@pytest.mark.slow
def test_turns_run_side_by_side_and_give_what_they_give_in_this_process(engine, tmp_path):
    for member in (0, 1):
        engine.submit(plan(member))
    turns = {turn.member: turn for turn in wait(engine, 2)}
    inline = opened(InlineEngine(), tmp_path / "inline")
    for member in (0, 1):
        inline.submit(plan(member))
        (here,) = inline.wait()
        assert (turns[member].checkpoint, turns[member].score) == (here.checkpoint, here.score)


def test_a_member_goes_back_to_the_worker_that_has_it_in_memory(engine):
    for member in (0, 1):
        engine.submit(plan(member))
    first = {turn.member: turn for turn in wait(engine, 2)}
    homes = {member: p.index for p in engine._processes for member in p.members}
    for member in (1, 0):
        engine.submit(plan(member, 2, first[member].checkpoint))
        wait(engine)
    assert {member: p.index for p in engine._processes for member in p.members} == homes


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_turn_reported_lost(engine, tmp_path):
    (tmp_path / "die-1").touch()
    before = pids(engine)
    engine.submit(plan(0))
    (lost,) = wait(engine)
    assert isinstance(lost, LostJob)
    assert lost.job == plan(0)
    assert "SIGKILL" in lost.reason
    assert len(set(before) & set(pids(engine))) == 1
    engine.submit(Retry(plan=plan(0), lost=7.5))
    (turn,) = wait(engine)
    assert isinstance(turn, Turn)
    assert turn.ok
    # What the first try took is in the record, for whoever reads it later.
    assert turn.seconds["lost"] == 7.5
    assert turn.ended == pytest.approx(time.time(), abs=60)
    assert LocalFolders({0: str(tmp_path / "0")}).record(0, 1) == turn


@pytest.mark.slow
def test_workers_outlive_the_process_that_they_were_forked_from(engine, tmp_path):
    before = pids(engine)
    os.kill(engine._fork_server._popen.pid, signal.SIGKILL)
    engine._fork_server._popen.wait()
    engine.submit(plan(0))
    (turn,) = wait(engine)
    assert turn.ok
    (tmp_path / "die-2").touch()
    engine.submit(plan(0, 2, turn.checkpoint))
    (lost,) = wait(engine)
    assert "the process that workers are forked from has ended" in lost.reason
    engine.submit(plan(0, 2, turn.checkpoint))
    assert [done.ok for done in wait(engine)] == [True]
    engine.close()
    wait_until_dead(before)


@pytest.mark.slow
def test_a_suspended_process_that_workers_are_forked_from_holds_nobody_up(tmp_path, monkeypatch):
    engine = opened(ProcessEngine(), tmp_path)
    try:
        before = pids(engine)
        server = engine._fork_server
        monkeypatch.setattr("pbt_flow.engines.processes._ANSWER_SECONDS", 0.1)
        server._popen.send_signal(signal.SIGSTOP)
        (tmp_path / "die-1").touch()
        engine.submit(plan(0))
        (lost,) = wait(engine)
        assert "the process that workers are forked from does not answer" in lost.reason
        monkeypatch.setattr("pbt_flow.engines.processes._ANSWER_SECONDS", 60.0)
        assert engine._fork_server is not server
        engine.submit(Retry(plan=plan(0), lost=0.0))
        (turn,) = wait(engine)
        assert turn.ok
        # The other worker lives on.
        assert len(set(before) & {process.pid for process in engine._processes}) == 1
    finally:
        engine.close()


@pytest.mark.slow
def test_a_worker_that_nobody_has_begun_is_replaced_and_so_is_who_should_have(tmp_path):
    engine = ProcessEngine()
    server = engine._fork_server
    server._popen.send_signal(signal.SIGSTOP)
    opened(engine, tmp_path, slots=1, turn_timeout=0.1)
    try:
        engine.submit(plan(0))
        (lost,) = wait(engine)
        assert isinstance(lost, LostJob)
        assert engine._fork_server is not server
        engine.turn_timeout = 600
        engine.submit(Retry(plan=plan(0), lost=0.0))
        (turn,) = wait(engine)
        assert turn.ok
    finally:
        engine.close()


@pytest.mark.slow
def test_a_turn_that_hangs_is_ended_at_its_time_limit(tmp_path):
    engine = opened(ProcessEngine(), tmp_path, slots=1, turn_timeout=120)
    try:
        (tmp_path / "hang-1").touch()
        engine.submit(Probe())
        assert wait(engine) == [Probed()]
        engine.turn_timeout = 0.5
        engine.submit(plan(0))
        (lost,) = wait(engine)
        assert "longer than turn_timeout, 0.5 seconds" in lost.reason
    finally:
        engine.close()


def test_workers_that_cannot_start_end_the_engine_with_what_they_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is broken')")
    engine = ProcessEngine()
    try:
        engine.start(WorkerContext(task=TaskSpec(name="sample_tasks:Regression"), seed=0))
        with pytest.raises(EngineError, match=r"(?s)die as soon as they start.*torch is broken"):
            wait(engine)
    finally:
        engine.close()


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "threads"), [(1, 1), (2, 3)])
def test_a_worker_imports_no_mlflow_and_has_the_threads_that_are_set_whoever_works_beside_it(
    slots, threads, tmp_path, monkeypatch
):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_RUN_ID", "of the controller")
    (tmp_path / "spy.py").write_text(
        "import sys, torch, os\n"
        "from sample_tasks import Regression\n"
        "class Spy(Regression):\n"
        "    def train(self, hparams, steps):\n"
        "        return {'mlflow': 'mlflow' in sys.modules, 'threads': torch.get_num_threads(),\n"
        "                'run': 'MLFLOW_RUN_ID' in os.environ}\n"
    )
    engine = ProcessEngine()
    try:
        spec = TaskSpec(name=f"{tmp_path}/spy.py:Spy")
        engine.start(WorkerContext(task=spec, seed=0, threads=threads), slots=slots)
        engine.open(LocalFolders({0: str(tmp_path / "0")}))
        engine.submit(plan(0))
        (turn,) = wait(engine)
    finally:
        engine.close()
    assert turn.ok, turn.error
    assert turn.metrics == {"mlflow": 0.0, "threads": threads, "run": 0.0}


def test_this_process_has_its_own_threads_again_when_turns_in_it_have_ended(tmp_path):
    before = torch.get_num_threads()
    engine = InlineEngine()
    context = WorkerContext(
        task=TaskSpec(name="sample_tasks:Regression"), seed=0, threads=before + 2
    )
    engine.start(context)
    assert torch.get_num_threads() == before + 2
    engine.close()
    engine.close()
    assert torch.get_num_threads() == before


class Normalised(Regression):
    """Steps along the gradient of a layer norm, which torch sums up by threads."""

    def train(self, hparams, steps):
        for _ in range(steps):
            norm = torch.nn.LayerNorm(32)
            norm(torch.randn(4096, 32)).pow(3).sum().backward()
            self.net.weight.data += norm.weight.grad[:3]
        return {}


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_weights_do_not_depend_on_the_number_of_workers():
    def digests(workers, **settings):
        result = pbt_flow.run(
            "test_engines:Normalised",
            mode="generational",
            workers=workers,
            turns=2,
            quiet=True,
            **settings,
        )
        turns = (turn for own in result.history.turns.values() for turn in own)
        return {(turn.member, turn.number): turn.checkpoint for turn in turns}

    alone = digests(1)
    assert digests(2) == alone
    assert digests(1, engine="inline") == alone
    assert len(alone) == 8


@pytest.mark.slow
def test_what_a_task_prints_in_a_turn_is_kept_beside_its_record(tmp_path):
    (tmp_path / "spy.py").write_text(
        "import os, sys\n"
        "from sample_tasks import Regression\n"
        "class Spy(Regression):\n"
        "    def train(self, hparams, steps):\n"
        "        print('training with', hparams['loss'])\n"
        "        os.system('echo a child of its own')\n"
        "        sys.stderr.write('careful')\n"
        "    def report(self):\n"
        "        print('this is of no turn')\n"
        "        return {}\n"
        "class Talker(Spy):\n"
        "    def train(self, hparams, steps):\n"
        "        print('0123456789' * 10000)\n"
    )
    printed = {}
    for kind in ("Spy", "Talker"):
        engine = ProcessEngine()
        try:
            engine.start(WorkerContext(task=TaskSpec(name=f"{tmp_path}/spy.py:{kind}"), seed=0))
            engine.open(LocalFolders({m: str(tmp_path / kind / str(m)) for m in range(2)}))
            engine.submit(plan(0))
            (turn,) = wait(engine)
            engine.submit(Inspect(member=0, checkpoint=turn.checkpoint))
            wait(engine)
            engine.submit(plan(1))
            wait(engine)
        finally:
            engine.close()
        for member in range(2):
            output = tmp_path / kind / str(member) / "turns" / "000001" / "output.txt"
            printed[kind, member] = output.read_text()
    told = "training with l2\na child of its own\ncareful\n"
    assert printed["Spy", 0] == printed["Spy", 1] == told
    # Of much, the end is kept, and how much there was before.
    head, rest = printed["Talker", 1].split("\n", 1)
    assert head == f"[{100_001 - 2**16:,} bytes before this]"
    assert len(rest) == 2**16


@pytest.mark.slow
def test_deaths_in_turns_are_the_tasks_affair_however_many(tmp_path):
    engine = opened(ProcessEngine(), tmp_path, slots=1, turn_timeout=math.inf)
    try:
        for _ in range(3):  # more than would be forgiven to workers that cannot even start
            (tmp_path / "die-1").touch()
            engine.submit(plan(0))
            (lost,) = wait(engine)
            assert lost.reason.startswith("worker 0 died (SIGKILL")
        engine.submit(plan(0))
        (turn,) = wait(engine)
        assert turn.ok
    finally:
        engine.close()


@pytest.mark.slow
def test_workers_die_with_a_controller_that_is_killed(tmp_path):
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from test_engines import *\n"
        "engine = opened(ProcessEngine(), Path(sys.argv[1]))\n"
        "Path(sys.argv[1], 'hang-1').touch()\n"
        "engine.submit(Probe()); wait(engine); engine.submit(plan(0))\n"
        "print(*pids(engine), flush=True)\n"
        "wait(engine)"
    )
    controller = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), *sys.path], stdout=subprocess.PIPE, text=True
    )
    workers = [int(pid) for pid in controller.stdout.readline().split()]
    assert len(workers) == 2
    controller.send_signal(signal.SIGKILL)
    controller.wait()
    controller.stdout.close()
    wait_until_dead(workers)


def wait_until_dead(workers):
    until(lambda: not any(alive(pid) for pid in workers), "a worker outlived its controller")


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
