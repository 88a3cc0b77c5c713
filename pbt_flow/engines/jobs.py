"""What a worker is asked to do, and what it answers. All of it travels between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pbt_flow.engines.restore_check import Difference
from pbt_flow.population.records import Checkpoint, Plan, Turn
from pbt_flow.space import Hparams
from pbt_flow.task import TaskSpec


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
    gpu_share: float | None = None
    """How many GPUs a worker on a cluster holds, which may be a part of one; None for one on a GPU,
    and else none."""


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
    follows_budget: bool = False
    """Whether the task's training depends on how long it is going to be."""


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


@dataclass(frozen=True, kw_only=True)
class LastDone:
    """The answer of a worker that can do no other job, since its device refuses everything now."""

    done: Done
    reason: str
    """What the device says, as a sentence."""


Check: TypeAlias = CheckRestore | CheckNoise
Checked: TypeAlias = RestoreChecked | NoiseChecked
Fresh: TypeAlias = EvaluateAfresh | EvaluateAverage
Job: TypeAlias = Plan | Retry | Inspect | Fresh | Check | Probe | Describe
Done: TypeAlias = (
    Turn | Inspection | EvaluatedAfresh | AverageEvaluated | Checked | Probed | Described
)
