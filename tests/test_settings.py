"""Settings: where each value comes from, what can never be, and what a resume may change."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from sample_tasks import Idle

import pbt_flow
from pbt_flow.commands.dry_run import dry_run
from pbt_flow.exceptions import PBTError, SettingsError, SpaceError, StrategyError
from pbt_flow.settings import STRATEGIES, Settings, Strategies
from pbt_flow.strategies.exploit import BinaryTournament, NoExploit, Truncation, TTest
from pbt_flow.strategies.explore import Gaussian, NoExplore, Perturb, Resample
from pbt_flow.strategies.samplers import LatinHypercube, OptunaSampler, Sobol, Uniform
from pbt_flow.task import Task, TaskError, declare
from pbt_flow.utils.cores import count_cores


class Small(Idle):
    """A task without defaults of its own."""

    space: ClassVar[Mapping[str, BaseDistribution]] = {
        "lr": FloatDistribution(0, 1),
        "layers": IntDistribution(1, 4),
    }

    def __init__(self, *, seed: int, device: str = "cpu", width: int = 8) -> None:
        super().__init__(seed=seed, device=device)


class Opinionated(Small):
    """A task that knows what suits it."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "population": 12,
        "interval": 50,
        "turns": 7,
        "exploit": BinaryTournament(),
        "explore": "perturb:factors=0.5/2.0",
        "options": {"width": 4},
        "initial": [{"lr": 0.5, "layers": 2}],
    }


@dataclasses.dataclass(frozen=True)
class Hesitant(Truncation):
    """An exploit strategy of a user's own."""

    patience: int = 3


def made(task: str | type[Task] = Small, **given: Any) -> Settings:
    return Settings.for_task(task, **given)[0]


CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

# --- given, else the task's, else the general -----------------------------------------------------


@pytest.mark.parametrize(
    ("task", "given", "name", "value"),
    [
        (Small, {}, "population", 8),
        (Opinionated, {}, "population", 12),
        (Opinionated, {"population": 4}, "population", 4),
        (Opinionated, {"population": None}, "population", 12),
        (Small, {"population": None}, "population", 8),
        (Small, {}, "interval", 1000),
        (Opinionated, {}, "interval", 50),
        (Opinionated, {"interval": 9}, "interval", 9),
        (Small, {}, "exploit", "truncation"),
        (Opinionated, {}, "exploit", "tournament:copies=both,ties=false,until=none"),
        (Opinionated, {"exploit": "none"}, "exploit", "none"),
        (Opinionated, {"exploit": NoExploit()}, "exploit", "none"),
        (Small, {}, "explore", "perturb"),
        (Opinionated, {}, "explore", "perturb:factors=0.5/2.0"),
        (Small, {}, "options", {"width": 8}),
        (Opinionated, {}, "options", {"width": 4}),
        (Opinionated, {"options": {"width": "16"}}, "options", {"width": 16}),
        (Small, {}, "initial", ()),
        (Opinionated, {}, "initial", ({"lr": 0.5, "layers": 2},)),
        (
            Opinionated,
            {"initial": [{"layers": 1, "lr": 1}]},
            "initial",
            ({"lr": 1.0, "layers": 1},),
        ),
        (Small, {}, "seconds", None),
        (Small, {"seconds": 0.5}, "seconds", 0.5),
        (Small, {"target": -3}, "target", -3),
        (Small, {}, "mode", "async"),
        (Small, {"seed": 0}, "seed", 0),
    ],
)
def test_what_is_given_goes_before_the_tasks_own_and_that_before_the_general(
    task: type[Task], given: Mapping[str, Any], name: str, value: Any
) -> None:
    assert getattr(made(task, **given), name) == value


@pytest.mark.parametrize("population", [2, 3, 64])
def test_there_are_as_many_workers_as_cores_unless_said_otherwise(population: int) -> None:
    assert made(population=population).workers == CORES
    assert made(population=population, workers=5).workers == 5


