"""What a worker does: run one turn, as a pure function of its plan, and commit it.

restore -> reseed -> train -> evaluate -> checkpoint -> record. Everything a turn needs from outside
comes in through `Plan` and `WorkerContext`; nothing here knows of a population or a decision.
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
    """How many members' tasks a worker has in memory at most: the one that trains, and others that
    it keeps to save building and restoring them."""
    threads: int = 1
    """CPU threads of torch. Sums are split among them, so that results depend on their number: it
    must not follow from the number of workers."""


@dataclass(frozen=True, kw_only=True)
class Describe:
    """A request to find a task and to say what it declares."""

    task: str
    options: Any = None
    """Those that it is going to be built with, unchecked."""
    member: int = 0


@dataclass(frozen=True, kw_only=True)
class Described:
    """The answer to a `Describe`, pickled; empty where the task's declaration cannot travel."""

    declaration: bytes


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
    """What the task understood of its data, options and environment, by topic."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A request to run a turn again, since the worker that ran it died or hung."""

    plan: Plan
    lost: float
    """Seconds that the tries before this one took. The record tells them, as time that was lost."""

    @property
    def member(self) -> int:
        return self.plan.member


@dataclass(frozen=True, kw_only=True)
class Look:
    """A request to look at a checkpoint without training it: report metrics, and samples."""

    member: int
    checkpoint: Checkpoint
    report: bool = True
    """Whether the task's `report` is wanted."""
    samples: str | None = None
    """The folder to write samples into, if they are wanted."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The answer to a `Look`."""

    look: Look
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class CheckRestore:
    """A request to find out whether a restored model trains on as the one that was saved."""

    member: int
    other: int
    """Whose fresh model takes over the state."""
    checkpoint: Checkpoint
    hparams: Hparams
    steps: int
    """How long each short training is."""


@dataclass(frozen=True, kw_only=True)
class RestoreChecked:
    """The answer to a `CheckRestore`."""

    check: CheckRestore
    difference: Difference | None = None
    error: str = ""
    """Why the check came to nothing; empty if it did not."""


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
    """Why the check came to nothing; empty if it did not."""


@dataclass(frozen=True, kw_only=True)
class EvaluateAfresh:
    """A request to evaluate a checkpoint on data that no decision has seen, some times."""

    member: int
    checkpoint: Checkpoint
    first: int = 0
    """The number of the first of these evaluations: each number has data of its own, the same for
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
    """A request to average the weights of some checkpoints, and to evaluate that afresh."""

    member: int
    parents: tuple[Checkpoint, ...]
    first: int = 0
    """The number of the first of these evaluations, as of `EvaluateAfresh`."""
    times: int = 1
    folder: str | None = None
    """Where to write its state, if it is wanted; the task's report is made then as well."""


@dataclass(frozen=True, kw_only=True)
class AverageEvaluated:
    """The answer to an `EvaluateAverage`."""

    request: EvaluateAverage
    scores: tuple[float, ...] = ()
    """Empty where the states of the task have no mean."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the task's `report` measured, where it was wanted."""
    checkpoint: Checkpoint | None = None
    """Its state, where it was wanted."""
    error: str = ""
    """Why there are no scores; empty if there are."""


Check: TypeAlias = CheckRestore | CheckNoise
Checked: TypeAlias = RestoreChecked | NoiseChecked
Fresh: TypeAlias = EvaluateAfresh | EvaluateAverage
Job: TypeAlias = Plan | Retry | Look | Fresh | Check | Probe | Describe
Done: TypeAlias = Turn | Report | EvaluatedAfresh | AverageEvaluated | Checked | Probed | Described


def describe(job: Describe, passes: tuple[type[BaseException], ...] = ()) -> Described:
    """Say what a task declares.

    Whoever asked finds out for himself what is wrong with a task that cannot be described.

    Args:
        job: The task.
        passes: Exceptions that are not the task's own, see `Worker`.
    """
    try:
        return Described(declaration=pickle.dumps(declare(job.task, job.options)))
    except BaseException as error:
        if isinstance(error, passes):
            raise
        return Described(declaration=b"")


