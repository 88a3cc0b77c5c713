"""Throws random spaces, options, scores and metrics at the program, and looks at what comes out.

    python -m benchmarks.random_inputs                     # 10,000 inputs, 60 of them whole runs
    python -m benchmarks.random_inputs --inputs 2000 --runs 10 --seed 7

Each input is refused by an error of the program's own that names the thing, or it is carried
through: JSON, records, moves, samplers, the study, MLflow's names. Some inputs are whole
populations, which are trained, loaded, resumed, reported, exported, replayed and registered. The
script fails at any other exception, and at any difference between what went in and what came out.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import enum
import io
import json
import math
import os
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Optional, Union

import numpy as np
import optuna
import torch
from mlflow.utils.validation import _validate_metric_name
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

import pbt_flow
from pbt_flow.engines.returned import read_score
from pbt_flow.exceptions import PBTError
from pbt_flow.population.history import Gain
from pbt_flow.population.records import (
    Checkpoint,
    Plan,
    Turn,
    fitted_turn,
    turn_from_json,
    turn_to_json,
)
from pbt_flow.population.schedule import Schedule, Segment
from pbt_flow.space import (
    check_hparams,
    draw,
    index_of,
    is_same_space,
    plain_space,
    space_from_json,
    space_to_json,
)
from pbt_flow.strategies.explore import Gaussian, Perturb, Resample
from pbt_flow.strategies.samplers import SAMPLERS, OptunaSampler
from pbt_flow.task import Task, check_options, complete_options, declare
from pbt_flow.task.options import arguments_of, options_of
from pbt_flow.testing.simulation import simulate
from pbt_flow.tracking.metric_names import MetricNames
from pbt_flow.training import log_queue as log_queue
from pbt_flow.utils.values import is_same_in_json, with_tuples


class Difference(AssertionError):
    """Something came out other than it went in."""


def expect_same(what: str, first: Any, second: Any) -> None:
    """Refuse two values that differ in a number, a type, or the kind of a container.

    Raises:
        Difference: They do.
    """
    if _strictly(first) != _strictly(second):
        raise Difference(f"{what}: {first!r:.200} became {second!r:.200}")


def _strictly(value: Any) -> str:
    """A text that tells values apart by type as well, and a NaN from nothing else."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{k!r}: {_strictly(value[k])}" for k in sorted(value, key=str))
        return f"{{{inside}}}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}[{', '.join(map(_strictly, value))}]"
    return f"{type(value).__name__} {value!r}"


# --- spaces ---------------------------------------------------------------------------------------

_LETTERS = "abcXYZ019_.- λéñ学習率мир/?!%\n\t\0\ud800$|'\"\\<&=,"
_NUMBERS = (0, 1, -1, 2, 3, 16, 64, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 10**400, -(10**30))
_FLOATS = (0.0, -0.0, 0.1, 1e-5, 0.5, 1.0, 2.0, 5e-324, 2.2e-308, 1e308, 1.7976931348623157e308)


class Level(enum.Enum):
    """An enum whose members may be given as choices and options."""

    LOW = 1
    HIGH = "high"


@dataclasses.dataclass(frozen=True)
class Shape:
    """A dataclass that an option may take."""

    sides: int = 3
    name: str = "x"


def random_text(rng: random.Random, most: int = 12) -> str:
    """A text, now and then an awkward one."""
    usual = rng.random() < 0.8
    letters = "abcdefghij" if usual else _LETTERS
    length = rng.choice((300, 7000)) if rng.random() < 0.02 else rng.randint(0, most)
    return "".join(rng.choice(letters) for _ in range(length))


