"""What is accepted on the way in is readable on the way out: spaces, options, scores and metrics.

The inputs are drawn, and the checks are those of `benchmarks/random_inputs.py`, which throws ten
thousand of them. Here a few are enough to turn red where one of the ways is broken.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from mlflow.tracking import MlflowClient
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from sample_tasks import Regression

import pbt_flow
from benchmarks.random_inputs import (
    Level,
    check_metric_input,
    check_option_input,
    check_run,
    check_space_input,
    random_metrics,
    random_space,
)
from pbt_flow.cli.parser import make_parser
from pbt_flow.exceptions import ComparisonError, RecordError, SpaceError
from pbt_flow.population.records import Turn
from pbt_flow.reporting.comparable import check_same
from pbt_flow.space import check_hparams, check_space, plain_space
from pbt_flow.task import Task, TaskError
from pbt_flow.tracking.client import local_path
from pbt_flow.tracking.create import MANIFEST
from pbt_flow.tracking.metric_names import MetricNames

pytestmark = pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")

QUIET: dict[str, Any] = {"engine": "inline", "quiet": True}
SMALL: dict[str, Any] = {**QUIET, "population": 2, "turns": 2, "interval": 2}


def choices(*values: Any) -> CategoricalDistribution:
    """A domain of choices, without Optuna's warning that its own storages take no lists."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CategoricalDistribution(values)


seeds = st.integers(0, 2**32).map(random.Random)


# --- drawn inputs ---------------------------------------------------------------------------------


@settings(max_examples=150)
@given(seeds)
def test_a_space_is_refused_by_name_or_carried_through_every_record(rng: random.Random) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        space = random_space(rng)
        try:
            check_space_input(space, rng)
        except SpaceError as error:
            named = any(repr(name)[:30] in str(error) for name in space)
            assert named, error


@settings(max_examples=150)
@given(seeds)
def test_an_option_is_refused_by_name_or_comes_back_as_it_was_given(rng: random.Random) -> None:
    try:
        check_option_input(rng)
    except TaskError as error:
        assert "option option takes" in str(error)


@settings(max_examples=100)
@given(seeds)
def test_metrics_come_back_from_the_record_and_no_two_have_one_name(rng: random.Random) -> None:
    check_metric_input(rng, lambda: rng.choice((0.1, -0.0, 1e308, [1.0, 5e-324], math.inf)))


@pytest.mark.slow
@pytest.mark.usefixtures("database")
@settings(max_examples=2)
@given(st.integers(0, 2**32))
def test_a_population_of_any_space_is_loaded_resumed_reported_replayed_and_registered(
    seed: int,
) -> None:
    rng = random.Random(seed)
    told = {name: value for name, value in random_metrics(rng).items() if value == value}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_run(_accepted(rng), told, rng.choice((None, [1, 2], {"a": [1]})))


def _accepted(rng: random.Random) -> Any:
    while True:
        try:
            space = random_space(rng)
            plain_space(space)
            return space
        except SpaceError:
            continue


# --- choices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (torch.nn.ReLU, r"choice <class '.*ReLU'> cannot be: .* give a name, such as 'ReLU'"),
        (len, "JSON cannot hold a function; give a name, such as 'len'"),
        (math.nan, "choice nan cannot be: a NaN is equal to nothing"),
        (np.float32("nan"), "a NaN is equal to nothing"),
        ((1, [math.nan]), r"choice \(1, \[nan\]\) cannot be: a NaN is equal to nothing"),
        (np.array([1, 2]), r"numpy.ndarray; give its numbers, as of .tolist\(\)"),
        (torch.zeros(2), r"torch.Tensor; give its numbers, as of .tolist\(\)"),
        (Level.LOW, "a member of an enum; give its name, 'LOW'"),
        ({1, 2}, "JSON cannot hold a set; give a sorted list"),
        (b"x", r"JSON cannot hold bytes; give a text, as of .decode\(\)"),
        ({1: 2}, "JSON has no key 1; write the keys of a mapping as text"),
        (10**400, "too great for a float"),
        ("\ud800", "has a lone surrogate"),
        ("a\0", "has a null character"),
        (Path("x"), "give a name or a number in its place"),
        (1j, "JSON cannot hold an object of builtins.complex"),
    ],
)
def test_a_choice_that_no_record_can_hold_is_refused_with_its_remedy(
    choice: Any, message: str
) -> None:
    with pytest.raises(SpaceError, match=f"hyperparameter 'act': the choice.*|{message}") as caught:
        check_space({"act": CategoricalDistribution([choice, 1])})
    assert caught.match(message)
    assert caught.match("hyperparameter 'act'")


