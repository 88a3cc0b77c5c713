"""A sign that something is wrong, in words, and which turns can be compared to look for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pbt_flow.population.records import Turn

FEW = 4
"""Of smaller populations nothing is said: two members always agree."""


@dataclass(frozen=True)
class Finding:
    """One sign, in words."""

    name: str
    """Of the tag `pbt.warning/<name>` on the population's run."""
    text: str


def same_age(turns: Sequence[Turn]) -> list[Turn]:
    """Of some turns that went well, those with weights of the commonest age.

    Scores of other ages differ for that reason alone.
    """
    ages = Counter(turn.step for turn in turns if turn.ok)
    commonest = max(ages, key=lambda age: (ages[age], age), default=None)
    return [turn for turn in turns if turn.ok and turn.step == commonest]
