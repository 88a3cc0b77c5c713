"""The folder that a population is exported to: what lies in it, and how it is trusted.

    export.json                  what was exported; size and SHA-256 of every other file
    runs/RUN/run.json            a run: its name, status, times, tags, params, datasets, models
    runs/RUN/metrics.json        the whole history of each of its metrics
    runs/RUN/artifacts/          its artifacts: turn records, checkpoints, samples, reports
    models/MODEL/model.json      a model that a run has logged
    models/MODEL/artifacts/      its files

A folder comes from elsewhere, so nothing in it is believed: a name may lead out of the folder, a
file may have been cut short. Both are refused before anything is written to a store.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pbt_flow.exceptions import ExportError, RecordError
from pbt_flow.population.accepted import ACCEPTED, NOTHING, Accepted, claim_of_file
from pbt_flow.population.checkpoints import read_record
from pbt_flow.population.records import Turn
from pbt_flow.population.turn_files import (
    RECORD,
    Attempt,
    attempts_with_record,
    file_place,
    turn_folder,
    turn_number,
)
from pbt_flow.tracking.adoption import MANIFEST
from pbt_flow.utils.text import byte_count

INDEX = "export.json"
WINNER = "winner.json"
"""A file of the folder that holds a winner alone, which is another."""
_FORMAT, _VERSION = "pbt_flow export", 1
_RUN_ID, _MODEL_ID = re.compile("[0-9a-f]{32}"), re.compile("m-[0-9a-f]{32}")
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """What a file of the folder must be."""

    size: int
    """In bytes."""
    sha256: str
    """In hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class ExportedPopulation:
    """A population or a replay in the folder."""

    run_id: str
    """Its run in the store that it was exported from."""
    origin: str
    """Its run in the store that it began in: the same, unless it was imported there."""
    name: str
    experiment: str
    """The name of its experiment."""
    members: Sequence[str]
    """The run of each member."""
    runs: Sequence[str]
    """All its runs: its own, those of its members, and those that its task began."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """What lies in a folder, as its `export.json` says."""

    populations: Sequence[ExportedPopulation]
    """The population that was asked for, and then its control, if it has one."""
    models: Sequence[str]
    """The models that their runs have logged."""
    files: Mapping[str, FileEntry]
    """All files but `export.json`, by their paths in the folder."""
    versions: Mapping[str, str]
    """The versions of what wrote the folder."""

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    def artifacts(self, below: str) -> dict[str, str]:
        """The files of a run or of a model, by their paths among its artifacts.

        Args:
            below: Its place in the folder, such as `runs/5fa2...`.
        """
        prefix = f"{below}/artifacts/"
        return {name.removeprefix(prefix): name for name in self.files if name.startswith(prefix)}

    def last_records(self, population: ExportedPopulation, folder: Path) -> list[Turn]:
        """The last turn of each member that has one, from the records in the folder.

        Raises:
            ExportError: A record cannot be trusted.
        """
        found, accepted = list[Turn](), self._accepted(population, folder)
        for member, run_id in enumerate(population.members):
            names = self.artifacts(run_place(run_id))
            for number, there in sorted(_attempts(names).items(), reverse=True):
                attempt = accepted.choose(member, number, there)
                if attempt is not None:
                    path = folder / names[file_place(RECORD, number, attempt)]
                    found.append(_read_record(path, member, number, attempt))
                    break
        return found

    def _accepted(self, population: ExportedPopulation, folder: Path) -> Accepted:
        """What the controller of the newest claim accepted of earlier ones.

        Raises:
            ExportError: The file is not what a controller writes.
        """
        claims = self._claims(population)
        for name in (claims[claim] for claim in sorted(claims, reverse=True)):
            try:
                accepted = Accepted.from_json((folder / name).read_text("utf-8"))
            except (RecordError, UnicodeDecodeError) as error:
                raise ExportError(f"{folder / name}: {error}") from None
            if accepted is not None:
                return accepted
        return NOTHING

    def _claims(self, population: ExportedPopulation) -> dict[int, str]:
        """The files that say what a controller accepted, by the numbers of their claims."""
        found = dict[int, str]()
        for artifact, name in self.artifacts(run_place(population.run_id)).items():
            folder, _, file = artifact.rpartition("/")
            claim = claim_of_file(file) if folder == ACCEPTED else None
            if claim is not None:
                found[claim] = name
        return found

    def last_claim(self, population: ExportedPopulation) -> int:
        """The greatest number of a claim of which the population's files know; 0 if of none.

        Wherever the population goes on, the claims go on from there: the files of a later claim
        must be later ones.
        """
        claims = set(self._claims(population))
        for run_id in population.members:
            for there in _attempts(self.artifacts(run_place(run_id))).values():
                claims.update(attempt.claim for attempt in there)
        return max(claims, default=0)


def _attempts(artifacts: Iterable[str]) -> dict[int, list[Attempt]]:
    """The attempts with a record at each turn of a member, among its artifacts."""
    names = defaultdict[int, list[str]](list)
    for artifact in artifacts:
        folder, _, name = artifact.rpartition("/")
        number = turn_number(folder)
        if number is not None and folder == turn_folder(number):
            names[number].append(name)
    found = {number: attempts_with_record(own) for number, own in names.items()}
    return {number: attempts for number, attempts in found.items() if attempts}


def _read_record(path: Path, member: int, turn: int, attempt: Attempt) -> Turn:
    try:
        return read_record(path.read_text("utf-8"), member, turn, attempt)
    except (RecordError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: {error}") from None


def run_place(run_id: str) -> str:
    """Where a run lies in the folder."""
    return f"runs/{run_id}"


def model_place(model_id: str) -> str:
    """Where a logged model lies in the folder."""
    return f"models/{model_id}"


def write_json(folder: Path, name: str, plain: Any) -> FileEntry:
    """Write a file of the folder, and return what it must be from now on."""
    path, content = folder / name, json.dumps(plain, allow_nan=False).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def read_json(folder: Path, name: str) -> Any:
    """The content of a file that `write_json` wrote and `check_files` has compared."""
    return json.loads((folder / name).read_bytes())


def copy_file(source: Path, target: Path, advance: Callable[[int], None]) -> FileEntry:
    """Copy a file into the folder, and return what it must be from now on.

    Args:
        source: The file.
        target: Its path in the folder.
        advance: Is told how many more bytes have been copied.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as written:

        def write(block: bytes) -> None:
            written.write(block)
            advance(len(block))

        return _read_through(source, write)


