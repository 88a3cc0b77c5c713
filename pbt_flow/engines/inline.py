"""The inline engine: it runs each job in this process, for debugging and for tiny tasks."""

from __future__ import annotations

from pbt_flow.engines.base import Engine, LostJob
from pbt_flow.engines.jobs import Describe, Done, Job, WorkerContext
from pbt_flow.engines.worker import Worker, describe
from pbt_flow.exceptions import EngineError, StorageError, UnusableTask
from pbt_flow.population.checkpoints import Folders
from pbt_flow.population.reach import START_PATIENCE
from pbt_flow.task.mlflow_capture import MemberRuns, TaskLogging

# Ctrl-C reaches this process in the middle of a task. A `KeyboardInterrupt` that a task raises by
# itself cannot be told from it, and so counts as Ctrl-C too.
_NOT_THE_TASKS_OWN = (KeyboardInterrupt,)


class InlineEngine(Engine):
    """Runs one job at a time, as soon as it is submitted; a breakpoint in a task works."""

    def __init__(self) -> None:
        self._finished: list[Done | LostJob] = []
        self._worker: Worker | None = None
        self._threads_before: int | None = None
        """How many threads torch had in this process before `start`; None outside of a
        population."""
        self._logging = TaskLogging(restores=True)
        self._logging.install()

    def start(self, context: WorkerContext, *, slots: int = 1) -> None:
        import torch

        self._worker = Worker(context, reraise=_NOT_THE_TASKS_OWN, logging=self._logging)
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(context.threads)

    def open(self, folders: Folders, runs: MemberRuns | None = None) -> None:
        assert self._worker is not None, "the engine is started before it is opened"
        try:
            self._worker.open(folders, runs, START_PATIENCE)
        except StorageError as error:
            raise EngineError(str(error)) from error

    def submit(self, job: Job) -> None:
        if isinstance(job, Describe):
            with self._logging.job(None):
                self._finished.append(describe(job, _NOT_THE_TASKS_OWN))
            return
        assert self._worker is not None, "before start, Describe is the only job"
        try:
            if self._worker.spoiled:
                raise EngineError(
                    f"{self._worker.spoiled}; a new process can resume the population, and "
                    "engine=processes replaces such a worker by itself"
                )
            self._finished.append(self._worker.do(job))
        except (StorageError, UnusableTask) as error:
            raise EngineError(str(error)) from error

    def wait(self, timeout: float | None = None) -> list[Done | LostJob]:
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        self._finished.clear()
        self._logging.remove()
        if self._worker is not None:
            # The process goes on, and its memory and its GPU are the user's again.
            self._worker.drop_all()
            self._worker = None
        if self._threads_before is not None:
            import torch

            torch.set_num_threads(self._threads_before)
            self._threads_before = None
