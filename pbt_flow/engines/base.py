"""The interface of an engine: five methods, so that another cluster is one more small file."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from pbt_flow.engines.worker import Done, Job, WorkerContext
from pbt_flow.population.checkpoints import Folders
from pbt_flow.task.mlflow_capture import MemberRuns


@dataclass(frozen=True, kw_only=True)
class LostJob:
    """A job whose worker died or took too long: what it did is unknown."""

    job: Job
    reason: str


class Engine(abc.ABC):
    """Runs turns, as many at once as it has `slots`. Order and duration are its own affair.

    Before `start` it has one slot, and the only job is to `Describe` the task.
    """

    slots: int = 1
    turn_timeout: float | None = None
    """Seconds after which a turn counts as hung, and its worker is replaced; None, or infinity, is
    never.

    The controller may change it while turns are under way. An engine that runs turns in the
    controller's own process cannot obey it.
    """

    @abc.abstractmethod
    def start(self, context: WorkerContext, *, slots: int = 1) -> None:
        """Get ready to work for one population; called once, before the first turn.

        Args:
            context: What all its turns share.
            slots: How many turns are to run at once; an engine may have fewer.
        """

    @abc.abstractmethod
    def open(self, folders: Folders, runs: MemberRuns | None = None) -> None:
        """Say where turns leave what; called once, before the first turn is submitted.

        Args:
            folders: Where the turn folders are.
            runs: The members' runs, for what tasks log by themselves; None where there are none.
        """

    @abc.abstractmethod
    def submit(self, job: Job) -> None:
        """Begin a job. At most `slots` are ever under way."""

    @abc.abstractmethod
    def wait(self, timeout: float | None = None) -> list[Done | LostJob]:
        """What has finished; blocks until something has, or for `timeout` seconds.

        Raises:
            EngineError: The engine cannot go on.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Stop at once; jobs under way are given up. May be called twice."""
