"""Turn folders on disk: a state written once, a record that commits it, and safe ways back.

`turns/000012/state.pt` is the state after a member's twelfth turn and `turns/000012/turn.json` its
record. The state is written first, the record last, each in one atomic rename: a folder without a
record is a turn that never happened.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pbt_flow.exceptions import CheckpointError, RecordError
from pbt_flow.population.compact_state import write_state
from pbt_flow.population.records import Checkpoint, Turn, turn_from_json, turn_to_json
from pbt_flow.utils.reasons import reason_of

STATE = "state.pt"
RECORD = "turn.json"
ERROR = "error.txt"
"""Why a turn went wrong, for people: the traceback, where there is one."""
OUTPUT = "output.txt"
"""What the task printed during a turn, if it did and its worker could tell."""


def turn_folder(turn: int) -> str:
    """The folder of a turn within its member's artifacts."""
    return f"turns/{turn:06d}"


def save_state(state: dict[str, Any], member: int, turn: int, root: Path) -> Checkpoint:
    """Write a state below `root` and return its reference.

    Raises:
        CheckpointError: The state cannot be written, or holds something that could only be read
            back by running code, wherever it is.
        OSError: The place cannot be written to, as RuntimeError of torch as well.
    """
    if not isinstance(state, dict):
        raise CheckpointError(f"state_dict() must return a dict, got a {type(state).__name__}")
    folder = root / turn_folder(turn)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STATE
    partial = path.with_name(f".{STATE}.{os.getpid()}")
    _clear(folder)
    try:
        try:
            write_state(state, partial)
        except (OSError, RuntimeError):
            # Both the disk and the state may be at fault, and torch calls both alike.
            check_saves(state)
            raise
        digest = file_digest(partial)
        _refuse_code(state, partial)
        _publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return Checkpoint(member=member, turn=turn, digest=digest, size=path.stat().st_size)


