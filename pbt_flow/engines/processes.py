"""The default engine: it runs turns in worker processes on this machine.

A worker is forked from a server process that has imported torch, and talks to the controller over
a pipe. It lives for the whole population, and does not import mlflow if the artifacts are on a
local disk. A worker ends with its controller, whatever killed that: a thread in the worker reads
from the lifeline, a second pipe, whose other end the system closes when the controller is gone.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from pbt_flow.engines.base import Engine, LostJob
from pbt_flow.engines.forkserver import ANSWER, REQUEST
from pbt_flow.engines.jobs import Done, Job, LastDone, WorkerContext
from pbt_flow.exceptions import PATIENCE, EngineError
from pbt_flow.population.checkpoints import Folders
from pbt_flow.population.reach import START_PATIENCE
from pbt_flow.task.files import search_path
from pbt_flow.task.mlflow_capture import MemberRuns
from pbt_flow.utils.scratch import SCRATCH, temporary_folder

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_SERVER_HAS_ENDED = "the process that workers are forked from has ended"
_SERVER_IS_SILENT = "the process that workers are forked from does not answer"
_ANSWER_SECONDS = 60.0
"""How long an answer of the fork server is waited for. It first imports torch, which takes a slow
disk half a minute; one that somebody has suspended never answers."""


class _ForkServer:
    """The process that workers are forked from, as the controller sees it.

    The controller asks for a worker, and learns the worker's pid later. It does not wait, since the
    fork server first imports torch, and the controller has imports of its own to do meanwhile.
    """

    def __init__(self, threads: int, log: Path) -> None:
        self.log = log
        self._without_pid: deque[_Process] = deque()
        """The workers that were asked for and whose pids the server has not sent yet, in order."""
        self._control, theirs = socket.socketpair()
        # A worker that inherited this variable would resume the population's run and finish it.
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
        # Workers are killed in the end; what scripts leave there goes with the engine.
        environment[SCRATCH] = str(log.parent)
        # Libraries such as NumPy read these variables when they are imported. A number that the
        # user has set stays.
        for name in _THREAD_VARIABLES:
            environment.setdefault(name, str(threads))
        package_root = str(Path(__file__).resolve().parents[2])
        path = [package_root, environment.get("PYTHONPATH", "")]
        # Without the filter an empty PYTHONPATH would end in a separator, which Python reads as the
        # working folder.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        code = f"from pbt_flow.engines import forkserver; forkserver.main({theirs.fileno()})"
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=(theirs.fileno(),),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        theirs.close()

    def fork(self, process: _Process, pipe: int, lifeline: int) -> None:
        """Ask for a worker.

        Raises:
            OSError: The fork server is gone.
        """
        # Opened for reading as well: the worker reads from its log what a turn has printed.
        with process.log.open("a+b") as log:
            # The log may hold what an earlier worker of this index printed.
            log.truncate(0)
            files = [pipe, lifeline, log.fileno()]
            socket.send_fds(self._control, [REQUEST.pack(b"f", process.index)], files)
        self._without_pid.append(process)

    def read_pids(self, *, block: bool = True) -> None:
        """Read the pids of the workers that were asked for.

        Args:
            block: Whether to wait for pids that the fork server has not sent yet.

        Raises:
            OSError: The fork server is gone.
        """
        if self._popen.poll() is not None:
            raise ConnectionResetError(_SERVER_HAS_ENDED)
        while self._without_pid and (block or wait([self._control], 0.0)):
            self._without_pid[0].pid = self._read_answer()
            self._without_pid.popleft()

    def reap(self, pid: int) -> int:
        """The exit code of a worker that has ended or is about to end.

        Raises:
            OSError: The fork server is gone.
        """
        # Answers come in the order of the requests: those to earlier forks must be read first.
        self.read_pids()
        self._control.sendall(REQUEST.pack(b"r", pid))
        return self._read_answer()

    def _read_answer(self) -> int:
        """Wait for the next answer of the fork server; one that does not answer is killed.

        Raises:
            OSError: The fork server is gone.
        """
        if not wait([self._control], _ANSWER_SECONDS):
            # Its answer, if it came later, would be taken for that to another request.
            self.stop()
            raise ConnectionResetError(_SERVER_IS_SILENT)
        answer = self._control.recv(ANSWER.size)
        if not answer:
            raise ConnectionResetError(_SERVER_HAS_ENDED)
        number: int = ANSWER.unpack(answer)[0]
        return number

    def stop(self) -> None:
        self._popen.kill()
        self._popen.wait()
        self._control.close()


class _Process:
    """One worker process, as the controller sees it."""

    def __init__(self, index: int, log: Path, fork_server: _ForkServer) -> None:
        self.index = index
        self.log = log
        self.fork_server = fork_server
        self.pid: int | None = None
        """None until the fork server has sent it, and after the worker was reaped."""
        self.job: Job | None = None
        """The job under way; None if the worker is idle."""
        self.job_begun = 0.0
        """When the job under way was sent, by the monotonic clock."""
        self.members: set[int] = set()
        """The members whose jobs the worker has done, and whose tasks it may have in memory."""
        self.connection, theirs = Pipe()
        lifeline, self._lifeline = os.pipe()
        try:
            fork_server.fork(self, theirs.fileno(), lifeline)
        except OSError:
            self._close_pipes()
            raise
        finally:
            # The worker has these ends now. While a copy is open here, the worker's death does not
            # close the connection.
            theirs.close()
            os.close(lifeline)

    def send(self, request: str, *given: Any) -> None:
        # If the worker has just died, `ProcessEngine.wait` notices it and finds the reason.
        with contextlib.suppress(OSError):
            self.connection.send((request, *given))

    def begin(self, job: Job) -> None:
        self.job, self.job_begun = job, time.monotonic()
        self.members.add(job.member)
        self.send("do", job)

    def is_forked(self) -> bool:
        """Whether the fork server has answered that the worker exists."""
        with contextlib.suppress(OSError):
            self.fork_server.read_pids(block=False)
        return self.pid is not None

    def stop(self) -> None:
        """Kill the worker, and return when it is dead."""
        # No other process can have this pid before the fork server reaps the worker. If the fork
        # server is gone, or has not forked the worker yet, the closed lifeline ends the worker.
        with contextlib.suppress(OSError):
            self.fork_server.read_pids(block=False)
            if self.pid is not None:
                os.kill(self.pid, signal.SIGKILL)
                self.fork_server.reap(self.pid)
        self._close_pipes()

    def _close_pipes(self) -> None:
        self.pid = None
        self.connection.close()
        os.close(self._lifeline)

    def describe_end(self) -> str:
        """How the worker ended, and the last lines that it printed."""
        try:
            self.fork_server.read_pids()
            assert self.pid is not None
            code = self.fork_server.reap(self.pid)
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            if code == -signal.SIGKILL:
                name += ": somebody killed it, or the machine ran out of memory"
            log = self.log
        except OSError as error:
            # The fork server is gone, and its own log may say why.
            name, log = str(error), self.fork_server.log
        # The worker is reaped, so that another process may get its pid.
        self.pid = None
        tail = log.read_text(errors="replace").strip().splitlines()[-5:]
        return name + "".join(f"\n    {line}" for line in tail)


class ProcessEngine(Engine):
    """Runs turns in worker processes, and replaces a worker that dies.

    Args:
        threads: CPU threads of each worker for libraries that are imported before the population's
            settings are known. Torch takes the number in the `WorkerContext`.
        device: Where the members train, as torch names it. Of several GPUs a worker gets one,
            before it imports the task.
    """

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        self._failed_starts = 0
        """How many workers in a row died before they could take a job."""
        self._context: WorkerContext | None = None
        self._opened: tuple[Folders, MemberRuns | None] | None = None
        self._logs = temporary_folder()
        self._threads = threads
        self._device = device
        # Started here, and not in `start`: the fork server imports torch while the controller
        # imports mlflow and opens the store.
        self._fork_server = self._start_fork_server()
        self._processes = [self._spawn(0)]

    def _start_fork_server(self) -> _ForkServer:
        return _ForkServer(self._threads, Path(self._logs.name, "forkserver.log"))

    def _spawn(self, index: int) -> _Process:
        log = Path(self._logs.name, f"worker-{index}.log")
        try:
            process = _Process(index, log, self._fork_server)
        except OSError:
            self._fork_server.stop()
            self._fork_server = self._start_fork_server()
            process = _Process(index, log, self._fork_server)
        process.send("device", self._device)
        process.send("path", search_path())
        # A worker that replaces another one gets what that one was sent before.
        if self._context is not None:
            process.send("start", self._context, self.slots)
        if self._opened is not None:
            # A worker that was there before has reached the storage, so that one which is silent
            # now is waited for as in a turn.
            process.send("open", *self._opened, PATIENCE)
        return process

    def start(self, context: WorkerContext, *, slots: int = 1) -> None:
        self.slots = slots
        for process in self._processes:
            process.send("start", context, slots)
        self._context = context
        self._processes += [self._spawn(index) for index in range(len(self._processes), slots)]

    def open(self, folders: Folders, runs: MemberRuns | None = None) -> None:
        self._opened = folders, runs
        for process in self._processes:
            process.send("open", folders, runs, START_PATIENCE)

    def submit(self, job: Job) -> None:
        idle = [process for process in self._processes if process.job is None]

        def preference(process: _Process) -> tuple[bool, int]:
            # First the worker that has the member in memory, since it need not restore it. Then the
            # one with the fewest members, so that they are spread evenly.
            return job.member not in process.members, len(process.members)

        min(idle, key=preference).begin(job)

    def wait(self, timeout: float | None = None) -> list[Done | LostJob]:
        if self.turn_timeout is not None and self.turn_timeout < math.inf:
            begun = [process.job_begun for process in self._processes if process.job]
            if begun:
                # Wake up in time for the turn that reaches its limit first.
                left = max(0.0, min(begun) + self.turn_timeout - time.monotonic())
                timeout = left if timeout is None else min(timeout, left)
        # Idle workers too: one that dies before it gets a job is replaced here.
        by_connection: dict[Any, _Process] = {
            process.connection: process for process in self._processes
        }
        finished: list[Done | LostJob] = []
        for ready in wait(list(by_connection), timeout):
            done = self._receive(by_connection[ready])
            if done is not None:
                finished.append(done)
        return finished + self._replace_hung()

    def _receive(self, process: _Process) -> Done | LostJob | None:
        """What a worker has sent; None if it has sent that it is ready, or died without a job.

        Raises:
            EngineError: The worker met trouble with the storage, or no worker can start.
        """
        try:
            answer = process.connection.recv()
        except (EOFError, OSError):
            reason = f"worker {process.index} died ({process.describe_end()})"
            return self._replace(process, reason)
        self._failed_starts = 0
        if answer is None:
            return None
        if isinstance(answer, Exception):
            raise EngineError(str(answer))
        process.job = None
        if isinstance(answer, LastDone):
            # The job that has spoiled the device is over, so that none is lost with the worker.
            self._replace(process, answer.reason)
            return answer.done
        done: Done = answer
        return done

    def _replace(self, process: _Process, reason: str) -> LostJob | None:
        """Start a new worker in a worker's place, and return the job that is lost with it.

        Raises:
            EngineError: Too many workers in a row have died before they could take a job.
        """
        # A worker that has got as far as to take jobs has set the count back, so that deaths in
        # turns never add up. Two failed starts for each slot are forgiven.
        self._failed_starts += 1
        if self._failed_starts > 2 * self.slots:
            raise EngineError(f"workers die as soon as they start; the last one: {reason}")
        job = process.job
        process.stop()
        self._processes[self._processes.index(process)] = self._spawn(process.index)
        return None if job is None else LostJob(job=job, reason=reason)

    def _replace_hung(self) -> list[LostJob]:
        """Replace the workers whose turns have taken too long, and return the lost jobs."""
        lost: list[LostJob] = []
        limit = self.turn_timeout
        if limit is None:
            return lost
        for process in list(self._processes):
            if process.job is None or time.monotonic() < process.job_begun + limit:
                continue
            reason = f"the turn took longer than turn_timeout, {limit:g} seconds"
            if not process.is_forked():
                # All this time nobody has begun the worker, and the next one would fare no better.
                process.fork_server.stop()
            expired = self._replace(process, reason)
            if expired is not None:
                lost.append(expired)
        return lost

    def close(self) -> None:
        for process in self._processes:
            process.stop()
        self._processes = []
        self._fork_server.stop()
        self._logs.cleanup()
