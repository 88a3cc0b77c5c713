"""Schedules: hyperparameters by step, written down and read back strictly."""

from __future__ import annotations

import copy
import csv
import io
import json
import math

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pbt_flow.exceptions import PBTError, ScheduleError
from pbt_flow.population.lineage import ancestors
from pbt_flow.population.schedule import Schedule, Segment, schedule_of
from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.testing.simulation import simulate

SPACE = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "layers": IntDistribution(1, 4),
    "loss": CategoricalDistribution(["l1", "l2", None, True]),
}


def segment(start: int, end: int, **hparams) -> Segment:
    values = {"lr": 0.1, "layers": 2, "loss": "l1", **hparams}
    return Segment(start=start, end=end, member=0, turn=1, hparams=values)


def schedule(*segments: Segment) -> Schedule:
    return Schedule(
        task="toy",
        options={"rate": 0.5},
        space=SPACE,
        direction="maximize",
        source="abc",
        seed=3,
        score=1.25,
        best_initial={"lr": 0.01, "layers": 1, "loss": None},
        segments=segments or (segment(0, 10), segment(10, 30, lr=0.05, loss=True)),
    )


def simulated(**settings):
    history = simulate(
        NoisyQuadratic,
        population=6,
        turns=8,
        interval=5,
        options={"dimensions": 3},
        **settings,
    ).history
    winner = history.winner()
    made = schedule_of(
        winner,
        history,
        task="quadratic",
        options={},
        space=NoisyQuadratic.space,
        source="run",
        seed=0,
    )
    return history, winner, made


def test_a_schedule_says_what_is_live_at_each_step():
    made = schedule()
    assert made.steps == 30
    assert [made.at(step)["lr"] for step in (0, 9, 10, 29)] == [0.1, 0.1, 0.05, 0.05]


@pytest.mark.parametrize("step", [-1, 30])
def test_beyond_its_end_a_schedule_says_nothing(step):
    with pytest.raises(ScheduleError, match=f"no hyperparameters for step {step}"):
        schedule().at(step)


@pytest.mark.parametrize("seed", range(3))
def test_the_schedule_of_a_winner_is_that_of_its_ancestors(seed):
    history, winner, made = simulated(seed=seed)
    assert made.steps == winner.step
    assert made.score == winner.score
    assert made.best_initial == history.best_initial.plan.hparams
    for ancestor in ancestors(history, winner):
        for step in range(ancestor.plan.start_step, ancestor.step):
            assert made.at(step) == ancestor.plan.hparams


def test_a_failed_turn_has_no_schedule():
    history, winner, _ = simulated(faults={(2, 8): ["raises"]})
    settings = {"task": "", "options": {}, "space": {}, "source": "", "seed": 0}
    assert winner.member != 2
    with pytest.raises(
        ScheduleError, match="turn 8 of member 2 has no schedule: it ended as failed"
    ):
        schedule_of(history.turns[2][-1], history, **settings)


def test_a_schedule_survives_json_with_the_type_of_every_value():
    read = Schedule.from_json(json.loads(json.dumps(schedule().to_json(), allow_nan=False)))
    assert read == schedule()
    live = read.at(29)
    assert {name: type(value) for name, value in live.items()} == {
        "lr": float,
        "layers": int,
        "loss": bool,
    }
    assert read.best_initial["loss"] is None


def test_a_winner_of_a_real_population_survives_json():
    *_, made = simulated()
    assert Schedule.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_schedule_knows_the_budget_of_a_population_that_ended_before_it():
    history, winner, _ = simulated()
    how = {"task": "", "options": {}, "space": NoisyQuadratic.space, "source": "", "seed": 0}
    short = schedule_of(winner, history, **how, budget=100)
    assert short.followed == Schedule.from_json(short.to_json()).followed == 100 != winner.step
    # Earlier versions know no budget, and read the schedules that need none.
    full = schedule_of(winner, history, **how, budget=winner.step)
    assert "budget" not in full.to_json()
    assert full.followed == Schedule.from_json(full.to_json()).followed == winner.step


def test_the_table_has_a_line_for_each_segment_with_every_digit():
    lr = 0.1 + 0.2
    first, second = csv.DictReader(
        io.StringIO(schedule(segment(0, 10, lr=lr), segment(10, 12)).to_csv())
    )
    assert float(first["lr"]) == lr
    assert (second["start"], second["end"], second["layers"]) == ("10", "12", "2")


def changed(*path, to):
    def change(plain):
        for key in path[:-1]:
            plain = plain[key]
        plain[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("version", to=2), "version 2"),
        (changed("task", to=7), "task cannot be 7"),
        (changed("seed", to=True), "seed cannot be True"),
        (changed("score", to=math.nan), "score cannot be nan"),
        (changed("score", to=10**400), "score cannot be 1000"),
        (changed("direction", to="up"), "direction cannot be 'up'"),
        (changed("budget", to=0), "budget cannot be 0"),
        (changed("budget", to=None), "budget cannot be None"),
        (changed("extra", to=1), r"unknown fields \['extra'\]"),
        (lambda plain: plain.pop("seed"), r"missing or unknown fields \['seed'\]"),
        (changed("segments", to=[]), "no segments"),
        (changed("segments", to={}), "segments cannot be {}"),
        (changed("segments", 0, to=5), "segment 1 must be a JSON object, got 5"),
        (changed("segments", 0, "start", to=1), "must begin at 0"),
        (changed("segments", 1, "start", to=11), "segment 2 goes from step 11 to 30"),
        (changed("segments", 1, "end", to=10), "segment 2 goes from step 10 to 10"),
        (changed("segments", 1, "end", to=30.0), "segment 2: end cannot be 30.0"),
        (changed("segments", 0, "hparams", "lr", to=2.0), "'lr': 2.0 does not lie"),
        (changed("segments", 0, "hparams", "layers", to=2.5), "'layers': 2.5 does not lie"),
        (changed("segments", 0, "hparams", "loss", to=1), "'loss': 1 does not lie"),
        (changed("segments", 0, "hparams", "mode", to=1), "unknown hyperparameter 'mode'"),
        (changed("best_initial", to={"lr": 0.1}), "'layers' has no value"),
        (changed("space", "lr", to={"name": "Gauss"}), "unreadable domain"),
    ],
)
def test_what_is_not_exactly_a_schedule_is_refused(change, message):
    plain = copy.deepcopy(schedule().to_json())
    change(plain)
    with pytest.raises(ScheduleError, match=message):
        Schedule.from_json(plain)


@pytest.mark.parametrize("plain", [None, [], "schedule", 3, {}])
def test_what_is_no_object_of_ours_is_refused(plain):
    with pytest.raises(ScheduleError, match="version None"):
        Schedule.from_json(plain)


def test_a_bad_schedule_is_the_users_error():
    assert issubclass(ScheduleError, PBTError)
