"""A noisy quadratic: the smallest problem whose best learning rate is a schedule.

    python -m pbt_flow run --task quadratic

Source: Zhang et al. 2019 (arXiv 1907.04164), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution

from pbt_flow.space import Hparams, Space
from pbt_flow.task import Task

from .decay import Decay, Kind


class NoisyQuadratic(Task):
    """Minimise a quadratic in 200 dimensions with noisy gradients: only a falling rate does well.

    The loss is the sum over dimensions i of h_i theta_i^2 / 2 with curvature h_i = 1/i, and the
    gradient of dimension i has noise of variance h_i. A large rate gets rid of the far start at 3
    along flat directions, a small one of the noise along steep ones.

    >>> round(NoisyQuadratic(seed=0, dimensions=2).evaluate(), 6)  # 3^2 / 2 + (1/2) 3^2 / 2
    6.75
    """

    space: ClassVar[Space] = {"lr": FloatDistribution(1e-4, 1, log=True)}
    direction = "minimize"
    report_direction = "minimize"
    defaults: ClassVar[Mapping[str, Any]] = {
        "population": 20,
        "turns": 100,
        "interval": 20,
        "exploit": "truncation:fraction=0.1",
    }
    quick: ClassVar[Mapping[str, Any]] = {"population": 8, "turns": 10}

    def __init__(
        self, *, seed: int, device: str = "cpu", dimensions: int = 200, decay: Kind = "none"
    ) -> None:
        """Start at 3 in each dimension.

        Args:
            seed: Seeds nothing here: the start is the same for all.
            device: Not used.
            dimensions: How many there are.
            decay: With `cosine`, the learning rate is the first one, and falls to 0.
        """
        super().__init__(seed=seed, device=device)
        self.curvature = 1 / np.arange(1, dimensions + 1)
        self.theta: NDArray[np.float64] = np.full(dimensions, 3.0)
        self.decay = Decay(decay)
        self.follows_budget = self.decay.is_on

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        """Take `steps` steps of stochastic gradient descent."""
        rate = float(hparams["lr"])  # type: ignore[arg-type]
        noise = self.rng.normal(size=(steps, self.theta.size)) * np.sqrt(self.curvature)
        for step in range(steps):
            live = rate * self.decay.factor(self.budget)
            self.theta -= live * (self.curvature * self.theta + noise[step])
            self.decay.age += 1
        return {"rate/lr": live} if self.decay.is_on else {}

    def understood(self) -> Mapping[str, str]:
        """How the rate falls, where it does."""
        return self.decay.understood(self.budget)

    def evaluate(self) -> float:
        """The exact loss, without noise."""
        return float(0.5 * np.sum(self.curvature * self.theta**2))

    def state_dict(self) -> dict[str, Any]:
        return {"theta": self.theta.tolist(), **self.decay.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.theta = np.array(state["theta"])
        self.decay.restore(state)

    def report(self) -> Mapping[str, float]:
        """The loss again: it is known exactly."""
        return {"loss": self.evaluate()}
