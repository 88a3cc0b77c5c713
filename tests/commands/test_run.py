"""Whole populations in a real MLflow store: what is recorded, what survives, what is refused."""

import json
import logging
import math
import multiprocessing
import os
import signal
import sqlite3
import time
from pathlib import Path

import mlflow
import pytest
import sqlalchemy
from mlflow.tracking import MlflowClient
from sample_tasks import Misbehaving, OneBlocked, Regression

import pbt_flow
from pbt_flow.commands.summary import summary
from pbt_flow.exceptions import RecordError, SettingsError, StoreError, StoreUnavailable
from pbt_flow.population.result import Result
from pbt_flow.task import TaskError
from pbt_flow.tracking import lease

pytestmark = pytest.mark.usefixtures("database")


def run(task=Regression, **settings):
    return pbt_flow.run(task, **{"engine": "inline", "quiet": True, **settings})


def client(result):
    return MlflowClient(result.tracking_uri)


def members(result):
    found = client(result).search_runs(
        [client(result).get_run(result.run_id).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{result.run_id}'",
    )
    return sorted(found, key=lambda run: int(run.data.tags["pbt.member"]))


def points(result):
    """Every metric point of every member, as MLflow has them."""
    return {
        (member.data.tags["pbt.member"], key): sorted(
            (point.step, point.value, point.timestamp)
            for point in client(result).get_metric_history(member.info.run_id, key)
        )
        for member in members(result)
        for key in member.data.metrics
    }


def essence(result: Result):
    """What must be the same whatever disturbed the population: all but times."""
    return {
        index: [
            (turn.plan, turn.status, turn.score, turn.sample, turn.checkpoint) for turn in turns
        ]
        for index, turns in result.history.turns.items()
    }


# --- what is recorded -----------------------------------------------------------------------------


def test_mlflow_has_every_turn_of_every_member():
    result = run(turns=5)
    assert result.status == "finished"
    assert [m.data.tags["mlflow.runName"] for m in members(result)] == [
        "member-00",
        "member-01",
        "member-02",
        "member-03",
    ]
    recorded = points(result)
    for index, turns in result.history.turns.items():
        steps = [turn.plan.trained for turn in turns]
        assert steps == [5, 10, 15, 20, 25]

        def series(key, index=index):
            return [(step, value) for step, value, _ in recorded[str(index), key]]

        assert series("score") == [(t.plan.trained, t.score) for t in turns]
        assert series("hparam/lr") == [(t.plan.trained, t.plan.hparams["lr"]) for t in turns]
        assert series("step") == [(t.plan.trained, t.step) for t in turns]
        donors = [t.plan.donor.member if t.plan.donor else index for t in turns]
        assert [value for _, value in series("donor")] == donors
        choices = [("l1", "l2").index(t.plan.hparams["loss"]) for t in turns]
        assert [value for _, value in series("hparam/loss")] == choices
        assert series("eval/bias") == [(t.plan.trained, t.evaluation["bias"]) for t in turns]
        # The value that the optimiser really had, as the task saw it.
        live = [(t.plan.trained, t.plan.hparams["lr"]) for t in turns]
        assert series("train/live/lr") == live


class OddNames(Regression):
    """Its metrics have names that MLflow refuses."""

    def metrics(self):
        names = ("loss[0]", "a//b", "../c", "", "/d", "Verlust ß", "x" * 300, "top-5 acc.: 1")
        return {name: float(n) for n, name in enumerate(names)}


def test_a_metric_whose_name_mlflow_refuses_is_logged_under_one_that_it_takes():
    result = run(OddNames, turns=1)
    member = members(result)[0]
    logged = {key: v for key, v in member.data.metrics.items() if key.startswith("eval/")}
    names = ("loss_0_", "a/b", "c", "_", "d", "Verlust ß", "x" * 245, "top-5 acc.: 1")
    assert logged == {f"eval/{name}": float(n) for n, name in enumerate(names)}
    assert "loss[0]" in result.history.turns[0][0].evaluation


def test_each_turn_began_where_its_record_says():
    """Weights are followed along the checkpoints: by digest, from a turn to what it began with."""
    result = run(turns=6, exploit="tournament")
    copies = 0
    for turns in result.history.turns.values():
        for turn in turns:
            if turn.plan.donor:
                copies += 1
                given = result.history.turn(turn.plan.donor.member, turn.plan.donor.turn)
                assert turn.plan.start == given.checkpoint
                assert turn.plan.start_step == given.step
    assert copies > 3


def test_what_never_changes_is_a_param_and_the_rest_is_not():
    result = run(turns=2, options={"noise": 0.5})
    parent = client(result).get_run(result.run_id)
    assert parent.data.params["cfg/interval"] == "5"
    assert parent.data.params["option/noise"] == "0.5"
    assert json.loads(parent.data.params["space/lr"])["attributes"]["log"] is True
    for member, turns in zip(members(result), result.history.turns.values(), strict=True):
        assert float(member.data.params["init/lr"]) == turns[0].plan.hparams["lr"]
        assert member.data.params["legend/loss"] == "0='l1', 1='l2'"


def test_the_winner_is_named_reported_and_shown():
    result = run(turns=4)
    parent = client(result).get_run(result.run_id)
    scores = [turns[-1].score for turns in result.history.turns.values()]
    assert result.winner.score == min(scores)
    assert parent.data.tags["pbt.winner"] == result.winner.run_id
    assert parent.data.metrics["winner/score"] == result.winner.score
    assert parent.data.metrics["winner/error"] == result.winner.report["error"]
    assert parent.data.metrics["best_initial/score"] == result.best_initial.score
    assert parent.info.status == "FINISHED"
    assert {m.info.status for m in members(result)} == {"FINISHED"}
    artifacts = {a.path for a in client(result).list_artifacts(result.run_id)}
    assert result.average is not None
    assert artifacts == {
        "average",
        "population.json",
        "report",
        "result.json",
        "samples",
        "journal",
        "schedule.csv",
        "schedule.json",
    }
    note = parent.data.tags["mlflow.note.content"].splitlines()[0]
    assert note.startswith(f"**{result.headline}**, finished: 4 members, 16 turns")
    assert f"[Charts]({result.charts})" in note
    history = client(result).get_metric_history(result.run_id, "best_score")
    assert [point.step for point in history] == [5, 10, 15, 20]


def test_load_rebuilds_the_result_from_mlflow_alone():
    result = run(population=3, turns=2)
    loaded = pbt_flow.load(result.run_id)
    assert loaded.winner == result.winner
    assert loaded.best_initial == result.best_initial
    assert essence(loaded) == essence(result)
    assert loaded.to_json() == result.to_json()


def test_initial_points_of_the_user_come_first():
    point = {"lr": 0.25, "batch": 3, "loss": "l1"}
    result = run(population=2, turns=1, initial=[point])
    assert result.history.turns[0][0].plan.hparams == point


def test_random_search_copies_nobody_and_begins_with_the_same_members():
    pbt, control = run(turns=2), run(turns=2, exploit="none")
    for a, b in zip(pbt.history.turns.values(), control.history.turns.values(), strict=True):
        assert (a[0].plan, a[0].score) == (b[0].plan, b[0].score)
        assert all(turn.plan.donor is None for turn in b)
        assert len({turn.plan.hparams["lr"] for turn in b}) == 1


def test_only_newest_checkpoints_are_left_on_disk_and_all_records():
    result = run(turns=6)
    for member, turns in zip(members(result), result.history.turns.values(), strict=True):
        folder = Path(member.info.artifact_uri)
        assert len(list(folder.rglob("turn*.json"))) == len(turns)
        states = {path.parent.name for path in folder.rglob("state*.pt")}
        pinned = [result.history.best_initial, *result.history.best_ever]
        own = {turn.number for turn in pinned if turn.member == turns[0].member}
        assert states == {f"{number:06d}" for number in {6} | own}


# --- what is the run, and whose -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "becomes"), [(None, "sample_tasks pbt s0"), ("lr-search-2", "lr-search-2")]
)
def test_the_run_that_mlflow_run_made_is_the_population(name, becomes, monkeypatch):
    made = MlflowClient().create_run("0", run_name=name)
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    result = run(population=2, turns=1)
    assert result.run_id == made.info.run_id
    # A name that MLflow made up tells nothing; one that the user gave stays.
    assert client(result).get_run(result.run_id).info.run_name == becomes
    assert {m.info.experiment_id for m in members(result)} == {"0"}


