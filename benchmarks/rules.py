"""When should an asynchronous member be judged, by which scores, and what may it copy?

    python -m benchmarks.rules                     # the first table of docs/rules.md: minutes
    python -m benchmarks.rules --seeds 4           # fewer, to see it work
    python -m benchmarks.rules --grid              # the second: the chosen rule at all sizes

Each candidate is a controller of its own, trained by simulation beside a generational population
with the same seed, of which every turn takes the same time. The yardstick is the exact value of the
best member at equal wall-clock time: at a quarter, a half and three quarters of what the
generational population took, and when that has ended.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from benchmarks.problems import EXACT, Ceilings, Drift
from pbt_flow.population.history import Candidate, Ranking
from pbt_flow.population.records import Donor, Member, Plan, Turn
from pbt_flow.space import check_hparams
from pbt_flow.strategies.exploit import is_sure_to_stay
from pbt_flow.task import Task
from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.tasks.toy import Toy
from pbt_flow.testing.simulation import Simulation, simulate
from pbt_flow.training.controller import Controller

SECONDS = 20.0
"""Of a usual turn: the controller looks around every half a second."""
FRESH = 1000
"""The first seed: the rule was chosen on those below."""
TIMES = (0.25, 0.5, 0.75, 1.0)
"""When the best members are compared, as shares of the time of the generational population."""


# --- how long a turn takes -----------------------------------------------------------------------


def chance(plan: Plan) -> np.random.Generator:
    """The same draws for the same turn under every rule."""
    return np.random.default_rng([plan.seed, 1])


def by_hparam(plan: Plan) -> float:
    """From 0.6 to 1.8: the greater the first hyperparameter, the slower the turn."""
    name, value = next(iter(plan.hparams.items()))
    place = float(value)  # type: ignore[arg-type]
    if name == "lr":  # from 1e-4 on a log range
        place = min(1.0, (math.log10(place) + 4) / 2)
    return 0.6 + 1.2 * place


Duration = Callable[[Plan, np.random.Generator], float]
DURATIONS: Mapping[str, Duration] = {
    "equal": lambda plan, rng: SECONDS,
    "uniform": lambda plan, rng: SECONDS * chance(plan).uniform(0.5, 1.5),
    "exponential": lambda plan, rng: SECONDS * chance(plan).exponential(),
    "one 3 x slower": lambda plan, rng: SECONDS * (3 if plan.member == 0 else 1),
    "half 3 x slower": lambda plan, rng: SECONDS * (3 if plan.member % 2 else 1),
    "by a hyperparameter": lambda plan, rng: SECONDS * by_hparam(plan),
}


# --- rules ---------------------------------------------------------------------------------------


class Tried(Controller):
    """A controller whose decisions are a rule of this file, and not those of `advise`.

    As it stands: nobody waits, and a member is judged at its own age if there is a quorum.
    """

    quorum = 0.5

    def ready(self) -> Member | None:
        """Of the idle members that this rule does not let wait the one with the fewest turns."""
        idle = (self.history.members[index] for index in self.member_index.idle())
        return next((member for member in idle if not self.waits(member)), None)

    def waits(self, member: Member) -> bool:
        """Whether an idle member waits for others."""
        return False

    def decide(self, member: Member) -> Member:
        """How a member goes on by this rule."""
        seed = np.random.SeedSequence([self.settings.seed, member.index, member.turn])
        unchanged = replace(member, donor=None)
        return self.choose(unchanged, np.random.default_rng(seed)) if member.turn else unchanged

    def choose(self, member: Member, rng: np.random.Generator) -> Member:
        """Judge the member at its own age, and have it copy the record that was ranked."""
        ranking = self.history.at(member.age)
        if not self.is_quorum(ranking):
            return member
        return self.judge(member, member.age, ranking, rng, self.ranked)

    def is_quorum(self, ranking: Ranking) -> bool:
        """Whether enough members are there for a comparison."""
        return len(ranking.records) >= max(2, math.ceil(self.quorum * self.member_index.alive))

    def judge(
        self,
        member: Member,
        age: int,
        ranking: Ranking,
        rng: np.random.Generator,
        taken: Callable[[Member, Candidate], Turn | None],
    ) -> Member:
        """What becomes of a member that is compared in a ranking."""
        exploit, space = self.strategies.exploit, self.store.space
        member = replace(member, compared_at=age)
        chosen = exploit(ranking.records[member.index], ranking.without(member.index), rng)
        record = None if chosen is None else taken(member, ranking.records[chosen])
        if record is None:
            return member
        moved = self.strategies.explore(
            record.plan.hparams,
            space,
            lambda: self.strategies.resample.fresh(space, [], rng),
            rng,
        )
        return replace(
            member,
            checkpoint=record.checkpoint,
            step=record.step,
            hparams=check_hparams(moved, space),
            donor=Donor(member=record.member, turn=record.number, copies="both"),
        )

    def ranked(self, member: Member, donor: Candidate) -> Turn:
        """The very record that was compared."""
        return self.history.turn(donor.member, donor.turn)

    def newest(self, member: Member, donor: Candidate) -> Turn:
        """The donor's newest record that is not older than the member's own effort."""
        own = self.history.turns[donor.member]
        return next(turn for turn in reversed(own) if turn.step <= member.trained)


class Newest(Tried):
    """The paper's: everybody's newest record, whatever its age."""

    def choose(self, member: Member, rng: np.random.Generator) -> Member:
        records = {}
        for index, own in self.history.turns.items():
            if own and self.may(member, own[-1]):
                fitness = self.history.fitness(own[-1])
                records[index] = Candidate(member=index, turn=own[-1].number, fitness=fitness)
        ranking = Ranking.of(records)
        if not self.is_quorum(ranking):
            return member
        return self.judge(member, member.age, ranking, rng, self.ranked)

    def may(self, member: Member, turn: Turn) -> bool:
        """Whether a record is compared."""
        return True


class NewestCapped(Newest):
    """The same of records that are not older than the member's own effort."""

    def may(self, member: Member, turn: Turn) -> bool:
        return turn.step <= member.trained


