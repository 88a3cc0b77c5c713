"""What asynchronous decisions are worth: beside generations of the same seeds and durations.

The seeds were fixed before the first run. `python -m benchmarks.rules` has more of them, and the
rules that were tried and not taken.
"""

import functools
import math
from statistics import fmean, stdev

import pytest

from benchmarks import rules
from benchmarks.problems import Drift
from benchmarks.rules import DURATIONS, TIMES
from pbt_flow.task import Task
from pbt_flow.tasks.toy import Toy
from pbt_flow.training.controller import Controller

outcomes = functools.cache(rules.outcomes)
"""Simulated once for all tests that look at the same populations."""


def differences(task: type[Task], duration: str, seeds: int) -> dict[float, list[float]]:
    """By how much the best asynchronous member is better at some shares of a generation's time."""
    size = {"members": 8, "slots": 8, "seeds": seeds}
    generational = outcomes(None, task, duration, **size)
    found: dict[float, list[float]] = {share: [] for share in TIMES}
    for ours, theirs in zip(
        outcomes(Controller, task, duration, **size), generational, strict=True
    ):
        for share in TIMES:
            a, b = ours.at(share * theirs.seconds), theirs.at(share * theirs.seconds)
            if a is not None and b is not None:
                found[share].append(a - b)
    return found


def is_no_worse(values: list[float]) -> bool:
    """Whether the mean is not below zero by more than two standard errors."""
    return fmean(values) >= -2 * stdev(values) / math.sqrt(len(values)) - 1e-12


@pytest.mark.parametrize(
    ("task", "duration", "seeds"),
    [
        (Toy, "uniform", 12),
        *[
            pytest.param(Toy, duration, 12, marks=pytest.mark.slow)
            for duration in DURATIONS
            if duration != "uniform"
        ],
        pytest.param(Drift, "exponential", 20, marks=pytest.mark.slow),
        pytest.param(Drift, "one 3 x slower", 20, marks=pytest.mark.slow),
    ],
)
def test_at_equal_time_asynchronous_members_are_no_worse_than_generations(task, duration, seeds):
    """A worker for each of 8 members, whatever a turn takes."""
    for share, values in differences(task, duration, seeds).items():
        assert is_no_worse(values), f"at {share:.0%} of the time: {fmean(values):+.4f}"


@pytest.mark.parametrize(
    "duration",
    [
        "uniform",
        pytest.param("exponential", marks=pytest.mark.slow),
        pytest.param("one 3 x slower", marks=pytest.mark.slow),
    ],
)
def test_they_are_there_sooner_where_turns_differ(duration):
    halfway = differences(Toy, duration, 12)[0.5]
    assert fmean(halfway) > 4 * stdev(halfway) / math.sqrt(len(halfway))


@pytest.mark.parametrize("duration", DURATIONS)
@pytest.mark.parametrize("slots", [2, 4, 8])
def test_no_winner_has_trained_beyond_the_budget(slots, duration):
    found = outcomes(Controller, Toy, duration, members=8, slots=slots, seeds=2)
    assert [one.age for one in found] == [1.0] * 2


@pytest.mark.slow
def test_with_equal_durations_they_copy_as_often_as_generations():
    size = {"members": 8, "slots": 8, "seeds": 12}
    ours, theirs = (outcomes(rule, Toy, "equal", **size) for rule in (Controller, None))
    copies = fmean(one.copies for one in ours)
    assert copies == pytest.approx(fmean(one.copies for one in theirs), rel=0.1)
