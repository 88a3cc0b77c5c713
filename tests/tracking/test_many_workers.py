"""Many workers at once: what a store is told by several populations arrives, and nobody waits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from servers import Server, check, running_postgres

import pbt_flow

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    paths = [Path(pbt_flow.__file__).parents[1], Path(__file__).parents[1]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))


def start(*arguments):
    command = [sys.executable, "-m", "pbt_flow", "run", "--task", "sample_tasks:Regression"]
    command += ["--population", "8", "--interval", "1", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
    """The population, and that its user has read of no trouble."""
    out, err = process.communicate(timeout=550)
    assert process.returncode == 0, err
    for trouble in ("locked", "does not take", "Training goes on", "Traceback", "Error"):
        assert trouble not in err, err
    return out.split("population ")[-1].split()[0]


@pytest.fixture
def postgres():
    yield from running_postgres()


def test_a_server_with_postgresql_takes_the_writes_of_8_workers(postgres, tmp_path, monkeypatch):
    server = Server(tmp_path / "server", ["--default-artifact-root", "there"], postgres.uri)
    server.start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        run_id = finished(start("--workers", 8, "--turns", 10))
        check(pbt_flow.load(run_id), 10)
        log = (server.folder / "log").read_text()
        assert "Traceback" not in log, log
        assert "ERROR" not in log.replace("[ERROR]", ""), log
        assert "ERROR" not in postgres.log(), postgres.log()
    finally:
        server.kill()


def test_two_populations_share_one_sqlite_file_and_their_users_read_of_no_lock(database):
    both = [start("--workers", 4, "--turns", 25, "--seed", seed) for seed in (1, 2)]
    runs = [finished(process) for process in both]
    assert len(set(runs)) == 2
    for run_id in runs:
        check(pbt_flow.load(run_id), 25)
    experiments = {MlflowClient().get_run(run_id).info.experiment_id for run_id in runs}
    assert len(experiments) == 1
