"""The family tree of a population, laid out so that no line crosses another.

A *thread* is a line of descent that runs straight along one row for as long as it lasts. Other
threads branch off it: those that have died out lie above it, those that live lie below it. Threads
that never exist at the same time can share a row, so that the tree of a long run is no higher than
that of a short one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pbt_flow.population.history import History
from pbt_flow.population.lineage import Node, ancestors, every_turn, node_of, weights_parent
from pbt_flow.population.records import Turn

_ROWS_ALIVE, _ROWS_DEAD = 1.0, 0.5
"""The height of a thread itself, for one that lives and for one that has died out."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The place of every node of a family tree."""

    places: Mapping[Node, tuple[float, float]]
    """For each node the step of the weights, and the row."""
    edges: Sequence[tuple[Node, Node]]
    """Parent and child. An edge between nodes of two members is a copy."""
    failed: Sequence[tuple[Turn, tuple[float, float]]]
    """The turns that failed, each at the place of the node that its weights came from."""
    rows: float
    """The height of the whole tree."""


@dataclass(kw_only=True)
class _Thread:
    """A line of descent along one row."""

    nodes: list[Node]
    """Its nodes, from the last to the first."""
    end: int
    """The greatest step of all nodes that descend from it."""
    alive: bool
    """Whether a member stands on one of these nodes now."""
    above: float = 0.0
    """The rows that the thread and all its branches need above its own line."""
    below: float = 0.0
    """The rows that they need below its own line."""


def lay_out(history: History) -> Tree:
    """Lay out the family tree of the weights. The winner's line runs straight from end to end."""
    children: dict[Node, list[Node]] = {Node(member, 0): [] for member in sorted(history.members)}
    steps = dict.fromkeys(children, 0)
    good = [turn for turn in every_turn(history) if turn.ok]
    # By step, so that a parent is in the tree before its children.
    for turn in sorted(good, key=lambda turn: turn.step):
        children[node_of(turn)] = []
        steps[node_of(turn)] = turn.step
        children[weights_parent(turn)].append(node_of(turn))
    threads = _find_threads(history, children, steps)
    rows, height = _place_threads(threads, children, steps)
    places = {node: (float(steps[node]), rows[node]) for node in children}
    edges: list[tuple[Node, Node]] = []
    for node, born in children.items():
        edges += [(node, child) for child in born]
    failed = [(turn, places[weights_parent(turn)]) for turn in every_turn(history) if not turn.ok]
    return Tree(places=places, edges=edges, failed=failed, rows=height)


def _find_threads(
    history: History, children: Mapping[Node, list[Node]], steps: Mapping[Node, int]
) -> dict[Node, _Thread]:
    """The threads of a tree, by their first node."""
    alive = {
        Node(member.checkpoint.member, member.checkpoint.turn)
        for member in history.present
        if member.checkpoint is not None
    }
    winner = history.winner()
    path = {node_of(turn) for turn in ancestors(history, winner)} if winner else set()
    threads: dict[Node, _Thread] = {}
    # A child's weights are older than its parent's: in this order children come first.
    for node in sorted(children, key=lambda node: -steps[node]):
        if not children[node]:
            threads[node] = _Thread(nodes=[node], end=steps[node], alive=node in alive)
            continue
        # One child's thread is continued to this node: the winner's, or else the longest one. The
        # threads of the other children branch off here.
        heir = max(children[node], key=lambda child: (child in path, threads[child].end, child))
        thread = threads.pop(heir)
        branches = [threads[child] for child in children[node] if child != heir]
        thread.nodes.append(node)
        thread.end = max(branch.end for branch in [thread, *branches])
        thread.alive |= node in alive or any(branch.alive for branch in branches)
        threads[node] = thread
    return threads


def _place_threads(
    threads: Mapping[Node, _Thread],
    children: Mapping[Node, list[Node]],
    steps: Mapping[Node, int],
) -> tuple[dict[Node, float], float]:
    """The row of each node, and the height of the tree."""
    offsets = _measure_threads(threads, children, steps)
    rows: dict[Node, float] = {}
    height = 0.0
    founders = sorted((node for node in threads if not node.turn), key=lambda node: node.member)
    for first in founders:
        height += threads[first].above
        rows[first] = height
        height += threads[first].below
    # By step, so that a thread has its row before its branches get theirs.
    for first, thread in sorted(threads.items(), key=lambda item: steps[item[0]]):
        for node in thread.nodes:
            rows[node] = rows[first]
            for child in children[node]:
                if child in threads:
                    rows[child] = rows[first] + offsets[child]
    return rows, height


def _measure_threads(
    threads: Mapping[Node, _Thread],
    children: Mapping[Node, list[Node]],
    steps: Mapping[Node, int],
) -> dict[Node, float]:
    """Set `above` and `below` of each thread.

    Returns:
        How far each branch lies below the thread that it branches off, by the branch's first node.
    """
    column = {step: index for index, step in enumerate(sorted(set(steps.values())))}
    offsets: dict[Node, float] = {}
    # The latest threads first: a thread is measured after all that branches off it.
    for thread in sorted(threads.values(), key=lambda thread: -steps[thread.nodes[-1]]):
        own = (_ROWS_ALIVE if thread.alive else _ROWS_DEAD) / 2
        # For each column of the tree, how far the thread and its branches reach so far.
        above, below = np.full(len(column), own), np.full(len(column), own)
        # From the last node to the first. A late branch is placed first, and so lies closest: the
        # line to an earlier branch passes where the later branches have not begun.
        for node in thread.nodes:
            for first in children[node]:
                if first not in threads:
                    # This child is not a branch: the thread itself goes on in it.
                    continue
                branch = threads[first]
                span = slice(column[steps[node]], column[branch.end])
                side = below if branch.alive else above
                start = float(side[span].max())
                side[span] = start + branch.above + branch.below
                offsets[first] = start + branch.above if branch.alive else -(start + branch.below)
        thread.above, thread.below = float(above.max()), float(below.max())
    return offsets