def test_a_task_may_be_given_as_a_class_or_as_its_name(tmp_path: Path) -> None:
    by_class, read_declaration = Settings.for_task(Opinionated)
    by_name, found = Settings.for_task(f"{__name__}:Opinionated")
    by_declaration, same = Settings.for_task(read_declaration)
    assert by_class == by_name == by_declaration
    assert read_declaration == found == same == declare(Opinionated)
    assert by_class.task == f"{__name__}:Opinionated"


class Hasty(Opinionated):
    quick: ClassVar = {"turns": 2, "options": {"width": 2}}


def test_quick_settings_go_before_the_tasks_usual_ones_and_after_what_is_given():
    usual, quick = made(Hasty), made(Hasty, quick=True)
    assert (quick.turns, quick.options) == (2, {"width": 2})
    assert usual == made(Hasty, quick=False) != quick
    assert dataclasses.replace(quick, turns=usual.turns, options=usual.options) == usual
    assert made(Hasty, quick=True, turns=7).turns == 7
    assert made(Hasty, quick=True, options={"width": "5"}).options == {"width": 5}


def test_a_task_without_quick_settings_says_so():
    with pytest.raises(SettingsError, match="task Small has no quick settings; give population"):
        made(Small, quick=True)
    assert made(Small, quick=True, population=4, turns=5, interval=20).turns == 5


def test_making_settings_changes_neither_the_task_nor_what_was_given() -> None:
    before, given = dict(Opinionated.defaults), {"options": {"width": "3"}, "exploit": "none"}
    made(Opinionated, **given)
    assert dict(Opinionated.defaults) == before
    assert given == {"options": {"width": "3"}, "exploit": "none"}


# --- strategies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "built"),
    [
        ("exploit", "truncation", Truncation()),
        ("exploit", "ttest:alpha=0.1", TTest(alpha=0.1)),
        ("exploit", Truncation(fraction=0.2, copies="weights"), Truncation(0.2, "weights")),
        ("exploit", NoExploit(), NoExploit()),
        ("exploit", Hesitant(patience=5), Hesitant(patience=5)),
        ("exploit", f"{__name__}.Hesitant:patience=2", Hesitant(patience=2)),
        ("explore", "none", NoExplore()),
        ("explore", Gaussian(sigma=0.2), Gaussian(sigma=0.2)),
        ("explore", Resample(), Resample()),
        ("explore", Perturb(ordered=("layers",)), Perturb(ordered=("layers",))),
        ("explore", Perturb(factors=(0.8, 1.2)), Perturb(factors=(0.8, 1.2))),
        ("init", "sobol", Sobol()),
        ("init", LatinHypercube(), LatinHypercube()),
        ("init", Uniform(), Uniform()),
        ("init", "optuna:sampler=QMCSampler", OptunaSampler(sampler="QMCSampler")),
        ("resample", "uniform", Uniform()),
        ("resample", "optuna:sampler=GPSampler,window=9", OptunaSampler("GPSampler", 9)),
        ("resample", OptunaSampler(), OptunaSampler()),
    ],
    ids=str,
)
def test_a_strategy_is_given_as_text_or_as_an_object(name: str, given: Any, built: Any) -> None:
    settings = made(**{name: given})
    assert isinstance(getattr(settings, name), str)
    assert getattr(settings.strategies(), name) == built
    assert type(getattr(settings.strategies(), name)) is type(built)


def test_the_default_strategies_are_those_of_the_documentation() -> None:
    assert made().strategies() == Strategies(
        exploit=Truncation(fraction=0.25),
        explore=Perturb(factors=(0.8, 1.25), resample_probability=0.25),
        init=LatinHypercube(),
        resample=Uniform(),
    )


