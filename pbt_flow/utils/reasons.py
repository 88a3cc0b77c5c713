"""The reason why something went wrong, in one line: the exception's type and its message.

The last line of a traceback may be the end of a long message, or a note. The reason is therefore
taken from the exception itself, where it is caught, and written above the traceback.
"""

from __future__ import annotations

import os
import reprlib
import sys
import traceback
from collections.abc import Sequence

_MAX_LENGTH = 500
"""The most characters of a reason."""
_HEADER = "Traceback (most recent call last):"
_GROUP_HEADER = f"  + Exception Group {_HEADER}"
_GROUP_MARGIN = "  | "


def reason_of(error: BaseException, *, with_module: bool = True) -> str:
    """Return the type of an exception and its message, in one line.

    For `SystemExit` it says that the task called `sys.exit`, perhaps in the argument parser of a
    library. Its type and its exit code would explain nothing.

    Args:
        error: The exception.
        with_module: Whether to name the module of its type, as a traceback does.
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
    return _cut(found, _MAX_LENGTH)


def _reason_of_exit(error: SystemExit) -> str:
    reason = "the task called sys.exit"
    if error.code is None:
        return reason
    if isinstance(error.code, int):
        return f"{reason}: exit code {error.code}"
    message = " ".join(message_of(error).split())
    return f"{reason}: {_cut(message, _MAX_LENGTH)}"


def message_of(error: BaseException) -> str:
    """Return the message of an exception, or a fixed text if its own code for it fails."""
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"


def account_of(error: BaseException, *, file: str = "") -> str:
    """Return what a record keeps of an exception: its reason, and below it the whole traceback.

    Args:
        error: The exception.
        file: The user's own file; if the exception came through it, the reason says from which
            line.
    """
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return f"{reason_of(error)}{_line_in(error, file)}\n\n{trace}"


def _line_in(error: BaseException, file: str) -> str:
    """The last line of a file that an exception came through, to stand behind its reason."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if file and frame.filename == file
    ]
    return f" ({os.path.basename(file)}, line {lines[-1]})" if lines else ""


def reason_in(account: str) -> str:
    """Return the reason in what a record keeps of an exception.

    Records of earlier versions have only a traceback; the reason is then found in there.
    """
    lines = account.rstrip().splitlines()
    if not lines:
        return ""
    # Only `account_of` leaves the second line empty; a traceback does not.
    if len(lines) == 1 or not lines[1].strip():
        return lines[0].strip()
    headers = [place for place, line in enumerate(lines) if line in (_HEADER, _GROUP_HEADER)]
    if not headers:
        return _in_one_line(lines)
    # In a chain of exceptions, the last one is the one that was caught.
    rest = lines[headers[-1] + 1 :]
    if lines[headers[-1]] == _GROUP_HEADER:
        rest = [line.removeprefix(_GROUP_MARGIN) for line in rest]
    # The lines of the stack are indented, and the line with the type is not.
    starts = (place for place, line in enumerate(rest) if line and not line[0].isspace())
    start = next(starts, None)
    return lines[-1].strip() if start is None else _in_one_line(rest[start:])


def in_short(value: object) -> str:
    """Return the repr of a value on one line, cut to some characters."""
    try:
        # reprlib does not write out a number of a million digits, or a long list. It would cut a
        # text in its middle, so texts are cut here, at their end.
        text = repr(value) if isinstance(value, str) else _SHORT_REPR.repr(value)
    except Exception:
        text = f"an object of type {type(value).__name__}"
    return _cut(" ".join(text.split()), 120)


_SHORT_REPR = reprlib.Repr()
_SHORT_REPR.maxother = _SHORT_REPR.maxlong = 200


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _in_one_line(lines: Sequence[str]) -> str:
    """Return the first line, with the next one if the first ends with a colon."""
    first, *rest = lines
    following = next((line.strip() for line in rest if line.strip()), "")
    line = first.rstrip()
    if not line.endswith(":"):
        return line
    if following:
        return f"{line} {following}"
    # An exception without a message: its type stands alone, without the colon.
    return line[:-1] if " " not in line else line
