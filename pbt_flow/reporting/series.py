"""What the pictures of a population show, as numbers: nothing here knows a drawing library.

The report's page and its still picture draw the same figures, and a test can look at them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pbt_flow.population.history import History
from pbt_flow.population.lineage import every_turn, founder_shares
from pbt_flow.utils.means import mean as average
from pbt_flow.utils.values import Value, identity

SHADES = 10
"""In how many colours scores are told apart."""


@dataclass(frozen=True, kw_only=True)
class Shades:
    """Colours for scores: each stands for an equal share of them, so that an early score far off
    (a loss of 200 before the first step) does not leave all others alike.
    """

    edges: Sequence[float]
    """Where one shade ends and the next begins, from the worst to the best."""
    sign: float
    ends: tuple[float, float, float]
    """The worst, the median and the best score."""

    @classmethod
    def of(cls, history: History) -> Shades | None:
        """The shades of a population; None if there is no score yet."""
        sign = 1.0 if history.direction == "maximize" else -1.0
        ranked = sorted(sign * t.score for t in every_turn(history) if t.score is not None)
        if not ranked:
            return None
        edges = [ranked[len(ranked) * n // SHADES] for n in range(1, SHADES)]
        ends = (sign * ranked[0], sign * ranked[len(ranked) // 2], sign * ranked[-1])
        return cls(edges=edges, sign=sign, ends=ends)

    def shade(self, score: float) -> int:
        """From 0, the worst, to `SHADES` - 1, the best."""
        return bisect_right(self.edges, self.sign * score)


_MOST = 1e150
"""The greatest number that is drawn, and the inverse of the smallest on a logarithmic axis: who
draws multiplies numbers and takes their differences."""


def drawn(value: float) -> float:
    """Where a number is drawn: one that is too large or too small for that, at the edge."""
    if value == 0:
        return 0.0
    return math.copysign(max(1 / _MOST, min(_MOST, abs(value))), value)


# --- scores ---------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A place in a chart of something over a member's own effort."""

    trained: int
    value: float


def scores(history: History) -> dict[int, list[Point]]:
    """The scores of each member over the steps that it has trained."""
    return {
        member: [Point(t.plan.trained, t.score) for t in turns if t.score is not None]
        for member, turns in sorted(history.turns.items())
    }


def best_and_mean(history: History) -> tuple[list[Point], list[Point]]:
    """The best and the mean score of each round that at least half of the members have done.

    With stages it is half of those that were still there: a mean is always of members of one age.
    """
    rounds: dict[int, list[float]] = defaultdict(list)
    trained: dict[int, int] = {}
    for turn in every_turn(history):
        if turn.score is not None:
            rounds[turn.number].append(turn.score)
            trained[turn.number] = turn.plan.trained
    enough = {n: there for n, there in rounds.items() if 2 * len(there) >= _expected(history, n)}
    choose = max if history.direction == "maximize" else min
    best = [Point(trained[n], choose(there)) for n, there in enough.items()]
    mean = [Point(trained[n], average(there)) for n, there in enough.items()]
    return best, mean


def _expected(history: History, round_number: int) -> int:
    """How many members are to do a round."""
    plan = history.stages
    if plan is None or round_number > plan.ends[-1]:
        return len(history.members)
    return plan.stages[plan.stage_at(round_number)].members


def stage_ends(history: History) -> list[Point]:
    """The stages that are over: what a member had trained by then, and how many have left."""
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
    """A time for which one member kept a value, with scores of one shade."""

    start: int
    """The step of the weights at which it begins."""
    end: int
    value: Value
    shade: int
    member: int


def stretches(history: History, name: str, shades: Shades) -> list[Stretch]:
    """Every value that a hyperparameter had, over the steps of the weights trained under it."""
    found: list[Stretch] = []
    for member, turns in sorted(history.turns.items()):
        last: Stretch | None = None
        for turn in turns:
            if turn.score is None:
                continue
            value, shade = turn.plan.hparams[name], shades.shade(turn.score)
            goes_on = last is not None and (last.end, last.shade) == (turn.plan.start_step, shade)
            if last is not None and goes_on and identity(last.value) == identity(value):
                last.end = turn.step
            else:
                last = Stretch(turn.plan.start_step, turn.step, value, shade, member)
                found.append(last)
    return found


# --- founders -------------------------------------------------------------------------------------


def shares(history: History, most: int = 7) -> dict[int | None, list[float]]:
    """The share of each founder's descendants after each turn, those with the most first.

    Only the `most` founders that last longest have a line of their own; None stands for the others
    together.
    """
    found = founder_shares(history)
    last = Counter({founder: n for n, share in enumerate(found) for founder in share})
    order = sorted(last, key=lambda f: (-last[f], -found[last[f]][f], f))
    lines: dict[int | None, list[float]] = {
        founder: [share.get(founder, 0.0) for share in found] for founder in order[:most]
    }
    if order[most:]:
        lines[None] = [sum(share.get(f, 0.0) for f in order[most:]) for share in found]
    return lines


# --- time -----------------------------------------------------------------------------------------


PARTS = ("train", "evaluate", "checkpoint", "restore")
_PAUSE = 30.0


def time_spent(history: History, slots: int) -> dict[str, float]:
    """Where the seconds of `slots` workers went.

    `lost` is the time of turns that came to nothing, `waiting` that of workers with nothing to do.
    Times in which no turn ran for more than half a minute count as the population's pause and not
    as waiting: it was stopped, and resumed later.
    """
    spent = dict.fromkeys((*PARTS, "lost", "waiting"), 0.0)
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
        if running or (before and gap < _PAUSE):
            spent["waiting"] += max(0, slots - running) * gap
        running, before = running + change, when
    return spent


# --- small things ---------------------------------------------------------------------------------


def copies(history: History) -> int:
    """How often a member copied another."""
    return sum(turn.plan.donor is not None for turn in every_turn(history))
