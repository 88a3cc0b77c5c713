"""Does a search win, and what of it: stages beside four controls, on problems with known answers.

    python -m benchmarks.search                      # 15 CPU minutes: the table of docs/stages.md
    python -m benchmarks.search --seeds 5 --problems Fig2 Drift
    python -m benchmarks.search --relatives          # 15 CPU minutes: the table of docs/choices.md

The real controller in simulated time, asynchronous, two turns at once for all members, a turn takes
between half and one and a half units of time. All methods have the same budget in turns of members
and, with one seed, the same founders. What is shown is the exact value of the winner, without the
noise of the score by which it was chosen: mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, ClassVar

import numpy as np

from benchmarks.charlm import CORPUS, CharLM, DecayedCharLM, read_text
from benchmarks.problems import EXACT, Ceilings, Drift, Misread
from pbt_flow.population.records import Plan
from pbt_flow.space import Hparams
from pbt_flow.task import Task
from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.tasks.toy import Toy
from pbt_flow.testing.simulation import Simulation, simulate

SLOTS = 2
"""Turns that run at once: fewer than members."""
EXPLORE = "perturb:resample_probability=0"


class Decayed(Task):
    """A task whose rate is the first value of a cosine that falls to zero over its steps.

    It stands before a task among the bases of a class. A hand-made schedule of the right shape is
    the control that a skeptic asks for.
    """

    steps_in_all: ClassVar[int]
    """The steps after which the rate is zero."""

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        self.decayed_steps = 0

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        """Take `steps` steps, each with a rate that is a little smaller."""
        told: Mapping[str, float] = {}
        for _ in range(steps):
            share = (1 + math.cos(math.pi * self.decayed_steps / self.steps_in_all)) / 2
            told = super().train({**hparams, "lr": float(hparams["lr"]) * share}, 1)  # type: ignore[arg-type, safe-super]
            self.decayed_steps += 1
        return told

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "decayed_steps": self.decayed_steps}  # type: ignore[safe-super]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)  # type: ignore[safe-super]
        self.decayed_steps = state["decayed_steps"]


class DecayedQuadratic(Decayed, NoisyQuadratic):
    """The noisy quadratic under a cosine decay."""

    steps_in_all = 2000


class DecayedMisread(Decayed, Misread):
    """The misread quadratic under a cosine decay."""

    steps_in_all = 2000


class DecayedDrift(Decayed, Drift):
    """The drifting problem under a cosine decay."""

    steps_in_all = 1000


class DecayedCeilings(Decayed, Ceilings):
    """The problem of founders with ceilings under a cosine decay."""

    steps_in_all = 500


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem, at the budget at which its answers are known."""

    name: str
    task: type[Task]
    settings: Mapping[str, Any]
    is_loss: bool = False
    """Whether a smaller value is better."""
    decayed: type[Task] | None = None
    """The same task under a cosine decay of its rate; None where it has none."""
    most_seeds: int | None = None
    """More populations than this are not trained for a number, where training takes long."""
    known: str = ""
    """What the winner of `wide` comes to, in words."""
    holds: Callable[[Mapping[str, float]], bool] = field(default=lambda means: True)
    """Whether the means by method are the known answer."""


RANDOM, COSINE, HALVING, PBT, NARROW, WIDE = (
    "random search",
    "random search, cosine decay",
    "successive halving (wide)",
    "PBT",
    "PBT in stages, narrow",
    "PBT in stages, wide",
)
METHODS: dict[str, dict[str, Any]] = {
    RANDOM: {"exploit": "none"},
    COSINE: {"exploit": "none"},
    HALVING: {"exploit": "none", "stages": "wide"},
    PBT: {},
    NARROW: {"stages": "narrow"},
    WIDE: {"stages": "wide"},
}
HPARAMS_FIRST, MF_PBT, BANDITS = "hyperparameters first", "MF-PBT", "PB2"
RELATIVES: dict[str, dict[str, Any]] = {
    PBT: {},
    HPARAMS_FIRST: {"exploit": "truncation:copies=hparams,until=0.5"},
    MF_PBT: {"exploit": "mfpbt:periods=1/5"},
    BANDITS: {"explore": "resample", "resample": "pb2"},
}
"""Plain PBT and what is taken for a better one, without stages."""
KNOWN: dict[str, dict[str, tuple[float, float]]] = {
    HPARAMS_FIRST: {
        "Quadratic8": (0.094, 0.018),
        "Quadratic": (0.076, 0.008),
        "Noisy": (0.087, 0.007),
        "Drift": (0.835, 0.053),
        "Ceilings": (1.282, 0.172),
    },
    MF_PBT: {
        "Fig2": (1.126, 0.009),
        "Quadratic8": (0.120, 0.053),
        "Quadratic": (0.088, 0.020),
        "Noisy": (0.114, 0.057),
        "Drift": (0.864, 0.050),
        "Ceilings": (1.100, 0.167),
    },
    BANDITS: {
        "Fig2": (1.132, 0.002),
        "Quadratic8": (0.318, 0.053),
        "Noisy": (0.207, 0.059),
        "Drift": (0.883, 0.048),
        "Ceilings": (1.075, 0.185),
    },
}
"""By relative and problem, what a prototype of its own came to and how far seeds lay apart; a mean
over 20 seeds must lie within that. Prototypes decided at a barrier."""
QUADRATIC = {"turns": 100, "interval": 20}
PROBLEMS = [
    Problem(
        name="Fig2",
        task=Toy,
        settings={"population": 8, "turns": 20, "interval": 4},
        known=">= 1.197",
        holds=lambda means: means[WIDE] >= 1.197,
    ),
    Problem(
        name="Quadratic8",
        task=NoisyQuadratic,
        settings={"population": 8, **QUADRATIC},
        is_loss=True,
        decayed=DecayedQuadratic,
        known="<= .085",
        holds=lambda means: means[WIDE] <= 0.085,
    ),
    Problem(
        name="Quadratic",
        task=NoisyQuadratic,
        settings={"population": 20, **QUADRATIC},
        is_loss=True,
        decayed=DecayedQuadratic,
        known="<= .055",
        holds=lambda means: means[WIDE] <= 0.055,
    ),
    Problem(
        name="Noisy",
        task=Misread,
        settings={"population": 20, **QUADRATIC},
        is_loss=True,
        decayed=DecayedMisread,
        known="<= .065",
        holds=lambda means: means[WIDE] <= 0.065,
    ),
    Problem(
        name="Drift",
        task=Drift,
        settings={"population": 8, "turns": 10, "interval": 100},
        decayed=DecayedDrift,
        known=">= .88",
        holds=lambda means: means[WIDE] >= 0.88,
    ),
    Problem(
        name="Ceilings",
        task=Ceilings,
        settings={"population": 8, "turns": 20, "interval": 25},
        decayed=DecayedCeilings,
        known=">= halving - .03, >= random search + .10",
        holds=lambda means: (
            means[WIDE] >= means[HALVING] - 0.03 and means[WIDE] >= means[RANDOM] + 0.10
        ),
    ),
    Problem(
        name="CharLM",
        task=CharLM,
        settings={"population": 8, "turns": 20, "interval": 50},
        is_loss=True,
        decayed=DecayedCharLM,
        most_seeds=8,
        known="<= 2.00",
        holds=lambda means: means[WIDE] <= 2.00,
    ),
]


