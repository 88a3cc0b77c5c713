"""A population is stopped from elsewhere, and deleted with all that belongs to it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow.cli.main import main
from pbt_flow.population.result import Result
from pbt_flow.tracking import lease
from pbt_flow.tracking.saved_view import view_tag

SMALL = {"population": 2, "turns": 2, "engine": "inline", "quiet": True}

pytestmark = pytest.mark.usefixtures("database")


class AsksForAnEnd(Regression):
    """Asks in each turn that its population stop, as somebody at another terminal may."""

    def train(self, hparams: Any, steps: int) -> Mapping[str, float]:
        (running,) = pbt_flow.list_populations()
        pbt_flow.stop(running.run_id[:12])
        return super().train(hparams, steps)


def test_a_population_that_is_asked_to_stop_ends_in_order_and_can_be_resumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.01)
    result = pbt_flow.run(AsksForAnEnd, **{**SMALL, "turns": 1000})
    assert result.status == "interrupted"
    assert 0 < result.turns < 2000
    run = MlflowClient().get_run(result.run_id)
    assert (run.info.status, run.data.tags["pbt.status"]) == ("KILLED", "interrupted")
    (listed,) = pbt_flow.list_populations()
    assert (listed.status, listed.turns) == ("interrupted", result.turns)


def test_what_does_not_run_cannot_be_stopped(trained: Callable[..., list[Result]]) -> None:
    (made,) = trained(task="toy")
    with pytest.raises(pbt_flow.PopulationError, match="is not running: it is finished"):
        pbt_flow.stop(made.run_id)


def folders(run_id: str) -> list[Path]:
    """Where the artifacts of a population and its members lie."""
    client = MlflowClient()
    found = client.search_runs(["0", "1"], f"tags.`pbt.population` = '{run_id}'")
    uris = [run.info.artifact_uri for run in [client.get_run(run_id), *found]]
    return [Path(uri.removeprefix("file://")) for uri in uris]


@pytest.mark.slow
def test_a_deleted_population_leaves_no_run_no_checkpoint_and_no_view(
    trained: Callable[..., list[Result]],
) -> None:
    gone, stays = trained({}, {"seed": 1}, task="toy")
    places, client = folders(gone.run_id), MlflowClient()
    assert len(places) == 3
    assert all(list(place.rglob("*.json")) for place in places)
    told = pbt_flow.delete(gone.run_id[:12])
    assert told.startswith(f"deleted toy pbt s0 ({gone.run_id[:12]}): 2 members, ")
    assert not [file for place in places for file in place.rglob("*") if file.is_file()]
    experiment = client.get_run(stays.run_id).info.experiment_id
    tags = client.get_experiment(experiment).tags
    assert (view_tag(gone.run_id) in tags, view_tag(stays.run_id) in tags) == (False, True)
    left = client.search_runs([experiment], run_view_type=ViewType.ACTIVE_ONLY)
    assert {run.data.tags.get("pbt.population", run.info.run_id) for run in left} == {stays.run_id}
    assert [one.run_id for one in pbt_flow.list_populations()] == [stays.run_id]
    with pytest.raises(pbt_flow.StoreError):
        pbt_flow.resume(gone.run_id, quiet=True)


def test_nothing_is_deleted_that_was_not_confirmed(
    trained: Callable[..., list[Result]], capsys: pytest.CaptureFixture[str]
) -> None:
    (made,) = trained(task="toy")
    with pytest.raises(pbt_flow.PopulationError, match="was not deleted"):
        pbt_flow.delete(made.run_id, confirm=lambda question: False)
    # Without a terminal there is nobody to ask.
    assert main(["delete", "last"]) == 1
    assert "with --yes it is done" in capsys.readouterr().err
    assert len(pbt_flow.list_populations()) == 1
    assert main(["delete", "last", "--yes"]) == 0
    assert pbt_flow.list_populations() == []


@pytest.mark.slow
def test_a_registered_version_is_named_before_its_population_is_deleted_and_stays() -> None:
    made = pbt_flow.run(Regression, **SMALL)
    other = pbt_flow.run(Regression, seed=1, **SMALL)
    pbt_flow.register(made.run_id, "lander")
    asked = list[str]()

    def confirm(question: str) -> bool:
        asked.append(question)
        return True

    told = pbt_flow.delete(made.run_id, confirm=confirm)
    assert "; lander version 1 will point to a run that is deleted" in asked[0]
    assert "lander version 1" in told
    assert mlflow.pytorch.load_model("models:/lander@champion").weight.shape == (1, 3)
    # A model that nobody has registered goes with its population.
    client = MlflowClient()
    experiment = client.get_run(other.run_id).info.experiment_id
    assert len(client.search_logged_models([experiment])) == 2
    assert "will point" not in pbt_flow.delete(other.run_id)
    (left,) = client.search_logged_models([experiment])
    assert left.source_run_id == made.run_id


def test_several_are_deleted_at_once_and_none_where_one_cannot_be(
    trained: Callable[..., list[Result]], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = trained({}, {"seed": 1}, task="toy")
    assert main(["delete", "--yes", first.run_id, "0" * 32]) == 2
    assert main(["delete", first.run_id[:12], second.run_id]) == 1
    assert ", and toy pbt s1 (" in capsys.readouterr().err.replace("\n", " ")
    assert len(pbt_flow.list_populations()) == 2
    # `last` is one of them, and is meant once.
    assert main(["delete", "--yes", first.run_id, second.run_id[:12], "last"]) == 0
    assert capsys.readouterr().out.count("deleted toy pbt s") == 2
    assert pbt_flow.list_populations() == []


def test_where_the_store_refuses_in_the_middle_it_is_said_what_is_gone(
    trained: Callable[..., list[Result]], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = trained({}, {"seed": 1}, task="toy")
    database = sqlite3.connect(first.tracking_uri.removeprefix("sqlite:///"))
    with contextlib.closing(database), database:
        database.execute(
            f"CREATE TRIGGER kept BEFORE UPDATE ON runs WHEN NEW.run_uuid = '{second.run_id}' "
            "BEGIN SELECT RAISE(ABORT, 'this run is kept'); END"
        )
    assert main(["delete", "--yes", first.run_id, second.run_id]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"does not delete population {second.run_id}; try it again" in told
    assert f"(population {first.run_id} was deleted before)" in told
    assert "this run is kept" in told
    assert [one.run_id for one in pbt_flow.list_populations()] == [second.run_id]


def test_a_running_population_is_not_deleted(trained: Callable[..., list[Result]]) -> None:
    (made,) = trained(task="toy")
    client = MlflowClient()
    client.update_run(made.run_id, status="RUNNING")
    with pytest.raises(pbt_flow.PopulationError, match="is running; stop it first"):
        pbt_flow.delete(made.run_id)
