"""What a turn of each task takes: units of data per CPU second in training, and the other parts.

    python -m benchmarks.throughput                     # a minute of one core: docs/results.md
    python -m benchmarks.throughput --tasks rl --repeats 9
    python -m benchmarks.throughput --tasks gan --profile       # and what takes the time

A model of each task with its defaults, in the middle of its space, trains some steps several times
on one thread. CPU seconds are those of this process, so that others on the machine disturb little;
of several repeats the quickest counts. Beside training stand one evaluation, one state written and
one read, as shares of a turn of the task's default interval.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pbt_flow.population.checkpoints import load_state, save_state
from pbt_flow.population.records import Checkpoint
from pbt_flow.task import Task, build_task, complete_options, declare, find_task
from pbt_flow.testing import middle

SEED = 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task as it is measured."""

    task: str
    unit: str
    """What training is counted in."""
    steps: int
    """Steps of a repeat: a second or so."""
    options: Mapping[str, Any] = field(default_factory=dict)
    hparams: Mapping[str, Any] = field(default_factory=dict)
    """Where the middle of the space would be no usual point."""

    def units(self, task: Any, metrics: Mapping[str, float]) -> float:
        """The units of data that a training went through, which began from `SEED`."""
        if self.task == "rl":
            return metrics["env_steps"]
        if self.task == "gan":
            return self.steps * task.batch * task.k
        # Drawn once more: the metric is tokens by wall-clock seconds.
        task.reseed(SEED)
        batches = task.training.batches(task.rng, task.batch_tokens)
        lengths = task.training.lengths()[1]
        return sum(int(lengths[rows].sum()) for rows in itertools.islice(batches, self.steps))


CASES = [
    Case(task="gan", unit="real images", steps=250, options={"data": "digits"}),
    Case(task="translation", unit="target tokens", steps=60),
    Case(task="rl", unit="environment steps", steps=8_192, hparams={"unroll": 128}),
]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """CPU seconds of the parts of a turn of the default interval, and the units that it trains."""

    seconds: Mapping[str, float]
    units: float

    @property
    def rate(self) -> float:
        """Units per CPU second of training."""
        return self.units / self.seconds["train"]

    def share(self, part: str) -> float:
        """The share of the whole turn that a part takes."""
        return self.seconds[part] / sum(self.seconds.values())


def quickest(repeats: int, job: Callable[[], Any]) -> float:
    """CPU seconds of the quickest of some repeats."""
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        job()
        found.append(time.process_time() - begun)
    return min(found)


def measure(case: Case, repeats: int) -> Measured:
    """Train, evaluate, write and read one model."""
    task, train = prepared(case)
    units = case.units(task, train())
    trained = quickest(repeats, train)
    with tempfile.TemporaryDirectory() as place:
        folder, turns = Path(place), itertools.count(1)

        def write() -> Checkpoint:
            # A file is written once, so that each repeat has a turn of its own.
            return save_state(task.state_dict(), 0, next(turns), folder)

        seconds = {"train": trained, "evaluate": quickest(repeats, task.evaluate)}
        seconds["write"] = quickest(repeats, write)
        written = write()
        seconds["read"] = quickest(
            repeats, lambda: task.load_state_dict(load_state(written, folder, "cpu"))
        )
    turn = type(task).defaults["interval"] / case.steps
    seconds["train"] *= turn
    return Measured(seconds=seconds, units=units * turn)


def prepared(case: Case) -> tuple[Task, Callable[[], Mapping[str, float]]]:
    """A model that is warm, and a call that trains it, from the same seed each time."""
    kind = find_task(case.task)
    task = build_task(kind, 0, "cpu", complete_options(declare(kind), case.options))
    hparams = {**middle(task.space), **case.hparams}

    def train() -> Mapping[str, float]:
        task.reseed(SEED)
        return task.train(hparams, case.steps)

    train()
    return task, train


def profile(case: Case) -> None:
    """Print the functions that take the time of a training."""
    _, train = prepared(case)
    profiler = cProfile.Profile()
    profiler.runcall(train)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(20)


def main() -> None:
    """Print a row for each task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    names = [case.task for case in CASES]
    parser.add_argument("--tasks", nargs="+", choices=names, default=names)
    parser.add_argument("--repeats", type=int, default=5, help="of which the quickest counts")
    parser.add_argument("--profile", action="store_true", help="print where training spends it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| task | unit | units per CPU s | CPU s a turn | train | evaluate | write | read |")
    print("|---" * 8 + "|")
    for case in CASES:
        if case.task not in given.tasks:
            continue
        found = measure(case, given.repeats)
        shares = [f"{found.share(part):.1%}" for part in ("train", "evaluate", "write", "read")]
        turn = f"{sum(found.seconds.values()):.2f}"
        row = [case.task, case.unit, f"{found.rate:,.0f}", turn, *shares]
        print(f"| {' | '.join(row)} |", flush=True)
        if given.profile:
            profile(case)


if __name__ == "__main__":
    sys.exit(main())
