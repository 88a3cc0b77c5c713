"""One controller at a time: a claim on a population's run that can be made only once.

A param of an MLflow run can be written only once, so of two controllers that claim at the same time
exactly one succeeds. A heartbeat says that the owner is alive, and a silent owner loses its claim;
one that has died on this machine loses it at once.

The clocks of two machines are never compared: whoever wants the claim of a controller elsewhere
watches, by its own clock, whether the heartbeat still changes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pbt_flow.exceptions import StoreError

_STALE = 60.0
"""Seconds of silence after which a controller counts as gone."""
_BEAT = 15.0
"""Seconds between two heartbeats."""
_LOOK = 3.0
"""Seconds between two looks at the heartbeat of another controller."""


def claim(
    client: MlflowClient,
    run_id: str,
    *,
    say: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Lease:
    """Become the population's only controller.

    Where the last controller may be alive elsewhere, this takes a minute: it is watched first.

    Args:
        client: Talks to the tracking store.
        run_id: The population's run.
        say: Tells the user that another controller is watched, and for how long.
        clock: Seconds since any fixed moment, on this machine.
        pause: Waits for so many seconds.

    Raises:
        StoreError: Another controller is alive, or was faster.
    """
    run = client.get_run(run_id)
    last, before = _owner(run)
    number = last + 1
    took_over = ""
    if _heartbeat(run):
        died = _has_died(before)
        how = "has died" if died else _watch(client, run, say, clock, pause)
        if how:
            took_over = f"its last controller ({_who(before)}) {how}; this one takes over"
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


def _watch(
    client: MlflowClient,
    run: Run,
    say: Callable[[str], None],
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> str:
    """Watch another controller for as long as it may be silent.

    Returns:
        How it is known to be gone, in words; empty if it has let go of its claim meanwhile.

    Raises:
        StoreError: It is alive, or somebody else has claimed the population.
    """
    run_id, first = run.info.run_id, _heartbeat(run)
    number, owner = _owner(run)
    # On one machine there is one clock, and a fresh heartbeat needs no watching.
    silence = abs(time.time() - float(first))
    if _lives_here(owner) and silence < _STALE:
        raise _alive(run_id, owner, f"was heard {silence:.0f} s ago")
    say(
        f"its last controller ({_who(owner)}) may still be alive; this one listens for "
        f"{_STALE:.0f} s, and takes over if it hears nothing. Ctrl-C gives up"
    )
    end = clock() + _STALE
    while (left := end - clock()) > 0:
        pause(min(_LOOK, left))
        run = client.get_run(run_id)
        if _owner(run)[0] != number:
            raise StoreError(f"population {run_id}: another controller has just taken it")
        if not _heartbeat(run):
            return ""
        if _heartbeat(run) != first:
            raise _alive(run_id, owner, "has just been heard")
    return f"was silent for {_STALE:.0f} s"


def _alive(run_id: str, owner: str, heard: str) -> StoreError:
    return StoreError(
        f"population {run_id} is running: its controller ({_who(owner)}) {heard}. Stop it first; "
        f"a controller that is gone loses its claim after {_STALE:.0f} s"
    )


def is_orphan(run: Run) -> bool:
    """Whether the controller of a run that says it is running is known to be dead."""
    return bool(_heartbeat(run)) and _has_died(_owner(run)[1])


def _heartbeat(run: Run) -> str:
    """When the owner last said that it is alive, by its own clock; empty if it has let go."""
    said: str = run.data.tags.get("pbt.heartbeat", "")
    return said


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
    if not _ran_here(owner):
        return False
    _, pid, birth, *_ = owner.split(":")
    return _birth(int(pid)) != birth


def _lives_here(owner: str) -> bool:
    """Whether a controller is known to be alive, where this process runs."""
    return _ran_here(owner) and not _has_died(owner)


def _ran_here(owner: str) -> bool:
    """Whether a controller ran on this machine, since its last boot and in this container."""
    host, _, birth, *_ = [*owner.split(":"), "", "", ""]
    here = _birth(os.getpid()).rpartition("-")[0]
    return host == os.uname().nodename and bool(here) and birth.rpartition("-")[0] == here


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
