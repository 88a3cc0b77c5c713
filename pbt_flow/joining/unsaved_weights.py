"""What a checkpoint of torch's does not hold of weights, and a copy would miss.

Which of them the loop trains, where it freezes some or no longer does; and gradients that wait for
a step, where a script gathers those of several batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pbt_flow.joining.hyperparameters import Hyperparameters


class TrainedWeights:
    """Which weights of some modules are trained, beside what they were at the loop.

    Args:
        modules: The modules, each with its name.
    """

    def __init__(self, modules: Iterable[tuple[str, Any]]) -> None:
        self._began = [
            (name, inner, weight, weight.requires_grad)
            for name, module in modules
            for inner, weight in module.named_parameters()
        ]

    def state(self) -> dict[str, dict[str, bool]]:
        """Of each module the weights that have changed, and whether they are trained now."""
        changed = dict[str, dict[str, bool]]()
        for name, inner, weight, began in self._began:
            if weight.requires_grad != began:
                changed.setdefault(name, {})[inner] = weight.requires_grad
        return changed

    def load(self, changed: Mapping[str, Mapping[str, bool]]) -> None:
        """Train what a state says; all others as they were at the loop."""
        for name, inner, weight, began in self._began:
            is_trained = changed.get(name, {}).get(inner, began)
            if weight.requires_grad != is_trained:
                weight.requires_grad_(is_trained)


class GatheredGradients:
    """The gradients of optimisers that made no step in the last pass of the loop.

    A script that gathers the gradients of several batches for a step goes on with them. After a
    step they count for nothing, and would make a checkpoint larger.

    Args:
        objects: The script's objects, the optimisers among them.
        hyperparameters: Counts the steps of those optimisers that can be watched.
    """

    def __init__(self, objects: Mapping[str, Any], hyperparameters: Hyperparameters) -> None:
        self._objects, self._hyperparameters = objects, hyperparameters
        self._before = dict[int, int]()
        """The steps that each optimiser had made before the last pass."""

    def begin_pass(self) -> None:
        """Be told that a pass of the loop begins."""
        self._before = dict(self._hyperparameters.steps)

    def state(self) -> dict[str, dict[int, Any]]:
        """Of each such optimiser the gradients, by the place of their weight in its groups."""
        found = dict[str, dict[int, Any]]()
        for name, optimizer, weights in self._optimizers():
            steps = self._hyperparameters.steps[id(optimizer)]
            if steps == self._before.get(id(optimizer)):
                gradients = {n: one.grad for n, one in enumerate(weights) if one.grad is not None}
                if any(one.any() for one in gradients.values()):
                    found[name] = gradients
        return found

    def load(self, gathered: Mapping[str, Mapping[int, Any]]) -> None:
        """Go on with the gradients of a state, and with no others."""
        for name, _, weights in self._optimizers():
            for number, weight in enumerate(weights):
                gradient = gathered.get(name, {}).get(number)
                if weight.grad is not None:
                    # In place: a CUDA graph of the script may write there.
                    weight.grad.zero_()
                if gradient is not None and weight.grad is None:
                    weight.grad = gradient.to(weight, copy=True)
                elif gradient is not None:
                    weight.grad.copy_(gradient)
        self.begin_pass()

    def _optimizers(self) -> Iterator[tuple[str, Any, list[Any]]]:
        """Each optimiser whose steps are known, with its name and its weights."""
        for name, value in self._objects.items():
            if id(value) in self._hyperparameters.steps:
                groups = value.param_groups
                yield name, value, [weight for group in groups for weight in group["params"]]
