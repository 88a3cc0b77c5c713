"""How busy workers are, where each request to MLflow takes time: the real controller, simulated.

    python -m benchmarks.many_workers                # the table in docs/results.md
    python -m benchmarks.many_workers --quick        # two of its lines

Each line is one asynchronous population with turns of lognormal duration (sigma 0.5). `busy` is the
share of the workers' time that turns took, from the first turn's beginning to the last one's end.
With no cost at all a tenth of the time is lost, since the last turns of the budget are fewer than
the workers; `steady` leaves that end out. Earlier versions had the controller make each request
itself, one after another: the lines with `controller` do that again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pbt_flow.population.records import Plan
from pbt_flow.tasks.toy import Toy
from pbt_flow.testing.simulation import Simulation, prepare
from pbt_flow.training.log_queue import LogQueue

THREADS = 8
"""As many as `Store.requests_at_once` says of a tracking server; and as many for deletions."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table."""

    members: int
    workers: int
    seconds: float
    """The mean of what a turn takes."""
    request: float
    """What each request takes, in seconds."""
    threads: bool
    """Whether threads make the requests, or the controller itself, one after another."""


def cases(quick: bool) -> list[Case]:
    """The lines of the table."""
    if quick:
        sizes, costs, lengths = [(1000, 200)], [0.1], [10.0]
    else:
        sizes, costs, lengths = [(1000, 200), (1024, 256)], [0.0, 0.03, 0.1], [10.0, 60.0]
    return [
        Case(members=members, workers=workers, seconds=length, request=cost, threads=threads)
        for members, workers in sizes
        for length in lengths
        for cost in costs
        for threads in (False, True)
    ]


def lasting(seconds: float) -> Callable[[Plan, np.random.Generator], float]:
    """What a turn takes: lognormal, with a mean of so many seconds."""
    return lambda plan, rng: seconds * float(rng.lognormal(-0.125, 0.5))


def simulated(case: Case, turns: int) -> Simulation:
    """The population, trained to its end."""
    settings: dict[str, Any] = {"population": case.members, "turns": turns, "interval": 4}
    made = prepare(
        Toy,
        slots=case.workers,
        duration=lasting(case.seconds),
        request=case.request if case.threads else None,
        requests_at_once=THREADS,
        finalists="none",
        **settings,
    )
    if not case.threads:
        for queue in (made.controller.queues.log, made.controller.queues.deletions):
            make_each_wait(queue, lambda: made.engine.pass_time(case.request))
    return made.go()


def make_each_wait(queue: LogQueue, wait: Callable[[], None]) -> None:
    """Let each call of a queue hold up the controller, and tell one thing, as it was before."""
    add = queue.lanes.add

    def adding(tell: Callable[[Any], None], item: Any, lane: Any, *, joins: bool) -> None:
        def told(items: Any) -> None:
            wait()
            tell(items)

        add(told, item, lane, joins=False)

    queue.lanes.add = adding  # type: ignore[method-assign]


def line(case: Case, turns: int) -> str:
    """The line of the table, measured."""
    began = time.process_time()
    made = simulated(case, turns)
    cpu = time.process_time() - began
    done = [turn for own in made.history.turns.values() for turn in own]
    end = max(turn.ended for turn in done)
    busy = sum(turn.took for turn in done) / (case.workers * end)
    # From when on there were fewer turns left than workers.
    begun = sorted(turn.started for turn in done)
    last = begun[-1]
    until = sum(min(turn.ended, last) - turn.started for turn in done)
    behind = made.engine.now - end
    assert len(made.store.told) == len(done), "MLflow was not told of each turn once"
    return (
        f"| {case.members} | {case.workers} | {case.seconds:g} | {1000 * case.request:g} "
        f"| {f'{THREADS} threads' if case.threads else 'controller'} | {busy:.0%} "
        f"| {until / (case.workers * last):.0%} | {len(done) / end:.1f} | {behind:.0f} "
        f"| {made.engine.most_states} | {1000 * cpu / len(done):.1f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--turns", type=int, default=6, help="turns of each member")
    parser.add_argument("--quick", action="store_true", help="two lines only")
    given = parser.parse_args()
    print(
        "| members | workers | s a turn | ms a request | requests by | busy | steady | turns/s "
        "| s behind at the end | states at once | CPU ms a turn, simulation and all |\n"
        + "|---" * 11
        + "|"
    )
    for case in cases(given.quick):
        print(line(case, given.turns), flush=True)


if __name__ == "__main__":
    main()
