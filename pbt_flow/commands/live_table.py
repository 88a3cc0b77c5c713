"""The table of the members while they train: whole columns, as many as there is room for.

A number that is cut is another number: of 1.28e-07 the beginning says 1.28. So a column that does
not fit is left out, and the caption says how many were.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from pbt_flow.population.history import History
from pbt_flow.population.records import Member
from pbt_flow.utils.text import number

_FIRST = ("member", "turn", "score", "step", "copied")
"""Which columns are there before any hyperparameter, the most wanted first."""
_ORDER = ("member", "turn", "step", "score", "copied")
_LONGEST_NAME = 16
"""Characters of a hyperparameter's name in the head of its column."""
_LEAST_ROWS = 3
_BESIDE_ROWS = 6
"""Lines of the screen that the title, the head, the frame and the caption take."""


def live_table(history: History, title: str, *, width: int, height: int) -> Table:
    """The members, best first, in a table that fits; those that have left are counted below it.

    Args:
        history: What they have done.
        title: What stands above.
        width: Characters of a line of the terminal.
        height: Lines of the terminal.
    """
    members = sorted(history.present, key=lambda member: _rank(member, history))
    rows = members[: max(_LEAST_ROWS, height - _BESIDE_ROWS)]
    names = list(members[0].hparams)
    cells = {name: [_cell(member, name) for member in rows] for name in _ORDER}
    cells |= {_column(name): [number(member.hparams[name]) for member in rows] for name in names}
    shown = _fitting(cells, [*_FIRST, *map(_column, names)], width)
    table = Table(title=title, title_justify="left")
    for column in (column for column in cells if column in shown):
        table.add_column(_head(column), justify="right", no_wrap=True)
    for row in range(len(rows)):
        table.add_row(*(cells[column][row] for column in cells if column in shown))
    table.caption = (
        _caption(len(members) - len(rows), len(cells) - len(shown), len(history.left)) or None
    )
    return table


def _rank(member: Member, history: History) -> tuple[bool, float, int]:
    """Best first; whoever has no score comes last."""
    score = member.score
    if score is None:
        return True, 0.0, member.index
    return False, -score if history.direction == "maximize" else score, member.index


def _column(name: str) -> str:
    """The key of a hyperparameter's column: it may be called like one of ours."""
    return f"hparam/{name}"


def _head(column: str) -> str:
    name = column.removeprefix("hparam/")
    if len(name) <= _LONGEST_NAME:
        return name
    half = _LONGEST_NAME // 2
    return f"{name[: half - 1]}…{name[-half:]}"


def _cell(member: Member, column: str) -> str:
    if column == "member":
        return f"{member.index:02d}"
    if column == "copied":
        if member.donor is None:
            return ""
        return "+".join(dict.fromkeys(f"{source.member:02d}" for source in member.donor.sources))
    return number(getattr(member, column))


def _fitting(cells: dict[str, list[str]], wanted: Sequence[str], width: int) -> set[str]:
    """The columns that fit into a line: the first of those that are wanted, and at least one."""
    used, shown = 1, set[str]()  # The frame begins with one character,
    for column in wanted:
        # and each column has two blanks and a line of the frame beside what it holds.
        used += max(map(len, [_head(column), *cells[column]])) + 3
        if used > width and shown:
            break
        shown.add(column)
    return shown


def _caption(members: int, columns: int, left: int) -> str:
    """What there was no room for, and how many members have left at the end of a stage."""
    left_out = []
    if members:
        left_out.append(f"{members} more members")
    if columns:
        left_out.append(f"{columns} more column{'s' if columns > 1 else ''} in a wider terminal")
    if left:
        left_out.append(f"{left} members that left")
    return f"and {', '.join(left_out)}" if left_out else ""
