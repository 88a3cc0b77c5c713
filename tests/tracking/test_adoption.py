"""Runs that were there before: none is written into that is something already."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient
from optuna.distributions import FloatDistribution

import pbt_flow
from pbt_flow.cli.main import main
from pbt_flow.commands.replay import replay
from pbt_flow.exceptions import StoreError
from pbt_flow.population.schedule import Schedule
from pbt_flow.space import space_to_json
from pbt_flow.task import Task
from pbt_flow.tracking import adoption
from pbt_flow.tracking.create import Manifest, create_population
from pbt_flow.tracking.store import Store

pytestmark = pytest.mark.usefixtures("database")


class Walk(Task):
    """Adds its only hyperparameter up."""

    space = {"gain": FloatDistribution(0.1, 10)}
    defaults = {"population": 2, "turns": 2, "interval": 2}

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        self.value = 0.0

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        self.value += steps * hparams["gain"]
        return {}

    def evaluate(self) -> float:
        return self.value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def run(**settings: Any) -> pbt_flow.Result:
    return pbt_flow.run(Walk, quiet=True, engine="inline", **settings)


@pytest.fixture(scope="module")
def there(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A population and its control, in a store that many tests look at: none writes into it."""
    folder = tmp_path_factory.mktemp("there")
    shutil.copy(migrated_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        return [str(folder), run().run_id, run(exploit="none").run_id]


def everything() -> dict[str, Any]:
    """All that the store holds of every run."""
    client = MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, run_view_type=ViewType.ALL)
    return {
        run.info.run_id: (
            run.to_dictionary(),
            {file.path for file in client.list_artifacts(run.info.run_id)},
        )
        for run in runs
    }


def ended(status: str) -> str:
    run_id = MlflowClient().create_run("0").info.run_id
    MlflowClient().set_terminated(run_id, status=status)
    return str(run_id)


def deleted() -> str:
    run_id = MlflowClient().create_run("0").info.run_id
    MlflowClient().delete_run(run_id)
    return str(run_id)


def below(run_id: str) -> str:
    """A run that somebody has nested below another."""
    tags = {"mlflow.parentRunId": run_id}
    return str(MlflowClient().create_run("0", tags=tags).info.run_id)


def half_founded() -> str:
    run_id = MlflowClient().create_run("0").info.run_id
    MlflowClient().log_param(run_id, adoption.FOUNDING, "of a process that was killed")
    return str(run_id)


def member_of(run_id: str) -> str:
    return pbt_flow.load(run_id).winner.run_id


def without_tags(run_id: str) -> str:
    """A population from which somebody has taken a tag."""
    MlflowClient().delete_tag(run_id, "pbt.role")
    return run_id


RESUME, UNSET = "python -m pbt_flow resume {}", "unset MLFLOW_RUN_ID"
ODD = {
    "a population": (lambda one, two: one, "is a population already", RESUME),
    "without its tag": (lambda one, two: without_tags(two), "is a population already", RESUME),
    "a member": (lambda one, two: member_of(one), "is a member of population", "pbt_flow resume"),
    "child of a member": (lambda one, two: below(member_of(one)), "is a child of a run of", UNSET),
    "child of a population": (lambda one, two: below(one), "is a child of a run of", UNSET),
    "finished": (lambda one, two: ended("FINISHED"), r"has ended \(FINISHED\)", UNSET),
    "failed": (lambda one, two: ended("FAILED"), r"has ended \(FAILED\)", UNSET),
    "killed": (lambda one, two: ended("KILLED"), r"has ended \(KILLED\)", UNSET),
    "deleted": (lambda one, two: deleted(), "is deleted", UNSET),
    "half a population": (lambda one, two: half_founded(), "never was complete", UNSET),
    "nothing": (lambda one, two: "0" * 32, "is not at sqlite:.*not found", UNSET),
    "no id": (lambda one, two: "no such/thing", "is not at sqlite:", UNSET),
}
"""What MLFLOW_RUN_ID may name besides a run for us: how to make it, what is said, the way out."""