def random_choice(rng: random.Random, depth: int = 0) -> Any:
    """What somebody may write as a choice."""
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.randint(-5, 300),
        lambda: rng.choice(_NUMBERS),
        lambda: rng.uniform(-2, 2),
        lambda: rng.choice(_FLOATS),
        lambda: rng.choice((math.inf, -math.inf)),
        lambda: random_text(rng),
        lambda: np.int64(rng.randint(0, 9)),
        lambda: np.float32(rng.random()),
        lambda: np.str_(random_text(rng)),
        lambda: np.bool_(rng.random() < 0.5),
    ]
    if depth < 3:
        kinds += [
            lambda: tuple(random_choice(rng, depth + 1) for _ in range(rng.randint(0, 3))),
            lambda: [random_choice(rng, depth + 1) for _ in range(rng.randint(0, 3))],
            lambda: {random_text(rng): random_choice(rng, depth + 1) for _ in range(2)},
        ]
    odd: list[Callable[[], Any]] = [
        lambda: math.nan,
        lambda: torch.nn.ReLU,
        lambda: len,
        lambda: np.array([1, 2]),
        lambda: torch.zeros(2),
        lambda: b"bytes",
        lambda: {1, 2},
        lambda: {1: 2},
        lambda: Level.LOW,
        lambda: 1j,
        lambda: Path("x"),
        lambda: np.float32("nan"),
        lambda: np.longdouble(1),
        object,
    ]
    return rng.choice(odd)() if rng.random() < 0.03 else rng.choice(kinds)()


def random_number(rng: random.Random) -> Any:
    """A bound, as somebody may write it."""
    if rng.random() < 0.7:
        return rng.choice((rng.uniform(-3, 3), float(rng.randint(-9, 9)), 10 ** rng.uniform(-8, 3)))
    return rng.choice(
        (*_FLOATS, math.inf, math.nan, np.float32(0.1), np.float64(2.5), np.int64(3), -1e308)
    )


def random_domain(rng: random.Random) -> BaseDistribution | None:
    """A domain; None where Optuna refuses what was drawn."""
    kind = rng.choice(("float", "int", "choice", "choice"))
    try:
        if kind == "choice":
            return CategoricalDistribution([random_choice(rng) for _ in range(rng.randint(1, 5))])
        log = rng.random() < 0.4
        if kind == "int":
            whole = [rng.randint(-3, 300), rng.choice(_NUMBERS), np.int64(rng.randint(1, 9))]
            low, high = sorted(rng.choices(whole, weights=(8, 1, 2), k=2))
            step = 1 if log else rng.choice((1, 1, 2, 7, np.int32(3)))
            return IntDistribution(low, high, log=log, step=step)
        low, high = sorted((random_number(rng), random_number(rng)))
        step = None if log or rng.random() < 0.7 else rng.choice((0.1, 0.25, 1e-3, 1e-300, 5.0))
        return FloatDistribution(low, high, log=log, step=step)
    except (ValueError, ArithmeticError):  # Decimal, of which Optuna makes use, has its own.
        return None


def random_space(rng: random.Random) -> dict[str, BaseDistribution]:
    """A space, good or bad."""
    space = {}
    for _ in range(rng.randint(1, 4)):
        domain = random_domain(rng)
        if domain is not None:
            space[random_text(rng) or "lr"] = domain
    return space or {"lr": FloatDistribution(0, 1)}


