"""How often each sign comes on healthy tasks, and how often on tasks that are broken on purpose.

    python -m benchmarks.signs                        # the tables in docs/reliability.md
    python -m benchmarks.signs --runs 20 --broken 10  # a first look

The real controller, rules and checks on the simulated engine; a run is one population. Seeds begin
at 2000, and none of them was looked at while the rules were made. Bounds are exact (Clopper and
Pearson 1934), one-sided, 95%.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar, TypeAlias

import numpy as np
from optuna.distributions import FloatDistribution
from scipy.special import betaincinv
from scipy.stats import spearmanr

from pbt_flow import Task
from pbt_flow.population.history import History
from pbt_flow.population.lineage import founder_shares
from pbt_flow.population.records import Checkpoint, Member, Plan, Turn
from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.tasks.toy import Toy
from pbt_flow.testing.simulation import simulate
from pbt_flow.training.diagnostics import Diagnostics

FIRST_SEED = 2000
SIGNS = ("restores", "noise", "pinned", "overhead")
WAYS: list[dict[str, Any]] = [
    {"mode": "async", "slots": 2},
    {"mode": "async", "slots": 8},
    {"mode": "generational", "slots": 2},
]

# --- healthy tasks --------------------------------------------------------------------------------


class Small(Task):
    """One number is trained; a subclass says how, and how it is scored."""

    space: ClassVar = {"h": FloatDistribution(0, 1)}
    defaults: ClassVar = {"population": 8, "turns": 20, "interval": 10}

    def __init__(self, *, seed: int, device: str = "cpu", noise: float = 0.0) -> None:
        super().__init__(seed=seed, device=device)
        self.noise, self.value = noise, 0.0

    def evaluate(self) -> float:
        """The number, with noise."""
        return self.value + self.noise * float(self.rng.normal())

    def state_dict(self) -> dict[str, Any]:
        """The number."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The number."""
        self.value = state["value"]


class NoisyScore(NoisyQuadratic):
    """The quadratic, evaluated with noise of a tenth of the loss."""

    defaults: ClassVar = {**NoisyQuadratic.defaults, "population": 8, "turns": 40}

    def evaluate(self) -> float:
        """The loss, known to 10%."""
        return super().evaluate() * (1 + 0.1 * float(self.rng.normal()))


class ShortQuadratic(NoisyQuadratic):
    """The quadratic with 8 members and 40 turns."""

    defaults: ClassVar = NoisyScore.defaults


class Progress(Small):
    """The hyperparameter is the progress of a tenth of an interval; its best value is 0.5."""

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        """Go on by h, and by 1 - h where h is beyond the best."""
        self.value += min(hparams["h"], 1 - hparams["h"]) * steps / 10
        return {}


class Related(Small):
    """Ranks last into the next turn by a correlation that is given, and h does nothing."""

    def __init__(
        self, *, seed: int, device: str = "cpu", lasts: float = 0.3, measured: bool = False
    ) -> None:
        """`measured` says that what does not last is noise of the evaluation."""
        super().__init__(seed=seed, device=device)
        self.lasts, self.measured = lasts, measured
        self.value = float(self.rng.normal())

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        """Keep a share of the number."""
        keeps = 0.9 if self.measured else self.lasts
        self.value = keeps * self.value + math.sqrt(1 - keeps**2) * float(self.rng.normal())
        return {}

    def evaluate(self) -> float:
        """The number, or its noisy measurement; the variance is 1."""
        share = self.lasts / 0.9 if self.measured else 1.0
        noise = float(self.rng.normal()) if self.measured else 0.0
        return math.sqrt(share) * self.value + math.sqrt(1 - share) * noise


class Converging(Small):
    """Goes to 1 at a rate of h: after a third of the run all members are alike, but for noise."""

    space: ClassVar = {"h": FloatDistribution(0.01, 10, log=True)}
    defaults: ClassVar = {**Small.defaults, "turns": 60}

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        """Go on towards 1; at a rate above 1 less quickly."""
        rate = min(hparams["h"], 1 / hparams["h"])
        self.value += (1 - self.value) * rate * steps / 20
        return {}


NEUTRAL = {
    **{f"wide{n}": FloatDistribution(0, 1) for n in range(2)},
    **{f"log{n}": FloatDistribution(1e-4, 1, log=True) for n in range(2)},
    **{f"narrow{n}": FloatDistribution(0.9, 0.999) for n in range(2)},
}


class Inside(Small):
    """The best rate lies inside its range; six more hyperparameters do nothing."""

    space: ClassVar = {"rate": FloatDistribution(1e-4, 1, log=True), **NEUTRAL}
    best: ClassVar = -2.0
    """The exponent of ten of the best rate."""

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        """Go on by 1 at the best rate, and by less at others."""
        off = (math.log10(hparams["rate"]) - self.best) / 4
        self.value += (1 - 4 * off**2) * steps / 10
        return {}


