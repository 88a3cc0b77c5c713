"""Which checkpoints nobody can need any more."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

from pbt_flow.population.records import Checkpoint, Turn


def removable(
    held: Mapping[int, Sequence[Turn]],
    *,
    undecided: int,
    needed: Callable[[Checkpoint], bool],
    is_best: Callable[[Turn], bool],
    keep: int,
    left: Container[int] = (),
) -> list[Turn]:
    """The turns among `held` whose checkpoints can be deleted.

    A checkpoint is needed by a member that stands on it, by a turn under way that began with it, by
    a pin, and by every member that may yet copy it. An exploit copies a record that it compared, so
    checkpoints of an age are kept until all members have passed that age. A straggler does not hold
    on to more than `keep` of each member, and beside them the best of each age that it has still to
    pass, where there are sub-populations the best of each of those: so it always finds a record of
    its own age to copy.

    Args:
        held: Of each member the turns whose checkpoints exist, oldest first.
        undecided: The smallest age of the members that will decide again.
        needed: Whether a member stands on a checkpoint, a turn under way began with it, or a pin
            names it.
        is_best: Whether a turn is the best of its age and sub-population whose checkpoint exists.
        keep: How many checkpoints of a member are kept for stragglers at most, beside the best.
        left: Members that have left at the end of a stage: nobody copies them any more.
    """
    unneeded = []
    for member, turns in held.items():
        # The newest of a member stays in any case, unless it has left: it is what it came to.
        candidates = turns if member in left else turns[:-1]
        for place, turn in enumerate(candidates):
            if turn.checkpoint is None or needed(turn.checkpoint):
                continue
            passed = turn.step < undecided
            superfluous = len(turns) - place > keep and not is_best(turn)
            if member in left or passed or superfluous:
                unneeded.append(turn)
    return unneeded
