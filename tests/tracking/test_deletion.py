"""Places for artifacts that delete, that cannot, that say they did; and one that takes no more."""

import re
from pathlib import Path
from typing import ClassVar

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking import MlflowClient
from sample_tasks import Misbehaving, Regression

import pbt_flow
from pbt_flow.population.checkpoints import file_digest
from pbt_flow.population.reach import TOKEN_PREFIX

pytestmark = pytest.mark.usefixtures("database")

TURNS = 5


class Shelf(LocalArtifactRepository):
    """A folder that MLflow takes for a place elsewhere; `asked` is what it was to delete."""

    folder: ClassVar[Path]
    asked: ClassVar[list[str]]

    def __init__(self, artifact_uri, tracking_uri=None, registry_uri=None):
        super().__init__(artifact_uri.replace("shelf:", "file:"), tracking_uri, registry_uri)
        self.artifact_uri = artifact_uri

    def delete_artifacts(self, artifact_path=None):
        type(self).asked.append(artifact_path)
        self.delete(artifact_path)

    def delete(self, artifact_path):
        super().delete_artifacts(artifact_path)


class Silent(Shelf):
    """Inherits the deletion of MLflow's base class, as its presigned and volume stores do."""

    def delete(self, artifact_path):
        ArtifactRepository.delete_artifacts(self, artifact_path)


class Unable(Shelf):
    """Says that it cannot, as Azure Data Lake does."""

    def delete(self, artifact_path):
        raise NotImplementedError("This artifact repository does not support deleting artifacts")


class Unfinished(Shelf):
    """Says so with MLflow's error for everything, as DBFS and FTP do."""

    def delete(self, artifact_path):
        raise MlflowException("Not implemented yet")


class Forbidding(Shelf):
    """Raises an error of its client's library, as S3 does where the right to delete is missing."""

    class ClientError(Exception):
        pass

    def delete(self, artifact_path):
        raise self.ClientError("An error occurred (AccessDenied)")


class Closed(Shelf):
    """Takes five states, and then, while it is closed, no more."""

    closed = True
    states = 0

    def log_artifact(self, local_file, artifact_path=None):
        kind = type(self)
        if Path(local_file).name.startswith("state") and kind.closed:
            kind.states += 1
            if kind.states > 5:
                raise MlflowException("no right to write", error_code=PERMISSION_DENIED)
        super().log_artifact(local_file, artifact_path)


class Stumbling(Shelf):
    """Fails at each first attempt, since it was away for a moment."""

    def delete(self, artifact_path):
        if type(self).asked.count(artifact_path) == 1:
            raise ConnectionResetError("away")
        super().delete(artifact_path)


class Complaining(Shelf):
    """Deletes, and says then that there is nothing to delete, as Azure does the second time."""

    def delete(self, artifact_path):
        super().delete(artifact_path)
        raise MlflowException(f"No such file or directory: {artifact_path!r}")


@pytest.fixture
def shelf(tmp_path, monkeypatch, request):
    """The experiment `elsewhere`, whose artifacts are in a repository of the given class."""
    folder = tmp_path / "shelf"
    kind = type("Fresh", (request.param,), {"asked": [], "folder": folder})
    monkeypatch.setitem(_artifact_repository_registry._registry, "shelf", kind)
    MlflowClient().create_experiment("elsewhere", artifact_location=f"shelf:{folder}")
    return kind


def run(task=Regression, **settings):
    return pbt_flow.run(
        task,
        **{"experiment": "elsewhere", "turns": TURNS, "mode": "generational", **settings},
        engine="inline",
        finalists="fresh",  # An average of them has a state of its own.
    )


def states(folder: Path):
    return sorted(folder.rglob("state*.pt"))


def warned(result):
    tags = MlflowClient().get_run(result.run_id).data.tags
    return tags.get("pbt.warning/deletion")


