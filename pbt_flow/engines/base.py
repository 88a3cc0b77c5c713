"""The interface of an engine.

It has five methods that every engine must have, so that one for another cluster is one more file.
`pbt_flow.testing.EngineContract` says, as a test to inherit, what they must keep to.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

from pbt_flow.engines.jobs import Done, Job, WorkerContext
from pbt_flow.population.checkpoints import Folders
from pbt_flow.population.records import Checkpoint
from pbt_flow.task.mlflow_capture import MemberRuns


@dataclass(frozen=True, kw_only=True)
class LostJob:
    """A job whose worker died or took too long. How far it got is unknown."""

    job: Job
    reason: str
    blameless: bool = False
    """Whether the worker's machine was taken away, or could not be reached any more. That is no
    fault of the job, and says nothing of what would become of it elsewhere."""


class Engine(abc.ABC):
    """Runs the jobs of one population, `slots` of them at once, in any order.

    Before `start`, an engine has one slot, and `Describe` is the only job that it takes. After
    `start` it takes every other job.
    """

    slots: int = 1
    """How many jobs may be under way at once; at least 1. The number may change at any time, as
    machines come and go. Whoever submits jobs reads it again before each of them."""
    turn_timeout: float | None = None
    """Seconds after which a turn counts as hung, and its worker is replaced. With None or infinity
    a turn may take any time.

    The controller may change the limit while turns are under way. An engine that runs turns in the
    controller's own process cannot obey it.
    """

    @abc.abstractmethod
    def start(self, context: WorkerContext, *, slots: int = 1) -> None:
        """Get ready to work for one population. Called once, before the first turn.

        Args:
            context: What all turns of the population share.
            slots: How many turns are to run at once; an engine may run fewer.
        """

    @abc.abstractmethod
    def open(self, folders: Folders, runs: MemberRuns | None = None) -> None:
        """Say where turns write their results. Called once, before the first turn is submitted.

        Each worker opens the folders by `Worker.open` before its first turn, also one that comes
        later, and takes no turn if it does not reach them.

        Args:
            folders: Where the turn folders are.
            runs: The members' runs, to which goes what tasks log by themselves; None if the members
                have no runs.

        Raises:
            EngineError: A worker does not reach the folders. It may come from `wait` as well.
        """

    @abc.abstractmethod
    def submit(self, job: Job) -> None:
        """Begin a job, or keep it until a worker is free. This never waits for a worker.

        The caller begins no job while as many as `slots` are under way. More may be under way than
        that if workers have died since; a job that was lost is submitted again at once.

        Raises:
            EngineError: The engine cannot go on.
        """

    @abc.abstractmethod
    def wait(self, timeout: float | None = None) -> list[Done | LostJob]:
        """Wait until a job has finished, or for `timeout` seconds, and return what has finished.

        Raises:
            EngineError: The engine cannot go on.
        """

    def waiting_for(self) -> str:
        """What the engine has waited for, for so long that a user wants to know it.

        Returns:
            A sentence such as "3 of 8 workers: the cluster has no free GPU"; empty if the engine
            has all that it was asked for, or will have it in seconds.
        """
        return ""

    def forget(self, checkpoint: Checkpoint) -> None:  # noqa: B027 - most engines keep no copies
        """Hear that a checkpoint was deleted, so that copies on other machines may go as well."""

    @abc.abstractmethod
    def close(self) -> None:
        """Stop at once, and give up the jobs under way. It may be called twice."""
