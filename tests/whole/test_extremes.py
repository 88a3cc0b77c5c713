"""Numbers for show stop nothing: scores as large and as small as a float can be."""

from __future__ import annotations

import io
import json
import math
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import mlflow
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient
from optuna.distributions import CategoricalDistribution, FloatDistribution
from rich.console import Console

import pbt_flow
from pbt_flow import compare
from pbt_flow.commands import summary as of_population
from pbt_flow.commands.progress import Progress
from pbt_flow.commands.replay_arms import INITIAL, LAST, SCHEDULE, Arm, Replay, note, summary
from pbt_flow.engines.returned import read_score
from pbt_flow.population.history import Gain
from pbt_flow.population.result import Result
from pbt_flow.population.schedule import Schedule
from pbt_flow.reporting import series
from pbt_flow.reporting import summary_image as picture
from pbt_flow.reporting.comparable import Entry
from pbt_flow.reporting.comparison import Comparison
from pbt_flow.reporting.comparison_page import page as comparison_page
from pbt_flow.reporting.optuna_study import study_of
from pbt_flow.reporting.page import page
from pbt_flow.reporting.plotly_charts import charts
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.strategies.exploit import welch_p
from pbt_flow.strategies.samplers import OptunaSampler
from pbt_flow.task import Task
from pbt_flow.testing.simulation import Simulation, simulate
from pbt_flow.tracking.outcome import _description
from pbt_flow.training.diagnostics import Diagnostics
from pbt_flow.utils.interval import Interval
from pbt_flow.utils.means import deviation, difference, in_reach, mean

MAX, TINY = sys.float_info.max, 5e-324
EXTREME = [MAX, -MAX, 1e308, -1e308, 1e200, TINY, -TINY, 1e-308, 0.0, -0.0, 1.0, -3.5]
SPACE = {
    "lr": FloatDistribution(1e-300, 1e300, log=True),
    "wide": FloatDistribution(-1e308, 1e307),
    "kind": CategoricalDistribution(["a", "b"]),
}


class Told(Task):
    """Scores what it is told to, by the seed of each turn."""

    space = SPACE
    defaults = {"population": 4, "turns": 4, "interval": 2}
    scores: list[Any] = []

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        return {"largest": MAX, "infinite": -math.inf, "tiny": TINY, "none": math.nan}

    def evaluate(self) -> Any:
        return self.scores[int(self.rng.integers(len(self.scores)))]

    def metrics(self) -> Mapping[str, float]:
        return {"whole": 10**308}

    def report(self) -> Mapping[str, float]:
        return {"score": -MAX, "infinite": math.inf}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def told(scores: list[Any], direction: str) -> type[Task]:
    return type("Told", (Told,), {"scores": scores, "direction": direction})


def result_of(simulation: Simulation, **more: Any) -> Result:
    history = simulation.history
    winner = history.winner()
    reports = (
        {} if winner is None else {winner.checkpoint: {"score": winner.score, "odd": math.inf}}
    )
    return Result.of(
        history,
        run_id="0123456789",
        tracking_uri="sqlite://",
        member_runs=[f"run{n}" for n in history.members],
        reports=reports,
        max_failures=3,
        status="finished",
        budget=8,
        **more,
    )


def show_all(simulation: Simulation) -> Result:
    """Everything that is computed of a population for people to look at."""
    history, settings = simulation.history, simulation.controller.settings
    result = result_of(simulation)
    subject = ReportData(result=result, settings=settings, space=SPACE, control=result)
    for drawn in (charts(subject, shades) if (shades := series.Shades.of(history)) else {},):
        json.dumps(drawn, allow_nan=False)
    assert "<h1>" in page(subject)
    json.dumps(result.to_json(), allow_nan=False)
    assert result.headline
    assert _description(result)
    assert of_population.summary(result)
    study_of(history, SPACE, "study")
    shown = Progress(settings, "run", "store", quiet=True)
    shown._console = Console(file=io.StringIO(), force_terminal=True)
    with shown:
        for turns in history.turns.values():
            for turn in turns:
                shown.turn(turn, history)
    return result


