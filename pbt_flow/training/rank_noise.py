"""A sign: members rank by chance. A cheap test runs in every round, and a sharp one on suspicion.

The cheap test goes on from round to round, and asks whether ranks last into the next one. If noise
explains them better, workers evaluate checkpoints again (`checks.py`), and an analysis of variance
of these scores decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pbt_flow.population.history import History
from pbt_flow.population.records import Turn
from pbt_flow.training.findings import FEW, Finding, same_age
from pbt_flow.utils.ranks import correlation, ranks_of, scatter

LASTS = 0.3
"""A population does not copy by chance if ranks correlate this much with those of the next round,
or if this share of the scores' variance lies between members."""
SUSPECT, _CLEARED = math.log(3), -math.log(10)
"""The bounds of a sequential test (Wald 1945, doi:10.1214/aoms/1177731118). At the first, noise
explains the ranks three times better, which is reason enough to evaluate again. At the second it
explains them ten times worse: pure noise ever comes to that bound in 1 of 10 runs at most."""


@dataclass
class RankNoise:
    """What the ranks of all rounds so far say of noise."""

    history: History
    has_copies: bool = False
    """Whether any member has copied another: without copies, noise does no harm."""
    ranks_last: bool = False
    """Whether ranks were once seen to last. Late in a good run the members are alike, so that their
    ranks are chance, and that is no fault."""
    _suspicion: float = 0.0
    """Logarithm of how much better pure noise explains the ranks so far than ranks that last."""
    _spread: float = 0.0
    """The squared distances of all scores from the mean of their round, summed up."""
    _freedom: int = 0
    """The degrees of freedom of that sum."""

    @property
    def is_suspected(self) -> bool:
        """Whether ranks look like chance: a reason to evaluate again, and not yet a sign."""
        return self._suspicion >= SUSPECT and not self.ranks_last and self.has_copies

    def add_round(self, number: int, turns: Sequence[Turn]) -> None:
        """Continue the sequential test of whether ranks are chance or last into the next round.

        The test compares the rank of the record that a turn began with, its own or a donor's, with
        the rank of what came out of it. In pure noise their correlation r over m members has mean 0
        and variance 1 / (m - 1).

        Args:
            number: The round: every living member has done so many turns.
            turns: The turns of that number.
        """
        self.has_copies |= any(turn.plan.donor is not None for turn in turns)
        scores = [self.history.fitness(turn) for turn in same_age(turns)]
        if len(scores) > 1:
            self._spread += scatter(scores)
            self._freedom += len(scores) - 1
        if self.ranks_last or number < 2:
            return
        before, after = list[float](), list[float]()
        for turn in turns:
            start = turn.plan.start
            if turn.ok and start is not None:
                record = self.history.turn(start.member, start.turn)
                before.append(self.history.fitness(record))
                after.append(self.history.fitness(turn))
        if len(after) < FEW:
            return
        together = correlation(ranks_of(before), ranks_of(after))
        self._suspicion += (len(after) - 1) * (LASTS**2 / 2 - LASTS * together)
        self.ranks_last = self._suspicion <= _CLEARED

    def judge(self, scores: Sequence[Sequence[float]]) -> Finding | None:
        """A finding if members differ no more than each of them does from itself.

        This is an analysis of variance, whose ratio F compares the members' means with the scatter
        of each member's scores. The members' differences are noise if three things hold. F lies
        where noise alone puts it in 92.5 of 100 cases. F does not come to what it would exceed in
        95 of 100 cases if a share of `LASTS` of the variance lay between members. And members of
        the rounds before did not differ by more than this scatter either, since late in a good run
        they are alike, which is no fault. An evaluation that repeats itself exactly has no noise.

        Args:
            scores: For each member the scores of one checkpoint that was evaluated again and again,
                equally often for each.
        """
        from scipy.special import fdtri

        members, times = len(scores), min(map(len, scores), default=0)
        if members < FEW or times < 2:
            return None
        means = [sum(row) / len(row) for row in scores]
        between = times * scatter(means) / (members - 1)
        again = members * (times - 1)
        within = sum(map(scatter, scores)) / again
        if not math.isfinite(between + within) or within == 0:
            return None
        ratio, lasting = between / within, 1 + times * LASTS / (1 - LASTS)
        if ratio >= fdtri(members - 1, again, 0.925):
            return None  # more than noise alone gives
        if ratio >= lasting * fdtri(members - 1, again, 0.05):
            return None  # too few evaluations to tell
        if self._freedom:
            before = self._spread / self._freedom / within
            # Written so that a spread that is not finite clears as well: it is not known.
            if not before <= fdtri(self._freedom, again, 0.975):
                return None  # members once did differ
        return Finding(
            "noise",
            f"ranks are chance: {members} members, each evaluated {times} times, differ by "
            f"{math.sqrt(between / times):.3g} (standard deviation of their means), where noise "
            f"alone gives {math.sqrt(within / times):.3g}: members copy at the rate of pure noise; "
            "evaluate on more data, train for longer between decisions, or use exploit ttest",
        )
