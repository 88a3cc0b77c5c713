"""Runs a batch of jobs on an engine that has nothing else to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pbt_flow.engines.base import Engine, LostJob
from pbt_flow.engines.jobs import Done, Job


def run_batch(engine: Engine, jobs: Sequence[Job]) -> Iterator[Done | LostJob]:
    """Run some jobs on all slots of an engine, and yield each outcome as it comes.

    Args:
        engine: The engine. It has been started, and no job is under way.
        jobs: The jobs. They begin in this order.

    Raises:
        EngineError: The engine cannot go on.
    """
    waiting, under_way = list(jobs), 0
    while waiting or under_way:
        while waiting and under_way < engine.slots:
            engine.submit(waiting.pop(0))
            under_way += 1
        for done in engine.wait():
            under_way -= 1
            yield done