@st.composite
def populations(draw: st.DrawFn) -> dict[str, Any]:
    one = st.one_of(st.sampled_from(EXTREME), st.floats(allow_nan=False, allow_infinity=False))
    scores = draw(st.lists(one | st.lists(one, min_size=2, max_size=3), min_size=1, max_size=6))
    exploits = ["truncation", "tournament"]
    if all(isinstance(score, list) for score in scores):
        exploits.append("ttest")
    return {
        "scores": scores,
        "direction": draw(st.sampled_from(["maximize", "minimize"])),
        "exploit": draw(st.sampled_from(exploits)),
        "mode": draw(st.sampled_from(["async", "generational"])),
        "seed": draw(st.integers(0, 99)),
    }


@pytest.mark.slow
@given(populations())
@example({"scores": [MAX], "direction": "minimize", "exploit": "truncation"})
@example({"scores": [[MAX, MAX], [-MAX, -MAX]], "direction": "maximize", "exploit": "ttest"})
@example({"scores": [[TINY, -TINY], [TINY, TINY]], "direction": "maximize", "exploit": "ttest"})
@example({"scores": [1e-200, 3e-200, TINY], "direction": "minimize", "exploit": "tournament"})
def test_scores_of_any_size_are_ranked_and_shown_without_an_error(given):
    scores, direction = given.pop("scores"), given.pop("direction")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulation = simulate(told(scores, direction), **given)
        result = show_all(simulation)
    history = simulation.history
    assert all(turn.ok for turns in history.turns.values() for turn in turns)
    last = [member.score for member in history.members.values()]
    assert simulation.best == (max(last) if direction == "maximize" else min(last))
    assert min(last) <= result.mean_score <= max(last)
    for gain in history.gains(before=4, window=99):
        assert math.isfinite(gain.gain)


