"""Runs a batch of jobs on an engine that has nothing else to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pbt_flow.engines.base import Engine, LostJob
from pbt_flow.engines.jobs import Done, Job

MOST_MOVES = 10
"""How often one job is run again because its machine was taken away. A job that takes its machine
along each time must come to an end too."""


def run_batch(engine: Engine, jobs: Sequence[Job]) -> Iterator[Done | LostJob]:
    """Run some jobs on all slots of an engine, and yield each outcome as it comes.

    A job whose machine was taken away is run again, and its loss is not yielded.

    Args:
        engine: The engine. It has been started, and no job is under way.
        jobs: The jobs. They begin in this order.

    Raises:
        EngineError: The engine cannot go on.
    """
    waiting, under_way, moved = list(jobs), 0, Counter[int]()
    while waiting or under_way:
        while waiting and under_way < engine.slots:
            engine.submit(waiting.pop(0))
            under_way += 1
        for done in engine.wait():
            under_way -= 1
            if isinstance(done, LostJob) and done.blameless and moved[id(done.job)] < MOST_MOVES:
                moved[id(done.job)] += 1
                waiting.insert(0, done.job)
            else:
                yield done
