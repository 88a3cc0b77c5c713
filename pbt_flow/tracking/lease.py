"""Lets only one controller at a time work on a population.

Each controller claims the population with a param of the population's run. A param can be written
only once, so if two controllers claim at the same time, exactly one succeeds. The owner of the
newest claim sends a heartbeat, a tag of the run. An owner that is silent for too long loses its
claim, and one that is known to have died on this machine loses it at once.

The clocks of two machines are never compared. A controller that wants the claim of one on another
machine watches, by its own clock, whether the heartbeat still changes.

A controller may be suspended, with its machine or alone, and wake up when another one has long
taken over. So it asks for its claim before it goes on, if it has heard nothing of it for a while.
"""

from __future__ import annotations

import contextlib
import math
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

_SILENCE_SECONDS = 60.0
"""How long a controller may be silent before it loses its claim."""
HEARTBEAT_SECONDS = 15.0
"""The time between two heartbeats, and so until an owner hears that it is to end."""
STOP = "pbt.stop"
"""The tag by which anybody asks the owner to end in order. Another value asks again."""
HEARTBEAT = "pbt.heartbeat"
"""The tag with the owner's newest heartbeat, by its own clock; empty after a release."""
_STALE_SECONDS = 2 * HEARTBEAT_SECONDS
"""After so long without an answer of the store, an owner asks before it goes on. It is less than
the silence after which another controller may take over."""
_ANSWER_SECONDS = 5.0
"""How long it then waits for the answer. A store that is away lets nobody else take over either."""
_AGAIN_SECONDS = 3.0
"""The time between two heartbeats while the store does not answer."""
_SLOW_SECONDS = 5.0
"""After so long without an answer to a heartbeat, the store counts as silent."""
_WATCH_SECONDS = 3.0
"""How often the heartbeat of another controller is read while it is watched."""
FOUNDER = "pbt.founder"
"""The tag with the process that made the population: its owner until a controller claims it."""
CLAIM_PREFIX = "lease/"
"""What the name of a claim's param begins with; its number follows."""


def claim(
    client: MlflowClient,
    run_id: str,
    *,
    say: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
    date: Callable[[], float] = time.time,
) -> Lease:
    """Become the population's only controller.

    If the last controller may still be alive on another machine, it is watched for a minute first.

    Args:
        client: Talks to the tracking store.
        run_id: The population's run.
        say: Tells the user that another controller is being watched, and for how long.
        clock: Returns the seconds since any fixed moment, on this machine.
        pause: Waits for some seconds.
        date: Returns the seconds since the epoch, as this machine has them.

    Raises:
        StoreError: Another controller is alive, or has claimed the population just before.
    """
    run = client.get_run(run_id)
    last_number, last_owner = newest_claim(run)
    number = last_number + 1
    took_over = ""
    if _last_heartbeat(run):
        # A controller that died just before its claim has sent a heartbeat already.
        died = is_orphan(run)
        how = "has died" if died else _watch(client, run, say, clock, pause, date)
        if how:
            took_over = f"its last controller ({_short(last_owner)}) {how}; this one takes over"
    # The heartbeat comes before the claim. A controller that read the claim without it would think
    # that the population had been released.
    _send_heartbeat(client, run_id, date())
    try:
        client.log_param(run_id, claim_param(number), new_owner())
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
    date: Callable[[], float],
) -> str:
    """Watch another controller for as long as it may be silent.

    Returns:
        How it is known to be gone, as the end of a sentence; "" if it released its claim meanwhile.

    Raises:
        StoreError: The controller is alive, or a third one has claimed the population.
    """
    run_id, first_heartbeat = run.info.run_id, _last_heartbeat(run)
    number, owner = newest_claim(run)
    if _is_alive_here(owner):
        # On this machine there is only one clock, so the age of a heartbeat says enough.
        silence = abs(date() - float(first_heartbeat))
        if silence < _SILENCE_SECONDS:
            raise _still_running(run_id, owner, f"was heard {silence:.0f} s ago")
    say(
        f"its last controller ({_short(owner)}) may still be alive; this one listens for "
        f"{_SILENCE_SECONDS:.0f} s, and takes over if it hears nothing. Ctrl-C gives up"
    )
    end = clock() + _SILENCE_SECONDS
    while (left := end - clock()) > 0:
        pause(min(_WATCH_SECONDS, left))
        run = client.get_run(run_id)
        if newest_claim(run)[0] != number:
            raise StoreError(f"population {run_id}: another controller has just taken it")
        if not _last_heartbeat(run):
            return ""
        if _last_heartbeat(run) != first_heartbeat:
            raise _still_running(run_id, owner, "has just been heard")
    return f"was silent for {_SILENCE_SECONDS:.0f} s"