def test_a_tuple_and_a_list_of_the_same_values_are_no_two_choices() -> None:
    space = {"a": CategoricalDistribution([(1, 2), [1, 2]])}
    with pytest.raises(SpaceError, match=r"'a': the choices \(1, 2\) and \[1, 2\] are the same"):
        check_space(space)


@pytest.mark.parametrize(
    ("dist", "message"),
    [
        (FloatDistribution(0, math.inf), "its bounds and their difference must be finite"),
        (FloatDistribution(math.nan, 1), "its bounds and their difference must be finite"),
        (FloatDistribution(-1.7e308, 1.7e308), "its bounds and their difference must be finite"),
        (FloatDistribution(0, 1, step=1e-20), "its step 1e-20 is too small"),
        (FloatDistribution(1e16, 2e16, step=1), "its step 1.0 is too small"),
        (IntDistribution(0, 2**63 - 1), "its bounds .* are too great to be computed with"),
        (IntDistribution(0, 10**400), "its bounds .* are too great to be computed with"),
    ],
)
def test_bounds_that_cannot_be_computed_with_are_refused(dist: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=f"hyperparameter 'x': {message}"):
        check_space({"x": dist})


def test_numbers_of_numpys_are_taken_as_pythons() -> None:
    space = plain_space(
        {
            "a": CategoricalDistribution(
                [np.int64(1), np.float32(0.5), np.str_("x"), np.bool_(True)]
            ),
            "b": IntDistribution(np.int64(1), np.int64(8), log=np.bool_(True)),
            "c": CategoricalDistribution([(np.int64(1), [np.float64(2)]), None]),
        }
    )
    kinds = [type(choice) for choice in space["a"].choices]  # type: ignore[attr-defined]
    assert kinds == [int, float, str, bool]
    assert type(space["b"].log) is bool  # type: ignore[attr-defined]
    given_ = {"a": np.str_("x"), "b": np.int64(3), "c": [1, [2.0]]}
    assert repr(check_hparams(given_, space)) == "{'a': 'x', 'b': 3, 'c': (1, [2.0])}"


class Tuples(Regression):
    """Has choices that JSON writes as lists, and spoils what it is given."""

    space: ClassVar = {
        "lr": FloatDistribution(1e-4, 0.5, log=True),
        "betas": choices((0.9, 0.99), (0.5, 0.9)),
        "layers": choices([64, 64], [32]),
        "größe": choices(*np.array([16, 32])),
    }

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        assert type(hparams["betas"]) is tuple
        assert hparams["layers"] in ([64, 64], [32])
        assert type(hparams["größe"]) is int
        hparams["layers"].append(1)
        return super().train({"lr": hparams["lr"], "batch": 2, "loss": "l2"}, steps)


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_choices_that_are_tuples_and_lists_are_loaded_resumed_exported_and_compared() -> None:
    point = {"lr": 0.1, "betas": [0.5, 0.9], "layers": [32], "größe": 32}
    result = pbt_flow.run(Tuples, initial=[point], seed=3, **SMALL)
    first = result.history.turns[0][0].plan.hparams
    assert first == {"lr": 0.1, "betas": (0.5, 0.9), "layers": [32], "größe": 32}
    loaded = pbt_flow.load(result.run_id)
    assert loaded.winner == dataclasses.replace(result.winner, revive=None)
    study = pbt_flow.to_study(result.run_id)
    assert {trial.params["betas"] for trial in study.trials} <= {(0.9, 0.99), (0.5, 0.9)}
    assert pbt_flow.resume(result.run_id, turns=3, **QUIET).turns == 6
    # A control that is made with the tuple has the same members as one made with the list.
    control = {**point, "betas": (0.5, 0.9)}
    plain = pbt_flow.run(Tuples, initial=[control], seed=3, exploit="none", **{**SMALL, "turns": 3})
    assert pbt_flow.report(result.run_id, control=plain.run_id)


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_a_population_of_the_version_that_wrote_tuples_as_lists_is_read_and_goes_on() -> None:
    result = pbt_flow.run(Tuples, **SMALL)
    client = MlflowClient()
    manifest = Path(local_path(client.get_run(result.run_id).info.artifact_uri) or "", MANIFEST)
    plain = json.loads(manifest.read_text())
    del plain["space"]["betas"]["tuples"], plain["option_defaults"]
    plain["settings"]["options"] = {}
    manifest.write_text(json.dumps(plain))
    assert pbt_flow.load(result.run_id).winner.hparams["betas"] in ([0.9, 0.99], [0.5, 0.9])
    assert pbt_flow.resume(result.run_id, turns=3, **QUIET).turns == 6


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"betas": [1]}, r"'betas': \[1\] does not lie in"),
        ({"gammas": [1]}, r"unknown hyperparameter 'gammas'; the space has 'betas'"),
    ],
)
def test_a_list_in_a_record_that_is_no_choice_is_refused_with_the_turn(
    hparams: dict[str, Any], message: str
) -> None:
    from benchmarks.random_inputs import turn_of
    from pbt_flow.population.records import fitted_turn

    turn: Turn = turn_of(hparams)
    with pytest.raises(RecordError, match=f"turn 1 of member 0: .*{message}"):
        fitted_turn(turn, Tuples.space)


