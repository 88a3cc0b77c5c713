"""The worker: it runs a turn as a pure function of the turn's plan, and commits the record.

A turn is restore -> reseed -> train -> evaluate -> checkpoint -> record. All that a turn needs from
outside comes in through `Plan` and `WorkerContext`; nothing here knows of a population or of a
decision. Besides turns, a worker does the other jobs that need a model: looks, checks and probes.
"""

from __future__ import annotations

import gc
import math
import pickle
import re
import shutil
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from pbt_flow.engines.restore_check import Difference, State, Trained, compare_restored
from pbt_flow.exceptions import CheckpointError, Diverged, PBTError, StorageError, StoreError
from pbt_flow.population.checkpoints import STATE, Folders, copy_state, load_state, save_state
from pbt_flow.population.fresh_score import fresh_seed
from pbt_flow.population.records import Checkpoint, Plan, Status, Turn, derive_seed, report_seed
from pbt_flow.space import Hparams, own_hparams
from pbt_flow.task import Task, TaskSpec, declare
from pbt_flow.task.mlflow_capture import TaskLogging
from pbt_flow.utils.means import mean
from pbt_flow.utils.reasons import account_of, in_short, message_of, reason_of


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """What all turns of one population share."""

    task: TaskSpec
    seed: int
    warm: int = 1
    """How many members' tasks a worker holds in memory at most: the task that trains, and others
    that the worker keeps so that it need not build and restore them again."""
    threads: int = 1
    """How many CPU threads torch has. Torch splits sums among its threads, so that results depend
    on this number. Therefore it must not depend on the number of workers."""


@dataclass(frozen=True, kw_only=True)
class Describe:
    """A request to find a task and to return what the task declares."""

    task: str
    options: Any = None
    """Those that it is going to be built with, unchecked."""
    member: int = 0


@dataclass(frozen=True, kw_only=True)
class Described:
    """The answer to a `Describe`."""

    declaration: bytes
    """The pickled declaration; empty if the task cannot be found, or its declaration cannot be
    pickled."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A request to build one fresh model, to find out whether the task can be built at all."""

    member: int = 0


@dataclass(frozen=True, kw_only=True)
class Probed:
    """The answer to a `Probe`."""

    error: str = ""
    """Why the task cannot be built; empty if it can."""
    understood: Mapping[str, str] = field(default_factory=dict)
    """What the task understood of its data, options and environment: a sentence for each topic."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A request to run a turn again, since the worker that ran it died or hung."""

    plan: Plan
    lost: float
    """Seconds that the earlier tries took. The turn's record counts them as lost time."""

    @property
    def member(self) -> int:
        return self.plan.member


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """A request for the report and the samples of a checkpoint, which is not trained for it."""

    member: int
    checkpoint: Checkpoint
    report: bool = True
    """Whether the task's `report` is wanted."""
    samples: str | None = None
    """The folder to write samples into; None if no samples are wanted."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The answer to a `Inspect`."""

    request: Inspect
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    """Why there is no report; empty if there is one."""


@dataclass(frozen=True, kw_only=True)
class CheckRestore:
    """A request to find out whether a restored model trains on as the one that was saved."""

    member: int
    other: int
    """The member whose fresh model takes over the state."""
    checkpoint: Checkpoint
    hparams: Hparams
    steps: int
    """How many steps each short training takes."""


@dataclass(frozen=True, kw_only=True)
class RestoreChecked:
    """The answer to a `CheckRestore`."""

    check: CheckRestore
    difference: Difference | None = None
    """How the restored model differs; None if it does not, or if nothing can be said since the task
    does not repeat itself."""
    error: str = ""
    """Why the check failed; empty if it did not."""


@dataclass(frozen=True, kw_only=True)
class CheckNoise:
    """A request to evaluate a checkpoint several times, each time with another seed."""

    member: int
    checkpoint: Checkpoint
    times: int


@dataclass(frozen=True, kw_only=True)
class NoiseChecked:
    """The answer to a `CheckNoise`."""

    check: CheckNoise
    scores: tuple[float, ...] = ()
    error: str = ""
    """Why the check failed; empty if it did not."""


@dataclass(frozen=True, kw_only=True)
class EvaluateAfresh:
    """A request to evaluate a checkpoint, `times` times, on data that no decision has seen."""

    member: int
    checkpoint: Checkpoint
    first: int = 0
    """The number of the first evaluation. Each number has data of its own, which are the same for
    all checkpoints of a population."""
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class EvaluatedAfresh:
    """The answer to an `EvaluateAfresh`."""

    request: EvaluateAfresh
    scores: tuple[float, ...] = ()
    error: str = ""
    """Why there are no scores; empty if there are."""


