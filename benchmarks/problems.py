"""Cheap problems that a search can lose in different ways; their exact value is known.

`Toy` and `NoisyQuadratic` come with the package. These join them: each says in its `metrics`
what a score without noise would be, so that a method is judged by what it hands over and not by a
lucky reading.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from optuna.distributions import FloatDistribution

from pbt_flow.space import Hparams, Space, to_unit
from pbt_flow.task import Task
from pbt_flow.tasks.quadratic import NoisyQuadratic

RATE = FloatDistribution(1e-4, 1e-2, log=True)
EXACT = "exact"
"""The metric that holds the value without noise."""


class Drift(Task):
    """Most founders are useless, and the good rate falls slowly: greed does no harm.

    Three more hyperparameters set a ceiling that is approached within some 200 steps. Beyond step
    1,000 the good rate stays where it is.
    """

    space: ClassVar[Space] = {
        "lr": RATE,
        **{name: FloatDistribution(0, 1) for name in ("a", "b", "c")},
    }
    defaults: ClassVar[Mapping[str, Any]] = {"population": 8, "turns": 10, "interval": 100}

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        self.progress, self.quality, self.age = 0.0, 0.5, 0

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        """Take `steps` steps; progress is quick where the rate is near the good one."""
        rate = to_unit(hparams["lr"], RATE)
        off = sum((float(hparams[name]) - 0.35) ** 2 for name in ("a", "b", "c"))  # type: ignore[arg-type]
        ceiling = 1 - 0.6 * off
        for _ in range(steps):
            distance = rate - (0.70 - 0.25 * min(self.age, 1000) / 1000)
            width = 0.06 if distance > 0 else 0.10
            speed = math.exp(-((distance / width) ** 2) / 2)
            self.progress = 1 - (1 - self.progress) * (1 - 0.004 * speed)
            if rate > 0.9:
                self.progress *= 0.99
            self.quality = ceiling + (self.quality - ceiling) * (1 - 1 / 200)
            self.age += 1
        return {EXACT: self.progress * self.quality}

    def evaluate(self) -> float:
        """The exact value with normal noise of deviation 0.01."""
        return self.progress * self.quality + 0.01 * float(self.rng.normal())

    def state_dict(self) -> dict[str, Any]:
        return {"progress": self.progress, "quality": self.quality, "age": self.age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.progress, self.quality, self.age = state["progress"], state["quality"], state["age"]


class Ceilings(Task):
    """Each founder has a ceiling that early scores do not show, and that only weights carry."""

    space: ClassVar[Space] = {"lr": RATE}
    defaults: ClassVar[Mapping[str, Any]] = {"population": 8, "turns": 20, "interval": 25}

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        self.reseed(seed)
        self.ceiling = 1 + 0.25 * float(self.rng.normal())
        self.speed = math.exp(0.5 * float(self.rng.normal()))
        self.value = 0.0

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        """Come nearer to the ceiling, at a pace that the founder and the rate set."""
        rate = to_unit(hparams["lr"], RATE)
        pace = min(0.01 * self.speed * math.exp(-(((rate - 0.5) / 0.15) ** 2) / 2), 0.5)
        self.value = self.ceiling + (self.value - self.ceiling) * (1 - pace) ** steps
        return {EXACT: self.value}

    def evaluate(self) -> float:
        """The exact value with normal noise of deviation 0.02."""
        return self.value + 0.02 * float(self.rng.normal())

    def state_dict(self) -> dict[str, Any]:
        return {"ceiling": self.ceiling, "speed": self.speed, "value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ceiling, self.speed, self.value = state["ceiling"], state["speed"], state["value"]


class Misread(NoisyQuadratic):
    """The noisy quadratic where each reading of the loss is off by a factor exp(N(0, 0.5))."""

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        """Take `steps` steps of stochastic gradient descent."""
        super().train(hparams, steps)
        return {EXACT: super().evaluate()}

    def evaluate(self) -> float:
        """One reading of the loss."""
        return super().evaluate() * math.exp(0.5 * float(self.rng.normal()))
