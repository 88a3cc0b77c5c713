"""What an environment takes: actions of any space as choices and numbers, and back.

Discrete, MultiDiscrete, MultiBinary and a bounded Box of integers are choices, each of a few; a Box
of floats is numbers. Tuple and Dict may hold any of them. An action is a row of columns here: one
for each choice (0, 1, 2, ...) and one for each number (-1 and 1 stand for its bounds), in the order
of the space.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from pbt_flow.task import TaskError

from .rl_environments import leaves, shown, where

Array: TypeAlias = np.ndarray[Any, Any]

MOST_OUTPUTS = 10_000
"""The most outputs of a policy."""


class Actions:
    """A space of actions, as the columns of a policy.

    Attributes:
        space: The space as the environment declares it.
        is_number: Of each column, whether it is a number rather than a choice.
        sizes: How many there are to choose from, for each column that is a choice.
        start: What the environment calls choice 0 of a column, or the number -1.
        stop: What it calls choice 1, or the number 1.
        low: The least that the environment takes in a column.
        high: The greatest.
    """

    def __init__(self, space: gym.Space[Any], who: str) -> None:
        """Read a space.

        Args:
            space: The space.
            who: Whose it is, for messages.

        Raises:
            TaskError: A part of it is neither choices nor numbers, or there are none or too many.
        """
        self.space = space
        is_number: list[bool] = []
        bounds: list[tuple[Any, ...]] = []  # start, stop, low and high of each column
        for path, part in leaves(space):
            if _is_number(part):
                rows = [*span(part), part.low, part.high]
            elif isinstance(part, (Discrete, MultiDiscrete, MultiBinary, Box)):
                low, high = _choices(part)
                rows = [low, low + 1, low, high]
            else:
                raise TaskError(
                    f"{who} takes {where(path)}a {type(part).__name__}, which is no fixed number "
                    "of choices or numbers; give wrappers=module:Class, an ActionWrapper of yours "
                    "that takes Discrete, MultiDiscrete or a Box"
                )
            columns = list(zip(*(np.ravel(row).tolist() for row in rows), strict=True))
            bounds += columns
            is_number += [_is_number(part)] * len(columns)
        if not bounds:
            raise TaskError(f"{who} takes {shown(space)}, which leaves nothing to choose")
        self.is_number = np.array(is_number)
        self.sizes: tuple[int, ...] = tuple(
            high - low + 1
            for (_, _, low, high), number in zip(bounds, is_number, strict=True)
            if not number
        )
        if self.outputs > MOST_OUTPUTS:
            raise TaskError(
                f"{who} takes {shown(space)}, for which a policy needs {self.outputs:,} outputs, "
                f"one for each choice; the most is {MOST_OUTPUTS:,}: give wrappers=module:Class, "
                "an ActionWrapper of yours that leaves fewer"
            )
        self.start, self.stop, self.low, self.high = np.array(bounds, dtype=np.float64).T

    @property
    def numbers(self) -> int:
        """How many columns are numbers."""
        return int(self.is_number.sum())

    @property
    def outputs(self) -> int:
        """The length of a policy's head: a logit for each choice and a mean for each number."""
        return sum(self.sizes) + self.numbers

    def to_env(self, columns: Array) -> Any:
        """Actions [B, columns], for B copies of the environment that step together."""
        ends = np.cumsum([math.prod(part.shape or ()) for _, part in leaves(self.space)])
        parts = iter(np.split(columns, ends, axis=1))

        def fill(space: gym.Space[Any]) -> Any:
            if isinstance(space, Dict):
                return {key: fill(inner) for key, inner in space.spaces.items()}
            if isinstance(space, Tuple):
                return tuple(fill(inner) for inner in space.spaces)
            part = next(parts).reshape(-1, *(space.shape or ()))
            if _is_number(space):
                return scale(part, space)
            assert isinstance(space, (Discrete, MultiDiscrete, MultiBinary, Box))
            low, _ = _choices(space)
            return (part.astype(np.int64) + low.astype(np.int64)).astype(space.dtype)

        return fill(self.space)


def scale(actions: Array, space: Box) -> Array:
    """Numbers of the policy [B, ...] as the environment takes them."""
    start, stop = span(space)
    scaled = start + (stop - start) * (actions + 1) / 2
    taken: Array = np.clip(scaled, space.low, space.high).astype(space.dtype)
    return taken


def span(actions: Box) -> tuple[Array, Array]:
    """What the policy's -1 and 1 stand for: the bounds where there are any, so that one initial
    policy suits all environments.
    """
    bounded = np.isfinite(actions.low) & np.isfinite(actions.high)
    return np.where(bounded, actions.low, -1.0), np.where(bounded, actions.high, 1.0)


def _is_number(space: gym.Space[Any]) -> TypeGuard[Box]:
    return isinstance(space, Box) and bool(np.issubdtype(space.dtype, np.floating))


def _choices(space: Discrete | MultiDiscrete | MultiBinary | Box) -> tuple[Array, Array]:
    """The least and the greatest of each choice, as integers of Python, which do not overflow."""
    if isinstance(space, Box):
        return space.low.astype(object), space.high.astype(object)
    if isinstance(space, MultiBinary):
        low = np.zeros(space.shape, object)
        return low, low + 1
    count = space.n if isinstance(space, Discrete) else space.nvec
    low = np.asarray(space.start).astype(object)
    return low, low + np.asarray(count).astype(object) - 1


# --- in words -------------------------------------------------------------------------------------


def describe_actions(actions: Actions) -> str:
    """What an environment takes, in a few words.

    >>> describe_actions(Actions(Discrete(4), "it"))
    '4 choices'
    >>> describe_actions(Actions(MultiBinary(3), "it"))
    '2 x 2 x 2 choices'
    """
    sizes, parts = actions.sizes, []
    if sizes:
        shown = " x ".join(map(str, sizes[:4])) + (" x ..." if len(sizes) > 4 else "")
        parts.append(f"{shown} choices")
    if actions.numbers:
        parts.append(f"{actions.numbers} number{'s' if actions.numbers > 1 else ''}")
    return " and ".join(parts)
