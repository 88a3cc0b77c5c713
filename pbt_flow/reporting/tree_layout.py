"""The family tree of a population, laid out so that no line crosses another.

A *thread* is a line of descent that runs straight along one row for as long as it lasts; others
branch off it, those that died out above it and those that live below it. What came and went at
different times shares its rows, so that the tree of a long run is no higher than that of a short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pbt_flow.population.history import History
from pbt_flow.population.lineage import Node, ancestors, every_turn, node_of, weights_parent
from pbt_flow.population.records import Turn

_ALIVE, _DEAD = 1.0, 0.5
"""Rows that a thread takes for itself."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Where every node of a family tree is drawn."""

    places: Mapping[Node, tuple[float, float]]
    """The step of the weights, and the row."""
    edges: Sequence[tuple[Node, Node]]
    """Parent and child; a copy where the child is another member's."""
    failed: Sequence[tuple[Turn, tuple[float, float]]]
    """Turns that left nothing, where their weights came from."""
    rows: float


@dataclass(kw_only=True)
class _Thread:
    nodes: list[Node]
    end: int
    """The greatest step of all that descends from it."""
    alive: bool
    above: float = 0.0
    """Rows that it needs above its own line, with all that branches off; `below` likewise."""
    below: float = 0.0


def lay_out(history: History) -> Tree:
    """Lay out the family tree of the weights; the winner's line runs straight from end to end."""
    children: dict[Node, list[Node]] = {Node(member, 0): [] for member in sorted(history.members)}
    steps = dict.fromkeys(children, 0)
    good = [turn for turn in every_turn(history) if turn.ok]
    for turn in sorted(good, key=lambda turn: turn.step):
        children[node_of(turn)] = []
        steps[node_of(turn)] = turn.step
        children[weights_parent(turn)].append(node_of(turn))
    threads = _threads(history, children, steps)
    rows, height = _rows(threads, children, steps)
    places = {node: (float(steps[node]), rows[node]) for node in children}
    return Tree(
        places=places,
        edges=[(node, child) for node in children for child in children[node]],
        failed=[(t, places[weights_parent(t)]) for t in every_turn(history) if not t.ok],
        rows=height,
    )


def _threads(
    history: History, children: Mapping[Node, list[Node]], steps: Mapping[Node, int]
) -> dict[Node, _Thread]:
    """The threads by their first node, those that begin last first."""
    alive = {
        Node(m.checkpoint.member, m.checkpoint.turn)
        for m in history.present
        if m.checkpoint is not None
    }
    winner = history.winner()
    path = {node_of(turn) for turn in ancestors(history, winner)} if winner else set()
    threads: dict[Node, _Thread] = {}
    # A child's weights are older than its parent's: in this order children come first.
    for node in sorted(children, key=lambda node: -steps[node]):
        if not children[node]:
            threads[node] = _Thread(nodes=[node], end=steps[node], alive=node in alive)
            continue
        # The thread of the child that lasts longest begins one node earlier.
        heir = max(children[node], key=lambda child: (child in path, threads[child].end, child))
        thread = threads.pop(heir)
        thread.nodes.append(node)
        thread.end = max([thread.end, *(threads[c].end for c in children[node] if c != heir)])
        thread.alive |= node in alive or any(threads[c].alive for c in children[node] if c != heir)
        threads[node] = thread
    return threads


def _rows(
    threads: Mapping[Node, _Thread],
    children: Mapping[Node, list[Node]],
    steps: Mapping[Node, int],
) -> tuple[dict[Node, float], float]:
    """The row of each node, and how many rows there are."""
    column = {step: index for index, step in enumerate(sorted(set(steps.values())))}
    aside: dict[Node, float] = {}
    """How far the line of a thread lies below the one that it branches off."""
    for thread in sorted(threads.values(), key=lambda thread: -steps[thread.nodes[-1]]):
        own = (_ALIVE if thread.alive else _DEAD) / 2
        above, below = np.full(len(column), own), np.full(len(column), own)
        # Nodes are listed from the last to the first. What branches off late is placed first, so
        # that the line to an earlier branch passes where the later ones have not begun.
        for node in thread.nodes:
            for first in children[node]:
                if first not in threads:
                    continue  # the thread itself goes on
                branch = threads[first]
                span = slice(column[steps[node]], column[branch.end])
                side = below if branch.alive else above
                start = side[span].max()
                side[span] = start + branch.above + branch.below
                aside[first] = start + branch.above if branch.alive else -(start + branch.below)
        thread.above, thread.below = float(above.max()), float(below.max())

    rows: dict[Node, float] = {}
    height = 0.0
    for first in sorted((node for node in threads if not node.turn), key=lambda node: node.member):
        height += threads[first].above
        rows[first] = height
        height += threads[first].below
    for first, thread in sorted(threads.items(), key=lambda item: steps[item[0]]):
        for node in thread.nodes:
            rows[node] = rows[first]
            for child in children[node]:
                if child in threads:
                    rows[child] = rows[first] + float(aside[child])
    return rows, height
