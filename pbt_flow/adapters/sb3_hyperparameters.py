"""Where hyperparameters live in an agent of Stable-Baselines3, and what was live in training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import FloatSchedule

from pbt_flow.exceptions import TaskError
from pbt_flow.space import Hparams

_SCHEDULES = ("clip_range", "clip_range_vf")
"""Hyperparameters that an agent keeps as a function of its progress."""
_EXPLORATION = "read only when the agent is made, for a run whose length is known"
_FIXED = {
    "n_steps": "the size of the rollout buffer",
    "n_envs": "the number of environments",
    "buffer_size": "the size of the replay buffer",
    "train_freq": "how many steps lie between two updates, of which a turn has a whole number",
    "exploration_fraction": _EXPLORATION,
    "exploration_initial_eps": _EXPLORATION,
    "exploration_final_eps": _EXPLORATION,
}


class AgentHyperparameters:
    """The hyperparameters of one agent.

    Args:
        agent: The agent.
        names: The hyperparameters that are tuned.

    Raises:
        TaskError: The agent has not one of them, or it cannot change.
    """

    def __init__(self, agent: BaseAlgorithm, names: Iterable[str]) -> None:
        self._agent = agent
        self._rates = set[float]()
        for name in names:
            self._check(name)
        for name in agent.get_parameters():
            if name.endswith("optimizer"):
                attrgetter(name)(agent).register_step_pre_hook(self._see_rate)

    def begin(self, hparams: Hparams) -> None:
        """Set what is to be live in a turn."""
        for name, value in hparams.items():
            self._set(name, value)
        self._rates.clear()

    def prove(self, hparams: Hparams) -> Mapping[str, float]:
        """What was live in training, as metrics to record.

        Raises:
            TaskError: It was something else than what was asked for.
        """
        live = {}
        for name, wanted in hparams.items():
            found = self._found(name)
            if found != {wanted}:
                trained = ", ".join(map(repr, sorted(found))) or self._no_step()
                raise TaskError(
                    f"{name}: {wanted!r} was asked for, and the agent trained with {trained}"
                )
            if isinstance(wanted, int | float):
                live[f"live/{name}"] = float(wanted)
        return live

    def _check(self, name: str) -> None:
        kind = type(self._agent).__name__
        if name in _FIXED:
            raise TaskError(
                f"{name} cannot change while an agent trains: it is {_FIXED[name]}; make it an "
                "option of the task"
            )
        if name.startswith("_") or not hasattr(self._agent, name):
            raise TaskError(
                f"a {kind} has no {name!r} that could be tuned; it has, among others, "
                "learning_rate, gamma, and what its constructor takes and reads at each step"
            )
        if isinstance(getattr(self._agent, name), str):
            raise TaskError(
                f"{name}: the {kind} finds it by itself, as {getattr(self._agent, name)!r} says; "
                "make the agent with a number to tune it"
            )

    def _holders(self, name: str) -> list[Any]:
        """The agent, and whatever else keeps a copy of that hyperparameter."""
        buffers = [getattr(self._agent, one, None) for one in ("rollout_buffer", "replay_buffer")]
        copies = [*buffers, self._agent.get_vec_normalize_env()]
        return [self._agent, *(one for one in copies if one is not None and name in vars(one))]

    def _set(self, name: str, value: Any) -> None:
        kept = FloatSchedule(value) if name in _SCHEDULES else value
        for holder in self._holders(name):
            setattr(holder, name, kept)
        if name == "learning_rate":
            self._agent.lr_schedule = FloatSchedule(value)
        if name == "ent_coef" and hasattr(self._agent, "ent_coef_tensor"):
            # SAC reads its coefficient from here, and `ent_coef` only when it is made.
            self._agent.ent_coef_tensor = torch.tensor(float(value), device=self._agent.device)

    def _found(self, name: str) -> set[Any]:
        """The values that training has read."""
        if name == "learning_rate":
            return set(self._rates)
        found = {getattr(holder, name) for holder in self._holders(name)}
        if name in _SCHEDULES:
            return {schedule(progress) for schedule in found for progress in (1.0, 0.0)}
        return found

    def _no_step(self) -> str:
        if isinstance(self._agent, OffPolicyAlgorithm):
            starts = self._agent.learning_starts
            return (
                f"no step of its optimiser: it begins after {starts} steps (learning_starts); let "
                "a turn be longer by --interval"
            )
        return "no step of its optimiser"

    def _see_rate(self, optimizer: Any, *_: Any) -> None:
        self._rates.update(group["lr"] for group in optimizer.param_groups)