@dataclass(frozen=True, kw_only=True)
class EvaluateAverage:
    """A request to average the weights of some checkpoints, and to evaluate the average afresh."""

    member: int
    parents: tuple[Checkpoint, ...]
    first: int = 0
    """The number of the first evaluation, as in `EvaluateAfresh`."""
    times: int = 1
    folder: str | None = None
    """The folder to write the average's state into, whose report is then made too; None if neither
    is wanted."""


@dataclass(frozen=True, kw_only=True)
class AverageEvaluated:
    """The answer to an `EvaluateAverage`."""

    request: EvaluateAverage
    scores: tuple[float, ...] = ()
    """The scores of the average; empty if the task's states cannot be averaged."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the task's `report` returned for the average, if it was wanted."""
    checkpoint: Checkpoint | None = None
    """The average's state, if it was wanted."""
    error: str = ""
    """Why there are no scores; empty if there are."""


Check: TypeAlias = CheckRestore | CheckNoise
Checked: TypeAlias = RestoreChecked | NoiseChecked
Fresh: TypeAlias = EvaluateAfresh | EvaluateAverage
Job: TypeAlias = Plan | Retry | Inspect | Fresh | Check | Probe | Describe
Done: TypeAlias = (
    Turn | Inspection | EvaluatedAfresh | AverageEvaluated | Checked | Probed | Described
)


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
        """
        self.context = context
        self.read_output = read_output
        self.reraise = reraise
        self.logging = logging or TaskLogging()
        self.device = device or context.task.device
        self.folders: Folders | None = None
        """Where the turn folders are. The engine sets this before the first turn."""
        self._warm: OrderedDict[int, tuple[str, Task]] = OrderedDict()
        """The tasks in memory by member, the least recently used first, each with the digest of the
        checkpoint that its state equals. The digest of a fresh model is empty."""
        self._understood: Mapping[str, str] | None = None
        """What the task understood when it was built first. It is the same for all members."""

    def do(self, job: Job) -> Done:
        """Do a job, and send what its task logs by itself to the run of the job's member."""
        # The model that a check trains is dropped, and so is what the task logs in it.
        member = job.member if isinstance(job, Plan | Retry | Inspect) else None
        with self.logging.job(member) as logged:
            done = self._do(job)
            logged.failed = isinstance(done, Turn) and not done.ok
        return done

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
            return Probed(error=_printable(told))
        return Probed(understood=self._understood or {})

    def run(self, plan: Plan, *, lost: float = 0.0) -> Turn:
        """Run a turn and commit its record. An exception of the task is an outcome of the turn.

        Args:
            plan: What goes into the turn.
            lost: Seconds that earlier tries of the turn took. The turn counts as begun with the
                first of them.

        Raises:
            StorageError: The checkpoint or the record cannot be written, or the checkpoint that the
                turn begins with cannot be read.
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
                returned = task.train(own_hparams(plan.hparams), plan.steps)
                metrics = _read_metrics(_with_printable_names(returned, "train()"), "train()")
            with _timed(seconds, "evaluate"):
                score, sample = read_score(task.evaluate())
                returned = task.metrics()
                evaluation = _read_metrics(
                    _with_printable_names(returned, "metrics()"), "metrics()"
                )
                notes = self._read_notes(task)
            if math.isfinite(score):
                with _timed(seconds, "checkpoint"):
                    checkpoint = self._save_checkpoint(task, plan)
                status = "ok"
                self._keep_warm(plan.member, checkpoint.digest, task)
            else:
                status, score, sample, error = "diverged", None, (), f"the score is {score}"
        except StorageError:
            # Trouble with the storage is no failure of the task: no record may blame the turn.
            raise
        except Diverged as told:
            status, score, sample, error = "diverged", None, (), _printable(message_of(told))
        except BaseException as other:
            self._raise_if_not_the_tasks(other)
            score, sample, error = None, (), _printable(account_of(other))
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
        with _storage_errors(what, self._folders.root(plan.member), Exception):
            self._folders.commit(turn, self.read_output())
        return turn

    def inspect(self, request: Inspect) -> Inspection:
        """The report of a checkpoint: metrics on data that selection never saw, and samples."""
        metrics: Mapping[str, float] = {}
        try:
            task = self._take_task(request.member, request.checkpoint)
            task.reseed(report_seed(self.context.seed))
            if request.report:
                returned = task.report()
                metrics = _read_metrics(_with_printable_names(returned, "report()"), "report()")
            if request.samples is not None:
                task.samples(Path(request.samples))
        except BaseException as error:
            self._raise_if_not_the_tasks(error)
            return Inspection(request=request, error=_printable(account_of(error)))
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
            return RestoreChecked(check=check, error=_printable(account_of(error)))
        return RestoreChecked(check=check, difference=difference)

    def check_noise(self, check: CheckNoise) -> NoiseChecked:
        """Evaluate a checkpoint several times, and drop the model afterwards."""
        try:
            task = self._take_task(check.member, check.checkpoint)
            scores = evaluate_again(check, self.context.seed, task)
        except BaseException as error:
            self._raise_if_not_the_tasks(error)
            return NoiseChecked(check=check, error=_printable(account_of(error)))
        return NoiseChecked(check=check, scores=scores)

    def evaluate_afresh(self, request: EvaluateAfresh) -> EvaluatedAfresh:
        """Evaluate a checkpoint on data that no decision has seen, and keep the model in memory."""
        try:
            task = self._take_task(request.member, request.checkpoint)
            scores = evaluate_afresh(request, self.context.seed, task)
        except BaseException as error:
            self._raise_if_not_the_tasks(error)
            return EvaluatedAfresh(request=request, error=_printable(account_of(error)))
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
                returned = task.report()
                metrics = _read_metrics(_with_printable_names(returned, "report()"), "report()")
                root = Path(request.folder)
                checkpoint = save_state(state, lead.member, lead.turn, root)
        except BaseException as error:
            self._raise_if_not_the_tasks(error)
            return AverageEvaluated(request=request, error=_printable(account_of(error)))
        return AverageEvaluated(
            request=request, scores=scores, metrics=metrics, checkpoint=checkpoint
        )

    def _raise_if_not_the_tasks(self, error: BaseException) -> None:
        """Raise an exception again if it is not the task's own."""
        if isinstance(error, self.reraise):
            raise error

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
                self._understood = _read_understood(task)
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
        with _storage_errors(what, self._folders.root(start.member), OSError, StoreError):
            return load_state(start, self._folders.fetch(start), self.device)

    def _read_notes(self, task: Task) -> dict[str, str]:
        """What the task understands now, and did not understand when it was built."""
        before, now = self._understood or {}, _read_understood(task)
        return {topic: text for topic, text in now.items() if before.get(topic) != text}

    def _make_room(self) -> None:
        """Drop the least recently used tasks until there is room for one more."""
        while len(self._warm) >= self.context.warm:
            self._warm.popitem(last=False)
            # A task in a reference cycle would keep its memory until some later collection.
            gc.collect()

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
        with _storage_errors(what, root, OSError, RuntimeError):
            checkpoint = save_state(state, plan.member, plan.turn, root)
        with _storage_errors(what, root, Exception):
            self._folders.publish(plan.member, plan.turn, STATE)
        return checkpoint


