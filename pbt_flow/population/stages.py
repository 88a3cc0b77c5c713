"""Stages: how many members of a population go on, for how long, and what may be copied meanwhile.

Where cores are the limit, a population may share its budget out otherwise than evenly. Many
founders race for a while, the better half of them goes on, and so on; the few that are left train
for longer. The total of turns stays what it was: members times turns.

A plan is written as `16x2:none,8x4:hparams,4x8:hparams,2x32:both`: 16 members for 2 turns each, in
which nobody copies; then the best 8 of them for 4 turns, in which hyperparameters are copied; and
so on. `narrow` and `wide` make such a plan of any budget. docs/stages.md has what they came to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import get_args

from pbt_flow.exceptions import SettingsError
from pbt_flow.population.records import Copies
from pbt_flow.utils.text import did_you_mean, turn_count

NOBODY = "none"
"""The word for stages in which nobody copies, and as the whole setting for no stages."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of turns at whose end the worst members leave."""

    members: int
    """How many train in it."""
    turns: int
    """How many turns each of them does in it."""
    copies: Copies | None
    """What a member may take from another; None where nobody copies."""

    def __str__(self) -> str:
        return f"{self.members}x{self.turns}:{self.copies or NOBODY}"


def check_stages(text: str) -> None:
    """Refuse a text that can be no stages, whatever the budget is.

    Raises:
        SettingsError: It neither names stages nor writes them out.
    """
    if text != NOBODY and text not in SHAPES:
        _read(text)


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """The stages of a population, and the budget that they share out.

    >>> plan = StagePlan.of("wide", population=8, turns=20, workers=2)
    >>> str(plan)
    '16x2:none,8x4:hparams,4x8:hparams,2x32:both'
    >>> plan.ends, plan.total
    ((2, 6, 14, 46), 160)

    Each row is population, turns, the two plans, and the turns that their winners have trained:

    >>> for size, turns in [(8, 10), (8, 20), (8, 12), (6, 9), (20, 100), (4, 12)]:
    ...     plans = [
    ...         StagePlan.of(name, population=size, turns=turns, workers=2)
    ...         for name in ("narrow", "wide")
    ...     ]
    ...     print(size, turns, *(plan.short for plan in plans), *(plan.ends[-1] for plan in plans))
    8 10 8x3 4x6 2x16 16x1 8x2 4x4 2x16 25 23
    8 20 8x6 4x13 2x30 16x2 8x4 4x8 2x32 49 46
    8 12 8x4 4x8 2x16 16x1 8x2 4x4 2x24 28 31
    6 9 6x3 3x6 2x9 12x1 6x1 3x3 2x13 18 18
    20 100 20x33 10x66 5x136 40x10 20x20 10x40 5x160 235 230
    4 12 4x4 2x8 2x8 8x1 4x2 2x4 2x12 20 19
    """

    stages: tuple[Stage, ...]
    population: int
    """Members of the population that has the same budget and no stages."""
    turns: int
    """Turns of each of those."""

    @classmethod
    def of(cls, text: str, *, population: int, turns: int, workers: int) -> StagePlan | None:
        """The plan that a setting names or writes out; None for no stages.

        Args:
            text: `none`, `narrow`, `wide`, or stages as in `16x2:none,8x40:both`.
            population: Members of the population without stages.
            turns: Turns of each of those.
            workers: Turns that run at once. A named plan keeps all workers busy to the end.

        Raises:
            SettingsError: The text is no plan, or its turns are not the budget.
        """
        if text == NOBODY:
            return None
        if text in SHAPES:
            return _shaped(text, population, turns, min(workers, population))
        plan = cls(stages=_read(text), population=population, turns=turns)
        if not 0 <= plan.unspent < plan.stages[-1].members:
            raise SettingsError(
                f"stages {text} are {plan.total} turns of all members together, and "
                f"population={population} times turns={turns} makes {plan.budget}; "
                f"{_way_out(plan)}"
            )
        return plan

    @classmethod
    def resumed(cls, text: str, *, population: int, turns: int) -> StagePlan | None:
        """The plan of a population that has begun: its last stage takes what is left of the budget.

        So a resume with more turns makes the last stage longer, and changes nothing that was done.

        Raises:
            SettingsError: The budget leaves no turn for the last stage.
        """
        if text == NOBODY:
            return None
        return _with_the_rest(_read(text), text, population, turns)

    def __str__(self) -> str:
        return ",".join(map(str, self.stages))

    def without_copies(self) -> StagePlan:
        """The same plan where nobody copies: successive halving."""
        return replace(self, stages=tuple(replace(stage, copies=None) for stage in self.stages))

    @property
    def short(self) -> str:
        """Members and turns of each stage, for a title or a table."""
        return " ".join(f"{stage.members}x{stage.turns}" for stage in self.stages)

    @property
    def founders(self) -> int:
        """How many members begin."""
        return self.stages[0].members

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The turns that a member has done at the end of each stage."""
        turns = [stage.turns for stage in self.stages]
        return tuple(sum(turns[: number + 1]) for number in range(len(turns)))

    def begins(self, stage: int) -> int:
        """The turns that a member has done when a stage begins; the first stage is 0."""
        return self.ends[stage - 1] if stage else 0

    def stage_at(self, turn: int) -> int:
        """The stage that a member's turn of this number belongs to; the first stage is 0."""
        return next(number for number, end in enumerate(self.ends) if turn <= end)

    @property
    def budget(self) -> int:
        """Turns of all members together that a population without stages does."""
        return self.population * self.turns

    @property
    def total(self) -> int:
        """Turns of all members together."""
        return sum(stage.members * stage.turns for stage in self.stages)

    @property
    def unspent(self) -> int:
        """Turns of the budget that the stages leave over, since they do not divide it evenly."""
        return self.budget - self.total

    def describe(self) -> str:
        """The plan in a sentence, as a person reads it before training begins.

        >>> plan = StagePlan.of("narrow", population=8, turns=10, workers=2)
        >>> print(plan.describe())  # doctest: +NORMALIZE_WHITESPACE
        stages: 8 members for 3 turns (hyperparameters are copied), then the best 4 for 6 turns
        (hyperparameters are copied), then the best 2 for 16 turns (weights and hyperparameters are
        copied); 80 of 80 turns in all, and the winner trains for 25 turns instead of 10
        """
        parts = list[str]()
        for number, stage in enumerate(self.stages):
            who = f"the best {stage.members}" if number else f"{stage.members} members"
            if number and stage.members == self.stages[number - 1].members:
                who = "the same"
            turns = turn_count(stage.turns)
            parts.append(f"{who} for {turns} ({_COPIED[stage.copies]})")
        longer = f"for {self.ends[-1]} turns instead of {self.turns}"
        if self.ends[-1] == self.turns:
            longer = f"for {self.turns} turns, as without stages"
        return (
            f"stages: {', then '.join(parts)}; {self.total} of {self.budget} turns in all, and the "
            f"winner trains {longer}"
        )


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """A stage of a named plan, as shares of a population and of its budget."""

    members: Fraction
    share: Fraction | None
    """Of the budget; None for what is left."""
    copies: Copies | None