def test_the_users_own_active_run_is_left_alone():
    with mlflow.start_run() as own:
        result = run(population=2, turns=1)
        assert mlflow.active_run().info.run_id == own.info.run_id
        mlflow.log_metric("mine", 1)
    assert result.run_id != own.info.run_id
    assert set(mlflow.get_run(own.info.run_id).data.metrics) == {"mine"}


def test_of_two_populations_that_make_the_experiment_at_once_none_is_refused(monkeypatch):
    found, look = [], MlflowClient.get_experiment_by_name

    def and_then_another_makes_it(self, name):
        found.append(look(self, name))
        if len(found) == 1:
            self.create_experiment(name)
        return found[-1]

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", and_then_another_makes_it)
    result = run(population=2, turns=1, experiment="new")
    assert found[0] is None
    assert client(result).get_run(result.run_id).info.experiment_id == found[-1].experiment_id


# --- stopped and resumed --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_larger_budget_goes_on_as_if_it_had_been_so_from_the_start():
    whole = run(turns=6, mode="generational")
    part = run(turns=3, mode="generational")
    resumed = pbt_flow.resume(part.run_id, turns=6, quiet=True)
    assert resumed.run_id == part.run_id
    assert essence(resumed) == essence(whole)
    assert resumed.winner.score == whole.winner.score


