"""The life of a worker process."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

_KEPT_BYTES = 1 << 16
"""How much is kept of what a task prints in a turn: the last 64 KiB."""


def main(pipe: int, lifeline: int, *, index: int) -> None:
    """Do jobs and send back their results until the controller closes the pipe.

    Args:
        pipe: File descriptor of the connection to the controller.
        lifeline: File descriptor that reads as closed once the controller is gone.
        index: The number of this worker among the engine's workers.
    """
    os.environ["PBT_FLOW_WORKER"] = str(index)
    threading.Thread(target=_end_with_controller, args=(lifeline,), daemon=True).start()
    # With this a line that a task has printed is in the log even if the next line kills the worker.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    import torch

    from pbt_flow.engines.device_memory import DeviceMemory
    from pbt_flow.engines.jobs import LastDone
    from pbt_flow.engines.worker import Worker, describe
    from pbt_flow.exceptions import StorageError, UnusableTask
    from pbt_flow.task.mlflow_capture import TaskLogging
    from pbt_flow.utils.devices import count_devices, take_device

    logging = TaskLogging()
    logging.install()
    # The fork server has made the log the standard output, number 1, of this process.
    connection, read_output = Connection(pipe), output_reader(1)
    # None says that the worker could start: if it dies from now on, a job has killed it.
    connection.send(None)
    worker: Worker | None = None
    device, devices = "cpu", 1
    while True:
        try:
            request, *given = connection.recv()
        except EOFError:
            return
        if request == "path":
            (path,) = given
            sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
        elif request == "device":
            # Before any job: even a task that is only imported may look for a GPU, and the GPUs
            # that a process has seen are its own to the end.
            (asked,) = given
            devices, device = count_devices(asked), take_device(asked, index)
        elif request == "start":
            context, workers = given
            torch.set_num_threads(context.threads)
            memory = DeviceMemory.of(device, sharers=-(-workers // max(1, devices)))
            worker = Worker(context, device, read_output, logging=logging, memory=memory)
        elif worker is None:
            # Before "start" the only job is `Describe`.
            with logging.job(None):
                described = describe(*given)
            connection.send(described)
        else:
            try:
                if request == "open":
                    worker.open(*given)
                    continue
                done = worker.do(*given)
                spoiled = worker.spoiled
                connection.send(LastDone(done=done, reason=spoiled) if spoiled else done)
            except (StorageError, UnusableTask) as error:
                # Only the message is sent: an exception may hold what cannot be pickled.
                connection.send(StorageError(str(error)))


def output_reader(log: int) -> Callable[[], str]:
    """A function that returns what this process has printed since the function's last call.

    Args:
        log: File descriptor of the file that all output is appended to.
    """

    def read_output() -> str:
        for stream in (sys.stdout, sys.stderr):
            # A task may have closed or replaced a stream; its turn must not fail for that.
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        size = os.fstat(log).st_size
        skipped = max(0, size - _KEPT_BYTES)
        text = os.pread(log, _KEPT_BYTES, skipped).decode(errors="replace")
        # Otherwise the log would grow for as long as the population trains.
        os.ftruncate(log, 0)
        if skipped:
            return f"[{skipped:,} bytes before this]\n{text}"
        return text

    return read_output


def _end_with_controller(lifeline: int) -> None:
    """End this process as soon as the controller is gone, even in the middle of a turn."""
    # Nothing is ever written to the lifeline: the read returns when its other end is closed.
    os.read(lifeline, 1)
    os._exit(1)
