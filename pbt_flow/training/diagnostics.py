"""Signs that a population is not doing what its owner thinks: pure rules on the turns of a round.

Each sign is seen at most once, at the end of a round, and says what was measured and what to try.
Nothing here changes what a population does.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from optuna.distributions import BaseDistribution, CategoricalDistribution

from pbt_flow.population.history import History
from pbt_flow.population.records import Turn
from pbt_flow.space import Space, to_unit
from pbt_flow.utils.means import difference

FEW = 4
"""Of smaller populations nothing is said: two members always agree."""
_LASTS = 0.3
"""The correlation of a rank with the next one, and the share of the scores' variance that lies
between members, from which on a population does not copy by chance."""
_SUSPECT, _CLEARED = math.log(3), -math.log(10)
"""Wald's bounds of a sequential test: noise explains the ranks three times better, which is reason
enough to look at the scores, or ten times worse. However often one looks, pure noise crosses the
second in 1 of 10 runs at most."""
_RACED = 0.6
"""The correlation of the ranks of a stage's last two turns, and the share of the scores' variance
that lies between members, of a race that is no lottery."""
_RACERS = 8
"""Of fewer members the ranks of two turns say too little."""
_OVERHEAD = 0.1
"""Seconds of overhead a turn that nobody minds."""
_LOOKED = 5
"""Rounds after which overhead is judged."""
_GAINED = 4.0
"""Standard deviations of chance by which those nearer a bound must have gained more. So many, since
there are many hyperparameters and rounds, and since one that does nothing is copied along with one
that does."""
_EDGE = 0.01
"""A value within this share of its range from a bound counts as at the bound."""


@dataclass(frozen=True)
class Finding:
    """One sign, in words."""

    name: str
    """Of the tag `pbt.warning/<name>` on the population's run."""
    text: str


