"""Replay: fresh models along a schedule, checked step by step, and what they are compared with."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from optuna.distributions import FloatDistribution
from patience import PATIENCE, until
from sample_tasks import KeepsTheDonorsRate, Regression

import pbt_flow
from pbt_flow import report
from pbt_flow.cli.main import main
from pbt_flow.commands.replay import replay, resume, settings_of
from pbt_flow.commands.replay_arms import INITIAL, LAST, SCHEDULE, Replay, arms_of, note, summary
from pbt_flow.commands.replay_turns import ReplayScreen, SchedulePlanner
from pbt_flow.exceptions import (
    PopulationError,
    ReplayError,
    ScheduleError,
    SettingsError,
    SpaceError,
    StoreError,
    StoreUnavailable,
)
from pbt_flow.population.history import History
from pbt_flow.population.records import Member
from pbt_flow.population.schedule import Schedule, Segment, schedule_of
from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.testing.memory_store import MemoryStore
from pbt_flow.testing.simulated_engine import SimulatedEngine
from pbt_flow.testing.simulation import simulate
from pbt_flow.tracking.store import Store
from pbt_flow.training.controller import Controller
from pbt_flow.utils.interval import Interval


def schedule(*rates: float, steps: int = 5, **changes) -> Schedule:
    segments = [
        Segment(start=n * steps, end=(n + 1) * steps, member=0, turn=n + 1, hparams={"lr": rate})
        for n, rate in enumerate(rates)
    ]
    made = Schedule(
        task="quadratic",
        options={"dimensions": 5},
        space=NoisyQuadratic.space,
        direction="minimize",
        source="0123456789abcdef",
        seed=0,
        score=0.25,
        best_initial={"lr": 0.01},
        segments=segments,
    )
    return dataclasses.replace(made, **changes)


class Recorded(NoisyQuadratic):
    """Notes the rate of every single step, by model."""

    lived: ClassVar[dict[int, list[float]]] = {}

    def train(self, hparams, steps):
        rates = self.lived.setdefault(self.seed, [])
        for _ in range(steps):
            super().train(hparams, 1)
            rates.append(hparams["lr"])
        return {"live/lr": hparams["lr"]}


def planned(plan: Schedule, seeds: int) -> SchedulePlanner:
    return SchedulePlanner(schedule=plan, arms=arms_of(plan, seeds), seed=1)


def simulated(
    plan: Schedule, seeds: int, *, task=NoisyQuadratic, faults=None, slots=3, outages=(), **options
):
    """A replay in memory: its arms and its store, which has been told of all its turns."""
    planner = planned(plan, seeds)
    settings = settings_of(plan, planner.arms, workers=1)
    engine = SimulatedEngine(
        task=lambda seed: task(seed=seed, **options), seed=1, slots=slots, faults=faults or {}
    )
    store, screen = MemoryStore(plan.space, engine, outages=outages), ReplayScreen(planner)
    history = History(direction=plan.direction)
    history.begin(Member(index=n, hparams=point) for n, point in enumerate(settings.initial))
    controller = Controller(
        settings,
        store,
        engine,
        history,
        screen,
        clock=lambda: engine.now,
        pause=engine.pass_time,
        planner=planner,
    )
    controller.go(Held())
    controller.queues.drain()
    planner.enter_results(history)
    return planner.arms, store


class Held:
    """A lease that is never lost."""

    lost = False
    asked_to_stop = False
    is_silent = False


def test_each_arm_has_its_models_and_what_they_hold():
    arms = arms_of(schedule(0.1, 0.2), 3)
    assert [(arm.name, list(arm.members), arm.hparams) for arm in arms] == [
        (SCHEDULE, [0, 1, 2], None),
        (LAST, [3, 4, 5], {"lr": 0.2}),
        (INITIAL, [6, 7, 8], {"lr": 0.01}),
    ]


@pytest.mark.parametrize("best", [None, {"lr": 0.2}])
def test_an_initial_setting_that_is_not_there_or_is_the_last_one_is_no_arm(best):
    names = [arm.name for arm in arms_of(schedule(0.1, 0.2, best_initial=best), 2)]
    assert names == [SCHEDULE, LAST]


def test_every_step_is_trained_under_the_schedules_hyperparameters():
    Recorded.lived.clear()
    plan = schedule(0.3, 0.3, 0.1, 0.05)
    arms, store = simulated(plan, 2, task=Recorded, dimensions=4)
    along = [plan.at(step)["lr"] for step in range(plan.steps)]
    lived = list(Recorded.lived.values())
    assert sorted(lived) == sorted([along] * 2 + [[0.05] * 20] * 2 + [[0.01] * 20] * 2)
    assert len(store.told) == 6 * 4
    assert [len(arm.scores) for arm in arms] == [2, 2, 2]


def test_only_the_newest_checkpoint_of_each_model_is_kept():
    _, store = simulated(schedule(0.1, 0.2, 0.3), 2, slots=2)
    assert set(store.engine.states) == {(member, 3) for member in range(6)}
    # Beside those of the models, two that are being written, and one that has just been followed.
    assert store.engine.most_states <= 6 + 2 + 1


def test_a_model_that_fails_ends_alone_and_its_reason_is_kept():
    faults = {(0, 2): ["raises"], (4, 1): ["dies", "dies"]}
    arms, store = simulated(schedule(0.1, 0.2, 0.3), 2, faults=faults)
    assert [len(arm.scores) for arm in arms] == [1, 2, 1]
    assert arms[0].errors == {0: "raised by the simulation"}
    assert arms[2].errors == {4: "the worker dies"}
    assert [t.number for t in store.told if t.member == 0] == [1, 2]
    assert store.retired == [0, 4]


@pytest.mark.parametrize("fault", ["dies", "hangs"])
def test_a_turn_whose_worker_is_lost_is_tried_again_and_changes_no_score(fault):
    plan = schedule(0.1, 0.2, 0.3)
    arms, store = simulated(plan, 2, faults={(0, 3): [fault], (3, 2): [fault]})
    undisturbed, _ = simulated(plan, 2)
    assert [arm.scores for arm in arms] == [arm.scores for arm in undisturbed]
    assert [arm.errors for arm in arms] == [{}, {}, {}]
    begins = [(m, n) for _, event, m, n in store.engine.log if event == "begins"]
    assert begins.count((0, 3)) == begins.count((3, 2)) == 2


def test_a_store_that_is_away_for_a_while_misses_nothing():
    plan = schedule(0.1, 0.2, 0.3, 0.2)
    arms, store = simulated(plan, 2, outages=[(1.0, 3.0), (4.0, 400.0)])
    undisturbed, there = simulated(plan, 2)
    assert arms == undisturbed
    assert store.engine.log == there.engine.log
    assert sorted(store.told, key=repr) == sorted(there.told, key=repr)


def test_a_model_that_has_begun_goes_first_and_nobody_waits_or_is_compared():
    plan = schedule(*[0.1] * 12)
    _, store = simulated(plan, 1, slots=1)
    begins = [(m, n) for _, event, m, n in store.engine.log if event == "begins"]
    assert begins == [(member, number) for member in range(3) for number in range(1, 13)]
    assert store.tags == {}


def test_values_that_the_task_did_not_obey_are_found_out():
    class Deaf(NoisyQuadratic):
        """Trains on with the rate that it began with."""

        def train(self, hparams, steps):
            super().train(hparams, steps)
            return {"live/lr": 0.3}

    with pytest.raises(ReplayError, match="turn 2: the task trained with lr = 0.3, and .* 0.2"):
        simulated(schedule(0.3, 0.2, best_initial={"lr": 0.3}), 1, task=Deaf, slots=1)


def test_a_turn_under_other_values_than_the_schedules_is_refused():
    plan = schedule(0.1, 0.2)
    turn, planner = simulated(plan, 1)[1].told[0], planned(plan, 1)
    other = dataclasses.replace(turn.plan, hparams={"lr": 0.15})
    planner.check(turn)
    with pytest.raises(ReplayError, match="trained step 0 under"):
        planner.check(dataclasses.replace(turn, plan=other))


@pytest.mark.slow
def test_the_replay_of_the_noisy_quadratic_beats_its_last_rate_by_an_order_of_magnitude():
    """Measured before this was written: 0.151 along the schedule, 4.97 at the last rate."""
    found = simulate(
        NoisyQuadratic,
        mode="generational",
        init="uniform",
        explore="perturb:resample_probability=0",
        population=20,
        turns=50,
        interval=40,
        seed=3,
    )
    plan = schedule_of(
        found.history.winner(),
        found.history,
        task="quadratic",
        options={},
        space=NoisyQuadratic.space,
        source="run",
        seed=3,
    )
    arms, _ = simulated(plan, 16)
    along, last, initial = (Interval.of(arm.scores) for arm in arms)
    assert 10 * along.mean < last.mean
    assert along.high < initial.low
    # Fresh models do not do as well as the luckiest of many, but nearly.
    assert found.best < along.mean < 2.5 * found.best


def test_the_interval_holds_the_mean_of_most_samples():
    rng = np.random.default_rng(0)
    held = [
        (found := Interval.of(rng.normal(3, 1, size=5).tolist())).low < 3 < found.high
        for _ in range(2000)
    ]
    assert 0.94 < np.mean(held) < 0.96
    assert Interval.of([2.0]) == Interval(mean=2.0, low=None, high=None)
    assert str(Interval.of([2.0])) == "2"
    assert str(Interval.of([1.0, 1.0])) == "1 [1, 1]"


# --- settings -------------------------------------------------------------------------------------


def test_a_replay_has_seeds_of_its_own_and_nobody_copies():
    plan = schedule(0.1, 0.2)
    made = settings_of(plan, arms_of(plan, 2), workers=1)
    assert (made.population, made.turns, made.interval, made.seed) == (6, 2, 5, 1)
    assert made.is_control
    assert made.options == {"dimensions": 5, "decay": "none"}
    assert made.name == "replay of 01234567"


class Other(NoisyQuadratic):
    space: ClassVar = {"rate": FloatDistribution(0, 1)}


def test_a_schedule_of_another_space_is_refused():
    plan = schedule(0.1)
    with pytest.raises(SpaceError):
        settings_of(plan, arms_of(plan, 1), task=Other)


def test_without_a_model_there_is_nothing_to_replay():
    with pytest.raises(ReplayError, match="seeds must be at least 1"):
        replay(schedule(0.1), seeds=0)


# --- in MLflow ------------------------------------------------------------------------------------

INLINE = {"engine": "inline"}


@pytest.fixture
def result(trained):
    exploit = "truncation:fraction=0.5"
    (made,) = trained({"turns": 3, "population": 4, "interval": 5, "exploit": exploit})
    assert made.winner.hparams != made.best_initial.hparams
    return made


def kept_schedule(result):
    path = MlflowClient().download_artifacts(result.run_id, "schedule.json")
    return Schedule.from_json(json.loads(Path(path).read_text()))


def children(run_id):
    client = MlflowClient()
    found = client.search_runs(
        [client.get_run(run_id).info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'"
    )
    return {run.info.run_name: run for run in found}


def test_the_command_replays_a_winner_as_runs_in_mlflow(result, capsys):
    capsys.readouterr()
    assert main(["replay", result.run_id, "--seeds", "2", "--engine", "inline", "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    client = MlflowClient()
    parent = client.get_run(told["replay"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["pbt.replays"] == told["source"] == result.run_id
    runs = children(told["replay"])
    assert set(told["arms"]) == {SCHEDULE, LAST, INITIAL}
    assert runs.keys() == {f"{arm}-{n:02d}" for arm in told["arms"] for n in range(2)}
    plan = kept_schedule(result)
    for number in range(2):
        run = runs[f"{SCHEDULE}-{number:02d}"]
        points = client.get_metric_history(run.info.run_id, "hparam/lr")
        lived = [(p.step, p.value) for p in sorted(points, key=lambda p: p.step)]
        assert lived == [(s.end, s.hparams["lr"]) for s in plan.segments]
        assert run.data.metrics["score"] == told["arms"][SCHEDULE]["scores"][number]
        assert run.data.tags["pbt.arm"] == SCHEDULE
        assert run.info.status == "FINISHED"
    mean = told["arms"][LAST]["mean"]["score"]["mean"]
    assert parent.data.metrics[f"{LAST}/score_mean"] == mean
    assert parent.data.tags["mlflow.note.content"].startswith("**Replay of")
    assert "the winner's schedule" in err
    assert "error" in told["arms"][SCHEDULE]["mean"]


def test_a_schedule_file_is_enough_and_the_same_seed_gives_the_same_models(result, tmp_path):
    client = MlflowClient()
    path = client.download_artifacts(result.run_id, "schedule.json", str(tmp_path))
    plan = kept_schedule(result)
    first = replay(plan, seeds=1, seed=7, **INLINE)
    again = replay(plan, seeds=1, seed=7, **INLINE)
    other = replay(plan, seeds=1, seed=8, **INLINE)
    assert first.to_json()["arms"] == again.to_json()["arms"]
    assert first.arms[0].scores != other.arms[0].scores
    assert main(["replay", path, "--seeds", "1", "--engine", "inline"]) == 0


def test_a_task_that_keeps_the_restored_rate_is_found_out(result):
    plan = kept_schedule(result)
    first, *rest = plan.segments
    changed = [
        dataclasses.replace(s, hparams={**s.hparams, "lr": s.hparams["lr"] / 2}) for s in rest
    ]
    moving = dataclasses.replace(plan, segments=(first, *changed))
    with pytest.raises(ReplayError, match="a restored optimiser may have brought"):
        replay(moving, seeds=1, task=KeepsTheDonorsRate, **INLINE)
    states = [run.info.status for run in MlflowClient().search_runs(["0"], max_results=4)]
    assert "FAILED" in states


def digests(run_id):
    """The state after every turn of every model."""
    history = pbt_flow.load(run_id).history
    turns = (turn for own in history.turns.values() for turn in own)
    return {(turn.member, turn.number): turn.checkpoint for turn in turns}


def everything(run_id):
    """What MLflow says of a replay: of each model its points and status; of all, the means."""
    client, told = MlflowClient(), {}
    for name, run in children(run_id).items():
        history = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        told[name] = {
            key: sorted((point.step, point.value) for point in points)
            for key, points in history.items()
            if not key.startswith("seconds/")
        }
        told[name]["status"] = run.info.status
    parent = client.get_run(run_id)
    for key in parent.data.metrics:
        told[key] = [point.value for point in client.get_metric_history(run_id, key)]
    return told


class Rounds(NoisyQuadratic):
    """Would have of a population what a replay must not do, and stops at the seventh turn."""

    defaults: ClassVar = {"mode": "generational", "seconds": 1e9, "target": 1e9, "keep": 9}
    trained = 0
    stops = 0

    def train(self, hparams, steps):
        Rounds.trained += 1
        if Rounds.trained == Rounds.stops:
            signal.raise_signal(signal.SIGINT)
        return super().train(hparams, steps)


@pytest.mark.slow
def test_a_replay_that_was_interrupted_goes_on_to_what_it_would_have_come_to(
    database, monkeypatch, capsys
):
    plan = schedule(0.1, 0.2, 0.3, task="test_replay:Rounds")
    whole = replay(plan, seeds=1, quiet=True, **INLINE)
    monkeypatch.setattr(Rounds, "stops", Rounds.trained + 5)
    with pytest.raises(KeyboardInterrupt):
        replay(plan, seeds=1, **INLINE)
    command = capsys.readouterr().err.splitlines()[-1].split()
    assert command[:4] == ["python", "-m", "pbt_flow", "resume"]
    run_id = command[4]
    states = {name: run.info.status for name, run in children(run_id).items()}
    assert states == {"schedule-00": "FINISHED", "last-00": "KILLED", "best_initial-00": "KILLED"}
    assert len(digests(run_id)) == 5
    assert main([*command[3:], "--engine", "inline", "--json"]) == 0
    out, _ = capsys.readouterr()
    assert json.loads(out)["arms"] == whole.to_json()["arms"]
    assert digests(run_id) == digests(whole.run_id)
    assert everything(run_id) == everything(whole.run_id)
    # Once more, with nothing left to do: nothing is said twice.
    resume(run_id, quiet=True)
    assert everything(run_id) == everything(whole.run_id)
    assert MlflowClient().get_run(run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_locked_database_does_not_end_a_replay(database, monkeypatch):
    plan, log, away = schedule(0.1, 0.2, task="test_replay:Rounds"), Store.log_turns, [1, 2]

    def log_turns(self, turns):
        if away:
            away.pop()
            raise StoreUnavailable("the database is locked", "wait")
        log(self, turns)

    whole = replay(plan, seeds=1, quiet=True, **INLINE)
    monkeypatch.setattr(Store, "log_turns", log_turns)
    made = replay(plan, seeds=1, quiet=True, **INLINE)
    assert away == []
    assert everything(made.run_id) == everything(whole.run_id)


def test_a_replay_that_is_gone_on_with_is_checked_from_its_first_turn(database):
    made = replay(schedule(0.1, 0.2), seeds=1, quiet=True, **INLINE)
    place = Path(MlflowClient().get_run(made.run_id).info.artifact_uri, "arms.json")
    other = json.loads(place.read_text())
    other["schedule"]["segments"][0]["hparams"]["lr"] = 0.15
    place.write_text(json.dumps(other))
    with pytest.raises(ReplayError, match="member 0 trained step 0 under"):
        resume(made.run_id, quiet=True)


def test_a_replay_is_resumed_as_a_replay_and_a_population_as_a_population(result):
    made = replay(schedule(0.1, 0.2), seeds=1, quiet=True, **INLINE)
    with pytest.raises(PopulationError, match=r"is a replay; go on with pbt_flow\.resume_replay"):
        pbt_flow.resume(made.run_id, quiet=True)
    with pytest.raises(ReplayError, match="is no replay; go on with pbt_flow.resume"):
        resume(result.run_id)
    with pytest.raises(SettingsError, match=r"turns cannot change on the resume of a replay; what"):
        resume(made.run_id, turns=3)
    assert pbt_flow.load(made.run_id).turns == 6
    # Nor is it taken for a population by those that show one, or take its schedule.
    with pytest.raises(PopulationError, match="is a replay, which has no report"):
        report(made.run_id)
    assert main(["replay", made.run_id]) == 2


def test_a_replay_that_does_not_know_any_more_what_to_train_says_so(database):
    made = replay(schedule(0.1, 0.2), seeds=1, quiet=True, **INLINE)
    place = Path(MlflowClient().get_run(made.run_id).info.artifact_uri, "arms.json")
    place.write_text(place.read_text().replace("members", "models"))
    with pytest.raises(ReplayError, match="its arms cannot be read: 'members'"):
        resume(made.run_id, quiet=True)
    place.unlink()
    with pytest.raises(StoreError, match=r"no readable arms\.json.* begin another replay"):
        resume(made.run_id, quiet=True)


@pytest.mark.slow
def test_a_killed_replay_comes_bit_for_bit_to_what_an_undisturbed_one_does(tmp_path):
    path = tmp_path / "schedule.json"
    hparams = {"lr": 0.01, "batch": 4, "loss": "l2"}
    plan = schedule(*[0.01] * 6, task="sample_tasks:Misbehaving", space=Regression.space)
    plan = dataclasses.replace(
        plan,
        segments=[dataclasses.replace(s, hparams=hparams) for s in plan.segments],
        best_initial=hparams,
        options={"orders": str(tmp_path)},
    )
    path.write_text(json.dumps(plan.to_json()))
    whole = replay(plan, seeds=1, quiet=True, **INLINE)
    (tmp_path / "slow").touch()
    here = Path(__file__).parents[1]

    def disturbed(command, end, turns):
        """Let a command commit so many turns, and end it."""
        before = len(list(tmp_path.rglob("turn*.json")))
        process = subprocess.Popen(
            [sys.executable, "-m", "pbt_flow", *command],
            env={**os.environ, "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        until(
            lambda: len(list(tmp_path.rglob("turn*.json"))) >= before + turns,
            "no turn was ever committed",
        )
        process.send_signal(end)
        return process, process.communicate(timeout=PATIENCE)[1].splitlines()

    process, told = disturbed(["replay", str(path), "--seeds", "1"], signal.SIGTERM, 1)
    assert process.returncode == 130
    assert told[-1] == "python -m pbt_flow replay: interrupted"
    command = told[-2].split()[3:]
    run_id = command[1]
    runs = [MlflowClient().get_run(run_id), *children(run_id).values()]
    assert {run.info.status for run in runs} == {"KILLED"}
    assert len(runs) == 3  # of the arms, the last and the best initial setting are one
    process, _ = disturbed(command, signal.SIGKILL, 2)
    assert process.returncode == -signal.SIGKILL
    assert 3 <= len(digests(run_id)) < 12
    (tmp_path / "slow").unlink()
    assert resume(run_id, quiet=True).to_json()["arms"] == whole.to_json()["arms"]
    assert digests(run_id) == digests(whole.run_id)
    assert everything(run_id) == everything(whole.run_id)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_file_that_is_no_schedule_is_refused(text, tmp_path, capsys):
    path = tmp_path / "schedule.json"
    path.write_text(text)
    assert main(["replay", str(path)]) == 2
    assert capsys.readouterr().err.startswith("python -m pbt_flow replay: error:")
    assert issubclass(ScheduleError, ValueError)


def test_what_came_of_it_is_told_in_a_table():
    made = replay_of_nothing()
    lines = summary(made).splitlines()
    assert lines[0].split() == ["models", "score", "loss"]
    assert lines[1].split()[-3:] == ["1/2", "0.5", "0.75"]
    assert any("a model failed: no memory" in line for line in lines)
    assert note(made).splitlines()[3].startswith("| --- | ---")


def test_in_a_narrow_terminal_no_row_of_it_is_cut():
    lines = summary(replay_of_nothing(), width=40).splitlines()
    assert lines[:4] == ["the winner's schedule", "  models 1/2", "  score 0.5", "  loss 0.75"]
    assert max(map(len, lines[: lines.index("replay x") - 2])) <= 40


def test_a_report_without_the_headline_of_the_others_is_left_out_of_their_mean():
    _, last, _ = arms_of(schedule(0.1, 0.2), 3)
    last.reports.extend([{"loss": 0.5, "error": 1.0}, {"error": 2.0}, {"loss": 1.5}])
    assert last.summary() == {"loss": Interval.of([0.5, 1.5])}


def replay_of_nothing():
    plan = schedule(0.1)
    first, second, third = arms_of(plan, 2)
    first.scores.append(0.5)
    first.reports.append({"loss": 0.75})
    first.errors[1] = "no memory"
    assert not math.isnan(Interval.of(first.scores).mean)
    return Replay(run_id="x", tracking_uri="", schedule=plan, arms=[first, second, third])
