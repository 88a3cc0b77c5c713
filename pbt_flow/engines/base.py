"""The interface of an engine.

It has five methods, so that an engine for another cluster is one more small file.
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


class Engine(abc.ABC):
    """Runs the jobs of one population, `slots` of them at once, in any order.

    Before `start`, an engine has one slot, and `Describe` is the only job that it takes.
    """

    slots: int = 1
    """How many jobs may be under way at once."""
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

    def forget(self, checkpoint: Checkpoint) -> None:  # noqa: B027
        """Let the machines of the workers drop their copies of a state that is being deleted.

        An engine whose workers are all on this machine need not: they share the copy that is
        deleted here.
        """

    @abc.abstractmethod
    def submit(self, job: Job) -> None:
        """Begin a job. The caller never has more than `slots` jobs under way."""

    @abc.abstractmethod
    def wait(self, timeout: float | None = None) -> list[Done | LostJob]:
        """Wait until a job has finished, or for `timeout` seconds, and return what has finished.

        Raises:
            EngineError: The engine cannot go on.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Stop at once, and give up the jobs under way. It may be called twice."""
