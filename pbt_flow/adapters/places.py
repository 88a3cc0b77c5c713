"""Where a hyperparameter lives in a torch module: dropout layers, and attributes of its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from pbt_flow.exceptions import TaskError
from pbt_flow.joining.hyperparameters import AttributeTarget, WaysOut

EVERY_LAYER = "dropout"
"""The hyperparameter that means all dropout layers of a module."""

WAYS_OUT = WaysOut(
    changed="since something in the module or its callbacks sets it too; {cycle}drop that, or "
    "tune another hyperparameter",
    not_stepped="let a turn be longer by --interval, so that the optimiser makes a step",
    not_taken="a name that can be tuned is a key of the optimiser's groups (lr, weight_decay, "
    "momentum), dropout, a part of the path to dropout layers, or an attribute that is a number; "
    "say where {name} lives by the method places()",
)
"""What messages advise for a module whose training loop is a library's."""


def targets_in_module(name: str, module: nn.Module) -> list[AttributeTarget]:
    """The places in a module where a hyperparameter is read at each step.

    `dropout` is the probability of every dropout layer. Another name is that of the dropout layers
    on whose path it is, as `lora_dropout` in `layer.0.lora_dropout.default`, and of every attribute
    of that name which is a number, as `nn.LSTM` has them.

    Raises:
        TaskError: The layers begin with different probabilities, so that one value is not theirs.
    """
    found = [
        AttributeTarget(name, one, "p", path)
        for path, one in _dropout_layers(module)
        if name == EVERY_LAYER or name in path.split(".")
    ]
    if len({target.own_value for target in found}) > 1:
        layers = ", ".join(f"{one.own_value!r} ({one.describe()})" for one in found[:4])
        raise TaskError(
            f"{name}: dropout layers begin with different probabilities, {layers}; let them begin "
            "with one, name the part of their path that tells them apart, or give places()"
        )
    for path, one in module.named_modules():
        if _is_number(vars(one).get(name)):
            found.append(AttributeTarget(name, one, name, path or type(one).__name__))
    return found


def targets_named(name: str, places: Iterable[tuple[Any, str]]) -> list[AttributeTarget]:
    """The places that a user has named, as pairs of an object and the attribute's name there."""
    return [
        AttributeTarget(name, holder, attribute, f"a {type(holder).__name__}")
        for holder, attribute in places
    ]


def _dropout_layers(module: nn.Module) -> Iterator[tuple[str, _DropoutNd]]:
    for path, one in module.named_modules():
        if isinstance(one, _DropoutNd):
            yield path, one


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
