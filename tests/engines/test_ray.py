"""The engine for a cluster: workers come and go, and nothing waits for one of them.

The cluster is several raylets on this machine. They share its files, so that what a machine
without our files would see is told by where a worker has its files from.
"""

import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from patience import PATIENCE, until

pytest.importorskip("ray")

from ray import cloudpickle
from ray.cluster_utils import Cluster

import pbt_flow
import pbt_flow.testing
from pbt_flow.engines import LostJob
from pbt_flow.engines import ray as ray_engine
from pbt_flow.engines.jobs import Describe, Probe, WorkerContext
from pbt_flow.engines.ray import RayEngine
from pbt_flow.engines.worker_environment import WorkerEnvironment
from pbt_flow.exceptions import EngineError
from pbt_flow.population.checkpoints import LocalFolders
from pbt_flow.population.reach import Token
from pbt_flow.population.records import Plan, Turn
from pbt_flow.population.turn_files import turn_folder
from pbt_flow.task import TaskSpec
from pbt_flow.testing import EngineContract
from pbt_flow.utils.machines import Machine

pytestmark = pytest.mark.slow

STORE = 80_000_000
"""Bytes of each node's object store: the least that Ray takes is 75 MiB."""
QUICK_DEATHS = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
"""A node whose process is gone is declared dead within 2 s; by Ray's defaults it takes longer."""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A head without room for workers, and a node with room for two."""
    with pytest.MonkeyPatch.context() as patch:
        # The folder of the tests is not shipped, and some of its classes travel.
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_"))]:
            patch.delenv(name)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "object_store_memory": STORE,
                "_system_config": QUICK_DEATHS,
            },
        )
        patch.setenv("RAY_ADDRESS", cluster.address)
        try:
            cluster.add_node(num_cpus=4, num_gpus=1, object_store_memory=STORE)
            yield cluster
        finally:
            cluster.shutdown()


class TestRayContract(EngineContract):
    make = RayEngine


def plan(member, turn=1, start=None, order="train"):
    return Plan(
        member=member,
        turn=turn,
        seed=turn,
        hparams={"lr": 0.1, "order": order},
        steps=2,
        start=start,
        start_step=2 * (turn - 1),
        trained=2 * turn,
    )


ORDERED = TaskSpec(name="pbt_flow.testing.ordered_task:OrderedTask")


def opened(tmp_path, *, slots, task=ORDERED, folders=None, **context):
    engine = RayEngine()
    try:
        engine.start(WorkerContext(task=task, seed=0, **context), slots=slots)
        roots = {member: str(tmp_path / str(member)) for member in range(4)}
        engine.open(folders or LocalFolders(roots))
    except BaseException:
        engine.close()
        raise
    return engine


def wait(engine, count=1):
    done, end = [], time.monotonic() + PATIENCE
    while len(done) < count:
        assert time.monotonic() < end, f"{len(done)} of {count} outcomes"
        done += engine.wait(timeout=1.0)
    return done


def wait_until(engine, holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        assert engine.wait(timeout=0.2) == []


def test_slots_follow_the_cluster_and_jobs_wait_in_the_engine(
    cluster, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(ray_engine, "_TELL_AFTER", 0.0)
    # Half a GPU each: the node has room for two of the three.
    engine = opened(tmp_path, slots=3, gpu_share=0.5)
    node = None
    try:
        # No worker lives yet, and the controller may still begin one job, or submit lost ones.
        assert engine.slots == 1
        for member in range(4):
            engine.submit(plan(member))
        turns = wait(engine, 4)
        assert sorted(turn.member for turn in turns) == [0, 1, 2, 3]
        assert all(turn.ok for turn in turns), turns
        wait_until(engine, lambda: engine.slots == 2)
        assert engine.waiting_for() == ("workers: 2 of 3 are there; the cluster has no free GPU")
        assert {seat.place.gpus for seat in engine._living()} == {"0"}

        node = cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=STORE)
        wait_until(engine, lambda: engine.slots == 3)
        assert engine.waiting_for() == ""
        joined = next(seat for seat in engine._living() if seat.place.node == node.node_id)

        # The node dies in a turn: that is not the turn's fault, and the others go on.
        hanging = plan(next(iter(joined.members), 0), turn=2, order="hang")
        joined.members.add(hanging.member)
        for seat in engine._living():
            if seat is not joined:
                seat.members.discard(hanging.member)
        engine.submit(hanging)
        assert joined.queued is not None
        others = [member for member in range(4) if member != hanging.member][:2]
        for member in others:
            engine.submit(plan(member, turn=2))
        cluster.remove_node(node, allow_graceful=False)
        node = None
        done = wait(engine, 3)
        (lost,) = (one for one in done if isinstance(one, LostJob))
        assert (lost.job, lost.blameless) == (hanging, True)
        assert "taken away" in lost.reason
        assert {one.member for one in done if isinstance(one, Turn) and one.ok} == set(others)
        assert engine.slots == 2

        # A worker that is idle dies: the job that is meant for it was never begun, and is not lost.
        engine.wait(timeout=0.0)
        idle = min(engine._living(), key=lambda seat: len(seat.members))
        idle.members.add(3)
        for seat in engine._living():
            if seat is not idle:
                seat.members.discard(3)
        os.kill(idle.place.pid, signal.SIGKILL)
        time.sleep(0.5)  # Until Ray knows, or else it would be as if it had died in the turn.
        engine.submit(plan(3, turn=3))
        (turn,) = wait(engine)
        assert (turn.member, turn.ok) == (3, True)
    finally:
        engine.close()
        if node is not None:
            cluster.remove_node(node)
    # Ray sends drivers a page for each death. Standard output is for the result.
    assert capfd.readouterr().out == ""


@dataclass(frozen=True)
class CopiedFolders(LocalFolders):
    """Folders that each machine copies for itself, as it does from a remote store."""

    cache: str = ""
    slow: int = -1
    """The worker that takes for ever to reach them."""

    def elsewhere(self, cache):
        if os.environ["PBT_FLOW_WORKER"] == str(self.slow):
            time.sleep(3600)
        return CopiedFolders(self.roots, shared=False, cache=cache)

    def fetch(self, checkpoint):
        member, place = str(checkpoint.member), turn_folder(checkpoint.turn)
        copy = Path(self.cache, member, place)
        shutil.copytree(Path(self.roots[checkpoint.member], place), copy, dirs_exist_ok=True)
        return Path(self.cache, member)


def test_a_worker_that_hangs_while_it_opens_holds_nobody_up_and_copies_go_with_their_checkpoints(
    tmp_path,
):
    roots = {member: str(tmp_path / str(member)) for member in range(4)}
    engine = opened(tmp_path, slots=2, folders=CopiedFolders(roots, shared=False, slow=1))
    try:
        engine.submit(plan(0))
        (first,) = wait(engine)
        engine.submit(plan(1, start=first.checkpoint))
        (second,) = wait(engine)
        assert (first.ok, second.ok, engine.slots) == (True, True, 1)
        (place,) = {seat.place for seat in engine._living()}
        (cache,) = Path("/tmp").glob(f"pbt_flow-{place.node[:16]}-*/checkpoints")
        copy = cache / "0" / turn_folder(1)
        assert list(copy.glob("state*"))
        engine.forget(first.checkpoint)
        engine.submit(plan(2))
        wait(engine)
        assert not list(copy.glob("*"))
        # One that nobody has copied is not asked for anywhere.
        engine.forget(second.checkpoint)
    finally:
        engine.close()
    until(lambda: not cache.parent.exists(), "the node's folder outlived its workers")


TASK = """
import gc, json, os, sys
from pathlib import Path

