"""The store: one population in MLflow, where its members live between turns.

The population is a parent run, and each member is a child run of it. What never changes is a param
(`cfg/...`, `init/...`), and what changes is a metric (`score`, `hparam/<name>`, `donor`, `step`).
The artifact `population.json` of the parent run holds what a resume needs.

The record of a turn is an artifact in `turns/NNNNNN` of its member's run. The metrics are derived
from the records and have their times, so logging a turn twice changes nothing.

Everything goes through `MlflowClient` with explicit run ids: MLflow's active run is global to the
process, and it belongs to the user.
"""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Metric, Run, RunTag
from mlflow.tracking import MlflowClient

from pbt_flow.exceptions import StoreError
from pbt_flow.population.accepted import Accepted
from pbt_flow.population.checkpoints import Folders, LocalFolders
from pbt_flow.population.records import Checkpoint, Turn
from pbt_flow.population.turn_files import Attempt
from pbt_flow.space import Space, space_from_json
from pbt_flow.tracking.adoption import MANIFEST
from pbt_flow.tracking.artifacts import Artifacts
from pbt_flow.tracking.catalogue import find_run, runs_of_members
from pbt_flow.tracking.client import (
    behind_server,
    connect_to_present,
    local_path,
    needs_server,
    read_text,
    requests_at_once,
)
from pbt_flow.tracking.create import (
    Manifest,
    create_population,
    lacks_params,
    member_params,
)
from pbt_flow.tracking.deletion import StoredStates
from pbt_flow.tracking.drivers import is_store_error, store_message
from pbt_flow.tracking.founding import founding_sentence, founding_state
from pbt_flow.tracking.journal import Journal, Seal
from pbt_flow.tracking.lease import Lease, claim, newest_claim
from pbt_flow.tracking.metric_names import MetricNames
from pbt_flow.tracking.outcome import Outcome
from pbt_flow.tracking.population_runs import LEFT, MAX_TAG_LENGTH, PopulationRuns
from pbt_flow.tracking.remote_checkpoints import RemoteFolders
from pbt_flow.tracking.saved_view import view_address
from pbt_flow.tracking.turn_metrics import metrics_of, tags_of
from pbt_flow.tracking.turn_reading import TurnReader, missing_record
from pbt_flow.utils.at_once import call_at_once
from pbt_flow.utils.collection import collection_paused
from pbt_flow.utils.passwords import hide_password
from pbt_flow.utils.scratch import new_temporary_folder

CHANGED = "pbt.settings"
"""The tag with the settings that resumes have changed, as JSON; the manifest never changes."""
_MOST_METRICS = 1000
"""The most metrics of one request; MLflow refuses more."""


