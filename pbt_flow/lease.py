"""One controller at a time: a claim on a population's run that can be made only once.

A param of an MLflow run can be written only once, so of two controllers that claim at the same time
exactly one succeeds. A heartbeat says that the owner is alive, and a silent owner loses its claim.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pbt_flow.errors import StoreError

_STALE = 60.0
_BEAT = 15.0


def claim(client: MlflowClient, run_id: str) -> Lease:
    """Become the population's only controller.

    Raises:
        StoreError: Another controller is alive, or was faster.
    """
    run = client.get_run(run_id)
    number = 1 + max((int(k[6:]) for k in run.data.params if k.startswith("lease/")), default=0)
    beat = float(run.data.tags.get("pbt.heartbeat") or 0)
    if (silence := time.time() - beat) < _STALE:
        owner = run.data.params.get(f"lease/{number - 1:04d}", "unknown")
        raise StoreError(
            f"population {run_id} is running: its controller ({owner}) was heard "
            f"{silence:.0f} s ago. Stop it first; a controller that is gone loses its claim "
            f"after {_STALE:.0f} s"
        )
    owner = f"{os.uname().nodename}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    try:
        # A param can be written only once, so of two controllers exactly one succeeds here.
        client.log_param(run_id, f"lease/{number:04d}", owner)
    except MlflowException:
        raise StoreError(f"population {run_id}: another controller has just taken it") from None
    return Lease(client, run_id, number)


class Lease:
    """The right to control a population, kept alive by a thread until it is released."""

    def __init__(self, client: MlflowClient, run_id: str, number: int) -> None:
        self.lost = False
        """Whether another controller has taken over, which this one must then not disturb."""
        self._client, self._run_id, self._number = client, run_id, number
        self._released = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="pbt_flow-lease")
        self._thread.start()

    def _keep(self) -> None:
        while not self._released.wait(_BEAT):
            try:
                params = self._client.get_run(self._run_id).data.params
                self.lost = f"lease/{self._number + 1:04d}" in params
                if self.lost:
                    return
                self._beat()
            except (MlflowException, OSError):
                continue  # the store is away for a moment; the next beat will tell

    def _beat(self) -> None:
        self._client.set_tag(self._run_id, "pbt.heartbeat", f"{time.time():.1f}")

    def release(self) -> None:
        """Let the next controller in at once."""
        self._released.set()
        self._thread.join()
        if not self.lost:
            # A store that is away lets the next controller in when the heartbeat is old enough.
            with contextlib.suppress(MlflowException, OSError):
                self._client.set_tag(self._run_id, "pbt.heartbeat", "")