class Curve(Tried):
    """Scores less the population's mean at their age: residuals of different ages compared."""

    def choose(self, member: Member, rng: np.random.Generator) -> Member:
        residuals = {
            index: found
            for index, own in self.history.turns.items()
            if (found := self.residual(member, own)) is not None
        }
        ranking, mine = Ranking.of(residuals), residuals.get(member.index)
        if mine is None or not self.is_quorum(ranking) or mine.turn <= member.copied_after:
            return member
        age = self.history.turn(member.index, mine.turn).step
        if member.compared_at is not None and age <= member.compared_at:
            return member
        return self.judge(member, age, ranking, rng, self.newest)

    def residual(self, member: Member, own: Sequence[Turn]) -> Candidate | None:
        """A member's newest record whose age has a quorum, and how far it is above the mean."""
        for turn in reversed(own):
            there = self.history.at(turn.step)
            if turn.step <= member.trained and self.is_quorum(there):
                mean = fmean(candidate.fitness for candidate in there.ordered)
                fitness = self.history.fitness(turn) - mean
                return Candidate(member=turn.member, turn=turn.number, fitness=fitness)
        return None


class Waiting(Tried):
    """A member waits for the quorum of its own age, but not for longer than its patience."""

    patience = math.inf
    """Median turns from when it became idle."""

    def waits(self, member: Member) -> bool:
        ranking, behind = self.history.at(member.age), self.member_index.behind(member.age)
        if not behind or self.is_quorum(ranking):
            return False
        idle = self.clock() - self.history.turns[member.index][-1].ended
        return idle < self.patience * median(self.durations)


class Sure(Waiting):
    """The same, but whoever is sure to stay as it is does not wait."""

    def waits(self, member: Member) -> bool:
        ranking, behind = self.history.at(member.age), self.member_index.behind(member.age)
        if mine := ranking.records.get(member.index):
            worse, members = ranking.count_worse(mine), len(ranking.records) + behind
            if is_sure_to_stay(self.strategies.exploit, worse=worse, members=members):
                return False
        return super().waits(member)


