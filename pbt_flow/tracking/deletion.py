"""The states of a population's turns in their storage: whether a state exists, and its deletion.

MLflow's deletion of artifacts does not say whether it succeeded. For some artifact stores it does
nothing at all, so the store is asked afterwards what it still has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from pbt_flow.population.checkpoints import Folders, LocalFolders, state_place
from pbt_flow.population.records import Checkpoint
from pbt_flow.population.turn_files import (
    RECORD,
    Attempt,
    file_name,
    owner_of,
    read_name,
    turn_folder,
)
from pbt_flow.tracking.catalogue import runs_below
from pbt_flow.tracking.client import talking
from pbt_flow.tracking.founding import delete_whole_place
from pbt_flow.tracking.saved_view import view_tag
from pbt_flow.utils.reasons import reason_of


def registered_versions(client: MlflowClient, run_id: str) -> dict[str, str]:
    """The versions of registered models that come from a population, by the id of each's model."""
    own = client.get_run(run_id)
    ids = [run.info.run_id for run in (own, *runs_below(client, own))]
    found = dict[str, str]()
    for first in range(0, len(ids), _AT_ONCE):
        named = ", ".join(f"'{one}'" for one in ids[first : first + _AT_ONCE])
        for version in client.search_model_versions(f"run_id IN ({named})"):
            # A database of MLflow's has the model's id in the source alone, as `models:/m-...`.
            model_id = version.model_id or (version.source or "").rpartition("/")[2]
            found[model_id] = f"{version.name} version {version.version}"
    return found


def delete_runs(client: MlflowClient, uri: str, run_id: str) -> None:
    """Delete a population's run and all runs below it, with their artifacts, and its saved view.

    Models that the runs have logged go as well, unless they are versions of registered models.
    The population's own run goes last: where this is cut short, it can be begun again.
    """
    parent, kept = client.get_run(run_id), registered_versions(client, run_id)
    for run in [*runs_below(client, parent), parent]:
        _delete_models(client, uri, run, kept)
        if run is not parent:
            delete_whole_place(uri, run.info.artifact_uri)
            client.delete_run(run.info.run_id)
    experiment = client.get_experiment(parent.info.experiment_id)
    if view_tag(run_id) in experiment.tags:
        client.delete_experiment_tag(experiment.experiment_id, view_tag(run_id))
    client.delete_run(run_id)
    delete_whole_place(uri, parent.info.artifact_uri)


def _delete_models(client: MlflowClient, uri: str, run: Run, kept: Collection[str]) -> None:
    """Delete the models that a run has logged, but for those that are registered."""
    found = client.search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'"
    )
    for model in found:
        if model.model_id not in kept:
            delete_whole_place(uri, model.artifact_location)
            client.delete_logged_model(model.model_id)


_AT_ONCE = 50
"""Runs that the registry is asked about at once."""


@dataclass
class StoredStates:
    """The states of one population's turns in their storage."""

    client: MlflowClient
    tracking_uri: str
    run_id: str
    """The population's run."""
    members: Sequence[str]
    """The run of each member."""
    folders: Folders
    _repositories: dict[int, Any] = field(default_factory=dict)
    """MLflow's access to the artifacts of each member, as far as it was needed."""
    _can_delete: bool | None = None
    """Whether the artifact store deletes what it is asked to; None as long as it is not known."""

    def has(self, checkpoint: Checkpoint) -> bool:
        """Whether a state still exists.

        Raises:
            StoreUnavailable: The artifact store does not answer now.
        """
        place = state_place(checkpoint)
        if isinstance(self.folders, LocalFolders):
            return (self.folders.root(checkpoint.member) / place).is_file()
        run_id = self.members[checkpoint.member]
        with talking(self.tracking_uri, self.run_id):
            listed = self.client.list_artifacts(run_id, turn_folder(checkpoint.turn))
        return place in [info.path for info in listed]

    def delete(self, checkpoint: Checkpoint) -> str | None:
        """Delete a state, if the artifact store can delete.

        After the first deletion, the list of what the store still has tells whether it can. A store
        that cannot is not asked again.

        Returns:
            A message for the user, once, if checkpoints stay: where and why. Otherwise None.

        Raises:
            StoreUnavailable: The artifact store does not answer now.
        """
        if self._can_delete is False:
            return None
        place = state_place(checkpoint)
        # Either the state itself, or the copy of a remote one on this machine.
        try:
            (self.folders.root(checkpoint.member) / place).unlink(missing_ok=True)
            why = None
        except OSError as error:
            why = str(error)
        if why is None and not isinstance(self.folders, LocalFolders):
            why = self._delete_remote(checkpoint, place)
        if why is None:
            self._can_delete = True
            return None
        uri = self._repository(checkpoint.member).artifact_uri
        self._can_delete = False
        return (
            "checkpoints that nobody needs any more are kept "
            f"({checkpoint.size:,} bytes for each turn), since the artifact store does not "
            f"delete: {uri}/{place} still exists ({why})"
        )

    def discard_attempts(self, member: int, turn: int, *, kept: Attempt | None, claim: int) -> None:
        """Delete what the attempts at a turn have left that do not count.

        It is done as well as it can be: what stays only takes room.

        Args:
            member: The member.
            turn: The number of the turn among the member's turns.
            kept: The attempt that counts; None if the turn has not happened. Records then stay, as
                witnesses that nobody has deleted what MLflow may have been told.
            claim: The number of the newest claim whose attempts are over. Those of later claims are
                left alone.

        Raises:
            StoreUnavailable: The artifact store does not answer now.
        """

        def is_left_over(name: str) -> bool:
            attempt = owner_of(name)
            if attempt is None or attempt.claim > claim:
                return False
            if attempt == kept:
                # A worker that was killed as it gave a file its name has left the other one.
                return read_name(name) is None
            return kept is not None or name != file_name(RECORD, attempt)

        folder = self.folders.root(member) / turn_folder(turn)
        with contextlib.suppress(OSError):
            for path in list(folder.iterdir()):
                if is_left_over(path.name):
                    path.unlink(missing_ok=True)
        if isinstance(self.folders, LocalFolders) or self._can_delete is False:
            return
        with talking(self.tracking_uri, self.run_id):
            listed = self.client.list_artifacts(self.members[member], turn_folder(turn))
        for info in listed:
            if is_left_over(info.path.rpartition("/")[2]):
                # Each kind of store raises errors of its own, as for a permission that is missing.
                with contextlib.suppress(Exception):
                    self._repository(member).delete_artifacts(info.path)

    def _delete_remote(self, checkpoint: Checkpoint, place: str) -> str | None:
        """Delete an artifact. Return why it still exists, or None if it does not."""
        why = ""
        # The store may be away during the deletion and back when it is asked what it still has. The
        # state would then seem to stay, so the deletion is tried twice.
        for _ in range(2):
            try:
                self._repository(checkpoint.member).delete_artifacts(place)
                why = "it was asked to, and gave no error"
                if self._can_delete:
                    return None
            # Each kind of store raises errors of its own, as for a permission that is missing.
            except Exception as error:
                why = reason_of(error, with_module=False)
            if not self.has(checkpoint):
                return None
        return why

    def _repository(self, member: int) -> Any:
        """Return MLflow's access to a member's artifacts: it can delete, and a client cannot."""
        if member not in self._repositories:
            with talking(self.tracking_uri, self.run_id):
                run = self.client.get_run(self.members[member])
                self._repositories[member] = get_artifact_repository(
                    run.info.artifact_uri, tracking_uri=self.tracking_uri
                )
        return self._repositories[member]