_HALF, _QUARTER, _THIRD, _FIFTH = (Fraction(1, n) for n in (2, 4, 3, 5))
SHAPES: dict[str, tuple[_Shape, ...]] = {
    "narrow": (
        _Shape(members=Fraction(1), share=_THIRD, copies="hparams"),
        _Shape(members=_HALF, share=_THIRD, copies="hparams"),
        _Shape(members=_QUARTER, share=None, copies="both"),
    ),
    "wide": (
        _Shape(members=Fraction(2), share=_FIFTH, copies=None),
        _Shape(members=Fraction(1), share=_FIFTH, copies="hparams"),
        _Shape(members=_HALF, share=_FIFTH, copies="hparams"),
        _Shape(members=_QUARTER, share=None, copies="both"),
    ),
}
"""The named plans. First nothing is copied: founders race. Then hyperparameters are: weights still
differ, and hyperparameters already learn. At the end both are."""
_COPIED: dict[Copies | None, str] = {
    None: "nobody copies",
    "hparams": "hyperparameters are copied",
    "weights": "weights are copied",
    "both": "weights and hyperparameters are copied",
}
_STAGE = re.compile(r"(\d+)x(\d+):(\w+)")


def _shaped(name: str, population: int, turns: int, workers: int) -> StagePlan:
    """A named plan for a budget."""
    stages = []
    for shape in SHAPES[name]:
        members = max(2, workers, math.floor(population * shape.members + _HALF))
        there = 1
        if shape.share is not None:
            there = max(1, math.floor(shape.share * population * turns / members))
        stages.append(Stage(members=members, turns=there, copies=shape.copies))
    least = -(-sum(stage.members for stage in stages) // population)
    if turns < least:
        raise SettingsError(
            f"stages {name} need at least turns={least} with population={population}, so that each "
            f"stage has a turn, got turns={turns}; give more turns (with a smaller interval), or "
            "stages none"
        )
    return _with_the_rest(tuple(stages), name, population, turns)


def _with_the_rest(stages: Sequence[Stage], text: str, population: int, turns: int) -> StagePlan:
    """A plan whose last stage takes what the others leave of the budget."""
    *earlier, last = stages
    left = population * turns - sum(stage.members * stage.turns for stage in earlier)
    if left < last.members:
        raise SettingsError(
            f"stages {text} leave no turn for the last {last.members} members where "
            f"population={population} times turns={turns} makes {population * turns} turns in all; "
            "give more turns"
        )
    last = Stage(members=last.members, turns=left // last.members, copies=last.copies)
    return StagePlan(stages=(*earlier, last), population=population, turns=turns)


def _way_out(plan: StagePlan) -> str:
    """What to write in place of a plan that is not the budget."""
    remedies = []
    last = plan.stages[-1]
    left = plan.budget - plan.total + last.members * last.turns
    if left >= last.members:
        fitting = Stage(members=last.members, turns=left // last.members, copies=last.copies)
        remedies.append(f"make the last stage {fitting}")
    if plan.total % plan.population == 0:
        remedies.append(f"give turns={plan.total // plan.population}")
    remedies.append("write narrow or wide, which fit any budget")
    return ", or ".join(remedies)


def _read(text: str) -> tuple[Stage, ...]:
    """The stages that a text writes out.

    Raises:
        SettingsError: It is no list of stages, or members come back that have left.
    """
    stages = list[Stage]()
    for number, part in enumerate(text.split(","), 1):
        found = _STAGE.fullmatch(part.strip())
        copies = found[3] if found else ""
        if found is None or copies not in (NOBODY, *get_args(Copies)):
            raise SettingsError(
                f"stages must be {NOBODY}, {', '.join(SHAPES)}, or a list as in "
                "16x2:none,8x4:hparams,2x32:both (members x turns : what is copied, which is "
                f"{NOBODY}, {', '.join(get_args(Copies))}), got {part.strip()!r}"
                + (f" in {text!r}" if "," in text else did_you_mean(text, [NOBODY, *SHAPES]))
            )
        members, turns = int(found[1]), int(found[2])
        if members < 2 or turns < 1:
            raise SettingsError(
                f"stages must have at least 2 members and 1 turn each, got {part.strip()} as "
                f"stage {number} of {text}"
            )
        if stages and members > stages[-1].members:
            raise SettingsError(
                f"stages can only become smaller, since who has left does not come back, got "
                f"{part.strip()} after {stages[-1]} in {text}"
            )
        kind: Copies | None = None if copies == NOBODY else copies  # type: ignore[assignment]
        stages.append(Stage(members=members, turns=turns, copies=kind))
    return tuple(stages)
