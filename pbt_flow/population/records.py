"""The records of Population Based Training: member, plan, turn, checkpoint. All of them are frozen.

A *turn* is one interval of one member. A `Plan` says what goes into a turn; the controller decides
it. A `Turn` is the plan together with what came out; the worker writes it. A `Member` says where
one slot of the population stands between two turns. It follows from the member's turns alone
(`Member.after`), so a population can be rebuilt from its turn records.

Each record has two clocks. `turn` and `trained` count a member's own effort, and they only grow.
`step` is the age of the member's weights along their lineage; after a copy it is the donor's step.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import numpy as np

from pbt_flow.exceptions import RecordError, SpaceError
from pbt_flow.population.turn_files import UNNUMBERED, Attempt
from pbt_flow.space import Hparams, Space, fitted
from pbt_flow.utils.reasons import reason_in
from pbt_flow.utils.values import is_container

Copies = Literal["both", "weights", "hparams"]
Status = Literal["ok", "diverged", "failed", "lost"]
Direction = Literal["maximize", "minimize"]
ReportDirection = Direction | Mapping[str, Direction] | None
"""Which direction of a report's metrics is better.

One direction is that of the report's first metric; a mapping gives the direction of each metric by
its name. None means that the task does not declare it.
"""


def derive_seed(seed: int, member: int, turn: int) -> int:
    """Return the seed of one turn of one member; turn 0 seeds the member's fresh model."""
    state = np.random.SeedSequence([seed, member, turn]).generate_state(1, np.uint32)
    return int(state[0])


