"""The life of a worker process."""

from __future__ import annotations

import os
import sys
import threading
from multiprocessing.connection import Connection


def main(pipe: int, lifeline: int, *, index: int) -> None:
    """Take a job, do it, send back what came out, until the controller closes the pipe.

    Args:
        pipe: File descriptor of the connection to the controller.
        lifeline: File descriptor that reads as closed once the controller is gone.
        index: Which of the engine's workers it is.
    """
    os.environ["PBT_FLOW_WORKER"] = str(index)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()
    import torch

    from pbt_flow.worker import StorageError, Worker, describe

    connection = Connection(pipe)
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
            workshop, threads = given
            torch.set_num_threads(threads)
            device = workshop.task.device
            if device == "cuda":
                device = f"cuda:{index % max(1, torch.cuda.device_count())}"
            worker = Worker(workshop, device)
        elif worker is None:
            connection.send(describe(*given))
        elif what == "open":
            (worker.folders,) = given
        else:
            try:
                connection.send(worker.do(*given))
            except StorageError as error:
                connection.send(StorageError(str(error)))


def _watch(lifeline: int) -> None:
    """End this process the moment the controller is gone, in the middle of a turn as well."""
    os.read(lifeline, 1)
    os._exit(1)
