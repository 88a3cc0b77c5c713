"""A sign that something is wrong, in words, and which turns can be compared to look for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pbt_flow.population.records import Turn

FEW = 4
"""No sign is looked for among fewer members: the ranks of two or three often agree by chance."""


@dataclass(frozen=True)
class Finding:
    """One sign, in words."""

    name: str
    """Ends the name of the tag `pbt.warning/<name>` on the population's run."""
    text: str
    """What was measured, and what to try, in one sentence."""


def same_age(turns: Sequence[Turn]) -> list[Turn]:
    """The turns that went well and whose weights have the commonest age.

    Weights of another age score differently for that reason alone.
    """
    ages = Counter(turn.step for turn in turns if turn.ok)
    commonest = max(ages, key=lambda age: (ages[age], age), default=None)
    return [turn for turn in turns if turn.ok and turn.step == commonest]