class Worker:
    """Runs turns one after another and keeps the latest members' tasks in memory."""

    def __init__(
        self,
        context: WorkerContext,
        device: str | None = None,
        printed: Callable[[], str] = lambda: "",
        passes: tuple[type[BaseException], ...] = (),
        logging: TaskLogging | None = None,
    ) -> None:
        """Make one for a population.

        Args:
            context: What all its turns share.
            device: The torch device; None for the one that the task asks for.
            printed: What this process has printed since it was last asked.
            passes: Exceptions that are not the task's own, such as the user's Ctrl-C in a process
                that Ctrl-C reaches. All others are outcomes of a job.
            logging: Where it goes what tasks log through MLflow by themselves; None for wherever
                MLflow sends it.
        """
        self.context = context
        self.printed = printed
        self.passes = passes
        self.logging = logging or TaskLogging()
        self.device = device or context.task.device
        self.folders: Folders | None = None
        """Where the turn folders are; to be set before the first turn."""
        self._warm: OrderedDict[int, tuple[str, Task]] = OrderedDict()
        self._understood: Mapping[str, str] | None = None
        """What the task understood when it was built. All members understand the same."""

    def do(self, job: Job) -> Done:
        """Run a turn, look at a checkpoint, check, probe or describe the task."""
        # What a check trains is dropped, and so is what it logs.
        member = job.member if isinstance(job, Plan | Retry | Look) else None
        with self.logging.job(member) as noted:
            done = self._do(job)
            noted.failed = isinstance(done, Turn) and not done.ok
        return done

    def _do(self, job: Job) -> Done:
        if isinstance(job, Plan):
            return self.run(job)
        if isinstance(job, Retry):
            return self.run(job.plan, lost=job.lost)
        if isinstance(job, Look):
            return self.look(job)
        if isinstance(job, CheckRestore):
            return self.check_restore(job)
        if isinstance(job, CheckNoise):
            return self.check_noise(job)
        if isinstance(job, EvaluateAfresh):
            return self.evaluate_afresh(job)
        if isinstance(job, EvaluateAverage):
            return self.evaluate_average(job)
        return self.probe(job) if isinstance(job, Probe) else describe(job, self.passes)

    def probe(self, probe: Probe) -> Probed:
        """Build a fresh model, and keep it for the member's first turn."""
        try:
            task = self._take(probe.member, None)
            # There are no runs yet: a task that logs while it is built is built again later.
            if not self.logging.used:
                self._keep(probe.member, "", task)
        except BaseException as error:
            self._let_pass(error)
            # An error of ours, and of our tasks, is a sentence that needs no type before it.
            ours = isinstance(error, PBTError)
            return Probed(error=_printable(message_of(error) if ours else reason_of(error)))
        return Probed(understood=self._understood or {})

    def run(self, plan: Plan, *, lost: float = 0.0) -> Turn:
        """Run a turn and commit it. An exception of the task is an outcome, and not raised.

        Args:
            plan: What goes into the turn.
            lost: Seconds that earlier tries of the turn took, which it then began with.

        Raises:
            StorageError: The checkpoint or the record could not be written, or what the turn begins
                with not be read.
        """
        started, seconds = time.time() - lost, {"lost": lost} if lost else {}
        status: Status = "failed"
        score: float | None = None
        sample: tuple[float, ...] = ()
        metrics: Mapping[str, float] = {}
        evaluation: Mapping[str, float] = {}
        notes: Mapping[str, str] = {}
        checkpoint: Checkpoint | None = None
        error = ""
        self.printed()  # between turns, by the samples of another member perhaps
        try:
            with _lap(seconds, "restore"):
                task = self._take(plan.member, plan.start)
                task.reseed(plan.seed)
            with _lap(seconds, "train"):
                returned = _named(task.train(own_hparams(plan.hparams), plan.steps), "train()")
                metrics = _read_metrics(returned, "train()")
            with _lap(seconds, "evaluate"):
                score, sample = read_score(task.evaluate())
                evaluation = _read_metrics(_named(task.metrics(), "metrics()"), "metrics()")
                notes = self._notes(task)
            if math.isfinite(score):
                with _lap(seconds, "checkpoint"):
                    checkpoint = self._save(task, plan)
                status = "ok"
                self._keep(plan.member, checkpoint.digest, task)
            else:
                status, score, sample, error = "diverged", None, (), f"the score is {score}"
        except StorageError:
            raise
        except Diverged as told:
            status, score, sample, error = "diverged", None, (), _printable(message_of(told))
        except BaseException as other:
            self._let_pass(other)
            score, sample, error = None, (), _account(other)
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
        with _storage(what, self._folders.root(plan.member), Exception):
            self._folders.commit(turn, self.printed())
        return turn

    def look(self, look: Look) -> Report:
        """Report on a checkpoint: metrics on data that selection never saw, and samples."""
        try:
            task = self._take(look.member, look.checkpoint)
            task.reseed(report_seed(self.context.seed))
            returned = _named(task.report(), "report()") if look.report else {}
            metrics = _read_metrics(returned, "report()")
            if look.samples is not None:
                task.samples(Path(look.samples))
        except BaseException as error:
            self._let_pass(error)
            return Report(look=look, error=_account(error))
        return Report(look=look, metrics=metrics)

    def check_restore(self, check: CheckRestore) -> RestoreChecked:
        """Train a model on and another one from its state; both are made for this and dropped."""
        if self._warm:
            self._warm.popitem(last=False)  # room for the one that is trained here

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
            self._let_pass(error)
            return RestoreChecked(check=check, error=_account(error))
        return RestoreChecked(check=check, difference=difference)

    def check_noise(self, check: CheckNoise) -> NoiseChecked:
        """Evaluate a checkpoint again and again; the model is dropped afterwards."""
        try:
            task = self._take(check.member, check.checkpoint)
            scores = evaluate_again(check, self.context.seed, task)
        except BaseException as error:
            self._let_pass(error)
            return NoiseChecked(check=check, error=_account(error))
        return NoiseChecked(check=check, scores=scores)

    def evaluate_afresh(self, request: EvaluateAfresh) -> EvaluatedAfresh:
        """Evaluate a checkpoint on data that no decision has seen; its model stays in memory."""
        try:
            task = self._take(request.member, request.checkpoint)
            scores = evaluate_afresh(request, self.context.seed, task)
        except BaseException as error:
            self._let_pass(error)
            return EvaluatedAfresh(request=request, error=_account(error))
        self._keep(request.member, request.checkpoint.digest, task)
        return EvaluatedAfresh(request=request, scores=scores)

    def evaluate_average(self, request: EvaluateAverage) -> AverageEvaluated:
        """Average some checkpoints and evaluate the average; its model is dropped afterwards."""
        lead, checkpoint = request.parents[0], None
        metrics: Mapping[str, float] = {}
        try:
            task = self._take(request.member, lead)
            state = task.average([self._load(parent) for parent in request.parents])
            if state is None:
                return AverageEvaluated(request=request)
            task.load_state_dict(state)
            scores = evaluate_afresh(request, self.context.seed, task)
            if request.folder is not None:
                task.reseed(report_seed(self.context.seed))
                metrics = _read_metrics(_named(task.report(), "report()"), "report()")
                root = Path(request.folder)
                checkpoint = save_state(state, lead.member, lead.turn, root)
        except BaseException as error:
            self._let_pass(error)
            return AverageEvaluated(request=request, error=_account(error))
        return AverageEvaluated(
            request=request, scores=scores, metrics=metrics, checkpoint=checkpoint
        )

    def _let_pass(self, error: BaseException) -> None:
        """Raise an exception again that is not the task's own."""
        if isinstance(error, self.passes):
            raise error

    @property
    def _folders(self) -> Folders:
        assert self.folders is not None, "the engine sets the folders before the first turn"
        return self.folders

    def _take(self, member: int, start: Checkpoint | None) -> Task:
        """The member's task in the state `start`, taken out of the warm ones."""
        # A fresh model is kept under the digest of no checkpoint.
        digest, task = self._warm.pop(member, ("", None))
        if task is None or (start is None and digest):
            task = None
            self._make_room()
            seed = derive_seed(self.context.seed, member, 0)
            task = self.context.task.build(seed, self.device)
            if self._understood is None:
                self._understood = _read_understood(task)
        if start is not None and start.digest != digest:
            task.load_state_dict(self._load(start))
        return task

    def _load(self, start: Checkpoint) -> State:
        """The state of a checkpoint.

        Raises:
            CheckpointError: The state is gone, or is not the one that the turn wrote.
            StorageError: The place where it lies cannot be read.
        """
        what = f"read the checkpoint of member {start.member}, turn {start.turn}"
        with _storage(what, self._folders.root(start.member), OSError, StoreError):
            return load_state(start, self._folders.fetch(start), self.device)

    def _notes(self, task: Task) -> dict[str, str]:
        """What the task understands by now that it did not when it was built."""
        before = self._understood or {}
        return {k: v for k, v in _read_understood(task).items() if before.get(k) != v}

    def _make_room(self) -> None:
        """Let go of the tasks that have waited longest, until there is room for one more."""
        # Before the new one is built: a GPU need never hold more than `warm` of them.
        while len(self._warm) >= self.context.warm:
            self._warm.popitem(last=False)
            # A task may be part of a cycle, and would keep its memory until a later collection.
            gc.collect()

    def _keep(self, member: int, digest: str, task: Task) -> None:
        self._warm[member] = (digest, task)

    def _save(self, task: Task, plan: Plan) -> Checkpoint:
        folders, state = self._folders, task.state_dict()
        what = f"write the checkpoint of member {plan.member}, turn {plan.turn}"
        root = folders.root
        with _storage(what, root(plan.member), OSError, RuntimeError):
            checkpoint = save_state(state, plan.member, plan.turn, root(plan.member))
        with _storage(what, root(plan.member), Exception):
            folders.publish(plan.member, plan.turn, STATE)
        return checkpoint


