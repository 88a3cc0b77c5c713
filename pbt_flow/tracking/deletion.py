"""The states of a population's turns where they lie: whether one is there, and how it goes.

MLflow's own deletion says nothing of its success: in its base class it does nothing at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from pbt_flow.population.checkpoints import STATE, Folders, LocalFolders, turn_folder
from pbt_flow.population.records import Checkpoint
from pbt_flow.tracking.client import talking
from pbt_flow.utils.reasons import reason_of


@dataclass
class States:
    """The states of one population."""

    client: MlflowClient
    tracking_uri: str
    run_id: str
    """The population's run."""
    members: Sequence[str]
    """The run of each member."""
    folders: Folders
    _repositories: dict[int, Any] = field(default_factory=dict)
    _deletes: bool | None = None
    """Whether the place for artifacts deletes what it is told to; None while that is not known."""

    def has(self, checkpoint: Checkpoint) -> bool:
        """Whether a state is still there.

        Raises:
            StoreUnavailable: The place for artifacts does not answer now.
        """
        place = f"{turn_folder(checkpoint.turn)}/{STATE}"
        if isinstance(self.folders, LocalFolders):
            return (self.folders.root(checkpoint.member) / place).is_file()
        run_id = self.members[checkpoint.member]
        with talking(self.tracking_uri, self.run_id):
            listed = self.client.list_artifacts(run_id, turn_folder(checkpoint.turn))
        return place in [info.path for info in listed]

    def delete(self, checkpoint: Checkpoint) -> str | None:
        """Delete a state, if the place for artifacts can.

        Of what it lists after its first deletion we conclude whether it deletes at all. One that
        cannot is not asked again.

        Returns:
            What the user must know, once: that checkpoints stay, where and why.

        Raises:
            StoreUnavailable: The place for artifacts does not answer now.
        """
        if self._deletes is False:
            return None
        place = f"{turn_folder(checkpoint.turn)}/{STATE}"
        try:
            (self.folders.root(checkpoint.member) / place).unlink(missing_ok=True)
            why = None
        except OSError as error:
            why = str(error)
        if why is None and not isinstance(self.folders, LocalFolders):
            why = self._delete_remote(checkpoint, place)
        if why is None:
            self._deletes = True
            return None
        uri = self._repository(checkpoint.member).artifact_uri
        self._deletes = False
        return (
            f"checkpoints that nobody needs any more stay, each turn's {checkpoint.size:,} bytes, "
            f"since the place for artifacts does not delete: {uri}/{place} is still there ({why})"
        )

    def _delete_remote(self, checkpoint: Checkpoint, place: str) -> str | None:
        """Delete an artifact, and return why it is still there, if it is."""
        why = ""
        # Twice: a store may have been away for the deletion, and be back for the question.
        for _ in range(2):
            try:
                self._repository(checkpoint.member).delete_artifacts(place)
                why = "it was asked to, and said nothing"
                if self._deletes:
                    return None
            # Each kind of store has errors of its own: for a right that is missing, say.
            except Exception as error:
                why = reason_of(error, with_module=False)
            if not self.has(checkpoint):
                return None
        return why

    def _repository(self, member: int) -> Any:
        """MLflow's way to the artifacts of a member, which can delete where a client cannot."""
        if member not in self._repositories:
            with talking(self.tracking_uri, self.run_id):
                run = self.client.get_run(self.members[member])
                self._repositories[member] = get_artifact_repository(
                    run.info.artifact_uri, tracking_uri=self.tracking_uri
                )
        return self._repositories[member]
