"""MF-PBT: sub-populations that decide at different intervals, so that not all of them are greedy.

A sub-population that decides after every turn selects what helps at once. One that decides seldom
selects what helps in the long run. Weights migrate between them in both directions, but
hyperparameters only from the slower to the faster: greedy ones stay where they are.

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
    """Each sub-population decides after every so many turns, by the quarters of its ranking.

    The members of the last quarter copy those of the first quarter: the best of the one copies the
    best of the other, and so on. The explore strategy then moves their hyperparameters.

    Each member of the third quarter, from the best on, meets a migrant: the best member of the
    other sub-populations that has not been taken yet. If the migrant is better, the member takes
    its weights. Which hyperparameters it then has depends on the migrant's sub-population:

    - If that decides less often, it takes the migrant's hyperparameters, too.
    - If that decides more often, it takes those of the best member of its own sub-population.
    - If both decide equally often, it keeps its own.

    The explore strategy moves nothing after a migration.

    All members are ranked by their scores at one age of the weights, that of the deciding member.
    In an asynchronous population some scores may be missing. The quarters are then those of the
    members that have one. Equal members rank in random order, and none copies another of them.
    """

    periods: tuple[int, ...] = (1, 5)
    """After how many turns each sub-population decides. There are as many sub-populations as
    periods, all of one size that 4 divides; the first members are the first sub-population. The
    paper has the periods 1, 10, 25 and 50 for 32 members."""

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
        """Return the number of the sub-population of each of so many members.

        Raises:
            ValueError: Some quarters would not have a whole number of members.
        """
        many = len(self.periods)
        if population % (4 * many):
            raise ValueError(
                f"{many} periods make {many} sub-populations of one size that 4 divides, got "
                f"population={population}; take {_way_out(population, many)}"
            )
        return [member * many // population for member in range(population)]

    def describe(self, population: int) -> str:
        """Return the sub-populations in a sentence, which a person reads before training begins.

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
            # From the middle of its place. If the number of members is divisible by 4, the quarters
            # are those of the paper; if some are missing, they stay as even as they can be.
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
        """Return what a member takes from a migrant."""
        mine, theirs = self.periods[me.group], self.periods[migrant.group]
        hparams: int | None = None
        if theirs > mine:
            hparams = migrant.member
        elif theirs < mine and best.member != me.member:
            hparams = best.member
        return Sources(weights=migrant.member, hparams=hparams, explores=False)


def _best_first(everyone: Sequence[Candidate], rng: np.random.Generator) -> list[Candidate]:
    """Return the candidates from the best to the worst; equal ones are in random order."""
    order = rng.permutation(len(everyone))
    ranked = sorted(zip(everyone, order, strict=True), key=lambda one: (-one[0].fitness, one[1]))
    return [candidate for candidate, _ in ranked]


def _migrant(
    me: Candidate, third: Sequence[Candidate], outsiders: Sequence[Candidate]
) -> Candidate | None:
    """Return the migrant that a member takes; None if no better one is left for it.

    Args:
        me: The member, which is of the third quarter.
        third: The third quarter, from the best to the worst. One after the other takes the first
            of the outsiders that is left, if that one is better.
        outsiders: The members of the other sub-populations, from the best to the worst.
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
    """Return an ordinal number: 2nd, 5th, 11th."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"


def _way_out(population: int, many: int) -> str:
    """Return what to take in place of so many members in so many sub-populations."""
    least = 4 * many
    below = population // least * least
    sizes = [size for size in (below, below + least) if size]
    numbers = [number for number in range(2, population) if population % (4 * number) == 0]
    remedies = [f"population={' or '.join(map(str, sizes))}"]
    if numbers:
        remedies.append(f"{' or '.join(map(str, numbers))} periods")
    return ", or ".join(remedies)
