"""Who leaves at the end of a stage: read off the turns that there are, and off nothing else.

The end of a stage is the only moment at which members wait for all others. Whoever leaves has spent
its budget; nobody copies at that moment, since leaving is the selection.

A resume reads the turns and asks again, so that no state is kept of it. Who has a turn of the next
stage has gone on, whatever the ranks are; the other places go to the best, as they did at first.
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
    """Which stage has ended; the first is 0."""
    left: tuple[int, ...]
    """The members that have left, in the order of their numbers."""


def end_stages(
    history: History, *, max_failures: int, late: Collection[int] = ()
) -> list[StageEnd]:
    """End every stage that is over, and enter into the history who has left.

    A stage is over once every living member has done its turns. A member that failed its last turn
    leaves first, then the worst; of equals the one with the higher index.

    Args:
        history: What the population has done so far.
        max_failures: Turns in a row after which a member is retired. Retired members have no place
            in the next stage.
        late: Members whose turn under way takes longer than a turn may. Nobody waits for them where
            enough others have come to the end: they count as last.
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
    """Who leaves at the end of the present stage; None while it is not over."""
    end, places = plan.ends[history.stage], plan.stages[history.stage + 1].members
    there = history.present
    gone_on = {member.index for member in there if member.turn > end}
    living = [member for member in there if member.failures < max_failures]
    arrived = [member for member in living if member.turn == end]
    behind = {member.index for member in living if member.turn < end}
    if behind and not gone_on:
        enough = len(arrived) >= places
        if not (enough and behind <= set(late)):
            return None
    if not living and not gone_on:
        return None  # Everybody has been retired: with more failures allowed they may go on.

    def rank(member: Member) -> tuple[float, int]:
        return history.fitness(history.turn(member.index, end)), -member.index

    arrived.sort(key=rank, reverse=True)
    going_on = gone_on | {member.index for member in arrived[: max(0, places - len(gone_on))]}
    return {member.index for member in living} - going_on
