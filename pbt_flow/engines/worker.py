"""The worker: it runs a turn as a pure function of the turn's plan, and commits the record.

A turn is restore -> reseed -> train -> evaluate -> checkpoint -> record. All that a turn needs from
outside comes in through `Plan` and `WorkerContext`; nothing here knows of a population or of a
decision. Besides turns, a worker does the other jobs that need a model: looks, checks and probes.
"""

from __future__ import annotations

import math
import pickle
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pbt_flow.engines.device_memory import CrowdedOut, DeviceMemory, is_out_of_memory
from pbt_flow.engines.evaluations import evaluate_afresh, evaluate_again, try_restoring
from pbt_flow.engines.jobs import (
    AverageEvaluated,
    CheckNoise,
    CheckRestore,
    Describe,
    Described,
    Done,
    EvaluateAfresh,
    EvaluateAverage,
    EvaluatedAfresh,
    Inspect,
    Inspection,
    Job,
    NoiseChecked,
    Probe,
    Probed,
    RestoreChecked,
    Retry,
    WorkerContext,
)
from pbt_flow.engines.restore_check import State
from pbt_flow.engines.returned import printable, read_metrics, read_score, read_understood
from pbt_flow.engines.storage_errors import storage_errors
from pbt_flow.exceptions import Diverged, PBTError, StorageError, StoreError, UnusableTask
from pbt_flow.population.checkpoints import Folders, copy_state, load_state, save_state
from pbt_flow.population.records import Checkpoint, Plan, Status, Turn, derive_seed, report_seed
from pbt_flow.population.turn_files import STATE, file_name
from pbt_flow.space import own_hparams
from pbt_flow.task import Task, declare
from pbt_flow.task.mlflow_capture import MemberRuns, TaskLogging
from pbt_flow.utils.devices import device_error
from pbt_flow.utils.reasons import account_of, message_of, reason_of


def describe(job: Describe, reraise: tuple[type[BaseException], ...] = ()) -> Described:
    """Return what a task declares.

    What is wrong with a task that cannot be described is not told here: the controller then loads
    the task itself, and so meets the same error.

    Args:
        job: The request.
        reraise: Exceptions that are not the task's own, as in `Worker`.
    """
    try:
        return Described(declaration=pickle.dumps(declare(job.task, job.options)))
    except BaseException as error:
        if isinstance(error, reraise):
            raise
        return Described(declaration=b"")


