"""The schedule of a population: each hyperparameter as a function of the step of the weights.

It is read off the winner's lineage, and it is what PBT really finds. A schedule names its task,
options and space. `pbt_flow.commands.replay` can therefore train a fresh model along a schedule
even if nothing else of the population is left.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pbt_flow.exceptions import ScheduleError, SpaceError
from pbt_flow.population.history import History
from pbt_flow.population.lineage import ancestors
from pbt_flow.population.records import Direction, Turn
from pbt_flow.space import Hparams, Space, check_hparams, space_from_json, space_to_json
from pbt_flow.utils.reasons import in_short


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of training under constant hyperparameters: one turn of an ancestor."""

    start: int
    """The step of the weights at which the segment begins."""
    end: int
    """The step before which the segment ends."""
    member: int
    """The member whose turn it was."""
    turn: int
    hparams: Hparams


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Hyperparameters by the step of the weights, and where they come from."""

    task: str
    options: Mapping[str, Any]
    space: Space
    direction: Direction
    source: str
    """The run id of the population."""
    seed: int
    """The population's seed."""
    score: float
    """The winner's score. It is the best of many scores, so expect a replay to score a little
    worse."""
    best_initial: Hparams | None
    """The best initial configuration: the best fixed hyperparameters that the population tried."""
    segments: Sequence[Segment] = field(repr=False)
    """The segments in order, without gaps, from step 0."""
    budget: int | None = None
    """The steps of a member that trained to the end of the population, for a task that follows them
    (see `Task.budget`); the winner may have trained fewer or more. None says that they were as many
    as the schedule has."""

    @property
    def steps(self) -> int:
        """How many steps the schedule is long."""
        return self.segments[-1].end

    @property
    def followed(self) -> int:
        """The budget that models trained along the schedule are to be given."""
        return self.steps if self.budget is None else self.budget

    def at(self, step: int) -> Hparams:
        """Return the hyperparameters for weights that have trained `step` steps.

        Raises:
            ScheduleError: The schedule ends before this step.
        """
        return self.segment(step).hparams

    def segment(self, step: int) -> Segment:
        """Return the segment for weights that have trained `step` steps.

        Raises:
            ScheduleError: The schedule ends before this step.
        """
        for segment in self.segments:
            if segment.start <= step < segment.end:
                return segment
        raise ScheduleError(
            f"the schedule has no hyperparameters for step {step}: it has {self.steps} steps, "
            "which count from 0"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as plain JSON values."""
        # Only where it says something, so that earlier versions can read all other schedules.
        budget = {} if self.budget is None else {"budget": self.budget}
        return {
            "version": 1,
            "task": self.task,
            "options": dict(self.options),
            "space": space_to_json(self.space),
            "direction": self.direction,
            "source": self.source,
            "seed": self.seed,
            "score": self.score,
            "best_initial": None if self.best_initial is None else dict(self.best_initial),
            "segments": [
                {**vars(segment), "hparams": dict(segment.hparams)} for segment in self.segments
            ],
            **budget,
        }

    @classmethod
    def from_json(cls, plain: Any) -> Schedule:
        """Return the schedule that `to_json` wrote.

        Raises:
            ScheduleError: A field is missing, unknown or of the wrong kind, a segment does not
                follow the one before it, or a value lies outside its distribution.
        """
        version = plain.get("version") if isinstance(plain, Mapping) else None
        if version != 1:
            raise ScheduleError(
                f"the schedule has version {version!r}, and this program reads version 1"
            )
        known = _SCHEDULE_FIELDS | ({"budget": (int,)} if "budget" in plain else {})
        _check_fields(plain, known, "the schedule")
        if plain.get("budget", 1) < 1:
            raise ScheduleError(f"the schedule: budget cannot be {plain['budget']}")
        if plain["direction"] not in ("maximize", "minimize"):
            raise ScheduleError(f"the schedule's direction cannot be {plain['direction']!r}")
        try:
            space = space_from_json(plain["space"])
            best = plain["best_initial"]
            return cls(
                task=plain["task"],
                options=plain["options"],
                space=space,
                direction=plain["direction"],
                source=plain["source"],
                seed=plain["seed"],
                score=float(plain["score"]),
                best_initial=None if best is None else check_hparams(best, space),
                segments=_read_segments(plain["segments"], space),
                budget=plain.get("budget"),
            )
        except SpaceError as error:
            raise ScheduleError(f"not a schedule: {error}") from None

    def to_csv(self) -> str:
        """Return the schedule as a table for spreadsheets, with one line for each segment."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["start", "end", "member", "turn", *self.space])
        for segment in self.segments:
            values = [segment.hparams[name] for name in self.space]
            table.writerow([segment.start, segment.end, segment.member, segment.turn, *values])
        return text.getvalue()


def schedule_of(
    turn: Turn,
    history: History,
    *,
    task: str,
    options: Mapping[str, Any],
    space: Space,
    source: str,
    seed: int,
    budget: int | None = None,
) -> Schedule:
    """Return the schedule along which the weights of `turn` were trained.

    The arguments behind `history` are fields of `Schedule`.

    Raises:
        ScheduleError: The turn did not go well, so there are no weights to reproduce.
    """
    if turn.score is None:
        raise ScheduleError(
            f"turn {turn.number} of member {turn.member} has no schedule: it ended as {turn.status}"
        )
    best = history.best_initial
    return Schedule(
        task=task,
        options=options,
        space=space,
        direction=history.direction,
        source=source,
        seed=seed,
        score=turn.score,
        best_initial=None if best is None else best.plan.hparams,
        segments=tuple(
            Segment(
                start=ancestor.plan.start_step,
                end=ancestor.step,
                member=ancestor.member,
                turn=ancestor.number,
                hparams=ancestor.plan.hparams,
            )
            for ancestor in ancestors(history, turn)
        ),
        budget=None if budget == turn.step else budget,
    )


_SCHEDULE_FIELDS: dict[str, tuple[type, ...]] = {
    "version": (int,),
    "task": (str,),
    "options": (Mapping,),
    "space": (Mapping,),
    "direction": (str,),
    "source": (str,),
    "seed": (int,),
    "score": (int, float),
    "best_initial": (Mapping, type(None)),
    "segments": (list,),
}
_SEGMENT_FIELDS: dict[str, tuple[type, ...]] = {
    "start": (int,),
    "end": (int,),
    "member": (int,),
    "turn": (int,),
    "hparams": (Mapping,),
}


def _check_fields(plain: Any, fields: Mapping[str, tuple[type, ...]], what: str) -> None:
    """Refuse a JSON object that does not have exactly these fields, each of one of its kinds."""
    if not isinstance(plain, Mapping):
        raise ScheduleError(f"{what} must be a JSON object, got {plain!r:.80}")
    if plain.keys() != fields.keys():
        odd = sorted(map(str, plain.keys() ^ fields.keys()))
        raise ScheduleError(f"{what} has missing or unknown fields {odd}")
    for name, kinds in fields.items():
        value = plain[name]
        # In Python, True is an int.
        is_of_kind = isinstance(value, kinds) and not isinstance(value, bool)
        if is_of_kind and float in kinds:
            # NaN fails this comparison, and so does an integer that is greater than any float.
            is_of_kind = abs(value) <= sys.float_info.max
        if not is_of_kind:
            raise ScheduleError(f"{what}: {name} cannot be {in_short(value)}")


def _read_segments(plain: list[Any], space: Space) -> tuple[Segment, ...]:
    """Read the segments of a schedule, each of which begins where the one before it ends."""
    segments: list[Segment] = []
    for number, fields in enumerate(plain, 1):
        _check_fields(fields, _SEGMENT_FIELDS, f"segment {number}")
        expected = segments[-1].end if segments else 0
        if fields["start"] != expected or fields["end"] <= fields["start"]:
            raise ScheduleError(
                f"segment {number} goes from step {fields['start']} to {fields['end']}; it must "
                f"begin at {expected}, where the one before it ends, and have at least one step"
            )
        segments.append(Segment(**{**fields, "hparams": check_hparams(fields["hparams"], space)}))
    if not segments:
        raise ScheduleError("the schedule has no segments")
    return tuple(segments)
