"""What a first turn waits for, also after a resume; what a founding that is cut short leaves."""

import contextlib
import functools
import itertools
import signal
import sqlite3
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import get_tracking_uri
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow.engines.worker import Worker
from pbt_flow.space import space_to_json
from pbt_flow.tracking.client import needs_server
from pbt_flow.tracking.create import Manifest, create_population
from pbt_flow.tracking.lease import FOUNDER, new_owner
from pbt_flow.tracking.store import Store


@pytest.fixture
def waited_for(monkeypatch):
    """What the controller's own thread has had MLflow's client do before the first turn began."""
    calls, begun = Counter(), threading.Event()

    def counting(name, original):
        @functools.wraps(original)
        def counted(*arguments, **named):
            if threading.current_thread() is threading.main_thread() and not begun.is_set():
                calls[name] += 1
            return original(*arguments, **named)

        return counted

    for name, original in list(vars(MlflowClient).items()):
        if callable(original) and not name.startswith("_"):
            monkeypatch.setattr(MlflowClient, name, counting(name, original))
    run = Worker.run

    def runs(self, *arguments, **named):
        begun.set()
        return run(self, *arguments, **named)

    monkeypatch.setattr(Worker, "run", runs)

    def forget():
        calls.clear()
        begun.clear()
        return calls

    return forget


@pytest.mark.slow
def test_a_first_turn_waits_for_one_request_of_each_member_its_run(waited_for, trained):
    trained()  # The first population of all marks the experiment.
    calls = waited_for()
    made = []
    for members in (2, 6):
        waited_for()
        pbt_flow.run(Regression, engine="inline", population=members, turns=1, quiet=True)
        made.append(Counter(calls))
    assert made[1] - made[0] == Counter(create_run=4)
    assert made[0] - made[1] == Counter()


@pytest.mark.slow
def test_a_resume_waits_for_as_many_requests_whatever_the_number_of_members(waited_for, trained):
    runs = trained({"population": 2, "turns": 3}, {"population": 6, "turns": 3})
    calls = waited_for()
    asked = []
    for result in runs:
        waited_for()
        pbt_flow.resume(result.run_id, turns=4, quiet=True)
        asked.append(Counter(calls))
    assert asked[0] == asked[1]
    for result in runs:
        for run in Store.open(result.run_id).members:
            assert MlflowClient().get_run(run).info.status == "FINISHED"


@pytest.mark.slow
def test_a_run_that_somebody_has_taken_the_tags_from_is_found_all_the_same(trained):
    (result,) = trained({"population": 3})
    run_id = Store.open(result.run_id).members[1]
    MlflowClient().delete_tag(run_id, "pbt.population")
    assert pbt_flow.load(result.run_id).turns == result.turns
    assert pbt_flow.resume(result.run_id, turns=3, quiet=True).turns == 9


# --- a founding that is cut short -----------------------------------------------------------------

MEMBERS = 3
PLAN = Manifest(
    settings={"exploit": "none", "task": "a:B", "seed": 0, "options": {}, "name": None}
    | {"experiment": None},
    space=space_to_json(Regression.space),
    direction="minimize",
    initial=[{"lr": 0.1, "batch": 2, "loss": "l1"}] * MEMBERS,
)


def found_interrupted(name, nth, *, before, monkeypatch, error=None):
    """Make a population in which the `nth` call of a client's method is cut short."""
    original, calls = getattr(MlflowClient, name), itertools.count(1)

    def cut(self, *arguments, **named):
        is_it = next(calls) == nth
        if is_it and before:
            raise error or signal.raise_signal(signal.SIGINT)
        returned = original(self, *arguments, **named)
        if is_it:
            signal.raise_signal(signal.SIGINT)
        return returned

    monkeypatch.setattr(MlflowClient, name, cut)
    create_population(MlflowClient(), get_tracking_uri(), PLAN, tags={"pbt.role": "population"})


