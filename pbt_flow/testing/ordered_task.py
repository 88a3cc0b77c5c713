"""A tiny task that does what it is told, for the contract of engines."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution

from pbt_flow.space import Space
from pbt_flow.task import Task

ORDERS = ("train", "raise", "exit", "die", "hang", "print")
"""What a turn can be told to do: train, or train and then what the word says."""
SAMPLE = "weights.txt"
"""The file that `samples` writes."""


class OrderedTask(Task):
    """Draws three weights, and takes each step towards zero. Its score is minus their sum.

    The hyperparameter `order` says what happens in a turn (see `ORDERS`).
    """

    space: ClassVar[Space] = {
        "lr": FloatDistribution(0.01, 0.5),
        "order": CategoricalDistribution(ORDERS),
    }

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        self.generator = torch.Generator().manual_seed(seed)
        self.weights = torch.rand(3, generator=self.generator)

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        """Train, and then do what is ordered."""
        for _ in range(steps):
            noise = torch.rand(3, generator=self.generator)
            self.weights -= float(hparams["lr"]) * noise * self.weights
        self._obey(hparams["order"])
        return {"threads": float(torch.get_num_threads())}

    def _obey(self, order: str) -> None:
        if order == "raise":
            raise ZeroDivisionError("as ordered")
        if order == "exit":
            sys.exit("as ordered")
        if order == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "hang":
            time.sleep(3600)
        if order == "print":
            print("as ordered")

    def evaluate(self) -> float:
        """Minus the sum of the weights."""
        return -float(self.weights.sum())

    def report(self) -> Mapping[str, float]:
        """The greatest weight."""
        return {"greatest": float(self.weights.max())}

    def samples(self, folder: Path) -> None:
        """Write the weights down, in a folder of their own."""
        inner = folder / "inner"
        inner.mkdir()
        (inner / SAMPLE).write_text(repr(self.weights.tolist()), encoding="utf-8")

    def reseed(self, seed: int) -> None:
        """Draw from here on what this seed says."""
        super().reseed(seed)
        self.generator.manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """The weights."""
        return {"weights": self.weights.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over weights."""
        self.weights = state["weights"].clone()

    def average(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The mean of the weights."""
        return {"weights": torch.stack([state["weights"] for state in states]).mean(0)}
