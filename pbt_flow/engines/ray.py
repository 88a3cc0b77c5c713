"""The engine for a cluster: it runs turns in Ray actors, on as many machines as Ray has.

An actor is a worker, and lives for the whole population. The engine asks Ray for all workers at
once. Those that find no place are pending, and live as soon as a machine joins; one that dies is
asked for again. So the number of workers follows the cluster. Ray itself starts no actor and no
call a second time: what becomes of a lost turn is the controller's decision.

Nothing here waits for one worker. Births, openings and answers are all references of one
`ray.wait`, and a job that finds no free worker waits in a queue.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pbt_flow.engines.base import Engine, LostJob
from pbt_flow.engines.code_shipping import pack
from pbt_flow.engines.jobs import Describe, Done, Job, Retry, WorkerContext
from pbt_flow.engines.processes import ProcessEngine
from pbt_flow.engines.ray_actor import Answer, Place, RayWorker, write_files
from pbt_flow.engines.ray_cluster import attach, delete_session, detach, free_share, import_ray
from pbt_flow.engines.ray_watch import ClusterWatch, flush_before_rays_end
from pbt_flow.engines.worker_environment import WorkerEnvironment
from pbt_flow.exceptions import PATIENCE, EngineError
from pbt_flow.population.checkpoints import Folders
from pbt_flow.population.reach import START_PATIENCE
from pbt_flow.population.records import Checkpoint, Plan, Turn
from pbt_flow.task.mlflow_capture import MemberRuns
from pbt_flow.utils.scratch import temporary_folder

_LOOK_EVERY = 2.0
"""Seconds between two looks at which nodes are alive."""
_HEAD_PATIENCE = 30.0
"""Seconds for which the head of the cluster may be silent. It then knows nothing of its workers any
more, if it is started again."""
_TELL_AFTER = 10.0
"""Seconds without a change after which the user is told that workers are missing. One takes some
seconds to import torch, and a machine that joins brings several."""
_SILENT_AFTER = 10.0
"""Seconds without an answer of the head, which is asked every few seconds, after which it is not
asked anything else: whoever does so waits until it answers."""

_Handler = Callable[["_Seat", Any], list[Done | LostJob]]


@dataclass(frozen=True)
class _Queued:
    """A job that waits for a free worker."""

    job: Job
    returned: bool = False
    """Whether the worker that it was sent to had died before the job came there."""


@dataclass(eq=False)
class _Seat:
    """One worker, as the engine sees it."""

    index: int
    actor: Any
    birth: Any
    """The reference of the worker's first answer; None once it has come."""
    opening: Any = None
    """The reference of the answer to `open`; None while there is none to come."""
    place: Place | None = None
    """Where the worker lives; None until it does."""
    queued: _Queued | None = None
    """The job under way; None if the worker is idle."""
    arrival: Any = None
    answer: Any = None
    since: float = 0.0
    """When the job under way was sent, by the monotonic clock."""
    verdict: Any = None
    """The reference that will say what became of a worker that could not be reached."""
    members: set[int] = field(default_factory=set)
    """The members whose jobs the worker has done, and whose tasks it may have in memory."""

    @property
    def is_idle(self) -> bool:
        return self.place is not None and self.opening is None and self.queued is None


