"""The turns of a replay: planned from the schedule, checked against it, and told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pbt_flow.commands.notebook_line import NotebookLine, is_in_notebook
from pbt_flow.commands.replay_arms import Arm
from pbt_flow.exceptions import ReplayError
from pbt_flow.population.history import History
from pbt_flow.population.records import Member, Plan, Turn, derive_seed
from pbt_flow.population.schedule import Schedule, Segment
from pbt_flow.space import Hparams
from pbt_flow.training.log_queue import LogCall
from pbt_flow.utils.terminal import Unbroken


@dataclass(frozen=True, kw_only=True)
class SchedulePlanner:
    """Plans the turns of a replay, and checks that they were trained as the schedule says."""

    schedule: Schedule
    arms: Sequence[Arm]
    seed: int
    """The replay's seed."""

    def arm_of(self, member: int) -> Arm:
        """The arm that a member belongs to."""
        return next(arm for arm in self.arms if member in arm.members)

    def _hparams(self, member: int, segment: Segment) -> Hparams:
        """The hyperparameters of a member in a segment of the schedule."""
        constant = self.arm_of(member).hparams
        return segment.hparams if constant is None else constant

    def plan(self, member: Member) -> Plan:
        """The next turn of a member: the next segment of the schedule."""
        segment = self.schedule.segments[member.turn]
        return Plan(
            member=member.index,
            turn=member.turn + 1,
            seed=derive_seed(self.seed, member.index, member.turn + 1),
            hparams=self._hparams(member.index, segment),
            steps=segment.end - segment.start,
            start=member.checkpoint,
            start_step=member.step,
            trained=segment.end,
        )

    def check(self, turn: Turn) -> None:
        """Check that each step of a turn was trained under the hyperparameters of its arm.

        Raises:
            ReplayError: A step was trained under others, or the task says that other values were
                live.
        """
        live = turn.plan.hparams
        step, end = turn.plan.start_step, turn.plan.start_step + turn.plan.steps
        while step < end:
            segment = self.schedule.segment(step)
            wanted = self._hparams(turn.member, segment)
            if wanted != live:
                raise ReplayError(
                    f"member {turn.member} trained step {step} under {dict(live)}, and the "
                    f"schedule says {dict(wanted)}"
                )
            step = segment.end
        for name, value in live.items():
            # A task may report as `live/NAME` the value that its optimiser really trained with.
            told = turn.metrics.get(f"live/{name}")
            if told is not None and not (isinstance(value, int | float) and told == value):
                raise ReplayError(
                    f"member {turn.member}, turn {turn.number}: the task trained with {name} = "
                    f"{told}, and the schedule says {value}; a restored optimiser may have "
                    "brought its own value back"
                )

    def is_last(self, turn: Turn) -> bool:
        """Whether a turn is the last of its model: it failed, or the schedule is over."""
        return not turn.ok or turn.number == len(self.schedule.segments)

    def last_turns(self, history: History) -> list[Turn]:
        """The last turn of each model that has ended, ordered by member."""
        newest = [turns[-1] for _, turns in sorted(history.turns.items()) if turns]
        return [turn for turn in newest if self.is_last(turn)]

    def enter_results(self, history: History) -> None:
        """Enter the results of the models that have ended into their arms."""
        for turn in self.last_turns(history):
            arm = self.arm_of(turn.member)
            if turn.score is None:
                arm.errors[turn.member] = turn.reason or turn.status
            else:
                arm.scores.append(turn.score)


class ReplayScreen:
    """Checks every turn of a replay, and prints the result of each model that has ended.

    Args:
        planner: The planner of the replay, which knows what the turns should be.
        quiet: Whether to print nothing.
    """

    def __init__(self, planner: SchedulePlanner, *, quiet: bool = False) -> None:
        self.planner, self.quiet = planner, quiet
        self._line = NotebookLine() if is_in_notebook() else None

    def __enter__(self) -> ReplayScreen:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def watch(self, history: History, later: Callable[[LogCall], None]) -> ReplayScreen:
        """Check the turns that a resumed replay has done already.

        Nothing that a replay shows has to be asked for, so that nothing is left for `later`.

        Raises:
            ReplayError: A turn was not trained as the schedule says.
        """
        for turns in history.turns.values():
            for turn in turns:
                self.planner.check(turn)
        return self

    def turn(self, turn: Turn, history: History) -> None:
        """Check a turn that has just been committed, and print the result if its model has ended.

        Raises:
            ReplayError: The turn was not trained as the schedule says.
        """
        self.planner.check(turn)
        if self.planner.is_last(turn):
            ended = len(self.planner.last_turns(history))
            label = self.planner.arm_of(turn.member).label(turn.member)
            outcome = f"failed: {turn.reason}" if turn.score is None else f"score {turn.score:.4g}"
            text = f"[{ended}/{len(history.members)}] {label}: {outcome}"
            # A failure stays, where a line that is written over would lose it.
            if self._line is None or turn.score is None:
                self.say(text)
            elif not self.quiet:
                self._line.show(text)

    def tick(self) -> None:
        """Do nothing: a replay shows no time."""

    def say(self, text: str) -> None:
        if not self.quiet:
            # Notebooks show standard error in red.
            stream = sys.stderr if self._line is None else sys.stdout
            print(text, file=Unbroken(stream), flush=True)
