"""How much of what a copy tries next should be drawn anew: the table of docs/choices.md.

    python -m benchmarks.resampling                        # 10 CPU minutes
    python -m benchmarks.resampling --first 3000           # the same on seeds that nobody had seen
    python -m benchmarks.resampling --problems Drift --stages none wide

The problems, budgets and simulated time of `benchmarks.search`. Perturb draws each hyperparameter
of a copy anew with a probability: never, with a tenth, with a quarter (the default), and with a
quarter that falls linearly to nothing at the end of a member's budget. All four begin with the same
founders, so that seeds make pairs: behind each mean stands how much better it is than the default,
with a 95% t interval over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from benchmarks.search import PROBLEMS, SLOTS, Problem, uneven, value
from pbt_flow.population.records import Member
from pbt_flow.strategies.explore import Perturb
from pbt_flow.testing.simulation import simulate
from pbt_flow.training.controller import Controller
from pbt_flow.utils.interval import Interval

DEFAULT = "0.25, the default"


class Falling(Controller):
    """Decides with a probability of drawing anew that falls to nothing over a member's budget."""

    def decide(self, member: Member) -> Member:
        """How a member goes on, by what is left of its budget."""
        given, plan = self.settings.strategies(), self.settings.stage_plan
        assert isinstance(given.explore, Perturb)
        budget = self.settings.turns if plan is None else plan.ends[-1]
        left = 1 - member.turn / budget
        probability = given.explore.resample_probability * left
        explore = replace(given.explore, resample_probability=probability)
        self.strategies = replace(given, explore=explore)
        return super().decide(member)


PROBABILITIES: dict[str, dict[str, Any]] = {
    "0": {"explore": "perturb:resample_probability=0"},
    "0.1": {"explore": "perturb:resample_probability=0.1"},
    DEFAULT: {"explore": "perturb:resample_probability=0.25"},
    "0.25, falling to 0": {
        "explore": "perturb:resample_probability=0.25",
        "controller": Falling,
    },
}


def values(problem: Problem, how: str, stages: str, seeds: Sequence[int]) -> list[float]:
    """The exact values of the winners, seed by seed."""
    settings = {**problem.settings, **PROBABILITIES[how], "stages": stages}
    return [
        value(
            simulate(
                problem.task,
                slots=SLOTS,
                workers=SLOTS,
                duration=uneven,
                seed=seed,
                exploit="truncation",
                **settings,
            )
        )
        for seed in seeds
    ]


def better(found: Sequence[float], default: Sequence[float], *, is_loss: bool) -> str:
    """How much better values are than those of the default, in pairs, with the interval."""
    sign = -1 if is_loss else 1
    pairs = zip(found, default, strict=True)
    interval = Interval.of([sign * (own - other) for own, other in pairs])
    bounds = f", {interval.bounds}" if interval.bounds else ""
    return f"{interval.mean:+.3f}{bounds}"


def main() -> None:
    """Print a row for each problem and kind of stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=20, help="populations for each number")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    names = [problem.name for problem in PROBLEMS]
    parser.add_argument("--problems", nargs="+", choices=names, default=names)
    parser.add_argument("--stages", nargs="+", default=["none", "narrow"])
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    print(f"| problem | stages | {' | '.join(PROBABILITIES)} |")
    print("|---" * (len(PROBABILITIES) + 2) + "|")
    for problem in PROBLEMS:
        if problem.name not in given.problems:
            continue
        for stages in given.stages:
            found = {how: values(problem, how, stages, seeds) for how in PROBABILITIES}
            cells = []
            for how, own in found.items():
                cells.append(f"{fmean(own):.3f}")
                if how != DEFAULT:
                    gain = better(own, found[DEFAULT], is_loss=problem.is_loss)
                    cells[-1] += f" ({gain})"
            direction = "smaller" if problem.is_loss else "greater"
            row = [f"{problem.name} ({direction})", stages, *cells]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