def left_of_it():
    """All that is there after a founding: runs, and files of artifacts."""
    runs = MlflowClient().search_runs(["0"], run_view_type=ViewType.ACTIVE_ONLY)
    return runs, [path for path in Path("mlruns").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "nth"),
    [
        ("create_run", 1),
        ("create_run", 2),
        ("create_run", 1 + MEMBERS),
        ("log_batch", 1),
        ("log_dict", 1),
    ],
)
def test_a_ctrl_c_while_the_runs_are_made_leaves_nothing(name, nth, database, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        found_interrupted(name, nth, before=False, monkeypatch=monkeypatch)
    assert left_of_it() == ([], [])
    # What is deleted has been made: the founding was in its middle.
    gone = MlflowClient().search_runs(["0"], run_view_type=ViewType.DELETED_ONLY)
    assert len(gone) == (nth if name == "create_run" else 1 + MEMBERS)
    assert pbt_flow.list_populations() == []


def test_an_error_while_the_runs_are_made_leaves_nothing(database, monkeypatch):
    with pytest.raises(pbt_flow.StoreError, match="no room"):
        found_interrupted(
            "log_dict", 1, before=True, monkeypatch=monkeypatch, error=OSError("no room")
        )
    assert left_of_it() == ([], [])


@pytest.mark.parametrize(("name", "nth"), [("create_run", 2), ("log_dict", 1)])
def test_the_run_that_mlflow_run_has_made_stays_and_is_no_populations_any_more(
    name, nth, database, monkeypatch
):
    launched = MlflowClient().create_run("0", tags={"theirs": "stays"}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", launched)
    MlflowClient().log_text(launched, "theirs", "theirs.txt")
    nth -= name == "create_run"  # The population's own run is there already.
    with pytest.raises(KeyboardInterrupt):
        found_interrupted(name, nth, before=False, monkeypatch=monkeypatch)
    (run,), (file,) = left_of_it()
    assert (run.info.run_id, run.info.status, file.name) == (launched, "KILLED", "theirs.txt")
    assert [tag for tag in run.data.tags if tag.startswith("pbt.")] == []
    assert run.data.tags["theirs"] == "stays"
    assert pbt_flow.list_populations() == []


@pytest.mark.parametrize(
    ("owner", "age", "expected"),
    [
        ("this process", 0, "being made"),
        ("one that is dead", 0, "never begun"),
        ("one elsewhere", 0, "being made"),
        ("one elsewhere", 3600, "never begun"),
        ("", 3600, "never begun"),
    ],
)
def test_what_has_no_manifest_is_being_made_as_long_as_somebody_may_make_it(
    owner, age, expected, database
):
    names = {"this process": new_owner(), "one elsewhere": "elsewhere:1:a-b-c:d"}
    here = new_owner().split(":")
    names["one that is dead"] = ":".join([here[0], "999999999", here[2], here[3]])
    client, began = MlflowClient(), int((time.time() - age) * 1000)
    tags = {"pbt.role": "population", FOUNDER: names.get(owner, owner)}
    run = client.create_run("0", start_time=began, tags=tags)
    (listed,) = pbt_flow.list_populations()
    assert (listed.run_id, listed.status) == (run.info.run_id, expected)
    with pytest.raises(pbt_flow.StoreError, match="no population at .* has begun; .* list shows"):
        pbt_flow.load("last")
    refused = "is just being made" if expected == "being made" else "never began"
    with pytest.raises(pbt_flow.StoreError, match=refused):
        pbt_flow.load(run.info.run_id)
    if expected == "being made":
        with pytest.raises(pbt_flow.PopulationError, match="is just being made"):
            pbt_flow.delete(run.info.run_id)
    else:
        assert pbt_flow.delete(run.info.run_id).startswith("deleted ")
        assert pbt_flow.list_populations() == []


def test_a_manifest_that_was_half_written_is_none(database):
    client = MlflowClient()
    run_id = client.create_run("0", tags={"pbt.role": "population"}).info.run_id
    client.log_text(run_id, '{"settings": {', "population.json")
    client.set_terminated(run_id, "KILLED")
    with pytest.raises(pbt_flow.StoreError, match="never began"):
        pbt_flow.load(run_id)


def test_a_population_whose_maker_died_before_it_claimed_it_can_be_resumed(trained, monkeypatch):
    (made,) = trained()
    client, here = MlflowClient(), new_owner().split(":")
    run_id = create_population(
        client,
        get_tracking_uri(),
        replace(Store.open(made.run_id).manifest, members=[]),
        tags={"pbt.role": "population"},
    )[0][0].data.tags["mlflow.parentRunId"]
    dead = ":".join([here[0], "999999999", here[2], here[3]])
    client.set_tag(run_id, FOUNDER, dead)
    client.set_tag(run_id, "pbt.heartbeat", "1.0")
    assert pbt_flow.list_populations()[0].status == "interrupted"
    assert pbt_flow.resume(run_id, quiet=True).status == "finished"


# --- a database that mlflow ui has made -----------------------------------------------------------


@pytest.mark.slow
def test_a_database_of_a_server_takes_populations_in_an_experiment_of_their_own(
    database, monkeypatch
):
    """Its Default experiment keeps artifacts behind the server, which nobody has started here."""
    with contextlib.closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/0'")
    small = {"population": 2, "turns": 1, "engine": "inline", "quiet": True}
    made = pbt_flow.run("toy", **small)
    assert pbt_flow.list_populations()[0].experiment == "pbt_flow"
    assert pbt_flow.resume("last", turns=2, quiet=True).run_id == made.run_id
    way = r"set MLFLOW_TRACKING_URI to the server, .*--experiment NAME in a shell"
    with pytest.raises(pbt_flow.StoreError, match=way):
        pbt_flow.run("toy", experiment="Default", **small)
    monkeypatch.setenv("MLFLOW_RUN_ID", MlflowClient().create_run("0").info.run_id)
    with pytest.raises(pbt_flow.StoreError, match=way):
        pbt_flow.run("toy", **small)
    # One that began through the server, read from its database.
    run = MlflowClient().create_run("0", tags={"pbt.role": "population"})
    with pytest.raises(pbt_flow.StoreError, match="set MLFLOW_TRACKING_URI to the server"):
        pbt_flow.load(run.info.run_id)


@pytest.mark.parametrize(
    ("location", "uri", "expected"),
    [
        ("mlflow-artifacts:/0", "sqlite:///mlflow.db", True),
        ("mlflow-artifacts:/0/1/artifacts", "postgresql://there/db", True),
        ("mlflow-artifacts:/0", "https://server", False),
        ("mlflow-artifacts://server:5000/0", "sqlite:///mlflow.db", False),
        ("s3://bucket/0", "sqlite:///mlflow.db", False),
        ("/a/folder", "sqlite:///mlflow.db", False),
    ],
)
def test_artifacts_behind_a_server_need_it(location, uri, expected):
    assert needs_server(location, uri) == expected
