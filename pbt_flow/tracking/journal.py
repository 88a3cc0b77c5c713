"""The journal of a population: the records of all turns, to be read back with few requests.

A record lies in the folder of its turn, on its member's run, where its worker committed it. To read
a hundred thousand of them one by one takes a million requests. So the controller writes what was
committed a second time, in segments of some hundreds of turns, below `journal/` on the population's
run. A segment is never changed, and its name is the digest of its content.

The record stays the commit. The journal is believed of a member only as far as the record of the
newest turn that it has is the same (`TurnReader`), and what it lacks is read from the records.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pbt_flow.exceptions import RecordError, StoreUnavailable
from pbt_flow.population.records import Turn, turn_from_json, turn_to_json
from pbt_flow.tracking.client import artifacts_at, downloads_through_server, local_path
from pbt_flow.tracking.population_runs import PopulationRuns
from pbt_flow.utils.scratch import temporary_folder

JOURNAL = "journal"
"""The folder of the segments among the artifacts of a population's run."""
_SEAL = "pbt.journal"
"""The tag of the population's run with the seal."""
_SUFFIX = ".jsonl.gz"
_GZIP = 16 + zlib.MAX_WBITS
"""What zlib calls the format of a gzip file."""
_MOST_BYTES = 1 << 28
"""The most bytes of a segment. A record has two thousand, and with an error's traceback ten."""


@dataclass(frozen=True, kw_only=True)
class JournalRead:
    """What a journal says."""

    turns: Mapping[int, Sequence[Turn]]
    """Of each member the first turns that it has done, in order and without a gap."""
    doubts: Sequence[str]
    """What in it cannot be believed, as sentences for the user."""
    digest: str
    """What its segments are called, as one digest: that of all it holds."""


@dataclass(frozen=True, kw_only=True)
class Seal:
    """The word of a controller that has ended in order: the journal has every turn.

    Whoever reads the population then need not look at each member's folders. It is worth nothing
    once another controller has claimed the population.
    """

    claim: int
    turns: int
    digest: str
    """The digest of the journal (`JournalRead.digest`)."""

    def to_tag(self) -> dict[str, str]:
        """Return it as a tag of the population's run."""
        return {_SEAL: json.dumps(asdict(self))}

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> Seal | None:
        """Return the one that is among the tags of a run; None if there is none to be read."""
        try:
            plain = json.loads(tags.get(_SEAL, "null"))
            return None if plain is None else cls(**plain)
        except (ValueError, TypeError, RecursionError):
            return None


@dataclass(frozen=True, kw_only=True)
class Journal:
    """The journal of one population."""

    runs: PopulationRuns

    def add(self, turns: Sequence[Turn]) -> None:
        """Write one more segment. Writing the same turns twice changes nothing.

        On a local disk that cannot be written the journal lacks them, and nobody waits: the records
        are there, and a disk that is full or read-only mostly stays so.

        Raises:
            StoreUnavailable: The artifact store does not answer now.
        """
        lines = [json.dumps(turn_to_json(turn)) for turn in turns]
        content = "\n".join(lines).encode()
        with temporary_folder() as folder:
            path = Path(folder, f"{_digest(content)}{_SUFFIX}")
            # Without a time in it, so that equal turns are equal files.
            path.write_bytes(gzip.compress(content, mtime=0))
            try:
                with self.runs.talk():
                    self._artifacts.log_artifact(str(path), JOURNAL)
            except StoreUnavailable as error:
                if not isinstance(error.__cause__, OSError) or local_path(self.runs.place) is None:
                    raise

    def digest(self) -> str:
        """Return the digest of the journal as it is there now.

        Raises:
            StoreUnavailable: The artifact store does not answer now.
        """
        with self.runs.talk():
            listed = self._artifacts.list_artifacts(JOURNAL)
        return _digest_of(info.path.rpartition("/")[2] for info in listed)

    def read(self) -> JournalRead:
        """Read all segments.

        Raises:
            StoreUnavailable: The artifact store does not answer now.
        """
        found, doubts = dict[tuple[int, int], Turn](), list[str]()
        doubtful, segments = set[int](), self._segments()
        for name, content in segments:
            try:
                for turn in _turns_in(name, content):
                    place = turn.member, turn.number
                    if place in found and turn_to_json(found[place]) != turn_to_json(turn):
                        doubtful.add(turn.member)
                    found[place] = turn
            except (RecordError, ValueError, RecursionError) as error:
                doubts.append(f"{JOURNAL}/{name} is not read: {error}")
        for member in sorted(doubtful):
            doubts.append(f"the journal contradicts itself on turns of member {member}")
        digest = _digest_of(name for name, _ in segments)
        return JournalRead(turns=_without_gaps(found, doubtful), doubts=doubts, digest=digest)

    @property
    def _artifacts(self) -> Any:
        """MLflow's access to the artifacts of the population's run."""
        return artifacts_at(self.runs.place, self.runs.tracking_uri)

    def _segments(self) -> Sequence[tuple[str, bytes]]:
        """The files of the journal, each with its name."""
        with self.runs.talk():
            place = local_path(self.runs.place)
            if place is not None:
                return _files_in(Path(place, JOURNAL))
            if not self._artifacts.list_artifacts(JOURNAL):
                return []
            with temporary_folder() as folder, downloads_through_server():
                # All at once: MLflow then fetches several at a time.
                there = self._artifacts.download_artifacts(JOURNAL, folder)
                return _files_in(Path(there))


def _files_in(folder: Path) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in sorted(folder.glob(f"*{_SUFFIX}"))]


def _digest_of(names: Iterable[str]) -> str:
    """The digest of all segments, by their names, whatever their order."""
    own = sorted(name for name in names if name.endswith(_SUFFIX))
    return hashlib.sha256("\n".join(own).encode()).hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _turns_in(name: str, content: bytes) -> list[Turn]:
    """Return the turns of a segment.

    Raises:
        RecordError: It is not the one that was written, or holds what is no record.
    """
    reader = zlib.decompressobj(_GZIP)
    try:
        # An imported segment comes from elsewhere, and a few bytes can stand for any number.
        text = reader.decompress(content, _MOST_BYTES)
    except zlib.error as error:
        raise RecordError(f"the file was altered: {error}") from None
    if not reader.eof:
        if len(text) >= _MOST_BYTES:
            raise RecordError(
                f"it unpacks to more than {_MOST_BYTES >> 20} MiB, which no file of a journal does"
            )
        raise RecordError("the file was cut short: its end is missing")
    if _digest(text) != name.removesuffix(_SUFFIX):
        raise RecordError("the file was altered: its name is not the digest of what it holds")
    return [turn_from_json(json.loads(line)) for line in text.splitlines()]


def _without_gaps(
    found: Mapping[tuple[int, int], Turn], doubtful: set[int]
) -> dict[int, list[Turn]]:
    """Of each member that is not doubtful the turns up to the first that is not there."""
    turns: dict[int, list[Turn]] = {}
    for member, number in sorted(found):
        own = turns.setdefault(member, [])
        if member not in doubtful and number == len(own) + 1:
            own.append(found[member, number])
    return turns