class WideToy(Toy):
    """The toy with the range that the sign asks for."""

    space: ClassVar = {"h0": FloatDistribution(0, 2), "h1": FloatDistribution(0, 2)}


# --- broken tasks ---------------------------------------------------------------------------------


class Forgetful(Small):
    """A quadratic with momentum, whose state leaves the momentum out."""

    space: ClassVar = {"rate": FloatDistribution(1e-3, 1e-1, log=True)}
    direction = "minimize"

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        self.value, self.speed = 3.0, 0.0

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        """Noisy gradient descent with momentum 0.9."""
        for _ in range(steps):
            self.speed = 0.9 * self.speed - hparams["rate"] * (self.value + self.rng.normal())
            self.value += self.speed
        return {}

    def evaluate(self) -> float:
        """The exact loss."""
        return self.value**2 / 2


class PureNoise(Small):
    """Its score says nothing of a member."""

    def __init__(self, *, seed: int, device: str = "cpu", progress: float = 0.0) -> None:
        super().__init__(seed=seed, device=device, noise=1.0)
        self.progress = progress

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        """Go on, whatever the hyperparameters."""
        self.value += self.progress
        return {}


class Narrow(Inside):
    """The best rate is ten times the greatest that there is."""

    space: ClassVar = {"rate": FloatDistribution(1e-4, 1e-2, log=True), **NEUTRAL}
    best: ClassVar = -1.0


# --- what is counted ------------------------------------------------------------------------------


Run: TypeAlias = Callable[[int], set[str]]
"""The signs of the population with this seed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One task, in one setting or several."""

    label: str
    runs: Sequence[Run]
    wanted: str = ""
    """The sign that must come; empty for a healthy task."""
    true: str = ""
    """A sign that is true of this healthy task."""


def simulated(task: type[Task], **settings: Any) -> Run:
    """Runs a population and returns its signs."""

    def run(seed: int) -> set[str]:
        tags = simulate(task, seed=seed, **settings).store.tags
        mark = "pbt.warning/"
        return {name.removeprefix(mark) for name in tags if name.startswith(mark)}

    return run


def timed(train: float, rest: float, *, scatter: float, stalls: float) -> Run:
    """Shows the rules turns of such durations, in seconds.

    Args:
        train: The median of training.
        rest: The median of everything else.
        scatter: The standard deviation of the logarithm of both.
        stalls: The share of turns in which everything else takes 2 s more, as on a busy disk.
    """

    def run(seed: int) -> set[str]:
        rng, history = np.random.default_rng(seed), History(direction="maximize")
        history.begin(Member(index=index, hparams={}) for index in range(8))
        diagnostics = Diagnostics(history, {})
        for number in range(1, 21):
            turns = []
            for member in history.members.values():
                plan = Plan(
                    member=member.index, turn=number, seed=0, hparams={}, steps=1,
                    start=member.checkpoint, start_step=number - 1, trained=number,
                )  # fmt: skip
                other = rest * math.exp(scatter * rng.normal()) + 2 * float(rng.random() < stalls)
                turns.append(
                    Turn(
                        plan=plan,
                        status="ok",
                        score=float(rng.normal()),
                        checkpoint=Checkpoint(member=member.index, turn=number, digest="", size=0),
                        seconds={
                            "train": train * math.exp(scatter * rng.normal()),
                            "evaluate": other,
                        },
                    )
                )
            for turn in turns:
                history.add(turn)
            diagnostics.round(number, turns)
        return set(diagnostics.seen)

    return run


def in_each_way(task: type[Task], **settings: Any) -> list[Run]:
    """A task with few workers, with one for each member, and generational."""
    return [simulated(task, **way, **settings) for way in WAYS]


def healthy() -> Iterator[Row]:
    """Tasks of which there is nothing to say."""
    yield Row(label="toy", runs=in_each_way(Toy), true="pinned")
    yield Row(label="quadratic, 8 members, 40 turns", runs=in_each_way(ShortQuadratic))
    yield Row(label="the same, scores with 10% of noise", runs=in_each_way(NoisyScore))
    runs = in_each_way(Progress, options={"noise": 0.1})
    yield Row(label="progress by h, noise 0.1", runs=runs)
    for lasts in (0.3, 0.6):
        runs = in_each_way(Related, options={"lasts": lasts})
        yield Row(label=f"ranks that last by {lasts}, exact scores", runs=runs)
        runs = in_each_way(Related, options={"lasts": lasts, "measured": True})
        yield Row(label=f"ranks that last by {lasts}, the rest is noise", runs=runs)
    runs = in_each_way(Converging, options={"noise": 0.02})
    yield Row(label="all alike after 20 of 60 turns", runs=runs)
    runs = in_each_way(Inside, options={"noise": 0.1})
    yield Row(label="best inside, 6 idle hyperparameters", runs=runs)
    runs = in_each_way(Inside, options={"noise": 0.1}, turns=60)
    yield Row(label="the same, 60 turns", runs=runs)
    run = timed(1.0, 0.5, scatter=0.7, stalls=0.05)
    yield Row(label="1 s of training, 0.5 s of the rest", runs=[run])
    run = timed(0.001, 0.04, scatter=0.7, stalls=0.05)
    yield Row(label="1 ms of training, 40 ms of the rest", runs=[run])


