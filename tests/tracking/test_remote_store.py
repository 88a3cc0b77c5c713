"""A real `mlflow server` on loopback, with artifacts that only go through it."""

import gc
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from requests_seen import requests_seen
from servers import Server, check, until

import pbt_flow
from pbt_flow.population.checkpoints import file_digest
from pbt_flow.population.records import Plan, Turn
from pbt_flow.tracking.remote_checkpoints import RemoteFolders
from pbt_flow.tracking.store import Store


@pytest.fixture
def server(tmp_path, monkeypatch, request):
    default = ["--artifacts-destination", "kept"]
    server = Server(tmp_path / "server", getattr(request, "param", default))
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    if server.process.poll() is None:
        server.kill()


@pytest.mark.slow
def test_a_population_lives_on_a_server_whose_artifacts_are_elsewhere(server, tmp_path, capfd):
    result = pbt_flow.run(
        "sample_tasks:Regression", turns=3, workers=2, mode="generational", quiet=True
    )
    assert result.status == "finished"
    client = MlflowClient()
    assert client.get_run(result.winner.run_id).info.artifact_uri.startswith("mlflow-artifacts:")
    kept = server.folder / "kept"
    # What the server has is what the records say, and superfluous checkpoints are gone from it.
    with requests_seen() as requests, requests.looking():
        loaded = pbt_flow.load(result.run_id)
    # Of the journal, and of a record that is compared with it for each of a few members.
    assert len(requests.seen) <= 40, requests.seen
    own = [turn for turns in loaded.history.turns.values() for turn in turns]
    digests = {turn.checkpoint.digest for turn in own if turn.ok}
    states = defaultdict(list)
    for path in kept.rglob("state*.pt"):
        if "average" in path.parts:
            assert file_digest(path) == loaded.average.checkpoint.digest
            continue
        states[path.parents[3].name].append(path.parent.name)
        assert file_digest(path) in digests
    assert all("000003" in turns for turns in states.values())
    assert sum(map(len, states.values())) <= 4 + 3
    assert "pbt.warning/deletion" not in client.get_run(result.run_id).data.tags
    assert len(list(kept.rglob("turn*.json"))) == 12

    # Another machine has nothing of it but the run id.
    resumed = pbt_flow.resume(result.run_id, turns=4, engine="inline", quiet=True)
    assert resumed.turns == 16
    local = _local(tmp_path / "local")
    assert _essence(resumed) == _essence(local)
    # Neither did MLflow print anything, such as a bar for each file.
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("database")
def test_what_a_turn_printed_is_on_its_run_before_the_turn_has_happened(tmp_path, monkeypatch):
    client = MlflowClient()
    run_id = client.create_run(client.create_experiment("elsewhere")).info.run_id
    folders = RemoteFolders(client.tracking_uri, {0: run_id}, str(tmp_path / "cache"))
    plan = Plan(member=0, turn=1, seed=1, hparams={}, steps=1, start=None, start_step=0, trained=1)
    published = []
    monkeypatch.setattr(
        RemoteFolders,
        "publish",
        lambda self, member, turn, file, publish=RemoteFolders.publish: (
            published.append(file),
            publish(self, member, turn, file),
        ),
    )
    folders.commit(Turn(plan=plan, status="failed", error="why", started=0.0), "epoch 1\n")
    assert published == ["error.txt", "output.txt", "turn.json"]
    assert client.download_artifacts(run_id, "turns/000001/output.txt")
    assert folders.record(0, 1).error == "why"
    for name in ("000002 (copy)", "backup"):  # which somebody has put beside the turns
        client.log_artifacts(run_id, str(tmp_path / "cache/0/turns/000001"), f"turns/{name}")
    assert folders.last(0) == 1


def test_what_was_fetched_goes_with_the_last_who_can_ask_for_it(database, monkeypatch):
    result = pbt_flow.run("toy", population=2, turns=1, engine="inline", quiet=True)
    monkeypatch.setattr(
        "pbt_flow.tracking.store.local_path", lambda uri: None
    )  # as if it were elsewhere
    store = Store.open(result.run_id)
    cache = Path(store.folders.cache)
    turn = store.turns(1)[0]
    assert store.folders.fetch(turn.checkpoint).is_relative_to(cache)
    del store
    gc.collect()
    assert not cache.exists()