@dataclass
class Diagnostics:
    """Looks at a population round by round, and remembers what it has said."""

    history: History
    space: Space
    seen: set[str] = field(default_factory=set)
    """The names of the signs that were seen."""
    _pulls: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Of each hyperparameter how its rank goes with that of the gain, summed over the rounds, each
    with its degrees of freedom as weight; and the sum of these."""
    _spent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=99))
    """Seconds of the newest turns beside training, and of training."""
    _copies: int = 0
    _suspicion: float = 0.0
    """Logarithm of how much better pure noise explains the ranks so far than ranks that last."""
    _spread: float = 0.0
    """The squared distances of all scores from the mean of their round, summed up."""
    _freedom: int = 0
    """The degrees of freedom of that sum."""
    _ranks_last: bool = False
    """Whether ranks were once seen to last: late in a good run, where members are alike, they are
    chance, and that is no fault."""

    def round(self, number: int, turns: Sequence[Turn]) -> list[Finding]:
        """The signs that are new after a round.

        Args:
            number: The round: every living member has done so many turns.
            turns: The turns of that number.
        """
        self._weigh_ranks(number, turns)
        signs = [
            *self._pinned(number, turns),
            *self._overhead(number, turns),
            *self._race(number, turns),
        ]
        new = [sign for sign in signs if sign.name not in self.seen]
        self.seen.update(sign.name for sign in new)
        return new

    def _weigh_ranks(self, number: int, turns: Sequence[Turn]) -> None:
        """Go on with a sequential test: are ranks chance, or do they last into the next round?

        Compared are the rank of the record that a turn began with, its own or a donor's, and the
        rank of what came out of it. In pure noise their correlation r over m members has mean 0 and
        variance 1 / (m - 1).
        """
        self._copies += sum(turn.plan.donor is not None for turn in turns)
        scores = [self.history.fitness(turn) for turn in same_age(turns)]
        if len(scores) > 1:
            self._spread += _scatter(scores)
            self._freedom += len(scores) - 1
        if self._ranks_last or number < 2:
            return
        pairs = [
            (self.history.turn(turn.plan.start.member, turn.plan.start.turn), turn)
            for turn in turns
            if turn.ok and turn.plan.start is not None
        ]
        if len(pairs) < FEW:
            return
        before = _ranks_of([self.history.fitness(start) for start, _ in pairs])
        after = _ranks_of([self.history.fitness(turn) for _, turn in pairs])
        together = correlation(before, after)
        self._suspicion += (len(pairs) - 1) * (_LASTS**2 / 2 - _LASTS * together)
        self._ranks_last = self._suspicion <= _CLEARED

    @property
    def looks_noisy(self) -> bool:
        """Whether ranks look like chance: a reason to look at the scores, and not yet a sign."""
        enough = self._suspicion >= _SUSPECT
        return enough and not self._ranks_last and self._copies > 0 and "noise" not in self.seen

    def judge_noise(self, scores: Sequence[Sequence[float]]) -> Finding | None:
        """Whether members differ no more than each of them does from itself, evaluated again.

        An analysis of variance: F compares the members' means with the scatter of each. It is noise
        where F is not above what noise gives in 92.5 of 100 cases, nor above what even a share of
        `_LASTS` of all variance between members gives in 95 of 100, and where members of the rounds
        before did not differ by more than this scatter either: late in a good run they are alike,
        and that is no fault. An evaluation that repeats itself exactly has no noise.

        Args:
            scores: Of each member the scores of one checkpoint; as many of each.
        """
        from scipy.special import fdtri

        members, times = len(scores), min(map(len, scores), default=0)
        if members < FEW or times < 2:
            return None
        between = times * _scatter([sum(row) / len(row) for row in scores]) / (members - 1)
        again = members * (times - 1)
        within = sum(map(_scatter, scores)) / again
        if not math.isfinite(between + within) or within == 0:
            return None
        ratio, lasting = between / within, 1 + times * _LASTS / (1 - _LASTS)
        if ratio >= fdtri(members - 1, again, 0.925):
            return None  # more than noise alone gives
        if ratio >= lasting * fdtri(members - 1, again, 0.05):
            return None  # too few evaluations to tell
        if self._freedom:
            before = self._spread / self._freedom / within
            if not before <= fdtri(self._freedom, again, 0.975):
                return None  # once they did differ; or it is not known by how much
        return Finding(
            "noise",
            f"ranks are chance: {members} members, each evaluated {times} times, differ by "
            f"{math.sqrt(between / times):.3g} (standard deviation of their means), where noise "
            f"alone gives {math.sqrt(within / times):.3g}: members copy at the rate of pure noise; "
            "evaluate on more data, train for longer between decisions, or use exploit ttest",
        )

    def _race(self, number: int, turns: Sequence[Turn]) -> Iterator[Finding]:
        """Members left at the end of a stage, and the ranks by which they did were chance.

        Compared are the ranks of the stage's last two turns: in pure noise their correlation over m
        members has mean 0 and variance 1 / (m - 1). Where every score comes with a sample, members
        must also differ by no more than the samples' own error: an analysis of variance.
        """
        plan = self.history.stages
        if plan is None or number not in plan.ends[:-1] or self._ranks_last:
            return
        stage = plan.stage_at(number)
        there = same_age(turns)
        if len(there) < _RACERS:
            return
        said = list[str]()
        if plan.stages[stage].turns > 1:
            starts = [turn.plan.start for turn in there]
            before = [self.history.turn(s.member, s.turn) for s in starts if s is not None]
            if len(before) < len(there):
                return
            first, last = ([self.history.fitness(t) for t in row] for row in (before, there))
            together = correlation(_ranks_of(first), _ranks_of(last))
            suspicion = (len(there) - 1) * (_RACED**2 / 2 - _RACED * together)
            if suspicion < _SUSPECT or min(last) == max(last):
                return
            said.append(f"those of its last two turns correlate by {together:.2f}")
        ratio = _between_and_within([turn.sample for turn in there])
        if ratio is not None:
            if ratio >= _largest_of_chance([turn.sample for turn in there]):
                return
            said.append("members differ by no more than their samples' own error")
        if said:
            yield Finding(
                "race",
                f"the ranks of {len(there)} members at the end of stage {stage + 1} look like "
                f"chance ({'; '.join(said)}), so that luck decided who left; make that stage "
                "longer, evaluate on more data, or take stages with a longer first one, as narrow",
            )

    def _pinned(self, number: int, turns: Sequence[Turn]) -> Iterator[Finding]:
        """Half of the members have moved a hyperparameter to the same bound, and gained by it.

        Copies carry a hyperparameter that does nothing along with those that do, and explore moves
        it at random: it comes to a bound as well, in two of three long runs. What tells the two
        apart is whether those nearer the bound have gained more in their turns so far.
        """
        ok = [turn for turn in turns if turn.ok]
        gains = [self._gain(turn) for turn in ok]
        for name, dist in self.space.items():
            if isinstance(dist, CategoricalDistribution) or dist.single():
                continue
            places = [_place(turn.plan.hparams[name], dist) for turn in ok]
            weight = len(ok) - 1
            if weight > 0 and max(places) > min(places):
                pull, weights = self._pulls.get(name, (0.0, 0))
                pull += weight * correlation(_ranks_of(places), _ranks_of(gains))
                self._pulls[name] = (pull, weights + weight)
            pull, weights = self._pulls.get(name, (0.0, 1))
            for bound, edge, sign in (("lower", 0.0, -1), ("upper", 1.0, 1)):
                there = [t for t in turns if abs(_place(t.plan.hparams[name], dist) - edge) < _EDGE]
                first = [self.history.turn(turn.member, 1) for turn in there]
                moved = any(
                    old.plan.hparams[name] != new.plan.hparams[name]
                    for old, new in zip(first, there, strict=True)
                )
                gained = sign * pull >= _GAINED * math.sqrt(weights)
                if moved and gained and len(turns) >= FEW and 2 * len(there) >= len(turns):
                    yield Finding(
                        f"pinned/{name}",
                        f"{len(there)} of {len(turns)} members have {name} at its {bound} bound "
                        f"after {number} turns, and those nearer to it gained more: the best value "
                        "may lie beyond; widen its range",
                    )

    def _gain(self, turn: Turn) -> float:
        """What a turn added to the fitness that it began with."""
        start = turn.plan.start
        fitness = self.history.fitness(turn)
        if start is None:
            return fitness
        start_of = start.member, start.turn
        return difference(fitness, self.history.fitness(self.history.turn(*start_of)))

    def _overhead(self, number: int, turns: Sequence[Turn]) -> Iterator[Finding]:
        """Most of a turn is not training: of the median turn of several rounds.

        One slow disk or one busy second makes a round look bad, and so does a first turn, which may
        download data or compile.
        """
        if number == 1:
            return
        spent = [turn.seconds for turn in turns if turn.ok and "train" in turn.seconds]
        train = [seconds["train"] for seconds in spent]
        self._spent.extend((sum(s.values()) - t, t) for s, t in zip(spent, train, strict=True))
        if number <= _LOOKED or len(self._spent) < _LOOKED * FEW:
            return
        rest, training = (median(part) for part in zip(*self._spent, strict=True))
        if rest > max(training, _OVERHEAD):
            yield Finding(
                "overhead",
                f"a turn trains for {training:.2g} s and takes {rest:.2g} s to restore, evaluate "
                "and save: a larger interval, or a cheaper evaluate(), would use the time better",
            )


def same_age(turns: Sequence[Turn]) -> list[Turn]:
    """Of some turns that went well those with weights of the commonest age: others differ for that
    reason alone.
    """
    ages = Counter(turn.step for turn in turns if turn.ok)
    commonest = max(ages, key=lambda age: (ages[age], age), default=None)
    return [turn for turn in turns if turn.ok and turn.step == commonest]


def _between_and_within(samples: Sequence[Sequence[float]]) -> float | None:
    """How many times the variance of members' means is what the scatter of their samples makes
    expect; None where they have no samples of one size, or these do not scatter.
    """
    size = min(map(len, samples))
    if size < 2 or size < max(map(len, samples)):
        return None
    between = size * _scatter([sum(one) / size for one in samples]) / (len(samples) - 1)
    within = sum(map(_scatter, samples)) / (len(samples) * (size - 1))
    return between / within if math.isfinite(between + within) and within > 0 else None


def _largest_of_chance(samples: Sequence[Sequence[float]]) -> float:
    """The ratio of variances above which members differ, or it is too early to tell.

    It is what noise gives in 95 of 100 cases, and at most what a share of `_RACED` of the variance
    between members gives in 5 of 100.
    """
    from scipy.special import fdtri

    members, size = len(samples), len(samples[0])
    again = members * (size - 1)
    lasting = 1 / (1 - _RACED)
    return float(min(fdtri(members - 1, again, 0.95), lasting * fdtri(members - 1, again, 0.05)))


def _scatter(values: Sequence[float]) -> float:
    """The sum of squared distances from the mean; of huge values not finite, but no exception."""
    # Neither fsum() nor ** will have a sum that is too large, and a score may be nearly so.
    mean = sum(values) / len(values)
    return sum((value - mean) * (value - mean) for value in values)


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one of the two does not vary."""
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    together = math.fsum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread = math.fsum((x - mean_a) ** 2 for x in a) * math.fsum((y - mean_b) ** 2 for y in b)
    return together / math.sqrt(spread) if spread else 0.0


def _ranks_of(values: Sequence[float]) -> list[float]:
    """The ranks of some values, evenly from -1 to 1; equal values share theirs."""
    ordered = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(ordered)))}
    last = {value: place for place, value in enumerate(ordered)}
    span = max(1, len(values) - 1)
    return [(first[value] + last[value]) / span - 1 for value in values]


def _place(value: object, dist: BaseDistribution) -> float:
    """Where a value lies in its range, from 0 to 1."""
    low, high = to_unit(dist.low, dist), to_unit(dist.high, dist)  # type: ignore[attr-defined]
    return (to_unit(value, dist) - low) / (high - low) if high > low else 0.5
