"""Why something went wrong, in one line: the line with the exception's type.

The last line of a traceback may be the end of a message of several lines, or a note. So the reason
is taken from the exception where it is caught, and from then on it stands above the traceback.
"""

from __future__ import annotations

import reprlib
import sys
import traceback
from collections.abc import Sequence

_LONGEST = 500
"""Characters of a reason."""
_HEADER = "Traceback (most recent call last):"
_GROUP_HEADER = f"  + Exception Group {_HEADER}"
_GROUP_MARGIN = "  | "


def reason_of(error: BaseException, *, with_module: bool = True) -> str:
    """The type of an exception and what it says, in one line.

    Of `SystemExit` it is that the task left by itself, in a library's argument parser say: the type
    and a number would tell nobody.

    Args:
        error: The exception.
        with_module: Whether to say where its type is from, as a traceback does.
    """
    if isinstance(error, SystemExit):
        return _reason_of_exit(error)
    kind = type(error)
    name = kind.__qualname__ if with_module else kind.__name__
    if with_module and kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    first, *more = message_of(error).splitlines() or [""]
    found = _in_one_line([f"{name}: {first.strip()}", *more])
    if sys.version_info >= (3, 11) and isinstance(error, BaseExceptionGroup):  # noqa: F821
        found += f"; the first: {reason_of(error.exceptions[0])}"
    return found if len(found) <= _LONGEST else f"{found[: _LONGEST - 1]}…"


def _reason_of_exit(error: SystemExit) -> str:
    left = "the task called sys.exit"
    if error.code is None:
        return left
    if isinstance(error.code, int):
        return f"{left}: exit code {error.code}"
    said = " ".join(message_of(error).split())
    return f"{left}: {said}" if len(said) <= _LONGEST else f"{left}: {said[: _LONGEST - 1]}…"


def message_of(error: BaseException) -> str:
    """What an exception says; of one that cannot say it, so much."""
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"


def account_of(error: BaseException) -> str:
    """The reason, and below it the whole traceback: what a record keeps of an exception."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return f"{reason_of(error)}\n\n{trace}"


def reason_in(account: str) -> str:
    """The reason in what a record keeps; of a record that is older than `account_of`, in its
    traceback.
    """
    lines = account.rstrip().splitlines()
    if not lines:
        return ""
    if not lines[1:2] or not lines[1].strip():
        return lines[0].strip()
    headers = [n for n, line in enumerate(lines) if line in (_HEADER, _GROUP_HEADER)]
    if not headers:
        return _in_one_line(lines)
    # The last of several exceptions in a chain is the one that was caught.
    rest = lines[headers[-1] + 1 :]
    if lines[headers[-1]] == _GROUP_HEADER:
        rest = [line.removeprefix(_GROUP_MARGIN) for line in rest]
    # Frames are indented, the line with the type is not.
    starts = (n for n, line in enumerate(rest) if line and not line[0].isspace())
    start = next(starts, None)
    return lines[-1].strip() if start is None else _in_one_line(rest[start:])


def in_short(value: object, most: int = 120) -> str:
    """A value as it looks in Python, on one line and not too long."""
    try:
        # It does not write out what is long: a number of a million digits, or a list.
        text = repr(value) if isinstance(value, str) else _SHORT.repr(value)
    except Exception:
        text = f"an object of type {type(value).__name__}"
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxlong = 200


def _in_one_line(lines: Sequence[str]) -> str:
    """The first line, and where it only announces something, the one that follows."""
    first, *rest = lines
    following = next((line.strip() for line in rest if line.strip()), "")
    line = first.rstrip()
    if not line.endswith(":"):
        return line
    if following:
        return f"{line} {following}"
    # Of an exception that says nothing, the type is left.
    return line[:-1] if " " not in line else line