def own_form(value: Any) -> Any:
    """A choice in Python's own types: what is expected to come back."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return type(value)(own_form(part) for part in value)
    if isinstance(value, dict):
        return {key: own_form(part) for key, part in value.items()}
    return value


def check_space_input(given: Mapping[str, BaseDistribution], rng: random.Random) -> None:
    """Carry a space through everything that needs no run.

    Raises:
        PBTError: It is refused.
        Difference: Something came out other than it went in.
    """
    space = plain_space(given)
    for name, dist in given.items():
        if isinstance(dist, CategoricalDistribution):
            wanted = [own_form(choice) for choice in dist.choices]
            expect_same(f"choices of {name!r}", wanted, list(space[name].choices))  # type: ignore[attr-defined]
    written = json.loads(json.dumps(space_to_json(space)))
    read = space_from_json(written)
    if not is_same_space(written, space_to_json(read)):
        raise Difference(f"the space {written!r:.200} became {space_to_json(read)!r:.200}")
    numbers = np.random.default_rng(rng.randrange(2**32))
    points = [draw(space, numbers) for _ in range(2)]
    for sampler in (*SAMPLERS.values(),) if rng.random() < 0.1 else (SAMPLERS["latin"],):
        points += sampler().initial(space, 2, numbers)
    for explore in (Perturb(), Gaussian(), Resample()):
        points.append(explore(points[0], space, lambda: points[1], numbers))
    if rng.random() < 0.1:
        gains = [Gain(hparams=point, gain=rng.uniform(-1, 1)) for point in points * 3]
        points.append(OptunaSampler().fresh(space, gains, numbers))
    for point in points:
        check_point(point, space, read)


def check_point(
    point: Mapping[str, Any],
    space: Mapping[str, BaseDistribution],
    read: Mapping[str, BaseDistribution],
) -> None:
    """Carry one configuration through the records, and through those of a space that was read."""
    expect_same("a checked point", point, check_hparams(point, space))
    plain = json.loads(json.dumps(point))
    expect_same("a point from JSON", point, check_hparams(plain, space))
    expect_same("a point from JSON in a space from JSON", point, check_hparams(plain, read))
    for name, dist in space.items():
        if isinstance(dist, CategoricalDistribution):
            found = dist.choices[index_of(plain[name], dist)]
            expect_same(f"the place of {name!r}", point[name], found)
    turn = turn_of(point)
    back = fitted_turn(turn_from_json(json.loads(json.dumps(turn_to_json(turn)))), read)
    expect_same("a turn's hyperparameters", point, back.plan.hparams)
    schedule = Schedule(
        task="t",
        options={},
        space=space,
        direction="maximize",
        source="s",
        seed=0,
        score=0.5,
        best_initial=point,
        segments=(Segment(start=0, end=5, member=0, turn=1, hparams=point),),
    )
    again = Schedule.from_json(json.loads(json.dumps(schedule.to_json())))
    expect_same("a schedule", point, again.segments[0].hparams)
    schedule.to_csv()


def turn_of(point: Mapping[str, Any], **more: Any) -> Turn:
    """A turn that went well under some hyperparameters."""
    plan = Plan(member=0, turn=1, seed=1, hparams=point, steps=5, trained=5)
    checkpoint = Checkpoint(member=0, turn=1, digest="0", size=1)
    turn = Turn(plan=plan, status="ok", score=0.5, checkpoint=checkpoint, started=1.0)
    return dataclasses.replace(turn, **more)


# --- options --------------------------------------------------------------------------------------


def random_option(rng: random.Random, depth: int = 0) -> tuple[Any, Callable[[], Any]]:
    """A type, and what draws values of it."""
    simple: list[tuple[Any, Callable[[], Any]]] = [
        (int, lambda: rng.choice((rng.randint(-5, 99), 2**70))),
        (float, lambda: rng.choice((rng.uniform(-2, 2), *_FLOATS, math.inf))),
        (bool, lambda: rng.random() < 0.5),
        (str, lambda: rng.choice(("a", "b c", "1", "true", "none", "[1]", "学習", "x=1", ""))),
        (Path, lambda: Path(rng.choice(("a", "/b/c", "d e")))),
        (Level, lambda: rng.choice(list(Level))),
        (Literal["s", "m", 3], lambda: rng.choice(("s", "m", 3))),
        (Shape, lambda: Shape(rng.randint(1, 9), rng.choice("xyz"))),
    ]
    if depth >= 2 or rng.random() < 0.5:
        return rng.choice(simple)
    kind, value = random_option(rng, depth + 1)
    several = lambda: [value() for _ in range(rng.randint(0, 3))]  # noqa: E731
    made: list[tuple[Any, Callable[[], Any]]] = [
        (list[kind], several),
        (tuple[kind, ...], lambda: tuple(several())),
        (tuple[kind, int], lambda: (value(), rng.randint(0, 9))),
        (dict[str, kind], lambda: {rng.choice("abc"): value()}),
        (Optional[kind], lambda: rng.choice((None, value()))),  # noqa: UP045
    ]
    if kind is not Path:  # On record, a path and a text are both texts.
        made.append((Union[kind, str], lambda: rng.choice((value(), "auto"))))  # noqa: UP007
    return rng.choice(made)


class Bare(Task):
    """A task that does nothing, for tasks with options of any kind."""

    space: ClassVar = {"lr": FloatDistribution(0, 1)}

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        """Do nothing."""
        return {}

    def evaluate(self) -> float:
        """A random score."""
        return float(self.rng.random())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def task_with(kind: Any, default: Any, *, annotated: bool) -> type[Task]:
    """A task with one option."""

    class One(Bare):
        def __init__(self, *, seed: int, device: str = "cpu", option: Any = default) -> None:
            super().__init__(seed=seed, device=device)
            self.option = option

    if annotated:
        One.__init__.__annotations__["option"] = kind
    else:
        del One.__init__.__annotations__["option"]
    return One


_WORDS = (
    "5",
    "1,2",
    "[1, 2]",
    "{}",
    "none",
    "true",
    "a,b",
    "1e3",
    "nan",
    "(",
    '"',
    "\0",
    "x" * 300,
)
_OBJECTS = (5, 0.5, True, None, [1], {"a": 1}, {1, 2}, object(), len, b"x", np.zeros(2), 10**5000)


def check_option_input(rng: random.Random) -> None:
    """Carry an option through its record: a value of its type, and one of any kind.

    Raises:
        PBTError: It is refused.
        Difference: Something came out other than it went in.
    """
    kind, value = random_option(rng)
    default = value() if rng.random() < 0.8 else None
    annotated = default is None or rng.random() < 0.6
    task = task_with(kind, default, annotated=annotated)
    known = declare_loosely(task)
    given = value()
    if annotated and not isinstance(given, str) and rng.random() < 0.6:
        try:
            full = complete_options(known, {"option": given})
        except PBTError as error:
            raise Difference(f"a value of its own type is refused: {error}") from error
        record = json.loads(json.dumps(full))
        if not is_same_in_json(record, complete_options(known, record)):
            raise Difference(f"option {full!r:.200} is read again as another")
        built = task(seed=0, **arguments_of(task, record)).option  # type: ignore[attr-defined]
        expect_same("an option", given, built)
        return
    anything = rng.choice((*_WORDS, *_OBJECTS))
    read = check_options(known, {"option": anything})
    record = json.loads(json.dumps(read))
    if not is_same_in_json(record, check_options(known, record)):
        raise Difference(f"option {anything!r:.100} is read as {read!r:.100} and then as another")
    arguments_of(task, record)


def declare_loosely(task: type[Task]) -> Any:
    """What a class declares that no other process could find."""
    kind = declare(Bare)
    return dataclasses.replace(kind, options=options_of(task))


# --- scores and metrics ---------------------------------------------------------------------------


def random_score(rng: random.Random) -> Any:
    """What somebody may return as a score."""
    number = rng.choice((*_FLOATS, -1e308, math.inf, math.nan, rng.gauss(0, 1)))
    return rng.choice(
        (
            number,
            np.float32(rng.random()),
            torch.tensor(rng.random()),
            [number, rng.random()],
            np.array([rng.random(), number]),
            rng.choice((None, "x", {}, [], 10**400, 1j, [None], True, 3)),
        )
    )


def random_metrics(rng: random.Random) -> dict[Any, Any]:
    """What somebody may return as metrics; among their names some that are alike for MLflow."""
    names = [random_text(rng) for _ in range(rng.randint(0, 5))]
    names += rng.choices(
        ("f1?", "f1!", "f1_", "", ".", "..", "a/../b", "b", "a//b", "損失", "x"), k=4
    )
    names += ["y" * 300 + end for end in rng.choices("12/.", k=2)]
    return {name: rng.choice((rng.random(), *_FLOATS, math.inf, math.nan)) for name in names}


def check_metric_input(rng: random.Random, evaluated: Callable[[], Any] | None = None) -> None:
    """Carry a score and metrics through a record and to the names of MLflow.

    Args:
        rng: Draws them.
        evaluated: Gives what the task's `evaluate` returns, in place of `random_score`.

    Raises:
        PBTError: They are refused.
        Difference: Something came out other than it went in.
    """
    try:
        score, sample = read_score(evaluated() if evaluated else random_score(rng))
    except TypeError as error:
        raise PBTError(str(error)) from None  # of the worker: the turn has failed, with this reason
    names = MetricNames()
    for _ in range(2):
        metrics = random_metrics(rng)
        turn = turn_of({"lr": 0.5}, metrics=metrics, evaluation=random_metrics(rng))
        if math.isfinite(score) and all(map(math.isfinite, sample)):
            turn = dataclasses.replace(turn, score=score, sample=sample)
        back = turn_from_json(json.loads(json.dumps(turn_to_json(turn))))
        # JSON has no infinity: a metric that is not finite is none in a record.
        wanted = {k: v if math.isfinite(v) else math.nan for k, v in metrics.items()}
        expect_same("metrics", wanted, back.metrics)
        expect_same("a score", (turn.score, turn.sample), (back.score, back.sample))
        named = names.of_turn(turn)
        if len(named) != len(turn.metrics) + len(turn.evaluation):
            raise Difference(f"{len(turn.metrics)} metrics have {len(named)} names: {named!r:.300}")
        if names.of_turn(turn) != named and not any(map(math.isnan, named.values())):
            raise Difference("the names of a turn's metrics differ the second time")
        for name in named:
            _validate_metric_name(name)


def random_strategies(rng: random.Random) -> dict[str, Any]:
    """Settings of every strategy that there is, and a number of members that suits them."""
    share = rng.choice((0.1, 0.25, 0.5))
    copies = rng.choice(("both", "weights", "hparams"))
    until = rng.choice(("", "", f",until={rng.choice((0.25, 0.5, 0.9))}"))
    kind = f"copies={copies}" + (until if copies == "hparams" else "")
    exploit = rng.choice(
        (
            f"truncation:fraction={share},{kind}",
            f"tournament:{kind}",
            f"ttest:alpha={rng.choice((0.01, 0.05, 0.5))},{kind}",
            f"mfpbt:periods={rng.choice(('1/2', '1/5', '2/3'))}",
            "none",
        )
    )
    explore = rng.choice(
        (
            f"perturb:factors={rng.choice(('0.8/1.25', '0.5/2', '0.9/1.1/2'))},"
            f"resample_probability={rng.choice((0, 0.1, 0.5, 1))},"
            f"choice_probability={rng.choice((0, 0.25, 1))}",
            f"gaussian:sigma={rng.choice((0.001, 0.1, 1))},resample_probability={share}",
            f"resample:probability={rng.choice((0.1, 1))}",
            "resample",
            "none",
        )
    )
    samplers = ("TPESampler", "RandomSampler", "CmaEsSampler", "QMCSampler")
    resample = rng.choice(
        ("uniform", "optuna:sampler=TPESampler", "pb2", "pb2:window=5")
        if not exploit.startswith("mfpbt")
        else ("uniform", "pb2", "pb2:window=5")
    )
    init = rng.choice(("latin", "sobol", "uniform", f"optuna:sampler={rng.choice(samplers)}"))
    settings = {"exploit": exploit, "explore": explore, "resample": resample, "init": init}
    settings["mode"] = rng.choice(("async", "generational"))
    settings["population"] = 8 if exploit.startswith("mfpbt") else rng.choice((2, 3, 8))
    return settings


def accepted_space(rng: random.Random) -> dict[str, BaseDistribution]:
    """A random space, of those that are accepted."""
    while True:
        space = random_space(rng)
        try:
            plain_space(space)
        except PBTError:
            continue
        return space


class Penalty(Bare):
    """Its scores are what was drawn for it."""

    scores: ClassVar[tuple[float, ...]] = (0.0,)
    drawn: ClassVar[int] = 0

    def evaluate(self) -> Any:
        """One of the scores, or a sample of them."""
        if not self.drawn:
            return float(self.rng.choice(self.scores))
        return [float(self.rng.choice(self.scores)) for _ in range(self.drawn)]


def check_simulation(rng: random.Random) -> None:
    """Let a population decide by extreme scores, in a space of any kind, by any strategies.

    Raises:
        PBTError: It is refused.
    """
    numbers = (*_FLOATS, -1e308, math.inf, math.nan, rng.gauss(0, 1))
    Penalty.scores = tuple(rng.choices(numbers, k=3))
    Penalty.drawn = rng.choice((0, 0, 5))
    Penalty.direction = rng.choice(("maximize", "minimize"))
    Penalty.space = accepted_space(rng) if rng.random() < 0.7 else Bare.space
    settings = random_strategies(rng)
    if rng.random() < 0.2:
        settings["stages"] = rng.choice(("narrow", "wide"))
    settings |= {"turns": rng.choice((4, 12)), "interval": 2, "workers": rng.choice((1, 2, 8))}
    simulate(Penalty, seed=rng.randrange(99), **settings)


# --- whole runs -----------------------------------------------------------------------------------


class Trial(Task):
    """The task of a whole run; the space, the metrics and the option's default are drawn."""

    space: ClassVar = {"lr": FloatDistribution(0, 1)}
    told: ClassVar[Mapping[str, float]] = {}
    seen: ClassVar[list[Mapping[str, Any]]] = []

    def __init__(self, *, seed: int, device: str = "cpu", option: Any = None) -> None:
        """Hold a small model."""
        super().__init__(seed=seed, device=device)
        self.option, self.net = option, torch.nn.Linear(1, 1)

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        """Note what came in, and spoil it as a careless task does."""
        self.seen.append(json.loads(json.dumps(with_tuples(dict(hparams)))))
        for value in hparams.values():
            if isinstance(value, list):
                value.append("spoilt")
        return self.told

    def evaluate(self) -> float:
        """A random score."""
        return float(self.rng.random())

    def report(self) -> Mapping[str, float]:
        """The metrics that are finite."""
        return {name: value for name, value in self.told.items() if math.isfinite(value)}

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])

    def model(self) -> torch.nn.Module:
        """The small model."""
        return self.net


