"""A task without training, to measure what a turn costs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from optuna.distributions import FloatDistribution

from pbt_flow import Task


class NoOp(Task):
    """Trains nothing; its state is as large as it is told, and its score makes members copy."""

    space: ClassVar = {"x": FloatDistribution(0, 1)}

    def __init__(self, *, seed: int, device: str = "cpu", megabytes: float = 0.01) -> None:
        """Hold `megabytes` of weights."""
        super().__init__(seed=seed, device=device)
        self.weights = torch.zeros(max(1, int(megabytes * 250_000)))
        self.score = 0.0

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        """Do next to nothing."""
        self.score = float(self.rng.random())
        self.weights[0] += 1
        return {}

    def evaluate(self) -> float:
        """A random score."""
        return self.score

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = state["weights"]
