"""Populations that are compared: the numbers of each, and whether they can stand side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pbt_flow.exceptions import ComparisonError
from pbt_flow.population.result import Result, is_same_effort
from pbt_flow.settings import Settings
from pbt_flow.task import is_same_task
from pbt_flow.utils.means import mean
from pbt_flow.utils.values import is_same_in_json

MEASURES = ("mean score", "best score", "best report")
_MUST_AGREE = ("population", "interval")
"""Settings in which compared populations must agree, besides the task, its options and the budget.
"""
_NOT_ON_RECORD = "not on record"
_WAYS_OUT = (
    "; train both to the end of the same budget, or compare them all the same with --unequal: the "
    "result then says beside its numbers that the budgets differ"
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One population in a comparison."""

    result: Result
    settings: Settings
    option_defaults: Mapping[str, Any] = field(default_factory=dict)
    """The defaults of the task's options when the population began. Populations of earlier versions
    have none on record."""

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def run_id(self) -> str:
        return self.result.run_id

    @property
    def report_metric(self) -> str:
        """The headline of the winner's report; empty if there is none."""
        winner = self.result.winner
        return next(iter(winner.report), "") if winner else ""

    @property
    def scores_at_equal_age(self) -> list[float]:
        """The scores at the age to which all members of a population without stages come.

        With stages, only the members that have not left by then have such a score.
        """
        turns, number = self.result.history.turns.values(), self.settings.turns
        at_age = [own[number - 1] for own in turns if len(own) >= number]
        return [turn.score for turn in at_age if turn.score is not None]

    @property
    def mean_score(self) -> float:
        """The mean score of the population; with stages, that of `scores_at_equal_age`, or NaN."""
        if self.settings.stage_plan is None:
            return self.result.mean_score
        scores = self.scores_at_equal_age
        return mean(scores) if scores else math.nan

    def measures(self, metric: str) -> dict[str, float | None]:
        """The population's mean score, the winner's score, and a metric of the report.

        The report is on the winner, or on the average that is handed over in the winner's place. A
        number is None if it does not exist, or is not finite.
        """
        winner = self.result.winner
        numbers = (
            self.mean_score,
            winner.score if winner else None,
            self.result.best.report.get(metric) if self.result.best else None,
        )
        found: dict[str, float | None] = {}
        for measure, value in zip(MEASURES, numbers, strict=True):
            found[measure] = value if value is not None and math.isfinite(value) else None
        return found


def check_same(
    first: str,
    ours: Settings,
    second: str,
    theirs: Settings,
    *,
    unequal: bool = False,
    defaults: Mapping[str, Any],
) -> None:
    """Check that the settings of two populations say the same problem and the same budget.

    Args:
        first: The name of the first population in the message.
        ours: The settings of the first population.
        second: The name of the second population in the message.
        theirs: The settings of the second population.
        unequal: Whether the populations may differ in their number of turns.
        defaults: The defaults of the task's options, as far as they are known. If only one of the
            populations has an option on record, the option was at its default in the other:
            populations of earlier versions recorded only what was given, and the class may have got
            the option since.

    Raises:
        ComparisonError: The settings differ. The message names the setting, or the option.
    """
    names = list(_MUST_AGREE)
    if not unequal:
        names.append("turns")
    if not is_same_task(ours.task, theirs.task):
        names.insert(0, "task")
    for name in names:
        if getattr(ours, name) != getattr(theirs, name):
            raise ComparisonError(
                f"populations {first} and {second} cannot be compared: their {name} is "
                f"{getattr(ours, name)!r} and {getattr(theirs, name)!r}"
                + (_WAYS_OUT if name == "turns" else "")
            )
    for name in dict.fromkeys([*ours.options, *theirs.options]):
        default = defaults.get(name, _NOT_ON_RECORD)
        our_value, their_value = ours.options.get(name, default), theirs.options.get(name, default)
        if not is_same_in_json(our_value, their_value):
            raise ComparisonError(
                f"populations {first} and {second} cannot be compared: the task's option {name} is "
                f"{our_value!r} and {their_value!r}"
            )