def new_trial(space: Mapping[str, BaseDistribution], told: Mapping[str, float]) -> type[Trial]:
    """The task of one run, under the name by which it is found."""
    kind = type(
        "Trial", (_Base,), {"space": space, "told": told, "seen": [], "__module__": __name__}
    )
    globals()["Trial"] = kind
    return kind


_Base = Trial


def check_run(
    space: Mapping[str, BaseDistribution],
    told: Mapping[str, float],
    option: Any = None,
    **settings: Any,
) -> None:
    """Train a population, and carry it through all that may be done with it afterwards.

    Raises:
        PBTError: It is refused, before anything is written.
        Difference: Something came out other than it went in.
    """
    from pbt_flow import register, report
    from pbt_flow.commands.replay import replay
    from pbt_flow.tracking.store import Store

    kind = new_trial(space, told)
    quiet: dict[str, Any] = {"engine": "inline", "quiet": True}
    result = pbt_flow.run(
        kind,
        **{"population": 2, "turns": 2, "interval": 2, "explore": "resample", **settings},
        options={"option": option},
        **quiet,
    )
    if result.status != "finished":
        raise Difference(f"the population is {result.status}: {result.reason}")
    expect_loaded(result)
    check_logged(result, kind)
    study = pbt_flow.to_study(result.run_id)
    turns = sorted(every_turn(result), key=lambda turn: turn.started)
    for trial, turn in zip(study.trials, turns, strict=True):
        wanted = {"step": turn.step, **turn.plan.hparams}
        expect_same("a trial of the study", wanted, {k: trial.params[k] for k in wanted})
    resumed = pbt_flow.resume(result.run_id, turns=3, **quiet)
    for member, own in result.history.turns.items():
        again = resumed.history.turns[member][: len(own)]
        for before, after in zip(own, again, strict=True):
            expect_same("a turn after a resume", before.plan.hparams, after.plan.hparams)
    expect_loaded(resumed)
    live = [with_tuples(dict(turn.plan.hparams)) for turn in every_turn(resumed)]
    count = Counter(json.dumps(one, sort_keys=True) for one in live)
    seen = Counter(json.dumps(one, sort_keys=True) for one in kind.seen)
    if count - seen:
        raise Difference(f"the task saw other hyperparameters: {list(seen - count)!r:.300}")
    report(result.run_id)
    schedule = Schedule.from_json(Store.open(result.run_id).outcome.schedule())
    wanted = resumed.winner.hparams if resumed.winner else {}
    expect_same("the schedule's end", wanted, schedule.segments[-1].hparams)
    expect_same("the option", {"option": read_option(option)}, dict(schedule.options))
    made = replay(schedule, seeds=1, **quiet)
    for arm in made.arms:
        if arm.errors:
            raise Difference(f"a model of the replay failed: {arm.errors}")
    if resumed.winner is not None:
        revived: Any = pbt_flow.load(result.run_id).winner
        expect_same("the winner's option", read_option(option), revived.task().option)
    register(result.run_id, "random")


