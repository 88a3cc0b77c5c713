"""What the population has done so far, indexed for the questions that a decision asks.

Turns go in one at a time, as they are committed; nothing is ever read back from a tracker in order
to decide. Each question costs the same however long the history is.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pbt_flow.population.fresh_score import FreshScore
from pbt_flow.population.records import Checkpoint, Direction, Member, Turn
from pbt_flow.population.stages import StagePlan
from pbt_flow.space import Hparams
from pbt_flow.utils.means import difference


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a strategy knows of a member at the age of the comparison."""

    member: int
    turn: int = 0
    """Which of its turns this is."""
    fitness: float
    """Greater is better; minus infinity if it failed."""
    sample: tuple[float, ...] = ()
    """The sample behind the fitness, greater is better; empty if the score is a single number."""


def _rank(candidate: Candidate) -> tuple[float, int]:
    return candidate.fitness, candidate.member


@dataclass(frozen=True)
class Ranking:
    """The members that have a score with weights of one age."""

    records: Mapping[int, Candidate]
    """Each member's newest score of this age."""
    ordered: Sequence[Candidate]
    """The same, from the worst to the best; of equals the first member first."""

    @classmethod
    def of(cls, records: Mapping[int, Candidate]) -> Ranking:
        return cls(records, sorted(records.values(), key=_rank))

    def without(self, member: int) -> Sequence[Candidate]:
        """All but one member, from the worst to the best."""
        mine = self.records.get(member)
        if mine is None:
            return list(self.ordered)
        place = bisect.bisect_left(self.ordered, _rank(mine), key=_rank)
        return [*self.ordered[:place], *self.ordered[place + 1 :]]

    def count(self, retired: Collection[int]) -> int:
        """How many members that are not retired have a score of this age."""
        return len(self.records) - sum(member in self.records for member in retired)

    def count_worse(self, candidate: Candidate) -> int:
        """How many members have a score below the candidate's."""
        return bisect.bisect_left(self.ordered, candidate.fitness, key=lambda c: c.fitness)


_NOBODY = Ranking({}, [])


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What one turn's hyperparameters brought: the data from which a sampler may learn."""

    hparams: Hparams
    gain: float
    """Fitness after the turn less the fitness of the record that the turn began with."""


