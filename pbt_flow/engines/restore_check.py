"""Does a restored model train on as the one that was saved would have? Found out by trying.

A state may leave something out that training depends on: an optimiser's moments, the position of a
schedule, a generator that `reseed` does not know. Whoever copies such a state gets less than was
scored, and nothing fails. To restore and to evaluate shows nothing of it; to train on does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pbt_flow.task import Task

State: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a restored model came out otherwise than the one whose state it had taken over."""

    where: str
    """The first place that differs: a key of the state, or `the score`."""
    warm: float
    """The score of the model that trained on."""
    cold: float
    """The score of the restored one."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a short training came to."""

    score: float
    state: State
    """As it comes back from a checkpoint."""


def compare_restored(
    *,
    build: Callable[[], Task],
    build_other: Callable[[], Task],
    load: Callable[[], State],
    through_file: Callable[[State], State],
    train: Callable[[Task, int], Trained],
) -> Difference | None:
    """Train one model on, and another one that has taken over its state.

    If they come out different, each of the two is done once more: a task whose every run differs
    (as on many a GPU) is not to be told from one that forgets.

    Args:
        build: Makes a fresh model.
        build_other: Makes one of another member, to restore into.
        load: Reads the state to begin with. Each call gives one of its own, since a task may keep
            what it is given and train it in place.
        through_file: Gives a state back as it would come from a checkpoint.
        train: Trains a model a little and scores it; called with 0 before the state is taken over
            and with 1 after it, so that all randomness can be the same.

    Returns:
        The difference; None if there is none, or if the task does not repeat itself here.
    """

    def train_on() -> tuple[State, Trained]:
        task = build()
        task.load_state_dict(load())
        saved = train(task, 0).state
        return saved, train(task, 1)

    def train_restored(saved: State) -> Trained:
        task = build_other()
        task.load_state_dict(through_file(saved))
        return train(task, 1)

    saved, warm = train_on()
    cold = train_restored(saved)
    where = _differs(warm, cold)
    if not where or _differs(train_on()[1], warm) or _differs(train_restored(saved), cold):
        return None
    return Difference(where=where, warm=warm.score, cold=cold.score)


def _differs(a: Trained, b: Trained) -> str:
    """The first difference; of the state rather than of the score that follows from it."""
    return first_difference(a.state, b.state, "state") or first_difference(
        a.score, b.score, "the score"
    )


def first_difference(a: Any, b: Any, where: str) -> str:
    """The first place at which two states differ, such as `state['net']['bias']`; empty if none."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f"the keys of {where}"
        for key in a:
            if found := first_difference(a[key], b[key], f"{where}[{key!r}]"):
                return found
        return ""
    if _is_row(a) and _is_row(b) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            if found := first_difference(x, y, f"{where}[{index}]"):
                return found
        return ""
    return "" if _equal(a, b) else where


def _is_row(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _equal(a: Any, b: Any) -> bool:
    """Whether two values are the same, bit for bit; one that is no number equals itself."""
    if type(a) is not type(b):
        return False
    if hasattr(a, "dtype"):  # a tensor or an array, without an import of torch
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return bool(((a == b) | ((a != a) & (b != b))).all())
    return bool(a == b or (a != a and b != b))
