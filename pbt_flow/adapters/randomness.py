"""What must be drawn alike in all members, such as a split of the data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pbt_flow.joining.randomness import preserved, seed_generators


def drawn_alike(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with the same random numbers at each call and for each member.

    The generators go on afterwards as if it had drawn nothing.
    """

    @functools.wraps(function)
    def called(*given: Any, **named: Any) -> Any:
        with preserved():
            seed_generators(0)
            return function(*given, **named)

    return called