def uneven(plan: Plan, rng: np.random.Generator) -> float:
    """What a turn takes, in simulated time."""
    return float(rng.uniform(0.5, 1.5))


def in_quarters(population: int) -> int:
    """The least number of members, not below this one, that two sub-populations can be made of."""
    return -(-population // 8) * 8


def train(problem: Problem, method: str, seed: int, **more: Any) -> Simulation:
    """One population; more settings can be given."""
    settings = {**problem.settings, **(METHODS | RELATIVES)[method], **more}
    if method == MF_PBT:
        settings["population"] = in_quarters(settings["population"])
    return simulate(
        problem.decayed if method == COSINE and problem.decayed else problem.task,
        slots=SLOTS,
        workers=SLOTS,
        duration=uneven,
        seed=seed,
        **{"exploit": "truncation", "explore": EXPLORE, **settings},
    )


def value(simulation: Simulation) -> float:
    """The exact value of what the method hands over."""
    winner = simulation.history.winner()
    if winner is None or winner.score is None:
        return math.nan
    if EXACT in winner.metrics:
        return winner.metrics[EXACT]
    assert winner.checkpoint is not None
    task = simulation.engine.task(0)
    task.load_state_dict(simulation.engine.states[winner.member, winner.number])
    return next(iter(task.report().values()))


def values(problem: Problem, method: str, seeds: Sequence[int]) -> list[float]:
    """The exact values of a method's winners, seed by seed."""
    return [value(train(problem, method, seed)) for seed in seeds]


def told(found: Sequence[float]) -> str:
    """A mean as people read it, with the standard deviation."""
    spread = f" ± {stdev(found):.3f}" if len(found) > 1 else ""
    return f"{fmean(found):.3f}{spread}"


def relatives(problems: Sequence[Problem], seeds: Sequence[int]) -> int:
    """Print plain PBT beside its relatives; 1 where a known answer does not hold."""
    print(f"| problem | {' | '.join(RELATIVES)} |")
    print("|---" * (len(RELATIVES) + 1) + "|")
    missed = 0
    for problem in problems:
        cells = []
        for method in RELATIVES:
            found = values(problem, method, seeds[: problem.most_seeds])
            cells.append(told(found))
            if (known := KNOWN.get(method, {}).get(problem.name)) is not None:
                mean, margin = known
                is_missed = abs(fmean(found) - mean) > margin
                missed += is_missed
                cells[-1] += f" ({mean:.3f}: {'MISSED' if is_missed else 'holds'})"
        better = "smaller" if problem.is_loss else "greater"
        print(f"| {problem.name} ({better}) | {' | '.join(cells)} |", flush=True)
    return 1 if missed else 0


def main() -> int:
    """Print a row for each problem; the exit code is 1 where a known answer does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=20, help="populations for each number")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    names = [problem.name for problem in PROBLEMS]
    parser.add_argument("--problems", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--relatives", action="store_true", help="plain PBT beside its relatives without stages"
    )
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    if given.relatives:
        return relatives([one for one in PROBLEMS if one.name in given.problems], seeds)
    print(f"| problem | {' | '.join(METHODS)} | known answer of wide |")
    print("|---" * (len(METHODS) + 2) + "|")
    missed = []
    for problem in PROBLEMS:
        if problem.name not in given.problems:
            continue
        cells, means = [], dict[str, float]()
        for method in METHODS:
            if method == COSINE and problem.decayed is None:
                cells.append("")
                continue
            found = values(problem, method, seeds[: problem.most_seeds])
            means[method] = fmean(found)
            cells.append(told(found))
        better = "smaller" if problem.is_loss else "greater"
        known = f"{problem.known}: {'holds' if problem.holds(means) else 'MISSED'}"
        print(f"| {problem.name} ({better}) | {' | '.join(cells)} | {known} |", flush=True)
        if not problem.holds(means):
            missed.append(problem.name)
        if problem.task is CharLM and read_text().digest != CORPUS:
            print("CharLM: this Python has other help texts than 3.11.7, and so other figures")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
