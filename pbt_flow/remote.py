"""Turn folders in a remote artifact store, reached through MLflow."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.tracking import MlflowClient

from pbt_flow.checkpoints import (
    RECORD,
    STATE,
    file_digest,
    read_record,
    save_record,
    turn_folder,
)
from pbt_flow.member import Checkpoint, RecordError, Turn


@dataclass(frozen=True)
class RemoteFolders:
    """Turn folders in a remote artifact store, with a cache on this machine."""

    tracking_uri: str
    run_ids: Mapping[int, str]
    cache: str

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
        client = MlflowClient(self.tracking_uri)
        client.log_artifact(self.run_ids[member], str(self.root(member) / folder / file), folder)

    def commit(self, turn: Turn) -> None:
        save_record(turn, self.root(turn.member))
        self.publish(turn.member, turn.number, RECORD)

    def record(self, member: int, turn: int) -> Turn | None:
        place = f"{turn_folder(turn)}/{RECORD}"
        client = MlflowClient(self.tracking_uri)
        listed = client.list_artifacts(self.run_ids[member], turn_folder(turn))
        if place not in [info.path for info in listed]:
            return None
        self._download(member, place)
        try:
            return read_record((self.root(member) / place).read_text("utf-8"), member, turn)
        except (RecordError, UnicodeDecodeError) as error:
            raise RecordError(f"run {self.run_ids[member]}, {place}: {error}") from None

    def _download(self, member: int, place: str) -> None:
        path = self.root(member) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(self.tracking_uri)
        # Into a folder of its own first: two workers may want the same donor at once.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            os.replace(client.download_artifacts(self.run_ids[member], place, folder), path)