def test_resuming_what_is_finished_changes_nothing(trained):
    (result,) = trained()
    before = points(result)
    again = pbt_flow.resume(result.run_id, quiet=True)
    assert essence(again) == essence(result)
    assert points(again) == before


@pytest.mark.slow
def test_turns_that_mlflow_never_heard_of_are_logged_on_resume_and_none_twice(trained):
    """As after a kill between a worker's commit and the controller's log_batch."""
    (result,) = trained({"turns": 3, "interval": 5})
    before = points(result)
    member = result.history.turns[1][0].member
    run_id = members(result)[member].info.run_id
    with sqlite3.connect("mlflow.db") as database:
        database.execute("DELETE FROM metrics WHERE run_uuid = ? AND step = 15", (run_id,))
        database.execute("DELETE FROM latest_metrics WHERE run_uuid = ?", (run_id,))
    assert points(result) != before
    pbt_flow.resume(result.run_id, quiet=True)
    assert points(result) == before


@pytest.mark.slow
def test_a_turn_without_a_record_never_happened_and_is_run_again():
    small = {"population": 3, "mode": "generational"}
    whole, part = run(turns=3, **small), run(turns=2, **small)
    folder = Path(members(part)[2].info.artifact_uri) / "turns" / "000003"
    folder.mkdir()
    (folder / "state-1.1.pt").write_bytes(b"half of a state")
    (folder / ".turn.json.1-1-0a1b2c").write_text("half of a record")
    resumed = pbt_flow.resume(part.run_id, turns=3, quiet=True)
    assert essence(resumed) == essence(whole)
    assert sorted(path.name for path in folder.iterdir()) == ["state-2.1.pt", "turn-2.1.json"]


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda text: text[: len(text) // 2], "not JSON"),
        (lambda text: text.replace('"member": 1', '"member": 2'), "not of member 1"),
        (lambda text: text.replace('"turn": 2', '"turn": 7'), "not of member 1, turn 2"),
        (lambda text: text.replace('"status"', '"state"'), "not a turn record"),
    ],
)
def test_a_harmed_record_is_refused_with_its_place(harm, sentence, trained):
    (result,) = trained()
    path = Path(members(result)[1].info.artifact_uri) / "turns" / "000002" / "turn-1.1.json"
    path.write_text(harm(path.read_text()))
    with pytest.raises(RecordError, match=f"(?s){path.name}.*{sentence}"):
        pbt_flow.resume(result.run_id, quiet=True)