def check_saves(state: dict[str, Any]) -> None:
    """Write a state to nowhere.

    Raises:
        CheckpointError: torch cannot write it, wherever to.
    """

    class Nowhere(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return memoryview(data).nbytes

    try:
        write_state(state, Nowhere())  # type: ignore[arg-type]
    except Exception as error:
        raise CheckpointError(f"state_dict() cannot be written: {reason_of(error)}") from error


def copy_state(state: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """A state as it would come back from a checkpoint, without a file."""
    import torch

    buffer = io.BytesIO()
    write_state(state, buffer)
    buffer.seek(0)
    copied: dict[str, Any] = torch.load(buffer, weights_only=True, map_location=device)
    return copied


def _refuse_code(state: dict[str, Any], path: Path) -> None:
    """Fail now, in the turn that made the state, and not in the member that copies it."""
    import torch

    try:
        torch.load(path, weights_only=True, map_location="meta", mmap=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            "state_dict() must hold tensors and plain values only, since it is read back with "
            f"weights_only=True; {_culprit(state) or 'something in it is neither'}"
        ) from None
    except OSError:
        raise
    except Exception:
        _check_reads(state, path)


def _check_reads(state: dict[str, Any], path: Path) -> None:
    """Read a file that could not be read without its numbers as one that is restored.

    Raises:
        CheckpointError: The state cannot be read back, wherever it is.
        RuntimeError: It can, and only not from this file.
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


def _culprit(value: Any, place: str = "state") -> str:
    """The first thing in a state that is read back by running code, in words."""
    import torch

    inner = value if isinstance(value, dict) else {}
    if isinstance(value, list | tuple | set):
        inner = dict(enumerate(value))
    for key, item in inner.items():
        if found := _culprit(item, f"{place}[{key!r}]"):
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
    """Read the state that `checkpoint` refers to, from its own member's folder `root`.

    Raises:
        CheckpointError: The file is not there, is not the one that the turn wrote, or is unsafe.
    """
    import torch

    path = root / turn_folder(checkpoint.turn) / STATE
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
    except Exception as error:  # torch's unpickler stumbles over a broken file in many ways
        raise CheckpointError(f"{what}: refused: {reason_of(error)}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{what}: holds a {type(state).__name__}, not a dict")
    return state


def save_record(turn: Turn, root: Path, output: str = "") -> None:
    """Write the record of a turn below `root`: from now on the turn has happened."""
    folder = root / turn_folder(turn.number)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{RECORD}.{os.getpid()}"
    texts = {folder / ERROR: turn.error.rstrip(), folder / OUTPUT: output.rstrip()}
    _clear(folder)
    if turn.checkpoint is None:
        # An attempt that was killed may have left a state, to which no record will ever refer.
        (folder / STATE).unlink(missing_ok=True)
    try:
        partial.write_text(json.dumps(turn_to_json(turn), indent=1), encoding="utf-8")
        for path, text in texts.items():
            path.unlink(missing_ok=True)  # of an attempt that was killed
            if text:
                path.write_text(text + "\n", encoding="utf-8")
        _publish(partial, folder / RECORD)
    except BaseException:
        for path in texts:
            path.unlink(missing_ok=True)
        raise
    finally:
        partial.unlink(missing_ok=True)


def read_record(text: str, member: int, turn: int) -> Turn:
    """The turn in `text`, which stands in the folder of this member and turn.

    Raises:
        RecordError: The text is no turn record, or one of another member or turn.
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
    if found.checkpoint and (found.checkpoint.member, found.checkpoint.turn) != (member, turn):
        raise RecordError("the record claims a checkpoint of another turn as its own")
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _clear(folder: Path) -> None:
    """Take away what an attempt at the same turn left unfinished when it was killed."""
    for partial in [*folder.glob(f".{STATE}.*"), *folder.glob(f".{RECORD}.*")]:
        partial.unlink(missing_ok=True)


def _publish(partial: Path, path: Path) -> None:
    """Give a finished file its name, so that neither a kill nor a power cut leaves half of it."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Folders(Protocol):
    """Where the turn folders of each member are, from a worker's point of view."""

    @property
    def patience(self) -> float:
        """Seconds that a turn may wait for a place that does not answer."""

    def root(self, member: int) -> Path:
        """The member's folder on this machine, in which turns are written."""

    def fetch(self, checkpoint: Checkpoint) -> Path:
        """The folder below which the file of `checkpoint` now lies on this machine."""

    def publish(self, member: int, turn: int, file: str) -> None:
        """Put a file that was just written where every machine finds it."""

    def record(self, member: int, turn: int) -> Turn | None:
        """The record of a turn, or None if the turn has not happened.

        Raises:
            RecordError: There is a record, but it cannot be trusted.
        """

    def last(self, member: int) -> int:
        """The number of the last turn that has a record; 0 if none has."""

    def commit(self, turn: Turn, output: str = "") -> None:
        """Write a turn's record where every machine finds it: from now on it has happened.

        Args:
            turn: The turn.
            output: What the task printed during it.
        """


@dataclass(frozen=True)
class LocalFolders:
    """Folders on a disk that all workers see: what is written is where it belongs."""

    roots: Mapping[int, str]
    patience: ClassVar[float] = 0.0

    def root(self, member: int) -> Path:
        return Path(self.roots[member])

    def fetch(self, checkpoint: Checkpoint) -> Path:
        return self.root(checkpoint.member)

    def publish(self, member: int, turn: int, file: str) -> None:
        pass

    def record(self, member: int, turn: int) -> Turn | None:
        path = self.root(member) / turn_folder(turn) / RECORD
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise RecordError(f"{path}: not text: {error}") from None
        try:
            return read_record(text, member, turn)
        except RecordError as error:
            raise RecordError(f"{path}: {error}") from None

    def last(self, member: int) -> int:
        found = self.root(member).glob(f"turns/*/{RECORD}")
        return max((int(path.parent.name) for path in found), default=0)

    def commit(self, turn: Turn, output: str = "") -> None:
        save_record(turn, self.root(turn.member), output)
