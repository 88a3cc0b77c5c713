"""What holds while a task's model is built, wherever that is.

A model is built in workers, in tests and in notebooks, and each of these processes has other words
on its command line. A constructor that reads them would build another model in each.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, NoReturn, SupportsIndex

from pbt_flow.exceptions import TaskError
from pbt_flow.utils.reasons import reason_of

_WAY_OUT = (
    "an option belongs in the constructor's signature, as in `def __init__(self, *, seed, "
    'device="cpu", batch_size=64)`, and is given by --set batch_size=32, in Python by '
    'options={"batch_size": 32}'
)

_BAD_WORDS = 2
"""The exit code of a program whose command line is wrong."""


class _NoWords(list[str]):
    """A `sys.argv` of which only the name of the program can be read."""

    def __init__(self, words: list[str], label: str) -> None:
        super().__init__(words)
        self._label = label

    def __getitem__(self, place: SupportsIndex | slice) -> Any:
        is_name = not isinstance(place, slice) and place.__index__() == 0
        return super().__getitem__(0) if is_name else self._refuse()

    def __reduce__(self) -> Any:
        # A process that the task starts is told the words, and must not be refused them.
        return list, (list(self),)

    def _refuse(self) -> NoReturn:
        raise TaskError(
            f"task {self._label}: its constructor reads the command line (sys.argv, as argparse "
            f"does), which has other words in each process that builds the task; {_WAY_OUT}"
        )


@contextlib.contextmanager
def constructing(label: str) -> Iterator[None]:
    """Keep a constructor from the command line of whatever process builds the model.

    Args:
        label: What the task is called in messages.

    Raises:
        TaskError: The constructor read the command line, or left as a parser of it does.
    """
    words = sys.argv
    sys.argv = _NoWords(list(words), label)
    try:
        yield
    except SystemExit as error:
        if error.code != _BAD_WORDS:
            raise
        raise TaskError(
            f"{reason_of(error)}, as a parser of the command line does that misses a word, in the "
            f"constructor of task {label}; {_WAY_OUT}"
        ) from error
    finally:
        sys.argv = words
