"""The series of numbers that the charts of a population show.

Nothing here knows a drawing library: the report's page and its still picture draw the same numbers,
and tests can look at them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pbt_flow.population.history import History
from pbt_flow.population.lineage import Node, every_turn, founder_shares, founders
from pbt_flow.utils.means import mean as average
from pbt_flow.utils.values import Value, identity

SHADES = 10
"""The number of colours for scores."""


@dataclass(frozen=True, kw_only=True)
class Shades:
    """Colours for scores, from the worst to the best.

    Each colour stands for an equal share of the scores. With equal steps of the score, a single
    early score far off (a loss of 200 before the first step) would give all others one colour.
    """

    edges: Sequence[float]
    """The fitness at which each shade but the first begins, in order."""
    sign: float
    """What a score is multiplied by for its fitness: -1 if a smaller score is better."""
    ends: tuple[float, float, float]
    """The worst, the median and the best score."""

    @classmethod
    def of(cls, history: History) -> Shades | None:
        """The shades of a population; None if the population has no score yet."""
        sign = 1.0 if history.direction == "maximize" else -1.0
        ranked = sorted(sign * turn.score for turn in every_turn(history) if turn.score is not None)
        if not ranked:
            return None
        edges = [ranked[len(ranked) * index // SHADES] for index in range(1, SHADES)]
        ends = (sign * ranked[0], sign * ranked[len(ranked) // 2], sign * ranked[-1])
        return cls(edges=edges, sign=sign, ends=ends)

    def shade(self, score: float) -> int:
        """The shade of a score, from 0, the worst, to `SHADES` - 1, the best."""
        return bisect_right(self.edges, self.sign * score)


_LARGEST_DRAWN = 1e150
"""The largest number that is drawn; its inverse is the smallest. Drawing libraries multiply numbers
and take their differences, which must not overflow."""


def within_axis(value: float) -> float:
    """A number as it can be drawn: one that is too large or too small is moved to the limit."""
    if value == 0:
        return 0.0
    return math.copysign(max(1 / _LARGEST_DRAWN, min(_LARGEST_DRAWN, abs(value))), value)


# --- scores ---------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A point in a chart over a member's own effort."""

    trained: int
    """The steps that the member has trained."""
    value: float


def scores(history: History) -> dict[int, list[Point]]:
    """The scores of each member over the steps that the member has trained."""
    found: dict[int, list[Point]] = {}
    for member, turns in sorted(history.turns.items()):
        found[member] = [
            Point(turn.plan.trained, turn.score) for turn in turns if turn.score is not None
        ]
    return found


def best_and_mean(history: History) -> tuple[list[Point], list[Point]]:
    """The best and the mean score of each round that at least half of the members have done.

    With stages it is half of the members of the round's stage. Each mean is over members of one
    age.
    """
    rounds: dict[int, list[float]] = defaultdict(list)
    trained: dict[int, int] = {}
    for turn in every_turn(history):
        if turn.score is not None:
            rounds[turn.number].append(turn.score)
            trained[turn.number] = turn.plan.trained
    choose_best = max if history.direction == "maximize" else min
    best: list[Point] = []
    mean: list[Point] = []
    for number, round_scores in rounds.items():
        if 2 * len(round_scores) >= _expected_members(history, number):
            best.append(Point(trained[number], choose_best(round_scores)))
            mean.append(Point(trained[number], average(round_scores)))
    return best, mean


def _expected_members(history: History, round_number: int) -> int:
    """How many members are to do a round."""
    plan = history.stages
    if plan is None or round_number > plan.ends[-1]:
        return len(history.members)
    return plan.stages[plan.stage_at(round_number)].members


def stage_ends(history: History) -> list[Point]:
    """The ends of the stages that are over: the steps of a member, and how many members left."""
    ends = []
    for stage in range(history.stage):
        leaving = [member for member, at in history.left.items() if at == stage]
        trained = max((history.members[member].trained for member in leaving), default=None)
        if trained is not None:
            ends.append(Point(trained, float(len(leaving))))
    return ends