def test_a_population_that_is_running_refuses_a_second_controller(trained):
    (result,) = trained()
    client(result).set_tag(result.run_id, "pbt.heartbeat", f"{time.time()}")
    with pytest.raises(StoreError, match=r"is running: its controller \(.*\) was heard \d+ s ago"):
        pbt_flow.resume(result.run_id, quiet=True)


def test_too_many_copies_are_told_once_at_the_start_and_never_of_random_search(capfd):
    few = {"population": 2, "target": 1e9, "turns": 40, "quiet": False}  # over after one turn
    result = run(exploit="tournament", **few)
    said = capfd.readouterr().err
    assert said.count("with turns=40 a member will copy about 20 times") == 1
    assert said.index("will copy about") < said.index("turn 1")
    pbt_flow.resume(result.run_id, turns=50)
    run(exploit="none", **few)
    assert "will copy about" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_controller_of_another_machine_that_is_silent_is_watched_and_then_replaced(
    trained, capfd, monkeypatch
):
    (result,) = trained()
    client(result).log_param(result.run_id, "lease/0002", "elsewhere:1:0-0-0:00000000")
    client(result).set_tag(result.run_id, "pbt.heartbeat", f"{time.time()}")
    monkeypatch.setattr(lease, "_SILENCE_SECONDS", 1.0)
    assert pbt_flow.resume(result.run_id).turns == 4
    said = capfd.readouterr().err
    assert "last controller (elsewhere:1) may still be alive; this one listens for 1 s" in said
    assert "last controller (elsewhere:1) was silent for 1 s; this one takes over" in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"interval": 7}, "interval cannot change on resume"),
        ({"seed": 1}, "seed cannot change on resume"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_a_resume_may_not_change_what_defines_the_population(changes, sentence, trained):
    (result,) = trained()
    with pytest.raises(SettingsError, match=sentence):
        pbt_flow.resume(result.run_id, quiet=True, **changes)


def test_a_resume_with_another_space_says_so(trained, monkeypatch):
    (result,) = trained()
    smaller = {k: v for k, v in Regression.space.items() if k != "batch"}
    monkeypatch.setattr(Regression, "space", smaller)
    with pytest.raises(SettingsError, match="the space of task .* is not the one"):
        pbt_flow.resume(result.run_id, quiet=True)


@pytest.mark.parametrize("which", ["nothing", "a plain run", "a member"])
def test_a_run_that_is_no_population_is_refused(which, trained):
    run_id, sentence = "0" * 32, "no run"
    if which == "a plain run":
        run_id, sentence = MlflowClient().create_run("0").info.run_id, "is no population"
    if which == "a member":
        run_id, sentence = members(*trained())[0].info.run_id, "is a member; its population is"
    with pytest.raises(StoreError, match=sentence):
        pbt_flow.resume(run_id, quiet=True)


class OneNumber(Regression):
    """Its score is one number, no sample."""

    def evaluate(self):
        return super().evaluate()[0]


def test_a_t_test_on_single_numbers_ends_the_run_and_says_what_the_task_must_return():
    result = run(OneNumber, exploit="ttest", turns=5)
    assert result.status == "failed"
    assert "exploit ttest compares samples" in result.reason
    assert client(result).get_run(result.run_id).info.status == "FAILED"


def every_run():
    experiments = [e.experiment_id for e in MlflowClient().search_experiments()]
    return MlflowClient().search_runs(experiments)


@pytest.mark.parametrize("before", [True, False])
def test_ctrl_c_once_the_runs_are_made_leaves_none_that_says_it_is_running(before, monkeypatch):
    from pbt_flow.tracking.store import Store

    claim = Store.claim

    def interrupted(*arguments, **named):
        if before:
            signal.raise_signal(signal.SIGINT)
        claimed = claim(*arguments, **named)
        signal.raise_signal(signal.SIGINT)
        return claimed

    monkeypatch.setattr(Store, "claim", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(turns=1)
    assert len(every_run()) == 5
    assert {r.info.status for r in every_run()} == {"KILLED"}


def test_runs_that_cannot_all_be_made_are_gone_and_the_error_says_why():
    MlflowClient().create_experiment("nowhere", artifact_location="/proc/nowhere")
    with pytest.raises(StoreError, match="cannot make runs at sqlite:.*: .*'/proc/nowhere") as told:
        run(turns=1, experiment="nowhere")
    assert "\n" not in str(told.value)
    assert every_run() == []


def test_a_resume_that_is_refused_ends_no_run_of_the_controller_that_lives(trained):
    (result,) = trained()
    client(result).update_run(result.run_id, status="RUNNING")
    client(result).set_tag(result.run_id, "pbt.heartbeat", f"{time.time()}")
    with pytest.raises(StoreError, match="is running"):
        pbt_flow.resume(result.run_id, quiet=True)
    assert client(result).get_run(result.run_id).info.status == "RUNNING"


@pytest.mark.parametrize("uri", [None, "sqlite:///there.db", "sqlite:///{}/there.db"])
@pytest.mark.parametrize("ask", [pbt_flow.resume, pbt_flow.load, pbt_flow.to_study])
def test_a_run_is_not_looked_for_in_a_database_that_is_not_there(ask, uri, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(tmp_path / "empty"))
    name = "mlflow.db" if uri is None else "there.db"
    with pytest.raises(StoreError, match=f"no run 0000 at sqlite:.* no file /.*/empty/{name}. Go"):
        ask("0000")
    assert list(Path().iterdir()) == []


# --- what goes wrong ------------------------------------------------------------------------------


def test_failures_are_rescued_recorded_and_never_crowned(tmp_path):
    for order in ("raise-2", "nan-3"):
        (tmp_path / order).touch()
    result = run(Misbehaving, options={"orders": str(tmp_path)}, turns=5)
    turns = [turn for turns in result.history.turns.values() for turn in turns]
    assert sorted(turn.status for turn in turns if not turn.ok) == ["diverged", "failed"]
    assert result.status == "finished"
    assert result.turns == 20
    assert math.isfinite(result.winner.score)
    for turn in turns:
        folder = f"turns/{turn.number:06d}"
        listed = client(result).list_artifacts(members(result)[turn.member].info.run_id, folder)
        assert (f"{folder}/error-1.1.txt" in [artifact.path for artifact in listed]) == (
            not turn.ok
        )
    failed = next(turn for turn in turns if turn.status == "failed")
    text = Path(members(result)[failed.member].info.artifact_uri) / f"turns/{failed.number:06d}"
    assert (text / "error-1.1.txt").read_text().endswith("ZeroDivisionError: as ordered\n")
    assert "ZeroDivisionError: as ordered" in failed.error
    assert failed.metrics == {}
    for turn in turns:
        if not turn.ok:
            told = members(result)[turn.member].data.tags["pbt.error"]
            assert told.startswith("turn ")


def test_an_error_that_nobody_foresaw_leaves_no_run_that_says_it_is_running(monkeypatch):
    def broken(*arguments):
        raise KeyError("a bug of ours")

    with monkeypatch.context() as patch:
        patch.setattr("pbt_flow.training.controller.Controller.log_rounds", broken)
        with pytest.raises(KeyError):
            run(population=2, turns=2)
    runs = every_run()
    assert [r.info.status for r in runs] == ["FAILED"] * 3
    (population,) = [r for r in runs if r.data.tags["pbt.role"] == "population"]
    assert pbt_flow.load(population.info.run_id).status == "failed"
    assert pbt_flow.resume(population.info.run_id, quiet=True).turns == 4


def test_a_retired_member_has_failed_while_the_others_finish(tmp_path):
    for number in (1, 2):
        (tmp_path / f"nan-{number}").touch()
    result = run(Misbehaving, options={"orders": str(tmp_path)}, turns=4, max_failures=1)
    assert result.retired == 2
    assert result.status == "finished"
    living = {member.index for member in result.history.living(1)}
    expected = ["FINISHED" if index in living else "FAILED" for index in range(4)]
    assert [member.info.status for member in members(result)] == expected


@pytest.mark.slow
def test_where_every_member_fails_the_run_says_failed_and_why(tmp_path):
    result = run("sample_tasks:Misbehaving", options={"orders": ""}, turns=2, max_failures=1)
    assert result.status == "finished"
    broken = tmp_path / "broken.py"
    broken.write_text(
        "from sample_tasks import Regression\n"
        "class Broken(Regression):\n"
        "    def train(self, hparams, steps):\n"
        "        raise RuntimeError('no data')\n"
    )
    result = run(f"{broken}:Broken", turns=3, max_failures=2)
    assert (result.status, result.reason, result.winner) == ("failed", "every member failed", None)
    assert client(result).get_run(result.run_id).info.status == "FAILED"
    assert {m.info.status for m in members(result)} == {"FAILED"}
    assert result.to_json()["mean_score"] is None


@pytest.mark.parametrize(
    ("task", "settings", "error", "sentence"),
    [
        ("sample_tasks:CannotBeBuilt", {}, TaskError, "cannot be built: OSError: the data set"),
        (Regression, {"population": 1}, SettingsError, "population must be at least 2, got 1"),
        (Regression, {"interval": 0}, SettingsError, "interval must be at least 1, got 0"),
        (Regression, {"options": {"nois": 1}}, TaskError, "has no option 'nois'"),
        (Regression, {"exploit": "best"}, ValueError, "there is no 'best'"),
        (Regression, {"initial": [{"lr": 1.0}]}, ValueError, "has no value|does not lie"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(task, settings, error, sentence):
    with pytest.raises(error, match=sentence):
        run(task, **settings)
    assert MlflowClient().search_runs(["0"]) == []
    assert [e.name for e in MlflowClient().search_experiments()] == ["Default"]


def test_a_store_that_refuses_is_not_waited_for(trained):
    """A run that somebody deleted does not come back: no patience mends that."""
    from pbt_flow.tracking.store import Store

    (result,) = trained()
    store = Store.open(result.run_id)
    client(result).delete_run(store.manifest.members[1])
    with pytest.raises(StoreError, match="does not take what is logged: .*'active'") as told:
        store.log_turns([result.history.turn(1, 1)])
    assert not isinstance(told.value, StoreUnavailable)


def test_a_database_that_is_locked_may_be_free_later(request):
    from pbt_flow.tracking.store import Store

    # MLflow itself would wait for 20 seconds before it gives up.
    def shortly(connection, cursor, statement, parameters, context, many):
        return statement.replace("busy_timeout = 20000", "busy_timeout = 200"), parameters

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", shortly, retval=True)
    request.addfinalizer(
        lambda: sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", shortly)
    )
    result = run(turns=1)
    store = Store.open(result.run_id)
    # Another process holds it.
    with sqlite3.connect("mlflow.db", isolation_level=None) as rival:
        rival.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable, match="database is locked"):
            store.log_turns([result.history.turn(2, 1)])
        rival.execute("ROLLBACK")
    store.log_turns([result.history.turn(2, 1)])


def test_a_tracking_server_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"cannot reach the MLflow tracking store http://127"):
        run(turns=1)


class Hopeless(Regression):
    """Its score is never a number."""

    def evaluate(self):
        return math.nan


@pytest.mark.slow
def test_where_no_turn_went_well_the_population_has_failed_though_nobody_is_retired():
    result = run(Hopeless, turns=2)
    assert (result.status, result.reason) == ("failed", "no turn of any member went well")
    assert (result.winner, result.retired) == (None, 0)
    assert "turn 2, the last: diverged, " in summary(result)
    assert client(result).get_run(result.run_id).info.status == "FAILED"
    assert pbt_flow.resume(result.run_id, turns=3, quiet=True).reason == "every member failed"


class FailsAtItsEnd(Regression):
    """As where a licence server is away, or a shared disk is full, when the last turns run."""

    def __init__(self, *, seed, device="cpu"):
        super().__init__(seed=seed, device=device)
        self.done = 0

    def train(self, hparams, steps):
        if self.done == 2:
            raise OSError("the licence server is away")
        self.done += 1
        return super().train(hparams, steps)

    def state_dict(self):
        return {**super().state_dict(), "done": self.done}

    def load_state_dict(self, state):
        super().load_state_dict({k: v for k, v in state.items() if k != "done"})
        self.done = state["done"]


def test_where_every_last_turn_failed_the_best_of_what_was_there_before_wins(capfd):
    result = run(FailsAtItsEnd, turns=3, quiet=False, finalists="none")
    assert (result.status, result.retired) == ("finished", 0)
    assert all(turns[-1].status == "failed" for turns in result.history.turns.values())
    before = [turns[1] for turns in result.history.turns.values()]
    assert result.winner.score == min(turn.score for turn in before)
    assert result.winner.turn == 2
    assert result.winner.task().done == 2
    told = " ".join(capfd.readouterr().err.split())
    assert "failed: OSError: the licence server is away" in told
    assert "the winner is what turn 2 of member" in told


@pytest.mark.slow
def test_nobody_trains_beyond_the_budget_where_one_worker_is_far_behind_the_others(tmp_path):
    """A slow start of a worker: the others are done before the first turn of one member is."""
    orders = tmp_path / "orders"
    orders.mkdir()
    result = run(
        OneBlocked,
        population=4,
        workers=4,
        turns=6,
        options={"orders": str(orders), "turns": 3 * 6},
        initial=[{"lr": 1e-4, "batch": 4, "loss": "l2"}],
        engine="processes",
    )
    turns = [turn for own in result.history.turns.values() for turn in own]
    assert [len(own) for own in result.history.turns.values()] == [6] * 4
    assert all(turn.step == turn.plan.trained for turn in turns)
    late, *others = (result.history.turns[index] for index in range(4))
    assert late[1].started > max(own[-1].started for own in others)
    copied = [turn.plan for turn in late if turn.plan.donor is not None]
    assert copied
    assert all(plan.donor.turn == plan.turn - 1 for plan in copied)
    assert result.winner.step == 6 * 5


def make_a_database(folder):
    os.chdir(folder)
    from pbt_flow.tracking.client import connect

    connect()


@pytest.mark.slow
def test_processes_that_make_one_database_at_once_do_not_disturb_each_other(tmp_path):
    """Without care, MLflow's migrations of the one trip over those of the other."""
    folder = tmp_path / "new"
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=make_a_database, args=(str(folder),)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    from pbt_flow.tracking.client import connect

    folder = tmp_path / "closed"
    folder.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    # Root may write everywhere; what the operating system would say is given here.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    with pytest.raises(StoreError, match=f"the folder {folder} cannot be written; go to a folder"):
        connect()
    assert not any(folder.iterdir())


@pytest.mark.slow
def test_quiet_holds_for_mlflow_as_well_whose_level_comes_back(capfd):
    Path("mlflow.db").unlink()  # MLflow says that it makes one
    level = logging.getLogger("mlflow").level
    result = run(population=2, turns=1, control=True, register="line")
    assert result.control is not None
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("mlflow").level == level != logging.WARNING


def test_a_run_without_an_experiment_goes_where_mlflow_run_puts_it(trained):
    """One home for both: and MLflow's UI opens it on its runs, and not on traces."""
    (result,) = trained()
    experiment = MlflowClient().get_experiment(
        client(result).get_run(result.run_id).info.experiment_id
    )
    assert (experiment.name, experiment.experiment_id) == ("Default", "0")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_an_interrupt_while_a_database_is_made_leaves_nothing_of_it(monkeypatch, tmp_path):
    from pbt_flow.tracking import client as way

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")

    def interrupted(uri):
        Path(tmp_path, "new.db").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(way, "AwaitedClient", interrupted)
    with pytest.raises(KeyboardInterrupt):
        way.connect()
    assert not Path(tmp_path, "new.db").exists()


@pytest.mark.slow
def test_what_is_refused_in_a_new_folder_makes_no_database(tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    for options in ({"options": {"orders": 3.5}}, {"device": "cdua"}, {"device": "cuda:77"}):
        with pytest.raises(pbt_flow.PBTError):
            pbt_flow.run(
                "sample_tasks:Misbehaving", population=2, engine="inline", quiet=True, **options
            )
    assert list(empty.iterdir()) == []


def test_a_device_that_is_not_there_is_told_even_if_the_task_would_not_use_it():
    with pytest.raises(TaskError, match="the device cdua cannot be used here: torch knows"):
        pbt_flow.run("toy", population=2, turns=1, engine="inline", quiet=True, device="cdua")