def test_random_search_is_a_population_without_exploit() -> None:
    assert made(exploit="none").is_control
    assert not made().is_control


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"turns": 60}, None),
        ({"turns": 61}, "turns=61 .* about 15.2 times; .*fraction=0.125, or a"),
        (
            {"turns": 100},
            "exploit truncation: .* turns=100 .* about 25 times; .*fraction=0.125, or",
        ),
        # Whole members: 1 of 8 would copy 20 times, and there is no smaller fraction.
        ({"turns": 160}, "about 40 times; .* Better: a longer interval with fewer turns$"),
        (
            {"turns": 40, "exploit": "tournament"},
            "exploit tournament: .* about 20 times; .*fraction=",
        ),
        ({"turns": 100, "exploit": "truncation:fraction=0.1"}, None),
        ({"turns": 100, "exploit": "ttest"}, None),
        ({"turns": 1000, "exploit": "none"}, None),
    ],
    ids=str,
)
def test_the_user_is_told_above_15_copies_a_member_and_what_to_do(
    given: dict[str, Any], told: str | None
) -> None:
    warning = made(**given).copies_warning()
    assert (warning is None) == (told is None)
    assert told is None or re.search(told, warning or "")


def test_what_the_user_is_told_to_do_is_enough() -> None:
    for population, turns in itertools.product((2, 5, 8, 20, 50), (10, 40, 100, 150)):
        warning = made(population=population, turns=turns).copies_warning()
        found = re.search(r"truncation:fraction=\S+(?=, or)", warning or "")
        if found:
            better = made(population=population, turns=turns, exploit=found[0])
            assert better.copies_warning() is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"exploit": "best"}, "exploit: there is no 'best'; choose from"),
        ({"explore": "truncation"}, "explore: there is no 'truncation'; choose from"),
        ({"explore": "perturb:factor=2"}, "explore 'perturb': 'factor=2' is no setting of it"),
        ({"exploit": "truncation:fraction=2"}, "exploit 'truncation': fraction must lie above 0"),
        (
            {"init": "even"},
            r"init: there is no 'even'; choose from 'latin', 'optuna', 'pb2', 'sobol'",
        ),
        ({"init": "optuna:sampler=TPE"}, "init 'optuna': Optuna has no sampler 'TPE'; it has"),
        ({"resample": "optuna:window=0"}, "resample 'optuna': window must be at least 1, got 0"),
        (
            {"resample": "optuna:sampler=CmaEsSampler"},
            "resample: CmaEsSampler cannot propose resampled values: it keeps its state in the "
            "study that it sampled from; choose TPESampler or GPSampler",
        ),
        ({"resample": OptunaSampler("QMCSampler")}, "QMCSampler cannot propose resampled values"),
        *(
            ({"resample": name}, f"resample: {name} only makes an initial population; choose unif")
            for name in ("latin", "sobol")
        ),
        ({"exploit": lambda me, others, rng: None}, "must be an object of a dataclass"),
        ({"exploit": Truncation}, "must be an object of a dataclass"),
    ],
)
def test_a_strategy_that_cannot_be_is_refused(given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        made(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"explore": "perturb:ordered=layer"},
        {"init": "optuna:sampler=GridSampler"},
        {"init": "optuna:sampler=PartialFixedSampler"},
        {"exploit": Perturb(ordered=("lr",))},
        {"exploit": "pbt_flow.strategies.samplers.Uniform"},
    ],
    ids=str,
)
def test_a_strategy_that_could_only_fail_later_is_refused(given: Mapping[str, Any]) -> None:
    with pytest.raises(PBTError):
        made(**given)


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"populaton": 4}, r"no setting 'populaton' \(did you mean population\?\); there are"),
        (
            {"population": 1},
            "population must be at least 2, got 1: a single member has nobody to copy",
        ),
        ({"population": 0}, "population must be at least 2, got 0"),
        ({"population": -8}, "population must be at least 2, got -8"),
        *(
            ({name: 0}, f"{name} must be at least 1, got 0")
            for name in ("workers", "turns", "keep", "threads")
        ),
        *(({name: -3}, f"{name} must be at least 1, got -3") for name in ("interval", "turns")),
        ({"interval": 0}, "interval must be at least 1, got 0"),
        ({"max_failures": 0}, "max_failures must be at least 1, got 0"),
        ({"warm": 0}, "warm must be at least 1, got 0"),
        ({"warm": 1.0}, "warm must be a whole number, got 1.0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"seconds": 0}, "seconds must be above 0, got 0"),
        ({"seconds": -1.5}, "seconds must be above 0, got -1.5"),
        ({"turn_timeout": 0.0}, "turn_timeout must be above 0, got 0.0"),
        *(
            ({name: "3"}, f"{name} must be a whole number, got '3'")
            for name in ("workers", "turns", "interval", "seed", "keep")
        ),
        *(
            ({name: value}, f"{name} must be a finite number, or none, got {value!r}")
            for name in ("seconds", "target", "turn_timeout")
            for value in ("3", True, math.nan, -math.inf, math.inf, 10**400)
            # A turn may be given all the time in the world.
            if (name, value) != ("turn_timeout", math.inf)
        ),
        ({"population": "8"}, "population must be a whole number, got '8'"),
        *(
            ({name: 2.5}, f"{name} must be a whole number, got 2.5")
            for name in ("population", "workers", "turns", "interval", "seed", "max_failures")
        ),
        ({"turns": True}, "turns must be a whole number, got True"),
        *(
            ({name: 5}, f"{name} must be a text, got 5")
            for name in ("register", "device", "name", "experiment")
        ),
        ({"mode": "sync"}, r"mode must be one of 'async', 'generational', got 'sync'"),
        ({"engine": "dask"}, r"engine must be one of 'processes', 'inline', 'ray', got 'dask'"),
        ({"engine": "ray", "gpu_share": 1.5}, "gpu_share must be a part of 1, or a whole number"),
        ({"engine": "ray", "gpu_share": -0.5}, "gpu_share must be a part of 1, or a whole number"),
        ({"engine": "ray", "gpu_share": 1e-9}, "gpu_share must have four decimal places at most"),
        ({"engine": "ray", "gpu_share": 1 / 3}, "gpu_share must have four decimal places at most"),
        ({"gpu_share": 0.5}, "gpu_share is for engine ray, got 0.5 with engine processes, where"),
        (
            {"population": 2, "initial": [{"lr": 0.1, "layers": n} for n in (1, 2, 3)]},
            "initial gives 3 members to a population of 2",
        ),
    ],
)
def test_a_setting_out_of_its_range_is_refused(given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        made(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"interval": 0}, "interval must be at least 1, got 0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"seconds": 0.0}, "seconds must be above 0"),
        ({"register": "a/b"}, "register must name a model"),
        ({"engine": "nope"}, "engine must be one of"),
        ({"engine": "ray", "gpu_share": 1.5}, "gpu_share must be a part of 1"),
        ({"stages": "nope"}, "stages must be none, narrow, wide"),
        ({"exploit": "nope"}, "exploit: there is no 'nope'"),
        ({"exploit": "truncation:fraction=2"}, "fraction must lie above 0"),
        ({"resample": "sobol"}, "resample: sobol only makes an initial population"),
    ],
)
@pytest.mark.parametrize("begin", [pbt_flow.run, dry_run])
def test_what_no_task_could_make_right_is_refused_before_the_task_is_imported(
    begin: Callable[..., Any], given: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(PBTError, match=message):
        begin("no_such_file.py:Task", **given)


@pytest.mark.parametrize(
    "given",
    [
        {"seconds": "none", "interval": None, "stages": "wide", "gpu_share": "none"},
        # A class beside the task, and what only the task knows.
        {"exploit": "no_such_module.Exploit", "learning_rate": 3, "options": {"depth": 2}},
        {"stages": "16x2:none,8x4:hparams,4x8:hparams,2x32:both", "resample": Uniform()},
    ],
)
def test_what_a_task_could_make_right_is_not_refused_without_it(given: Mapping[str, Any]) -> None:
    Settings.check_given(given)


@pytest.mark.parametrize(
    "given",
    [{"population": "many"}, {"initial": [1]}, {"initial": 3}, {"options": "width=3"}],
    ids=str,
)
def test_a_setting_of_a_wrong_kind_is_refused_in_our_words(given: Mapping[str, Any]) -> None:
    with pytest.raises(PBTError):
        made(**given)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"lr": 0.1, "layers": 9}, "hyperparameter 'layers': 9 does not lie in IntDistribution"),
        ({"lr": 0.1}, "hyperparameter 'layers' has no value"),
        ({"lr": 0.1, "layers": 1, "depth": 2}, "unknown hyperparameter 'depth'"),
    ],
)
def test_an_initial_point_outside_of_the_space_is_refused(
    point: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(SpaceError, match=message):
        made(initial=[{"lr": 0.5, "layers": 2}, point])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"depth": 3}, "has no option 'depth'"), ({"width": "wide"}, "option width takes int")],
)
def test_an_option_that_the_task_does_not_have_is_refused(
    options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        made(options=options)


@pytest.mark.parametrize(
    ("attributes", "kind", "message"),
    [
        ({"space": {}}, TaskError, "task Odd: a space maps at least one name"),
        ({"direction": "up"}, TaskError, "task Odd: direction is"),
        (
            {"defaults": {"intervall": 3}},
            SettingsError,
            "defaults of task Odd: no setting 'intervall' \\(did you mean interval",
        ),
        ({"defaults": {"task": "x"}}, SettingsError, "defaults of task Odd: no setting 'task'"),
        ({"defaults": {"turns": 0}}, SettingsError, "turns must be at least 1, got 0"),
        ({"defaults": {"exploit": "x"}}, StrategyError, "exploit: there is no 'x'"),
    ],
)
def test_a_task_that_declares_nonsense_is_refused(
    attributes: dict[str, Any], kind: type[PBTError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        made(type("Odd", (Small,), attributes))


def test_a_task_that_there_is_not_is_refused() -> None:
    with pytest.raises(TaskError, match="no task is called 'nosuch'"):
        made("nosuch")


# --- on resume ------------------------------------------------------------------------------------

ON_RESUME: dict[str, Any] = {
    "workers": 3,
    "turns": 99,
    "seconds": 60.0,
    "target": 0.5,
    "max_failures": 9,
    "keep": 4,
    "samples": "rounds",
    "finalists": "none",
    "register": "lander",
    "turn_timeout": 30.0,
    "threads": 2,
    "warm": 2,
    "engine": "inline",
    "device": "meta",
    "gpu_share": 0.0,
}
FIXED = [f.name for f in dataclasses.fields(Settings) if f.name not in ON_RESUME]


def test_on_a_cluster_each_member_may_have_a_worker_whatever_this_machine_has() -> None:
    assert made(engine="ray", population=30).workers == 30
    assert made(engine="ray").workers == made().population
    assert made(engine="ray", workers=3).workers == 3
    assert made().workers == count_cores()
    for share in (0.25, 1, 2.0):
        assert made(engine="ray", gpu_share=share).gpu_share == share


@pytest.mark.parametrize("name", ON_RESUME)
def test_a_resume_may_change_how_and_how_long_a_population_runs(name: str) -> None:
    settings = made()
    resumed = settings.resumed(**{name: ON_RESUME[name]})
    assert resumed == dataclasses.replace(settings, **{name: ON_RESUME[name]})
    assert getattr(resumed, name) == ON_RESUME[name]


@pytest.mark.parametrize("name", ["seconds", "target", "register", "turn_timeout", "warm"])
def test_the_word_none_lifts_a_limit_of_the_task_or_of_before_a_resume(name: str) -> None:
    limited = type("Limited", (Small,), {"defaults": {name: ON_RESUME[name]}, "model": abs})
    assert getattr(made(limited), name) == ON_RESUME[name]
    assert getattr(made(limited, **{name: None}), name) == ON_RESUME[name]
    assert getattr(made(limited, **{name: "none"}), name) is None
    settings = made(limited)
    lifted = settings.resumed(**{name: "none"})
    assert lifted == dataclasses.replace(settings, **{name: None})
    assert Settings.from_json(settings.to_json()).changed({name: None}) == lifted
    with pytest.raises(SettingsError, match="turns must be a whole number, got 'none'"):
        settings.resumed(turns="none")


@pytest.mark.parametrize("name", FIXED)
def test_a_resume_may_not_change_what_defines_the_population(name: str) -> None:
    with pytest.raises(
        SettingsError,
        match=rf"{name} cannot change on resume, .*; what can: \['workers', 'turns', ",
    ):
        made().resumed(**{name: 3})


def test_a_resume_without_changes_changes_nothing() -> None:
    settings = made(turns=9, seconds=3.0)
    assert settings.resumed() == settings
    assert settings.resumed(turns=None, seed=None, exploit=None) == settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"turns": "9"}, "turns must be a whole number, got '9'"),
        ({"seconds": -1}, "seconds must be above 0, got -1"),
        ({"engine": "dask"}, "engine must be one of"),
    ],
)
def test_what_a_resume_changes_is_checked(given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        made().resumed(**given)


# --- JSON -----------------------------------------------------------------------------------------

_settings = st.fixed_dictionaries(
    {},
    optional={
        "population": st.integers(3, 100),
        "workers": st.integers(1, 64),
        "turns": st.integers(1, 1000),
        "interval": st.integers(1, 10**9),
        "mode": st.sampled_from(["async", "generational"]),
        "exploit": st.sampled_from(["none", Truncation(0.1), TTest(alpha=0.2), Hesitant()]),
        "explore": st.sampled_from(["none", Gaussian(0.3), "perturb:ordered=lr/layers"]),
        "seed": st.integers(0, 2**63),
        "seconds": st.floats(1e-3, 1e9),
        "target": st.floats(-1e9, 1e9),
        "initial": st.lists(
            st.fixed_dictionaries({"lr": st.floats(0, 1), "layers": st.integers(1, 4)}), max_size=3
        ),
        "options": st.fixed_dictionaries({"width": st.integers()}),
        "name": st.text(max_size=9),
        "device": st.sampled_from(["cpu", "cuda", "cuda:1"]),
        "warm": st.integers(1, 9),
        "engine": st.sampled_from(["processes", "inline", "ray"]),
    },
)


@given(_settings)
def test_settings_come_back_from_json(given: dict[str, Any]) -> None:
    settings = made(**given)
    plain = json.loads(json.dumps(settings.to_json()))
    back = Settings.from_json(plain)
    assert back.to_json() == plain
    assert dataclasses.replace(back, initial=tuple(back.initial)) == settings
    assert back.strategies() == settings.strategies()
    assert {type(value) for value in back.options.values()} <= {int}


def test_settings_come_back_from_json_as_equals() -> None:
    settings = made()
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_json_names_every_setting() -> None:
    assert list(made().to_json()) == [f.name for f in dataclasses.fields(Settings)]


def test_the_json_does_not_share_what_can_be_changed() -> None:
    settings = made(Opinionated)
    plain = settings.to_json()
    plain["options"]["width"] = 99
    plain["initial"][0]["lr"] = 99
    assert settings == made(Opinionated)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"from_the_future": 1}, "settings of another version: unknown 'from_the_future'"),
        ({"population": 1}, "population must be at least 2"),
        ({"turns": "9"}, "turns must be a whole number, got '9'"),
        ({"mode": "sync"}, "mode must be one of"),
    ],
)
def test_settings_that_cannot_be_do_not_come_back(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.from_json({**made().to_json(), **changes})


@pytest.mark.parametrize("name", ["workers", "population", "seed"])
def test_settings_without_a_number_do_not_come_back(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_json({**made().to_json(), name: None})


# --- the fields themselves ------------------------------------------------------------------------


def test_every_setting_has_a_help_text() -> None:
    fields = dataclasses.fields(Settings)
    assert all(f.metadata["help"].strip() for f in fields)
    assert {f.name for f in fields if f.metadata.get("on_resume")} == set(ON_RESUME)


def test_settings_cannot_be_changed_nor_made_by_position() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        made().turns = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Settings("rl")  # type: ignore[misc]


def test_there_is_a_setting_for_each_kind_of_strategy() -> None:
    assert set(STRATEGIES) == {f.name for f in dataclasses.fields(Strategies)}


def test_a_settings_error_is_one_that_a_user_can_mend() -> None:
    assert issubclass(SettingsError, PBTError)
    assert issubclass(SettingsError, ValueError)


class Loose(Small):
    """Its options are not keyword-only, and it has usual ones and quick ones."""

    defaults: ClassVar[Mapping[str, Any]] = {"options": {"width": 4, "depth": 2}}
    quick: ClassVar[Mapping[str, Any]] = {"turns": 2, "options": {"depth": 1}}

    def __init__(self, seed: int, device: str = "cpu", width: int = 8, depth: int = 3) -> None:
        super().__init__(seed=seed, device=device)


def test_an_option_that_is_given_leaves_the_tasks_other_options_as_they_are() -> None:
    def options(**given: Any) -> Any:
        return Settings.for_task(Loose, **given)[0].options

    assert options() == {"width": 4, "depth": 2}
    assert options(options={"width": "16"}) == {"width": 16, "depth": 2}
    assert options(quick=True) == {"width": 4, "depth": 1}
    assert options(quick=True, options={"depth": 5}) == {"width": 4, "depth": 5}


def test_an_option_that_no_file_can_hold_is_refused() -> None:
    with pytest.raises(TaskError, match=r"option width takes int, got <object .*JSON has nothing"):
        made(options={"width": object()})


def test_an_option_that_is_taken_for_a_setting_is_shown_its_place() -> None:
    with pytest.raises(SettingsError, match=r"no setting 'width'; .*options=\{'width': \.\.\.\}"):
        made(width=3)


# --- stages ---------------------------------------------------------------------------------------


WIDE = "16x2:none,8x4:hparams,4x8:hparams,2x32:both"


def staged(**given: Any) -> Settings:
    return made(**{"population": 8, "turns": 20, "workers": 2, "stages": "wide", **given})


def test_a_named_plan_is_written_out_since_a_resume_may_change_the_workers() -> None:
    settings = staged()
    assert settings.stages == WIDE
    assert (settings.founders, settings.last_turn, settings.all_turns) == (16, 46, 160)
    assert settings.resumed(workers=8).stage_plan == settings.stage_plan
    assert Settings.from_json(settings.to_json()) == settings
    assert staged(stages=settings.stage_plan) == settings


def test_without_stages_all_members_train_to_the_end() -> None:
    settings = staged(stages="none")
    assert settings.stage_plan is None
    assert (settings.founders, settings.last_turn, settings.all_turns) == (8, 20, 160)
    plain = settings.to_json()
    del plain["stages"]
    assert Settings.from_json(plain) == settings


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({"stages": "none"}, "Population Based Training"),
        ({"stages": "none", "exploit": "none"}, "random search"),
        ({}, "Population Based Training in stages"),
        ({"exploit": "none"}, "successive halving"),
    ],
)
def test_a_method_is_called_by_what_it_does(given: dict[str, Any], method: str) -> None:
    settings = staged(**given)
    assert settings.method == method
    assert settings.is_control == (method == "random search")