class Worker:
    """Runs one job after another, and keeps the tasks of the latest members in memory."""

    def __init__(
        self,
        context: WorkerContext,
        device: str | None = None,
        read_output: Callable[[], str] = lambda: "",
        reraise: tuple[type[BaseException], ...] = (),
        logging: TaskLogging | None = None,
        memory: DeviceMemory | None = None,
    ) -> None:
        """Make a worker for one population.

        Args:
            context: What all turns of the population share.
            device: The torch device; None for the device that the task asks for.
            read_output: Returns what this process has printed since its last call.
            reraise: Exceptions that are not the task's own, such as the user's Ctrl-C in a process
                that Ctrl-C reaches. The worker raises them again. Every other exception of a task
                is an outcome of its job.
            logging: Leads what tasks log through MLflow by themselves to their members' runs; None
                leaves it where MLflow would put it.
            memory: The memory of the device; None for a device that is this worker's alone.
        """
        self.context = context
        self.read_output = read_output
        self.reraise = reraise
        self.logging = logging or TaskLogging()
        self.device = device or context.task.device
        self.spoiled = ""
        """Why the device cannot be used by this process any more, as after an access outside of a
        tensor on a GPU; empty while it can. Another worker has to go on in this one's place."""
        self._memory = memory or DeviceMemory.of(self.device)
        self._most = context.warm
        """How many tasks are in memory at most. It falls when memory has not been enough."""
        self.folders: Folders | None = None
        """Where the turn folders are. The engine sets this before the first turn."""
        self._warm: OrderedDict[int, tuple[str, Task]] = OrderedDict()
        """The tasks in memory by member, the least recently used first, each with the digest of the
        checkpoint that its state equals. The digest of a fresh model is empty."""
        self._understood: Mapping[str, str] | None = None
        """What the task understood when it was built first. It is the same for all members."""

    def open(self, folders: Folders, runs: MemberRuns | None, patience: float) -> None:
        """Take in where turns are written, and prove that the controller finds them there.

        An engine calls this in each worker before the worker's first turn.

        Args:
            folders: Where the turn folders are.
            runs: The members' runs; None if the members have no runs.
            patience: Seconds for which a storage that does not answer is waited for.

        Raises:
            StorageError: This worker does not reach them; no turn may begin in it.
        """
        folders.prove_reach(patience)
        self.folders = folders
        self.logging.open(runs)

    def do(self, job: Job) -> Done:
        """Do a job, and send what its task logs by itself to the run of the job's member."""
        # The model that a check trains is dropped, and so is what the task logs in it.
        member = job.member if isinstance(job, Plan | Retry | Inspect) else None
        with self.logging.job(member) as logged:
            done = self._do_alone_if_crowded(job)
            logged.failed = isinstance(done, Turn) and not done.ok
        if getattr(done, "error", ""):
            # What has failed is dropped, and must not take the next one's memory.
            self._memory.give_back()
            self.spoiled = self.spoiled or device_error(self.device)
        return done

    def _do_alone_if_crowded(self, job: Job) -> Done:
        """Do a job, and if memory was not enough beside other members, again without them."""
        begun = time.time()
        try:
            with self._memory.watched(self._own_part(job)):
                return self._do(job)
        except CrowdedOut:
            pass
        # Only here is the exception gone, and with it the frames that held the job's own tensors.
        self._most = len(self._warm)
        self.drop_all()
        if isinstance(job, Plan | Retry):
            before = job.lost if isinstance(job, Retry) else 0.0
            plan = job.plan if isinstance(job, Retry) else job
            job = Retry(plan=plan, lost=before + time.time() - begun)
        with self._memory.watched(self._own_part(job)):
            return self._do(job)

    def _own_part(self, job: Job) -> float:
        """The part of what is in memory that is the job's own task, if all take the same."""
        return 1 / len(self._warm) if getattr(job, "member", None) in self._warm else 0.0

    def drop_all(self) -> None:
        """Drop the tasks in memory. The next turn of each is restored from its checkpoint."""
        self._warm.clear()
        self._memory.give_back()

    def _do(self, job: Job) -> Done:
        if isinstance(job, Plan):
            return self.run(job)
        if isinstance(job, Retry):
            return self.run(job.plan, lost=job.lost)
        if isinstance(job, Inspect):
            return self.inspect(job)
        if isinstance(job, CheckRestore):
            return self.check_restore(job)
        if isinstance(job, CheckNoise):
            return self.check_noise(job)
        if isinstance(job, EvaluateAfresh):
            return self.evaluate_afresh(job)
        if isinstance(job, EvaluateAverage):
            return self.evaluate_average(job)
        if isinstance(job, Probe):
            return self.probe(job)
        return describe(job, self.reraise)

    def probe(self, probe: Probe) -> Probed:
        """Build a fresh model, and keep it for the member's first turn."""
        if refused := device_error(self.device):
            return Probed(error=refused)
        try:
            task = self._take_task(probe.member, None)
            # The members have no runs yet, so that what the task logs while it is built is lost.
            # Such a task is built again in its first turn, and logs it then.
            if not self.logging.used:
                self._keep_warm(probe.member, "", task)
        except BaseException as error:
            self._raise_if_not_the_tasks(error)
            # The message of a PBTError is a whole sentence; other messages need the type as well.
            told = message_of(error) if isinstance(error, PBTError) else reason_of(error)
            return Probed(error=printable(told))
        understood = dict(self._understood or {})
        if place := self._memory.place():
            understood["device"] = place
        return Probed(understood=understood, follows_budget=task.follows_budget)

    def run(self, plan: Plan, *, lost: float = 0.0) -> Turn:
        """Run a turn and commit its record. An exception of the task is an outcome of the turn.

        Args:
            plan: What goes into the turn.
            lost: Seconds that earlier tries of the turn took. The turn counts as begun with the
                first of them.

        Raises:
            StorageError: The checkpoint or the record cannot be written, or the checkpoint that the
                turn begins with cannot be read.
            UnusableTask: No member can be trained with the task.
        """
        started = time.time() - lost
        seconds = {"lost": lost} if lost else {}
        status: Status = "failed"
        score: float | None = None
        sample: tuple[float, ...] = ()
        metrics: Mapping[str, float] = {}
        evaluation: Mapping[str, float] = {}
        notes: Mapping[str, str] = {}
        checkpoint: Checkpoint | None = None
        error = ""
        # Drops what was printed between turns, by the report of another member for instance.
        self.read_output()
        try:
            with _timed(seconds, "restore"):
                task = self._take_task(plan.member, plan.start)
                task.reseed(plan.seed)
            with _timed(seconds, "train"):
                metrics = read_metrics(task.train(own_hparams(plan.hparams), plan.steps), "train()")
            with _timed(seconds, "evaluate"):
                score, sample = read_score(task.evaluate())
                evaluation = read_metrics(task.metrics(), "metrics()")
                notes = self._read_notes(task)
            if math.isfinite(score):
                with _timed(seconds, "checkpoint"):
                    checkpoint = self._save_checkpoint(task, plan)
                status = "ok"
                self._keep_warm(plan.member, checkpoint.digest, task)
            else:
                status, score, sample, error = "diverged", None, (), f"the score is {score}"
        except (StorageError, UnusableTask):
            # Trouble with the storage is no failure of the task: no record may blame the turn. And
            # what would fail in every turn of every member is told once, and mended.
            raise
        except Diverged as told:
            status, score, sample, error = "diverged", None, (), printable(message_of(told))
        except BaseException as other:
            self._raise_if_not_the_tasks(other)
            account = account_of(other, file=self.context.task.file)
            if is_out_of_memory(other):
                account = _with_way_out(account)
            score, sample, error = None, (), printable(account)
        turn = Turn(
            plan=plan,
            status=status,
            score=score,
            sample=sample,
            metrics=metrics,
            evaluation=evaluation,
            notes=notes,
            checkpoint=checkpoint,
            error=error,
            started=started,
            seconds=seconds,
        )
        what = f"write the record of member {plan.member}, turn {plan.turn}"
        with storage_errors(what, self._folders.root(plan.member), Exception):
            self._folders.commit(turn, self.read_output())
        return turn

    def inspect(self, request: Inspect) -> Inspection:
        """The report of a checkpoint: metrics on data that selection never saw, and samples."""
        metrics: Mapping[str, float] = {}
        try:
            task = self._take_task(request.member, request.checkpoint)
            task.reseed(report_seed(self.context.seed))
            if request.report:
                metrics = read_metrics(task.report(), "report()")
            if request.samples is not None:
                task.samples(Path(request.samples))
        except BaseException as error:
            self._raise_if_not_the_tasks(error)
            return Inspection(request=request, error=printable(account_of(error)))
        return Inspection(request=request, metrics=metrics)

    def check_restore(self, check: CheckRestore) -> RestoreChecked:
        """Compare a model that trains on with a restored one. Both are built here and dropped."""
        # The check holds a task of its own, which counts towards `warm` like any other.
        if self._warm:
            self._warm.popitem(last=False)

        def load() -> State:
            return load_state(check.checkpoint, self._folders.fetch(check.checkpoint), self.device)

        try:
            difference = try_restoring(
                check,
                self.context.seed,
                build=lambda seed: self.context.task.build(seed, self.device),
                load=load,
                through_file=lambda state: copy_state(state, self.device),
            )
        except BaseException as error:
            self._raise_if_not_the_tasks(error)
            return RestoreChecked(check=check, error=printable(account_of(error)))
        return RestoreChecked(check=check, difference=difference)

    def check_noise(self, check: CheckNoise) -> NoiseChecked:
        """Evaluate a checkpoint several times, and drop the model afterwards."""
        try:
            task = self._take_task(check.member, check.checkpoint)
            scores = evaluate_again(check, self.context.seed, task)
        except BaseException as error:
            self._raise_if_not_the_tasks(error)
            return NoiseChecked(check=check, error=printable(account_of(error)))
        return NoiseChecked(check=check, scores=scores)

    def evaluate_afresh(self, request: EvaluateAfresh) -> EvaluatedAfresh:
        """Evaluate a checkpoint on data that no decision has seen, and keep the model in memory."""
        try:
            task = self._take_task(request.member, request.checkpoint)
            scores = evaluate_afresh(request, self.context.seed, task)
        except BaseException as error:
            self._raise_if_not_the_tasks(error)
            return EvaluatedAfresh(request=request, error=printable(account_of(error)))
        self._keep_warm(request.member, request.checkpoint.digest, task)
        return EvaluatedAfresh(request=request, scores=scores)

    def evaluate_average(self, request: EvaluateAverage) -> AverageEvaluated:
        """Average some checkpoints and evaluate the average; the model is dropped afterwards."""
        lead, checkpoint = request.parents[0], None
        metrics: Mapping[str, float] = {}
        try:
            task = self._take_task(request.member, lead)
            state = task.average([self._load_state(parent) for parent in request.parents])
            if state is None:
                return AverageEvaluated(request=request)
            task.load_state_dict(state)
            scores = evaluate_afresh(request, self.context.seed, task)
            if request.folder is not None:
                task.reseed(report_seed(self.context.seed))
                metrics = read_metrics(task.report(), "report()")
                root = Path(request.folder)
                checkpoint = save_state(state, lead.member, lead.turn, root)
        except BaseException as error:
            self._raise_if_not_the_tasks(error)
            return AverageEvaluated(request=request, error=printable(account_of(error)))
        return AverageEvaluated(
            request=request, scores=scores, metrics=metrics, checkpoint=checkpoint
        )

    def _raise_if_not_the_tasks(self, error: BaseException) -> None:
        """Raise an exception again if it is not the task's own.

        Raises:
            CrowdedOut: Memory is exhausted, and other members are there.
        """
        if isinstance(error, self.reraise):
            raise error
        if self._warm and is_out_of_memory(error):
            raise CrowdedOut from error

    @property
    def _folders(self) -> Folders:
        assert self.folders is not None, "the engine sets the folders before the first turn"
        return self.folders

    def _take_task(self, member: int, start: Checkpoint | None) -> Task:
        """Return the member's task in the state `start`, which is None for a fresh model.

        The task is no longer among the warm ones. Whoever has used it keeps it there again, unless
        an exception has left it in an unknown state.
        """
        digest, task = self._warm.pop(member, ("", None))
        if task is None or (start is None and digest):
            # Dropped before the new task is built: a GPU never holds more than `warm` tasks.
            task = None
            self._make_room()
            seed = derive_seed(self.context.seed, member, 0)
            task = self.context.task.build(seed, self.device)
            if self._understood is None:
                self._understood = read_understood(task)
        if start is not None and start.digest != digest:
            task.load_state_dict(self._load_state(start))
        return task

    def _load_state(self, start: Checkpoint) -> State:
        """The state of a checkpoint.

        Raises:
            CheckpointError: The state is gone, or is not the one that the turn wrote.
            StorageError: The place where the state lies cannot be read.
        """
        what = f"read the checkpoint of member {start.member}, turn {start.turn}"
        with storage_errors(what, self._folders.root(start.member), OSError, StoreError):
            return load_state(start, self._folders.fetch(start), self.device)

    def _read_notes(self, task: Task) -> dict[str, str]:
        """What the task understands now, and did not understand when it was built."""
        before, now = self._understood or {}, read_understood(task)
        return {topic: text for topic, text in now.items() if before.get(topic) != text}

    def _make_room(self) -> None:
        """Drop the least recently used tasks until there is room for one more."""
        while self._warm and (len(self._warm) >= self._most or not self._memory.has_room()):
            self._warm.popitem(last=False)
            self._memory.give_back()

    def _keep_warm(self, member: int, digest: str, task: Task) -> None:
        """Keep a task in memory, whose state equals the checkpoint with this digest."""
        self._warm[member] = (digest, task)

    def _save_checkpoint(self, task: Task, plan: Plan) -> Checkpoint:
        """Write the task's state, and put it where every machine finds it.

        Raises:
            CheckpointError: The state cannot be a checkpoint, wherever it is written.
            StorageError: The place cannot be written to.
        """
        # `state_dict` is the task's own code, so that its errors are no trouble with the storage.
        state = task.state_dict()
        what = f"write the checkpoint of member {plan.member}, turn {plan.turn}"
        root = self._folders.root(plan.member)
        # torch raises RuntimeError, and no OSError, if it cannot write a file.
        with storage_errors(what, root, OSError, RuntimeError):
            checkpoint = save_state(state, plan.member, plan.turn, root, plan.attempt)
        with storage_errors(what, root, Exception):
            self._folders.publish(plan.member, plan.turn, file_name(STATE, plan.attempt))
        return checkpoint


def _with_way_out(account: str) -> str:
    """An account of exhausted memory, whose reason says what can be done about it."""
    reason, *trace = account.split("\n", 1)
    reason += (
        "; no other member was in this worker's memory: give fewer --workers, or a smaller model "
        "or batch"
    )
    return "\n".join([reason, *trace])


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note in `seconds` how long the block took, whether it ended well or not."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - begun
