"""A population leaves its store as a folder, and comes into another store, where it goes on."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbt_flow import __version__
from pbt_flow.commands.transfer_progress import TransferProgress
from pbt_flow.exceptions import ExportError, PBTError, PopulationError, StoreError
from pbt_flow.settings import Settings
from pbt_flow.utils.interrupts import one_interrupt_waits
from pbt_flow.utils.text import byte_count
from pbt_flow.utils.versions import present_versions

if TYPE_CHECKING:
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.export_folder import Export


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """A population that is now a folder, or in another store."""

    run_id: str
    """Its run; after an import its new one."""
    name: str
    folder: str
    size: int
    """The bytes of the folder's files."""
    runs: int
    """How many runs it has, with those of its control."""
    tracking_uri: str
    """The store that it left, or came into."""

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return dict(vars(self))

    def export_text(self) -> str:
        """What a person reads after an export."""
        return (
            f"{self.name} ({self.run_id[:12]}), {self.runs} runs, {byte_count(self.size)}, is in "
            f"{self.folder}\ntake it into another store there with\n"
            f"  python -m pbt_flow import {shlex.quote(self.folder)}"
        )

    def import_text(self) -> str:
        """What a person reads after an import."""
        return (
            f"{self.name}, {self.runs} runs, {byte_count(self.size)}, is here as population\n"
            f"  {self.run_id}\nsee what became of it, or go on with it\n"
            f"  python -m pbt_flow show {self.run_id[:12]}\n"
            f"  python -m pbt_flow resume {self.run_id[:12]}"
        )


def free_bytes(folder: Path) -> int:
    """The free bytes of the disk that a folder is on."""
    return shutil.disk_usage(folder).free


def export_population(
    run_id: str,
    folder: str | Path,
    *,
    quiet: bool = False,
    free: Callable[[Path], int] = free_bytes,
) -> Transferred:
    """Write a population or a replay, whole, into a folder that another store can take in.

    It has its run and those of its members, with params, the history of each metric, tags, files
    and checkpoints, and the models that they have logged. A control that was trained beside the
    population comes along. Versions of registered models stay.

    Args:
        run_id: Its run, the beginning of its id, or `last`.
        folder: The folder, which must not exist. It appears when all of it is there.
        quiet: Whether to print nothing.
        free: Returns the free bytes of the disk that a folder is on.

    Raises:
        StoreError: There is no such population, or its store does not answer.
        PopulationError: It is running.
        ExportError: The folder exists or cannot be written, or there is not enough room.
    """
    from pbt_flow.tracking.client import moving, short_requests
    from pbt_flow.tracking.export_runs import Exporter

    target = absolute(folder)
    with TransferProgress(quiet=quiet) as progress, appearing_whole(target) as place:
        with short_requests():
            stored = open_at_rest(run_id)
            populations = [stored, *_control_of(stored, progress.say)]
        store = stored.store
        with moving(store.tracking_uri, "does not give what is to be exported"):
            exporter = Exporter(
                client=store.client,
                uri=store.tracking_uri,
                populations=[one.store for one in populations],
            )
            progress.begin("looking at what there is")
            size = exporter.look()
            if free(place) < size:
                raise ExportError(
                    f"population {store.run_id} needs {byte_count(size)}, and "
                    f"{byte_count(free(place))} are free at {target.parent}"
                )
            progress.begin(f"exporting {byte_count(size)}", size)
            made = exporter.write(place, _versions(), progress.advance)
    return _told(made, store.run_id, target, store.tracking_uri)


def open_at_rest(run_id: str) -> StoredPopulation:
    """A population that does not change just now.

    Raises:
        PopulationError: It is running.
    """
    from pbt_flow.commands.stored_population import StoredPopulation

    stored = StoredPopulation.open(run_id)
    if stored.store.status == "running":
        short = stored.run_id[:12]
        raise PopulationError(
            f"population {stored.run_id} is running; stop it first: python -m pbt_flow stop "
            f"{short}. One whose controller died elsewhere ends after a resume"
        )
    return stored


def _control_of(stored: StoredPopulation, say: Callable[[str], None]) -> Iterator[StoredPopulation]:
    """The control of a population, if it has one that can be had."""
    from pbt_flow.commands.stored_population import CONTROL

    control = stored.store.tags().get(CONTROL)
    if control is None:
        return
    try:
        yield open_at_rest(control)
    except (StoreError, PopulationError) as error:
        say(f"its control stays behind: {error}")


def absolute(folder: str | Path) -> Path:
    """A folder as a user names it, as messages show it."""
    return Path(os.path.abspath(Path(folder).expanduser()))


@contextlib.contextmanager
def appearing_whole(target: Path) -> Iterator[Path]:
    """A new folder that gets its name when the block has come to its end, and else is deleted.

    Raises:
        ExportError: There is something of that name, or it cannot be written.
    """
    if os.path.lexists(target):
        raise ExportError(f"{target} exists already; name a folder that does not")
    if not target.parent.is_dir():
        raise ExportError(f"there is no folder {target.parent} to write {target.name} in")
    place = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        try:
            place.mkdir()
            yield place
            # Whoever has made a folder of that name meanwhile keeps it.
            if os.path.lexists(target):
                raise ExportError(f"{target} has appeared meanwhile; name another folder")
            place.rename(target)
        except OSError as error:
            raise ExportError(f"cannot write {target}: {error}") from error
    except BaseException:
        with one_interrupt_waits():
            shutil.rmtree(place, ignore_errors=True)
        raise