@pytest.mark.parametrize(
    ("scores", "direction"),
    [
        ([MAX, -MAX], "maximize"),
        ([MAX], "minimize"),
        ([-MAX, -1e308], "maximize"),
        ([TINY, 0.0], "minimize"),
        ([TINY, 1e-310], "maximize"),
        ([MAX, 1.0, 2.0], "minimize"),
    ],
    ids=str,
)
def test_pictures_and_comparisons_of_them_can_be_drawn(scores, direction, tmp_path):
    simulations = [
        simulate(told(scores, direction), seed=seed, exploit=exploit)
        for exploit in ("truncation", "none")
        for seed in (0, 1)
    ]
    results = [show_all(simulation) for simulation in simulations]
    entries = [
        Entry(result=result, settings=simulation.controller.settings)
        for result, simulation in zip(results, simulations, strict=True)
    ]
    made = Comparison.of(entries)
    assert made.table()
    json.dumps(made.to_json(), allow_nan=False)
    assert "<h1>" in comparison_page(made)
    settings = simulations[0].controller.settings
    picture.draw(ReportData(result=results[0], settings=settings, space=SPACE), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_a_replay_of_them_can_be_told():
    schedule = Schedule(
        task="a:B",
        options={},
        space=SPACE,
        direction="maximize",
        source="abc",
        seed=0,
        score=MAX,
        best_initial=None,
        segments=[],
    )
    arms = [
        Arm(name=name, members=[0, 1], hparams=None, scores=scores, reports=[{"x": MAX}] * 2)
        for name, scores in ((SCHEDULE, [MAX, -MAX]), (LAST, [MAX, MAX]), (INITIAL, [TINY, -TINY]))
    ]
    made = Replay(run_id="abc", tracking_uri="sqlite://", schedule=schedule, arms=arms)
    json.dumps(made.to_json(), allow_nan=False)
    assert "1.798e+308" in summary(made)
    assert "nan" not in summary(made) + note(made)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_best_are_first_in_the_live_table_and_whoever_has_no_score_is_last(direction):
    simulation = simulate(
        told([MAX, 1.0, -MAX], direction), turns=1, faults={(2, 1): ["raises"]}, seed=3
    )
    history = simulation.history
    shown = Progress(simulation.controller.settings, "run", "store", quiet=True)
    text = io.StringIO()
    shown._console = Console(file=text, force_terminal=True, width=200)
    shown._quiet = False
    with shown:
        shown.turn(history.turn(0, 1), history)
        shown._draw()
    order = [int(index) for index in re.findall(r"│ +(\d\d) │", text.getvalue())][-4:]
    sign = 1 if direction == "maximize" else -1
    scored = [m.index for m in history.members.values() if m.score is not None]
    assert order[-1] == 2
    assert sorted(order[:-1]) == scored
    fitness = [sign * history.members[index].score for index in order[:-1]]
    assert fitness == sorted(fitness, reverse=True)


# --- samplers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["TPESampler", "GPSampler"])
@pytest.mark.parametrize(
    "gains",
    [[MAX, -MAX], [1e308, 1.0, 2.0], [TINY, -TINY, 0.0], [MAX] * 3, [0.0] * 3, [1e-200, 2e-200]],
    ids=str,
)
def test_a_sampler_learns_from_gains_of_any_size(sampler, gains):
    import numpy as np

    space = {"x": FloatDistribution(0, 1), "kind": CategoricalDistribution(["a", "b"])}
    rng = np.random.default_rng(0)
    seen = [
        Gain(hparams={"x": float(rng.random()), "kind": "a"}, gain=gains[n % len(gains)])
        for n in range(12)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = OptunaSampler(sampler).fresh(space, seen, rng)
    assert 0 <= drawn["x"] <= 1


@pytest.mark.parametrize("sampler", ["TPESampler", "GPSampler"])
@pytest.mark.parametrize("scale", [2.0**900, 2.0**-900])
def test_what_a_sampler_draws_does_not_depend_on_the_unit_of_the_scores(sampler, scale):
    import numpy as np

    space = {"x": FloatDistribution(0, 1)}
    points = np.random.default_rng(1).random(12)

    def draw(unit: float) -> Any:
        seen = [Gain(hparams={"x": float(x)}, gain=float(-((x - 0.3) ** 2)) * unit) for x in points]
        return OptunaSampler(sampler).fresh(space, seen, np.random.default_rng(2))["x"]

    assert draw(scale) == pytest.approx(draw(1.0), rel=1e-3)


# --- means ----------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=1, max_size=20))
@example([MAX] * 3)
@example([MAX] * 7 + [-MAX])
@example([MAX, MAX, -MAX, -MAX, 1.0])
@example([TINY, -TINY, TINY])
def test_a_mean_lies_between_its_values_and_is_the_usual_one_where_that_exists(values):
    found = mean(values)
    assert min(values) <= found <= max(values)
    try:
        assert found == fmean(values)
    except OverflowError:
        assert max(map(abs, values)) > MAX / len(values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([math.inf, 1.0], math.inf),
        ([MAX, MAX, math.inf], math.inf),
        ([MAX, MAX, -math.inf], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([MAX, MAX, math.nan], math.nan),
        ([MAX, MAX, math.inf, -math.inf], math.nan),
    ],
)
def test_a_mean_of_what_is_not_finite_is_not_finite(values, expected):
    assert mean(values) == pytest.approx(expected, nan_ok=True)


@given(st.lists(finite, min_size=2, max_size=20))
@example([MAX, -MAX])
@example([TINY, 0.0])
def test_a_deviation_is_the_usual_one_or_larger_than_any_float(values):
    found = deviation(values)
    try:
        assert found == pytest.approx(stdev(values), rel=1e-9, abs=1e-320)
    except OverflowError:
        assert found > 1e307


@given(finite, finite)
def test_a_difference_is_a_float_and_has_the_sign_of_the_comparison(a, b):
    found = difference(a, b)
    assert math.isfinite(found)
    assert (found > 0) == (a > b)
    assert (found < 0) == (a < b)


@given(st.lists(finite, min_size=1, max_size=20))
def test_values_in_reach_keep_their_order_and_can_be_squared(values):
    found = in_reach(values)
    assert math.isfinite(sum(value * value for value in found))
    order = sorted(range(len(values)), key=values.__getitem__)
    reached = [found[n] for n in order]
    assert reached == sorted(reached)


@given(st.lists(finite, min_size=1, max_size=8))
@example([MAX, -MAX])
@example([MAX, MAX])
def test_an_interval_holds_its_mean_or_has_no_bounds(values):
    found = Interval.of(values)
    assert math.isfinite(found.mean)
    json.dumps(vars(found), allow_nan=False)
    assert str(found)
    if found.low is not None:
        assert found.low <= found.mean <= found.high


@given(st.lists(finite, min_size=2, max_size=8), st.lists(finite, min_size=2, max_size=8))
@example([TINY, 0.0, 0.0], [TINY, TINY, 0.0])
@example([MAX, -MAX], [MAX, MAX])
@example([0.0, 2e-162] + [0.0] * 6, [1.0, 1.0])
def test_a_t_test_has_a_p_value_for_any_samples(a, b):
    assert 0 <= welch_p(a, b) <= 1
    assert welch_p(a, b) == pytest.approx(welch_p(b, a))


@given(st.lists(st.lists(finite, min_size=3, max_size=3), min_size=4, max_size=6))
@example([[MAX, -MAX, MAX]] * 4)
@example([[TINY, -TINY, 0.0]] * 4)
def test_the_noise_of_any_scores_is_judged_or_not_known(scores):
    simulation = simulate(told([1.0, 2.0], "maximize"), turns=1)
    sign = Diagnostics(simulation.history, SPACE).judge_noise(scores)
    assert sign is None or "nan" not in sign.text


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "score"),
    [
        ([1e308, 1e308], 1e308),
        ([MAX] * 5, MAX),
        ([MAX, -MAX], 0.0),
        ([math.inf, 1.0], math.inf),
        ([math.inf, -math.inf], math.nan),
        ([10**308, 1], 5e307),
        (-math.inf, -math.inf),
        (TINY, TINY),
    ],
)
def test_a_score_may_be_as_large_as_a_float(returned, score):
    assert read_score(returned)[0] == pytest.approx(score, nan_ok=True)


