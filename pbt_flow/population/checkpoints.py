"""Turn folders on disk: how states and records are written, and how they are read safely.

In `turns/000012` lies the state after a member's twelfth turn, and the record of that turn. The
state is written first and the record last. Each gets its name when it is whole, and never over
another file. A turn whose folder has no record has never happened.

Several attempts at one turn may have written there: the files of each have names of their own
(`turn_files`), and one record counts (`accepted`).
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pbt_flow.exceptions import CheckpointError, RecordError
from pbt_flow.population.accepted import NOTHING, Accepted
from pbt_flow.population.compact_state import write_state
from pbt_flow.population.reach import (
    Token,
    leave_token_in,
    prove_folder_is_shared,
    remove_token_from,
)
from pbt_flow.population.records import Checkpoint, Turn, turn_from_json, turn_to_json
from pbt_flow.population.turn_files import (
    ERROR,
    OUTPUT,
    RECORD,
    STATE,
    UNNUMBERED,
    Attempt,
    attempts_with_record,
    file_place,
    partial_name,
    turn_folder,
    turn_number,
)
from pbt_flow.utils.reasons import reason_of


def save_state(
    state: dict[str, Any], member: int, turn: int, root: Path, attempt: Attempt = UNNUMBERED
) -> Checkpoint:
    """Write a state below `root` and return the reference to it.

    Raises:
        CheckpointError: The state itself is at fault: torch cannot write it, or it holds something
            that can only be read back by running code.
        OSError, RuntimeError: The disk is at fault. torch raises RuntimeError for some of its
            errors.
    """
    if not isinstance(state, dict):
        raise CheckpointError(f"state_dict() must return a dict, got a {type(state).__name__}")
    path = root / file_place(STATE, turn, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(partial_name(STATE, attempt))
    try:
        try:
            write_state(state, partial)
        except (OSError, RuntimeError):
            # torch raises the same for a full disk and for a state that it cannot write. Writing
            # once more, without a disk, tells the two apart.
            check_saves(state)
            raise
        digest = file_digest(partial)
        _check_restores(state, partial)
        size = partial.stat().st_size
        _name_durably(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return Checkpoint(member=member, turn=turn, digest=digest, size=size, attempt=attempt)


def check_saves(state: dict[str, Any]) -> None:
    """Write a state to a file object that keeps nothing.

    Raises:
        CheckpointError: torch cannot write the state, whatever the disk.
    """

    class NullFile(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return memoryview(data).nbytes

    try:
        write_state(state, NullFile())  # type: ignore[arg-type]
    except Exception as error:
        raise CheckpointError(f"state_dict() cannot be written: {reason_of(error)}") from error


def copy_state(state: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Return a state as it would come back from a checkpoint, without writing a file."""
    import torch

    buffer = io.BytesIO()
    write_state(state, buffer)
    buffer.seek(0)
    copied: dict[str, Any] = torch.load(buffer, weights_only=True, map_location=device)
    return copied


def _check_restores(state: dict[str, Any], path: Path) -> None:
    """Refuse a state that could not be read back from the file it was written to.

    The turn that made the state then fails, and not the member that would copy it later.

    Raises:
        CheckpointError: The state itself is at fault.
        OSError, RuntimeError: The file is at fault.
    """
    import torch

    try:
        # On the device "meta" torch reads the structure of the file and none of its numbers.
        torch.load(path, weights_only=True, map_location="meta", mmap=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            "state_dict() must hold tensors and plain values only, since it is read back with "
            f"weights_only=True; {_first_unsafe_value(state) or 'something in it is neither'}"
        ) from None
    except OSError:
        raise
    except Exception:
        # Not everything that can be restored can be put on the device "meta".
        _check_restores_with_numbers(state, path)


