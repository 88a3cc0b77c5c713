"""Population Based Training, as two pure functions: `advise` decides, `should_wait` says when.

Everything else in this package runs turns, keeps records or shows them. An asynchronous population
and a generational one call `advise` at different moments; what it does is the same for both.

Source: Jaderberg et al. 2017, algorithm 1 (arXiv 1711.09846). There are two departures. A copy is
not evaluated before it trains: its first score is that of its next turn. And members are compared
at the same age of their weights. On a rising curve a member that has just reported looks better
than those that are an interval behind, so scores of different ages say little about who is better.
docs/rules.md has the rules that were tried, and what each came to.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pbt_flow.exceptions import StrategyError
from pbt_flow.population.history import Candidate, History, Ranking
from pbt_flow.population.records import Donor, Member, Source, Turn
from pbt_flow.space import Space, check_hparams
from pbt_flow.strategies.exploit import Exploit, is_due, is_sure_to_stay
from pbt_flow.strategies.explore import Explore
from pbt_flow.strategies.samplers import Sampler
from pbt_flow.strategies.sources import Sources
from pbt_flow.strategies.text import blaming
from pbt_flow.utils.values import Value

if TYPE_CHECKING:
    import numpy as np

QUORUM = 0.75
"""The share of the living members that a comparison takes at least."""
LINGER = 1.0
"""Median turns that a decision waits for scores on their way, once it has its quorum."""


def advise(
    member: Member,
    history: History,
    *,
    living: int,
    retired: Collection[int] = (),
    turns: int | None = None,
    space: Space,
    exploit: Exploit,
    explore: Explore,
    sampler: Sampler,
    rng: np.random.Generator,
) -> Member:
    """Return how `member` goes on: as it is, or with what it takes from a donor, then moved.

    Args:
        member: The member that is ready for its next turn.
        history: What the population has done so far.
        living: How many members train: they are not retired, and have not left at a stage's end.
        retired: The members that do not train any more. Their scores are compared with the others',
            and do not count for the quorum.
        turns: How many turns of each member the decision may look at, from the first one; None for
            all of them. A generation must not see turns of the next one.
        space: The distributions of the hyperparameters.
        exploit: Decides whom the member copies.
        explore: Moves the hyperparameters of a copy.
        sampler: Draws the values that `explore` resamples.
        rng: The only source of chance.

    Raises:
        StrategyError: A strategy raised something, named a member that is none of the others, or
            returned hyperparameters that do not lie in the space.
    """
    member = replace(member, donor=None, compared_at=None)
    quorum = quorum_of(living)
    donor: Donor | None = None
    explores = True
    if member.failures:
        rankings = _rankings_for_rescue(member, history, turns)
        taken = None
        if exploit.copies is not None:
            taken = _rescue(member, history, rankings, quorum, retired, rng)
        if taken is not None and not _tries_again(member, history, taken):
            donor = Donor(member=taken.member, turn=taken.number, copies="both")
    else:
        ranking = history.at(member.age, turns)
        mine = ranking.records.get(member.index)
        if mine is None or ranking.count(retired) < quorum:
            return member
        member = replace(member, compared_at=member.age)
        sources = _choose(exploit, mine, ranking.without(member.index), rng)
        if sources is not None:
            donor = _donor(sources, history, ranking, member.index)
            explores = sources.explores
    if donor is None:
        return member

    member = replace(member, donor=donor)
    given = history.turn(donor.member, donor.turn)
    if donor.copies != "hparams":
        member = replace(member, checkpoint=given.checkpoint, step=given.step)
    hparams = member.hparams if donor.copies == "weights" else given.plan.hparams
    if (other := donor.hparams_of) is not None:
        hparams = history.turn(other.member, other.turn).plan.hparams
    if not explores:
        return replace(member, hparams=hparams)

    def fresh() -> dict[str, Value]:
        gains = history.gains(before=member.turn, window=sampler.window) if sampler.window else []
        with blaming("resample", sampler):
            return sampler.fresh(space, gains, rng)

    with blaming("explore", explore):
        moved = check_hparams(explore(hparams, space, fresh, rng), space)
    return replace(member, hparams=moved)


def _choose(
    exploit: Exploit, mine: Candidate, others: Sequence[Candidate], rng: np.random.Generator
) -> Sources | None:
    """Return what a member takes, and from whom; None if it goes on as it is.

    Raises:
        StrategyError: The strategy raised something, or named none of the others.
    """
    with blaming("exploit", exploit):
        chosen = exploit(mine, others, rng)
    if chosen is None:
        return None
    named = chosen.members if isinstance(chosen, Sources) else [chosen]
    known = [other.member for other in others]
    if not all(member in known for member in named):
        raise StrategyError(
            f"exploit {exploit} let member {mine.member} copy {chosen!r}, which is none of the "
            "others; it returns the member of one of them, Sources, or None"
        )
    if isinstance(chosen, Sources):
        return chosen
    assert exploit.copies is not None
    return Sources(
        weights=None if exploit.copies == "hparams" else chosen,
        hparams=None if exploit.copies == "weights" else chosen,
    )


def _donor(sources: Sources, history: History, ranking: Ranking, member: int) -> Donor | None:
    """Return the record of what `member` takes; None if nothing better is left to be copied."""
    tuned: Turn | None = None
    if sources.hparams is not None:
        # No checkpoint is needed for hyperparameters: the record of a turn stays for ever.
        tuned = history.record(ranking.records[sources.hparams])
    if sources.weights is None:
        assert tuned is not None
        return Donor(member=tuned.member, turn=tuned.number, copies="hparams")
    given = history.copyable(sources.weights, ranking, member)
    if given is None:
        return None
    donor = Donor(member=given.member, turn=given.number, copies="both")
    if tuned is None:
        return replace(donor, copies="weights")
    if sources.hparams == sources.weights:
        return donor
    hparams_of = Source(member=tuned.member, turn=tuned.number)
    return replace(donor, copies="weights", hparams_of=hparams_of)


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What can still be expected of the scores of one age."""

    living: int
    """How many members train: they are not retired, and have not left at a stage's end."""
    retired: Collection[int] = ()
    """The members that do not train any more."""
    behind: int
    """How many living members are younger and will train on."""
    is_arriving: bool = False
    """Whether a turn under way ends at this age."""
    waited: float = 0.0
    """Median turns since this age had a quorum; 0 while it has none."""


