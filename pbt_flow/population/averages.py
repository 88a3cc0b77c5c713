"""The winner without any average, with that of its own checkpoints, and with that of finalists."""

from __future__ import annotations

from collections.abc import Iterator

from pbt_flow.population.finalist import Finalist
from pbt_flow.population.result import Result


def averages_told(result: Result) -> Iterator[tuple[str, Finalist]]:
    """Yield what an average brings, from nothing on: a name for each model, and its numbers.

    There is nothing to yield where the average of the winner's own checkpoints, which is the
    control of the other, was not made. The average of finalists is only there if it is better than
    the winner.
    """
    if result.winner is None or result.own_average is None:
        return
    yield "the winner, no average", result.winner
    count = len(result.own_average.parents)
    yield f"average of its own last {count} checkpoints", result.own_average
    if result.average is not None:
        yield finalists_told(result.average), result.average


def finalists_told(average: Finalist) -> str:
    """Return how many finalists of how many members an average is of."""
    members = len({member for member, _ in average.parents})
    of = "one member" if members == 1 else f"{members} members"
    return f"average of {len(average.parents)} finalists of {of}"