@dataclass(kw_only=True)
class Store(PopulationRuns):
    """One population in MLflow, as its controller sees it: its runs, and the turns in them."""

    manifest: Manifest
    space: Space
    folders: Folders
    charts: str
    """The part of the saved view's address that follows the address of the MLflow UI."""
    states: StoredStates
    """The states of the checkpoints, in their storage."""
    unfounded: Sequence[int] = ()
    """The members whose runs did not have their params when the population was made or opened."""
    names: MetricNames = field(default_factory=MetricNames)
    """The names of the task's metrics in MLflow."""
    not_in_journal: list[Turn] = field(default_factory=list)
    """The turns of the last `read_turns` that had to be read from their records."""
    _accepted: Accepted | None = None
    """The newest list of accepted turns; None as long as it was not read."""

    def __post_init__(self) -> None:
        self.names.reserve("winner/score", "winner/fresh_score", "best_initial/score")
        for one in ("average", "own_average"):
            self.names.reserve(f"{one}/score", f"{one}/fresh_score")

    @property
    def outcome(self) -> Outcome:
        """The outcome of the population on its run."""
        return Outcome(runs=self, names=self.names)

    @property
    def artifacts(self) -> Artifacts:
        """The artifacts of the population's run that people look at."""
        return Artifacts(runs=self, space=self.space)

    # --- making and finding populations -----------------------------------------------------------

    @classmethod
    def create(
        cls,
        client: MlflowClient,
        uri: str,
        plan: Manifest,
        *,
        tags: Mapping[str, str],
        groups: Sequence[int] = (),
    ) -> Store:
        """Make the runs of a new population (see `create_population`).

        If `mlflow run` made a run for this process, that one becomes the population's run.
        Otherwise a new run is made, as a child of the run that is active in this process, if any.

        Raises:
            StoreError: The tracking store cannot be used.
        """
        members, manifest = create_population(client, uri, plan, tags=tags, groups=groups)
        run_id = members[0].data.tags["mlflow.parentRunId"]
        space = space_from_json(manifest.space)
        return cls._with_folders(client, uri, run_id, manifest, space, members)

    @classmethod
    def open(cls, run_id: str) -> Store:
        """Open a population by its run id, the unique beginning of it, or the word `last`.

        Raises:
            StoreError: There is no such run, or it is not a population.
        """
        client, uri = connect_to_present(f"no run {run_id}")
        run = find_run(client, uri, run_id)
        run_id = run.info.run_id
        try:
            manifest = Manifest(**json.loads(read_text(client, run_id, MANIFEST)))
        except (ValueError, TypeError) as error:
            if (state := founding_state(client, run)) is not None:
                raise StoreError(founding_sentence(run_id, state)) from None
            raise StoreError(f"run {run_id}: {MANIFEST} is not readable: {error}") from None
        except Exception as error:
            if not is_store_error(error):
                raise
            raise _without_manifest(client, run, uri, error) from None
        members = _runs_of(client, uri, run, manifest)
        space = space_from_json(manifest.space)
        return cls._with_folders(client, uri, run_id, manifest, space, members)

    @classmethod
    def _with_folders(
        cls,
        client: MlflowClient,
        uri: str,
        run_id: str,
        manifest: Manifest,
        space: Space,
        members: Sequence[Run],
    ) -> Store:
        places = {index: run.info.artifact_uri for index, run in enumerate(members)}
        found = {index: local_path(place) for index, place in places.items()}
        local = {index: place for index, place in found.items() if place is not None}
        folders: Folders = LocalFolders(local)
        if len(local) < len(places):
            ids = {index: run.info.run_id for index, run in enumerate(members)}
            cache = new_temporary_folder()
            folders = RemoteFolders(uri, ids, cache, places=places)
        charts = view_address(members[0].info.experiment_id, run_id)
        states = StoredStates(client, uri, run_id, manifest.members, folders, places)
        store = cls(
            client=client,
            tracking_uri=uri,
            run_id=run_id,
            members=manifest.members,
            manifest=manifest,
            space=space,
            folders=folders,
            charts=charts,
            states=states,
            unfounded=[index for index, run in enumerate(members) if lacks_params(run)],
            said_to_have_left={i for i, run in enumerate(members) if run.data.tags.get(LEFT)},
        )
        if isinstance(folders, RemoteFolders):
            # Once nobody holds the store, nobody can ask for the downloaded checkpoints.
            weakref.finalize(store, shutil.rmtree, folders.cache, ignore_errors=True)
        return store

    # --- turns ------------------------------------------------------------------------------------

    def log_founder(self, member: int) -> None:
        """Log what a member began with on its run. Doing it twice changes nothing."""
        params = member_params(self.manifest.initial[member], self.space)
        with self.talk():
            self.client.log_batch(self.members[member], params=params)

    def log_turns(self, turns: Sequence[Turn]) -> str | None:
        """Log committed turns of one member with its run. Doing it twice changes nothing.

        Threads may call it at once.

        Returns:
            A message for the user, once, if metrics have other names in MLflow. Otherwise None.
        """
        for metrics, tags in self._batches(turns):
            with self.talk():
                self.client.log_batch(self.members[turns[0].member], metrics=metrics, tags=tags)
        return self.names.news()

    def _batches(self, turns: Sequence[Turn]) -> Iterator[tuple[list[Metric], list[RunTag]]]:
        """Metrics and tags of turns, as few requests as MLflow's limit of a request allows."""
        metrics, last = list[Metric](), dict[str, str]()
        for turn in turns:
            own = metrics_of(turn, self.space, self.names)
            if metrics and len(metrics) + len(own) > _MOST_METRICS:
                yield metrics, [RunTag(key, text) for key, text in last.items()]
                metrics, last = [], {}
            metrics += own
            # A tag takes as long as all metrics together, so a turn without events has none.
            last |= tags_of(turn)
        yield metrics, [RunTag(key, text) for key, text in last.items()]

    def log_population(self, metrics: Mapping[str, float], step: int, when: float) -> None:
        """Log metrics of the whole population with the population's run."""
        milliseconds = int(when * 1000)
        batch = [Metric(key, float(value), milliseconds, step) for key, value in metrics.items()]
        with self.talk():
            self.client.log_batch(self.run_id, metrics=batch)

    @property
    def accepted(self) -> Accepted:
        """What the controller of the newest claim accepted of earlier ones, read once."""
        if self._accepted is None:
            self._accepted = self.artifacts.accepted()
        return self._accepted

    def look_for_claims(self) -> None:
        """Read again, before the turns are, what the controller of the newest claim accepted."""
        self._accepted = self.artifacts.accepted()

    def accept(self, claim: int, turns: Mapping[int, Sequence[Turn]]) -> None:
        """Write down, before the first turn of a claim is given out, what its controller has found.

        From then on no other record of an earlier claim counts, whenever it is written.

        Args:
            claim: The number of the claim.
            turns: Of each member the turns that have happened, in order.

        Raises:
            StoreError: It cannot be written.
        """
        self._accepted = Accepted.found(claim, turns)
        self.artifacts.keep_accepted(self._accepted)

    @property
    def journal(self) -> Journal:
        """The journal of the population's turns."""
        return Journal(runs=self)

    @property
    def reader(self) -> TurnReader:
        """What reads the turns from the journal and from their records."""
        return TurnReader(runs=self, space=self.space, folders=self.folders, accepted=self.accepted)

    def read_turns(self, say: Callable[[str], None]) -> dict[int, list[Turn]]:
        """Return the committed turns of each member, in order, from the journal and the records.

        Afterwards `not_in_journal` has those that the journal lacks.

        Args:
            say: Tells the user what in the journal is not believed.

        Raises:
            RecordError: A record cannot be trusted, or one is missing between others.
        """
        # Of the hundreds of thousands of objects of a large record none is garbage.
        with collection_paused():
            turns, self.not_in_journal = self.reader.read(self.journal.read(), say)
        return turns

    def record(self, member: int, number: int) -> Turn | None:
        """Return a committed turn of a member, with the values of the space; None if there is none.

        Raises:
            RecordError: The record cannot be trusted.
        """
        return self.reader.record(member, number)

    def log_records(self, turns: Sequence[Turn]) -> None:
        """Write turns into the journal, whose records are there. Doing it twice changes nothing."""
        self.journal.add(turns)

    def seal_journal(self, claim: int, turns: int) -> None:
        """Say that the journal has all turns, once it does and nobody trains any more.

        Args:
            claim: The number of the controller's claim.
            turns: How many turns there are.
        """
        seal = Seal(claim=claim, turns=turns, digest=self.journal.digest())
        self.tag(seal.to_tag())

    def turns_logged(self) -> dict[int, int]:
        """Return how many turns of each member MLflow has been told of, with one request."""
        with self.talk():
            runs = runs_of_members(self.client, self.client.get_run(self.run_id))
        return {int(r.data.tags["pbt.member"]): int(r.data.metrics.get("turn", 0)) for r in runs}

    def projected(self, turns: Mapping[int, Sequence[Turn]]) -> dict[int, int]:
        """Return how many of each member's turns are certainly logged with its run.

        Args:
            turns: Of each member all turns that have a record.

        Raises:
            RecordError: A run has the metrics of a turn whose record does not exist.
        """
        with self.talk():
            parent = self.client.get_run(self.run_id)
            runs = _runs_of(self.client, self.tracking_uri, parent, self.manifest)
        return {member: self._projected(member, own, runs[member]) for member, own in turns.items()}

    def _projected(self, member: int, turns: Sequence[Turn], run: Run) -> int:
        """Return how many of a member's turns are certainly logged with its run, as it is now."""
        data = run.data
        logged, committed = int(data.metrics.get("turn", 0)), len(turns)
        # A controller that did not know yet that another one had taken over may have logged a turn
        # that does not count. Its record is still there.
        if logged > committed and self.folders.record(member, committed + 1) is None:
            why = f"MLflow has the metrics of turn {logged}"
            raise missing_record(self.members[member], committed + 1, why)
        # The tags of turns are logged after their metrics, and so some may be missing.
        wanted: dict[str, tuple[str, int]] = {}
        for place, turn in enumerate(turns[:logged]):
            wanted |= {key: (text, place) for key, text in tags_of(turn).items()}
        missing = [place for key, (text, place) in wanted.items() if data.tags.get(key) != text]
        return min([*missing, max(0, min(logged - 1, committed))])

    @property
    def sees_states(self) -> bool:
        """Whether a look at a state is one at a disk, and not several requests."""
        return isinstance(self.folders, LocalFolders)

    def have_states(self, checkpoints: Sequence[Checkpoint]) -> list[bool]:
        """Of each of some turns' states whether it still exists."""
        at_once = 1 if self.sees_states else self.requests_at_once
        return call_at_once(self.states.has, checkpoints, at_once)

    def delete_checkpoint(self, checkpoint: Checkpoint) -> str | None:
        """Delete the state of a turn, if the artifact store can. The record stays for ever.

        Returns:
            A message for the user, once, if checkpoints stay: where and why. Otherwise None.

        Raises:
            StoreUnavailable: The artifact store does not answer now.
        """
        return self.states.delete(checkpoint)

    def discard_attempts(
        self, turns: Mapping[tuple[int, int], Attempt | None], *, claim: int
    ) -> None:
        """Delete what attempts at some turns have left that do not count (see `StoredStates`).

        A controller that has lost the population must not do so: its successor may have accepted
        another attempt. One that claims after this look finds the attempts that are kept here, or
        the list of what this claim has accepted, and takes the same.

        Args:
            turns: By member and number of the turn the attempt that counts; None if none does.
            claim: The number of the controller's claim.

        Raises:
            StoreUnavailable: The artifact store does not answer now.
        """
        with self.talk():
            run = self.client.get_run(self.run_id)
        if newest_claim(run)[0] > claim:
            return

        def discard(turn: tuple[tuple[int, int], Attempt | None]) -> None:
            (member, number), kept = turn
            self.states.discard_attempts(member, number, kept=kept, claim=claim)

        call_at_once(discard, turns.items(), self.requests_at_once)

    # --- settings and claim -----------------------------------------------------------------------

    def changed(self) -> dict[str, Any]:
        """Return the settings that resumes have changed.

        Raises:
            StoreError: The tag is not what `change` wrote.
        """
        text = self.tags().get(CHANGED, "{}")
        try:
            return dict(json.loads(text))
        except (ValueError, TypeError):
            raise StoreError(f"run {self.run_id}: the tag {CHANGED} is no JSON object") from None

    def change(self, settings: Mapping[str, Any], *, began: Mapping[str, Any]) -> None:
        """Note the settings that differ from those that the population began with.

        An option that the population began with cannot change. Options that it has no record of,
        because the task got them since, are noted as well.

        Args:
            settings: The settings now.
            began: The settings at the beginning, with defaults for those that did not exist then.
        """
        new: dict[str, Any] = {}
        for name, value in settings.items():
            if name != "options" and value != began.get(name):
                new[name] = value
        options: dict[str, Any] = {}
        for name, value in settings["options"].items():
            if name not in began["options"]:
                options[name] = value
        # A long option may not fit into the tag; the changed settings must.
        if options and len(json.dumps(new | {"options": options})) <= MAX_TAG_LENGTH:
            new["options"] = options
        if new != self.changed():
            self.tag({CHANGED: json.dumps(new)})

    def claim(self, say: Callable[[str], None] = lambda text: None) -> Lease:
        """Become the population's only controller.

        Args:
            say: Tells the user that another controller is being watched.

        Raises:
            StoreError: Another controller is alive, or was faster.
        """
        with self.talk():
            return claim(self.client, self.run_id, say=say)


