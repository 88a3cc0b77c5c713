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
from patience import until
from requests_seen import requests_seen
from servers import Server, check

import pbt_flow
from pbt_flow.population.checkpoints import file_digest
from pbt_flow.population.records import Plan, Turn
from pbt_flow.tracking.remote_checkpoints import RemoteFolders
from pbt_flow.tracking.store import Store


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A server with artifacts that only go through it. A test may kill it."""
    server = Server(
        tmp_path_factory.mktemp("remote") / "server", ["--artifacts-destination", "kept"]
    )
    server.start()
    yield server
    if server.process.poll() is None:
        server.kill()


@pytest.fixture
def server(started, monkeypatch):
    if started.process.poll() is not None:
        started.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", started.uri)
    return started


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
    turn = store.record(1, 1)
    assert store.folders.fetch(turn.checkpoint).is_relative_to(cache)
    del store
    gc.collect()
    assert not cache.exists()


def start(*arguments, told):
    """A population of two in a process of its own, which tells a file what it does."""
    command = [sys.executable, "-m", "pbt_flow", "run", "--task", "sample_tasks:Misbehaving"]
    command += ["--population", "2", "--turns", "6", "--workers", "1", *arguments]
    with told.open("w") as out:
        return subprocess.Popen(command, stdout=out, stderr=out)


@pytest.mark.slow
def test_a_killed_server_that_comes_back_misses_nothing_and_ctrl_c_before_that_says_how_to_go_on(
    tmp_path, monkeypatch
):
    """Two populations train on without it to the end, and the end of each waits for it.

    Ctrl-C is pressed on one of them, which a resume goes on with.
    """
    paths = [Path(pbt_flow.__file__).parents[1], Path(__file__).parents[1]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
    server = Server(tmp_path / "server", ["--default-artifact-root", "there"])
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    (tmp_path / "held-3").touch()
    files = [tmp_path / "waits", tmp_path / "ends"]
    waits, ends = both = [start("--set", f"orders={tmp_path}", told=file) for file in files]

    def both_told(text: str) -> bool:
        assert [one.poll() for one in both] == [None, None], [file.read_text() for file in files]
        return all(text in file.read_text() for file in files)

    def committed() -> int:
        return len(list(server.folder.rglob("turn*.json")))

    try:
        until(lambda: both_told("[4/12"), "no turn is ever committed")
        server.kill()
        (tmp_path / "held-3").unlink()
        until(lambda: both_told("Training goes on"), "the users are not told")
        until(lambda: committed() == 2 * 12, "training does not go on")
        # Its workers end before it waits: at whatever moment of the end it is told to stop.
        until(lambda: not _children(ends.pid), "the end is not waited for")
        ends.send_signal(signal.SIGINT)
        said, left = (file.read_text for file in files)
        assert ends.wait(300) == 130, left()
        assert "Traceback" not in left()
        run_id = left().split("population ")[1].split()[0]
        *_, told, way_on, end = left().splitlines()
        assert end == "python -m pbt_flow run: interrupted"
        assert told.startswith(f"the tracking store {server.uri} was not told")
        assert "every turn that was committed is safe; " in told
        assert way_on == f"  python -m pbt_flow resume {run_id}"

        assert waits.poll() is None
        server.start()
        assert waits.wait(300) == 0, said()
        assert said().count("Training goes on") == 1
        assert said().count("the tracking store is back") == 1
        waited = said().split("population ")[1].split()[0]
        check(pbt_flow.load(waited), 6)
        best = MlflowClient().get_metric_history(waited, "best_score")
        assert [point.step for point in best] == [5 * number for number in range(1, 7)]

        assert MlflowClient().get_run(run_id).info.status == "RUNNING"
        assert pbt_flow.resume(run_id, engine="inline", quiet=True).status == "finished"
        check(pbt_flow.load(run_id), 6)
    finally:
        for one in both:
            one.kill()
        server.kill()


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
