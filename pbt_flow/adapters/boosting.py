"""Gradient boosting with LightGBM as a task: a turn adds trees to those that there are.

A subclass says what is tuned and gives the data: see docs/examples/boosting.py.

A step is a round of boosting. The state is the model as the text that LightGBM reads and writes, so
that a restored model and one that was kept in memory are the same. What a donor was trained with is
in its trees, and decides nothing about those that follow.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import lightgbm
import numpy as np
from numpy.typing import NDArray

from pbt_flow.adapters.randomness import drawn_alike
from pbt_flow.exceptions import TaskError
from pbt_flow.space import Hparams
from pbt_flow.task import Task

Table = tuple[NDArray[Any], NDArray[Any]]
"""Features, a row an example, and labels."""

_OURS = {"num_threads": 1, "deterministic": True, "force_col_wise": True, "verbose": -1}
"""What makes a turn come to the same on any machine and beside any other."""


class BoostingTask(Task):
    """Trees that LightGBM has grown, scored by `score_of` on data that they were not grown on."""

    params: ClassVar[Mapping[str, Any]]
    """Parameters that are not tuned, such as `{"objective": "binary"}`."""
    defaults: ClassVar[Mapping[str, Any]] = {"interval": 10}

    @abc.abstractmethod
    def make_data(self) -> tuple[Table, Table]:
        """Data to train on and to validate with, drawn alike in all members."""

    @abc.abstractmethod
    def score_of(self, labels: NDArray[Any], predictions: NDArray[Any]) -> float:
        """The score of what `predict` gives for the validation data."""

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        self._training, self._validation = drawn_alike(self.make_data)()
        self._text = ""

    @property
    def booster(self) -> lightgbm.Booster | None:
        """The model as it is now; None before the first turn."""
        return lightgbm.Booster(model_str=self._text) if self._text else None

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        params = {**self.params, **_OURS, **hparams, "seed": int(self.rng.integers(2**31))}
        features, labels = self._training
        # LightGBM keeps settings of the data, which some hyperparameters are.
        data = lightgbm.Dataset(features, labels, params=params, free_raw_data=False)
        grown = lightgbm.train(params, data, num_boost_round=steps, init_model=self.booster)
        self._text = grown.model_to_string(num_iteration=-1)
        return {f"live/{name}": value for name, value in self._prove(hparams).items()}

    def evaluate(self) -> float:
        features, labels = self._validation
        booster = self.booster
        if booster is None:
            raise TaskError("a model of LightGBM is evaluated before it has a tree")
        return float(self.score_of(labels, np.asarray(booster.predict(features))))

    def state_dict(self) -> dict[str, Any]:
        return {"model": self._text}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._text = state["model"]

    def understood(self) -> Mapping[str, str]:
        sizes = [f"{len(labels):,}" for _, labels in (self._training, self._validation)]
        return {"data": f"{sizes[0]} examples to train on, {sizes[1]} to validate with"}

    def _prove(self, hparams: Hparams) -> dict[str, float]:
        """The hyperparameters as LightGBM itself has written them down for these trees.

        Raises:
            TaskError: It has not, or it has another value.
        """
        live = {}
        for name, asked in hparams.items():
            if not isinstance(asked, int | float):
                continue
            noted = re.search(rf"^\[{re.escape(name)}: (.*)\]$", self._text, re.MULTILINE)
            if noted is None:
                raise TaskError(
                    f"LightGBM has no parameter {name!r}, or knows it as an alias of another; use "
                    "the name that its documentation puts first, such as learning_rate, "
                    "num_leaves, lambda_l2, bagging_fraction"
                )
            # It writes some with fewer digits than it uses.
            if not math.isclose(float(noted[1]), asked, rel_tol=1e-5):
                raise TaskError(
                    f"{name}: {asked!r} was asked for, and LightGBM trained with {noted[1]}; it is "
                    "limited by another parameter"
                )
            live[name] = float(asked)
        return live
