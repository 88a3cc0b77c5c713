"""Turn folders in a remote artifact store, which is reached through MLflow."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mlflow.tracking import MlflowClient

from pbt_flow.exceptions import PATIENCE, CheckpointError, RecordError, StoreError
from pbt_flow.population.accepted import NOTHING, Accepted
from pbt_flow.population.checkpoints import (
    file_digest,
    last_with_record,
    read_record,
    save_record,
    state_place,
)
from pbt_flow.population.reach import Token
from pbt_flow.population.records import Checkpoint, Turn
from pbt_flow.population.turn_files import (
    ERROR,
    OUTPUT,
    RECORD,
    Attempt,
    attempts_with_record,
    file_name,
    file_place,
    turn_folder,
)
from pbt_flow.tracking.client import artifacts_at, downloads_through_server, is_away
from pbt_flow.tracking.drivers import is_store_error, store_message
from pbt_flow.tracking.remote_reach import (
    is_loopback,
    leave_token_on,
    prove_store_is_shared,
    remove_token_of,
)

_ASKED_ONCE = ContextVar("asked_once", default=False)


@contextlib.contextmanager
def asked_once() -> Iterator[None]:
    """Let this thread ask a store that does not answer only once, as where a user wants an end."""
    token = _ASKED_ONCE.set(True)
    try:
        yield
    finally:
        _ASKED_ONCE.reset(token)


@dataclass(frozen=True)
class RemoteFolders:
    """Turn folders in a remote artifact store, with a cache on this machine."""

    tracking_uri: str
    run_ids: Mapping[int, str]
    """The run of each member."""
    cache: str
    """A folder of this machine, for what is written here before it is published, and for downloads.
    """
    token: Token | None = None
    """By which a worker knows that it reaches the same store as the controller."""
    places: Mapping[int, str] = field(default_factory=dict)
    """The artifact URI of each member's run, as far as it is known; others are asked for."""
    patience: ClassVar[float] = PATIENCE

    def elsewhere(self, cache: str) -> RemoteFolders:
        return replace(self, cache=cache)

    def root(self, member: int) -> Path:
        return Path(self.cache, str(member))

    def fetch(self, checkpoint: Checkpoint) -> Path:
        root = self.root(checkpoint.member)
        place = state_place(checkpoint)
        # A download that was cut short by a kill never gets the name; a disk may still lie.
        if not (root / place).is_file() or file_digest(root / place) != checkpoint.digest:
            self._download(checkpoint.member, place)
        return root

    def publish(self, member: int, turn: int, file: str) -> None:
        folder = turn_folder(turn)
        path = str(self.root(member) / folder / file)

        def upload(client: MlflowClient) -> None:
            self._artifacts(client, member).log_artifact(path, folder)

        _ask_patiently(upload, self.tracking_uri)

    def commit(self, turn: Turn, output: str = "") -> None:
        save_record(turn, self.root(turn.member), output)
        # The record comes last: once it is there, the turn has happened.
        for kind, text in ((ERROR, turn.error), (OUTPUT, output), (RECORD, "always")):
            if text.strip():
                self.publish(turn.member, turn.number, file_name(kind, turn.plan.attempt))

    def forget(self, checkpoint: Checkpoint) -> None:
        folder = self.root(checkpoint.member) / turn_folder(checkpoint.turn)
        shutil.rmtree(folder, ignore_errors=True)

    def leave_token(self) -> RemoteFolders:
        token = leave_token_on(self._token_run, partial(_ask_patiently, uri=self.tracking_uri))
        return replace(self, token=token)

    def remove_token(self) -> None:
        if self.token is not None:
            remove_token_of(self._token_run, self.token, self.tracking_uri)

    def prove_reach(self, patience: float) -> None:
        if self.token is not None:
            if self.token.is_elsewhere and is_loopback(self.tracking_uri):
                patience = 0.0  # No wait brings another machine's server to this one's loopback.
            ask = partial(_ask_patiently, uri=self.tracking_uri, patience=patience)
            prove_store_is_shared(self._token_run, self.token, self.tracking_uri, ask)

    @property
    def _token_run(self) -> str:
        return self.run_ids[min(self.run_ids)]

    def record(
        self,
        member: int,
        turn: int,
        accepted: Accepted = NOTHING,
        attempt: Attempt | None = None,
    ) -> Turn | None:
        is_named = attempt is not None
        attempt = attempt or self._chosen(member, turn, accepted)
        if attempt is None:
            return None
        place = file_place(RECORD, turn, attempt)
        try:
            self._download(member, place)
        except CheckpointError:
            if is_named:
                return None
            raise
        try:
            text = (self.root(member) / place).read_text("utf-8")
            return read_record(text, member, turn, attempt)
        except (RecordError, UnicodeDecodeError) as error:
            raise RecordError(f"run {self.run_ids[member]}, {place}: {error}") from None

    def last(self, member: int, accepted: Accepted = NOTHING, known: int = 0) -> int:
        return last_with_record(
            self._list(member, "turns"),
            lambda turn: turn == known or self._chosen(member, turn, accepted) is not None,
        )

    def _chosen(self, member: int, turn: int, accepted: Accepted) -> Attempt | None:
        """Return the attempt of a turn whose record counts; None if the turn has not happened."""
        places = self._list(member, turn_folder(turn))
        names = [place.rpartition("/")[2] for place in places]
        return accepted.choose(member, turn, attempts_with_record(names))

    def _artifacts(self, client: MlflowClient, member: int) -> Any:
        """MLflow's access to the artifacts of a member."""
        place = self.places.get(member)
        if place is None:
            place = client.get_run(self.run_ids[member]).info.artifact_uri
        return artifacts_at(place, self.tracking_uri)

    def _list(self, member: int, folder: str) -> list[str]:
        def list_folder(client: MlflowClient) -> list[str]:
            return [info.path for info in self._artifacts(client, member).list_artifacts(folder)]

        found: list[str] = _ask_patiently(list_folder, self.tracking_uri)
        return found

    def _download(self, member: int, place: str) -> None:
        path = self.root(member) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two workers may download the same donor's state at once, so each does it in a folder of
        # its own and then renames the file.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:

            def download(client: MlflowClient) -> str:
                artifacts = self._artifacts(client, member)
                try:
                    with downloads_through_server():
                        return str(artifacts.download_artifacts(place, folder))
                except Exception as error:
                    if not is_store_error(error):
                        raise
                    # MLflow raises the same for a missing file and for a store that is away.
                    listed = artifacts.list_artifacts(os.path.dirname(place))
                    if place in [info.path for info in listed]:
                        raise
                raise CheckpointError(f"run {self.run_ids[member]} has no artifact {place}")

            os.replace(_ask_patiently(download, self.tracking_uri), path)


def _ask_patiently(ask: Callable[[MlflowClient], Any], uri: str, patience: float = PATIENCE) -> Any:
    """Ask the artifact store for something, again and again while it does not answer.

    Without its artifacts a turn has not happened, and a turn that has been trained is worth the
    wait.

    Args:
        ask: What is asked.
        uri: The URI of the tracking store.
        patience: Seconds for which the store may be silent.

    Raises:
        StoreError: The store refuses, or has not answered for too long.
    """
    pause, deadline = 1.0, time.monotonic() + patience
    while True:
        try:
            return ask(MlflowClient(uri))
        except Exception as error:
            if not is_store_error(error):
                raise
            if not is_away(error) or _ASKED_ONCE.get() or time.monotonic() > deadline:
                raise StoreError(store_message(error)) from error
        time.sleep(pause)
        pause = min(2 * pause, 30.0)
