"""MF-PBT: sub-populations that decide at different intervals, so that not all of them are greedy.

A sub-population that decides at every turn selects what helps at once; one that decides seldom
selects what helps in the long run. Weights migrate between them in both directions, and
hyperparameters only from the slower one to the faster: what is greedy stays where it is.

Source: Doulazmi et al. 2025, Multiple-Frequencies Population-Based Training, algorithm 1
(arXiv 2506.03225, 10.48550/arXiv.2506.03225).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pbt_flow.population.history import Candidate
from pbt_flow.population.records import Copies
from pbt_flow.strategies.sources import Sources

if TYPE_CHECKING:
    import numpy as np

_THIRD, _LAST = 2, 3
"""The numbers of the two worse quarters of a sub-population, from 0."""


@dataclass(frozen=True)
class MultipleFrequencies:
    """The members of each sub-population decide every so many turns, by quarters of their ranks.

    The last quarter copies the first quarter of the same sub-population: the best of the last
    copies the best of all, and so on. What was copied is then moved. Each member of the third
    quarter, from the best on, meets the best member of the other sub-populations that is not taken
    yet. If that migrant is better, the member takes its weights. From a slower sub-population it
    takes the hyperparameters as well; from a faster one it takes weights only, and the
    hyperparameters of the best of its own sub-population; from an equally fast one, weights only.
    What was taken from a migrant is not moved.

    Everybody is ranked by the scores of one moment, those of the member's own age. In an
    asynchronous population some of them may still be missing; quarters are then those of the
    members that have one. Equal members are ranked in random order, and copy nobody of their like.
    """

    periods: tuple[int, ...] = (1, 5)
    """After how many turns each sub-population decides. There are as many sub-populations as
    periods, all of one size: the first members are the first sub-population. The paper has 1, 10,
    25 and 50 for 32 members."""

    def __post_init__(self) -> None:
        if len(self.periods) < 2 or any(period < 1 for period in self.periods):
            written = "/".join(map(str, self.periods))
            raise ValueError(
                f"periods must be two numbers of turns or more, each at least 1, got {written!r}; "
                "write them as in periods=1/5"
            )

    @property
    def copies(self) -> Copies:
        return "both"

    def groups(self, population: int) -> list[int]:
        """The sub-population of each of so many members.

        Raises:
            ValueError: Their quarters would not be whole.
        """
        many = len(self.periods)
        if population % (4 * many):
            raise ValueError(
                f"{many} periods make {many} sub-populations of one size, which 4 must divide, got "
                f"population={population}; take {_way_out(population, many)}"
            )
        return [member * many // population for member in range(population)]

    def describe(self, population: int) -> str:
        """The sub-populations in a sentence, as a person reads it before training begins.

        >>> print(MultipleFrequencies().describe(8))  # doctest: +NORMALIZE_WHITESPACE
        2 sub-populations: members 0 to 3 decide after each turn, members 4 to 7 after every 5th
        turn
        """
        size = population // len(self.periods)
        parts = list[str]()
        for number, period in enumerate(self.periods):
            when = "after each turn" if period == 1 else f"after every {_ordinal(period)} turn"
            decide = "" if parts else "decide "
            first = number * size
            parts.append(f"members {first} to {first + size - 1} {decide}{when}")
        return f"{len(parts)} sub-populations: {', '.join(parts)}"

    def is_due(self, me: Candidate) -> bool:
        """Whether a member's sub-population decides at the member's age."""
        return me.age % self.periods[me.group] == 0

    def __call__(
        self, me: Candidate, others: Sequence[Candidate], rng: np.random.Generator
    ) -> int | Sources | None:
        if not self.is_due(me):
            return None
        ranked = _best_first([me, *others], rng)
        own = [candidate for candidate in ranked if candidate.group == me.group]
        quarters: list[list[Candidate]] = [[], [], [], []]
        for place, candidate in enumerate(own):
            # By the middle of its place, so that a few members that are missing shift the borders
            # and leave no quarter out.
            quarters[(4 * place + 2) // len(own)].append(candidate)
        if me in quarters[_LAST]:
            donor = own[quarters[_LAST].index(me)]
            return donor.member if donor.fitness > me.fitness else None
        if me not in quarters[_THIRD]:
            return None
        outsiders = [candidate for candidate in ranked if candidate.group != me.group]
        migrant = _migrant(me, quarters[_THIRD], outsiders)
        return None if migrant is None else self._received(me, migrant, best=own[0])

    def _received(self, me: Candidate, migrant: Candidate, best: Candidate) -> Sources:
        """What a member takes from a migrant."""
        mine, theirs = self.periods[me.group], self.periods[migrant.group]
        hparams: int | None = None
        if theirs > mine:
            hparams = migrant.member
        elif theirs < mine and best.member != me.member:
            hparams = best.member
        return Sources(weights=migrant.member, hparams=hparams, explores=False)


def _best_first(everyone: Sequence[Candidate], rng: np.random.Generator) -> list[Candidate]:
    """Candidates from the best to the worst; equal ones in random order."""
    order = rng.permutation(len(everyone))
    ranked = sorted(zip(everyone, order, strict=True), key=lambda one: (-one[0].fitness, one[1]))
    return [candidate for candidate, _ in ranked]


def _migrant(
    me: Candidate, third: Sequence[Candidate], outsiders: Sequence[Candidate]
) -> Candidate | None:
    """The migrant that a member of the third quarter takes; None if none is left that is better.

    Args:
        me: The member.
        third: The third quarter, from its best on. Each of it takes the first outsider that is not
            taken yet, if that one is better.
        outsiders: The other sub-populations, from the best to the worst.
    """
    left = iter(outsiders)
    migrant = next(left, None)
    for candidate in third:
        if migrant is None:
            return None
        is_better = migrant.fitness > candidate.fitness
        if candidate is me:
            return migrant if is_better else None
        if is_better:
            migrant = next(left, None)
    return None


def _ordinal(number: int) -> str:
    """A number as it counts: 2nd, 5th, 11th."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"


def _way_out(population: int, many: int) -> str:
    """What to take in place of so many members in so many sub-populations."""
    least = 4 * many
    below = population // least * least
    sizes = [size for size in (below, below + least) if size]
    numbers = [number for number in range(2, population) if population % (4 * number) == 0]
    remedies = [f"population={' or '.join(map(str, sizes))}"]
    if numbers:
        remedies.append(f"{' or '.join(map(str, numbers))} periods")
    return ", or ".join(remedies)
