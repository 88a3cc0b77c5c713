"""What a decision costs the controller, by size of the population and length of the history.

    python -m benchmarks.decisions                     # the table in docs/reliability.md
    python -m benchmarks.decisions --populations 64 --turns 20
    python -m benchmarks.decisions --modes async --turns 10 --each   # a slot for each member

The real controller and history, with an engine whose turns are over at once. *Decision* is the time
in `Controller.plan`: whom to compare with, whom to copy, how to move. *Turn* is all that the
controller does for a turn: who is ready, the decision, the outcome, which checkpoints to delete.
Medians of wall-clock time (here a clock of CPU time would cost more than the decision).
Early is the second tenth of the run, late the last tenth.
"""

from __future__ import annotations

import argparse
import heapq
import resource
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from optuna.distributions import FloatDistribution

from pbt_flow import Task
from pbt_flow.engines import Engine
from pbt_flow.engines.jobs import (
    CheckNoise,
    CheckRestore,
    Done,
    Job,
    NoiseChecked,
    RestoreChecked,
    WorkerContext,
)
from pbt_flow.population.checkpoints import Folders
from pbt_flow.population.history import History
from pbt_flow.population.records import Checkpoint, Member, Plan, Turn
from pbt_flow.settings import Settings
from pbt_flow.space import Space
from pbt_flow.task.mlflow_capture import MemberRuns
from pbt_flow.training.controller import Controller


class Nothing(Task):
    """Two hyperparameters of a task that is never built."""

    space: ClassVar = {"lr": FloatDistribution(1e-5, 1e-1, log=True), "x": FloatDistribution(0, 1)}


class Instant(Engine):
    """Gives each turn a random score and a random duration, in simulated time."""

    def __init__(self, slots: int) -> None:
        self.slots, self.now = slots, 0.0
        self.between: list[float] = []
        """Milliseconds that the controller took from one outcome to its next question."""
        self._rng, self._pending = np.random.default_rng(0), list[tuple[float, int, Done]]()
        self._left = time.perf_counter()

    def start(self, context: WorkerContext) -> None:
        """Nothing is to be prepared."""

    def open(self, folders: Folders, runs: MemberRuns | None = None) -> None:
        """There are no folders."""

    def submit(self, job: Job) -> None:
        """The turn has happened, and there is no task to find anything out about."""
        if isinstance(job, CheckRestore):
            heapq.heappush(self._pending, (self.now, job.member, RestoreChecked(check=job)))
            return
        if isinstance(job, CheckNoise):
            heapq.heappush(self._pending, (self.now, job.member, NoiseChecked(check=job)))
            return
        assert isinstance(job, Plan)
        checkpoint = Checkpoint(member=job.member, turn=job.turn, digest="", size=0)
        score = float(self._rng.normal())
        turn = Turn(plan=job, status="ok", score=score, checkpoint=checkpoint, started=self.now)
        ends = self.now + self._rng.lognormal(0, 0.5)
        heapq.heappush(self._pending, (ends, job.member, turn))

    def wait(self, timeout: float | None = None) -> list[Any]:
        """The next turn that is over."""
        self.between.append((time.perf_counter() - self._left) * 1e3)
        self.now, _, turn = heapq.heappop(self._pending)
        self._left = time.perf_counter()
        return [turn]

    def close(self) -> None:
        """Nothing is to be stopped."""


class Nowhere:
    """A store that keeps nothing, and a watcher that shows nothing."""

    run_id, lost = "", False

    def __init__(self, space: Space) -> None:
        self.space, self.folders, self.patience = space, self, 0.0

    def record(self, member: int, turn: int) -> Turn | None:
        """No worker is ever lost."""
        raise NotImplementedError

    commit = record

    sees_states = True

    def have_states(self, checkpoints: Sequence[Checkpoint]) -> list[bool]:
        """Every checkpoint exists."""
        return [True] * len(checkpoints)

    def ignore(self, *arguments: Any, **named: Any) -> None:
        """Whatever is told here goes nowhere."""

    log_turns = log_records = log_population = delete_checkpoint = retire = turn = tick = say = (
        tag
    ) = ignore


class Timed(Controller):
    """A controller that notes what each decision takes."""

    def plan(self, member: Member) -> Plan:
        """The next turn of a member."""
        began = time.perf_counter()
        plan = super().plan(member)
        decisions.append((time.perf_counter() - began) * 1e3)
        return plan


decisions: list[float] = []


def measure(population: int, turns: int, slots: int, mode: str) -> tuple[list[float], list[float]]:
    """Milliseconds of each decision, and of the controller for each turn, in their order."""
    settings, kind = Settings.for_task(Nothing, population=population, turns=turns, mode=mode)
    rng, history = np.random.default_rng(0), History(direction="maximize")
    points = settings.strategies().init.initial(kind.space, population, rng)
    history.begin(Member(index=index, hparams=point) for index, point in enumerate(points))
    engine, nowhere = Instant(slots), Nowhere(kind.space)
    decisions.clear()
    Timed(settings, nowhere, engine, history, nowhere, lambda: engine.now).go(nowhere)
    assert sum(map(len, history.turns.values())) == population * turns
    return decisions, engine.between


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--populations", type=int, nargs="+", default=[8, 64, 256, 1024])
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--modes", nargs="+", default=["async", "generational"])
    parser.add_argument("--each", action="store_true", help="a slot for each member, not each 8th")
    given = parser.parse_args()
    print(
        "| mode | members | turns | decision ms, early | decision ms, late | turn ms, early "
        "| turn ms, late | the whole run, s | peak MB |\n" + "|---" * 9 + "|"
    )
    for mode in given.modes:
        for population in given.populations:
            began = time.perf_counter()
            slots = population if given.each else max(2, population // 8)
            both = measure(population, given.turns, slots, mode)
            took = time.perf_counter() - began
            tenth = population * given.turns // 10
            cells = [
                f"{np.median(times[part]):.3f} (p99 {np.quantile(times[part], 0.99):.2f})"
                for times in map(np.array, both)
                for part in (slice(tenth, 2 * tenth), slice(-tenth, None))
            ]
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
            row = [mode, population, population * given.turns, *cells, f"{took:.1f}", f"{peak:.0f}"]
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
