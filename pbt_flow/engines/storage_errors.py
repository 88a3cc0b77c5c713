"""What is wrong with the place where turns are stored, told with what to do there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pbt_flow.exceptions import CheckpointError, StorageError, StoreError
from pbt_flow.utils.reasons import message_of


@contextmanager
def storage_errors(what: str, root: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn the errors of a storage place into a `StorageError`.

    Args:
        what: What the block does there, such as "read the checkpoint of member 0, turn 1".
        root: The folder on this machine.
        errors: The exceptions that count as trouble with the place. Others are the task's own.

    Raises:
        StorageError: The block raised one of `errors`. The message says why, and where on this
            machine something has to be done.
    """
    try:
        yield
    except CheckpointError:
        # It is the state that is wrong, and not the place.
        raise
    except errors as error:
        reason = " ".join(message_of(error).split()) or type(error).__name__
        # A remote store's error has no error number of this machine's system. A folder here is then
        # not at fault, and the message names none.
        from_torch = isinstance(error, RuntimeError) and not isinstance(error, StoreError)
        if from_torch or getattr(error, "errno", None) is not None:
            there = next(place for place in (root, *root.parents) if place.exists())
            if isinstance(error, FileExistsError):
                # No file is written twice: an attempt is a name.
                reason += "; two processes have ended one turn: train must not return in a fork"
            elif what.startswith("read "):
                reason += f"; make {there} readable for the user that the workers run as"
            else:
                free = f"{shutil.disk_usage(there).free:,} bytes are free"
                reason += f"; make room in {there} ({free}), or make it writable"
        raise StorageError(f"cannot {what}: {reason}") from error