# --- options --------------------------------------------------------------------------------------


class Scaled(Regression):
    """Its default is changed by the tests, as somebody changes a file."""

    def __init__(
        self, *, seed: int, device: str = "cpu", scale: float = 1.0, layers=(64, 64)
    ) -> None:
        super().__init__(seed=seed, device=device)
        self.scale, self.layers = scale, layers

    def evaluate(self) -> list[float]:
        return [self.scale]


class ScaledNow(Regression):
    def __init__(
        self, *, seed: int, device: str = "cpu", scale: float = 100.0, layers=(8,), new: int = 7
    ) -> None:
        super().__init__(seed=seed, device=device)
        self.scale, self.layers = scale, layers

    def evaluate(self) -> list[float]:
        return [self.scale]


class ScaledWithout(Regression):
    def __init__(self, *, seed: int, device: str = "cpu", layers=(64, 64)) -> None:
        super().__init__(seed=seed, device=device)


def _code_becomes(monkeypatch: pytest.MonkeyPatch, kind: type[Task]) -> None:
    monkeypatch.setitem(globals(), "Scaled", kind)


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_a_default_that_changes_in_the_code_changes_no_population_that_has_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = pbt_flow.run(Scaled, options={"layers": "3,4"}, **SMALL)
    params = MlflowClient().get_run(result.run_id).data.params
    assert (params["option/scale"], params["option/layers"]) == ("1.0", "[3, 4]")
    _code_becomes(monkeypatch, ScaledNow)
    resumed = pbt_flow.resume(result.run_id, turns=3, **{**QUIET, "quiet": False})
    told = capsys.readouterr().err
    assert "option scale: the code's default is 100.0 now and was 1.0; this goes on with" in told
    assert "options that are not on record take the code's defaults: new=7" in told
    assert {turn.score for turns in resumed.history.turns.values() for turn in turns} == {1.0}
    winner = pbt_flow.load(result.run_id).winner.task()
    assert (winner.scale, winner.layers) == (1.0, (3, 4))
    # What has come is on record from now on.
    pbt_flow.resume(result.run_id, turns=4, **{**QUIET, "quiet": False})
    assert "not on record" not in capsys.readouterr().err
    _code_becomes(monkeypatch, ScaledWithout)
    with pytest.raises(
        TaskError, match=r"option new, with which the population was trained \(7\), is not taken"
    ):
        pbt_flow.resume(result.run_id, turns=5, **QUIET)


def test_populations_are_compared_by_all_options_and_what_is_not_on_record_was_the_default() -> (
    None
):
    def made(**options: Any) -> pbt_flow.Settings:
        whole, _ = pbt_flow.Settings.for_task(Scaled)
        return dataclasses.replace(whole, options=options)

    def check(first: Any, second: Any) -> None:
        defaults = {"scale": 1.0, "layers": [64, 64]}
        check_same("a", first, "b", second, defaults=defaults)

    check(made(scale=1.0, layers=[64, 64]), made())
    check(made(scale=1.0, layers=[3]), made(layers=[3]))
    for other in (made(), made(scale=1), made(scale=5.0)):
        with pytest.raises(ComparisonError, match="option scale is 100.0 and"):
            check(made(scale=100.0), other)