def import_population(
    folder: str | Path,
    *,
    experiment: str | None = None,
    task: str | None = None,
    quiet: bool = False,
    free: Callable[[Path], int] = free_bytes,
) -> Transferred:
    """Take a population that was exported into the tracking store in force.

    Its runs get new ids there, and everything that names them names the new ones. It is resumed,
    reported on, replayed and compared there as at home. If anything goes wrong, no run is left.

    Args:
        folder: What `export_population` wrote.
        experiment: The experiment for its runs; None for the one of the same name as at home.
        task: Where its task is here, if not where it was (see `pbt_flow.task.find_task`).
        quiet: Whether to print nothing.
        free: Returns the free bytes of the disk that a folder is on.

    Raises:
        ExportError: The folder is no export, or is damaged, or the population is here already.
        SettingsError: The population has settings that this version does not know.
        StoreError: The store cannot be used.
    """
    from pbt_flow.task.naming import name_task
    from pbt_flow.tracking.client import connect, moving, short_requests
    from pbt_flow.tracking.export_folder import check_files, read_export
    from pbt_flow.tracking.import_runs import Importer, delete_abandoned, find_present

    source = absolute(folder)
    export = read_export(source)
    progress = TransferProgress(quiet=quiet)
    with progress:
        progress.begin(f"checking {byte_count(export.size)}", export.size)
        check_files(source, export, progress.advance)
        settings = _settings_of(source, export)
        with short_requests():
            client, uri = connect()
            if left := delete_abandoned(client, uri):
                progress.say(f"deleted what {left} killed import{'s' if left > 1 else ''} left")
            present = dict[str, str]()
            wanted = []
            for population in export.populations:
                whole, earlier = find_present(client, source, export, population)
                if whole:
                    present |= _same_runs(population.run_id, population.members, whole)
                else:
                    wanted.append(population)
                if earlier and not whole:
                    progress.say(f"an earlier state of {population.name} is here as run {earlier}")
        first = export.populations[0]
        if first.run_id in present:
            raise ExportError(
                f"{first.name} is here already, with every turn of the export: run "
                f"{present[first.run_id]}"
            )
        progress.begin(f"importing {byte_count(export.size)}", export.size)
        importer = Importer(
            client=client,
            uri=uri,
            folder=source,
            export=export,
            wanted=wanted,
            present=present,
            experiment=experiment,
            task_there=settings.task,
            task=None if task is None else name_task(task),
        )
        with moving(uri, "does not take what is imported, and nothing of it is left there"):
            run_ids = importer.make(free, progress.advance)
        progress.begin("making its report anew")
        for run_id in run_ids:
            for line in _make_again(run_id):
                progress.say(line)
        for line in _differences(settings, export, task):
            progress.say(line)
    return _told(export, run_ids[0], source, uri)


def _same_runs(run_id: str, members: Sequence[str], here: str) -> dict[str, str]:
    """The runs of a population that is here, by its runs in the export."""
    from pbt_flow.tracking.store import Store

    return {run_id: here, **dict(zip(members, Store.open(here).members, strict=False))}


def _make_again(run_id: str) -> Iterator[str]:
    """Make anew what follows from the turns and names addresses; say what cannot be made."""
    from pbt_flow.commands.report import report
    from pbt_flow.commands.stored_population import StoredPopulation

    try:
        stored = StoredPopulation.open(run_id)
        stored.store.artifacts.save_view(
            stored.store.manifest.direction,
            staged=stored.settings.stage_plan is not None,
            grouped=stored.settings.has_groups,
        )
        if not stored.is_replay:
            if stored.store.outcome.result():
                stored.store.outcome.describe(stored.result())
            report(run_id)
    # The population is there; its page can be made at any time.
    except (PBTError, OSError) as error:
        yield f"no report yet: {error}; make it with python -m pbt_flow report {run_id[:12]}"


def _differences(settings: Settings, export: Export, task: str | None) -> Iterator[str]:
    """What is not here as it was there, so that a resume could come to something else."""
    place = settings.task.partition(":")[0]
    if task is None and place.endswith(".py") and not Path(place).is_file():
        yield (
            f"its task {settings.task} is not here: it can be looked at, but not resumed; delete "
            "it and import it again with --task path/to/file.py:Class"
        )
    here = _versions()
    others = [
        f"{name} {version} there and {here.get(name, 'none')} here"
        for name, version in export.versions.items()
        if here.get(name) != version
    ]
    if others:
        yield f"versions differ, and so may the digits: {', '.join(others)}"


def _versions() -> dict[str, str]:
    return {**present_versions(), "pbt-flow": __version__}


def _told(export: Export, run_id: str, folder: Path, uri: str) -> Transferred:
    return Transferred(
        run_id=run_id,
        name=export.populations[0].name,
        folder=str(folder),
        size=export.size,
        runs=sum(len(population.runs) for population in export.populations),
        tracking_uri=uri,
    )


def _settings_of(folder: Path, export: Export) -> Settings:
    """The settings of the population that was asked for.

    Raises:
        SettingsError: They are of another version.
    """
    from pbt_flow.tracking.adoption import MANIFEST
    from pbt_flow.tracking.export_folder import read_json, run_place

    name = f"{run_place(export.populations[0].run_id)}/artifacts/{MANIFEST}"
    return Settings.from_json(read_json(folder, name)["settings"])
