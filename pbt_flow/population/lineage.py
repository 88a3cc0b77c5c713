"""Who descends from whom: the family tree of a population, derived from its turns.

A node of the tree stands for what one turn of one member left behind. Turn 0 of a member is its
founder: the fresh model, before the member trained. Weights and hyperparameters may have different
parents, since a member may copy one of the two and keep the other (`Donor.copies`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from pbt_flow.population.history import History
from pbt_flow.population.records import Turn


class Node(NamedTuple):
    """A node of the family tree: what `turn` of `member` left behind."""

    member: int
    turn: int
    """The number of the turn, from 1; 0 is the founder, the member before it trained."""


def node_of(turn: Turn) -> Node:
    """Return the node of a turn."""
    return Node(turn.member, turn.number)


def weights_parent(turn: Turn) -> Node:
    """Return the node whose weights the turn began with.

    After a copy it is the donor's turn. Otherwise it is the member's own newest turn that went
    well, since a failed turn leaves the weights that it began with.
    """
    start = turn.plan.start
    return Node(turn.member, 0) if start is None else Node(start.member, start.turn)


def hparams_parent(turn: Turn) -> Node:
    """Return the node whose hyperparameters the turn began with, before they were moved."""
    donor = turn.plan.donor
    if donor is not None and donor.hparams_of is not None:
        return Node(donor.hparams_of.member, donor.hparams_of.turn)
    if donor is None or donor.copies == "weights":
        # Unlike weights, a member's hyperparameters are also passed on by a failed turn.
        return Node(turn.member, turn.number - 1)
    return Node(donor.member, donor.turn)


def every_turn(history: History) -> Iterator[Turn]:
    """Yield all committed turns, ordered by number and member, whoever was faster."""
    for number in range(1, _most_turns(history) + 1):
        for member in sorted(history.turns):
            if number <= len(history.turns[member]):
                yield history.turn(member, number)


def ancestors(history: History, turn: Turn) -> list[Turn]:
    """Return the turns that made the weights of `turn`, from a founder's first to `turn` itself.

    Each turn begins with the weights that the one before it left, so their steps follow each other
    without a gap. All but the last went well, since a failed turn has no descendants.
    """
    path = [turn]
    parent = weights_parent(turn)
    while parent.turn > 0:
        path.append(history.turn(*parent))
        parent = weights_parent(path[-1])
    path.reverse()
    return path


OWN_RECORDS = 3
"""The records whose mean is the running average of a model's own checkpoints, its last included."""


def own_records(history: History, turn: Turn) -> list[Turn]:
    """Return the last `OWN_RECORDS` turns that made the weights of `turn`, from `turn` itself back.

    They are the model's own earlier checkpoints, whichever member trained them. There are fewer
    where it has done fewer turns.
    """
    path, node = [turn], weights_parent(turn)
    while node.turn > 0 and len(path) < OWN_RECORDS:
        path.append(history.turn(*node))
        node = weights_parent(path[-1])
    return path


def founders(history: History) -> dict[Node, int]:
    """Return, for every node, the member whose fresh model its weights descend from.

    The node of a failed turn has the founder of the weights that the turn began with.
    """
    founder_of = {Node(member, 0): member for member in history.members}
    for turn in every_turn(history):
        # A donor may have done more turns than the member that copied it. The donor's founder is
        # then not known yet, so we go back along the lineage until we come to a known node.
        unknown = [turn]
        parent = weights_parent(turn)
        while parent not in founder_of:
            unknown.append(history.turn(*parent))
            parent = weights_parent(unknown[-1])
        for descendant in unknown:
            founder_of[node_of(descendant)] = founder_of[parent]
    return founder_of


def founder_shares(history: History) -> list[dict[int, float]]:
    """Return which share of the population descends from each founder, after each turn from 0.

    Entry n maps each founder to its share of the members that have done n turns. A founder whose
    line has died out is not in the entry.
    """
    founder_of = founders(history)
    shares: list[dict[int, float]] = []
    for number in range(_most_turns(history) + 1):
        descendants: Counter[int] = Counter()
        for member in sorted(history.members):
            if number <= len(history.turns.get(member, ())):
                descendants[founder_of[Node(member, number)]] += 1
        total = descendants.total()
        shares.append({founder: count / total for founder, count in descendants.items()})
    return shares


def count_copies(history: History) -> Counter[int]:
    """Return how often each member was copied by others; a member without copies is not in it.

    If weights and hyperparameters were copied from two members, both were copied.
    """
    gave: Counter[int] = Counter()
    for turn in every_turn(history):
        if turn.plan.donor is not None:
            gave.update(source.member for source in turn.plan.donor.sources)
    return gave


def _most_turns(history: History) -> int:
    """Return the number of turns of the member that has done the most."""
    return max((len(turns) for turns in history.turns.values()), default=0)