@pytest.mark.parametrize("returned", [10**400, [1.0, -(10**400)], 10**5000], ids=["a", "b", "c"])
def test_a_score_that_no_float_can_hold_is_refused_in_words(returned):
    with pytest.raises(TypeError, match=r"evaluate\(\) must return numbers that a float can hold"):
        read_score(returned)


# --- all of it, through MLflow --------------------------------------------------------------------


class Extreme(Told):
    """Two members with the greatest float, as the case came in."""

    defaults = {"population": 2, "turns": 2, "interval": 2}
    scores = [MAX, [MAX, MAX]]
    direction = "minimize"
    report_direction = "minimize"


class Infinite(Extreme):
    scores = [math.inf, [1.0, -math.inf], math.nan]


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_a_population_of_greatest_floats_ends_is_loaded_resumed_and_compared():
    runs = [
        pbt_flow.run(Extreme, engine="inline", quiet=True, exploit=exploit).run_id
        for exploit in ("truncation", "none")
    ]
    result = pbt_flow.load(runs[0])
    assert (result.status, result.winner.score, result.mean_score) == ("finished", MAX, MAX)
    assert pbt_flow.resume(runs[0], turns=3, quiet=True).status == "finished"
    assert pbt_flow.resume(runs[1], turns=3, quiet=True).status == "finished"
    compare(runs, out="there")
    json.loads(Path("there/comparison.json").read_text(), parse_constant=pytest.fail)
    data = MlflowClient().get_run(runs[0]).data
    assert data.metrics["mean_score"] == data.metrics["best_score"] == MAX
    assert data.tags["pbt.status"] == "finished"
    member = MlflowClient().get_run(result.winner.run_id).data.metrics
    assert member["train/tiny"] == TINY
    assert mlflow.active_run() is None


@pytest.mark.usefixtures("database")
def test_a_score_that_is_not_finite_is_a_turn_that_diverged():
    result = pbt_flow.run(Infinite, engine="inline", quiet=True)
    assert result.status == "failed"
    turns = [turn for turns in result.history.turns.values() for turn in turns]
    assert {turn.status for turn in turns} == {"diverged"}
    assert all(turn.reason.startswith("the score is ") for turn in turns)