def _still_running(run_id: str, owner: str, heard: str) -> StoreError:
    return StoreError(
        f"population {run_id} is running: its controller ({_short(owner)}) {heard}. Stop it "
        f"first; a controller that is gone loses its claim after {_SILENCE_SECONDS:.0f} s"
    )


def ask_to_stop(client: MlflowClient, run_id: str) -> None:
    """Ask the controller of a population to end in order."""
    client.set_tag(run_id, STOP, uuid.uuid4().hex)


def is_orphan(run: Run) -> bool:
    """Whether the last controller of a run has not released it and is known to be dead."""
    number, owner = newest_claim(run)
    if number == 0:
        return has_died(run.data.tags.get(FOUNDER, ""))
    return bool(_last_heartbeat(run)) and has_died(owner)


def _last_heartbeat(run: Run) -> str:
    """Return when the owner sent its last heartbeat, by its own clock; "" after a release."""
    sent: str = run.data.tags.get(HEARTBEAT, "")
    return sent


def claim_param(number: int) -> str:
    """Return the name of the param that says who made a claim."""
    return f"{CLAIM_PREFIX}{number:04d}"


def newest_claim(run: Run) -> tuple[int, str]:
    """Return the number of the newest claim on a run, and its owner; 0 and "" if there is none."""
    number = 0
    for name in run.data.params:
        if name.startswith(CLAIM_PREFIX):
            number = max(number, int(name.removeprefix(CLAIM_PREFIX)))
    return number, run.data.params.get(claim_param(number), "")


def _send_heartbeat(client: MlflowClient, run_id: str, date: float) -> None:
    client.set_tag(run_id, HEARTBEAT, f"{date:.1f}")


def _seconds_with_sleep() -> float:
    """The time by a clock that goes on while the machine sleeps, where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _short(owner: str) -> str:
    """Return the machine and the process of an owner, as a message shows them."""
    return ":".join(owner.split(":")[:2]) or "unknown"


def new_owner() -> str:
    """A name for this process as an owner, which tells it from all that ever were or will be."""
    pid = os.getpid()
    return f"{os.uname().nodename}:{pid}:{_process_identity(pid)}:{uuid.uuid4().hex[:8]}"


def has_died(owner: str) -> bool:
    """Whether a controller is known to be dead: it ran on this machine, and does not any more.

    Nothing is known of a process on another machine, or in another container on this one.
    """
    if not _ran_here(owner):
        return False
    _, pid, identity, *_ = owner.split(":")
    return _process_identity(int(pid)) != identity


def _is_alive_here(owner: str) -> bool:
    """Whether a controller is known to be alive on this machine."""
    return _ran_here(owner) and not has_died(owner)


def _ran_here(owner: str) -> bool:
    """Whether a controller ran on this machine, since its last boot and in this container."""
    # Owners that an earlier version wrote have fewer parts.
    host, _, identity, *_ = [*owner.split(":"), "", "", ""]
    here = _process_identity(os.getpid()).rpartition("-")[0]
    return host == os.uname().nodename and bool(here) and identity.rpartition("-")[0] == here


def _process_identity(pid: int) -> str:
    """Return what tells a process from all others that ever have its number.

    It consists of the boot of the machine, the PID namespace and the time of the start. It is
    empty if there is no such process, or no /proc to read.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        # The second field, in brackets, is the name of the program, which may hold spaces and
        # brackets. The fields are counted from the last bracket on.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, start = fields[0], fields[19]
    # A zombie (Z) or dead process (X) keeps its number until its parent has noticed.
    return "" if state in "ZX" else f"{boot[:13]}-{namespace}-{start}"


