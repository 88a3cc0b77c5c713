"""What became of a population."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from pbt_flow.history import History
from pbt_flow.member import Checkpoint, Turn
from pbt_flow.space import Hparams
from pbt_flow.task import Task

Status = Literal["finished", "interrupted", "failed", "running"]


NO_WINNER = "no turn of any member went well"
"""Why a population has failed that did all its turns."""


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """One turn of one member that is worth pointing at."""

    member: int
    run_id: str
    turn: int
    step: int
    """The age of its weights."""
    score: float
    """What selection went by: the maximum of many noisy scores is optimistic."""
    report: Mapping[str, float]
    """What `Task.report` measured on data that selection never saw; empty if it was not asked."""
    hparams: Hparams
    revive: Callable[[str | None], Task] | None = field(default=None, repr=False, compare=False)
    """Builds the task again in this turn's state, on a device."""

    def task(self, device: str | None = None) -> Task:
        """A live task in the state that this turn left: to evaluate, to look at, to train on.

        Args:
            device: Where to put it, as torch names it; by default where it was trained.

        Raises:
            CheckpointError: The state is gone, or is not the one that the turn wrote.
        """
        if self.revive is None:
            raise ValueError(f"run {self.run_id}: this result knows of no place for checkpoints")
        return self.revive(device)

    def to_json(self) -> dict[str, Any]:
        """The turn as plain values."""
        return {
            "member": self.member,
            "run_id": self.run_id,
            "turn": self.turn,
            "step": self.step,
            "score": self.score,
            "report": dict(self.report),
            "hparams": dict(self.hparams),
        }


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a population; `pbt_flow.run` returns it, `pbt_flow.load` rebuilds it."""

    run_id: str
    """The population's run in MLflow."""
    tracking_uri: str
    status: Status
    reason: str
    """Why it ended; empty if it ran to the end of its budget."""
    winner: Finalist | None
    """The best of the records that the members stand on; None if no turn has gone well."""
    best_initial: Finalist | None
    """The best that an initial configuration came to, unchanged, before PBT replaced it."""
    mean_score: float
    """Mean of the members' newest scores; NaN if there are none."""
    members: int
    retired: int
    """Members that failed too often and were given up."""
    turns: int
    """Turns of all members together."""
    seconds: float
    """Wall-clock seconds of the call that made this result."""
    history: History = field(repr=False, compare=False)
    """Every turn of every member."""
    charts: str = ""
    """Where its charts are in MLflow's UI: what follows the address of the UI."""
    control: Result | None = None
    """The population that it is to be compared with, if one was trained or named."""

    @classmethod
    def of(
        cls,
        history: History,
        *,
        run_id: str,
        tracking_uri: str,
        member_runs: Sequence[str],
        reports: Mapping[Checkpoint, Mapping[str, float]],
        max_failures: int,
        status: Status,
        reason: str = "",
        seconds: float = 0.0,
        charts: str = "",
        revive: Callable[[Checkpoint, str | None], Task] | None = None,
    ) -> Result:
        """Read the result off a history; `reports` is what was measured of some checkpoints."""

        def finalist(turn: Turn | None) -> Finalist | None:
            if turn is None or turn.score is None or turn.checkpoint is None:
                return None
            return Finalist(
                member=turn.member,
                run_id=member_runs[turn.member],
                turn=turn.number,
                step=turn.step,
                score=turn.score,
                report=reports.get(turn.checkpoint, {}),
                hparams=turn.plan.hparams,
                revive=None if revive is None else partial(revive, turn.checkpoint),
            )

        living = history.living(max_failures)
        scores = [member.score for member in living if member.score is not None]
        return cls(
            run_id=run_id,
            tracking_uri=tracking_uri,
            status=status,
            reason=reason,
            winner=finalist(history.winner()),
            best_initial=finalist(history.best_initial),
            mean_score=math.fsum(scores) / len(scores) if scores else math.nan,
            members=len(history.members),
            retired=len(history.members) - len(living),
            turns=sum(member.turn for member in history.members.values()),
            seconds=seconds,
            history=history,
            charts=charts,
        )

    @property
    def headline(self) -> str:
        """What came of it, in one sentence: the winner beside the best of the initial settings.

        Where both were reported on, it quotes the report and not the score: the winner's score is
        the greatest of many noisy ones.
        """
        winner, initial = self.winner, self.best_initial
        if winner is None:
            return "No member is in good health" if self.turns else "No turn is done yet"
        metric = next(iter(winner.report), "")
        if initial is None or metric not in initial.report:
            metric = metric if initial is None else ""

        def told(one: Finalist) -> str:
            return f"{one.report[metric]:.4g}" if metric else f"{one.score:.4g}"

        text = f"The winner reaches {metric or 'score'} {told(winner)}"
        if initial is None:
            return text
        if (initial.member, initial.turn) == (winner.member, winner.turn):
            return f"{text}, with an initial setting that was never changed"
        return f"{text}; the best initial setting, unchanged, came to {told(initial)}"

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values, with null for what is not a finite number."""
        plain = {
            "status": self.status,
            "reason": self.reason,
            "population": self.run_id,
            "tracking_uri": self.tracking_uri,
            "winner": self.winner and self.winner.to_json(),
            "best_initial": self.best_initial and self.best_initial.to_json(),
            "mean_score": self.mean_score,
            "members": self.members,
            "retired": self.retired,
            "turns": self.turns,
            "seconds": round(self.seconds, 3),
        }
        if self.control is not None:
            plain["control"] = self.control.to_json()
        finite: dict[str, Any] = _finite(plain)
        return finite


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
