"""A population is killed at each event of its life, resumed, and compared with an undisturbed one.

Each case is a process that really ends by SIGKILL; what it left on disk and in the database is all
that the resume has. Generational populations must end as if nothing had happened, bit for bit;
asynchronous ones must conserve every turn, lineage edge, checkpoint and metric point.
"""

import functools
import multiprocessing.forkserver
import os
import signal
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from crash_points import (
    AFTER_THE_LAST_TURN,
    GROUPS,
    IN_A_RESUME,
    IN_A_TURN,
    IN_GROUPS,
    IN_STAGES,
    IN_THE_CONTROLLER,
    IN_THE_THREADS,
    SETTINGS,
    STAGES,
    run_to,
)
from mlflow.tracking import MlflowClient
from sample_tasks import Regression
from stored_populations import copy_empty, working_in

import pbt_flow
from pbt_flow.population.checkpoints import file_digest
from pbt_flow.population.turn_files import RECORD, STATE, read_name

pytestmark = pytest.mark.usefixtures("database")

MODES = ["generational", "async"]
# One of each kind runs always, all of them in the complete suite.
QUICK = {
    ("its state is there", "generational"),
    ("a member is to copy", "async"),
    ("half of those that left are told", "generational"),
}


def cases(points):
    def case(name, mode):
        marks = () if (name, mode) in QUICK else pytest.mark.slow
        return pytest.param(name, mode, marks=marks, id=f"{mode}: {name}")

    return [case(name, mode) for name, mode in points]


@functools.cache
def server():
    """Forks processes that have everything imported already: seconds for each case."""
    context = multiprocessing.get_context("forkserver")
    ours = ["crash_points", "pbt_flow.commands.run", "pbt_flow.tracking.store"]
    context.set_forkserver_preload([*ours, "torch._dynamo", "mlflow.pytorch", "frozen_imports"])
    # It must import what is tested here, and not what is installed elsewhere.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        multiprocessing.forkserver.ensure_running()
    return context


