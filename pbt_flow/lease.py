"""One controller at a time: a claim on a population's run that can be made only once.

A param of an MLflow run can be written only once, so of two controllers that claim at the same time
exactly one succeeds. A heartbeat says that the owner is alive, and a silent owner loses its claim;
one that has died on this machine loses it at once.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from pathlib import Path

from mlflow.entities import Run
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
    last, before = _owner(run)
    number = last + 1
    beat = float(run.data.tags.get("pbt.heartbeat") or 0)
    silence = time.time() - beat
    took_over = ""
    if beat:
        died = _has_died(before)
        took_over = (
            f"its last controller ({_who(before)}) "
            + ("has died" if died else f"was last heard {silence:.0f} s ago")
            + "; this one takes over"
        )
        if silence < _STALE and not died:
            raise StoreError(
                f"population {run_id} is running: its controller ({_who(before)}) was heard "
                f"{silence:.0f} s ago. Stop it first; a controller that is gone loses its claim "
                f"after {_STALE:.0f} s"
            )
    owner = f"{os.uname().nodename}:{os.getpid()}:{_birth(os.getpid())}:{uuid.uuid4().hex[:8]}"
    # First: whoever reads the param that is written next must not take silence for death.
    _beat(client, run_id)
    try:
        # A param can be written only once, so of two controllers exactly one succeeds here.
        client.log_param(run_id, f"lease/{number:04d}", owner)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        raise StoreError(f"population {run_id}: another controller has just taken it") from None
    return Lease(client, run_id, number, took_over)


def is_orphan(run: Run) -> bool:
    """Whether the controller of a run that says it is running is known to be dead."""
    return bool(run.data.tags.get("pbt.heartbeat")) and _has_died(_owner(run)[1])


def _owner(run: Run) -> tuple[int, str]:
    """The number of the newest claim on a run, and who made it; 0 and nobody if there is none."""
    number = max((int(k[6:]) for k in run.data.params if k.startswith("lease/")), default=0)
    return number, run.data.params.get(f"lease/{number:04d}", "")


def _beat(client: MlflowClient, run_id: str) -> None:
    client.set_tag(run_id, "pbt.heartbeat", f"{time.time():.1f}")


def _who(owner: str) -> str:
    return ":".join(owner.split(":")[:2]) or "unknown"


def _has_died(owner: str) -> bool:
    """Whether a controller is known to be gone: it ran where this process runs, and does no more.

    Of a process of another machine, or of another container on this one, nothing is known.
    """
    host, pid, birth, *_ = [*owner.split(":"), "", "", ""]
    here = _birth(os.getpid()).rpartition("-")[0]
    if host != os.uname().nodename or not here or birth.rpartition("-")[0] != here:
        return False
    return _birth(int(pid)) != birth


def _birth(pid: int) -> str:
    """What tells a living process from any other that has its number, or had it or will have it.

    The boot of the machine, the space that the number counts in, and the time of the start; empty
    where there is no such process, or no /proc that tells.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        # The name of the program comes second, in brackets, and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, start = fields[0], fields[19]
    return "" if state in "ZX" else f"{boot[:13]}-{space}-{start}"


class Lease:
    """The right to control a population, kept alive by a thread until it is released."""

    def __init__(self, client: MlflowClient, run_id: str, number: int, took_over: str = "") -> None:
        self.lost = False
        """Whether another controller has taken over, which this one must then not disturb."""
        self.took_over = took_over
        """From whom this one has taken over, in words; empty if it was not left by force."""
        self._client, self._run_id, self._number = client, run_id, number
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="pbt_flow-lease")
        self._thread.start()

    def _keep(self) -> None:
        while not self._released.wait(_BEAT):
            try:
                params = self._client.get_run(self._run_id).data.params
                self.lost = f"lease/{self._number + 1:04d}" in params
                if self.lost:
                    return
                _beat(self._client, self._run_id)
            except (MlflowException, OSError):
                continue  # the store is away for a moment; the next beat will tell

    def release(self) -> None:
        """Let the next controller in at once."""
        self._released.set()
        self._thread.join()
        if not self.lost:
            # A store that is away lets the next controller in when the heartbeat is old enough.
            with contextlib.suppress(MlflowException, OSError):
                self._client.set_tag(self._run_id, "pbt.heartbeat", "")
