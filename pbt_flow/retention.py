"""Which checkpoints nobody can need any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pbt_flow.member import Checkpoint, Turn


def removable(
    held: Mapping[int, Sequence[Turn]],
    *,
    undecided: int,
    needed: Callable[[Checkpoint], bool],
    keep: int,
) -> list[Turn]:
    """The turns among `held` whose checkpoints can be deleted.

    A checkpoint is needed by a member that stands on it, by a turn under way that began with it, by
    a pin, and by every member that may yet copy it: an exploit copies the record that it compared,
    so the checkpoints of an age are kept until all members have gone beyond that age. A straggler
    does not hold on to more than `keep` of each member; it copies an older one instead.

    Args:
        held: Of each member the turns whose checkpoints exist, oldest first.
        undecided: The smallest age of the members that will decide again.
        needed: Whether a member stands on a checkpoint, a turn under way began with it, or a pin
            names it.
        keep: How many checkpoints of a member are kept for stragglers at most.
    """
    return [
        turn
        for turns in held.values()
        # The newest stays in any case: it is what the member came to.
        for place, turn in enumerate(turns[:-1])
        if (turn.step < undecided or len(turns) - place > keep)
        and turn.checkpoint is not None
        and not needed(turn.checkpoint)
    ]
