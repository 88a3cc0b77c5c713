"""Which stage a population is in, what that changes, and who leaves at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from pbt_flow.population.history import History
from pbt_flow.population.leaving import StageEnd, end_stages
from pbt_flow.population.records import Member
from pbt_flow.settings import Settings
from pbt_flow.strategies.exploit import Exploit, in_stage
from pbt_flow.utils.text import turn_count

Leave: TypeAlias = Callable[[int, str, float], None]
"""Has the run of a member end that has left: the member, why, and when it did its last turn."""


@dataclass
class StageProgress:
    """The stages of one population. Without stages there is one, in which all train to the end."""

    history: History
    settings: Settings
    exploit: Exploit = field(init=False)
    """The exploit strategy, with what may be copied in the present stage."""
    _untold: list[StageEnd] = field(default_factory=list)
    """Stages that have ended, of which nobody has been told yet."""

    def __post_init__(self) -> None:
        # Of a population that goes on: what its turns say of stages that are over.
        end_stages(self.history, max_failures=self.settings.max_failures)
        self._given = self.settings.strategies().exploit
        self.exploit = self._exploit()

    def _exploit(self) -> Exploit:
        plan = self.history.stages
        if plan is None:
            return self._given
        return in_stage(self._given, plan.stages[self.history.stage].copies)

    @property
    def turns_to_do(self) -> int:
        """The turns that a living member will have done when its stage ends, or else at the end."""
        plan = self.history.stages
        return self.settings.turns if plan is None else plan.ends[self.history.stage]

    @property
    def is_last(self) -> bool:
        """Whether nobody leaves any more."""
        plan = self.history.stages
        return plan is None or self.history.stage == len(plan.stages) - 1

    def is_beginning(self, member: Member) -> bool:
        """Whether a member's next turn is the first of a stage: it copies nobody then, since who
        was worse has left.
        """
        plan = self.history.stages
        return plan is not None and member.turn == plan.begins(self.history.stage)

    def end(self, late: Collection[int]) -> list[int]:
        """End the present stage if it is over.

        Args:
            late: Members that nobody waits for.

        Returns:
            The members that have left.
        """
        ended = end_stages(self.history, max_failures=self.settings.max_failures, late=late)
        self.exploit = self._exploit()
        self._untold += ended
        return [member for end in ended for member in end.left]

    def tell(self, say: Callable[[str], None], leave: Leave) -> None:
        """Say which stages have ended since the last call, and have the runs end of who left."""
        plan = self.history.stages
        for end in self._untold:
            assert plan is not None
            self.tell_who_left(end.left, leave)
            next_stage = plan.stages[end.stage + 1]
            who = f"{len(end.left)} members leave" if end.left else "nobody leaves"
            say(
                f"stage {end.stage + 1} of {len(plan.stages)} is over: {who}, the others do "
                f"{turn_count(next_stage.turns)} more"
            )
        self._untold.clear()

    def tell_who_left(self, members: Iterable[int], leave: Leave) -> None:
        """Have the runs of members end that have left."""
        plan = self.history.stages
        for member in members:
            assert plan is not None, "only where there are stages a member leaves"
            stage = self.history.left[member]
            why = f"stage {stage + 1} of {len(plan.stages)}, after {turn_count(plan.ends[stage])}"
            leave(member, why, self._end_of(member, plan.ends[stage]))

    def _end_of(self, member: int, stage_end: int) -> float:
        """When a member that has left did its last turn.

        A straggler may have left in its very first turn, and then it is the end of the stage.

        Args:
            member: Who has left.
            stage_end: The turns that the others have done at the end of the stage.
        """
        turns = self.history.turns
        if turns[member]:
            return turns[member][-1].ended
        return max(own[stage_end - 1].ended for own in turns.values() if len(own) >= stage_end)