# --- hyperparameters ------------------------------------------------------------------------------


@dataclass
class Stretch:
    """Turns in a row for which one member kept a value, and had scores of one shade."""

    start: int
    """The step of the weights at which the stretch begins."""
    end: int
    """The step of the weights at which the stretch ends."""
    value: Value
    shade: int
    member: int


def stretches(history: History, name: str, shades: Shades) -> list[Stretch]:
    """The values of a hyperparameter, over the steps of the weights trained under them."""
    found: list[Stretch] = []
    for member, turns in sorted(history.turns.items()):
        last: Stretch | None = None
        for turn in turns:
            if turn.score is None:
                continue
            value, shade = turn.plan.hparams[name], shades.shade(turn.score)
            # A copy begins a stretch of its own: the step of the weights jumps.
            is_continued = (
                last is not None
                and (last.end, last.shade) == (turn.plan.start_step, shade)
                and identity(last.value) == identity(value)
            )
            if last is not None and is_continued:
                last.end = turn.step
            else:
                last = Stretch(turn.plan.start_step, turn.step, value, shade, member)
                found.append(last)
    return found


# --- founders -------------------------------------------------------------------------------------


def shares(history: History, most: int = 7) -> dict[int | None, list[float]]:
    """The share of each founder's descendants in the population, after each turn.

    Args:
        history: The population's history.
        most: How many founders have a line of their own: those whose descendants last longest.

    Returns:
        The lines by founder, the founder that lasts longest first. None stands for all other
        founders together.
    """
    found = founder_shares(history)
    last_turn: dict[int, int] = {}
    for number, share in enumerate(found):
        for founder in share:
            last_turn[founder] = number

    def rank(founder: int) -> tuple[int, float, int]:
        number = last_turn[founder]
        return -number, -found[number][founder], founder

    order = sorted(last_turn, key=rank)
    lines: dict[int | None, list[float]] = {}
    for founder in order[:most]:
        lines[founder] = [share.get(founder, 0.0) for share in found]
    others = order[most:]
    if others:
        lines[None] = [sum(share.get(founder, 0.0) for founder in others) for share in found]
    return lines


def surviving_founders(history: History, max_failures: int) -> set[int]:
    """The founders whose descendants are among the living members.

    The last entry of `founder_shares` would not do: it is about the members with the most turns
    only, and while a population trains, or after it has ended early, others have fewer.
    """
    founder_of = founders(history)
    living = history.living(max_failures)
    return {founder_of[Node(member.index, member.turn)] for member in living}


# --- time -----------------------------------------------------------------------------------------


PARTS = ("train", "evaluate", "checkpoint", "restore")
"""The parts of a turn whose seconds are recorded."""
_PAUSE_SECONDS = 30.0
"""If no turn runs for longer than this, the population was stopped, and resumed later."""


def time_spent(history: History, slots: int) -> dict[str, float]:
    """Where the seconds of `slots` workers went.

    Returns:
        The seconds of each part of the turns; `lost`, the time of turns that failed; and `waiting`,
        the time in which workers had nothing to do while the population was training.
    """
    spent = dict.fromkeys((*PARTS, "lost", "waiting"), 0.0)
    # A turn begins (+1) or ends (-1).
    events: list[tuple[float, int]] = []
    for turn in every_turn(history):
        for part, seconds in turn.seconds.items():
            key = part if turn.ok else "lost"
            spent[key] = spent.get(key, 0.0) + seconds
        if turn.ended > turn.started > 0:
            events += [(turn.started, 1), (turn.ended, -1)]
    running, before = 0, 0.0
    for when, change in sorted(events):
        gap = when - before
        was_training = running > 0 or (before > 0 and gap < _PAUSE_SECONDS)
        if was_training:
            spent["waiting"] += max(0, slots - running) * gap
        running, before = running + change, when
    return spent


# --- copies ---------------------------------------------------------------------------------------


def copies(history: History) -> int:
    """How often a member copied another member."""
    return sum(turn.plan.donor is not None for turn in every_turn(history))
