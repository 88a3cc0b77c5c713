"""Who descends from whom: the family tree of a population, read off its turns.

A node of the tree is what one turn of one member left behind; turn 0 of a member is its founder,
the fresh model. Weights and hyperparameters may have different parents: a member may copy the one
and keep the other (`Donor.copies`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from pbt_flow.population.history import History
from pbt_flow.population.records import Turn


class Node(NamedTuple):
    """A place in the family tree: what `turn` of `member` left behind."""

    member: int
    turn: int
    """From 1; 0 is the founder, the member before it trained."""


def node_of(turn: Turn) -> Node:
    """The place of a turn in the tree."""
    return Node(turn.member, turn.number)


def weights_parent(turn: Turn) -> Node:
    """Whose weights the turn began with.

    After a copy that is the donor's turn; else the member's own newest turn that went well, since a
    failed one leaves the weights that it began with.
    """
    start = turn.plan.start
    return Node(turn.member, 0) if start is None else Node(start.member, start.turn)


def hparams_parent(turn: Turn) -> Node:
    """Whose hyperparameters the turn began with, before they were moved."""
    donor = turn.plan.donor
    if donor is None or donor.copies == "weights":
        # A member keeps its hyperparameters through a failed turn, too.
        return Node(turn.member, turn.number - 1)
    return Node(donor.member, donor.turn)


def every_turn(history: History) -> Iterator[Turn]:
    """All committed turns, ordered by number and member: not by who was faster."""
    longest = max((len(turns) for turns in history.turns.values()), default=0)
    for number in range(1, longest + 1):
        for member in sorted(history.turns):
            if number <= len(history.turns[member]):
                yield history.turn(member, number)


def ancestors(history: History, turn: Turn) -> list[Turn]:
    """The turns that made the weights of `turn`, from a founder's first to `turn` itself.

    Each begins with the weights that the one before it left, so their steps follow each other
    without a gap. All but the last went well; a failed turn has no descendants.
    """
    path = [turn]
    while (parent := weights_parent(path[-1])).turn:
        path.append(history.turn(*parent))
    return path[::-1]


def founders(history: History) -> dict[Node, int]:
    """For every node of the tree the member whose fresh model its weights come from.

    The node of a failed turn has the founder of the weights that it began with.
    """
    found = {Node(member, 0): member for member in history.members}
    for turn in every_turn(history):
        unknown = [turn]
        # A donor may be ahead of who copied it, so its founder may not be known yet.
        while (parent := weights_parent(unknown[-1])) not in found:
            unknown.append(history.turn(*parent))
        for later in unknown:
            found[node_of(later)] = found[parent]
    return found


def founder_shares(history: History) -> list[dict[int, float]]:
    """How much of the population descends from each founder, after each turn from 0.

    Entry n maps founders to their share of the members that have done n turns; a founder whose line
    has died out is not in it.
    """
    of, shares = founders(history), []
    longest = max((len(turns) for turns in history.turns.values()), default=0)
    for number in range(longest + 1):
        there = Counter(
            of[Node(member, number)]
            for member in sorted(history.members)
            if len(history.turns.get(member, ())) >= number
        )
        shares.append({founder: count / there.total() for founder, count in there.items()})
    return shares


def gifts(history: History) -> Counter[int]:
    """How many copies each member gave to others; who gave none is not in it."""
    return Counter(
        turn.plan.donor.member for turn in every_turn(history) if turn.plan.donor is not None
    )
