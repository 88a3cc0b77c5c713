"""What averaging weights brings: across members, and beside it a model's own last checkpoints.

    python -m benchmarks.averages                    # 2 CPU minutes: the table of docs/choices.md
    python -m benchmarks.averages --first 1000 --methods PBT

Populations of CharLM, which really learn, by simulation, with the product's own controller,
judgement and averages. For each method stands the report of the winner (a loss in nats; smaller is
better) without any average, of the mean of the winner's own last three checkpoints, and of the
average of finalists where that is better by the selection score, and else of the winner. Beside
them stand the gains over the winner and over its own checkpoints, in pairs, with 95% t intervals.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.search import METHODS, NARROW, PBT, PROBLEMS, RANDOM, WIDE, train, value
from pbt_flow.testing.simulation import Simulation
from pbt_flow.training.averaging import Averaged, average_finalists, average_own_records
from pbt_flow.training.finalists import judge_finalists
from pbt_flow.utils.interval import Interval

PROBLEM = next(problem for problem in PROBLEMS if problem.name == "CharLM")


@dataclass(frozen=True, kw_only=True)
class Reports:
    """The report of one population's winner, without averages and with them."""

    alone: float
    own: float
    across: float
    is_averaged: bool
    """Whether the average of finalists was better than the winner by the selection score."""


def reports(made: Simulation) -> Reports:
    """Judge the finalists of a population, and average."""
    history, engine = made.history, made.engine
    judgement = judge_finalists(history, engine, lambda text: None)
    history.fresh.update(judgement.fresh)
    history.scores_repeat = judgement.scores_repeat
    alone = value(made)
    across = average_finalists(history, engine, Path(), lambda text: None)
    own = average_own_records(history, engine, Path(), lambda text: None)
    return Reports(
        alone=alone,
        own=_loss(own, alone),
        across=_loss(across, alone),
        is_averaged=across is not None,
    )


def _loss(averaged: Averaged | None, alone: float) -> float:
    """The report of an average; without one, of the winner."""
    return alone if averaged is None else averaged.report["loss"]


def gain(before: list[float], after: list[float]) -> str:
    """How much smaller the losses are, with the interval."""
    found = Interval.of([b - a for b, a in zip(before, after, strict=True)])
    return f"{found.mean:+.3f} ({found.bounds})" if found.bounds else f"{found.mean:+.3f}"


def main() -> None:
    """Print a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=20, help="populations for each number")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    known = [RANDOM, PBT, NARROW, WIDE]
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=known)
    given = parser.parse_args()
    print("| method | winner alone | its own last 3 | gain | average of finalists | gain |", end="")
    print(" beyond its own last 3 | averaged in |\n|---|---|---|---|---|---|---|---|")
    for method in given.methods:
        seeds = range(given.first, given.first + given.seeds)
        found = [reports(train(PROBLEM, method, seed, finalists="own")) for seed in seeds]
        alone, own, across = (
            [getattr(one, name) for one in found] for name in ("alone", "own", "across")
        )
        row = [method, f"{fmean(alone):.3f}", f"{fmean(own):.3f}", gain(alone, own)]
        row += [f"{fmean(across):.3f}", gain(alone, across), gain(own, across)]
        row.append(f"{sum(one.is_averaged for one in found)} of {len(found)}")
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
