"""What the population has done so far, indexed for the questions that a decision asks.

Turns are added one at a time, as they are committed. A decision reads only this history, never the
tracking store. How long an answer takes does not depend on the length of the history.
"""

from __future__ import annotations

import bisect
import copy
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pbt_flow.population.fresh_score import FreshScore
from pbt_flow.population.records import Checkpoint, Direction, Member, Turn
from pbt_flow.population.stages import StagePlan
from pbt_flow.space import Hparams
from pbt_flow.utils.means import difference

_Value = TypeVar("_Value")
BEST_EVER = 2
"""How many of the best records ever take part when the winner is chosen."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a strategy knows of a member at the age of the comparison."""

    member: int
    turn: int = 0
    """The number of the member's turn that this score comes from."""
    fitness: float
    """The score as used for ranking: greater is better, and minus infinity if the turn failed."""
    sample: tuple[float, ...] = ()
    """The sample behind the fitness; greater is better. Empty if the score is a single number."""
    group: int = 0
    """The number of the member's sub-population; 0 where there is only one."""
    age: int = 0
    """The age of the weights, in turns along their lineage."""


def _rank_key(candidate: Candidate) -> tuple[float, int]:
    return candidate.fitness, candidate.member


@dataclass(frozen=True)
class Ranking:
    """The members that have a score with weights of one age."""

    records: Mapping[int, Candidate]
    """Each member's newest score at this age."""
    ordered: Sequence[Candidate]
    """The same candidates from the worst to the best; equal ones by the number of the member."""

    @classmethod
    def of(cls, records: Mapping[int, Candidate]) -> Ranking:
        """Rank the newest scores of some members."""
        return cls(records, sorted(records.values(), key=_rank_key))

    def without(self, member: int) -> Sequence[Candidate]:
        """Return all candidates but one member's, from the worst to the best."""
        own = self.records.get(member)
        if own is None:
            return list(self.ordered)
        place = bisect.bisect_left(self.ordered, _rank_key(own), key=_rank_key)
        return [*self.ordered[:place], *self.ordered[place + 1 :]]

    def count(self, retired: Collection[int]) -> int:
        """Return how many members that are not retired have a score at this age."""
        return len(self.records) - sum(member in self.records for member in retired)

    def count_worse(self, candidate: Candidate) -> int:
        """Return how many members have a score below the candidate's."""
        return bisect.bisect_left(self.ordered, candidate.fitness, key=lambda c: c.fitness)


_EMPTY_RANKING = Ranking({}, [])


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much one turn's hyperparameters gained: a data point that a sampler may learn from."""

    hparams: Hparams
    gain: float
    """The fitness after the turn, less the fitness of the record that the turn began with."""
    turn: int = 0
    """The number of the turn among its member's turns."""