def _check_restores_with_numbers(state: dict[str, Any], path: Path) -> None:
    """Read a file completely, as a restore does.

    Raises:
        CheckpointError: The state cannot be read back from any file.
        RuntimeError: The state can be read back, but not from this file.
    """
    import torch

    try:
        torch.load(path, weights_only=True, map_location="cpu")
    except Exception as unreadable:
        try:
            copy_state(state)
        except Exception as error:
            raise CheckpointError(
                f"state_dict() cannot be read back: {reason_of(error)}"
            ) from error
        raise RuntimeError(f"{path} is not what was written: {reason_of(unreadable)}") from None


def _first_unsafe_value(value: Any, place: str = "state") -> str:
    """Say where the first value lies that can only be read back by running code; "" if none."""
    import torch

    parts: dict[Any, Any] = {}
    if isinstance(value, dict):
        parts = value
    elif isinstance(value, list | tuple | set):
        parts = dict(enumerate(value))
    for key, part in parts.items():
        found = _first_unsafe_value(part, f"{place}[{key!r}]")
        if found:
            return found
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, weights_only=True)
    except pickle.UnpicklingError:
        kind = type(value)
        return f"{place} is a {kind.__module__}.{kind.__qualname__}"
    return ""


def load_state(checkpoint: Checkpoint, root: Path, device: str = "cpu") -> dict[str, Any]:
    """Read the state that `checkpoint` refers to, below the folder `root` of its member.

    Raises:
        CheckpointError: The file does not exist, is not the one that the turn wrote, or is unsafe.
        OSError: The disk cannot be read.
    """
    import torch

    path = root / state_place(checkpoint)
    what = f"checkpoint of member {checkpoint.member}, turn {checkpoint.turn} ({path})"
    if not path.is_file():
        raise CheckpointError(f"{what}: there is no such file")
    if (found := file_digest(path)) != checkpoint.digest:
        raise CheckpointError(
            f"{what}: the file was altered or cut short; its SHA-256 is {found[:12]}..., and "
            f"{checkpoint.digest[:12]}... by the record"
        )
    try:
        state = torch.load(path, weights_only=True, map_location=device)
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds of exceptions for a broken file
        raise CheckpointError(f"{what}: refused: {reason_of(error)}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{what}: holds a {type(state).__name__}, not a dict")
    return state


def save_record(turn: Turn, root: Path, output: str = "") -> None:
    """Write the record of a turn below `root`. From then on the turn has happened.

    Raises:
        FileExistsError: The same attempt at the turn has a record already.
        OSError: The disk is at fault.
    """
    number, attempt = turn.number, turn.plan.attempt
    path = root / file_place(RECORD, number, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = list[Path]()
    try:
        for kind, text in {ERROR: turn.error.rstrip(), OUTPUT: output.rstrip()}.items():
            if text:
                beside = root / file_place(kind, number, attempt)
                with beside.open("x", encoding="utf-8") as file:
                    written.append(beside)
                    file.write(text + "\n")
        # The record comes last: it says that everything of the attempt is complete.
        _write_new_file(
            path, json.dumps(turn_to_json(turn), indent=1), partial_name(RECORD, attempt)
        )
    except BaseException:
        for beside in written:
            beside.unlink(missing_ok=True)
        raise


def read_record(text: str, member: int, turn: int, attempt: Attempt | None = None) -> Turn:
    """Return the turn in `text`, the content of a record in the folder of this member and turn.

    Args:
        text: The content.
        member: The member.
        turn: The number of the turn among the member's turns.
        attempt: The attempt that the name of the file says; None if the text is from elsewhere.

    Raises:
        RecordError: The text is not a turn record, or is that of another member, turn or attempt.
    """
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}") from None
    found = turn_from_json(plain)
    if (found.member, found.number) != (member, turn):
        raise RecordError(
            f"the record is of member {found.member}, turn {found.number}, and not of member "
            f"{member}, turn {turn}, in whose folder it stands"
        )
    own = found.plan.attempt
    if attempt is not None and own != attempt:
        raise RecordError(f"the record is of attempt {own}, and its name says {attempt}")
    if found.checkpoint and (found.checkpoint.member, found.checkpoint.turn) != (member, turn):
        raise RecordError("the record claims a checkpoint of another turn as its own")
    if found.checkpoint and found.checkpoint.attempt != own:
        raise RecordError("the record claims a checkpoint of another attempt as its own")
    return found


