"""The process that workers are forked from.

It imports torch once, for all of them: a fork is at work at once and shares the pages of the
libraries, where a fresh process takes seconds of CPU and 150 MB. It never computes, so that there
is no thread and no GPU context that a fork would break.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
import sys
import time

from pbt_flow.engines.worker_main import main as work

REQUEST = struct.Struct("!ci")
"""What is asked, and about whom: `b"f"` forks the worker of an index, `b"r"` reaps a pid."""
ANSWER = struct.Struct("!i")
"""The pid of a worker that was forked, or the exit code of one that was reaped."""
FILES = 3
"""A request to fork comes with three files: the worker's pipe, lifeline and log."""
_PATIENCE = 5.0


def main(fileno: int) -> None:
    """Fork and reap workers until the controller is gone.

    Args:
        fileno: File descriptor of the stream socket to the controller.
    """
    # Ctrl-C reaches the whole group; it is for the controller to decide what becomes of a turn.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=fileno)
    # On macOS the system's own libraries do not survive a fork: there each worker imports torch.
    if sys.platform == "linux":
        import torch  # noqa: F401

        import pbt_flow.engines.worker  # noqa: F401
    # A collection in a worker would touch, and so copy, every page that it shares.
    gc.freeze()
    while True:
        message, files, _, _ = socket.recv_fds(control, REQUEST.size, FILES)
        if not message:
            return
        what, number = REQUEST.unpack(message)
        if what == b"r":
            control.sendall(ANSWER.pack(_reap(number)))
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            _be_born(*files)
            work(*files[:2], index=number)
            return
        for file in files:
            os.close(file)
        control.sendall(ANSWER.pack(pid))


def _be_born(pipe: int, lifeline: int, log: int) -> None:
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)


def _reap(pid: int) -> int:
    """The exit code of a worker that is ending; one that takes its time is killed."""
    deadline = time.monotonic() + _PATIENCE
    ended, status = os.waitpid(pid, os.WNOHANG)
    while not ended:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
        ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status)