def should_wait(member: Member, history: History, exploit: Exploit, outlook: Outlook) -> bool:
    """Whether the decision about an idle member should wait for more scores of its age.

    Only an asynchronous population asks. A member does not wait in three cases:

    - It is sure to stay as it is, whatever the missing scores turn out to be.
    - A quorum of the living members has reported, and no other score is on its way, or a median
      turn has passed since the quorum was there.
    - There can never be a quorum.

    So only members that may copy wait for a straggler, and only while it is about to report.

    Args:
        member: The member that would train next.
        history: What the population has done so far.
        exploit: Decides whom the member copies.
        outlook: What can be expected of the member's age.
    """
    if exploit.copies is None or not outlook.behind:
        return False
    ranking, quorum = history.at(member.age), quorum_of(outlook.living)
    present = ranking.count(outlook.retired)
    if present + outlook.behind < quorum:
        return False
    mine = ranking.records.get(member.index)
    # A member that failed has no score of its own. It waits for a donor.
    if mine is not None and not member.failures:
        worse, all_to_come = ranking.count_worse(mine), len(ranking.records) + outlook.behind
        if len(history.group_sizes) > 1:
            # A member has its rank in its own sub-population.
            worse = sum(other.group == mine.group for other in ranking.ordered[:worse])
            all_to_come = history.group_sizes[mine.group]
        if not is_due(exploit, mine) or is_sure_to_stay(exploit, worse=worse, members=all_to_come):
            return False
    if present < quorum:
        return True
    return outlook.is_arriving and outlook.waited < LINGER


def quorum_of(living: int) -> int:
    """Return how many records of one age a comparison needs, if so many members are living."""
    return max(2, math.ceil(QUORUM * living))


def _rankings_for_rescue(member: Member, history: History, turns: int | None) -> Iterator[Ranking]:
    """Yield the rankings in which a member that failed may find a donor, the greatest age first.

    No ranking is older than the member's own effort, and none is younger than its weights.
    """
    for age in history.ages(up_to=member.age):
        if age < member.step:
            return
        yield history.at(age, turns)


def _rescue(
    member: Member,
    history: History,
    rankings: Iterable[Ranking],
    quorum: int,
    retired: Collection[int],
    rng: np.random.Generator,
) -> Turn | None:
    """Return a record that a member copies because it failed; None if there is none.

    The exploit strategy is not asked. The record is one of the better half at the greatest age that
    has a quorum: the better half of a few front-runners may be the worst of the population. If no
    age has a quorum, or nothing of it is left to be copied, it is the best record known. At each
    age the member's own sub-population is looked at, and the others only if that one has no record.
    """
    best: Turn | None = None
    for ranking in rankings:
        others = ranking.without(member.index)
        others = [other for other in others if other.group == member.group] or others
        if not others:
            continue
        if ranking.count(retired) >= quorum:
            taken = history.copyable(rescuer(others, rng), ranking, member.index)
            if taken is not None:
                return taken
        known = history.copyable(others[-1].member, ranking, member.index)
        if known and (best is None or history.fitness(known) > history.fitness(best)):
            best = known
    return best


def _tries_again(member: Member, history: History, offered: Turn) -> bool:
    """Whether a member that failed goes on from its own record, rather than copy what is offered.

    It does so after a first failure, if its own record is of the same age and no worse. Where many
    fail at once for a passing reason, the best of them would otherwise give its record up.
    """
    own = history.standing(member)
    if member.failures > 1 or own is None or own.step != offered.step:
        return False
    return history.fitness(own) >= history.fitness(offered)


def rescuer(others: Sequence[Candidate], rng: np.random.Generator) -> int:
    """Return a donor for a failed member: one of the better half. Equal ones rank by chance."""
    ranked = sorted(others, key=lambda candidate: (candidate.fitness, rng.random()))
    return ranked[int(rng.integers(len(ranked) // 2, len(ranked)))].member
