"""What runs inside of a Ray actor: one worker, which lives for the whole population.

Ray does the calls of an actor one after another, in the order in which they were made. The engine
relies on that: it calls `start` and `open` without waiting for either.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pbt_flow.engines.code_shipping import unpacked
from pbt_flow.engines.device_memory import DeviceMemory
from pbt_flow.engines.jobs import (
    AverageEvaluated,
    Done,
    EvaluateAverage,
    Inspect,
    Inspection,
    Job,
    WorkerContext,
)
from pbt_flow.engines.node_folder import NodeFolder
from pbt_flow.engines.worker import Worker
from pbt_flow.engines.worker_environment import WorkerEnvironment
from pbt_flow.engines.worker_main import output_reader
from pbt_flow.exceptions import StorageError, UnusableTask
from pbt_flow.population.checkpoints import Folders
from pbt_flow.population.records import Checkpoint
from pbt_flow.population.turn_files import turn_folder
from pbt_flow.task.mlflow_capture import MemberRuns, TaskLogging
from pbt_flow.utils.scratch import SCRATCH


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker lives."""

    node: str
    """Ray's id of the node."""
    host: str
    pid: int
    gpus: str
    """The GPUs that the worker sees, as CUDA_VISIBLE_DEVICES has them."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a job."""

    done: Done | None
    refused: str = ""
    """Why no turn can be done any more, such as a full disk; empty if it can."""
    spoiled: str = ""
    """Why the worker can do no other job, since its device refuses everything; empty if it can."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The files that the job was to write into a folder of the controller, by relative path."""


class RayWorker:
    """A worker in an actor.

    Args:
        index: The number of this worker among the engine's workers.
        environment: How the store is reached from here.
    """

    def __init__(self, index: int, environment: WorkerEnvironment) -> None:
        import ray

        context = ray.get_runtime_context()
        self._node = context.get_node_id()
        # Two nodes may be on one machine, and two populations on one node.
        name = f"pbt_flow-{self._node[:16]}-{context.get_job_id()}"
        self._shared = NodeFolder(Path(tempfile.gettempdir(), name))
        self._own = Path(tempfile.mkdtemp(prefix=f"worker-{index}-", dir=self._shared.path))
        environment.apply(self._own)
        os.environ["PBT_FLOW_WORKER"] = str(index)
        os.environ[SCRATCH] = str(self._own)
        self._read_output = output_reader(_redirect_output(self._own / "output.log"))
        self._logging = TaskLogging()
        self._logging.install()
        self._worker: Worker | None = None

    def place(self) -> Place:
        """Say where this worker lives. The engine learns by the answer that it does."""
        return Place(
            node=self._node,
            host=socket.gethostname(),
            pid=os.getpid(),
            gpus=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        )

    def start(self, context: WorkerContext) -> None:
        """Get ready for one population; the name of its task is as `code_shipping` has it."""
        import torch

        torch.set_num_threads(context.threads)
        task = dataclasses.replace(context.task, name=unpacked(context.task.name))
        context = dataclasses.replace(context, task=task)
        # Ray shows each worker its own GPUs only, so that the first of them is `cuda`. A share is a
        # share of the count: the workers have to share the memory among themselves.
        share = context.gpu_share or 1.0
        memory = DeviceMemory.of(task.device, sharers=max(1, int(1 / share)))
        self._worker = Worker(
            context, None, self._read_output, logging=self._logging, memory=memory
        )

    def open(self, folders: Folders, runs: MemberRuns | None, patience: float) -> str:
        """Take the folders that turns are written to.

        Args:
            folders: The folders as the controller has them.
            runs: The members' runs.
            patience: Seconds for which a storage that does not answer is waited for.

        Returns:
            Why the folders cannot be used from here, in a sentence; empty if they can.
        """
        assert self._worker is not None, "the engine calls start first"
        try:
            self._worker.open(folders.elsewhere(str(self._checkpoints)), runs, patience)
        except StorageError as error:
            return str(error)
        return ""

    def arrive(self) -> None:
        """Do nothing: an answer to this says that the job which follows has come here as well."""

    def do(self, job: Job, deleted: Sequence[Checkpoint] = ()) -> Answer:
        """Do a job.

        Args:
            job: The job.
            deleted: Checkpoints that do not exist any more, and whose copies are to go.
        """
        assert self._worker is not None, "the engine calls start first"
        for checkpoint in deleted:
            self._delete_copy(checkpoint)
        with self._redirected(job) as (own, folder):
            try:
                done = self._worker.do(own)
            except (StorageError, UnusableTask) as error:
                return Answer(done=None, refused=str(error))
            if isinstance(done, Inspection | AverageEvaluated):
                # Whoever asked looks for the request as it was made.
                done = dataclasses.replace(done, request=job)  # type: ignore[arg-type]
            return Answer(done=done, spoiled=self._worker.spoiled, files=_read_files(folder))

    @property
    def _checkpoints(self) -> Path:
        """The copies of checkpoints, for all workers of the node: a donor's is fetched once."""
        return self._shared.path / "checkpoints"

    def _delete_copy(self, checkpoint: Checkpoint) -> None:
        folder = self._checkpoints / str(checkpoint.member) / turn_folder(checkpoint.turn)
        if folder.is_dir():
            for path in folder.iterdir():
                path.unlink(missing_ok=True)

    @contextmanager
    def _redirected(self, job: Job) -> Iterator[tuple[Job, Path | None]]:
        """The job with a folder of this machine in place of one of the controller's, and that."""
        wanted = _folder_of(job)
        if wanted is None:
            yield job, None
            return
        with tempfile.TemporaryDirectory(dir=self._own, prefix="written-") as folder:
            if isinstance(job, Inspect):
                yield dataclasses.replace(job, samples=folder), Path(folder)
            elif isinstance(job, EvaluateAverage):
                yield dataclasses.replace(job, folder=folder), Path(folder)


def _folder_of(job: Job) -> str | None:
    """The folder of the controller's machine that a job is to write files into."""
    if isinstance(job, Inspect):
        return job.samples
    return job.folder if isinstance(job, EvaluateAverage) else None


def write_files(job: Job, files: Mapping[str, bytes]) -> None:
    """Write the files of an answer where the job wanted them.

    Raises:
        OSError: The folder cannot be written to.
    """
    folder = _folder_of(job)
    if folder is None:
        return
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _read_files(folder: Path | None) -> dict[str, bytes]:
    """The files below a folder, by their relative paths."""
    if folder is None:
        return {}
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _redirect_output(log: Path) -> int:
    """Lead all that this process prints to a file, from which a turn's output is read back.

    Ray's own files cannot be read from, since they are open for writing only.

    Returns:
        The file descriptor of the file.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with log.open("a+b") as file:
        for standard in (1, 2):
            os.dup2(file.fileno(), standard)
    return 1
