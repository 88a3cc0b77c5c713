"""The records of Population Based Training: member, plan, turn, checkpoint. All frozen.

A *turn* is one interval of one member. A `Plan` is what goes into it, decided by the controller; a
`Turn` is the plan together with what came out, written by the worker. A `Member` is where one slot
of the population stands between two turns; it follows from the member's turns alone
(`Member.after`), so that a population can be rebuilt from its turn records.

Two clocks run in each record. `turn` and `trained` count a member's own effort and only grow;
`step` is the age of its weights along their lineage, and after a copy it is the donor's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pbt_flow.errors import PBTError
from pbt_flow.space import Hparams

Copies = Literal["both", "weights", "hparams"]
Status = Literal["ok", "diverged", "failed", "lost"]
Direction = Literal["maximize", "minimize"]


def derive_seed(seed: int, member: int, turn: int) -> int:
    """The seed of one turn of one member; turn 0 seeds the member's fresh model."""
    state = np.random.SeedSequence([seed, member, turn]).generate_state(1, np.uint32)
    return int(state[0])


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A reference to the immutable state that one turn left behind; it holds no bytes itself."""

    member: int
    turn: int
    digest: str
    """SHA-256 of the file, in hexadecimal."""
    size: int
    """Bytes of the file."""


@dataclass(frozen=True, kw_only=True)
class Donor:
    """Whom a member has copied: one turn of another member, and what was taken from it."""

    member: int
    turn: int
    copies: Copies


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What goes into a turn. Together with the task's options it determines what comes out."""

    member: int
    turn: int
    """The member's how-manieth turn, from 1."""
    seed: int
    """Seeds all randomness of the turn; a function of the population's seed, member and turn."""
    hparams: Hparams
    """The hyperparameters that are live in this turn."""
    steps: int
    """How long to train, in the task's own unit."""
    start: Checkpoint | None = None
    """The state to begin with; None for a fresh model."""
    start_step: int = 0
    """The age of the weights at the beginning, in steps along their lineage."""
    trained: int
    """Steps of the member's own effort when the turn is over."""
    donor: Donor | None = None
    """Whom the member copied just before the turn."""
    compared_at: int | None = None
    """The age, in steps, at which scores were last compared for this member."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One interval of one member: its plan, and what came out. The unit of the record."""

    plan: Plan
    status: Status
    """`ok`; `diverged`: the score was no finite number; `failed`: the task raised an exception;
    `lost`: the worker died or exceeded the time limit."""
    score: float | None = None
    """What `Task.evaluate` returned, or the mean of the sample. None unless `ok`."""
    sample: tuple[float, ...] = ()
    """The sample behind the score (such as episode returns), for tests between members."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What `Task.train` returned."""
    checkpoint: Checkpoint | None = None
    """The new state. None unless `ok`."""
    error: str = ""
    """Why the turn is not `ok`."""
    started: float = 0.0
    """Seconds since the epoch."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall-clock seconds of restore, train, evaluate and checkpoint."""

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def member(self) -> int:
        return self.plan.member

    @property
    def number(self) -> int:
        return self.plan.turn

    @property
    def step(self) -> int:
        """The age of the weights after the turn; a failed one leaves those that it began with."""
        return self.plan.start_step + (self.plan.steps if self.ok else 0)

    @property
    def ended(self) -> float:
        return self.started + sum(self.seconds.values())

    def fitness(self, direction: Direction) -> float:
        """The score as used for ranking: greater is better, and no score is worst of all."""
        if self.score is None:
            return -math.inf
        return self.score if direction == "maximize" else -self.score


@dataclass(frozen=True, kw_only=True)
class Member:
    """One slot of the population between two turns."""

    index: int
    hparams: Hparams
    checkpoint: Checkpoint | None = None
    step: int = 0
    turn: int = 0
    """Turns done."""
    trained: int = 0
    """Steps of its own effort so far."""
    donor: Donor | None = None
    """Whom it copied before its last turn."""
    copied_after: int = 0
    """Turns that it had done when it last copied: older scores are not those of its weights."""
    compared_at: int | None = None
    score: float | None = None
    failures: int = 0
    """Turns in a row that were not ok."""

    @property
    def age(self) -> int:
        """The age at which it is compared; one that failed rejoins the others at its own effort."""
        return self.trained if self.failures else self.step

    def after(self, turn: Turn) -> Member:
        """The member once `turn` is done.

        Raises:
            ValueError: The turn is not the next one of this member.
        """
        if turn.member != self.index or turn.number != self.turn + 1:
            raise ValueError(
                f"turn {turn.number} of member {turn.member} cannot follow turn {self.turn} of "
                f"member {self.index}"
            )
        plan = turn.plan
        return dataclasses.replace(
            self,
            hparams=plan.hparams,
            checkpoint=turn.checkpoint if turn.ok else plan.start,
            step=turn.step,
            turn=plan.turn,
            trained=plan.trained,
            donor=plan.donor,
            copied_after=self.turn if plan.donor else self.copied_after,
            compared_at=plan.compared_at,
            score=turn.score,
            failures=0 if turn.ok else self.failures + 1,
        )


# --- turn.json ------------------------------------------------------------------------------------


class RecordError(PBTError, ValueError):
    """A turn record that cannot be trusted: altered, truncated, or of another version."""


def turn_to_json(turn: Turn) -> dict[str, Any]:
    """The turn as plain JSON values. A metric that is not finite becomes null."""
    plain = dataclasses.asdict(turn)
    plain["metrics"] = {k: v if math.isfinite(v) else None for k, v in turn.metrics.items()}
    return {"version": 1, **plain}


def turn_from_json(plain: Any) -> Turn:
    """The inverse of `turn_to_json`.

    Raises:
        RecordError: A field is missing, unknown, or of the wrong kind.
    """
    try:
        plain = dict(plain)
        if (version := plain.pop("version")) != 1:
            raise RecordError(f"a turn record of version {version!r}, this program reads version 1")
        plan = dict(plain.pop("plan"))
        plan["start"] = _checkpoint(plan["start"])
        plan["donor"] = None if plan["donor"] is None else Donor(**plan["donor"])
        plan["hparams"] = dict(plan["hparams"])
        metrics = {k: math.nan if v is None else float(v) for k, v in plain.pop("metrics").items()}
        turn = Turn(
            plan=Plan(**plan),
            metrics=metrics,
            checkpoint=_checkpoint(plain.pop("checkpoint")),
            sample=tuple(float(x) for x in plain.pop("sample")),
            **plain,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordError(f"not a turn record: {type(error).__name__}: {error}") from None
    numbers = (turn.member, turn.number, turn.plan.steps, turn.plan.start_step, turn.plan.trained)
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise RecordError(f"not a turn record: counts must be whole numbers from 0, got {numbers}")
    if turn.ok != (turn.checkpoint is not None) or turn.ok != (turn.score is not None):
        raise RecordError(
            f"a turn with status {turn.status!r} has a score and checkpoint iff it is ok"
        )
    return turn


def _checkpoint(plain: Any) -> Checkpoint | None:
    if plain is None:
        return None
    checkpoint = Checkpoint(**plain)
    if type(checkpoint.member) is not int or type(checkpoint.turn) is not int:
        raise RecordError(f"a checkpoint is named by two whole numbers, got {plain}")
    return checkpoint