def check_ended(entry: Entry) -> None:
    """Check that a population has ended, so that it cannot become better any more.

    Raises:
        ComparisonError: The population is running, or was interrupted.
    """
    result = entry.result
    if result.status in ("running", "interrupted"):
        raise ComparisonError(
            f"population {entry.run_id} is not at its end: it is {result.status} after "
            f"{result.turns} turns; if nothing trains it, go on with python -m pbt_flow resume "
            f"{entry.run_id}"
        )


def check_equal(first: Entry, second: Entry, *, unequal: bool = False) -> None:
    """Check that two populations have trained the same problem equally long.

    The turns that the members have really done are compared: `seconds`, `target` or a failure may
    have ended a population early.

    Args:
        first: One population.
        second: The other population.
        unequal: Whether the populations may have trained for different times.

    Raises:
        ComparisonError: They have not trained the same problem equally long.
    """
    check_same(
        first.run_id,
        first.settings,
        second.run_id,
        second.settings,
        unequal=unequal,
        defaults={**second.option_defaults, **first.option_defaults},
    )
    if not unequal and not is_same_effort(first.result, second.result):
        raise ComparisonError(
            f"populations {first.run_id} and {second.run_id} cannot be compared: their members did "
            f"{turns_done(first)} and {turns_done(second)}{_WAYS_OUT}"
        )


def check_pair(control: Entry, settings: Settings) -> None:
    """Check that a population is the control of another, whose settings are given.

    Raises:
        ComparisonError: The control copies members, or began with another seed or other members.
    """
    theirs = control.settings
    if theirs.stage_plan is not None:
        raise ComparisonError(
            f"population {control.run_id} is no control: its stages are {theirs.stages}, where "
            "the members of a control all train to the end; compare methods with python -m "
            "pbt_flow compare"
        )
    if not theirs.is_control:
        raise ComparisonError(
            f"population {control.run_id} is no control: exploit is {theirs.exploit}, where a "
            "control copies nobody; compare methods with python -m pbt_flow compare"
        )
    for name in ("seed", "init", "initial"):
        # A record has lists where a task's space may have tuples.
        if not is_same_in_json(getattr(theirs, name), getattr(settings, name)):
            raise ComparisonError(
                f"population {control.run_id} is no control: its {name} is "
                f"{getattr(theirs, name)!r} in place of {getattr(settings, name)!r}, so that it "
                "began with other members; train one with --control, or compare several seeds of "
                "both with python -m pbt_flow compare"
            )


def check_control(control: Entry, settings: Settings, *, defaults: Mapping[str, Any]) -> None:
    """Check that a population can be the control of one that is still to be trained.

    Args:
        control: The control.
        settings: The settings of the new population.
        defaults: The defaults of the task's options.

    Raises:
        ComparisonError: The control has not ended, or has another problem, or ended before its
            budget was used up.
    """
    check_same(control.run_id, control.settings, "the new one", settings, defaults=defaults)
    check_pair(control, settings)
    check_ended(control)
    # If the new population may end early itself, the two are compared when it has ended.
    may_end_early = settings.seconds is not None or settings.target is not None
    if control.result.turns_each != settings.turns and not may_end_early:
        raise ComparisonError(
            f"population {control.run_id} is no control for the new one: its members did "
            f"{turns_done(control)}, and those of the new one are to do {settings.turns}; resume "
            "the control, or train another one with --control"
        )


def turns_done(entry: Entry) -> str:
    """How many turns the members of a population did on average, and why not more."""
    result, settings = entry.result, entry.settings
    text = f"{result.turns_each:.4g} of {settings.turns} turns each"
    if settings.stage_plan is not None:
        text = f"{result.turns} of {settings.all_turns} turns of all members together"
    if result.turns_each == settings.turns:
        return text
    why = result.reason.splitlines()[0] if result.reason else result.status
    return f"{text} ({why})"