@pytest.mark.parametrize("odd", ODD)
def test_a_run_that_is_something_already_is_not_written_into(odd, there, monkeypatch):
    folder, *runs = there
    monkeypatch.chdir(folder)
    make, said, remedy = ODD[odd]
    run_id = make(*runs)
    before = everything()
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    with pytest.raises(StoreError, match=f"variable MLFLOW_RUN_ID names run {run_id}.*{said}") as e:
        run()
    assert remedy.format(run_id) in str(e.value)
    assert UNSET in str(e.value)
    assert "\n" not in str(e.value)
    assert everything() == before


@pytest.mark.parametrize("odd", ["a population", "a member", "finished", "deleted", "nothing"])
def test_nor_does_a_comparison_or_a_replay_write_into_it(odd, there, monkeypatch, capsys):
    folder, *runs = there
    monkeypatch.chdir(folder)
    schedule = Schedule.from_json(Store.open(runs[0]).outcome.schedule())
    monkeypatch.setenv("MLFLOW_RUN_ID", ODD[odd][0](*runs))
    before = everything()
    assert main(["compare", *runs]) == 2
    assert "variable MLFLOW_RUN_ID names run" in capsys.readouterr().err
    with pytest.raises(StoreError, match="variable MLFLOW_RUN_ID names run"):
        replay(schedule, seeds=1, engine="inline", task=Walk, quiet=True)
    assert everything() == before


@pytest.mark.slow
def test_a_resume_goes_on_and_notes_nothing_on_a_run_that_is_something_else(monkeypatch):
    result = run(turns=1)
    for turns, odd in enumerate(["finished", "deleted", "nothing"], 2):
        other = ODD[odd][0]("", "")
        before = everything().get(other)
        monkeypatch.setenv("MLFLOW_RUN_ID", other)
        assert pbt_flow.resume(result.run_id, quiet=True, turns=turns).turns == 2 * turns
        assert everything().get(other) == before
    monkeypatch.setenv("MLFLOW_RUN_ID", result.run_id)
    assert pbt_flow.resume(result.run_id, quiet=True).status == "finished"
    assert "pbt.resumes" not in MlflowClient().get_run(result.run_id).data.tags


@pytest.mark.slow
def test_the_command_line_says_it_in_one_line_and_trains_once_the_variable_is_gone(
    monkeypatch, capsys
):
    first = run()
    monkeypatch.setenv("MLFLOW_RUN_ID", first.run_id)
    command = ["run", "--task", f"{Walk.__module__}:Walk", "--engine", "inline"]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith(
        "python -m pbt_flow run: error: the environment variable MLFLOW_RUN_ID names run"
    )
    monkeypatch.delenv("MLFLOW_RUN_ID")
    assert main(command) == 0
    assert pbt_flow.load(first.run_id).turns == 4


def test_of_two_processes_that_were_started_for_one_run_one_is_refused(monkeypatch):
    """Both have looked, and found it free: the second then cannot write the param any more."""
    run_id = MlflowClient().create_run("0").info.run_id
    look, adopt = adoption.launched_run, adoption.adopt

    def adopt_late(client, launched, tags):
        adopt(client, launched, {"pbt.founding": "another process"})
        adopt(client, launched, tags)

    monkeypatch.setattr("pbt_flow.tracking.create.adopt", adopt_late)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert look(MlflowClient(), "").info.run_id == run_id
    with pytest.raises(StoreError, match=f"{run_id}, into which another process is"):
        run()
    assert MlflowClient().get_run(run_id).info.status == "RUNNING"
    assert list(everything()) == [run_id]


