"""Learning rates that fall along a cosine: the schedule by hand that PBT is compared with.

The option `decay=cosine` of a task makes of its learning rates the *first* rates. A step at age t,
of a member that trains T steps in all, then has the rate that was set times (1 + cos(pi t / T)) / 2
(Loshchilov and Hutter, 2017, arXiv 1608.03983, equation 5, without restarts). The age belongs to
the weights, so that a copy goes on where its donor was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pbt_flow.task import TaskError

if TYPE_CHECKING:
    from torch.optim import Optimizer

Kind: TypeAlias = Literal["none", "cosine"]
"""What the option `decay` takes."""


def cosine(age: float, budget: float) -> float:
    """The share of its first value that a rate has at an age; 0 from the end of the budget on.

    >>> [round(cosine(age, 100), 3) for age in (0, 25, 50, 75, 100, 150)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    return (1 + math.cos(math.pi * min(age / budget, 1.0))) / 2


class Decay:
    """How far the learning rates of a task have fallen.

    It does not know the task, which would be garbage in a cycle then, and live on for a while. So
    the task hands its `budget` over (see `Task.budget`), and sets `follows_budget` to `is_on`.

    Args:
        kind: The value of the task's option.
    """

    def __init__(self, kind: Kind) -> None:
        self.is_on = kind != "none"
        self.age = 0
        """The steps that the weights have trained."""

    def factor(self, budget: int | None) -> float:
        """What the rates that were set are multiplied by; exactly 1 without a decay.

        Raises:
            TaskError: The task does not know how long it is going to train.
        """
        if not self.is_on:
            return 1.0
        if budget is None:
            raise TaskError(
                "decay=cosine needs to know where the rates end: set task.budget to the steps that "
                "the model trains in all, as a population does"
            )
        return cosine(self.age, budget)

    def set_rate(self, optimizer: Optimizer, first: float, budget: int | None) -> float:
        """Set the rate of an optimiser, and return it.

        Args:
            optimizer: All its groups get the rate.
            first: The rate at age 0.
            budget: The age at which it is 0.
        """
        rate = first * self.factor(budget)
        for group in optimizer.param_groups:
            group["lr"] = rate
            if self.is_on:
                group["initial_lr"] = first  # As the schedules of torch note it.
        return rate

    def state(self) -> dict[str, int]:
        """What belongs into the task's state: nothing without a decay."""
        return {"age": self.age} if self.is_on else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the age from the state of a task."""
        if self.is_on:
            self.age = int(state["age"])

    def understood(self, budget: int | None) -> dict[str, str]:
        """A sentence on the rates, where they fall."""
        if not self.is_on:
            return {}
        end = "the end" if budget is None else f"step {budget:,}"
        return {"decay": f"learning rates fall along a cosine, from what is set to 0 at {end}"}