def variant(base: type[Controller], **fields: Any) -> type[Controller]:
    """A rule with other numbers."""
    return type(base.__name__, (base,), fields)


RULES: Mapping[str, type[Controller]] = {
    "newest against newest (the paper)": Newest,
    "newest against newest, nothing older than one's effort": NewestCapped,
    "scores less the population's mean at their age": Curve,
    "wait for a quarter": variant(Waiting, quorum=0.25),
    "wait for half": variant(Waiting, quorum=0.5),
    "wait for half, half a turn at most": variant(Waiting, quorum=0.5, patience=0.5),
    "wait for half, a turn at most": variant(Waiting, quorum=0.5, patience=1.0),
    "wait for three quarters": variant(Waiting, quorum=0.75),
    "wait for half, unless sure to stay": variant(Sure, quorum=0.5),
    "wait for all, unless sure to stay": variant(Sure, quorum=1.0),
    "**three quarters and who is about to come, unless sure to stay**": Controller,
}
"""The last one is the rule of `pbt_flow.strategies.advise`."""


# --- what comes of them --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one population came to."""

    curve: Sequence[tuple[float, float]]
    """When a turn ended, and the exact value of the member that was the best then."""
    copies: float
    """Copies a turn."""
    idle: float
    """The share of the slots' time that nothing ran in."""
    age: float
    """The age of the winner's weights, as a share of a member's budget."""

    @classmethod
    def of(cls, simulation: Simulation, slots: int) -> Outcome:
        """Read it off a population that has ended."""
        history = simulation.history
        turns = sorted((t for own in history.turns.values() for t in own), key=lambda t: t.ended)
        standing: dict[int, Turn] = {}
        curve: list[tuple[float, float]] = []
        for turn in turns:
            standing[turn.member] = turn
            best = max(standing.values(), key=history.fitness)
            assert best.score is not None
            curve.append((turn.ended, best.metrics.get(EXACT, best.score)))
        winner = history.winner()
        assert winner is not None
        busy = sum(sum(turn.seconds.values()) for turn in turns)
        return cls(
            curve=curve,
            copies=sum(turn.plan.donor is not None for turn in turns) / len(turns),
            idle=1 - busy / (slots * turns[-1].ended),
            age=winner.step / max(turn.plan.trained for turn in turns),
        )

    @property
    def seconds(self) -> float:
        """When the last turn ended."""
        return self.curve[-1][0]

    def at(self, when: float) -> float | None:
        """The exact value of the best member at a time; None before the first turn has ended."""
        known = [value for ended, value in self.curve if ended <= when + 1e-6]
        return known[-1] if known else None


def outcomes(
    rule: type[Controller] | None,
    task: type[Task],
    duration: str,
    *,
    members: int,
    slots: int,
    seeds: int,
) -> list[Outcome]:
    """What a rule comes to; None for generational populations."""
    found = []
    for seed in range(FRESH, FRESH + seeds):
        simulation = simulate(
            task,
            controller=rule or Controller,
            mode="generational" if rule is None else "async",
            population=members,
            slots=slots,
            duration=DURATIONS[duration],
            seed=seed,
            # A rule that asks for older records is to find them; what is kept is another question.
            keep=2 if rule in (None, Controller) else 10**6,
        )
        found.append(Outcome.of(simulation, slots))
    return found


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a rule comes to, beside generational populations of the same seeds and durations."""

    gains: Mapping[float, str]
    """How much better its best member is, with the standard error, at shares of their time."""
    copies: str
    """Copies a turn."""
    idle: str
    """The share of the slots' time that nothing ran in."""
    age: str
    """The age of the winner's weights as a share of a member's budget: the mean, and the most."""
    time: str
    """When its last turn ended, as a share of their time."""

    @classmethod
    def of(cls, task: type[Task], found: Sequence[Outcome], base: Sequence[Outcome]) -> Beside:
        """Compare populations with generational ones, pair by pair."""
        sign = 1 if task.direction == "maximize" else -1
        gains = {}
        for share in TIMES:
            differences = []
            for ours, theirs in zip(found, base, strict=True):
                a, b = ours.at(share * theirs.seconds), theirs.at(share * theirs.seconds)
                if a is not None and b is not None:
                    differences.append(sign * (a - b))
            count = len(differences)
            error = stdev(differences) / math.sqrt(count) if count > 1 else math.nan
            gains[share] = f"{fmean(differences):+.4f} ± {error:.4f}" if count else ""
        ages = [one.age for one in found]
        times = [ours.seconds / theirs.seconds for ours, theirs in zip(found, base, strict=True)]
        return cls(
            gains=gains,
            copies=f"{fmean(one.copies for one in found):.3f}",
            idle=f"{fmean(one.idle for one in found):.0%}",
            age=f"{fmean(ages):.2f} ({max(ages):.2f})",
            time=f"{fmean(times):.2f}",
        )


