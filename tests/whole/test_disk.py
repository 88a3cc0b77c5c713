"""Whole populations on a disk that is full, or that may not be written to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from patience import PATIENCE, until

import pbt_flow
from pbt_flow.population.turn_files import RECORD, STATE, read_name

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("database"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system"),
]

SETTINGS = {"mode": "generational", "turns": 12, "options": {"orders": "."}}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    paths = [Path(pbt_flow.__file__).parents[1], Path(__file__).parents[1]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))


class Disk:
    """A file system of its own, in memory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(exist_ok=True)

    def mount(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(self.place)]
        return subprocess.run(command, capture_output=True, text=True)

    def become(self, *options: str) -> None:
        """Change it while it is in use; a file that is being written to holds that up."""
        until(lambda: self.mount("remount", *options).returncode == 0, "the disk stays as it is")

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.place)], check=True)


@pytest.fixture
def disk(tmp_path):
    """The disk that the artifacts of MLflow's default store are on."""
    disk = Disk(tmp_path / "mlruns")
    if trouble := disk.mount("size=64m").stderr:
        pytest.skip(f"cannot mount a small file system here: {trouble.strip()}")
    yield disk
    disk.unmount()


def start(*arguments):
    command = [sys.executable, "-m", "pbt_flow", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run():
    settings = ["--mode", "generational", "--turns", 12, "--set", "orders=."]
    # The default experiment keeps its artifacts where the shared database was made.
    place = ["--experiment", "on this disk"]
    return start("run", "--task", "sample_tasks:Misbehaving", "--workers", 2, *settings, *place)


def ended(process):
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert "Traceback" not in err, err
    return out, err


def runs():
    client = MlflowClient()
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {run.data.tags.get("pbt.member", "population"): run for run in found}


def statuses():
    return {run.info.status for run in runs().values()}


def resumes(run_id):
    """Resume the population, and compare it with one that nothing has disturbed."""
    pbt_flow.resume(run_id, engine="inline", quiet=True)
    result = pbt_flow.load(run_id)
    assert result.status == "finished"
    assert statuses() == {"FINISHED"}
    for index, turns in result.history.turns.items():
        points = MlflowClient().get_metric_history(runs()[str(index)].info.run_id, "score")
        assert [(p.step, p.value) for p in points] == [(t.plan.trained, t.score) for t in turns]
        folder = Path(runs()[str(index)].info.artifact_uri)
        left = {read_name(path.name) for path in folder.rglob("*") if path.is_file()}
        assert {kind for kind, _ in left} == {STATE, RECORD}
    undisturbed = pbt_flow.run("sample_tasks:Misbehaving", engine="inline", quiet=True, **SETTINGS)
    assert essence(result) == essence(undisturbed)


def essence(result):
    return {
        index: [(turn.plan, turn.status, turn.score, turn.checkpoint) for turn in turns]
        for index, turns in result.history.turns.items()
    }


def test_a_full_disk_ends_the_run_with_its_place_and_a_resume_goes_on(disk):
    disk.become("size=120k")
    process = run()
    out, _ = ended(process)
    assert process.returncode == 1
    run_id = runs()["population"].info.run_id
    reason = next(line for line in out.splitlines() if line.startswith("failed: "))
    assert "cannot write the " in reason
    assert f"make room in {disk.place}/" in reason
    assert f"python -m pbt_flow resume {run_id}" in out
    assert statuses() == {"FAILED"}
    committed = {path: path.read_bytes() for path in disk.place.rglob("turn*.json")}
    assert 0 < len(committed) < 48

    disk.become("size=64m")
    resumes(run_id)
    assert {path: path.read_bytes() for path in committed} == committed


def test_a_folder_that_becomes_read_only_ends_the_run_likewise(disk, tmp_path):
    (tmp_path / "slow").touch()
    process = run()
    until(lambda: len(list(disk.place.rglob("turn*.json"))) >= 6, "no turn is ever committed")
    disk.become("ro")
    out, _ = ended(process)
    assert process.returncode == 1
    reason = next(line for line in out.splitlines() if line.startswith("failed: "))
    assert "Read-only file system" in reason
    assert f"in {disk.place}/" in reason
    assert statuses() == {"FAILED"}

    disk.become("rw")
    (tmp_path / "slow").unlink()
    resumes(runs()["population"].info.run_id)


def test_a_folder_that_was_read_only_from_the_start_is_named(disk):
    disk.become("ro")
    process = run()
    _, err = ended(process)
    assert process.returncode == 2
    (line,) = [line for line in err.splitlines() if "error:" in line]
    assert "cannot make runs at sqlite:///" in line
    assert f"Read-only file system: '{disk.place}/" in line
    assert statuses() <= {"FAILED"}
