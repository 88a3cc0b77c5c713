"""The life of a worker process."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

_LONGEST = 1 << 16
"""Bytes that are kept of what a task prints in a turn, the last ones."""


def main(pipe: int, lifeline: int, *, index: int) -> None:
    """Take a job, do it, send back what came out, until the controller closes the pipe.

    Args:
        pipe: File descriptor of the connection to the controller.
        lifeline: File descriptor that reads as closed once the controller is gone.
        index: Which of the engine's workers it is.
    """
    os.environ["PBT_FLOW_WORKER"] = str(index)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()
    # A line that a task has printed is in the log even if the next one kills it.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    import torch

    from pbt_flow.engines.worker import Worker, describe
    from pbt_flow.exceptions import StorageError
    from pbt_flow.task.mlflow_capture import TaskLogging

    logging = TaskLogging()
    logging.install()
    connection, printed = Connection(pipe), _reader(1)
    connection.send(None)  # what kills it from now on is a job's affair, and not the machine's
    worker: Worker | None = None
    while True:
        try:
            what, *given = connection.recv()
        except EOFError:
            return
        if what == "path":
            (path,) = given
            sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
        elif what == "start":
            (context,) = given
            torch.set_num_threads(context.threads)
            device = context.task.device
            if device == "cuda":
                device = f"cuda:{index % max(1, torch.cuda.device_count())}"
            worker = Worker(context, device, printed, logging=logging)
        elif worker is None:
            with logging.job(None):
                described = describe(*given)
            connection.send(described)
        elif what == "open":
            worker.folders, runs = given
            logging.open(runs)
        else:
            try:
                connection.send(worker.do(*given))
            except StorageError as error:
                connection.send(StorageError(str(error)))


def _reader(log: int) -> Callable[[], str]:
    """What has been printed since the last call, from the file that output is appended to."""

    def read() -> str:
        for stream in (sys.stdout, sys.stderr):
            # A task may have closed or replaced them; that is not for its turn to fail of.
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        size = os.fstat(log).st_size
        skipped = max(0, size - _LONGEST)
        text = os.pread(log, _LONGEST, skipped).decode(errors="replace")
        # Otherwise it would grow for as long as the population trains.
        os.ftruncate(log, 0)
        return f"[{skipped:,} bytes before this]\n" * bool(skipped) + text

    return read


def _watch(lifeline: int) -> None:
    """End this process the moment the controller is gone, in the middle of a turn as well."""
    os.read(lifeline, 1)
    os._exit(1)
