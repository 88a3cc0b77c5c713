"""Population Based Training, as one pure function.

Everything else in this package runs turns, keeps records or shows them. Whether a population is
asynchronous or generational is a matter of when `advise` is called, not of what it does.

Source: Jaderberg et al. 2017, algorithm 1 (arXiv 1711.09846). Two departures: what a copy scores is
published after its next turn, with the weights it was measured on, and not re-evaluated in between;
and members are compared at the same age, see `comparable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pbt_flow.exploit import Candidate, Exploit
from pbt_flow.explore import Explore
from pbt_flow.history import History
from pbt_flow.member import Donor, Member
from pbt_flow.samplers import Sampler
from pbt_flow.space import Space, Value, check_hparams

if TYPE_CHECKING:
    import numpy as np


def advise(
    member: Member,
    history: History,
    *,
    living: int,
    space: Space,
    exploit: Exploit,
    explore: Explore,
    sampler: Sampler,
    rng: np.random.Generator,
) -> Member:
    """How `member` goes on: as it is, or with a donor's weights and moved hyperparameters.

    Args:
        member: The member that is ready for its next turn.
        history: What the population has done so far.
        living: How many members are not retired.
        space: The distributions of the hyperparameters.
        exploit: Decides whom it copies.
        explore: Moves the hyperparameters of a copy.
        sampler: Draws the values that `explore` resamples.
        rng: The only source of chance.
    """
    age, records = comparable(member, history, quorum=max(2, (living + 1) // 2))
    if age is None:
        return replace(member, donor=None)

    # In the order of their rank: in that of arrival, chance would favour whoever was faster.
    others = history.others(member.index, age)
    if member.failures:
        chosen = rescue(others, rng) if exploit.copies else None
    else:
        chosen = exploit(records[member.index], others, rng)

    member = replace(member, donor=None, compared_at=age)
    taken = None if chosen is None else history.copyable(chosen, member.age)
    if taken is None:
        return member

    copies = "both" if member.failures else exploit.copies
    assert copies is not None
    if copies != "hparams":
        member = replace(member, checkpoint=taken.checkpoint, step=taken.step)
    hparams = member.hparams if copies == "weights" else taken.plan.hparams

    def fresh() -> dict[str, Value]:
        gains = history.gains(before=member.turn, window=sampler.window) if sampler.window else []
        return sampler.fresh(space, gains, rng)

    moved = check_hparams(explore(hparams, space, fresh, rng), space)
    donor = Donor(member=taken.member, turn=taken.number, copies=copies)
    return replace(member, hparams=moved, donor=donor)


def comparable(
    member: Member, history: History, *, quorum: int
) -> tuple[int | None, Mapping[int, Candidate]]:
    """The candidates that `member` is compared with, all of one age, and that age.

    On a rising curve whoever has just reported looks better than those that are an interval
    behind. So a decision ranks records of the same age: the greatest age, up to the member's own,
    that at least `quorum` members have reached. A member that is ahead of most others is thus
    judged by its own past record, a straggler by what the others scored when they were as young.
    Each age is judged once, and never by a record from before the member's last copy.

    A member whose last turn failed has no record of its own: it is compared with nobody, and the
    others' records serve to find a donor.

    Returns:
        The age and each member's candidate, or None and nothing where no such age exists.
    """
    judged = None if member.failures else member.compared_at
    for age in history.ages(above=judged, up_to=member.age):
        records = history.at(age)
        if member.failures:
            if any(index != member.index for index in records):
                return age, records
            continue
        mine = records.get(member.index)
        if mine is not None and mine.turn <= member.copied_after:
            return None, {}  # every older record is older than the copy, too
        if mine is not None and len(records) >= quorum:
            return age, records
    return None, {}


def rescue(others: Sequence[Candidate], rng: np.random.Generator) -> int | None:
    """A donor for a member that failed, whatever the exploit strategy: one of the better half."""
    ranked = sorted(others, key=lambda c: (c.fitness, c.member))
    return ranked[int(rng.integers(len(ranked) // 2, len(ranked)))].member if ranked else None