def killed(*arguments):
    """Run `run_to` in a process of its own, and make sure that it was killed."""
    process = server().Process(target=run_to, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, "the point was never reached"


def population():
    client = MlflowClient()
    (run,) = client.search_runs(
        [e.experiment_id for e in client.search_experiments()],
        "tags.`pbt.role` = 'population'",
    )
    return run.info.run_id


@pytest.fixture(scope="module")
def undisturbed_run(migrated_database, tmp_path_factory):
    """Trains a generational population that nobody kills, in its own store: what it comes to."""

    def train(check, settings):
        folder = tmp_path_factory.mktemp("undisturbed")
        copy_empty(migrated_database, folder)
        with working_in(folder):
            result = pbt_flow.run(
                Regression, mode="generational", engine="inline", quiet=True, **settings
            )
            check(result)
            return outcome(result)

    return train


@pytest.fixture(scope="module")
def undisturbed(undisturbed_run):
    """What an undisturbed population comes to."""
    return undisturbed_run(check, SETTINGS)


@pytest.fixture(scope="module")
def undisturbed_in_stages(undisturbed_run):
    """What an undisturbed population in stages comes to."""
    return undisturbed_run(check_stages, STAGES)


@pytest.fixture(scope="module")
def undisturbed_in_groups(undisturbed_run):
    """What an undisturbed population of two sub-populations comes to."""
    return undisturbed_run(check_groups, GROUPS)


def outcome(result):
    """All that must be the same whether a population was killed or not."""
    return essence(result), points(result), who_left(result)


def essence(result):
    return {
        index: [(t.plan, t.status, t.score, t.sample, t.checkpoint, t.metrics) for t in turns]
        for index, turns in result.history.turns.items()
    }


def members(result):
    client = MlflowClient()
    found = client.search_runs(
        [client.get_run(result.run_id).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{result.run_id}'",
    )
    return sorted(found, key=lambda run: int(run.data.tags["pbt.member"]))


def points(result):
    """Every metric point of every run, but for those that are times."""
    client = MlflowClient()
    return {
        (run.data.tags.get("pbt.member", "population"), key): sorted(
            (point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)
        )
        for run in [client.get_run(result.run_id), *members(result)]
        for key in run.data.metrics
        if not key.startswith("seconds/")
    }


def check(result):
    """Everything that must hold of any population that ran to its end, disturbed or not."""
    history = result.history
    assert result.status == "finished"
    for index, turns in history.turns.items():
        assert [turn.number for turn in turns] == list(range(1, SETTINGS["turns"] + 1)), index
        for before, turn in zip([None, *turns], turns, strict=False):
            plan = turn.plan
            assert turn.step == plan.trained, "a lineage has another age than its member's effort"
            if plan.donor is not None:
                given = history.turn(plan.donor.member, plan.donor.turn)
                assert (plan.start, plan.start_step) == (given.checkpoint, given.step)
                assert plan.compared_at == given.step
                assert given.score < before.score
            elif before is not None:
                assert (plan.start, plan.hparams) == (before.checkpoint, before.plan.hparams)
    # Every metric point is a turn's, and every turn's point is there, once.
    recorded = points(result)
    for index, turns in history.turns.items():
        for key, expected in {
            "score": [(t.plan.trained, t.score) for t in turns],
            "step": [(t.plan.trained, t.step) for t in turns],
            "donor": [
                (t.plan.trained, t.plan.donor.member if t.plan.donor else index) for t in turns
            ],
            "hparam/lr": [(t.plan.trained, t.plan.hparams["lr"]) for t in turns],
            "train/loss": [(t.plan.trained, t.metrics["loss"]) for t in turns],
        }.items():
            assert recorded[str(index), key] == expected, (index, key)
    for key, those in recorded.items():
        assert max(Counter(step for step, _ in those).values()) == 1, f"{key} has a point twice"
    rounds = [(5 * (n + 1), min(t[n].score for t in history.turns.values())) for n in range(5)]
    assert recorded["population", "best_score"] == rounds
    fresh = [(result.turns, result.winner.fresh.mean)]
    assert recorded["population", "winner/fresh_score"] == fresh
    assert recorded["population", "winner/score"] == [(result.turns, result.winner.score)]
    # The files are those that the records name, and no others.
    client = MlflowClient()
    kept = {(own[-1].member, own[-1].number) for own in history.turns.values()}
    kept |= {(turn.member, turn.number) for turn in [history.best_initial, *history.best_ever]}
    found = set()
    for run in members(result):
        assert run.info.status == "FINISHED"
        member = int(run.data.tags["pbt.member"])
        began = {name: run.data.params[f"init/{name}"] for name in ("lr", "batch", "loss")}
        assert began == {
            name: str(value) for name, value in history.turns[member][0].plan.hparams.items()
        }
        for path in Path(run.info.artifact_uri).rglob("*"):
            if path.is_dir():
                continue
            turn = history.turn(member, int(path.parent.name))
            kind, attempt = read_name(path.name) or ("of another name", None)
            assert attempt == turn.plan.attempt, f"{path} was left behind"
            assert kind in (STATE, RECORD), f"{path} was left behind"
            if kind == STATE:
                assert file_digest(path) == turn.checkpoint.digest
                found.add((member, turn.number))
    assert found == kept
    parent = client.get_run(result.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["pbt.winner"] == result.winner.run_id
    artifacts = {artifact.path for artifact in client.list_artifacts(result.run_id)}
    # Each controller but the first says what it has found.
    artifacts.discard("accepted")
    left = {"report", "schedule.json", "schedule.csv", "samples"}
    if result.average is not None:
        left.add("average")
    assert artifacts == {"population.json", "result.json", "journal", *left}
    assert parent.data.tags["pbt.heartbeat"] == ""
    # Its model is there once, whole, and the winner's.
    (model,) = client.search_logged_models([parent.info.experiment_id])
    assert (model.status, model.model_id) == ("READY", parent.data.tags["pbt.model"])
    assert [out.model_id for out in parent.outputs.model_outputs] == [model.model_id]
    assert model.tags["pbt.checkpoint"] == result.best.checkpoint.digest


def who_left(result):
    """Of each member when it left, as its run says it, and whether its run has ended so."""
    return [(run.data.tags.get("pbt.left"), run.info.status) for run in members(result)]


def check_stages(result):
    """Everything that must hold of any population in stages, disturbed or not."""
    history = result.history
    assert result.status == "finished"
    assert sorted(map(len, history.turns.values())) == [1, 1, 1, 1, 3, 3, 5, 5]
    told = [
        {1: "stage 1 of 3, after 1 turn", 3: "stage 2 of 3, after 3 turns"}.get(len(turns))
        for _, turns in sorted(history.turns.items())
    ]
    assert who_left(result) == [(text, "FINISHED") for text in told]
    for run in members(result):
        own = history.turns[int(run.data.tags["pbt.member"])]
        if len(own) < 5:
            assert run.info.end_time == int(own[-1].ended * 1000)
    for key, those in points(result).items():
        assert max(Counter(step for step, _ in those).values()) == 1, f"{key} has a point twice"
    # Of who left no checkpoint is kept, but for one that the report at the end looked at.
    kept = {(own[-1].member, own[-1].number) for own in history.turns.values() if len(own) == 5}
    kept |= {(turn.member, turn.number) for turn in [history.best_initial, *history.best_ever]}
    found = {
        (int(run.data.tags["pbt.member"]), int(path.parent.name))
        for run in members(result)
        for path in Path(run.info.artifact_uri).rglob("state*.pt")
    }
    assert found == kept


def compare(result, mode, undisturbed):
    check(pbt_flow.load(result.run_id))
    if mode == "generational":
        assert outcome(result) == undisturbed


# Where no other turn is decided meanwhile both modes do the same, and of a generation all can be
# compared.
EVENTS = [
    *product(IN_THE_CONTROLLER, MODES),
    *((name, "generational") for name in IN_A_TURN | AFTER_THE_LAST_TURN),
    ("its state is there", "async"),
    ("two finalists are judged", "async"),
]


@pytest.mark.parametrize(("name", "mode"), cases(EVENTS))
def test_a_population_that_is_killed_at_any_event_ends_as_if_it_had_not_been(
    name, mode, undisturbed, tmp_path
):
    killed(name, mode, str(tmp_path))
    compare(pbt_flow.resume(population(), quiet=True), mode, undisturbed)


# What a thread does is the same in both modes; what other turns there are meanwhile is not.
THREADED = [*((name, "generational") for name in IN_THE_THREADS), ("a turn is logged", "async")]


@pytest.mark.parametrize(("name", "mode"), cases(THREADED))
def test_nor_does_it_matter_what_threads_and_workers_were_doing_just_then(
    name, mode, undisturbed, tmp_path
):
    killed(name, mode, str(tmp_path), None, "processes")
    compare(pbt_flow.resume(population(), quiet=True), mode, undisturbed)


STAGED = [
    *((name, "generational") for name in IN_STAGES),
    ("a stage has ended", "async"),
    ("the first turn of the next stage is there", "async"),
]


@pytest.mark.parametrize(("name", "mode"), cases(STAGED))
def test_one_in_stages_that_is_killed_at_the_end_of_one_has_the_same_stages_and_winner(
    name, mode, undisturbed_in_stages, tmp_path
):
    killed(name, mode, str(tmp_path))
    result = pbt_flow.resume(population(), quiet=True)
    for one in (result, pbt_flow.load(result.run_id)):
        check_stages(one)
    if mode == "generational":
        assert outcome(result) == undisturbed_in_stages


def check_groups(result):
    """Everything that must hold of sub-populations of periods 1 and 2, disturbed or not."""
    history = result.history
    assert result.status == "finished"
    assert [len(turns) for turns in history.turns.values()] == [4] * 8
    both = [turn for turns in history.turns.values() for turn in turns if turn.plan.donor]
    assert any(turn.plan.donor.hparams_of for turn in both)
    for turn in both:
        donor = turn.plan.donor
        given = [history.turn(source.member, source.turn) for source in donor.sources]
        assert (turn.plan.start, turn.plan.start_step) == (given[0].checkpoint, given[0].step)
        assert all(record.step == turn.plan.compared_at for record in given)
        assert turn.member < 4 or turn.plan.compared_at % 10 == 0
        if donor.hparams_of is not None:
            assert turn.plan.hparams == given[1].plan.hparams
    recorded = points(result)
    for index, turns in history.turns.items():
        donors = [(turn.plan.trained, turn.plan.donor) for turn in turns if turn.plan.donor]
        told = [(at, donor.hparams_of.member) for at, donor in donors if donor.hparams_of]
        assert recorded.get((str(index), "hparams_donor"), []) == told
    for key, those in recorded.items():
        assert max(Counter(step for step, _ in those).values()) == 1, f"{key} has a point twice"


# One that is killed in both modes, the others in the mode in which everything can be compared.
GROUPED = [(name, "generational") for name in IN_GROUPS] + [(next(iter(IN_GROUPS)), "async")]


@pytest.mark.parametrize(("name", "mode"), cases(GROUPED))
def test_one_with_sub_populations_that_is_killed_takes_from_both_sources_as_if_it_had_not_been(
    name, mode, undisturbed_in_groups, tmp_path
):
    killed(name, mode, str(tmp_path))
    result = pbt_flow.resume(population(), quiet=True)
    for one in (result, pbt_flow.load(result.run_id)):
        check_groups(one)
    if mode == "generational":
        assert outcome(result) == undisturbed_in_groups


RESUMED = [
    *((name, "generational") for name in IN_A_RESUME),
    ("it is not said yet what was found", "async"),
    ("the first turn after it is committed", "async"),
]


@pytest.mark.parametrize(("name", "mode"), cases(RESUMED))
def test_so_does_one_whose_resume_is_killed(name, mode, undisturbed, tmp_path):
    killed("a turn is accepted", mode, str(tmp_path))
    killed(name, mode, str(tmp_path), population())
    compare(pbt_flow.resume(population(), quiet=True), mode, undisturbed)


@pytest.mark.slow
def test_so_does_one_that_is_killed_again_at_every_turn(undisturbed, tmp_path):
    """After the second kill there are claims and attempts of more than one controller."""
    mode = "generational"
    killed("the first turn of all is logged", mode, str(tmp_path))
    for _ in range(4):
        killed("the first turn after it is committed", mode, str(tmp_path), population())
    compare(pbt_flow.resume(population(), quiet=True), mode, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("points", zip(list(IN_A_TURN)[:4], list(IN_A_TURN)[4:], strict=True))
def test_workers_that_are_killed_at_any_event_of_a_turn_change_nothing(
    points, undisturbed, tmp_path, monkeypatch
):
    """The second point is that of the worker that takes the first one's place."""
    monkeypatch.setenv("PBT_TEST_POINTS", "|".join([str(tmp_path), *points]))
    result = pbt_flow.run(
        "crash_points:Fragile", mode="generational", workers=1, quiet=True, **SETTINGS
    )
    assert len(list(tmp_path.glob("used-*"))) == 2, "a point was never reached"
    compare(result, "generational", undisturbed)


@pytest.mark.slow
def test_a_population_that_was_killed_while_its_runs_were_made_is_none(tmp_path):
    """Its manifest is written last: there is nothing to lose, and every command says so."""
    from pbt_flow.cli.main import main

    earlier = pbt_flow.run(Regression, engine="inline", turns=1, population=2, quiet=True)
    killed("the runs are being made", "async", str(tmp_path))
    left, _ = pbt_flow.list_populations()
    assert (left.status, left.members, left.turns) == ("never begun", 4, 0)
    told = f"never began: .* delete it with python -m pbt_flow delete {left.run_id[:12]}"
    for ask in (pbt_flow.resume, pbt_flow.load, pbt_flow.show, pbt_flow.stop, pbt_flow.watch):
        with pytest.raises(pbt_flow.StoreError, match=told):
            ask(left.run_id[:12])
    assert main(["ui", left.run_id, "--no-browser"]) == 2
    assert pbt_flow.load("last").run_id == earlier.run_id
    assert main(["delete", left.run_id[:12], "--yes"]) == 0
    assert [one.run_id for one in pbt_flow.list_populations()] == [earlier.run_id]
    client = MlflowClient()
    assert len(client.search_runs(["0"])) == 3
    assert not [path for path in (tmp_path / "mlruns").rglob("*") if left.run_id in str(path)]