@pytest.mark.parametrize(
    ("shelf", "why"),
    [
        (Silent, "it was asked to, and gave no error"),
        pytest.param(
            Unable,
            "NotImplementedError: This artifact repository does not support deleting",
            marks=pytest.mark.slow,
        ),
        pytest.param(Unfinished, "MlflowException: Not implemented yet", marks=pytest.mark.slow),
        pytest.param(
            Forbidding, r"ClientError: An error occurred \(AccessDenied\)", marks=pytest.mark.slow
        ),
    ],
    indirect=["shelf"],
)
def test_a_store_that_cannot_delete_is_told_of_once_and_not_asked_again(shelf, why, capfd):
    result = run()
    assert (result.status, result.turns) == ("finished", 4 * TURNS)
    said = [line for line in capfd.readouterr().err.splitlines() if "delete" in line]
    assert said == [f"warning: {warned(result)}"]
    (place,) = {path for path in shelf.asked if not path.startswith(TOKEN_PREFIX)}
    assert re.search(rf"does not delete: shelf:/.*/{place} still exists \({why}", said[0])
    # All of them are there, and they are what their records say.
    digests = {t.checkpoint.digest for turns in result.history.turns.values() for t in turns}
    assert {file_digest(path) for path in states(shelf.folder)} == digests
    assert len(states(shelf.folder)) == 4 * TURNS

    resumed = pbt_flow.resume(result.run_id, turns=TURNS + 1, quiet=True)
    assert (resumed.status, resumed.turns) == ("finished", 4 * (TURNS + 1))


@pytest.mark.parametrize("shelf", [Shelf, Stumbling, Complaining], indirect=True)
def test_a_store_that_deletes_is_left_with_what_is_needed_and_nothing_is_said(shelf, capfd):
    result = run()
    assert result.status == "finished"
    assert warned(result) is None
    assert "warning: checkpoints" not in capfd.readouterr().err
    assert {path.parent.name for path in states(shelf.folder)} >= {f"{TURNS:06d}"}
    assert len(states(shelf.folder)) <= 4 + 3


@pytest.mark.parametrize("shelf", [Shelf], indirect=True)
def test_a_state_that_a_killed_attempt_published_is_gone_when_the_next_one_fails(shelf, tmp_path):
    options = {"orders": str(tmp_path)}
    result = run(task=Misbehaving, turns=1, options=options)
    for record in list(shelf.folder.rglob("turn*.json")):
        left = record.parents[1] / "000002"
        left.mkdir()
        (left / "state-1.1.pt").write_bytes(b"what a killed attempt published")
    (tmp_path / "nan-2").touch()
    resumed = pbt_flow.resume(result.run_id, turns=2, quiet=True)
    (failed,) = [t for turns in resumed.history.turns.values() for t in turns if not t.ok]
    left = [sorted(path.name for path in one.iterdir()) for one in shelf.folder.rglob("000002")]
    assert sorted(left) == [
        ["error-2.1.txt", "turn-2.1.json"],
        *[["state-2.1.pt", "turn-2.1.json"]] * 3,
    ]
    (told,) = shelf.folder.rglob("error-2.1.txt")
    assert told.read_text() == f"{failed.error}\n"


@pytest.mark.parametrize("shelf", [Closed], indirect=True)
def test_a_store_that_refuses_a_checkpoint_ends_the_run_and_is_no_failure_of_the_task(shelf):
    result = run()
    assert (result.status, result.turns) == ("failed", 5)
    reason = "cannot write the checkpoint of member 1, turn 2: no right to write"
    assert result.reason.endswith(reason)
    assert all(turn.ok for turns in result.history.turns.values() for turn in turns)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("elsewhere").experiment_id
    assert {found.info.status for found in client.search_runs([experiment])} == {"FAILED"}
    shelf.closed = False
    resumed = pbt_flow.resume(result.run_id, quiet=True)
    assert (resumed.status, resumed.turns) == ("finished", 4 * TURNS)
    assert all(turn.ok for turns in resumed.history.turns.values() for turn in turns)
