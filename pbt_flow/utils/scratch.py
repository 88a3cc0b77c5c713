"""The temporary folders of this process, below one of its own that a kill leaves to be cleared.

A process that is killed cleans nothing up. Each holds a lock on its folder, which the system
releases whatever ends it. The next process of the same user that needs a temporary folder deletes
those that nobody holds.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SCRATCH = "PBT_FLOW_SCRATCH"
"""The environment variable that names the folder of the process that has started this one."""
_PREFIX = "pbt_flow-held-"


@dataclass(frozen=True, kw_only=True)
class _Held:
    """The folder of a process."""

    path: Path
    process: int
    """The process id: a fork inherits the record, and has no right to the folder."""


_held: _Held | None = None


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """As of `tempfile.TemporaryDirectory`, a folder that not even a kill leaves for ever."""
    return tempfile.TemporaryDirectory(dir=scratch_folder())


def new_temporary_folder() -> str:
    """An empty folder that stays until somebody deletes it, or until this process has ended."""
    return tempfile.mkdtemp(dir=scratch_folder())


def scratch_folder() -> Path:
    """The folder of this process, which is deleted when the process has ended."""
    if (given := os.environ.get(SCRATCH)) and Path(given).is_dir():
        return Path(given)  # Whoever has started this process deletes it.
    global _held
    if _held is None or _held.process != os.getpid() or not _held.path.is_dir():
        root = Path(tempfile.gettempdir())
        clear_abandoned(root)
        _held = _Held(path=_made(root), process=os.getpid())
        atexit.register(_delete, _held)
    return _held.path


def clear_abandoned(root: Path) -> int:
    """Delete the folders of this user's processes that have ended, and return how many there were.

    Args:
        root: The folder that they lie in.
    """
    if sys.platform == "win32":
        return 0
    cleared = 0
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
        cleared = sum(_clear(Path(path)) for path in found)
    return cleared


def _clear(path: Path) -> bool:
    """Delete the folder of a process that has ended; of another user's nothing is touched."""
    import fcntl

    try:
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if os.fstat(opened).st_uid != os.geteuid():
            return False
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return False  # Its process lives; or this file system has no locks, and nothing is known.
    finally:
        os.close(opened)
    return True


def _made(root: Path) -> Path:
    """A new folder, locked for as long as this process lives."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        if sys.platform == "win32":
            return path
        import fcntl

        opened = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(opened, fcntl.LOCK_SH)
            # Another process may have deleted it between the two calls.
            if os.path.samestat(os.fstat(opened), os.stat(path)):
                return path
        except FileNotFoundError:
            pass
        except OSError:
            return path  # This file system has no locks, so that nobody deletes it.
        os.close(opened)


def _delete(held: _Held) -> None:
    if os.getpid() == held.process:
        shutil.rmtree(held.path, ignore_errors=True)
