"""Populations with runs in PostgreSQL and artifacts in S3, whose servers fail meanwhile."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from patience import until
from servers import TROUBLE, Bucket, Postgres, Server, check, running_postgres

import pbt_flow
from pbt_flow.population.reach import TOKEN_PREFIX
from pbt_flow.tracking.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    yield from running_postgres()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory) -> Iterator[Bucket]:
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    pytest.importorskip("boto3", reason="boto3 is not installed")
    made = Bucket(tmp_path_factory.mktemp("s3"))
    yield made
    made.stop()


@pytest.fixture
def server(postgres, bucket, tmp_path, monkeypatch) -> Iterator[Server]:
    """A server that alone reaches the bucket, by an address that nobody else can resolve."""
    made = Server(
        tmp_path / "server",
        ["--artifacts-destination", f"s3://{bucket.name}/behind"],
        postgres.uri,
        bucket.from_its_network,
    )
    made.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    # Otherwise a download that is led to the bucket itself would fail after minutes.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    yield made
    made.kill()


def agree(bucket: Bucket, result: pbt_flow.Result, below: str, turns: int) -> None:
    """Records, states and MLflow say the same of every turn, and nothing else has stayed."""
    check(result, turns)
    members = Store.open(result.run_id).members
    own = {run_id: index for index, run_id in enumerate(members)}
    files = [name for name in bucket.names() if name.startswith(f"{below}/")]
    assert not [name for name in files if TOKEN_PREFIX in name]
    states = {}
    for name in files:
        run_id, _, place = name.partition("/artifacts/")
        if place.startswith("turns/") and place.endswith(".pt"):
            digest = hashlib.sha256(bucket.read(name)).hexdigest()
            states[own[run_id.rpartition("/")[2]], int(place.split("/")[1])] = digest
    recorded = {
        (turn.member, turn.number): turn.checkpoint.digest
        for member in result.history.turns.values()
        for turn in member
    }
    assert states.items() <= recorded.items()
    # Whatever was superfluous has gone; what a member stands on has not.
    assert {(member, turns) for member in own.values()} <= set(states)
    assert len(states) <= len(own) + 3


def test_a_server_with_postgresql_takes_the_writes_of_8_workers(
    postgres, tmp_path, monkeypatch, capfd
):
    """It comes first: the next test makes the database say that it was ended."""
    before = len(postgres.log())
    server = Server(tmp_path / "server", ["--default-artifact-root", "there"], postgres.uri)
    server.start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        result = pbt_flow.run(
            "sample_tasks:Regression",
            population=8,
            workers=8,
            turns=4,
            interval=1,
            experiment="eight",
        )
        said = capfd.readouterr().err
        for trouble in TROUBLE:
            assert trouble not in said, said
        check(pbt_flow.load(result.run_id), 4)
        log = (server.folder / "log").read_text()
        assert "Traceback" not in log, log
        assert "ERROR" not in log.replace("[ERROR]", ""), log
        assert "ERROR" not in postgres.log()[before:], postgres.log()
    finally:
        server.kill()


def test_a_population_outlives_a_database_that_restarts_and_a_bucket_that_falls_silent(
    server, postgres, bucket, tmp_path
):
    """Its workers read what others wrote, though they cannot reach the bucket themselves."""
    said, turns = tmp_path / "said", 6
    (tmp_path / "slow").touch()
    command = [sys.executable, "-m", "pbt_flow", "run", "--task", "sample_tasks:Misbehaving"]
    options = ["--workers", "2", "--turns", str(turns), "--set", f"orders={tmp_path}"]
    # The first server of a database says where the artifacts of Default lie.
    options += ["--experiment", "behind"]
    paths = [Path(pbt_flow.__file__).parents[1], Path(__file__).parents[1]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    with said.open("w") as err:
        population = subprocess.Popen([*command, *options], stdout=err, stderr=err, env=environment)

    def committed() -> int:
        return sum("/turn-" in name for name in bucket.names())

    try:
        until(lambda: committed() >= 4, "no turn is ever committed")
        postgres.kill()
        until(lambda: "Training goes on" in said.read_text(), "the user is not told")
        bucket.fall_silent()
        postgres.start()
        until(lambda: "the tracking store is back" in said.read_text(), "it never comes back")
        bucket.speak_again()
        assert population.wait(300) == 0, said.read_text()
    finally:
        bucket.speak_again()
        population.kill()
    assert "Traceback" not in said.read_text()
    run_id = said.read_text().split("population ")[1].split()[0]
    result = pbt_flow.load(run_id)
    assert result.status == "finished"
    agree(bucket, result, "behind", turns)


def test_a_bucket_and_a_database_are_used_without_a_server(postgres, bucket, monkeypatch):
    for name, value in bucket.from_here.items():
        monkeypatch.setenv(name, value)
    # As people write it: SQLAlchemy takes it for the driver that it prefers.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql:{postgres.place}")
    client = MlflowClient()
    client.create_experiment("direct", artifact_location=f"s3://{bucket.name}/direct")
    result = pbt_flow.run(
        "sample_tasks:Regression",
        turns=3,
        workers=2,
        mode="generational",
        experiment="direct",
        quiet=True,
    )
    assert result.status == "finished"
    uri = client.get_run(result.winner.run_id).info.artifact_uri
    assert uri.startswith(f"s3://{bucket.name}/direct/")
    agree(bucket, pbt_flow.load(result.run_id), "direct", 3)
    resumed = pbt_flow.resume(result.run_id, turns=4, engine="inline", quiet=True)
    assert resumed.turns == 16
    agree(bucket, resumed, "direct", 4)
