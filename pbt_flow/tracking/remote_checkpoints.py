"""Turn folders in a remote artifact store, reached through MLflow."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from pbt_flow.exceptions import PATIENCE, CheckpointError, RecordError, StoreError
from pbt_flow.population.checkpoints import (
    ERROR,
    OUTPUT,
    RECORD,
    STATE,
    file_digest,
    read_record,
    save_record,
    turn_folder,
)
from pbt_flow.population.records import Checkpoint, Turn
from pbt_flow.tracking.client import is_away
from pbt_flow.tracking.drivers import is_of_a_store, says


@dataclass(frozen=True)
class RemoteFolders:
    """Turn folders in a remote artifact store, with a cache on this machine."""

    tracking_uri: str
    run_ids: Mapping[int, str]
    cache: str
    patience: ClassVar[float] = PATIENCE

    def root(self, member: int) -> Path:
        return Path(self.cache, str(member))

    def fetch(self, checkpoint: Checkpoint) -> Path:
        root = self.root(checkpoint.member)
        place = f"{turn_folder(checkpoint.turn)}/{STATE}"
        if not (root / place).is_file() or file_digest(root / place) != checkpoint.digest:
            self._download(checkpoint.member, place)
        return root

    def publish(self, member: int, turn: int, file: str) -> None:
        folder = turn_folder(turn)
        path = str(self.root(member) / folder / file)
        _patiently(lambda c: c.log_artifact(self.run_ids[member], path, folder), self.tracking_uri)

    def commit(self, turn: Turn, output: str = "") -> None:
        save_record(turn, self.root(turn.member), output)
        if turn.checkpoint is None:
            self._discard_state(turn.member, turn_folder(turn.number))
        for file in [ERROR] * bool(turn.error) + [OUTPUT] * bool(output.strip()):
            self.publish(turn.member, turn.number, file)
        self.publish(turn.member, turn.number, RECORD)

    def record(self, member: int, turn: int) -> Turn | None:
        place = f"{turn_folder(turn)}/{RECORD}"
        if place not in self._list(member, turn_folder(turn)):
            return None
        self._download(member, place)
        try:
            return read_record((self.root(member) / place).read_text("utf-8"), member, turn)
        except (RecordError, UnicodeDecodeError) as error:
            raise RecordError(f"run {self.run_ids[member]}, {place}: {error}") from None

    def last(self, member: int) -> int:
        # The newest folder may be that of a turn under way.
        for folder in sorted(self._list(member, "turns"), reverse=True):
            if f"{folder}/{RECORD}" in self._list(member, folder):
                return int(folder.rpartition("/")[2])
        return 0

    def _list(self, member: int, folder: str) -> list[str]:
        run_id = self.run_ids[member]
        listed = _patiently(lambda c: c.list_artifacts(run_id, folder), self.tracking_uri)
        return [info.path for info in listed]

    def _discard_state(self, member: int, folder: str) -> None:
        """Delete what an attempt that was killed may have published, if the store can delete."""
        place, run_id = f"{folder}/{STATE}", self.run_ids[member]
        if place in self._list(member, folder):
            uri = MlflowClient(self.tracking_uri).get_run(run_id).info.artifact_uri
            # No record refers to it: what cannot be deleted takes room, and does no other harm.
            with contextlib.suppress(Exception):
                repository: Any = get_artifact_repository(uri, tracking_uri=self.tracking_uri)
                repository.delete_artifacts(place)

    def _download(self, member: int, place: str) -> None:
        path = self.root(member) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        run_id = self.run_ids[member]
        # Into a folder of its own first: two workers may want the same donor at once.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:

            def download(client: MlflowClient) -> str:
                # A missing file must be told from a silent store: a download calls both an error.
                listed = client.list_artifacts(run_id, os.path.dirname(place))
                if place not in [info.path for info in listed]:
                    raise CheckpointError(f"run {run_id} has no artifact {place}")
                return client.download_artifacts(run_id, place, folder)

            os.replace(_patiently(download, self.tracking_uri), path)


def _patiently(ask: Callable[[MlflowClient], Any], tracking_uri: str) -> Any:
    """Ask the artifact store for something, again and again while it does not answer.

    A turn that has been trained is worth waiting for: without its artifacts it has not happened.

    Raises:
        StoreError: It refuses, or did not answer for too long.
    """
    gap, given_up = 1.0, time.monotonic() + PATIENCE
    while True:
        try:
            return ask(MlflowClient(tracking_uri))
        except Exception as error:
            if not is_of_a_store(error):
                raise
            if not is_away(error) or time.monotonic() > given_up:
                raise StoreError(says(error)) from error
        time.sleep(gap)
        gap = min(2 * gap, 30.0)
