"""Histories made by hand, a turn at a time."""

from __future__ import annotations

from typing import Any

from pbt_flow.population.history import History
from pbt_flow.population.records import Checkpoint, Donor, Member, Plan, Turn

STEPS = 10


def begun(size: int) -> History:
    history = History(direction="maximize")
    history.begin(Member(index=m, hparams={"lr": float(m)}) for m in range(size))
    return history


def do(
    history: History,
    member: int,
    *,
    ok: bool = True,
    score: float = 1.0,
    copy: tuple[int, int] | None = None,
    copies: Any = "both",
) -> Turn:
    """The next turn of a member, perhaps after copying the donor's turn `copy`."""
    me = history.members[member]
    donor = None if copy is None else history.turn(*copy)
    weights = donor if donor is not None and copies != "hparams" else None
    hparams = donor.plan.hparams if donor is not None and copies != "weights" else me.hparams
    plan = Plan(
        member=member,
        turn=me.turn + 1,
        seed=0,
        hparams=hparams,
        steps=STEPS,
        start=weights.checkpoint if weights else me.checkpoint,
        start_step=weights.step if weights else me.step,
        trained=me.trained + STEPS,
        donor=Donor(member=donor.member, turn=donor.number, copies=copies) if donor else None,
    )
    left = Checkpoint(member=member, turn=plan.turn, digest=f"{member}-{plan.turn}", size=1)
    turn = Turn(plan=plan, status="ok", score=score, checkpoint=left)
    if not ok:
        turn = Turn(plan=plan, status="failed")
    history.add(turn)
    return turn