import helper
import pbt_flow
from pbt_flow.testing.ordered_task import OrderedTask


class Spy(OrderedTask):
    def understood(self):
        here = Path(__file__).resolve().parent
        seen = sorted(str(p.relative_to(here)) for p in here.rglob("*") if p.is_file())
        credentials = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
        told = {
            "package": pbt_flow.__file__,
            "tasks": sys.modules["pbt_flow.tasks.toy"].__file__ if helper.TOY else "",
            "file": __file__,
            "helper": helper.__file__,
            "folder": os.getcwd(),
            "seen": json.dumps([name for name in seen if "__pycache__" not in name]),
            "secret": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
            "run": os.environ.get("MLFLOW_RUN_ID", ""),
            "credentials": Path(credentials).read_text() if credentials else "",
            "libraries": str(gc.get_freeze_count()),
            "mode": oct(Path(credentials).stat().st_mode & 0o777) if credentials else "",
        }
        return told
"""


def test_code_and_credentials_travel_and_the_store_in_the_folder_does_not(tmp_path, monkeypatch):
    folder = tmp_path / "project" / "experiments"
    files = {
        "spy.py": TASK,
        "helper.py": "import pbt_flow.tasks.toy as TOY\n",
        "mlruns/0/meta.yaml": "",
        "mlflow.db": "",
        "mlflow.db-wal": "",
        "runs.db": "",
        "own/pyvenv.cfg": "",
        "own/lib/big.py": "",
        "deep/er/pyvenv.cfg": "",
        "data/words.txt": "",
        "data/raw.bin": "",
        ".gitignore": "*.bin\n",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    key = tmp_path / "key.json"
    key.write_text("who I am")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for everybody")
    monkeypatch.setenv("MLFLOW_RUN_ID", "of the controller")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'runs.db'}")
    name = f"{folder / 'spy.py'}:Spy"
    engine = RayEngine()
    try:
        engine.submit(Describe(task=name))
        (described,) = wait(engine)
        # What a resume will look for is the file of the controller's machine.
        assert name.encode() in described.declaration
        engine.start(WorkerContext(task=TaskSpec(name=name), seed=0), slots=1)
        engine.submit(Probe())
        (probed,) = wait(engine)
        job = repr(engine._ray.get_runtime_context().runtime_env)
    finally:
        engine.close()
    assert probed.error == ""
    told = probed.understood
    ours = (str(Path(pbt_flow.__file__).parent), str(tmp_path))
    for what in ("package", "tasks", "file", "helper", "folder"):
        assert not told[what].startswith(ours), f"{what} was not shipped: {told[what]}"
    assert json.loads(told["seen"]) == [".gitignore", "data/words.txt", "helper.py", "spy.py"]
    assert (told["secret"], told["run"]) == ("not for everybody", "")
    assert (told["credentials"], told["mode"]) == ("who I am", "0o600")
    # A worker collects garbage each time that a member leaves its memory: nothing of torch is any.
    assert int(told["libraries"]) > 100_000
    assert "everybody" not in job


def test_a_machine_that_does_not_see_the_shared_folder_is_named_before_the_first_turn(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(ray_engine, "START_PATIENCE", 0.0)
    token = Token(name=".reach-elsewhere", machine=Machine(host="the-controller"))
    engine = opened(tmp_path, slots=1, folders=LocalFolders({0: str(tmp_path / "0")}, token=token))
    try:
        engine.submit(plan(0))
        with pytest.raises(EngineError, match="does not see .* of the-controller"):
            wait(engine)
    finally:
        engine.close()
    assert not (tmp_path / "0" / "turns").exists()


class NoPlace:
    """A worker's environment that cannot be set up."""

    def apply(self, folder):
        raise RuntimeError("no place for a worker")