class Staged(Small):
    """A task for which stages were found to win."""

    defaults: ClassVar = {"population": 8, "turns": 20, "stages": "wide"}


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        ({"workers": 2}, WIDE),
        ({"workers": 4}, "16x2:none,8x4:hparams,4x8:hparams,4x16:both"),
        # Whoever has a worker of his own waits for nobody, and half of that is too little.
        ({"workers": 5}, "none"),
        ({"workers": 8}, "none"),
        ({"workers": 2, "stages": "none"}, "none"),
        ({"workers": 8, "stages": "wide"}, "16x2:none,8x4:hparams,8x4:hparams,8x8:both"),
        # A random search stays one, and so does what the stages contradict.
        ({"workers": 2, "exploit": "none"}, "none"),
        ({"workers": 2, "exploit": "truncation:copies=weights"}, "none"),
        ({"workers": 2, "turns": 3}, "none"),
    ],
)
def test_stages_of_a_task_are_taken_where_members_wait_for_workers(
    given: dict[str, Any], stages: str
) -> None:
    assert made(Staged, **given).stages == stages


def test_where_nobody_copies_the_written_plan_says_so() -> None:
    assert staged(exploit="none").stages == "16x2:none,8x4:none,4x8:none,2x32:none"


@dataclasses.dataclass(frozen=True)
class Greedy:
    """Always copies both, and has no setting for it."""

    @property
    def copies(self) -> str:
        return "both"

    def __call__(self, me: Any, others: Any, rng: Any) -> int:
        return int(others[-1].member)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stages": "broad"}, "stages must be none, narrow, wide, or a list as in"),
        ({"stages": 3}, "stages must be a text or a StagePlan, got 3"),
        ({"stages": "16x2:none,8x4:both"}, "are 64 turns of all members together"),
        ({"turns": 3}, "stages wide need at least turns=4 with population=8"),
        (
            {"exploit": "truncation:copies=weights"},
            "says what is copied, and each of the stages .* leave out copies=weights, or",
        ),
        (
            {"exploit": "truncation:copies=hparams,until=0.5"},
            r"says what is copied, and each of the stages .* leave out copies=hparams,until=0\.5, ",
        ),
        (
            {"exploit": "mfpbt", "stages": "8x10:both,4x20:both"},
            "has sub-populations, and stages .* take stages none, or another exploit",
        ),
        (
            {"exploit": Greedy()},
            "always copies both, and a stage is to copy hparams; make",
        ),
    ],
)
def test_stages_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises((SettingsError, StrategyError), match=message):
        staged(**given)