def _runs_of(client: MlflowClient, uri: str, parent: Run, manifest: Manifest) -> list[Run]:
    """Return the members' runs as they are now, with few requests, in the order of the members."""
    found = {run.info.run_id: run for run in runs_of_members(client, parent)}
    # One that somebody has deleted, or taken a tag from, is not found by its tags.
    lacking = [run_id for run_id in manifest.members if run_id not in found]
    for run in call_at_once(client.get_run, lacking, requests_at_once(uri)):
        found[run.info.run_id] = run
    return [found[run_id] for run_id in manifest.members]


def _without_manifest(client: MlflowClient, run: Run, uri: str, error: Exception) -> StoreError:
    """Return the error for a run whose manifest cannot be read: it has none, or cannot be reached.

    Args:
        client: Talks to the tracking store.
        run: The run.
        uri: The URI of the tracking store.
        error: What reading the manifest raised.
    """
    run_id, listed = run.info.run_id, [MANIFEST]
    if needs_server(run.info.artifact_uri, uri):
        return StoreError(behind_server(f"the artifacts of run {run_id}", uri))
    if (state := founding_state(client, run)) is not None:
        return StoreError(founding_sentence(run_id, state))
    try:
        listed = [file.path for file in client.list_artifacts(run_id)]
    except Exception as list_error:
        # MLflow's error for a download says only that it failed; this one says why.
        error = list_error
    if MANIFEST in listed:
        place = hide_password(run.info.artifact_uri)
        return StoreError(
            f"run {run_id}: cannot read {MANIFEST} at {place}: {store_message(error)}"
        )
    return StoreError(
        f"run {run_id} at {hide_password(uri)} is no population: it has no artifact {MANIFEST}"
    )
