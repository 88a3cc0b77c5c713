"""Decides which members leave at the end of a stage, from the turns alone.

The end of a stage is the only moment at which members wait for all others. A member that leaves has
spent its budget. Nobody copies at that moment, since leaving is the selection.

No state is kept of the decision: a resume reads the turns and decides once more. A member that has
a turn of the next stage has gone on, whatever its rank is. The other places of the next stage go to
the best members, as they did the first time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pbt_flow.population.history import History
from pbt_flow.population.records import Member
from pbt_flow.population.stages import StagePlan


@dataclass(frozen=True, kw_only=True)
class StageEnd:
    """The end of one stage."""

    stage: int
    """The number of the stage that has ended, from 0."""
    left: tuple[int, ...]
    """The members that left at its end, in the order of their numbers."""


def end_stages(
    history: History, *, max_failures: int, late: Collection[int] = ()
) -> list[StageEnd]:
    """End every stage that is over, and note in the history which members left.

    A stage is over once every living member has done its turns. Members whose last turn failed
    leave first, and then those with the worst scores. If two are equal, the one with the higher
    number leaves.

    Args:
        history: What the population has done so far.
        max_failures: How many failures in a row retire a member. Retired members have no place in
            the next stage.
        late: Members whose present turn takes longer than a turn may. If enough others have come to
            the end of the stage, nobody waits for them, and they rank last.
    """
    plan, ends = history.stages, list[StageEnd]()
    while plan is not None and history.stage < len(plan.stages) - 1:
        left = _leaving(history, plan, max_failures, late)
        if left is None:
            break
        ends.append(StageEnd(stage=history.stage, left=tuple(sorted(left))))
        history.end_stage(left)
    return ends


def _leaving(
    history: History, plan: StagePlan, max_failures: int, late: Collection[int]
) -> set[int] | None:
    """Return the members that leave at the end of the present stage; None if it is not over."""
    end, places = plan.ends[history.stage], plan.stages[history.stage + 1].members
    present = history.present
    gone_on = {member.index for member in present if member.turn > end}
    living = [member for member in present if member.failures < max_failures]
    arrived = [member for member in living if member.turn == end]
    behind = {member.index for member in living if member.turn < end}
    if behind and not gone_on:
        enough = len(arrived) >= places
        if not (enough and behind <= set(late)):
            return None
    if not living and not gone_on:
        # All members are retired. A resume that allows more failures may bring them back.
        return None

    def rank(member: Member) -> tuple[float, int]:
        return history.fitness(history.turn(member.index, end)), -member.index

    arrived.sort(key=rank, reverse=True)
    going_on = gone_on | {member.index for member in arrived[: max(0, places - len(gone_on))]}
    return {member.index for member in living} - going_on