def state_place(checkpoint: Checkpoint) -> str:
    """Return where the state of a checkpoint lies within its member's artifacts."""
    return file_place(STATE, checkpoint.turn, checkpoint.attempt)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_new_file(path: Path, text: str) -> None:
    """Write a file that is not there yet: whole, or not at all.

    Raises:
        FileExistsError: It is there.
        OSError: The disk is at fault.
    """
    _write_new_file(path, text, f".{path.name}.{uuid.uuid4().hex[:12]}")


def _write_new_file(path: Path, text: str, before: str) -> None:
    partial = path.with_name(before)
    try:
        partial.write_text(text, encoding="utf-8")
        _name_durably(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _name_durably(partial: Path, path: Path) -> None:
    """Give a finished file its name, so that neither a kill nor a power cut leaves half a file.

    Raises:
        FileExistsError: Another file has the name. It stays as it is.
    """
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    try:
        # A rename would put the file in the place of another one; a link does not.
        os.link(partial, path)
    except FileExistsError:
        # A file server that lost its answer may have made the link at the first asking.
        if not os.path.samefile(partial, path):
            raise
    except OSError:
        # Some file systems have no links. An attempt has one writer only, so that looking first is
        # enough there.
        if path.exists():
            raise FileExistsError(errno.EEXIST, "there is such a file", str(path)) from None
        partial.replace(path)
    else:
        # Before the folder is synced, which takes long: a kill then leaves no second name.
        partial.unlink(missing_ok=True)
    # The folder holds the new name, so it must reach the disk as well.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Folders(Protocol):
    """Where a worker finds the turn folders of each member."""

    @property
    def patience(self) -> float:
        """How many seconds a turn may wait for a storage that does not answer."""

    def elsewhere(self, cache: str) -> Folders:
        """Return the same folders as a worker on another machine uses them.

        Args:
            cache: A folder of that machine, for what is no use to others.
        """

    def root(self, member: int) -> Path:
        """Return the member's folder on this machine, in which turns are written."""

    def fetch(self, checkpoint: Checkpoint) -> Path:
        """Bring the file of `checkpoint` onto this machine; return the folder above its turns."""

    def publish(self, member: int, turn: int, file: str) -> None:
        """Copy a file that was just written to where every machine finds it."""

    def record(
        self,
        member: int,
        turn: int,
        accepted: Accepted = NOTHING,
        attempt: Attempt | None = None,
    ) -> Turn | None:
        """Return the record of a turn that counts, or None if the turn has not happened.

        Args:
            member: The member.
            turn: The number of the turn among the member's turns.
            accepted: Which attempts of earlier claims count.
            attempt: The one that counts, if that is known: then nobody looks for others.

        Raises:
            RecordError: There is a record, but it cannot be trusted.
        """

    def last(self, member: int, accepted: Accepted = NOTHING, known: int = 0) -> int:
        """Return the number of the member's last turn with a record that counts; 0 if none has.

        Args:
            member: The member.
            accepted: Which attempts of earlier claims count.
            known: A turn of which it is known otherwise that it has one, if its folder is there.
        """

    def commit(self, turn: Turn, output: str = "") -> None:
        """Write a turn's record where every machine finds it. From then on it has happened.

        Args:
            turn: The turn. Its attempt must not have been committed before.
            output: What the task printed during it.
        """

    def forget(self, checkpoint: Checkpoint) -> None:
        """Drop this machine's copy of a turn whose state was deleted, if it has one."""

    def leave_token(self) -> Folders:
        """Leave a token where turns are written; return the folders with which workers find it."""

    def remove_token(self) -> None:
        """Delete the token, if there is one and its place can be written."""

    def prove_reach(self, patience: float) -> None:
        """Prove that this process writes turns where the process that left the token finds them.

        Without a token nothing is proved.

        Args:
            patience: Seconds for which a storage that does not answer is waited for.

        Raises:
            StorageError: It does not; the message names what it cannot reach, from which machine,
                and the way out.
        """


def last_with_record(folders: Iterable[str], has_record: Callable[[int], bool]) -> int:
    """The number of the last turn of a member that has happened; 0 if none has.

    Args:
        folders: What lies beside each other where the turns' folders do.
        has_record: Whether a turn has a record that counts. The newest may be under way.
    """
    # Somebody may have put a copy beside the turns, such as `000012 (copy)`.
    numbers = sorted((turn_number(name) or 0 for name in folders), reverse=True)
    return next((number for number in numbers if number > 0 and has_record(number)), 0)


@dataclass(frozen=True)
class LocalFolders:
    """Turn folders on a disk that all workers share, so that nothing has to be copied."""

    roots: Mapping[int, str]
    """The folder of each member."""
    shared: bool = True
    """Whether what is written there is wanted afterwards. If not, as in a dry run, a worker on
    another machine may write in a folder of its own instead."""
    token: Token | None = None
    """By which a worker on another machine knows that it sees the same folders."""
    patience: ClassVar[float] = 0.0

    def elsewhere(self, cache: str) -> LocalFolders:
        if self.shared:
            return self
        roots = {member: str(Path(cache, str(member))) for member in self.roots}
        return LocalFolders(roots, shared=False)

    def root(self, member: int) -> Path:
        return Path(self.roots[member])

    def fetch(self, checkpoint: Checkpoint) -> Path:
        return self.root(checkpoint.member)

    def publish(self, member: int, turn: int, file: str) -> None:
        pass

    def record(
        self,
        member: int,
        turn: int,
        accepted: Accepted = NOTHING,
        attempt: Attempt | None = None,
    ) -> Turn | None:
        is_named = attempt is not None
        attempt = attempt or self._chosen(member, turn, accepted)
        if attempt is None:
            return None
        path = self.root(member) / file_place(RECORD, turn, attempt)
        try:
            return read_record(path.read_text(encoding="utf-8"), member, turn, attempt)
        except (FileNotFoundError, NotADirectoryError):
            if is_named:
                return None
            raise
        except (RecordError, UnicodeDecodeError) as error:
            why = f"not text: {error}" if isinstance(error, UnicodeDecodeError) else error
            raise RecordError(f"{path}: {why}") from None

    def last(self, member: int, accepted: Accepted = NOTHING, known: int = 0) -> int:
        try:
            names = os.listdir(self.root(member) / "turns")
        except FileNotFoundError:
            return 0
        return last_with_record(
            names, lambda turn: turn == known or self._chosen(member, turn, accepted) is not None
        )

    def _chosen(self, member: int, turn: int, accepted: Accepted) -> Attempt | None:
        """Return the attempt of a turn whose record counts; None if the turn has not happened."""
        try:
            names = os.listdir(self.root(member) / turn_folder(turn))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return accepted.choose(member, turn, attempts_with_record(names))

    def commit(self, turn: Turn, output: str = "") -> None:
        save_record(turn, self.root(turn.member), output)

    def forget(self, checkpoint: Checkpoint) -> None:
        pass

    def leave_token(self) -> LocalFolders:
        return replace(self, token=leave_token_in(self._token_folder))

    def remove_token(self) -> None:
        if self.token is not None:
            remove_token_from(self._token_folder, self.token)

    def prove_reach(self, patience: float) -> None:
        if self.token is not None:
            prove_folder_is_shared(self._token_folder, self.token, patience)

    @property
    def _token_folder(self) -> Path:
        # The folders of all members lie below one, that of their experiment.
        return self.root(min(self.roots))
