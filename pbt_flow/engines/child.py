"""The life of a worker process: `python -m pbt_flow.engines.child PIPE LIFELINE`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing.connection import Connection

from pbt_flow.worker import Job, StorageError, Worker


def main(pipe: int, lifeline: int) -> None:
    """Take a job, do it, send back what came out, until the controller closes the pipe.

    Args:
        pipe: File descriptor of the connection to the controller.
        lifeline: File descriptor that reads as closed once the controller is gone.
    """
    # Ctrl-C reaches the whole group; it is for the controller to decide what becomes of a turn.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()
    import torch

    connection = Connection(pipe)
    try:
        workshop, index, threads, path = connection.recv()
    except EOFError:
        return
    sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
    torch.set_num_threads(threads)
    device = workshop.task.device
    if device == "cuda":
        device = f"cuda:{index % max(1, torch.cuda.device_count())}"
    worker = Worker(workshop, device)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        if not isinstance(job, Job):
            worker.folders = job
            continue
        try:
            connection.send(worker.do(job))
        except StorageError as error:
            connection.send(StorageError(str(error)))


def _watch(lifeline: int) -> None:
    """End this process the moment the controller is gone, in the middle of a turn as well."""
    os.read(lifeline, 1)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