@pytest.mark.slow
@pytest.mark.parametrize("server", [["--default-artifact-root", "there"]], indirect=True)
def test_a_server_that_is_killed_and_comes_back_holds_nothing_up_and_misses_nothing(
    server, tmp_path, monkeypatch
):
    """Training goes on without it to the end, and the end waits for it."""
    paths = [Path(pbt_flow.__file__).parents[1], Path(__file__).parents[1]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
    said, turns = tmp_path / "said", 8
    (tmp_path / "slow").touch()
    command = [sys.executable, "-m", "pbt_flow", "run", "--task", "sample_tasks:Misbehaving"]
    options = ["--workers", "2", "--turns", str(turns), "--set", f"orders={tmp_path}"]
    with said.open("w") as err:
        population = subprocess.Popen([*command, *options], stdout=err, stderr=err)

    def committed() -> int:
        return len(list(server.folder.rglob("turn*.json")))

    until(lambda: committed() >= 4, 120, "no turn is ever committed")
    server.kill()
    at_the_kill = committed()
    assert at_the_kill < 4 * turns
    until(lambda: "Training goes on" in said.read_text(), 120, "the user is not told")
    (tmp_path / "slow").unlink()
    until(lambda: committed() == 4 * turns, 120, "training does not go on")
    assert population.poll() is None
    server.start()
    assert population.wait(120) == 0, said.read_text()
    assert said.read_text().count("Training goes on") == 1
    assert said.read_text().count("the tracking store is back") == 1

    run_id = said.read_text().split("population ")[1].split()[0]
    check(pbt_flow.load(run_id), turns)
    best = MlflowClient().get_metric_history(run_id, "best_score")
    assert [point.step for point in best] == [5 * number for number in range(1, turns + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("server", [["--default-artifact-root", "there"]], indirect=True)
def test_ctrl_c_while_the_end_waits_for_a_server_says_what_is_safe_and_how_to_go_on(
    server, tmp_path, monkeypatch
):
    paths = [Path(pbt_flow.__file__).parents[1], Path(__file__).parents[1]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
    said, turns = tmp_path / "said", 6
    (tmp_path / "slow").touch()
    command = [sys.executable, "-m", "pbt_flow", "run", "--task", "sample_tasks:Misbehaving"]
    options = ["--workers", "2", "--turns", str(turns), "--set", f"orders={tmp_path}"]
    with said.open("w") as err:
        population = subprocess.Popen([*command, *options], stdout=err, stderr=err)

    def committed() -> int:
        return len(list(server.folder.rglob("turn*.json")))

    until(lambda: committed() >= 4, 120, "no turn is ever committed")
    server.kill()
    (tmp_path / "slow").unlink()
    until(lambda: "Training goes on" in said.read_text(), 120, "the user is not told")
    until(lambda: committed() == 4 * turns, 120, "training does not go on")
    # Its workers end before it waits: at whatever moment of the end it is told to stop.
    until(lambda: not _children(population.pid), 120, "the end is not waited for")
    population.send_signal(signal.SIGINT)
    assert population.wait(120) == 130, said.read_text()
    assert "Traceback" not in said.read_text()
    run_id = said.read_text().split("population ")[1].split()[0]
    *_, told, way_on, end = said.read_text().splitlines()
    assert end == "python -m pbt_flow run: interrupted"
    assert told.startswith(f"the tracking store {server.uri} was not told")
    assert "every turn that was committed is safe; " in told
    assert way_on == f"  python -m pbt_flow resume {run_id}"

    server.start()
    assert MlflowClient().get_run(run_id).info.status == "RUNNING"
    resumed = subprocess.run([*command[:3], "resume", run_id], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    check(pbt_flow.load(run_id), turns)


def _children(pid: int) -> list[int]:
    """The processes that a process has begun and that have not ended."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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


@pytest.mark.slow
def test_a_population_moves_to_a_server_goes_on_there_and_comes_back(
    server, database, tmp_path, monkeypatch
):
    here = f"sqlite:///{database}"
    settings = {"mode": "generational", "engine": "inline", "quiet": True}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", here)
    first = pbt_flow.run("sample_tasks:Regression", turns=2, **settings)
    pbt_flow.export_population(first.run_id, tmp_path / "out", quiet=True)
    stayed = pbt_flow.resume(first.run_id, turns=4, quiet=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    moved = pbt_flow.import_population(tmp_path / "out", quiet=True)
    there = MlflowClient().get_run(moved.run_id)
    assert there.info.artifact_uri.startswith("mlflow-artifacts:")
    pbt_flow.resume(moved.run_id, turns=3, quiet=True)
    with pytest.raises(pbt_flow.ExportError, match="here already"):
        pbt_flow.import_population(tmp_path / "out", quiet=True)
    pbt_flow.export_population(moved.run_id, tmp_path / "back", quiet=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", here)
    # At home it has gone on meanwhile, and has every turn that comes back.
    with pytest.raises(pbt_flow.ExportError, match=first.run_id):
        pbt_flow.import_population(tmp_path / "back", quiet=True)
    pbt_flow.delete(first.run_id)
    back = pbt_flow.import_population(tmp_path / "back", quiet=True)
    result = pbt_flow.resume(back.run_id, turns=4, quiet=True)
    assert _essence(result) == _essence(stayed)
    check(result, 4)
    # A server that goes away in the middle is told, and nothing is left of what had come.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    pbt_flow.delete(moved.run_id)
    server.kill()
    with pytest.raises(pbt_flow.StoreError):
        pbt_flow.import_population(tmp_path / "back", quiet=True)
