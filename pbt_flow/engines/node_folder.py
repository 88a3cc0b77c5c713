"""A folder of one machine for all workers there, which is deleted when the last of them has ended.

Workers on a cluster are killed, and so is their controller: none of them can be relied on to clean
up. Each worker holds a lock on the folder, which the system releases whatever ends the worker. A
small process waits for the lock and then deletes the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from pathlib import Path

_KEEPER = """
import fcntl, os, shutil, sys
folder, lock = sys.argv[1:]
kept = os.open(lock, os.O_RDWR)
fcntl.flock(kept, fcntl.LOCK_EX)
try:
    # The folder may be a new one of the same name, with a lock of its own.
    if os.path.samestat(os.fstat(kept), os.stat(lock)):
        shutil.rmtree(folder, ignore_errors=True)
        os.unlink(lock)
except FileNotFoundError:
    pass
"""


class NodeFolder:
    """A folder that is shared by the workers of one population on one machine.

    Args:
        path: Where it is, the same for all of them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lock = path.with_name(f"{path.name}.lock")
        self._lock = _take_lock(lock)
        try:
            path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            return
        _start_keeper(path, lock)


def _take_lock(path: Path) -> int:
    """Share the lock of a folder, as a file descriptor that the system closes with this process."""
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(held, fcntl.LOCK_SH)
        # A keeper may have deleted the file between the two calls: then nobody else sees this lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), os.stat(path)):
                return held
        os.close(held)


def _start_keeper(folder: Path, lock: Path) -> None:
    # Ray kills the children of a worker with it. The shell ends at once, so that the keeper is a
    # child of nobody here.
    command = [sys.executable, "-I", "-S", "-c", _KEEPER, str(folder), str(lock)]
    subprocess.run(
        ["sh", "-c", '"$@" &', "sh", *command],
        start_new_session=True,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
