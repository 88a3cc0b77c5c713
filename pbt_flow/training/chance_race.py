"""A sign: members left at the end of a stage, and the ranks that decided it look like chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pbt_flow.population.history import History
from pbt_flow.population.records import Turn
from pbt_flow.training.findings import Finding, same_age
from pbt_flow.training.rank_noise import SUSPECT
from pbt_flow.utils.ranks import correlation, ranks_of, scatter

_RACED = 0.6
"""A race is no lottery if the ranks of its last two turns correlate this much, or if this share of
the scores' variance lies between members."""
_RACERS = 8
"""With fewer members the ranks of two turns say too little."""


def find_chance_race(history: History, number: int, turns: Sequence[Turn]) -> Finding | None:
    """A finding if a stage ends with this round and its ranks look like chance.

    The rule compares the ranks of the stage's last two turns. In pure noise their correlation over
    m members has mean 0 and variance 1 / (m - 1). If every score comes with a sample, an analysis
    of variance must also show that members differ by no more than the samples' own error.

    Args:
        history: The population's turns.
        number: The round: every living member has done so many turns.
        turns: The turns of that number.
    """
    plan = history.stages
    if plan is None or number not in plan.ends[:-1]:
        return None
    stage, there, said = plan.stage_at(number), same_age(turns), list[str]()
    if len(there) < _RACERS:
        return None
    if plan.stages[stage].turns > 1:
        before = list[float]()
        for turn in there:
            if (start := turn.plan.start) is None:
                return None
            before.append(history.fitness(history.turn(start.member, start.turn)))
        last = [history.fitness(turn) for turn in there]
        together = correlation(ranks_of(before), ranks_of(last))
        suspicion = (len(there) - 1) * (_RACED**2 / 2 - _RACED * together)
        if suspicion < SUSPECT or min(last) == max(last):
            return None
        said.append(f"those of its last two turns correlate by {together:.2f}")
    samples = [turn.sample for turn in there]
    ratio = _between_and_within(samples)
    if ratio is not None:
        if ratio >= _largest_of_chance(samples):
            return None
        said.append("members differ by no more than their samples' own error")
    if not said:
        return None
    return Finding(
        "race",
        f"the ranks of {len(there)} members at the end of stage {stage + 1} look like "
        f"chance ({'; '.join(said)}), so that luck decided who left; make that stage "
        "longer, evaluate on more data, or take stages with a longer first one, as narrow",
    )


def _between_and_within(samples: Sequence[Sequence[float]]) -> float | None:
    """The variance of members' means, over the one that the scatter of their samples explains.

    None if members have no samples of one size, or if the samples do not scatter.
    """
    size = min(map(len, samples))
    if size < 2 or size < max(map(len, samples)):
        return None
    means = [sum(one) / size for one in samples]
    between = size * scatter(means) / (len(samples) - 1)
    within = sum(map(scatter, samples)) / (len(samples) * (size - 1))
    return between / within if math.isfinite(between + within) and within > 0 else None


def _largest_of_chance(samples: Sequence[Sequence[float]]) -> float:
    """The ratio of variances above which members differ, or above which nobody can tell yet.

    It is the smaller one of two ratios. Noise alone stays below the first in 95 of 100 cases. If a
    share of `_RACED` of the variance lies between members, they stay below the second in 5 of 100.
    """
    from scipy.special import fdtri

    members, size = len(samples), len(samples[0])
    again = members * (size - 1)
    lasting = 1 / (1 - _RACED)
    return float(min(fdtri(members - 1, again, 0.95), lasting * fdtri(members - 1, again, 0.05)))
