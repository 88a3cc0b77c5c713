"""Checks of the task itself, which workers make once for each population, beside its turns.

They answer two questions that no record of turns can answer. Does a restored model train on as the
one that was saved? And if ranks look like chance: do members differ by more than one of them does
from itself when it is evaluated again? A check reads a checkpoint, and trains or evaluates models
that are dropped afterwards, so that it changes nothing of the population. A check that fails is not
made again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from pbt_flow.engines import LostJob
from pbt_flow.engines.jobs import (
    Check,
    Checked,
    CheckNoise,
    CheckRestore,
    NoiseChecked,
    RestoreChecked,
)
from pbt_flow.population.records import Checkpoint, Turn
from pbt_flow.settings import Settings
from pbt_flow.training.diagnostics import Diagnostics
from pbt_flow.training.findings import FEW, Finding, same_age
from pbt_flow.training.member_index import MemberIndex
from pbt_flow.utils.reasons import reason_in

_LEAST_TURNS = 40
"""A population with fewer turns in all is not checked: the checks would cost a good part of it."""
_SHARE = 10
"""The check of restoring trains for an interval divided by this."""
_EVALUATIONS, _MEMBERS = 256, 32
"""The check of noise evaluates about this often in all, and at most this many members. With 30
members or so, more evaluations of each say more than further members would."""
_COSTS = 0.1
"""The check of noise may take this share of the population's whole time at most."""


@dataclass
class Checks:
    """Asks the workers about the task, and says what came of it."""

    settings: Settings
    member_index: MemberIndex
    diagnostics: Diagnostics
    note: Callable[[str, str], None]
    """Writes on the population's run that a check was made, and what came of it."""
    warn: Callable[[Finding], None]
    made: Container[str] = ()
    """The checks that an earlier controller of this population has made."""
    _asked: set[str] = field(default_factory=set)
    _waiting: deque[Check] = field(default_factory=deque)
    _scores: list[tuple[float, ...]] = field(default_factory=list)
    _expected: int = 0
    """How many answers about the noise will come."""
    _out: list[Check] = field(default_factory=list)

    @property
    def under_way(self) -> int:
        """How many checks have been handed out."""
        return len(self._out)

    @property
    def uses(self) -> set[Checkpoint]:
        """The checkpoints that are being checked or will be."""
        return {check.checkpoint for check in [*self._out, *self._waiting]}

    def next(self) -> Check | None:
        """The next check, which counts as handed out from now on; None if none waits."""
        if not self._waiting:
            return None
        self._out.append(self._waiting.popleft())
        return self._out[-1]

    def ask(self, turns: Sequence[Turn], *, noisy: bool) -> None:
        """Have those checks made that have not been asked for yet.

        Args:
            turns: Turns of one round whose checkpoints exist.
            noisy: Whether ranks look like chance.
        """
        settings = self.settings
        small = settings.all_turns < _LEAST_TURNS
        # Random search never copies a state, and never ranks: neither check would help it.
        if settings.is_control or small or not turns:
            return
        if self._is_new("restores"):
            self._want(_restoring(turns[-1], settings))
        if noisy and self._is_new("noise"):
            checks = _evaluating(turns, settings)
            self._expected = len(checks)
            for check in checks:
                self._want(check)

    def _is_new(self, name: str) -> bool:
        new = name not in self.made and name not in self._asked
        self._asked.add(name)
        return new

    def _want(self, check: Check) -> None:
        self.member_index.count_use(check.checkpoint)
        self._waiting.append(check)

    def give_up(self) -> list[int]:
        """Drop the checks that have not been handed out.

        Returns:
            The members whose checkpoints are no longer needed for a check.
        """
        dropped = [check.checkpoint for check in self._waiting]
        self._waiting.clear()
        for checkpoint in dropped:
            self.member_index.count_use(checkpoint, -1)
        return [checkpoint.member for checkpoint in dropped]

    def receive(self, done: Checked | LostJob) -> int:
        """Take an answer, after which its check no longer needs its checkpoint.

        Returns:
            The member whose checkpoint that is.
        """
        check = done.job if isinstance(done, LostJob) else done.check
        assert isinstance(check, CheckRestore | CheckNoise)
        self._out.remove(check)
        self.member_index.count_use(check.checkpoint, -1)
        if isinstance(check, CheckNoise):
            self._scores.append(done.scores if isinstance(done, NoiseChecked) else ())
            if len(self._scores) == self._expected:
                self._judge_noise()
        elif isinstance(done, RestoreChecked):
            self._judge_restoring(done)
        else:
            # A worker that died of the check must not die of it again after a resume.
            self.note("restores", "the worker was lost")
        return check.checkpoint.member

    def _judge_restoring(self, done: RestoreChecked) -> None:
        found = done.difference
        if done.error:
            self.note("restores", reason_in(done.error))
            return
        if found:
            steps = done.check.steps
            self.warn(
                Finding(
                    "restores",
                    f"a restored model does not train on as the one that was saved: {steps} steps "
                    f"after the same state, with the same seed, it scores {found.cold:.6g} and the "
                    f"other {found.warm:.6g} (the first difference: {found.where}); state_dict() "
                    "leaves something out (an optimiser's moments, a schedule's position; of a "
                    "script, what join(...) does not name, such as a counter), or reseed() leaves "
                    "a generator alone; copies lose it",
                )
            )
        # Written after the warning: a controller that is killed in between warns again on resume.
        # The other way round, nobody would ever be warned.
        self.note("restores", "differs" if found else "no difference was found")

    def _judge_noise(self) -> None:
        scores, self._scores = [row for row in self._scores if row], []
        sign = self.diagnostics.judge_noise(scores)
        if sign:
            self.warn(sign)
        self.note("noise", "members differ no more than by chance" if sign else "members differ")


def _restoring(turn: Turn, settings: Settings) -> CheckRestore:
    """A check that trains on from a turn's checkpoint, under the turn's hyperparameters."""
    assert turn.checkpoint is not None
    return CheckRestore(
        member=turn.member,
        other=(turn.member + 1) % settings.founders,
        checkpoint=turn.checkpoint,
        hparams=turn.plan.hparams,
        steps=max(1, settings.interval // _SHARE),
    )


def _evaluating(turns: Sequence[Turn], settings: Settings) -> list[CheckNoise]:
    """Checks that evaluate each member's checkpoint again, as often as the time allows."""
    chosen = same_age(turns)[:_MEMBERS]
    if len(chosen) < FEW:
        return []
    times = math.ceil(_EVALUATIONS / len(chosen))
    evaluating = fmean(turn.seconds.get("evaluate", 0.0) for turn in chosen)
    if evaluating > 0:
        whole = fmean(sum(turn.seconds.values()) for turn in chosen)
        affordable = _COSTS * whole * settings.all_turns / evaluating
        times = min(times, int(affordable / len(chosen)))
    if times < 2:
        return []
    return [
        CheckNoise(member=turn.member, checkpoint=turn.checkpoint, times=times)
        for turn in chosen
        if turn.checkpoint is not None
    ]