@dataclass
class History:
    """The committed turns of one population."""

    direction: Direction
    stages: StagePlan | None = None
    """How many members go on, and for how long; None for all to the end."""
    members: dict[int, Member] = field(default_factory=dict)
    """Every member as it stands now."""
    group_sizes: Counter[int] = field(default_factory=Counter)
    """How many members began in each sub-population; one entry where there is only one."""
    turns: dict[int, list[Turn]] = field(default_factory=lambda: defaultdict(list))
    """Every turn of each member, in order."""
    stage: int = 0
    """The number of the stage that the living members are in, from 0."""
    left: dict[int, int] = field(default_factory=dict)
    """The members that have left, each with the number of the stage at whose end it left."""
    best_initial: Turn | None = None
    """The best turn of any initial configuration before PBT replaced that configuration."""
    best_ever: list[Turn] = field(default_factory=list)
    """The turns with the best scores of all, the best first; at most `BEST_EVER`.

    Scores can fall again, as a GAN's do after its peak. These records take part when the winner is
    chosen, but never by a score that may be luck: the best of many noisy scores is mostly that."""
    scores_repeat: bool = False
    """Whether evaluating a record again gives its very score, so that no luck is in a score."""
    fresh: dict[Checkpoint, FreshScore] = field(default_factory=dict)
    """The scores of finalists on data that no decision has seen, by their checkpoints."""
    _newest_scores: dict[int, dict[int, Candidate]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    """For each age, every member's newest score."""
    _ranked: dict[int, list[Candidate]] = field(default_factory=lambda: defaultdict(list))
    """For each age, the newest scores from the worst to the best."""
    _all_scores: dict[int, list[Candidate]] = field(default_factory=lambda: defaultdict(list))
    """For each age, all scores, also those that their member has replaced since."""
    _latest_turn: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """For each age, the greatest number of a turn among its scores."""
    _ages: list[int] = field(default_factory=list)
    """The ages that have scores, in ascending order."""
    _deleted: set[tuple[int, int]] = field(default_factory=set)
    """The member and the turn of each checkpoint that was deleted."""

    def begin(self, members: Iterable[Member]) -> None:
        """Enter the members that have not trained yet."""
        for member in members:
            self.members[member.index] = member
            self.group_sizes[member.group] += 1

    def snapshot(self) -> History:
        """Return the history as it is now: no turn that is added later changes it.

        Another thread may read it while this one goes on.
        """
        made = copy.copy(self)
        for name, value in vars(self).items():
            setattr(made, name, _with_containers_of_its_own(value))
        return made

    def add(self, turn: Turn) -> None:
        """Add a committed turn: its member moves on, and its score joins those of its age."""
        member = self.members[turn.member] = self.members[turn.member].after(turn)
        self.turns[turn.member].append(turn)
        if not turn.ok:
            return
        never_copied = member.copied_after == 0
        best = self.best_initial
        if never_copied and (best is None or self._beats(turn, best)):
            self.best_initial = turn
        self.best_ever.append(turn)
        # Of equal scores the later one: what has trained longer is not worse by them.
        self.best_ever.sort(key=lambda one: (self.fitness(one), one.number, -one.member))
        self.best_ever.reverse()
        del self.best_ever[BEST_EVER:]
        if turn.step not in self._newest_scores:
            bisect.insort(self._ages, turn.step)
        sign = 1.0 if self.direction == "maximize" else -1.0
        candidate = Candidate(
            member=turn.member,
            turn=turn.number,
            fitness=self.fitness(turn),
            sample=tuple(sign * value for value in turn.sample),
            group=member.group,
            # All turns of a population have the same number of steps.
            age=turn.step // turn.plan.steps,
        )
        ranked = self._ranked[turn.step]
        older = self._newest_scores[turn.step].get(turn.member)
        # A member that copied younger weights comes back to an age at which it has a score already.
        if older is not None:
            del ranked[bisect.bisect_left(ranked, _rank_key(older), key=_rank_key)]
        bisect.insort(ranked, candidate, key=_rank_key)
        self._newest_scores[turn.step][turn.member] = candidate
        self._all_scores[turn.step].append(candidate)
        self._latest_turn[turn.step] = max(turn.number, self._latest_turn[turn.step])

    def _beats(self, turn: Turn, other: Turn) -> bool:
        """Whether a turn has the better score.

        If the scores are equal, the earlier turn beats the later one and then the first member the
        others, so that the result does not depend on the order in which turns arrive.
        """

        def rank(one: Turn) -> tuple[float, int, int]:
            return self.fitness(one), -one.number, -one.member

        return rank(turn) > rank(other)

    def fitness(self, turn: Turn) -> float:
        """Return the score of a turn as used for ranking: greater is better."""
        return turn.fitness(self.direction)

    def turn(self, member: int, number: int) -> Turn:
        """Return one committed turn."""
        return self.turns[member][number - 1]

    # --- who is in good health ---

    def end_stage(self, left: Iterable[int]) -> None:
        """Note that the present stage has ended, and which members left at its end.

        `pbt_flow.population.leaving` decides who leaves.
        """
        self.left.update(dict.fromkeys(left, self.stage))
        self.stage += 1

    @property
    def turns_done(self) -> int:
        """How many turns all members have done together."""
        return sum(member.turn for member in self.members.values())

    @property
    def present(self) -> list[Member]:
        """The members that have not left at the end of a stage."""
        return [member for member in self.members.values() if member.index not in self.left]

    def living(self, max_failures: int) -> list[Member]:
        """Return the members that train: they have neither left at the end of a stage nor retired.

        Args:
            max_failures: How many failures in a row retire a member.
        """
        return [member for member in self.present if member.failures < max_failures]

    def standing(self, member: Member) -> Turn | None:
        """Return the record whose checkpoint a member stands on; None while its model is fresh.

        After a failed turn it is the record that the turn began with, perhaps a donor's.
        """
        stands_on = member.checkpoint
        return None if stands_on is None else self.turn(stands_on.member, stands_on.turn)

    def winner(self) -> Turn | None:
        """Return the record that a population would hand over; None if no turn went well.

        While it trains, that is the best of the records that the members stand on. At the end the
        best records ever take part as well. If some of all these records have a fresh score, it is
        the best of those by their fresh scores, whatever their scores are. A member whose last turn
        failed takes part with the checkpoint that it still has. If two are equal, the one that has
        trained longer wins, and then that of the first member.
        """
        return next(iter(self.ranked_finalists()), None)

    def ranked_finalists(self) -> list[Turn]:
        """Return the records that a winner can be chosen from, the best first."""
        finalists = self.finalists(with_best_ever=True)
        judged = [record for record in finalists if record.checkpoint in self.fresh]
        if not judged and not self.scores_repeat:
            finalists = self.finalists()
        return sorted(judged or finalists, key=self._final_rank, reverse=True)

    def finalists(self, *, with_best_ever: bool = False) -> list[Turn]:
        """Return the records that the members stand on, each once, from the best score down.

        Members that have left at the end of a stage do not count.

        Args:
            with_best_ever: Whether the best records ever take part, as far as their checkpoints
                exist, whoever made them.
        """
        standing = [self.standing(member) for member in self.present]
        if with_best_ever:
            standing += [record for record in self.best_ever if self.has_checkpoint(record)]
        # Two members may stand on one record, if one has copied it and then failed.
        records = {record.checkpoint: record for record in standing if record is not None}
        return sorted(
            records.values(),
            key=lambda record: (self.fitness(record), -record.member, -record.number),
            reverse=True,
        )

    def _final_rank(self, record: Turn) -> tuple[int, float, int, int, int]:
        """Return the key by which the winner is chosen: a greater one is better."""
        fresh = None if record.checkpoint is None else self.fresh.get(record.checkpoint)
        readings, fitness = 0, self.fitness(record)
        if fresh is not None:
            readings, fitness = fresh.rank(self.direction)
        return readings, fitness, record.step, -record.member, -record.number

    # --- who is comparable ---

    def at(self, age: int, turns: int | None = None) -> Ranking:
        """Return the members that have a score with weights of exactly this age.

        Args:
            age: The age of the weights, in steps.
            turns: How many turns of each member count, from its first one; None for all of them.
                With this limit, the decisions of a generation do not depend on who has already
                finished the next generation. It matters after a rescue: the rescued member has
                younger weights than the others, and may come to this age a generation later.
        """
        if age not in self._newest_scores:
            return _EMPTY_RANKING
        if turns is None or self._latest_turn[age] <= turns:
            return Ranking(self._newest_scores[age], self._ranked[age])
        scores = [candidate for candidate in self._all_scores[age] if candidate.turn <= turns]
        # In the order of their turns, so that a member's newest score replaces its older ones.
        scores.sort(key=lambda candidate: candidate.turn)
        return Ranking.of({candidate.member: candidate for candidate in scores})

    def best_at(self, age: int, group: int = 0) -> Turn | None:
        """Return a sub-population's best record of an age whose checkpoint still exists."""
        return self._best_with_checkpoint(self._ranked.get(age, []), group)

    def _best_with_checkpoint(self, ranked: Sequence[Candidate], group: int) -> Turn | None:
        """Return a sub-population's best record that can be copied, of ranked candidates."""
        for candidate in reversed(ranked):
            record = self.record(candidate)
            if candidate.group == group and self.has_checkpoint(record):
                return record
        return None

    def record(self, candidate: Candidate) -> Turn:
        """Return the turn that a candidate's score comes from."""
        return self.turn(candidate.member, candidate.turn)

    def ages(self, *, up_to: int) -> Iterator[int]:
        """Yield the ages that have records, from `up_to` downwards."""
        for index in range(bisect.bisect_right(self._ages, up_to) - 1, -1, -1):
            yield self._ages[index]

    # --- what can be copied ---

    def forget(self, member: int, turn: int) -> None:
        """Note that the checkpoint of a turn has been deleted."""
        self._deleted.add((member, turn))

    def has_checkpoint(self, turn: Turn) -> bool:
        """Whether the turn wrote a checkpoint that has not been deleted."""
        return turn.ok and (turn.member, turn.number) not in self._deleted

    def copyable(self, donor: int, ranking: Ranking, member: int) -> Turn | None:
        """Return the record that `member` copies once `donor` was chosen from a ranking.

        It is the donor's record that was ranked. If the checkpoint of that record was deleted, the
        best of the donor's sub-population in the same ranking takes its place: that one is kept
        until every member has passed this age.

        Returns:
            The record; None if no checkpoint is left that is better than what the member has.
        """
        candidate = ranking.records[donor]
        chosen = self.record(candidate)
        if self.has_checkpoint(chosen):
            return chosen
        best = self._best_with_checkpoint(ranking.without(member), candidate.group)
        own = ranking.records.get(member)
        if best is None or (own is not None and self.fitness(best) <= own.fitness):
            return None
        return best

    # --- what can be learnt ---

    def gains(self, *, before: int, window: int) -> list[Gain]:
        """Return the gains of the newest `window` turns whose number is at most `before`.

        They are ordered by turn and member, not by arrival, so that what a sampler learns does not
        depend on which worker was faster.
        """
        found: list[Gain] = []
        for number in range(before, 0, -1):
            for index in sorted(self.members, reverse=True):
                if len(self.turns[index]) < number or len(found) == window:
                    continue
                turn = self.turn(index, number)
                start = turn.plan.start
                # A failed turn has no score, and a fresh model has none to compare it with.
                if not turn.ok or start is None:
                    continue
                begun_with = self.turn(start.member, start.turn)
                gain = difference(self.fitness(turn), self.fitness(begun_with))
                found.append(Gain(hparams=turn.plan.hparams, gain=gain, turn=number))
            if len(found) == window:
                break
        return found[::-1]


def best_of_round(history: History, number: int) -> Turn:
    """Return the best of all members' turns of one number; at least one of them went well.

    If scores are equal, the turn of the first member is the best.
    """
    turns = [own[number - 1] for own in history.turns.values() if len(own) >= number]
    # The order of `history.turns` is that in which members finished their first turn.
    return max(
        (turn for turn in turns if turn.score is not None),
        key=lambda turn: (history.fitness(turn), -turn.member),
    )


def _with_containers_of_its_own(value: _Value) -> _Value:
    """Return a copy of a container with the same records in it. Records never change."""
    if not isinstance(value, dict | list | set):
        return value
    made = copy.copy(value)
    if isinstance(made, dict):
        for key, held in made.items():
            made[key] = _with_containers_of_its_own(held)
    return made
