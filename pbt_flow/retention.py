"""Which checkpoints nobody can need any more."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pbt_flow.history import History
from pbt_flow.member import Checkpoint, Turn


def removable(
    held: Iterable[Turn],
    history: History,
    *,
    undecided: int,
    needed: Collection[Checkpoint | None],
    keep: int,
) -> list[Turn]:
    """The turns among `held` whose checkpoints can be deleted.

    A checkpoint is needed by a member that stands on it, by a turn under way that began with it, by
    a pin, and by every member that may yet copy it: an exploit copies the record that it compared,
    so the checkpoints of an age are kept until all members have gone beyond that age. A straggler
    does not hold on to more than `keep` of each member; it copies an older one instead.

    Args:
        held: Turns whose checkpoints exist.
        history: The committed turns.
        undecided: The smallest age of the members that will decide again.
        needed: Checkpoints that members stand on, turns under way began with, or pins name.
        keep: How many checkpoints of a member are kept for stragglers at most.
    """
    by_member: dict[int, list[Turn]] = {}
    for turn in held:
        by_member.setdefault(turn.member, []).append(turn)
    found = []
    for turns in by_member.values():
        newest_first = sorted(turns, key=lambda turn: -turn.number)
        for place, turn in enumerate(newest_first):
            # The newest stays in any case: it is what the member came to.
            beyond = turn.step < undecided or place >= keep
            if place > 0 and beyond and turn.checkpoint not in needed:
                found.append(turn)
    return sorted(found, key=lambda turn: (turn.number, turn.member))