def test_a_strategy_that_always_copies_the_same_may_be_used_where_stages_copy_just_that() -> None:
    assert staged(exploit=Greedy(), stages="8x10:none,4x20:both").stage_plan is not None


def test_the_stages_of_a_population_that_has_begun_do_not_change_but_their_last_may_grow() -> None:
    with pytest.raises(SettingsError, match="stages cannot change on resume"):
        staged().resumed(stages="narrow")
    assert str(staged().resumed(turns=25).stage_plan).endswith("4x8:hparams,2x52:both")
    with pytest.raises(SettingsError, match="leave no turn for the last 2 members"):
        staged().resumed(turns=12)


def test_nothing_is_said_of_the_copies_of_a_last_stage_of_two() -> None:
    assert staged(turns=100).copies_warning() is None
    assert staged(turns=100, stages="none").copies_warning() is not None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"popultion": 3}, "no setting 'popultion' (did you mean population?); there are"),
        ({"finalists": "avarage"}, "got 'avarage' (did you mean average?)"),
        ({"mode": "generationel"}, "got 'generationel' (did you mean generational?)"),
        ({"samples": "round"}, "got 'round' (did you mean rounds?)"),
        ({"engine": "inlyne"}, "got 'inlyne' (did you mean inline?)"),
        ({"init": "latyn"}, "no 'latyn' (did you mean latin?)"),
        ({"exploit": "trunkation"}, "no 'trunkation' (did you mean truncation?)"),
        ({"explore": "pertub"}, "no 'pertub' (did you mean perturb?)"),
        ({"options": {"widht": 1}}, "no option 'widht' (did you mean width?); there are"),
        ({"stages": "narow"}, "got 'narow' (did you mean narrow?)"),
        (
            {"initial": [{"lrr": 1, "layers": 1}]},
            "unknown hyperparameter 'lrr' (did you mean lr?); the space",
        ),
    ],
)
def test_every_wrong_word_is_told_with_the_one_that_it_is_near_to(
    given: dict[str, Any], told: str
) -> None:
    def draw() -> None:
        made, kind = Settings.for_task(Small, **given)
        made.strategies()
        made.draw_founders(kind.space, np.random.default_rng(0))

    with pytest.raises(ValueError, match=re.escape(told)):
        draw()


def test_what_cannot_change_on_resume_is_told_apart_from_what_does_not_exist() -> None:
    made, _ = Settings.for_task(Small)
    with pytest.raises(SettingsError, match="no setting 'turn' .did you mean turns"):
        made.resumed(turn=3)
    with pytest.raises(SettingsError, match="seed cannot change on resume, since it defines"):
        made.resumed(seed=3)