def report_seed(seed: int) -> int:
    """Return the seed of all reports of a population.

    The seed follows from the population's seed alone. A report that draws data therefore draws the
    same data for all members, and for a control with the same seed.
    """
    # Turns count from 1, so no turn of any member trains under this seed.
    return derive_seed(seed, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A reference to the immutable state that one turn wrote; it does not hold the state itself."""

    member: int
    turn: int
    digest: str
    """SHA-256 of the file, in hexadecimal."""
    size: int
    """Size of the file in bytes."""
    attempt: Attempt = field(default=UNNUMBERED, compare=False)
    """The attempt at the turn that wrote the state, which names the file. It does not count when
    two references are compared: the digest says whether the states are the same."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One turn of another member, from which something was taken."""

    member: int
    turn: int


@dataclass(frozen=True, kw_only=True)
class Donor:
    """Whom a member copied: one turn of another member, and what was taken from that turn."""

    member: int
    turn: int
    copies: Copies
    hparams_of: Source | None = None
    """The turn whose hyperparameters were taken, if that is another than the turn whose weights
    were. Then `copies` is `weights`."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every turn from which something was taken."""
        first = Source(member=self.member, turn=self.turn)
        return (first,) if self.hparams_of is None else (first, self.hparams_of)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What goes into a turn. Together with the task's options it determines what comes out."""

    member: int
    turn: int
    """The number of the turn among the member's turns, from 1."""
    seed: int
    """The seed of all randomness in the turn (see `derive_seed`)."""
    hparams: Hparams
    """The hyperparameters that are live in this turn."""
    steps: int
    """How long to train, in the task's own unit."""
    start: Checkpoint | None = None
    """The state that the turn begins with; None for a fresh model."""
    start_step: int = 0
    """The age of the weights when the turn begins, in steps along their lineage."""
    trained: int
    """How many steps the member itself has trained when the turn is over."""
    donor: Donor | None = None
    """Whom the member copied just before the turn; None if it copied nobody."""
    compared_at: int | None = None
    """The age of the weights, in steps, at which scores were compared just before the turn.

    It is None if no scores were compared, as before a rescue."""
    attempt: Attempt = field(default=UNNUMBERED, compare=False)
    """Which try of the turn this is. It names the files that the turn writes, and nothing else
    depends on it: two plans that differ in it alone are equal."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One interval of one member: its plan, and what came out. A record holds one turn."""

    plan: Plan
    status: Status
    """How the turn ended.

    `ok`: the turn went well. `diverged`: the score, or a number that it follows from, was not
    finite. `failed`: the task raised an exception. `lost`: the worker died or exceeded the time
    limit."""
    score: float | None = None
    """What `Task.evaluate` returned, or the mean of the sample. None unless `ok`."""
    sample: tuple[float, ...] = ()
    """The sample behind the score (such as episode returns), for tests between members."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What `Task.train` returned."""
    evaluation: Mapping[str, float] = field(default_factory=dict)
    """What `Task.metrics` returned after `evaluate`."""
    checkpoint: Checkpoint | None = None
    """The state after the turn. None unless `ok`."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What the task found out about its data or options in this turn and had not known when it was
    built, by topic."""
    error: str = ""
    """Why the turn is not `ok`. For an exception it is the reason, and below it the traceback."""
    started: float = 0.0
    """When the turn began, in seconds since the epoch."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall-clock seconds of `restore`, `train`, `evaluate` and `checkpoint`.

    `lost` has the seconds of earlier tries of the turn, whose worker died or hung."""

    @property
    def took(self) -> float:
        """Seconds of the try that counts, without earlier tries whose worker died or hung."""
        return sum(seconds for name, seconds in self.seconds.items() if name != "lost")

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def reason(self) -> str:
        """Why the turn is not `ok`, in one line: for an exception its type and its message."""
        error = self.error.strip()
        if self.status == "lost" and error:
            # The first line says how the worker died. What it printed last follows below, and
            # `reason_in` would take a traceback in there for the reason.
            return error.splitlines()[0]
        return reason_in(self.error)

    @property
    def member(self) -> int:
        return self.plan.member

    @property
    def number(self) -> int:
        return self.plan.turn

    @property
    def step(self) -> int:
        """The age of the weights after the turn. A failed turn does not change the weights."""
        return self.plan.start_step + (self.plan.steps if self.ok else 0)

    @property
    def ended(self) -> float:
        return self.started + sum(self.seconds.values())

    def fitness(self, direction: Direction) -> float:
        """The score as used for ranking: greater is better, and a turn without a score is worst."""
        if self.score is None:
            return -math.inf
        return self.score if direction == "maximize" else -self.score


@dataclass(frozen=True, kw_only=True)
class Member:
    """One slot of the population between two turns."""

    index: int
    hparams: Hparams
    group: int = 0
    """The number of the sub-population that the member belongs to; 0 where there is only one."""
    checkpoint: Checkpoint | None = None
    step: int = 0
    turn: int = 0
    """How many turns the member has done."""
    trained: int = 0
    """How many steps the member itself has trained."""
    donor: Donor | None = None
    """Whom the member copied before its last turn; None if it copied nobody then."""
    copied_after: int = 0
    """How many turns the member had done when it last copied.

    Scores of these turns belong to weights that the member has given up."""
    compared_at: int | None = None
    score: float | None = None
    failures: int = 0
    """How many turns in a row were not ok."""

    @property
    def age(self) -> int:
        """The age at which the member is compared with others: that of its weights.

        A failed turn leaves the weights behind. A member whose last turn failed is therefore
        compared at the age of its own effort, where it meets the others again.
        """
        return self.trained if self.failures else self.step

    def after(self, turn: Turn) -> Member:
        """Return the member as it stands once `turn` is done.

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


# --- the record as JSON ---------------------------------------------------------------------------


_METRICS = ("metrics", "evaluation")
"""The fields of a turn whose numbers need not be finite."""
_UNNUMBERED = dataclasses.asdict(UNNUMBERED)
_ADDED: dict[str, dict[str, Any]] = {
    "turn.plan": {"attempt": _UNNUMBERED},
    "turn.plan.start": {"attempt": _UNNUMBERED},
    "turn.plan.donor": {"hparams_of": None},
    "turn.checkpoint": {"attempt": _UNNUMBERED},
}
"""By the place in a record, what older records do not have, and what it is in them."""


def turn_to_json(turn: Turn) -> dict[str, Any]:
    """Return the turn as plain JSON values. A metric that is not finite becomes null."""
    plain = dataclasses.asdict(turn)
    if not turn.notes:
        # Version 1 began without notes. A program of that time still reads a turn that has none.
        del plain["notes"]
    donor = plain["plan"]["donor"]
    if donor is not None and donor["hparams_of"] is None:
        # Nor did version 1 begin with donors of two sources.
        del donor["hparams_of"]
    for holder in (plain["plan"], plain["plan"]["start"], plain["checkpoint"]):
        if holder is not None and holder["attempt"] == _UNNUMBERED:
            # Nor with attempts: what an earlier version wrote is written as it was.
            del holder["attempt"]
    for name in _METRICS:
        plain[name] = {k: v if math.isfinite(v) else None for k, v in plain[name].items()}
    return {"version": 1, **plain}


def turn_from_json(plain: Any) -> Turn:
    """Return the turn that `turn_to_json` wrote.

    Raises:
        RecordError: A field is missing, unknown, or of the wrong kind.
    """
    version = plain.get("version") if isinstance(plain, Mapping) else None
    if version != 1:
        raise RecordError(
            f"the turn record has version {version!r}, and this program reads version 1"
        )
    fields: dict[str, Any] = {"notes": {}} | dict(plain)
    del fields["version"]
    turn: Turn = _reader("turn", Turn)(fields)
    if turn.ok != (turn.checkpoint is not None) or turn.ok != (turn.score is not None):
        raise RecordError(
            f"the turn record has status {turn.status!r}; a turn that is ok has both a score and "
            "a checkpoint, and any other turn has neither"
        )
    return turn


def fitted_turn(turn: Turn, space: Space) -> Turn:
    """Return the turn with the tuples of the space where its record has lists.

    Raises:
        RecordError: The record has a list or a mapping that is not a choice of the space.
    """
    if not any(map(is_container, turn.plan.hparams.values())):
        return turn
    try:
        hparams = fitted(turn.plan.hparams, space)
    except SpaceError as error:
        raise RecordError(f"turn {turn.number} of member {turn.member}: {error}") from None
    return dataclasses.replace(turn, plan=dataclasses.replace(turn.plan, hparams=hparams))


_Reader: TypeAlias = Callable[[Any], Any]
"""Returns a value that JSON can hold as what an annotation says.

It raises a `RecordError` for any other value."""


@functools.cache
def _reader(where: str, hint: Any) -> _Reader:
    """Return what reads the values at one place of a record.

    It is made once for each place: a population may have a hundred thousand records.

    Args:
        where: The place of the values in the record, for messages: `turn.plan.seed`, say.
        hint: The annotation of a field, or a dataclass.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _reader_of_fields(where, hint)
    if origin is Mapping:
        return _reader_of_mapping(where, arguments[1])
    if origin is tuple:
        return _reader_of_list(where, arguments[0])
    if origin is Literal:
        return _reader_of(where, lambda value: isinstance(value, str) and value in arguments)
    if origin is UnionType or origin is Union:
        return _reader_of_union(where, arguments)
    if hint is float:
        return _reader_of_number(where)
    checks: dict[Any, Callable[[Any], bool]] = {
        int: lambda value: type(value) is int and value >= 0,
        str: lambda value: isinstance(value, str),
    }
    return _reader_of(where, checks[hint])


def _odd(where: str, value: Any) -> RecordError:
    return RecordError(f"not a turn record: {where} cannot be {value!r:.80}")


def _reader_of(where: str, fits: Callable[[Any], bool]) -> _Reader:
    def read(value: Any) -> Any:
        if not fits(value):
            raise _odd(where, value)
        return value

    return read


def _reader_of_number(where: str) -> _Reader:
    def read(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # NaN fails this comparison, too.
        if is_number and abs(value) <= sys.float_info.max:
            return float(value)
        raise _odd(where, value)

    return read


def _reader_of_fields(where: str, kind: type) -> _Reader:
    added = _ADDED.get(where, {})
    readers = {
        name: _reader(f"{where}.{name}", hint) for name, hint in get_type_hints(kind).items()
    }

    def read(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _odd(where, value)
        value = {**added, **value}
        if value.keys() != readers.keys():
            odd = sorted(map(str, value.keys() ^ readers.keys()))
            raise RecordError(f"not a turn record: {where} has missing or unknown fields {odd}")
        return kind(**{name: reader(value[name]) for name, reader in readers.items()})

    return read


def _reader_of_mapping(where: str, hint: Any) -> _Reader:
    may_be_null = where in [f"turn.{name}" for name in _METRICS]
    # The names are the task's own, and so many that a reader for each would not pay.
    read_item = _reader(where, hint)

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _odd(where, value)
        found: dict[str, Any] = {}
        for name, item in value.items():
            if item is None and may_be_null:
                found[str(name)] = math.nan
                continue
            try:
                found[str(name)] = read_item(item)
            except RecordError:
                raise _odd(f"{where}.{name}", item) from None
        return found

    return read


def _reader_of_list(where: str, hint: Any) -> _Reader:
    read_item = _reader(where, hint)

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _odd(where, value)
        return tuple(map(read_item, value))

    return read


def _reader_of_union(where: str, arguments: tuple[Any, ...]) -> _Reader:
    may_be_none = type(None) in arguments
    kinds = [kind for kind in arguments if kind is not type(None)]
    if len(kinds) == 1:
        read_one = _reader(where, kinds[0])
        return lambda value: None if value is None and may_be_none else read_one(value)
    # This is the value of a hyperparameter. JSON brings its tuples back as lists, and only the
    # space knows which lists were tuples: `fitted_turn` restores them.
    types = {get_origin(kind) or kind for kind in kinds} | ({type(None)} if may_be_none else set())
    return _reader_of(where, lambda value: type(value) in types)