@dataclass(frozen=True)
class BrokenFolders(LocalFolders):
    """Folders that no worker can take."""

    def elsewhere(self, cache):
        raise RuntimeError("no way to the folders")


def test_workers_that_cannot_be_told_of_the_folders_end_the_engine(tmp_path):
    engine = opened(tmp_path, slots=1, folders=BrokenFolders({0: str(tmp_path)}, shared=False))
    try:
        with pytest.raises(EngineError, match="die as soon as they start.*no way to the folders"):
            wait(engine)
    finally:
        engine.close()


def test_workers_that_cannot_start_end_the_engine_with_what_they_said(tmp_path, monkeypatch):
    monkeypatch.setattr(WorkerEnvironment, "of_this_process", NoPlace)
    engine = RayEngine()
    try:
        engine.start(WorkerContext(task=ORDERED, seed=0), slots=1)
        engine.submit(plan(0))
        with pytest.raises(EngineError, match="die as soon as they start.*no place"):
            wait(engine)
    finally:
        engine.close()


@pytest.mark.usefixtures("database")
def test_the_same_seed_comes_to_the_same_on_every_engine_although_a_node_dies(
    cluster, tmp_path, capsys
):
    def events(engine, **settings):
        mark = tmp_path / "mark"
        result = pbt_flow.run(
            "doomed_node:TakesItsNodeAlong",
            mode="generational",
            population=4,
            turns=3,
            interval=2,
            engine=engine,
            options={"mark": str(mark)},
            **settings,
        )
        assert result.status == "finished"
        found = {}
        for turn in (turn for own in result.history.turns.values() for turn in own):
            plan, start = turn.plan, turn.plan.start
            decided = plan.hparams, plan.donor, start and start.digest
            found[turn.member, turn.number] = *decided, turn.score, turn.checkpoint.digest
        return found

    alone = events("inline", quiet=True)
    assert len(alone) == 12
    assert events("processes", workers=2, quiet=True) == alone
    node = cluster.add_node(num_cpus=4, resources={"doomed": 1}, object_store_memory=STORE)
    (tmp_path / "mark").touch()
    try:
        assert events("ray", workers=4) == alone
    finally:
        cluster.remove_node(node)
    assert not (tmp_path / "mark").exists(), "no node has died"
    told = capsys.readouterr().err
    assert "by up to 4 workers on Ray" in told
    assert "was taken away" in told


def test_another_cluster_in_the_process_is_left_alone(cluster):
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    try:
        engine = RayEngine()
        try:
            with pytest.raises(EngineError, match="attached to a Ray cluster already"):
                engine.start(WorkerContext(task=ORDERED, seed=0))
        finally:
            engine.close()
        assert ray.is_initialized()
    finally:
        ray.shutdown()
