"""How the files of a turn are named. All who read or write one ask here.

`turns/000012/turn-2.1.json` is the record of a member's twelfth turn that the first try of the
second claim wrote, and `state-2.1.pt` beside it is the state after it. No two attempts share a
name, so a worker that was given up and goes on all the same can write over nothing. Populations of
earlier versions have one attempt of each turn, whose files are `turn.json` and `state.pt`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

STATE = "state.pt"
RECORD = "turn.json"
ERROR = "error.txt"
"""For people: why a turn went wrong, with the traceback of an exception."""
OUTPUT = "output.txt"
"""For people: what the task printed during a turn, as far as its worker could capture it."""
_KINDS = (STATE, RECORD, ERROR, OUTPUT)
_NAME = re.compile(
    r"(?P<stem>[a-z]+)(?:-(?P<claim>\d+)\.(?P<number>\d+))?\.(?P<end>[a-z]+)", re.ASCII
)

# Earlier versions had the number of the process behind the last dot.
_PARTIAL = re.compile(
    r"\.(?P<kind>[a-z]+\.[a-z]+)\.(?:(?P<claim>\d+)-(?P<number>\d+)-)?[0-9a-f]+", re.ASCII
)


@dataclass(frozen=True, kw_only=True, order=True)
class Attempt:
    """Which try of a turn something belongs to. A later attempt is the greater one."""

    claim: int = 0
    """How many times a controller had claimed the population when the turn was given out.

    It is 0 in the records of earlier versions, whose files carry no attempt in their names."""
    number: int = 0
    """The number of the try within that claim, from 1."""

    def __str__(self) -> str:
        return f"{self.claim}.{self.number}"


UNNUMBERED = Attempt()
"""The only attempt of each turn in a population of an earlier version."""


def turn_folder(turn: int) -> str:
    """Return the folder of a turn within its member's artifacts."""
    return f"turns/{turn:06d}"


def turn_number(folder: str) -> int | None:
    """Return the number of the turn that a folder belongs to; None for any other folder."""
    name = folder.rpartition("/")[2]
    number = int(name) if name.isdecimal() else 0
    return number if turn_folder(number) == f"turns/{name}" else None


def file_name(kind: str, attempt: Attempt) -> str:
    """Return the name of an attempt's file.

    Args:
        kind: `STATE`, `RECORD`, `ERROR` or `OUTPUT`.
        attempt: Whose file it is.
    """
    stem, _, end = kind.partition(".")
    return kind if attempt == UNNUMBERED else f"{stem}-{attempt}.{end}"


def file_place(kind: str, turn: int, attempt: Attempt) -> str:
    """Return where an attempt's file lies within its member's artifacts."""
    return f"{turn_folder(turn)}/{file_name(kind, attempt)}"


def read_name(name: str) -> tuple[str, Attempt] | None:
    """Return the kind and the attempt of a file in a turn's folder; None for any other file."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    kind = f"{found['stem']}.{found['end']}"
    attempt = Attempt(claim=int(found["claim"] or 0), number=int(found["number"] or 0))
    # `turn-01.1.json` is nobody's name.
    return (kind, attempt) if kind in _KINDS and file_name(kind, attempt) == name else None


def partial_name(kind: str, attempt: Attempt) -> str:
    """Return a name for an attempt's file while it is being written, another one each time.

    Two machines may have processes of one number, in containers nearly always. So the name holds
    chance, and no process number.

    torch writes into a file what the file's name is up to its last dot. The attempt stands behind
    that dot, or the same state would have another digest in each attempt.
    """
    return f".{kind}.{attempt.claim}-{attempt.number}-{uuid.uuid4().hex[:12]}"


def owner_of(name: str) -> Attempt | None:
    """Return the attempt of a file in a turn's folder, whole or not; None for any other file."""
    if (found := read_name(name)) is not None:
        return found[1]
    partial = _PARTIAL.fullmatch(name)
    if partial is None or partial["kind"] not in _KINDS:
        return None
    return Attempt(claim=int(partial["claim"] or 0), number=int(partial["number"] or 0))


def attempts_with_record(names: Iterable[str]) -> list[Attempt]:
    """Return which attempts have written their record, of the names in the folder of a turn."""
    found = map(read_name, names)
    return sorted(one[1] for one in found if one is not None and one[0] == RECORD)
