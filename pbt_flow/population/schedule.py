"""What PBT really finds: every hyperparameter as a function of step, along the winner's lineage.

A schedule is portable: it names its task, options and space, so that a fresh model can be trained
along it (`pbt_flow.commands.replay`) where nothing of the population is left but this one file.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pbt_flow.exceptions import ScheduleError, SpaceError
from pbt_flow.population.history import History
from pbt_flow.population.lineage import ancestors
from pbt_flow.population.records import Direction, Turn
from pbt_flow.space import Hparams, Space, check_hparams, space_from_json, space_to_json


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of training under constant hyperparameters: one turn of an ancestor."""

    start: int
    """The step of the weights at which it begins."""
    end: int
    """The step before which it ends."""
    member: int
    """Whose turn it was."""
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
    """What the winner scored. It is a maximum of many, so expect a little less of a replay."""
    best_initial: Hparams | None
    """The best of the initial settings, the best fixed one that the population has tried."""
    segments: Sequence[Segment] = field(repr=False)
    """Without gaps, from step 0."""

    @property
    def steps(self) -> int:
        """How long the schedule is."""
        return self.segments[-1].end

    def at(self, step: int) -> Hparams:
        """The hyperparameters that are live in the training step after `step` others.

        Raises:
            ScheduleError: The schedule is over by then.
        """
        return self.segment(step).hparams

    def segment(self, step: int) -> Segment:
        """The segment with the training step after `step` others.

        Raises:
            ScheduleError: The schedule is over by then.
        """
        for segment in self.segments:
            if segment.start <= step < segment.end:
                return segment
        raise ScheduleError(f"no hyperparameters at step {step}: the schedule has {self.steps}")

    def to_json(self) -> dict[str, Any]:
        """The schedule as plain JSON values."""
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
            "segments": [{**vars(s), "hparams": dict(s.hparams)} for s in self.segments],
        }

    @classmethod
    def from_json(cls, plain: Any) -> Schedule:
        """The inverse of `to_json`.

        Raises:
            ScheduleError: A field is missing, unknown or of the wrong kind, a segment does not
                follow the one before it, or a value lies outside its distribution.
        """
        if not isinstance(plain, Mapping) or plain.get("version") != 1:
            version = plain.get("version") if isinstance(plain, Mapping) else None
            raise ScheduleError(f"a schedule of version {version!r}, this program reads version 1")
        _check_fields(plain, _FIELDS, "the schedule")
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
            )
        except SpaceError as error:
            raise ScheduleError(f"not a schedule: {error}") from None

    def to_csv(self) -> str:
        """A table for spreadsheets: one line for each segment."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["start", "end", "member", "turn", *self.space])
        for s in self.segments:
            values = (s.hparams[name] for name in self.space)
            table.writerow([s.start, s.end, s.member, s.turn, *values])
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
) -> Schedule:
    """The schedule that made the weights of `turn`.

    Raises:
        ScheduleError: The turn did not go well, so there is nothing to reproduce.
    """
    if turn.score is None:
        raise ScheduleError(f"turn {turn.number} of member {turn.member} ended as {turn.status}")
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
    )


_FIELDS: dict[str, tuple[type, ...]] = {
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
_SEGMENT: dict[str, tuple[type, ...]] = {
    "start": (int,),
    "end": (int,),
    "member": (int,),
    "turn": (int,),
    "hparams": (Mapping,),
}


def _check_fields(plain: Any, fields: Mapping[str, tuple[type, ...]], what: str) -> None:
    if not isinstance(plain, Mapping):
        raise ScheduleError(f"{what} is {plain!r:.80}, not an object")
    if plain.keys() != fields.keys():
        odd = sorted(map(str, plain.keys() ^ fields.keys()))
        raise ScheduleError(f"{what} has missing or unknown fields {odd}")
    for name, kinds in fields.items():
        value = plain[name]
        finite = not isinstance(value, float) or math.isfinite(value)
        if not isinstance(value, kinds) or isinstance(value, bool) or not finite:
            raise ScheduleError(f"{what}: {name} cannot be {value!r:.80}")


def _read_segments(plain: list[Any], space: Space) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    for number, one in enumerate(plain, 1):
        _check_fields(one, _SEGMENT, f"segment {number}")
        expected = segments[-1].end if segments else 0
        if one["start"] != expected or one["end"] <= one["start"]:
            raise ScheduleError(
                f"segment {number} goes from step {one['start']} to {one['end']}; it must begin "
                f"at {expected}, where the one before it ends, and be longer than nothing"
            )
        segments.append(Segment(**{**one, "hparams": check_hparams(one["hparams"], space)}))
    if not segments:
        raise ScheduleError("the schedule has no segments")
    return tuple(segments)