@dataclass
class History:
    """The committed turns of one population."""

    direction: Direction
    stages: StagePlan | None = None
    """How many members go on, and for how long; None for all to the end."""
    members: dict[int, Member] = field(default_factory=dict)
    """Every member as it stands now."""
    turns: dict[int, list[Turn]] = field(default_factory=lambda: defaultdict(list))
    """Every turn of each member, in order."""
    stage: int = 0
    """The stage that the living members are in; the first is 0."""
    left: dict[int, int] = field(default_factory=dict)
    """The members that have left, each with the stage at whose end it did; the first is 0."""
    best_initial: Turn | None = None
    """The best that an initial configuration came to, unchanged, before PBT replaced it."""
    fresh: dict[Checkpoint, FreshScore] = field(default_factory=dict)
    """What the finalists were worth on data that no decision has seen."""
    _at_age: dict[int, dict[int, Candidate]] = field(default_factory=lambda: defaultdict(dict))
    _ranked: dict[int, list[Candidate]] = field(default_factory=lambda: defaultdict(list))
    _of_age: dict[int, list[Candidate]] = field(default_factory=lambda: defaultdict(list))
    """All scores of an age, those that a member has replaced since as well."""
    _latest: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """The greatest number of a turn among the scores of an age."""
    _ages: list[int] = field(default_factory=list)
    _gone: set[tuple[int, int]] = field(default_factory=set)

    def begin(self, members: Iterable[Member]) -> None:
        """Enter the members that have not trained yet."""
        self.members.update({member.index: member for member in members})

    def add(self, turn: Turn) -> None:
        """Commit a turn: its member moves on, and its record joins those of its age."""
        member = self.members[turn.member] = self.members[turn.member].after(turn)
        self.turns[turn.member].append(turn)
        if turn.ok:
            never_copied = member.copied_after == 0
            best = self.best_initial
            # Of equals the earliest turn, so that the order of arrival does not matter.
            rank = (self.fitness(turn), -turn.number, -turn.member)
            if never_copied and (
                best is None or rank > (self.fitness(best), -best.number, -best.member)
            ):
                self.best_initial = turn
            if turn.step not in self._at_age:
                bisect.insort(self._ages, turn.step)
            sign = 1.0 if self.direction == "maximize" else -1.0
            candidate = Candidate(
                member=turn.member,
                turn=turn.number,
                fitness=self.fitness(turn),
                sample=tuple(sign * value for value in turn.sample),
            )
            ranked, older = self._ranked[turn.step], self._at_age[turn.step].get(turn.member)
            if older is not None:
                del ranked[bisect.bisect_left(ranked, _rank(older), key=_rank)]
            bisect.insort(ranked, candidate, key=_rank)
            self._at_age[turn.step][turn.member] = candidate
            self._of_age[turn.step].append(candidate)
            self._latest[turn.step] = max(turn.number, self._latest[turn.step])

    def fitness(self, turn: Turn) -> float:
        return turn.fitness(self.direction)

    def turn(self, member: int, number: int) -> Turn:
        """One committed turn."""
        return self.turns[member][number - 1]

    # --- who is in good health ---

    def end_stage(self, left: Iterable[int]) -> None:
        """Enter that the present stage has ended, and who has left at its end.

        `pbt_flow.population.leaving` says who does.
        """
        self.left.update(dict.fromkeys(left, self.stage))
        self.stage += 1

    @property
    def present(self) -> list[Member]:
        """The members that have not left at the end of a stage."""
        return [member for member in self.members.values() if member.index not in self.left]

    def living(self, max_failures: int) -> list[Member]:
        """The members that train: they have not left at the end of a stage, nor failed so often in
        a row that they are retired.
        """
        return [member for member in self.present if member.failures < max_failures]

    def standing(self, member: Member) -> Turn | None:
        """The record whose checkpoint a member stands on; None while it has a fresh model.

        After a turn that failed it is the one that the turn began with, perhaps a donor's.
        """
        stands_on = member.checkpoint
        return None if stands_on is None else self.turn(stands_on.member, stands_on.turn)

    def winner(self) -> Turn | None:
        """The best of the records that the members stand on; None if no turn has gone well.

        Where some of them were judged afresh, it is the best of those by what they were worth then,
        whatever their scores are. One bad last turn does not take a good checkpoint from its
        member. Of equal records the one of the first member counts.
        """
        return next(iter(self.ranked_finalists()), None)

    def ranked_finalists(self) -> list[Turn]:
        """The records that a winner can be chosen from, the best first."""
        found = self.finalists()
        judged = [turn for turn in found if turn.checkpoint in self.fresh]
        return sorted(judged or found, key=self._worth, reverse=True)

    def finalists(self) -> list[Turn]:
        """The records that the members stand on, each once, the best by its score first.

        Who has left at the end of a stage stands on nothing any more.
        """
        standing = [self.standing(member) for member in self.present]
        found = {turn.checkpoint: turn for turn in standing if turn is not None}
        return sorted(
            found.values(), key=lambda t: (self.fitness(t), -t.member, -t.number), reverse=True
        )

    def _worth(self, turn: Turn) -> tuple[int, float, int, int]:
        """What the winner is chosen by: a greater one is better."""
        known = self.fresh.get(turn.checkpoint) if turn.checkpoint else None
        readings, worth = known.rank(self.direction) if known else (0, self.fitness(turn))
        return readings, worth, -turn.member, -turn.number

    # --- who is comparable ---

    def at(self, age: int, turns: int | None = None) -> Ranking:
        """The members that have a score with weights of exactly this age.

        Args:
            age: The age of the weights, in steps.
            turns: Look at the first so many turns of each member only. So what a generation
                decides does not depend on who has already finished the next one; a member that is
                younger since a rescue may then have come to this age.
        """
        if age not in self._at_age:
            return _NOBODY
        if turns is None or self._latest[age] <= turns:
            return Ranking(self._at_age[age], self._ranked[age])
        earlier = [candidate for candidate in self._of_age[age] if candidate.turn <= turns]
        earlier.sort(key=lambda candidate: candidate.turn)
        return Ranking.of({candidate.member: candidate for candidate in earlier})

    def best_at(self, age: int) -> Turn | None:
        """The best record of an age whose checkpoint exists."""
        found = map(self._record, reversed(self._ranked.get(age, [])))
        return next(filter(self.has_checkpoint, found), None)

    def _record(self, candidate: Candidate) -> Turn:
        return self.turn(candidate.member, candidate.turn)

    def ages(self, *, up_to: int) -> Iterator[int]:
        """The ages that have records, from `up_to` downwards."""
        for index in range(bisect.bisect_right(self._ages, up_to) - 1, -1, -1):
            yield self._ages[index]

    # --- what can be copied ---

    def forget(self, member: int, turn: int) -> None:
        """Note that the checkpoint of a turn has been deleted."""
        self._gone.add((member, turn))

    def has_checkpoint(self, turn: Turn) -> bool:
        return turn.ok and (turn.member, turn.number) not in self._gone

    def copyable(self, donor: int, ranking: Ranking, member: int) -> Turn | None:
        """The record to copy for `member`, where `donor` was chosen from a ranking.

        It is the donor's record that was ranked. Where its checkpoint is gone, the best of the same
        ranking takes its place: it is kept for as long as anybody has still to pass its age.

        Returns:
            The record; None where no checkpoint is left that is better than what the member has.
        """
        chosen = self._record(ranking.records[donor])
        if self.has_checkpoint(chosen):
            return chosen
        others = map(self._record, reversed(ranking.without(member)))
        best, mine = next(filter(self.has_checkpoint, others), None), ranking.records.get(member)
        better = best and (mine is None or self.fitness(best) > mine.fitness)
        return best if better else None

    # --- what can be learnt ---

    def gains(self, *, before: int, window: int) -> list[Gain]:
        """The gains of the newest `window` turns whose number is at most `before`.

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
                if not turn.ok or start is None:
                    continue
                begun_with = self.turn(start.member, start.turn)
                gain = difference(self.fitness(turn), self.fitness(begun_with))
                found.append(Gain(hparams=turn.plan.hparams, gain=gain))
            if len(found) == window:
                break
        return found[::-1]


def best_of_round(history: History, number: int) -> Turn:
    """The best of all members' turns of that number; the first of equals."""
    sign = 1 if history.direction == "maximize" else -1
    turns = [own[number - 1] for own in history.turns.values() if len(own) >= number]
    scored = [(sign * turn.score, turn) for turn in turns if turn.score is not None]
    return max(scored, key=lambda pair: pair[0])[1]
