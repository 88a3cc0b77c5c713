"""Worker processes on this machine: the default engine.

A worker is forked from a server process that has imported torch, and talks to the controller over
a pipe. It lives for the whole population and never imports mlflow where the artifacts are on a
local disk. It dies with its controller: a watching thread holds the end of a pipe that closes when
the controller is gone, whatever killed it.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from pbt_flow.engines.base import Engine, LostJob
from pbt_flow.engines.forkserver import ANSWER, REQUEST
from pbt_flow.engines.worker import Done, Job, WorkerContext
from pbt_flow.exceptions import EngineError
from pbt_flow.joining.script import SCRATCH
from pbt_flow.population.checkpoints import Folders
from pbt_flow.task.files import search_path
from pbt_flow.task.mlflow_capture import MemberRuns

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GONE = "the process that workers are forked from has ended"


class _ForkServer:
    """The process that workers are forked from, seen from the controller.

    Forking is asked for and not waited for: while the fork server imports torch, the controller has
    imports of its own.
    """

    def __init__(self, threads: int, log: Path) -> None:
        self.log = log
        self._unborn: deque[_Process] = deque()
        self._control, theirs = socket.socketpair()
        # A worker that inherited this variable would resume the population's run and finish it.
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_RUN_ID"}
        # Workers are killed in the end; what scripts leave there goes with the engine.
        environment[SCRATCH] = str(log.parent)
        # For what counts its threads when it is imported, such as NumPy; a user's own number stays.
        for name in _THREADS:
            environment.setdefault(name, str(threads))
        package_root = str(Path(__file__).resolve().parents[2])
        path = [package_root, environment.get("PYTHONPATH", "")]
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
        """Ask for a worker; raises OSError if the fork server is gone."""
        # Appended to and read by the worker: its turns keep what they print.
        with process.log.open("a+b") as log:
            log.truncate(0)
            files = [pipe, lifeline, log.fileno()]
            socket.send_fds(self._control, [REQUEST.pack(b"f", process.index)], files)
        self._unborn.append(process)

    def settle(self, *, block: bool = True) -> None:
        """Learn the pids of the workers that have been asked for; raises OSError if it is gone."""
        if self._popen.poll() is not None:
            raise ConnectionResetError(_GONE)
        self._control.setblocking(block)
        try:
            while self._unborn:
                self._unborn[0].pid = self._answer()
                self._unborn.popleft()
        except BlockingIOError:
            pass
        finally:
            self._control.setblocking(True)

    def reap(self, pid: int) -> int:
        """The exit code of a worker that has ended or is about to; raises OSError."""
        self.settle()
        self._control.sendall(REQUEST.pack(b"r", pid))
        return self._answer()

    def _answer(self) -> int:
        answer = self._control.recv(ANSWER.size)
        if not answer:
            raise ConnectionResetError(_GONE)
        number: int = ANSWER.unpack(answer)[0]
        return number

    def stop(self) -> None:
        self._popen.kill()
        self._popen.wait()
        self._control.close()


class _Process:
    """One worker process, seen from the controller."""

    def __init__(self, index: int, log: Path, fork_server: _ForkServer) -> None:
        self.index = index
        self.log = log
        self.fork_server = fork_server
        self.pid: int | None = None
        self.job: Job | None = None
        self.since = 0.0
        self.members: set[int] = set()
        self.connection, theirs = Pipe()
        lifeline, self._lifeline = os.pipe()
        try:
            fork_server.fork(self, theirs.fileno(), lifeline)
        except OSError:
            self._abandon()
            raise
        finally:
            theirs.close()
            os.close(lifeline)

    def send(self, what: str, *given: Any) -> None:
        # A worker that has just died is noticed by `wait`, with its reason.
        with contextlib.suppress(OSError):
            self.connection.send((what, *given))

    def begin(self, job: Job) -> None:
        self.job, self.since = job, time.monotonic()
        self.members.add(job.member)
        self.send("do", job)

    def stop(self) -> None:
        """Kill the worker, and return when it is dead."""
        # The pid is its own until the fork server reaps it. Without that server the closed lifeline
        # ends the worker; so it does one that is not born yet.
        with contextlib.suppress(OSError):
            self.fork_server.settle(block=False)
            if self.pid is not None:
                os.kill(self.pid, signal.SIGKILL)
                self.fork_server.reap(self.pid)
        self._abandon()

    def _abandon(self) -> None:
        self.pid = None
        self.connection.close()
        os.close(self._lifeline)

    def epitaph(self) -> str:
        """How the worker ended, and the last lines it printed."""
        try:
            self.fork_server.settle()
            assert self.pid is not None
            code = self.fork_server.reap(self.pid)
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            if code == -signal.SIGKILL:
                name += ": somebody killed it, or the machine ran out of memory"
            log = self.log
        except OSError as error:
            name, log = str(error), self.fork_server.log
        self.pid = None
        tail = log.read_text(errors="replace").strip().splitlines()[-5:]
        return name + "".join(f"\n    {line}" for line in tail)


class ProcessEngine(Engine):
    """Runs turns in worker processes; a worker that dies is replaced.

    Args:
        threads: CPU threads of each worker for what is imported before the population's settings
            are known; torch takes the number of its `WorkerContext`.
    """

    def __init__(self, threads: int = 1) -> None:
        self._stillborn = 0
        """Workers in a row that died before they could work."""
        self._workshop: WorkerContext | None = None
        self._opened: tuple[Folders, MemberRuns | None] | None = None
        self._logs = tempfile.TemporaryDirectory(prefix="pbt_flow-")
        self._threads = threads
        # It imports torch while the controller imports mlflow and opens the store.
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
        process.send("path", search_path())
        if self._workshop is not None:
            process.send("start", self._workshop)
        if self._opened is not None:
            process.send("open", *self._opened)
        return process

    def start(self, context: WorkerContext, *, slots: int = 1) -> None:
        self.slots = slots
        for process in self._processes:
            process.send("start", context)
        self._workshop = context
        self._processes += [self._spawn(index) for index in range(len(self._processes), slots)]

    def open(self, folders: Folders, runs: MemberRuns | None = None) -> None:
        self._opened = folders, runs
        for process in self._processes:
            process.send("open", folders, runs)

    def submit(self, job: Job) -> None:
        idle = [process for process in self._processes if process.job is None]
        # The worker that has the member in memory need not restore it.
        chosen = min(idle, key=lambda p: (job.member not in p.members, len(p.members)))
        chosen.begin(job)

    def wait(self, timeout: float | None = None) -> list[Done | LostJob]:
        if self.turn_timeout is not None and self.turn_timeout < math.inf:
            running = [process.since for process in self._processes if process.job]
            if running:
                left = max(0.0, min(running) + self.turn_timeout - time.monotonic())
                timeout = left if timeout is None else min(timeout, left)
        busy: dict[Any, _Process] = {p.connection: p for p in self._processes}
        finished = [self._receive(busy[ready]) for ready in wait(list(busy), timeout)]
        return [done for done in finished if done is not None] + self._expired()

    def _receive(self, process: _Process) -> Done | LostJob | None:
        try:
            answer = process.connection.recv()
        except (EOFError, OSError):
            return self._replace(process, f"worker {process.index} died ({process.epitaph()})")
        self._stillborn = 0
        if answer is None:
            return None  # it has got as far as to take jobs
        if isinstance(answer, Exception):
            raise EngineError(str(answer))
        process.job = None
        done: Done = answer
        return done

    def _replace(self, process: _Process, reason: str) -> LostJob | None:
        self._stillborn += 1
        if self._stillborn > 2 * self.slots:
            raise EngineError(f"workers die as soon as they start; the last one: {reason}")
        job = process.job
        process.stop()
        self._processes[self._processes.index(process)] = self._spawn(process.index)
        return None if job is None else LostJob(job=job, reason=reason)

    def _expired(self) -> list[Done | LostJob]:
        lost: list[Done | LostJob] = []
        for process in list(self._processes):
            limit = self.turn_timeout
            if limit is None or process.job is None or time.monotonic() < process.since + limit:
                continue
            reason = f"the turn took longer than turn_timeout, {limit:g} seconds"
            if (expired := self._replace(process, reason)) is not None:
                lost.append(expired)
        return lost

    def close(self) -> None:
        for process in self._processes:
            process.stop()
        self._processes = []
        self._fork_server.stop()
        self._logs.cleanup()