class Lease:
    """The right to control a population, kept alive by a thread until it is released."""

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        number: int,
        took_over: str = "",
        clock: Callable[[], float] = _seconds_with_sleep,
    ) -> None:
        """Keep a claim alive from now on.

        Args:
            client: Talks to the tracking store.
            run_id: The population's run.
            number: The number of the claim.
            took_over: From whom and why it was taken over, in words.
            clock: Returns the seconds since any fixed moment. It goes on while the machine sleeps.
        """
        self.took_over = took_over
        """From whom and why this controller took over, in words; "" if the last one released."""
        self.asked_to_stop = False
        """Whether somebody elsewhere wants this controller to end in order."""
        self.number = number
        """How many times controllers have claimed the population, this one included."""
        self._client, self._run_id = client, run_id
        self._stop_before = client.get_run(run_id).data.tags.get(STOP)
        self._lost, self._has_asked = False, False
        self._clock, self._heard = clock, clock()
        self._failed, self._asked_at = False, math.inf
        self._released, self._wake, self._answered = (threading.Event() for _ in range(3))
        self._thread = threading.Thread(target=self._keep_alive, daemon=True, name="pbt_flow-lease")
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether another controller has taken over. This one must then change nothing any more.

        If nothing was heard of the claim for a while, since this process was suspended or the store
        is away, the store is asked now, once, and its answer waited for as long as it is likely to
        come.
        """
        is_stale = self._clock() - self._heard > _STALE_SECONDS
        if is_stale and not self._lost and not self._has_asked:
            self._has_asked = True
            self._answered.clear()
            self._wake.set()
            self._answered.wait(_ANSWER_SECONDS)
        return self._lost

    @property
    def is_silent(self) -> bool:
        """Whether the store does not answer just now, as far as the heartbeat knows."""
        return self._failed or self._clock() - self._asked_at > _SLOW_SECONDS

    def confirm(self) -> None:
        """Hear of the claim now, if nothing was heard of it for a while.

        Unlike `lost`, which may be asked at any moment, this is for whoever is about to tell the
        store something: if the store is back after it was away, another controller may have taken
        over meanwhile.

        Raises:
            MlflowException: The store does not answer.
        """
        if not self._lost and self._clock() - self._heard > _STALE_SECONDS:
            self.beat()

    def _keep_alive(self) -> None:
        while not self._lost and not self._released.is_set():
            self._wake.wait(_AGAIN_SECONDS if self._failed else HEARTBEAT_SECONDS)
            self._wake.clear()
            if self._released.is_set():
                return
            self._asked_at = self._clock()
            try:
                self.beat()
                self._failed = False
            except (MlflowException, OSError):
                # The store may be away for a moment; the next beat will tell.
                self._failed = True
            self._asked_at = math.inf
            self._answered.set()

    def beat(self) -> None:
        """Hear what others want of this controller, and say that it is alive.

        Raises:
            MlflowException: The store does not answer.
        """
        asked_at = self._clock()
        data = self._client.get_run(self._run_id).data
        # What was asked of an earlier owner is done with.
        self.asked_to_stop = data.tags.get(STOP) != self._stop_before
        self._lost = claim_param(self.number + 1) in data.params
        self._heard, self._has_asked = asked_at, False
        if not self._lost:
            _send_heartbeat(self._client, self._run_id, time.time())

    def release(self, *, unheard: bool = False) -> None:
        """Give up the claim, so that the next controller need not wait.

        Args:
            unheard: Whether the store is not told, since it does not answer and nobody waits. A
                request of the heartbeat that hangs then ends with its thread.
        """
        self._released.set()
        self._wake.set()
        self._thread.join(0.0 if unheard else None)
        if not self._lost and not unheard:
            # If the store is away, the next controller takes over after the time of silence.
            with contextlib.suppress(MlflowException, OSError):
                self._client.set_tag(self._run_id, HEARTBEAT, "")
