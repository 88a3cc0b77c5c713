"""The charts of a report in words: a sentence for each, and a table of its numbers.

A screen reader says the sentence in place of the chart, and the keyboard opens the table. Both are
made from the numbers that are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pbt_flow.population.records import Turn
from pbt_flow.reporting import series
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.utils.text import duration, number

_MOST_ROWS = 40
"""Rows of a table; of more, every second or third is shown, and always the last."""


@dataclass(frozen=True, kw_only=True)
class ChartWords:
    """What a chart shows, without the chart."""

    sentence: str
    head: Sequence[str]
    """The names of the table's columns."""
    rows: Sequence[Sequence[str]]


def chart_words(subject: ReportData, most_founders: int) -> dict[str, ChartWords]:
    """Every chart in words, by the id of its element on the page.

    Args:
        subject: What the report is about.
        most_founders: The number of founders that the chart of founders tells apart.
    """
    found = {"scores": _scores(subject)}
    for index, name in enumerate(subject.space):
        found[f"hparam-{index}"] = _hparam(subject, name)
    found["tree"] = _tree(subject)
    found["founders"] = _founders(subject, most_founders)
    found["time"] = _time(subject)
    return found


def _scores(subject: ReportData) -> ChartWords:
    history = subject.history
    columns = _best_and_mean(subject)
    steps = sorted({point.trained for points in columns.values() for point in points})
    values = {name: {p.trained: p.value for p in points} for name, points in columns.items()}
    rows = [[f"{step:,}", *(number(values[name].get(step)) for name in columns)] for step in steps]
    better = "greater" if history.direction == "maximize" else "smaller"
    parts = [f"{name} {_course(points)}" for name, points in columns.items() if points]
    told = f"Scores of {len(history.members)} members, a {better} one is better"
    if steps:
        told += f"; over {steps[-1]:,} steps of a member {_in_a_row(parts)}"
    return ChartWords(sentence=f"{told}.", head=["steps", *columns], rows=_thinned(rows))


def _best_and_mean(subject: ReportData) -> dict[str, list[series.Point]]:
    best, mean = series.best_and_mean(subject.history)
    columns = {"the best": best, "the mean": mean}
    if subject.control is not None:
        best, mean = series.best_and_mean(subject.control.history)
        columns |= {"the control's best": best, "the control's mean": mean}
    return columns


def _course(points: Sequence[series.Point]) -> str:
    first, last = points[0].value, points[-1].value
    if len(points) == 1 or number(first) == number(last):
        return f"is {number(last)}"
    return f"goes from {number(first)} to {number(last)}"


def _in_a_row(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]


def _hparam(subject: ReportData, name: str) -> ChartWords:
    path = subject.path
    rows = list[list[str]]()
    for turn in path:
        value = number(turn.plan.hparams[name])
        if rows and rows[-1][2] == value:
            rows[-1][1] = f"{turn.step:,}"
        else:
            rows.append([f"{turn.plan.start_step:,}", f"{turn.step:,}", value])
    if not rows:
        told = "there is no winner yet"
    elif len(rows) == 1:
        told = f"the winner's line keeps {rows[0][2]} for {rows[0][1]} steps"
    else:
        told = (
            f"the winner's line begins with {rows[0][2]}, has {len(rows)} values in a row, and "
            f"ends with {rows[-1][2]} after {rows[-1][1]} steps"
        )
    head = ["from step", "to step", f"{name} of the winner's line"]
    return ChartWords(sentence=f"{name}: {told}.", head=head, rows=_thinned(rows))


def _tree(subject: ReportData) -> ChartWords:
    history, path = subject.history, subject.path
    alive = series.surviving_founders(history, subject.settings.max_failures)
    copies = series.copies(history)
    told = (
        f"Family tree: of {len(history.members)} founders {len(alive)} "
        f"{'has' if len(alive) == 1 else 'have'} descendants among the living, after "
        f"{copies} {'copy' if copies == 1 else 'copies'}"
    )
    lived_in = list[int]()
    for turn in path:
        if not lived_in or lived_in[-1] != turn.member:
            lived_in.append(turn.member)
    if len(lived_in) > 1:
        told += "; the winner's line goes through the members "
        told += _in_a_row([f"{member:02d}" for member in lived_in])
    elif lived_in:
        told += f"; the winner's line is that of member {lived_in[0]:02d} alone"
    head = ["turn", "member", "step", "score", "copied from"]
    rows = [
        [str(turn.number), f"{turn.member:02d}", f"{turn.step:,}", number(turn.score), _donor(turn)]
        for turn in path
    ]
    return ChartWords(sentence=f"{told}.", head=head, rows=_thinned(rows))


def _donor(turn: Turn) -> str:
    donor = turn.plan.donor
    if donor is None:
        return ""
    return f"member {donor.member:02d}, turn {donor.turn}"


def _founders(subject: ReportData, most: int) -> ChartWords:
    shares = series.shares(subject.history, most)
    names = ["others" if one is None else f"founder {one:02d}" for one in shares]
    columns = list(shares.values())
    rows = [
        [str(turn), *(f"{column[turn]:.0%}" for column in columns)]
        for turn in range(max(map(len, columns), default=0))
    ]
    parts = list[str]()
    for name, column in zip(names, columns, strict=True):
        if column[-1] > 0:
            parts.append(f"{column[-1]:.0%} from {'other founders' if name == 'others' else name}")
    told = f"After turn {len(rows) - 1} the population descends to {_in_a_row(parts)}."
    return ChartWords(sentence=told, head=["turn", *names], rows=_thinned(rows))


def _time(subject: ReportData) -> ChartWords:
    spent = series.time_spent(subject.history, subject.slots)
    total = math.fsum(spent.values()) or 1.0
    ranked = sorted(spent, key=lambda part: -spent[part])
    parts = [f"{spent[part] / total:.0%} {part}" for part in ranked if spent[part] > 0]
    told = f"The workers' time: {_in_a_row(parts)}." if parts else "No time was spent yet."
    rows = [[part, duration(spent[part]), f"{spent[part] / total:.0%}"] for part in ranked]
    return ChartWords(sentence=told, head=["part", "time", "share"], rows=rows)


def _thinned(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    every = math.ceil(len(rows) / _MOST_ROWS)
    return [row for place, row in enumerate(rows) if (len(rows) - 1 - place) % max(1, every) == 0]
