"""A real `mlflow server` on loopback, with artifacts that only go through it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import pbt_flow
from pbt_flow.checkpoints import file_digest


@pytest.fixture
def server(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "kept"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, *places],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    uri = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=5).close()
            break
        except OSError:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    yield folder
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_population_lives_on_a_server_whose_artifacts_are_elsewhere(server, tmp_path):
    result = pbt_flow.run(
        "sample_tasks:Regression", turns=3, workers=2, mode="generational", quiet=True
    )
    assert result.status == "finished"
    client = MlflowClient()
    assert client.get_run(result.winner.run_id).info.artifact_uri.startswith("mlflow-artifacts:")
    kept = server / "kept"
    # What the server has is what the records say, and superfluous checkpoints are gone from it.
    states = defaultdict(list)
    for path in kept.rglob("state.pt"):
        states[path.parents[3].name].append(path.parent.name)
        record = pbt_flow.load(result.run_id).history
        digests = {t.checkpoint.digest for turns in record.turns.values() for t in turns if t.ok}
        assert file_digest(path) in digests
    assert all("000003" in turns for turns in states.values())
    assert sum(map(len, states.values())) <= 4 + 1
    assert len(list(kept.rglob("turn.json"))) == 12

    # Another machine has nothing of it but the run id.
    resumed = pbt_flow.resume(result.run_id, turns=4, engine="inline", quiet=True)
    assert resumed.turns == 16
    local = _local(tmp_path / "local")
    assert _essence(resumed) == _essence(local)


def _local(folder: Path):
    folder.mkdir()
    os.chdir(folder)
    os.environ.pop("MLFLOW_TRACKING_URI")
    return pbt_flow.run(
        "sample_tasks:Regression", turns=4, mode="generational", engine="inline", quiet=True
    )


def _essence(result):
    return {
        index: [(turn.plan, turn.score, turn.checkpoint) for turn in turns]
        for index, turns in result.history.turns.items()
    }