class RayEngine(Engine):
    """Runs turns on the cluster that RAY_ADDRESS names, or in a Ray of its own on this machine.

    Args:
        threads: CPU threads of the process that reads what the task declares.

    Raises:
        EngineError: Ray is not installed.
    """

    def __init__(self, threads: int = 1) -> None:
        self._ray = import_ray()
        # What a task declares holds its file's path, and a worker elsewhere has another path. So a
        # process of this machine is asked.
        self._describer: ProcessEngine | None = ProcessEngine(threads)
        self._scratch = temporary_folder()
        self._context: WorkerContext | None = None
        self._opened: tuple[Folders, MemberRuns | None] | None = None
        self._environment = WorkerEnvironment.of_this_process()
        self._watch: ClusterWatch | None = None
        """What is known of the cluster; None while this process is attached to none."""
        self._session: Path | None = None
        """The folder of a Ray of one's own, which ends with this engine."""
        self._wanted = 0
        self._seats: list[_Seat] = []
        self._queue: deque[_Queued] = deque()
        self._copies: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
        """For each checkpoint, by member and turn, the nodes that have a copy of it."""
        self._deleted: defaultdict[str, list[Checkpoint]] = defaultdict(list)
        """For each node the deleted checkpoints whose copies are still there."""
        self._failed_starts = 0
        """How many workers in a row died before they could take a job."""
        self._looked = 0.0
        self._lived = 0
        """How many workers there were when they were counted last."""
        self._changed = 0.0
        """Since when there are so many, by the monotonic clock."""

    # --- the workers ---

    def start(self, context: WorkerContext, *, slots: int = 1) -> None:
        if self._describer is not None:
            self._describer.close()
            self._describer = None
        device = context.task.device
        if device.startswith("cuda:"):
            raise EngineError(
                f"engine ray shows each worker its own GPUs only, so that device must be cuda, got "
                f"{device!r}"
            )
        shipment = pack(context.task.name, Path(self._scratch.name))
        task = dataclasses.replace(context.task, name=shipment.task)
        self._context = dataclasses.replace(context, task=task)
        cpus = slots * context.threads
        self._session = attach(shipment.runtime_environment(), cpus=cpus, gpus=self._gpus)
        self._watch = ClusterWatch(self._ray)
        self._wanted, self._changed = slots, time.monotonic()
        self._seats = [self._hire(index) for index in range(slots)]

    @property
    def _gpus(self) -> float:
        assert self._context is not None, "known since start"
        share = self._context.gpu_share
        if share is None:
            return 1.0 if self._context.task.device == "cuda" else 0.0
        return share

    def _hire(self, index: int) -> _Seat:
        """Ask Ray for a worker, without waiting for it."""
        assert self._context is not None, "known since start"
        actor = (
            self._ray.remote(RayWorker)
            .options(
                num_cpus=self._context.threads,
                num_gpus=self._gpus,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy="SPREAD",
            )
            .remote(index, self._environment)
        )
        birth = actor.place.remote()
        actor.start.remote(self._context)
        seat = _Seat(index=index, actor=actor, birth=birth)
        if self._opened is not None:
            # The store was reached by others before: it may be away for a while.
            seat.opening = actor.open.remote(*self._opened, PATIENCE)
        return seat

    def open(self, folders: Folders, runs: MemberRuns | None = None) -> None:
        self._opened = folders, runs
        for seat in self._seats:
            seat.opening = seat.actor.open.remote(folders, runs, START_PATIENCE)

    def _living(self) -> list[_Seat]:
        return [seat for seat in self._seats if seat.place is not None and seat.opening is None]

    def _count(self) -> None:
        """Note how many workers there are."""
        living = len(self._living())
        # With no slot at all the controller would have nothing under way, and take that for an end.
        self.slots = max(1, living)
        if living != self._lived:
            self._lived, self._changed = living, time.monotonic()

    def waiting_for(self) -> str:
        living = len(self._living())
        if living == self._wanted or time.monotonic() < self._changed + _TELL_AFTER:
            return ""
        assert self._context is not None, "known since start"
        if self._watch is None or self._watch.silent_for > _SILENT_AFTER:
            return f"workers: {living} of {self._wanted} are there; the head does not answer"
        reason = free_share(self._ray, cpus=self._context.threads, gpus=self._gpus)
        return f"workers: {living} of {self._wanted} are there; {reason}"

    # --- jobs ---

    def submit(self, job: Job) -> None:
        if self._describer is not None:
            self._describer.submit(job)
            return
        assert not isinstance(job, Describe), "taken before start only"
        self._queue.append(_Queued(job))
        self._assign()

    def _assign(self) -> None:
        """Give waiting jobs to idle workers."""
        while self._queue:
            idle = [seat for seat in self._seats if seat.is_idle]
            if not idle:
                return
            queued = self._queue.popleft()
            self._begin(min(idle, key=lambda seat: self._preference(seat, queued.job)), queued)

    def _preference(self, seat: _Seat, job: Job) -> tuple[bool, bool, int]:
        """How well a worker suits a job; the least is the best.

        First the worker that has the member in memory, since it need not restore it. Then one on a
        node that has the checkpoint. Then the one with the fewest members, so that they are spread
        evenly.
        """
        start = _start_of(job)
        has_copy = start is not None and self._node(seat) in self._copies.get(
            (start.member, start.turn), ()
        )
        return job.member not in seat.members, not has_copy, len(seat.members)

    @staticmethod
    def _node(seat: _Seat) -> str:
        assert seat.place is not None, "the worker lives"
        return seat.place.node

    def _begin(self, seat: _Seat, queued: _Queued) -> None:
        node = self._node(seat)
        seat.queued, seat.since = queued, time.monotonic()
        seat.members.add(queued.job.member)
        if (start := _start_of(queued.job)) is not None:
            self._copies[start.member, start.turn].add(node)
        seat.arrival = seat.actor.arrive.remote()
        seat.answer = seat.actor.do.remote(queued.job, self._deleted.pop(node, ()))

    def forget(self, checkpoint: Checkpoint) -> None:
        for node in self._copies.pop((checkpoint.member, checkpoint.turn), ()):
            # The next job on the node takes the message along.
            self._deleted[node].append(checkpoint)

    # --- what comes back ---

    def wait(self, timeout: float | None = None) -> list[Done | LostJob]:
        if self._describer is not None:
            return self._describer.wait(timeout)
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            finished = list[Done | LostJob]()
            self._check_cluster()
            self._replace_taken_away()
            self._assign()
            now = time.monotonic()
            references = dict(self._references())
            moments = (end, self._next_expiry(), now + _LOOK_EVERY)
            ready = self._ready(list(references), max(0.0, min(moments) - now))
            # That a worker has died may be the first sign of more.
            self._check_cluster()
            for reference in ready:
                seat, handle = references[reference]
                finished += handle(seat, reference)
            finished += self._replace_hung()
            self._count()
            self._assign()
            # Also where a worker has come to life: more jobs may be under way from now on.
            if finished or ready or time.monotonic() >= end:
                return finished

    def _ready(self, references: list[Any], timeout: float) -> list[Any]:
        """Those of some references that have come, after at most so many seconds."""
        if not references:
            time.sleep(timeout)
            return []
        ready, _ = self._ray.wait(references, num_returns=1, timeout=timeout)
        if ready:
            ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return list(ready)

    def _references(self) -> Iterator[tuple[Any, tuple[_Seat, _Handler]]]:
        """Every reference that is waited for, with what is to be done when it comes."""
        for seat in self._seats:
            if seat.birth is not None:
                yield seat.birth, (seat, self._born)
            elif seat.verdict is not None:
                yield seat.verdict, (seat, self._judged)
            elif seat.answer is not None:
                yield seat.answer, (seat, self._answered)
            if seat.opening is not None and seat.birth is None:
                yield seat.opening, (seat, self._open_answered)

    def _born(self, seat: _Seat, reference: Any) -> list[Done | LostJob]:
        """Note that a worker lives, or that it died before it did."""
        try:
            seat.place = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._replace_failed(seat, error)
            return []
        seat.birth = None
        if seat.opening is None:
            self._failed_starts = 0
        return []

    def _open_answered(self, seat: _Seat, reference: Any) -> list[Done | LostJob]:
        """Note that a worker can do turns.

        Raises:
            EngineError: It cannot, from where it is.
        """
        try:
            refused = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._replace_failed(seat, error)
            return []
        if refused:
            raise EngineError(refused)
        seat.opening = None
        self._failed_starts = 0
        return []

    def _answered(self, seat: _Seat, reference: Any) -> list[Done | LostJob]:
        """What came of a job.

        Raises:
            EngineError: No turn can be done any more.
        """
        exceptions, queued = self._ray.exceptions, seat.queued
        assert queued is not None, "the answer to a job"
        try:
            answer: Answer = self._ray.get(reference)
        except getattr(exceptions, "ActorUnavailableError", ()):
            # Ray does not know yet whether the process has died, or its machine, or only the
            # connection. The next answer says more.
            seat.verdict, seat.answer = seat.actor.arrive.remote(), None
            return []
        except exceptions.RayError as error:
            if self._never_came(seat) and not queued.returned:
                self._replace(seat)
                self._queue.appendleft(dataclasses.replace(queued, returned=True))
                return []
            return self._lose(seat, _told(error), blameless=self._is_gone(seat))
        self._free(seat)
        if answer.refused:
            raise EngineError(answer.refused)
        assert answer.done is not None, "a job has an outcome, or no turn can be done any more"
        if isinstance(answer.done, Turn) and answer.done.checkpoint is not None:
            self._copies[answer.done.member, answer.done.number].add(self._node(seat))
        try:
            write_files(queued.job, answer.files)
        except OSError as error:
            raise EngineError(f"cannot write what a worker has sent: {error}") from error
        if answer.spoiled:
            # The job that has spoiled the device is over, so that none is lost with the worker.
            self._replace(seat)
        return [answer.done]

    def _judged(self, seat: _Seat, reference: Any) -> list[Done | LostJob]:
        """What became of a worker that could not be reached."""
        try:
            self._ray.get(reference)
            reason, blameless = "the connection to it was lost", True
        except getattr(self._ray.exceptions, "ActorUnavailableError", ()):
            reason, blameless = "its machine does not answer any more", True
        except self._ray.exceptions.RayError as error:
            reason, blameless = _told(error), self._is_gone(seat)
        return self._lose(seat, reason, blameless=blameless)

    def _never_came(self, seat: _Seat) -> bool:
        """Whether a worker had died before its job came there, as far as one can know."""
        try:
            self._ray.get(seat.arrival, timeout=0)
        except getattr(self._ray.exceptions, "ActorDiedError", ()):
            return True
        except self._ray.exceptions.RayError:
            return False
        return False

    def _is_gone(self, seat: _Seat) -> bool:
        """Whether the node of a worker is dead, by Ray's own word."""
        assert self._watch is not None, "attached since start"
        return seat.place is not None and not self._watch.is_alive(seat.place.node)

    def _check_cluster(self) -> None:
        """Refuse to go on where Ray will start no worker for this process any more.

        Raises:
            EngineError: The head of the cluster is silent, or Ray on this machine has ended.
        """
        assert self._watch is not None, "attached since start"
        if self._watch.has_lost_this_machine:
            # A Ray of one's own is begun anew by the resume.
            begin = "" if self._session is not None else "start it again (ray start), and "
            raise EngineError(
                "Ray on this machine has ended, or was cut off from its cluster for too long; "
                f"{begin}resume"
            )
        if self._watch.silent_for > _HEAD_PATIENCE:
            raise EngineError(
                f"the head of the Ray cluster has not answered for {_HEAD_PATIENCE:.0f} seconds; "
                "start the cluster again (ray start), and resume"
            )

    @staticmethod
    def _free(seat: _Seat) -> None:
        seat.queued = seat.answer = seat.arrival = seat.verdict = None

    def _lose(self, seat: _Seat, reason: str, *, blameless: bool) -> list[Done | LostJob]:
        """Replace a worker, and return the job that is lost with it."""
        assert seat.queued is not None, "the worker has a job"
        assert seat.place is not None, "the worker lives"
        who = f"worker {seat.index} on {seat.place.host}"
        told = f"{who} was taken away" if blameless else f"{who} died"
        job = seat.queued.job
        self._replace(seat)
        return [LostJob(job=job, reason=f"{told} ({reason})", blameless=blameless)]

    def _replace(self, seat: _Seat) -> None:
        """Ask for another worker in a worker's place."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(seat.actor, no_restart=True)
        self._seats[self._seats.index(seat)] = self._hire(seat.index)

    def _replace_failed(self, seat: _Seat, error: Exception) -> None:
        """Replace a worker that died before it could take a job.

        Raises:
            EngineError: Too many in a row have.
        """
        # A machine that was taken away says nothing of the next one.
        if not self._is_gone(seat):
            self._failed_starts += 1
        if self._failed_starts > 2 * self._wanted:
            raise EngineError(f"workers die as soon as they start; the last one: {_told(error)}")
        self._replace(seat)

    def _replace_taken_away(self) -> None:
        """Replace idle workers whose nodes are dead: nothing else is heard of them.

        A worker with a job is not touched, since its answer says more.
        """
        if time.monotonic() < self._looked + _LOOK_EVERY or not self._seats:
            return
        assert self._watch is not None, "attached since start"
        self._looked = time.monotonic()
        nodes = self._watch.alive
        for seat in self._seats:
            if seat.is_idle and self._node(seat) not in nodes:
                self._replace(seat)
        self._count()

    # --- time limits and the end ---

    def _next_expiry(self) -> float:
        """When the first turn under way reaches its limit, by the monotonic clock."""
        limit = math.inf if self.turn_timeout is None else self.turn_timeout
        begun = [seat.since for seat in self._seats if seat.queued is not None]
        return min(begun) + limit if begun else math.inf

    def _replace_hung(self) -> list[Done | LostJob]:
        """Replace the workers whose turns have taken too long, and return the lost jobs."""
        limit, lost = self.turn_timeout, list[Done | LostJob]()
        if limit is None:
            return lost
        for seat in list(self._seats):
            if seat.queued is None or time.monotonic() < seat.since + limit:
                continue
            reason = f"the turn took longer than turn_timeout, {limit:g} seconds"
            lost.append(LostJob(job=seat.queued.job, reason=reason))
            self._replace(seat)
        return lost

    def close(self) -> None:
        if self._describer is not None:
            self._describer.close()
            self._describer = None
        seats, self._seats = self._seats, []
        self._queue.clear()
        if self._watch is not None:
            if self._watch.has_lost_this_machine:
                # Ray ends whoever talks to it now, and there is more to say than this.
                flush_before_rays_end()
            else:
                detach(self._ray, [seat.actor for seat in seats])
                if self._session is not None:
                    delete_session(self._session)
            self._watch.close()
            self._watch = None
        self._scratch.cleanup()


def _start_of(job: Job) -> Checkpoint | None:
    """The checkpoint that a job begins with, if it has one."""
    if isinstance(job, Retry):
        return job.plan.start
    if isinstance(job, Plan):
        return job.start
    return getattr(job, "checkpoint", None)


def _told(error: Exception) -> str:
    """Ray's own words, in short: of a page, the line that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if "died" in line or "Error" in line]
    line = causes[-1] if causes else (lines or [type(error).__name__])[-1]
    line = line.partition(" Some common causes")[0]
    return line if len(line) <= 200 else f"{line[:199]}…"
