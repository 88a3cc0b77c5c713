"""The mean of several models' weights, as one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pbt_flow.task.base import Task


def average_models(task: Task, states: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first state with the mean of all states' models in the place of its model.

    The model is what `task.model()` gives. Floating-point tensors are averaged, running statistics
    among them. What is counted (integers) and what is no part of the model (an optimiser's moments)
    comes from the first state.

    Args:
        task: A task of the class that wrote the states; its own state is overwritten.
        states: At least one.

    Returns:
        The averaged state; None where the task has no model, where the models differ in shape, or
        where `model()` gives a copy, so that nothing can be put into it.
    """
    weights = list[Mapping[str, torch.Tensor]]()
    for state in states:
        task.load_state_dict(state)
        model = task.model()
        if model is None:
            return None
        tensors = model.state_dict().items()
        weights.append({name: tensor.detach().clone() for name, tensor in tensors})
    first = weights[0]
    shapes = [{name: tensor.shape for name, tensor in one.items()} for one in weights]
    if any(shape != shapes[0] for shape in shapes):
        return None
    means = {
        name: torch.stack([one[name] for one in weights]).mean(0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }
    task.load_state_dict(states[0])
    model = task.model()
    assert model is not None
    model.load_state_dict(means)
    # A model that is made anew at each call would have forgotten what was put into it.
    again = task.model()
    assert again is not None
    taken = again.state_dict()
    if not all(_is_same(taken[name], tensor) for name, tensor in means.items()):
        return None
    return task.state_dict()


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same, where a number that is none is equal to itself.

    The average of weights that are no numbers is an average all the same, of no worth.
    """
    if torch.equal(one, other):
        return True
    if not torch.equal(one.isnan(), other.isnan()):
        return False
    return torch.equal(one.nan_to_num(), other.nan_to_num())