def broken() -> Iterator[Row]:
    """Tasks that a sign is there for."""
    runs = in_each_way(Forgetful)
    yield Row(label="the state leaves the momentum out", runs=runs, wanted="restores")
    yield Row(label="a score of pure noise", runs=in_each_way(PureNoise), wanted="noise")
    runs = in_each_way(PureNoise, options={"progress": 0.5})
    yield Row(label="noise over progress that all make", runs=runs, wanted="noise")
    runs = in_each_way(PureNoise, exploit="tournament")
    yield Row(label="pure noise, tournament", runs=runs, wanted="noise")
    runs = in_each_way(Narrow, options={"noise": 0.1})
    yield Row(label="best beyond the range, 6 idle ones", runs=runs, wanted="pinned/rate")
    runs = in_each_way(Narrow, options={"noise": 0.1}, exploit="tournament")
    yield Row(label="the same, tournament", runs=runs, wanted="pinned/rate")
    run = timed(1.0, 2.0, scatter=0.7, stalls=0.05)
    yield Row(label="1 s of training, 2 s of the rest", runs=[run], wanted="overhead")


def bounds(count: int, runs: int) -> tuple[float, float]:
    """One-sided 95% bounds of a share, from below and from above, in percent."""
    low = 0.0 if count == 0 else float(betaincinv(count, runs - count + 1, 0.05))
    high = 1.0 if count == runs else float(betaincinv(count + 1, runs - count, 0.95))
    return 100 * low, 100 * high


def signs_of(run: Run, runs: int) -> list[set[str]]:
    """The signs of so many populations."""
    return [run(seed) for seed in range(FIRST_SEED, FIRST_SEED + runs)]


def false_alarms(runs: int) -> None:
    """Print in how many populations each sign came of healthy tasks, in each of the ways."""
    print(f"| healthy task, {runs} runs each | " + " | ".join(SIGNS) + " |\n" + "|---" * 5 + "|")
    alarms, made = Counter[str](), Counter[str]()
    for row in healthy():
        found = [signs_of(run, runs) for run in row.runs]
        cells = []
        for sign in SIGNS:
            counts = [sum(any(s.startswith(sign) for s in seen) for seen in way) for way in found]
            cells.append(" / ".join(map(str, counts)))
            if sign == row.true:
                cells[-1] += ", and true"
                continue
            alarms[sign] += sum(counts)
            made[sign] += runs * len(counts)
        print(f"| {row.label} | " + " | ".join(cells) + " |", flush=True)
    cells = [
        f"{alarms[sign]} of {made[sign]:,} (≤ {bounds(alarms[sign], made[sign])[1]:.2f}%)"
        for sign in SIGNS
    ]
    print("| all of them | " + " | ".join(cells) + " |\n", flush=True)


def power(runs: int) -> None:
    """Print in how many populations the right sign came of broken tasks, in each of the ways."""
    print(f"| broken task, {runs} runs each | sign | came in | another came in |")
    print("|---" * 4 + "|")
    for row in broken():
        found = [signs_of(run, runs) for run in row.runs]
        right = " / ".join(str(sum(row.wanted in seen for seen in way)) for way in found)
        wrong = " / ".join(str(sum(bool(seen - {row.wanted}) for seen in way)) for way in found)
        print(f"| {row.label} | `{row.wanted}` | {right} | {wrong} |", flush=True)
    print()


