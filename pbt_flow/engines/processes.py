"""Worker processes on this machine: the default engine.

A worker is a fresh Python process that talks to the controller over a pipe. It lives for the whole
population, so that torch is imported once; it never imports mlflow where the artifacts are on a
local disk. It dies with its controller: a watching thread holds the end of a pipe that closes when
the controller is gone, whatever killed it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from pbt_flow.checkpoints import Folders
from pbt_flow.engines.base import Engine, EngineError, Lost
from pbt_flow.worker import Done, Job, Workshop

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class _Process:
    """One worker process, seen from the controller."""

    def __init__(self, index: int, threads: int, log: Path) -> None:
        self.index = index
        self.log = log
        self.job: Job | None = None
        self.since = 0.0
        self.members: set[int] = set()
        self.connection, theirs = Pipe()
        lifeline, self._lifeline = os.pipe()
        # A worker that inherited this variable would resume the population's run and finish it.
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_RUN_ID"}
        environment["PBT_FLOW_WORKER"] = str(index)
        for name in _THREADS:
            environment.setdefault(name, str(threads))
        command = [
            sys.executable,
            "-m",
            "pbt_flow.engines.child",
            str(theirs.fileno()),
            str(lifeline),
        ]
        package_root = str(Path(__file__).resolve().parents[2])
        path = [package_root, environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(), lifeline),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        theirs.close()
        os.close(lifeline)

    def send(self, message: Any) -> None:
        # A worker that has just died is noticed by `wait`, with its reason.
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def begin(self, job: Job) -> None:
        self.job, self.since = job, time.monotonic()
        self.members.add(job.member)
        self.send(job)

    def stop(self) -> None:
        self.popen.kill()
        self.popen.wait()
        self.connection.close()
        os.close(self._lifeline)

    def epitaph(self) -> str:
        """How the worker ended, and the last lines it printed."""
        try:
            code = self.popen.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if code == -signal.SIGKILL:
            name += ": somebody killed it, or the machine ran out of memory"
        tail = self.log.read_text(errors="replace").strip().splitlines()[-5:]
        return name + "".join(f"\n    {line}" for line in tail)


class ProcessEngine(Engine):
    """Runs turns in worker processes; a worker that dies is replaced.

    Args:
        workers: How many processes, each with one turn at a time.
        turn_timeout: Seconds after which a turn counts as hung and its worker is killed; None
            waits for ever.
    """

    def __init__(self, workers: int, turn_timeout: float | None = None) -> None:
        self.slots = workers
        self.turn_timeout = turn_timeout
        self._deaths_in_a_row = 0

        self._folders: Folders | None = None
        self._logs = tempfile.TemporaryDirectory(prefix="pbt_flow-")
        self._threads = max(1, (os.cpu_count() or 1) // workers)
        # They import torch while the controller imports mlflow and opens the store.
        self._processes = [self._spawn(index) for index in range(workers)]

    def _spawn(self, index: int) -> _Process:
        log = Path(self._logs.name, f"worker-{index}.log")
        return _Process(index, self._threads, log)

    def start(self, workshop: Workshop) -> None:
        self._workshop = workshop
        for process in self._processes:
            process.send((workshop, process.index, self._threads, sys.path))

    def open(self, folders: Folders) -> None:
        self._folders = folders
        for process in self._processes:
            process.send(folders)

    def submit(self, job: Job) -> None:
        idle = [process for process in self._processes if process.job is None]
        # The worker that has the member in memory need not restore it.
        chosen = min(idle, key=lambda p: (job.member not in p.members, len(p.members)))
        chosen.begin(job)

    def wait(self, timeout: float | None = None) -> list[Done | Lost]:
        if self.turn_timeout is not None:
            running = [process.since for process in self._processes if process.job]
            if running:
                left = max(0.0, min(running) + self.turn_timeout - time.monotonic())
                timeout = left if timeout is None else min(timeout, left)
        busy: dict[Any, _Process] = {p.connection: p for p in self._processes}
        finished = [self._receive(busy[ready]) for ready in wait(list(busy), timeout)]
        return [done for done in finished if done is not None] + self._expired()

    def _receive(self, process: _Process) -> Done | Lost | None:
        try:
            answer = process.connection.recv()
        except (EOFError, OSError):
            return self._replace(process, f"worker {process.index} died ({process.epitaph()})")
        self._deaths_in_a_row = 0
        if isinstance(answer, Exception):
            raise EngineError(str(answer))
        process.job = None
        done: Done = answer
        return done

    def _replace(self, process: _Process, reason: str) -> Lost | None:
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > 2 * self.slots:
            raise EngineError(f"workers die as soon as they start; the last one: {reason}")
        job = process.job
        process.stop()
        successor = self._spawn(process.index)
        successor.send((self._workshop, process.index, self._threads, sys.path))
        if self._folders is not None:
            successor.send(self._folders)
        self._processes[self._processes.index(process)] = successor
        return None if job is None else Lost(job=job, reason=reason)

    def _expired(self) -> list[Done | Lost]:
        lost: list[Done | Lost] = []
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
        self._logs.cleanup()
