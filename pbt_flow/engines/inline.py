"""Runs each job in this process, when it is submitted: for debugging, and for tiny tasks."""

from __future__ import annotations

from pbt_flow.engines.base import Engine, LostJob
from pbt_flow.engines.worker import Describe, Done, Job, Worker, WorkerContext, describe
from pbt_flow.exceptions import EngineError, StorageError
from pbt_flow.population.checkpoints import Folders
from pbt_flow.task.mlflow_capture import MemberRuns, TaskLogging

_PASSES = (KeyboardInterrupt,)
"""Ctrl-C reaches this process in the middle of a task; nothing tells it from a task that raises the
same by itself."""


class InlineEngine(Engine):
    """One slot; a breakpoint in a task works."""

    def __init__(self) -> None:
        self._finished: list[Done | LostJob] = []
        self._threads: int | None = None
        """How many threads torch had in this process before."""
        self._logging = TaskLogging(lends=True)
        self._logging.install()

    def start(self, context: WorkerContext, *, slots: int = 1) -> None:
        import torch

        self._worker = Worker(context, passes=_PASSES, logging=self._logging)
        self._threads = torch.get_num_threads()
        torch.set_num_threads(context.threads)

    def open(self, folders: Folders, runs: MemberRuns | None = None) -> None:
        self._worker.folders = folders
        self._logging.open(runs)

    def submit(self, job: Job) -> None:
        if isinstance(job, Describe):
            with self._logging.job(None):
                self._finished.append(describe(job, _PASSES))
            return
        try:
            self._finished.append(self._worker.do(job))
        except StorageError as error:
            raise EngineError(str(error)) from error

    def wait(self, timeout: float | None = None) -> list[Done | LostJob]:
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        self._finished.clear()
        self._logging.remove()
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._threads)
            self._threads = None
