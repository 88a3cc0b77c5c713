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
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from pbt_flow.exceptions import RecordError, SpaceError
from pbt_flow.space import Hparams, Space, fitted
from pbt_flow.utils.reasons import reason_in
from pbt_flow.utils.values import is_container

Copies = Literal["both", "weights", "hparams"]
Status = Literal["ok", "diverged", "failed", "lost"]
Direction = Literal["maximize", "minimize"]
ReportDirection = Direction | Mapping[str, Direction] | None
"""Which way a report is better: its first metric, or each metric by name; None if nobody said."""


def derive_seed(seed: int, member: int, turn: int) -> int:
    """The seed of one turn of one member; turn 0 seeds the member's fresh model."""
    state = np.random.SeedSequence([seed, member, turn]).generate_state(1, np.uint32)
    return int(state[0])


def report_seed(seed: int) -> int:
    """The seed of all reports of a population.

    It follows from the population's seed alone: a report that draws its data then draws the same
    for all members, and for a control with the same seed. No turn has the number 0.
    """
    return derive_seed(seed, 0, 0)


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
    """The age, in steps, at which scores were compared just before the turn; None if none were, as
    before a rescue."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One interval of one member: its plan, and what came out. The unit of the record."""

    plan: Plan
    status: Status
    """`ok`; `diverged`: the score, or what it follows from, was no finite number; `failed`: the
    task raised an exception; `lost`: the worker died or exceeded the time limit."""
    score: float | None = None
    """What `Task.evaluate` returned, or the mean of the sample. None unless `ok`."""
    sample: tuple[float, ...] = ()
    """The sample behind the score (such as episode returns), for tests between members."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What `Task.train` returned."""
    evaluation: Mapping[str, float] = field(default_factory=dict)
    """What `Task.metrics` returned after `evaluate`."""
    checkpoint: Checkpoint | None = None
    """The new state. None unless `ok`."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What the task understood in this turn that it did not when it was built, by topic."""
    error: str = ""
    """Why the turn is not `ok`; of an exception the reason, and below it the traceback."""
    started: float = 0.0
    """Seconds since the epoch."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall-clock seconds of restore, train, evaluate and checkpoint; and as `lost`, those of tries
    whose worker died or hung."""

    @property
    def took(self) -> float:
        """Seconds of the try that counts: tries that came to nothing are not in them."""
        return sum(seconds for name, seconds in self.seconds.items() if name != "lost")

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def reason(self) -> str:
        """Why the turn is not `ok`, in one line: of an exception its type and what it says."""
        # What a dead worker printed last, perhaps a traceback, comes after how it died.
        lost = self.error.strip().splitlines()[:1] if self.status == "lost" else []
        return lost[0] if lost else reason_in(self.error)

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


_METRICS = ("metrics", "evaluation")
"""The fields of a turn whose numbers need not be finite."""


def turn_to_json(turn: Turn) -> dict[str, Any]:
    """The turn as plain JSON values. A metric that is not finite becomes null."""
    plain = dataclasses.asdict(turn)
    if not turn.notes:
        # A turn without notes is written as it was before there were any.
        del plain["notes"]
    for name in _METRICS:
        plain[name] = {k: v if math.isfinite(v) else None for k, v in plain[name].items()}
    return {"version": 1, **plain}


def turn_from_json(plain: Any) -> Turn:
    """The inverse of `turn_to_json`.

    Raises:
        RecordError: A field is missing, unknown, or of the wrong kind.
    """
    if not isinstance(plain, Mapping) or plain.get("version") != 1:
        version = plain.get("version") if isinstance(plain, Mapping) else None
        raise RecordError(f"a turn record of version {version!r}, this program reads version 1")
    fields = {"notes": {}} | {k: v for k, v in plain.items() if k != "version"}
    turn: Turn = _read("turn", fields, Turn)
    if turn.ok != (turn.checkpoint is not None) or turn.ok != (turn.score is not None):
        raise RecordError(f"a turn record of status {turn.status!r}: ok means score and checkpoint")
    return turn


def fitted_turn(turn: Turn, space: Space) -> Turn:
    """The turn with the tuples of the space, where its record has lists.

    Raises:
        RecordError: Its record has a list or a mapping that is no choice of the space.
    """
    if not any(map(is_container, turn.plan.hparams.values())):
        return turn
    try:
        hparams = fitted(turn.plan.hparams, space)
    except SpaceError as error:
        raise RecordError(f"turn {turn.number} of member {turn.member}: {error}") from None
    return dataclasses.replace(turn, plan=dataclasses.replace(turn.plan, hparams=hparams))


def _read(where: str, value: Any, hint: Any) -> Any:
    """`value` as the type that `hint` says, or an error that says where it is not."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        hints = get_type_hints(hint)
        if value.keys() != hints.keys():
            odd = sorted(map(str, value.keys() ^ hints.keys()))
            raise RecordError(f"not a turn record: {where} has missing or unknown fields {odd}")
        return hint(**{name: _read(f"{where}.{name}", value[name], hints[name]) for name in hints})
    if origin is Mapping and isinstance(value, Mapping):
        metric = where in [f"turn.{name}" for name in _METRICS]
        return {
            str(k): math.nan if metric and v is None else _read(f"{where}.{k}", v, arguments[1])
            for k, v in value.items()
        }
    if origin is tuple and isinstance(value, list):
        return tuple(_read(where, item, arguments[0]) for item in value)
    if origin is Literal and isinstance(value, str) and value in arguments:
        return value
    if origin is UnionType or origin is Union:
        if value is None and type(None) in arguments:
            return None
        kinds = [kind for kind in arguments if kind is not type(None)]
        if len(kinds) == 1:
            return _read(where, value, kinds[0])
        # The value of a hyperparameter. JSON has lists only: `pbt_flow.space.fitted` makes tuples.
        if type(value) in [get_origin(kind) or kind for kind in kinds]:
            return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and number and abs(value) <= sys.float_info.max:
        return float(value)
    if hint is int and type(value) is int and value >= 0:
        return value
    if hint is str and isinstance(value, str):
        return value
    raise RecordError(f"not a turn record: {where} cannot be {value!r:.80}")