def read_option(option: Any) -> Any:
    """An option as a record holds it."""
    return check_options(declare(Trial), {"option": option})["option"]


def every_turn(result: Any) -> list[Turn]:
    """All turns of a population."""
    found: list[Turn] = []
    for turns in result.history.turns.values():
        found += turns
    return found


def expect_loaded(result: Any) -> None:
    """Refuse a population that is loaded as another."""
    loaded = pbt_flow.load(result.run_id)
    for first, second in zip(every_turn(result), every_turn(loaded), strict=True):
        expect_same("a loaded turn", first.plan.hparams, second.plan.hparams)
        expect_same("a loaded score", first.score, second.score)
        finite = {k: v if math.isfinite(v) else math.nan for k, v in first.metrics.items()}
        expect_same("loaded metrics", finite, second.metrics)
    json.dumps(loaded.to_json(), allow_nan=False)


def check_logged(result: Any, kind: type[Trial]) -> None:
    """Refuse a metric that MLflow does not have."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(result.tracking_uri)
    run = client.get_run(result.history and _member_run(client, result.run_id))
    logged = [key for key in run.data.metrics if key.startswith("train/")]
    if len(logged) != len(kind.told):
        raise Difference(f"{len(kind.told)} metrics were logged as {logged!r:.300}")


def _member_run(client: Any, run_id: str) -> str:
    parent = client.get_run(run_id)
    query = f"tags.`mlflow.parentRunId` = '{run_id}'"
    return str(client.search_runs([parent.info.experiment_id], query)[0].info.run_id)


# --- the script -----------------------------------------------------------------------------------


def try_once(check: Callable[[], None]) -> tuple[str, str]:
    """What became of an input: accepted, refused or failed, and why it failed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check()
    except PBTError as error:
        return "refused", str(error)
    except Exception:
        return "failed", traceback.format_exc()
    return "accepted", ""


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=60, help="how many of them are whole runs")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    # The store is here, and answers: what it does not take, it will not take in ten minutes.
    log_queue.PATIENCE = 1.0
    small = given.inputs - given.runs
    parts = {
        "spaces": (small * 38 // 100, lambda rng: check_space_input(random_space(rng), rng)),
        "options": (small * 35 // 100, check_option_input),
        "scores and metrics": (small * 23 // 100, check_metric_input),
        "simulated populations": (small * 4 // 100, check_simulation),
        "whole runs": (given.runs, random_run),
    }
    table, failures = dict[str, Counter[str]](), defaultdict[str, list[str]](list)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder) if hasattr(contextlib, "chdir") else contextlib.nullcontext(),
    ):
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        for part, (count, check) in parts.items():
            table[part] = Counter()
            for number in range(count):
                rng = random.Random(f"{given.seed} {part} {number}")
                with contextlib.redirect_stderr(io.StringIO()):
                    outcome, why = try_once(lambda check=check, rng=rng: check(rng))  # type: ignore[misc]
                table[part][outcome] += 1
                if outcome == "failed":
                    failures[part].append(f"input {number}: {why}")
    print(f"{'':24}{'inputs':>8}{'accepted':>10}{'refused':>9}{'failed':>8}")
    for part, found in table.items():
        row = [found.total(), found["accepted"], found["refused"], found["failed"]]
        print(f"{part:24}{row[0]:>8,}{row[1]:>10,}{row[2]:>9,}{row[3]:>8,}")
    for part, told in failures.items():
        kinds = defaultdict[str, list[str]](list)
        for why in told:
            kinds[kind_of(why)].append(why)
        for which, same in kinds.items():
            print(f"\n{part}: {len(same)} failed as {which}; the first of them:", file=sys.stderr)
            print(same[0], file=sys.stderr)
    return 1 if failures else 0


def kind_of(why: str) -> str:
    """By which a failure is counted: the exception, and the line that raised it."""
    lines = why.strip().splitlines()
    places = [line.strip() for line in lines if line.startswith("  File")]
    return f"{lines[-1].partition(':')[0]} in {places[-1] if places else '?'}"


def random_run(rng: random.Random) -> None:
    """One whole run of a space that is accepted, with metrics and an option of any kind."""
    space = accepted_space(rng)
    option = rng.choice((None, 5, "a", [1, 2], {"a": [1]}, 0.1, "x" * 7000, True))
    told = {name: value for name, value in random_metrics(rng).items() if value == value}
    settings = {**random_strategies(rng), "seed": rng.randrange(99)}
    if settings["exploit"].startswith("ttest"):
        settings["exploit"] = "truncation:fraction=0.5"  # The score of a whole run is no sample.
    try:
        check_run(space, told, option, **settings)
    except PBTError as error:  # The space was accepted, and so it must be carried through.
        raise Difference(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    # The tasks are found by the name of a module, of which there is one only.
    from benchmarks import random_inputs

    sys.exit(random_inputs.main())