def one_founder(runs: int) -> None:
    """Print what it says of a population that all its weights descend from one fresh model early.

    There was a sign of it. Here are the share of populations in which it came, and the rank
    correlation of the turn at which only one founder was left with the winner's fitness: where an
    early one did harm, it would be positive.
    """
    print("| task | one founder before half of the budget | with the winner's fitness: r (p) |")
    print("|---" * 3 + "|")
    tasks: list[tuple[str, type[Task], dict[str, Any]]] = [
        ("toy", Toy, {}),
        ("quadratic, 8 members, 40 turns", ShortQuadratic, {}),
        ("progress by h, noise .1", Progress, {"options": {"noise": 0.1}}),
        ("best inside, 6 idle hyperparameters", Inside, {"options": {"noise": 0.1}}),
    ]
    for label, task, settings in tasks:
        first, best = [], []
        turns = task.defaults["turns"]
        for seed in range(FIRST_SEED, FIRST_SEED + runs):
            history = simulate(task, seed=seed, **settings).history
            shares = founder_shares(history)
            alone = (n for n, share in enumerate(shares) if len(share) == 1)
            first.append(next(alone, turns + 1))
            winner = history.winner()
            assert winner is not None
            best.append(history.fitness(winner))
        r, p = spearmanr(first, best)
        early = sum(2 * n < turns for n in first)
        print(f"| {label} | {100 * early / runs:g}% | {r:+.2f} ({p:.2g}) |", flush=True)
    print()


class Sampled(Related):
    """The same, where a score is the mean of ten readings."""

    def evaluate(self) -> list[float]:  # type: ignore[override]
        """Ten readings; the variance of their mean is 1."""
        share = self.lasts / 0.9
        noise = self.rng.normal(size=10) * math.sqrt(10 * (1 - share))
        return [math.sqrt(share) * self.value + float(one) for one in noise]


def races(runs: int) -> None:
    """Print in how many populations in stages the sign came that a race was a lottery."""
    print("| task | stages | sign `race` came in |\n|---|---|---|")
    measured = {"measured": True}
    tasks: list[tuple[str, type[Task], dict[str, Any]]] = [
        ("toy", Toy, {}),
        ("quadratic, 8 members", ShortQuadratic, {}),
        ("the same, read with 10% noise", NoisyScore, {}),
        ("progress by h, noise .1", Progress, {"options": {"noise": 0.1}}),
        ("best inside, 6 idle hyperparameters", Inside, {"options": {"noise": 0.1}}),
        ("ranks last by .7, the rest is noise", Related, {"options": {"lasts": 0.7, **measured}}),
        ("ranks last by .6, the rest is noise", Related, {"options": {"lasts": 0.6, **measured}}),
        ("the same, ten readings", Sampled, {"options": {"lasts": 0.6, **measured}}),
        ("broken: a score of pure noise", PureNoise, {}),
        ("broken: noise over progress that all make", PureNoise, {"options": {"progress": 1.0}}),
        ("broken: ten readings of pure noise", Sampled, {"options": {"lasts": 0.0, **measured}}),
    ]
    for label, task, settings in tasks:
        for stages in ("wide", "narrow"):
            came = 0
            for seed in range(FIRST_SEED, FIRST_SEED + runs):
                made = simulate(task, seed=seed, stages=stages, workers=2, **settings)
                came += "pbt.warning/race" in made.store.tags
            low, high = bounds(came, runs)
            print(
                f"| {label} | {stages} | {came} of {runs} ({low:.1f}% to {high:.1f}%) |", flush=True
            )
    print()


def lasting(runs: int) -> None:
    """Print by how much ranks last in a population, where a copy makes two members alike."""
    for lasts in (0.3, 0.6):
        for measured in (False, True):
            found = []
            for seed in range(FIRST_SEED, FIRST_SEED + runs):
                options = {"lasts": lasts, "measured": measured}
                history = simulate(Related, seed=seed, options=options).history
                for number in range(2, 21):
                    turns = [own[number - 1] for own in history.turns.values()]
                    starts = [turn.plan.start for turn in turns]
                    before = [history.turn(s.member, s.turn).score for s in starts if s]
                    found.append(float(spearmanr(before, [turn.score for turn in turns])[0]))
            kind = "the rest is noise" if measured else "exact scores"
            print(f"ranks that last by {lasts}, {kind}: by {np.mean(found):.2f} with copies")


def toys_range(runs: int) -> None:
    """Print what the toy's members come to if its range is as the sign asks: wider."""
    for label, task in (("0 to 1", Toy), ("0 to 2", WideToy)):
        best = [simulate(task, seed=FIRST_SEED + n).best for n in range(runs)]
        print(f"toy, h from {label}: median best {median(best):.4f} of {runs} runs")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="of each healthy task")
    parser.add_argument("--broken", type=int, default=50, help="of each broken task")
    parser.add_argument("--only", choices=["healthy", "broken", "races"], help="one of the tables")
    given = parser.parse_args()
    if given.only in (None, "races"):
        races(given.runs)
    if given.only == "races":
        return
    if given.only != "broken":
        false_alarms(given.runs)
    if given.only != "healthy":
        power(given.broken)
        one_founder(given.runs)
        toys_range(given.broken)
        lasting(given.broken)


if __name__ == "__main__":
    main()
