"""A task that counts, and how the tests look at simulated populations of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pbt_flow.task import Task


class Counting(Task):
    """Its state counts the steps of its lineage; its score is what they were worth."""

    space = {
        "gain": FloatDistribution(0.1, 10, log=True),
        "count": IntDistribution(1, 8),
        "kind": CategoricalDistribution(["a", "b"]),
    }
    defaults = {"population": 4, "turns": 6, "interval": 5}

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        self.steps, self.value = 0, 0.0

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        self.steps += steps
        self.value += steps * float(hparams["gain"]) + self.rng.normal()
        return {"steps": self.steps}

    def evaluate(self) -> list[float]:
        return [self.value + x for x in self.rng.normal(size=5)]

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.value = state["steps"], state["value"]


def slowly(plan, rng):
    return rng.lognormal(0, 1)


def turns_of(simulation):
    return [turn for turns in simulation.history.turns.values() for turn in turns]