def try_restoring(
    check: CheckRestore,
    seed: int,
    *,
    build: Callable[[int], Task],
    load: Callable[[], State],
    through_file: Callable[[State], State],
) -> Difference | None:
    """Do what `CheckRestore` asks for, with the seeds that turns of the population would have.

    Args:
        check: The request.
        seed: The population's seed.
        build: Builds a fresh model from a seed.
        load: Reads the check's checkpoint.
        through_file: Returns a state as it would come back from a checkpoint.
    """

    def train(task: Task, part: int) -> Trained:
        task.reseed(derive_seed(seed, check.member, check.checkpoint.turn + 1 + part))
        task.train(own_hparams(check.hparams), check.steps)
        # Both parts are evaluated, as each turn is: an evaluation too may change what training
        # depends on, and the state may leave that out.
        score, _ = read_score(task.evaluate())
        return Trained(score=score, state=through_file(task.state_dict()))

    return compare_restored(
        build=lambda: build(derive_seed(seed, check.member, 0)),
        build_other=lambda: build(derive_seed(seed, check.other, 0)),
        load=load,
        through_file=through_file,
        train=train,
    )


def evaluate_again(check: CheckNoise, seed: int, task: Task) -> tuple[float, ...]:
    """The scores of `CheckNoise`.

    Args:
        check: The request.
        seed: The population's seed.
        task: A task in the state of the check's checkpoint.
    """
    turn_seed = derive_seed(seed, check.member, check.checkpoint.turn)
    scores = []
    for number in range(check.times):
        task.reseed(derive_seed(turn_seed, check.member, number))
        score, _ = read_score(task.evaluate())
        scores.append(score)
    return tuple(scores)


def evaluate_afresh(request: Fresh, seed: int, task: Task) -> tuple[float, ...]:
    """The scores of the fresh evaluations that a request asks for.

    Args:
        request: The request.
        seed: The population's seed.
        task: A task in the state that is to be evaluated.
    """
    scores = []
    for number in range(request.first, request.first + request.times):
        task.reseed(fresh_seed(seed, number))
        score, _ = read_score(task.evaluate_fresh())
        scores.append(score)
    return tuple(scores)


