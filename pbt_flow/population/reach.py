"""The proof that a worker writes turns where the others and the controller find them.

A folder of one machine does not fail on another one: it is made there, and the turns in it are lost
without an error. Therefore the controller leaves a token where turns are written, and each worker
looks for it before its first turn.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pbt_flow.exceptions import StorageError
from pbt_flow.utils.machines import Machine, this_machine
from pbt_flow.utils.reasons import reason_of

START_PATIENCE = 30.0
"""Seconds for which a store may be silent when the first workers begin. The controller has just
talked to it, so that a worker that cannot is most likely led elsewhere, and the user waits."""
TOKEN_PREFIX = ".reach-"
"""What the names of tokens begin with."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """A small file that the controller has left where turns are written."""

    name: str
    """The name of the file, which is what it holds as well. No other file ever has it."""
    machine: Machine
    """The controller's machine."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether the controller is on another machine than this process."""
        return this_machine() != self.machine


def new_token() -> Token:
    """A token of this process."""
    return Token(name=f"{TOKEN_PREFIX}{uuid.uuid4().hex}", machine=this_machine())


def leave_token_in(folder: Path) -> Token | None:
    """Leave a token in a folder, and delete those that controllers which were killed have left.

    Returns:
        The token; None if the folder cannot be written. Its first turn then says so.
    """
    token = new_token()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob(f"{TOKEN_PREFIX}*"):
            earlier.unlink(missing_ok=True)
        (folder / token.name).write_text(token.name)
    except OSError:
        # A full disk may have taken the name and not the content.
        remove_token_from(folder, token)
        return None
    return token


def remove_token_from(folder: Path, token: Token) -> None:
    """Delete a token, if the folder can still be written."""
    with contextlib.suppress(OSError):
        (folder / token.name).unlink(missing_ok=True)


def prove_folder_is_shared(
    folder: Path,
    token: Token,
    patience: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Refuse a folder that is not the controller's, or that cannot be written from here.

    A process on the controller's own machine has the controller's folder, and is asked nothing.

    Args:
        folder: The folder.
        token: What the controller has left in it.
        patience: Seconds for which the token is looked for.
        clock: Returns the seconds since any fixed moment.
        pause: Waits for some seconds.

    Raises:
        StorageError: The folder is another one here, or cannot be used; the message says on which
            machine, and what to do.
    """
    if not token.is_elsewhere:
        return
    here, there = this_machine().host, token.machine.host
    deadline = clock() + patience
    while not _is_seen(folder, token, here):
        if clock() >= deadline:
            raise StorageError(
                f"a worker on {here} does not see {folder} of {there}, where turns are written: it "
                "is no folder that both machines share; mount it there at the same path, or begin "
                "the population in a store that every machine reaches (docs/machines.md)"
            )
        pause(min(1.0, max(0.0, deadline - clock())))
    own = folder / new_token().name
    try:
        own.write_text(own.name)
        if own.read_text() != own.name:
            raise OSError(f"{own.name} holds other bytes than were written")
    except OSError as error:
        raise StorageError(
            f"a worker on {here} cannot write to {folder}, where turns are written: "
            f"{reason_of(error)}; let it be written there by the user of the workers"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            own.unlink(missing_ok=True)


def _is_seen(folder: Path, token: Token, here: str) -> bool:
    """Whether a folder has the token.

    Raises:
        StorageError: The folder cannot be read from here, whatever it is.
    """
    try:
        # A network file system may have remembered that there is no such file. To list a folder
        # makes it ask the server.
        os.listdir(folder)
        return (folder / token.name).read_text() == token.name
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageError(
            f"a worker on {here} cannot read {folder}, where turns are written: "
            f"{reason_of(error)}; let it be read there by the user of the workers"
        ) from error