PROBLEMS: Mapping[str, tuple[type[Task], int]] = {
    "toy": (Toy, 50),
    "drift": (Drift, 20),
    "ceilings": (Ceilings, 20),
    "quadratic": (NoisyQuadratic, 5),
}
"""The problems, and how many seeds of each."""


def table(problem: str, seeds: int | None) -> None:
    """All rules on one problem, with a slot for each of 8 members."""
    task, usual = PROBLEMS[problem]
    size = {"members": 8, "slots": 8, "seeds": seeds or usual}
    found: dict[str, dict[str, Beside]] = {name: {} for name in ("generational", *RULES)}
    for duration in DURATIONS:
        base = outcomes(None, task, duration, **size)
        found["generational"][duration] = Beside.of(task, base, base)
        for name, rule in RULES.items():
            ours = outcomes(rule, task, duration, **size)
            found[name][duration] = Beside.of(task, ours, base)
    views: Mapping[str, Callable[[Beside], str]] = {
        "the best member at the end": lambda one: one.gains[1.0],
        "the best member at half of the time": lambda one: one.gains[0.5],
        "copies a turn": lambda one: one.copies,
        "winner's age, mean (most)": lambda one: one.age,
        "idle": lambda one: one.idle,
        "time": lambda one: one.time,
    }
    for what, view in views.items():
        print(f"\n{problem}, 8 members on 8 slots, {seeds or usual} seeds: {what}\n")
        print(f"| rule | {' | '.join(DURATIONS)} |\n{'|---' * (len(DURATIONS) + 1)}|")
        for name, each in found.items():
            print(f"| {name} | {' | '.join(view(each[duration]) for duration in DURATIONS)} |")


def grid(problem: str, seeds: int | None) -> None:
    """The chosen rule at every number of members and slots."""
    task, usual = PROBLEMS[problem]
    print(f"\n{problem}, {seeds or usual} seeds: the chosen rule\n")
    heads = [*(f"best at {share:.0%}" for share in TIMES), "copies", "idle", "age (most)", "time"]
    print(f"| members, slots, durations | {' | '.join(heads)} |\n{'|---' * (len(heads) + 1)}|")
    for members, slots in ((8, 2), (8, 4), (8, 8), (16, 4), (16, 8), (16, 16)):
        for duration in DURATIONS:
            size = {"members": members, "slots": slots, "seeds": seeds or usual}
            base = outcomes(None, task, duration, **size)
            one = Beside.of(task, outcomes(Controller, task, duration, **size), base)
            cells = [*one.gains.values(), one.copies, one.idle, one.age, one.time]
            print(f"| {members}, {slots}, {duration} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--problem", choices=list(PROBLEMS), action="append")
    parser.add_argument("--seeds", type=int, help="default: 50 of the toy, 20, 20 and 5")
    parser.add_argument("--grid", action="store_true", help="the chosen rule at all sizes")
    given = parser.parse_args()
    for problem in given.problem or ("toy", "drift"):
        (grid if given.grid else table)(problem, given.seeds)


if __name__ == "__main__":
    main()