def try_restoring(
    check: CheckRestore,
    seed: int,
    *,
    build: Callable[[int], Task],
    load: Callable[[], State],
    through_file: Callable[[State], State],
) -> Difference | None:
    """What `CheckRestore` asks for, with the seeds of a population's own turns.

    Args:
        check: The request.
        seed: The population's.
        build: Makes a fresh model from a seed.
        load: Reads the check's checkpoint.
        through_file: Gives a state back as it would come from a checkpoint.
    """

    def train(task: Task, part: int) -> Trained:
        task.reseed(derive_seed(seed, check.member, check.checkpoint.turn + 1 + part))
        task.train(own_hparams(check.hparams), check.steps)
        # Evaluated in both parts, as in any turn: that may be what changes something unsaved.
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
    """What `CheckNoise` asks for, of a task in the check's state; `seed` is the population's."""
    scores, turn_seed = [], derive_seed(seed, check.member, check.checkpoint.turn)
    for number in range(check.times):
        task.reseed(derive_seed(turn_seed, check.member, number))
        scores.append(read_score(task.evaluate())[0])
    return tuple(scores)


def evaluate_afresh(request: Fresh, seed: int, task: Task) -> tuple[float, ...]:
    """The evaluations that a request asks for, of a task that is in the state to be evaluated.

    `seed` is the population's.
    """
    scores = []
    for number in range(request.first, request.first + request.times):
        task.reseed(fresh_seed(seed, number))
        scores.append(read_score(task.evaluate_fresh())[0])
    return tuple(scores)