def _printable(text: str) -> str:
    """A text with escapes for what files and databases refuse: zero bytes and lone surrogates."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def read_score(returned: Any) -> tuple[float, tuple[float, ...]]:
    """The score, and the sample that it is the mean of, from what `Task.evaluate` returned.

    The sample of a single number is empty.

    Raises:
        TypeError: `evaluate` returned neither a number nor a sequence of at least one number.
    """
    try:
        if isinstance(returned, str | bytes | Mapping):
            raise TypeError
        # A tensor without dimensions has `__len__`, which raises: it counts as a number.
        if getattr(returned, "ndim", 1) == 0 or not hasattr(returned, "__len__"):
            return float(returned), ()
        sample = tuple(float(value) for value in returned)
        if not sample:
            raise TypeError
        return mean(sample), sample
    except (TypeError, ValueError):
        raise TypeError(
            f"evaluate() must return a number or a sequence of numbers, got {in_short(returned)}"
        ) from None
    except OverflowError:
        raise TypeError(
            f"evaluate() must return numbers that a float can hold, got {in_short(returned)}"
        ) from None


def _read_metrics(returned: Any, what: str) -> dict[str, float]:
    """The metrics that a task's method returned, as floats; none if it returned None.

    Args:
        returned: What the method returned.
        what: The method, for the message.

    Raises:
        TypeError: The method returned no mapping, or one of its metrics is no number. The message
            names the metric.
    """
    if returned is None:
        return {}
    try:
        plain = dict(returned)
    except (TypeError, ValueError):
        raise TypeError(
            f"{what} must return a mapping of names to numbers, got {in_short(returned)}"
        ) from None
    found: dict[str, float] = {}
    for name, value in plain.items():
        try:
            found[str(name)] = float(value)
        except Exception as error:
            raise TypeError(
                f"{what} must return a mapping of names to numbers that a float can hold: the "
                f"metric {in_short(name)} is {in_short(value)} ({reason_of(error)})"
            ) from error
    return found


def _with_printable_names(returned: Any, what: str) -> Any:
    """The metrics that a task's method returned, under names that files and databases take.

    What is no mapping is returned as it is: `_read_metrics` says what is wrong with it.

    Raises:
        ValueError: Two names are written alike, such as 1 and "1".
    """
    if not isinstance(returned, Mapping):
        return returned
    # A lone surrogate in a metric's name would stop every message to MLflow that has the name.
    names = {name: _printable(str(name)) for name in returned}
    for written, count in Counter(names.values()).items():
        if count > 1:
            raise ValueError(
                f"{what} returned {count} metrics whose names are written {written!r}; name "
                "metrics by texts that differ"
            )
    return {names[name]: value for name, value in returned.items()}


_LONGEST_SENTENCE = 1000


def _read_understood(task: Task) -> dict[str, str]:
    """What the task understood: each topic, and the sentence on it, on one line.

    These sentences are for people, and must not stop the training. So an error in `understood`
    becomes a sentence itself.
    """
    try:
        told = dict(task.understood())
        return {_topic_name(str(topic)): _on_one_line(str(text)) for topic, text in told.items()}
    except (Exception, SystemExit) as error:
        reason = _on_one_line(reason_of(error))
        return {"understood": f"understood() must return a sentence for each topic: {reason}"}


def _topic_name(text: str) -> str:
    """A topic as it can be part of a tag's name in MLflow."""
    return re.sub(r"[^\w\-. ]", "_", _on_one_line(text))[:100] or "_"


def _on_one_line(text: str) -> str:
    """A text on one line, cut if it is long."""
    line = _printable(" ".join(text.split()))
    return line if len(line) <= _LONGEST_SENTENCE else f"{line[: _LONGEST_SENTENCE - 1]}…"


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note in `seconds` how long the block took, whether it ended well or not."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - begun


@contextmanager
def _storage_errors(what: str, root: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn the errors of a storage place into a `StorageError`.

    Args:
        what: What the block does there, such as "read the checkpoint of member 0, turn 1".
        root: The folder on this machine.
        errors: The exceptions that count as trouble with the place. Others are the task's own.

    Raises:
        StorageError: The block raised one of `errors`. The message says why, and where on this
            machine something has to be done.
    """
    try:
        yield
    except CheckpointError:
        # It is the state that is wrong, and not the place.
        raise
    except errors as error:
        reason = " ".join(message_of(error).split()) or type(error).__name__
        # A remote store's error has no error number of this machine's system. A folder here is then
        # not at fault, and the message names none.
        from_torch = isinstance(error, RuntimeError) and not isinstance(error, StoreError)
        if from_torch or getattr(error, "errno", None) is not None:
            there = next(place for place in (root, *root.parents) if place.exists())
            if what.startswith("read "):
                reason += f"; make {there} readable for the user that the workers run as"
            else:
                free = f"{shutil.disk_usage(there).free:,} bytes are free"
                reason += f"; make room in {there} ({free}), or make it writable"
        raise StorageError(f"cannot {what}: {reason}") from error
