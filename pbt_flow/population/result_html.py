"""A result as a notebook shows it: a sentence and a small table.

It has no script, and no colour of its own: it is read on a light page and on a dark one.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from pbt_flow.population.finalist import Finalist
from pbt_flow.utils.text import number, values

if TYPE_CHECKING:
    from pbt_flow.population.result import Result


def result_html(result: Result) -> str:
    """The outcome of a population as a fragment of HTML."""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(text)}</td></tr>'
        for name, text in _rows(result)
    )
    return f"<div><p><strong>{escape(result.headline)}</strong></p><table>{rows}</table></div>"


def _rows(result: Result) -> Iterator[tuple[str, str]]:
    """The rows of the table: what each is of, and what it says."""
    yield "population", result.run_id
    yield "status", f"{result.status}: {result.reason}" if result.reason else result.status
    members = f"{result.members} members"
    gone = [(result.retired, "retired"), (result.left, "left as planned")]
    members += "".join(f", {count} {what}" for count, what in gone if count)
    yield "trained", f"{members}; {result.turns_told}"
    if (winner := result.winner) is not None:
        yield "winner", f"member {winner.member:02d} turn {winner.turn}, step {winner.step:,}"
        yield from _numbers(winner)
        yield "hyperparameters", values(winner.hparams)
    if (average := result.average) is not None:
        yield "handed over", f"the average of {average.parents_told}"
        yield from _numbers(average)
    if (own := result.own_average) is not None:
        yield "control of averages", f"the winner's own last {len(own.parents)} checkpoints"
        yield from _numbers(own)
    if result.control is not None:
        yield "control", f"{result.control.run_id}: {result.control.headline}"


def _numbers(finalist: Finalist) -> Iterator[tuple[str, str]]:
    yield "score", number(finalist.score)
    if finalist.fresh is not None:
        yield "score on fresh data", number(finalist.fresh.mean)
    if finalist.report:
        yield "report", values(finalist.report)
