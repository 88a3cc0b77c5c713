"""A worker proves before its first turn that it reaches the store of its population."""

import dataclasses
import os
import threading

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from servers import free_port

from pbt_flow.exceptions import StorageError
from pbt_flow.population.records import Checkpoint
from pbt_flow.tracking.client import downloads_through_server, short_requests
from pbt_flow.tracking.remote_checkpoints import RemoteFolders
from pbt_flow.utils.machines import Machine, this_machine

ELSEWHERE = Machine(host="head", boot="another", mounts="another")
HERE = this_machine().host


@pytest.fixture
def folders(database, tmp_path):
    """Folders whose artifacts are only reached through MLflow, seen from another machine."""
    client = MlflowClient()
    experiment = client.create_experiment("there", artifact_location=str(tmp_path / "kept"))
    run_id = client.create_run(experiment).info.run_id
    made = RemoteFolders(mlflow.get_tracking_uri(), {0: run_id}, str(tmp_path / "cache"))
    return as_seen_elsewhere(made.leave_token())


def as_seen_elsewhere(folders):
    return dataclasses.replace(folders, token=dataclasses.replace(folders.token, machine=ELSEWHERE))


def kept(folders):
    listed = MlflowClient().list_artifacts(folders.run_ids[0])
    return [info.path for info in listed]


def refusal(folders):
    with pytest.raises(StorageError) as told:
        folders.prove_reach(0.0)
    said = str(told.value)
    assert said.startswith(f"a worker on {HERE} ")
    assert "\n" not in said
    return said


def test_a_store_that_is_reached_is_proved_and_nothing_stays_in_it(folders):
    assert kept(folders) == [folders.token.name]
    folders.prove_reach(0.0)
    assert kept(folders) == [folders.token.name]
    again = folders.leave_token()
    assert kept(folders) == [again.token.name] != [folders.token.name]
    again.remove_token()
    assert kept(folders) == []


def test_a_database_file_of_another_machine_is_named_and_not_made(folders, tmp_path):
    missing = tmp_path / "elsewhere.db"
    said = refusal(dataclasses.replace(folders, tracking_uri=f"sqlite:///{missing}"))
    assert f"does not have the tracking store sqlite:///{missing}: it is a file of head" in said
    assert said.endswith(
        "start mlflow server --host 0.0.0.0 on head, and begin with "
        "MLFLOW_TRACKING_URI=http://head:5000"
    )
    assert not missing.exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_loopback_address_of_another_machine_is_explained_at_once(folders, host):
    uri = f"http://{host}:{free_port()}"
    away = dataclasses.replace(folders, tracking_uri=uri)
    with pytest.raises(StorageError) as told:
        away.prove_reach(1e9)  # which would be waited for
    said = str(told.value)
    assert f"cannot use the tracking store {uri}: " in said
    assert said.endswith(
        f"{host} means {HERE} itself there; begin with MLFLOW_TRACKING_URI set to an address of "
        "head that every machine reaches"
    )
    # On the controller's own machine the same address is right, and its server is away.
    own = dataclasses.replace(away.token, machine=this_machine())
    assert refusal(dataclasses.replace(away, token=own)).endswith(f"let {HERE} reach that address")


@pytest.mark.parametrize("there", ["nothing", "something else"])
def test_another_store_under_the_same_address_is_refused(folders, tmp_path, there):
    (token,) = (tmp_path / "kept").rglob(folders.token.name)
    token.unlink()
    if there != "nothing":
        token.write_text(there)
    said = refusal(folders)
    assert f"does not find what head has written to {tmp_path / 'kept'}" in said
    assert "there it leads to another store" in said


def test_a_store_that_forgets_what_is_written_is_refused(folders, monkeypatch):
    monkeypatch.setattr("pbt_flow.tracking.remote_reach._write", lambda *given: None)
    assert "was written without an error, and is not there" in refusal(folders)


def test_a_store_that_cannot_delete_is_good_enough(folders, monkeypatch):
    def refuse(*given):
        raise NotImplementedError

    monkeypatch.setattr("pbt_flow.tracking.remote_reach._delete", refuse)
    folders.prove_reach(0.0)
    assert len(kept(folders)) == 2


def test_a_missing_credential_is_named_with_the_machine_that_lacks_it(
    folders, monkeypatch, tmp_path
):
    pytest.importorskip("boto3", reason="boto3 is not installed")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = MlflowClient()
    experiment = client.create_experiment("bucket", artifact_location="s3://bucket/place")
    run_id = client.create_run(experiment).info.run_id
    said = refusal(dataclasses.replace(folders, run_ids={0: run_id}))
    assert f"cannot use the artifact store s3://bucket/place/{run_id}/artifacts: " in said
    assert "Unable to locate credentials" in said
    assert f"give the workers on {HERE} the credentials that head has" in said


def test_a_bucket_at_a_loopback_address_is_explained(folders, monkeypatch, tmp_path):
    pytest.importorskip("boto3", reason="boto3 is not installed")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    client = MlflowClient()
    experiment = client.create_experiment("bucket", artifact_location="s3://bucket/place")
    run_id = client.create_run(experiment).info.run_id
    said = refusal(dataclasses.replace(folders, run_ids={0: run_id}))
    assert f"127.0.0.1 means {HERE} itself there; begin with MLFLOW_S3_ENDPOINT_URL set" in said


def test_the_copy_of_a_turn_on_this_machine_goes_with_its_checkpoint(folders):
    for turn in (1, 2):
        folder = folders.root(0) / f"turns/{turn:06d}"
        folder.mkdir(parents=True)
        (folder / "state.pt").touch()
    folders.forget(Checkpoint(member=0, turn=1, digest="", size=0))
    folders.forget(Checkpoint(member=3, turn=1, digest="", size=0))
    assert [path.name for path in folders.root(0).rglob("0*")] == ["000002"]


def test_what_is_set_for_a_while_lasts_until_the_last_thread_is_done(monkeypatch):
    name, theirs = "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "MLFLOW_HTTP_REQUEST_TIMEOUT"
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(theirs, "7")
    begun, go_on = threading.Event(), threading.Event()

    def other():
        with downloads_through_server(), short_requests():
            begun.set()
            go_on.wait(60)

    thread = threading.Thread(target=other)
    with downloads_through_server():
        thread.start()
        begun.wait(60)
    assert os.environ[name] == "false"
    assert os.environ[theirs] == "7"
    go_on.set()
    thread.join()
    assert name not in os.environ
    monkeypatch.setenv(name, "true")
    with downloads_through_server():
        assert os.environ[name] == "true"
    assert os.environ[name] == "true"
