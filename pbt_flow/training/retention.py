"""Which checkpoints nobody can need any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pbt_flow.population.records import Checkpoint, Turn


def removable(
    held: Mapping[int, Sequence[Turn]],
    *,
    undecided: int,
    needed: Callable[[Checkpoint], bool],
    is_best: Callable[[Turn], bool],
    keep: int,
) -> list[Turn]:
    """The turns among `held` whose checkpoints can be deleted.

    A checkpoint is needed by a member that stands on it, by a turn under way that began with it, by
    a pin, and by every member that may yet copy it. An exploit copies a record that it compared, so
    checkpoints of an age are kept until all members have passed that age. A straggler does not hold
    on to more than `keep` of each member, and beside them the best of each age that it has still to
    pass: so it always finds a record of its own age to copy.

    Args:
        held: Of each member the turns whose checkpoints exist, oldest first.
        undecided: The smallest age of the members that will decide again.
        needed: Whether a member stands on a checkpoint, a turn under way began with it, or a pin
            names it.
        is_best: Whether a turn is the best of its age whose checkpoint exists.
        keep: How many checkpoints of a member are kept for stragglers at most, beside the best.
    """
    return [
        turn
        for turns in held.values()
        # The newest stays in any case: it is what the member came to.
        for place, turn in enumerate(turns[:-1])
        if turn.checkpoint is not None
        and not needed(turn.checkpoint)
        and (turn.step < undecided or (len(turns) - place > keep and not is_best(turn)))
    ]