def entry_of(path: Path, advance: Callable[[int], None]) -> FileEntry:
    """What a file is at present."""
    return _read_through(path, lambda block: advance(len(block)))


def _read_through(path: Path, each: Callable[[bytes], None]) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
            each(block)
    return FileEntry(size=size, sha256=digest.hexdigest())


def write_export(folder: Path, export: Export) -> None:
    """Write `export.json`, the last file of the folder."""
    plain: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "versions": dict(export.versions),
        "populations": [vars(population) for population in export.populations],
        "models": list(export.models),
        "files": {name: vars(entry) for name, entry in sorted(export.files.items())},
    }
    plain["sha256"] = _digest_of(plain)
    (folder / INDEX).write_text(json.dumps(plain, indent=1), encoding="utf-8")


def read_export(folder: Path) -> Export:
    """What lies in a folder; its files are not looked at yet.

    Raises:
        ExportError: It is no export, or one that this version cannot read.
    """
    path = folder / INDEX
    if not folder.is_dir():
        raise ExportError(f"there is no folder {folder} to import")
    if (folder / WINNER).is_file() and not path.is_file():
        raise ExportError(
            f"the folder {folder} holds a winner alone, which is no population; export without "
            "--winner writes one that can be imported"
        )
    if not path.is_file():
        raise ExportError(
            f"the folder {folder} is no export: it has no {INDEX}; python -m pbt_flow export "
            "makes one"
        )
    try:
        plain = json.loads(path.read_bytes())
        if plain["format"] != _FORMAT or type(plain["version"]) is not int:
            raise ValueError("it is of another program")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExportError(f"the folder {folder} is no export: {path}: {error}") from None
    if plain["version"] > _VERSION:
        made = plain.get("versions", {}).get("pbt-flow", "a newer version")
        raise ExportError(
            f"the export {folder} has format {plain['version']}, written by pbt-flow {made}, and "
            f"this version reads up to {_VERSION}; update pbt-flow here"
        )
    told = plain.pop("sha256", None)
    if told != _digest_of(plain):
        raise ExportError(
            f"the export {folder} is damaged: {INDEX} is not as it was written; copy it again"
        )
    try:
        return _export_of(plain)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"the export {folder} is damaged: {INDEX}: {error!r}") from None


def _export_of(plain: Mapping[str, Any]) -> Export:
    populations = [ExportedPopulation(**one) for one in plain["populations"]]
    if not populations:
        raise ValueError("it has no population")
    for population in populations:
        for run_id in (population.run_id, population.origin, *population.runs):
            _check_id(run_id, _RUN_ID)
        if population.run_id not in population.runs or set(population.members) - {*population.runs}:
            raise ValueError(f"population {population.run_id} lacks some of its runs")
    for model_id in plain["models"]:
        _check_id(model_id, _MODEL_ID)
    files = {name: FileEntry(**entry) for name, entry in plain["files"].items()}
    for name in files:
        _check_inside(name)
    return Export(
        populations=populations,
        models=plain["models"],
        files=files,
        versions=plain["versions"],
    )


def _check_id(text: str, form: re.Pattern[str]) -> None:
    if not form.fullmatch(text):
        raise ValueError(f"{text!r} is no id")


def _check_inside(name: str) -> None:
    """Refuse a path that leads out of the folder.

    Raises:
        ValueError: It does.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or str(path) != name:
        raise ValueError(f"{name!r} is no path inside of the folder")


def _digest_of(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def check_files(folder: Path, export: Export, advance: Callable[[int], None]) -> None:
    """Compare every file of the folder with what it must be.

    Args:
        folder: The folder.
        export: What must lie in it.
        advance: Is told how many more bytes have been compared.

    Raises:
        ExportError: A file is missing, is another, or lies elsewhere.
    """
    inside = folder.resolve()
    for population in export.populations:
        # What a population is begins with this file; the others are compared below.
        if f"{run_place(population.run_id)}/artifacts/{MANIFEST}" not in export.files:
            raise ExportError(f"the export {folder} has no {MANIFEST} of {population.run_id}")
    for name, entry in export.files.items():
        path = folder / name
        # A link may lead to any file of this machine.
        if not path.resolve().is_relative_to(inside):
            raise ExportError(f"the export {folder} has a link that leads out of it: {name}")
        if not path.is_file():
            raise _damaged(folder, name, "is missing")
        if (size := path.stat().st_size) != entry.size:
            raise _damaged(
                folder, name, f"has {byte_count(size)}, and {byte_count(entry.size)} were written"
            )
        if entry_of(path, advance) != entry:
            raise _damaged(folder, name, "is not what was written (its SHA-256 is another)")


def _damaged(folder: Path, name: str, what: str) -> ExportError:
    return ExportError(f"the export {folder} is damaged: {name} {what}; copy it again")
