"""The fork server: the process that workers are forked from.

The fork server imports torch once, for all workers. A fork can work at once and shares the
libraries' pages of memory; a fresh process would need seconds of CPU and 150 MB of its own.
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
from pbt_flow.utils.collection import collection_paused

REQUEST = struct.Struct("!ci")
"""A request: a letter and a number. `b"f"` forks the worker with that index, `b"r"` reaps the
process with that pid."""
ANSWER = struct.Struct("!i")
"""An answer: the pid of the forked worker, or the exit code of the reaped one."""
FILES_PER_FORK = 3
"""A request to fork comes with three file descriptors: the worker's pipe, lifeline and log."""
_REAP_SECONDS = 5.0
"""How long a worker may take to end before it is killed."""


def main(fileno: int) -> None:
    """Fork and reap workers until the controller is gone.

    Args:
        fileno: File descriptor of the stream socket to the controller.
    """
    # The terminal sends Ctrl-C to the whole process group. Only the controller may act on it: it
    # decides whether the turns under way are to finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=fileno)
    # On macOS the system's own libraries do not survive a fork: there each worker imports torch.
    if sys.platform == "linux":
        # Only import here, and compute nothing: a fork would break a thread or a GPU context.
        with collection_paused():
            import torch  # noqa: F401

            import pbt_flow.engines.worker  # noqa: F401
    # A garbage collection in a worker would write to every page of memory that the worker shares
    # with this process, and so copy it.
    gc.freeze()
    while True:
        message, files, _, _ = socket.recv_fds(control, REQUEST.size, FILES_PER_FORK)
        if not message:
            return
        request, number = REQUEST.unpack(message)
        if request == b"r":
            control.sendall(ANSWER.pack(_reap(number)))
            continue
        pid = os.fork()
        if pid == 0:
            # This is the worker. Only the fork server itself may talk to the controller here.
            control.close()
            pipe, lifeline, log = files
            _redirect_output(log)
            work(pipe, lifeline, index=number)
            return
        for file in files:
            os.close(file)
        control.sendall(ANSWER.pack(pid))


def _redirect_output(log: int) -> None:
    """Send what this process prints, and what its own child processes print, to the log."""
    for standard_stream in (1, 2):
        os.dup2(log, standard_stream)
    os.close(log)


def _reap(pid: int) -> int:
    """The exit code of a worker that is ending; a worker that takes too long is killed."""
    deadline = time.monotonic() + _REAP_SECONDS
    ended, status = os.waitpid(pid, os.WNOHANG)
    while not ended:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
        ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status)
