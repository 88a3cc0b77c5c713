"""A task for faults: a turn takes a given time, and no attempt comes to the numbers of another."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from optuna.distributions import FloatDistribution

from pbt_flow import Task


class Unrepeatable(Task):
    """Draws its weights from the system, so that two attempts at a turn can be told apart."""

    space: ClassVar = {"lr": FloatDistribution(1e-4, 0.5, log=True)}

    def __init__(
        self, *, seed: int, device: str = "cpu", log: str = "", seconds: float = 1.0
    ) -> None:
        """Take `seconds` for a turn; as it begins, add the machine's name to the file `log`."""
        super().__init__(seed=seed, device=device)
        self.log, self.seconds = log, seconds
        self.weights = torch.zeros(1000)
        self.score = 0.0

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        """Wait, and move the weights somewhere."""
        if self.log:
            # Of a line at the end of a file nothing is lost when many write at once.
            with open(self.log, "a") as file:
                file.write(f"{socket.gethostname()}\n")
        time.sleep(self.seconds)
        self.weights += torch.tensor(list(os.urandom(1000)))
        self.score = int.from_bytes(os.urandom(4)) / 2**32
        return {}

    def evaluate(self) -> float:
        """What was drawn last."""
        return self.score

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "score": self.score}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights, self.score = state["weights"], state["score"]