def test_options_of_one_text_are_parted_but_not_inside_of_json() -> None:
    text = 'a=1 env={"x": "b=2 c=3"} größe=4'
    given_ = make_parser().parse_args(["run", "--set", text]).options
    assert given_ == {"a": "1", "env": '{"x": "b=2 c=3"}', "größe": "4"}


# --- names ----------------------------------------------------------------------------------------


class Names(Regression):
    """Its metrics have names of any script, and some that come to the same in MLflow."""

    def metrics(self) -> Mapping[str, float]:
        names = ("损失", "精度", "f1?", "f1!", "f1_", "", ".", "x" * 300 + "1", "x" * 300 + "2")
        return {name: float(n) for n, name in enumerate(names)}

    def report(self) -> Mapping[str, float]:
        return {"score": 5.0, "acc@1": 0.5}


@pytest.mark.usefixtures("database")
def test_no_metric_is_overwritten_by_another_whose_name_is_alike_and_it_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = pbt_flow.run(Names, **{**SMALL, "quiet": False})
    client = MlflowClient()
    run = client.get_run(result.winner.run_id)
    logged = {k: v for k, v in run.data.metrics.items() if k.startswith("eval/")}
    assert sorted(logged.values()) == [float(n) for n in range(9)]
    assert (logged["eval/损失"], logged["eval/精度"], logged["eval/f1_"]) == (0.0, 1.0, 4.0)
    (name,) = (name for name, value in logged.items() if value == 2.0)
    assert len(client.get_metric_history(run.info.run_id, name)) == 2
    told = capsys.readouterr().err
    assert told.count("metrics whose names are alike for MLflow") == 1
    assert "'eval/f1?' is 'eval/f1_-" in told
    parent = client.get_run(result.run_id).data
    assert "f1?" in parent.tags["pbt.warning/names"]
    # A report may have a metric called score beside the population's own.
    assert parent.metrics["winner/score"] == result.winner.score
    assert 5.0 in parent.metrics.values()
    resumed = pbt_flow.resume(result.run_id, turns=3, **{**QUIET, "quiet": False})
    assert len(client.get_metric_history(resumed.winner.run_id, name)) == 3
    assert "whose names are alike" not in capsys.readouterr().err


def test_a_name_is_the_same_whatever_else_a_turn_has_and_in_whatever_order() -> None:
    names, other = MetricNames(), MetricNames()
    first = names.named("train", {"f1?": 1.0, "f1!": 2.0})
    assert names.named("train", {"f1!": 3.0, "f1?": 4.0}) == dict(
        zip(first, (4.0, 3.0), strict=True)
    )
    assert names.named("train", {"f1?": 5.0, "f1_": 6.0}).keys() >= {next(iter(first))}
    assert other.named("train", {"f1!": 2.0, "f1?": 1.0}).keys() == first.keys()
    assert names.named("train", {"acc@1": 1.0}) == {"train/acc_1": 1.0}
    assert names.named("train", {"e\u0301": 1.0}) == {"train/\u00e9": 1.0}


class NamesTwice(Regression):
    def metrics(self) -> Mapping[Any, float]:
        return {1: 0.5, "1": 0.7}


@pytest.mark.usefixtures("database")
def test_two_metrics_whose_names_are_written_alike_fail_the_turn_and_are_named() -> None:
    result = pbt_flow.run(NamesTwice, **{**SMALL, "max_failures": 1})
    assert (
        "metrics() returned 2 metrics whose names are written '1'"
        in result.history.turns[0][0].error
    )


# --- what is no class of a task -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Regression(seed=0), "given as its class, Regression, and not as an object of the class"),
        (None, r"a task is a subclass of pbt_flow.Task, .*, or the name of either, got None"),
        (5, "a task is a subclass of pbt_flow.Task, .*, or the name of either, got 5"),
        (dict, "a task is a subclass of pbt_flow.Task, .* got <class 'dict'>"),
        ("", "the name of the task is empty"),
        (
            type("Made", (Regression,), {}),
            "Made says that it is defined in module .* which has no .*class statement",
        ),
    ],
)
@pytest.mark.usefixtures("database")
def test_what_is_no_class_of_a_task_is_refused_in_one_sentence(task: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        pbt_flow.run(task, **SMALL)
    assert "\n" not in str(caught.value)