def _account(error: BaseException) -> str:
    """The reason and the traceback of an exception of the task."""
    return _printable(account_of(error))


def _printable(text: str) -> str:
    """A text that files and databases take: names may come with what is no character."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def read_score(returned: Any) -> tuple[float, tuple[float, ...]]:
    """The score and its sample from what `Task.evaluate` returned.

    Raises:
        TypeError: It is neither a number nor a sequence of at least one number.
    """
    try:
        if isinstance(returned, str | bytes | Mapping):
            raise TypeError
        # A tensor without dimensions has a length only to say that it has none.
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
    """The metrics that a task's method returned, as floats.

    Raises:
        TypeError: It returned no mapping, or a metric that is no number; the message names it.
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


def _named(returned: Any, what: str) -> Any:
    """The metrics that a task returned, under names that files and databases take.

    Raises:
        ValueError: Two of them are written alike, such as 1 and "1".
    """
    if not isinstance(returned, Mapping):
        return returned
    # A lone surrogate in a name would stop every note on the run that tells the name.
    names = {name: _printable(str(name)) for name in returned}
    written, count = Counter(names.values()).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise ValueError(
            f"{what} returned {count} metrics whose names are written {written!r}; name metrics by "
            "texts that differ"
        )
    return {names[name]: value for name, value in returned.items()}


_LONGEST_SENTENCE = 1000


def _read_understood(task: Task) -> dict[str, str]:
    """What the task understood, each topic and sentence on one line.

    It is for people to read, and must not stop the training: what is wrong with it is said there.
    """
    try:
        told = dict(task.understood())
        return {_topic(str(topic)): _on_one_line(str(text)) for topic, text in told.items()}
    except (Exception, SystemExit) as error:
        reason = _on_one_line(reason_of(error))
        return {"understood": f"understood() must return a sentence for each topic: {reason}"}


def _topic(text: str) -> str:
    """A topic as it can be part of a tag's name in MLflow."""
    return re.sub(r"[^\w\-. ]", "_", _on_one_line(text))[:100] or "_"


def _on_one_line(text: str) -> str:
    line = _printable(" ".join(text.split()))
    return line if len(line) <= _LONGEST_SENTENCE else f"{line[: _LONGEST_SENTENCE - 1]}…"


@contextmanager
def _lap(seconds: dict[str, float], name: str) -> Iterator[None]:
    begun = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - begun


@contextmanager
def _storage(what: str, root: Path, *errors: type[Exception]) -> Iterator[None]:
    """Tell trouble with a place from an error of the task.

    Args:
        what: What is being done there.
        root: The place on this machine.
        errors: What counts as trouble with it.

    Raises:
        StorageError: One of `errors` was raised; the message says why, and where on this machine.
    """
    try:
        yield
    except CheckpointError:
        raise
    except errors as error:
        reason = " ".join(message_of(error).split()) or type(error).__name__
        # Not of a store elsewhere: its errors have no number of this machine's system.
        torch_says = isinstance(error, RuntimeError) and not isinstance(error, StoreError)
        if torch_says or getattr(error, "errno", None) is not None:
            there = next(place for place in (root, *root.parents) if place.exists())
            if what.startswith("read "):
                reason += f"; let {there} be read by whom the workers run as"
            else:
                free = f"{shutil.disk_usage(there).free:,} bytes are free"
                reason += f"; make room in {there} ({free}), or let it be written to"
        raise StorageError(f"cannot {what}: {reason}") from error