def test_children_that_others_have_made_stay_where_a_founding_fails(monkeypatch):
    client = MlflowClient()
    launched = client.create_run("0").info.run_id
    theirs = client.create_run("0", tags={"mlflow.parentRunId": launched}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", launched)

    class FullDisk(MlflowClient):
        def log_dict(self, *arguments: Any) -> None:
            raise OSError("no room")

    settings = {"exploit": "none", "task": "a:B", "seed": 0, "options": {}}
    settings |= {"name": None, "experiment": None}
    plan = Manifest(
        settings=settings,
        space=space_to_json(Walk.space),
        direction="maximize",
        initial=[{"gain": 1.0}] * 3,
    )
    with pytest.raises(StoreError, match="no room"):
        create_population(FullDisk(), "here", plan, tags={"pbt.role": "population"})
    found = client.search_runs(["0"])
    assert {run.info.run_id: run.info.status for run in found} == {
        theirs: "RUNNING",
        launched: "FAILED",
    }


# --- experiments that the environment names -------------------------------------------------------


@pytest.mark.parametrize("name", ["MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"])
def test_a_deleted_experiment_says_that_the_environment_named_it(name, monkeypatch):
    experiment_id = MlflowClient().create_experiment("gone")
    MlflowClient().delete_experiment(experiment_id)
    monkeypatch.setenv(name, "gone" if name.endswith("NAME") else experiment_id)
    with pytest.raises(StoreError, match=f"variable {name}.* is deleted.* restore it"):
        run()
    assert everything() == {}


@pytest.mark.parametrize("experiment_id", ["4711", "no number"])
def test_an_unknown_experiment_says_that_the_environment_named_it(experiment_id, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment_id)
    with pytest.raises(StoreError, match=f"MLFLOW_EXPERIMENT_ID names experiment {experiment_id}"):
        run()
    assert run(experiment="named").status == "finished"


# --- a run that is active in the caller -----------------------------------------------------------


def test_a_population_stands_below_the_run_that_is_active_in_the_caller():
    with mlflow.start_run(experiment_id=MlflowClient().create_experiment("search")) as own:
        first, second = run(), run(exploit="none")
        assert mlflow.active_run().info.run_id == own.info.run_id
        mlflow.log_metric("mine", 1)
    client = MlflowClient()
    for result in (first, second):
        told = client.get_run(result.run_id)
        assert told.data.tags["mlflow.parentRunId"] == own.info.run_id
        assert told.info.experiment_id == own.info.experiment_id
        assert told.info.status == "FINISHED"
        resumed = pbt_flow.resume(result.run_id, turns=3, quiet=True)
        assert (resumed.members, resumed.turns) == (2, 6)
        below = f"tags.`mlflow.parentRunId` = '{result.run_id}'"
        members = client.search_runs([told.info.experiment_id], below)
        assert {member.data.tags["pbt.role"] for member in members} == {"member"}
        assert len(members) == 2
    told = client.get_run(own.info.run_id)
    assert (told.info.status, told.data.metrics) == ("FINISHED", {"mine": 1})
    assert not [tag for tag in told.data.tags if tag.startswith("pbt.")]


def test_the_callers_own_run_is_not_taken_though_the_variable_names_it(monkeypatch):
    with mlflow.start_run() as own:
        monkeypatch.setenv("MLFLOW_RUN_ID", own.info.run_id)
        result = run(turns=1)
        assert MlflowClient().get_run(own.info.run_id).info.status == "RUNNING"
    tags = MlflowClient().get_run(result.run_id).data.tags
    assert tags["mlflow.parentRunId"] == own.info.run_id


def test_the_experiment_that_was_asked_for_goes_before_that_of_the_active_run():
    with mlflow.start_run():
        result = run(experiment="mine")
    told = MlflowClient().get_run(result.run_id)
    assert MlflowClient().get_experiment(told.info.experiment_id).name == "mine"
    assert "mlflow.parentRunId" in told.data.tags


def test_nothing_is_put_below_a_population_or_a_member_that_is_active_in_the_caller():
    first = run()
    for run_id in (first.run_id, first.winner.run_id):
        with mlflow.start_run(run_id=run_id):
            result = run()
        assert "mlflow.parentRunId" not in MlflowClient().get_run(result.run_id).data.tags


def test_an_active_run_of_another_store_is_not_named_as_parent(
    migrated_database, monkeypatch, tmp_path
):
    (tmp_path / "other").mkdir()
    other = shutil.copy(migrated_database, tmp_path / "other" / "mlflow.db")
    with mlflow.start_run():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
        result = run()
        told = MlflowClient().get_run(result.run_id)
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert result.status == "finished"
    assert "mlflow.parentRunId" not in told.data.tags
