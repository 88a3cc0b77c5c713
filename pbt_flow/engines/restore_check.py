"""The restore check: does a restored model train on exactly as the saved one does?

A state may leave out something that training depends on: an optimiser's moments, the position of a
schedule, a generator that `reseed` does not know. A member that copies such a state gets less than
what was scored, and nothing fails. An evaluation of the restored model does not show the loss, and
so this check trains it on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pbt_flow.task import Task

State: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a restored model came to differ from the model whose state it took over."""

    where: str
    """The first place that differs: a key of the state, or `the score`."""
    warm: float
    """The score of the model that trained on."""
    cold: float
    """The score of the restored model."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The result of a short training."""

    score: float
    state: State
    """The state after the training, as it would come back from a checkpoint."""


def compare_restored(
    *,
    build: Callable[[], Task],
    build_other: Callable[[], Task],
    load: Callable[[], State],
    through_file: Callable[[State], State],
    train: Callable[[Task, int], Trained],
) -> Difference | None:
    """Train one model on, and train another model on that has taken over the first one's state.

    Args:
        build: Builds a fresh model.
        build_other: Builds a fresh model of another member, which takes over the state.
        load: Reads the state to begin with. Each call returns a copy of its own, since a task may
            keep the state that it is given, and train it in place.
        through_file: Returns a state as it would come back from a checkpoint.
        train: Trains a model a little and scores it. The number is 0 before the state is taken over
            and 1 after it, so that both models can train with the same randomness.

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
    where = _where_different(warm, cold)
    if not where:
        return None
    # A task whose every run differs, as on many a GPU, looks like one whose state leaves something
    # out. So each training is done once more: only a task that repeats itself can be judged.
    _, warm_again = train_on()
    if _where_different(warm_again, warm):
        return None
    if _where_different(train_restored(saved), cold):
        return None
    return Difference(where=where, warm=warm.score, cold=cold.score)


def _where_different(one: Trained, other: Trained) -> str:
    """The first place at which two trainings differ; empty if they are the same."""
    # The state is compared first: it names the place, and the score only follows from it.
    where = first_difference(one.state, other.state, "state")
    return where or first_difference(one.score, other.score, "the score")


def first_difference(one: Any, other: Any, where: str) -> str:
    """The first place at which two values differ, such as `state['net']['bias']`.

    Args:
        one: The one value.
        other: The other value.
        where: The name of the place where the two stand, such as `state`.

    Returns:
        The place; empty if the values are the same.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            return f"the keys of {where}"
        for key in one:
            if found := first_difference(one[key], other[key], f"{where}[{key!r}]"):
                return found
        return ""
    if _is_list_like(one) and _is_list_like(other) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            if found := first_difference(left, right, f"{where}[{index}]"):
                return found
        return ""
    return "" if _are_equal(one, other) else where


def _is_list_like(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two values are exactly the same. Two NaNs count as the same."""
    if type(one) is not type(other):
        return False
    # Asked like this, tensors and arrays are told without an import of torch.
    if hasattr(one, "dtype"):
        parts, other_parts = _parts_of(one), _parts_of(other)
        if parts or other_parts:
            return not first_difference(parts, other_parts, "parts")
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        # Only NaN differs from itself.
        return bool(((one == other) | ((one != one) & (other != other))).all())
    return bool(one == other or (one != one and other != other))


_SPARSE_PARTS = {
    "torch.sparse_coo": ("indices", "values"),
    "torch.sparse_csr": ("crow_indices", "col_indices", "values"),
    "torch.sparse_bsr": ("crow_indices", "col_indices", "values"),
    "torch.sparse_csc": ("ccol_indices", "row_indices", "values"),
    "torch.sparse_bsc": ("ccol_indices", "row_indices", "values"),
}
"""For each sparse layout the methods that return the plain tensors of a sparse tensor."""


def _parts_of(tensor: Any) -> list[Any]:
    """The plain values that a nested or sparse tensor is made of; none for another tensor or array.

    Torch compares neither nested nor sparse tensors with `==`.
    """
    if getattr(tensor, "is_nested", False):
        return list(tensor.unbind())
    layout = str(getattr(tensor, "layout", ""))
    if layout not in _SPARSE_PARTS:
        return []
    if layout == "torch.sparse_coo":
        # Otherwise torch does not tell the indices. This adds up the values of equal indices.
        tensor = tensor.coalesce()
    parts = [getattr(tensor, method)() for method in _SPARSE_PARTS[layout]]
    return [layout, tuple(tensor.shape), *parts]
