"""An on-policy agent of Stable-Baselines3 (PPO, A2C) as a task.

A subclass says what is tuned and makes the agent and its evaluation: see docs/examples/agent.py.

A step is a step of the environment. A turn is one `learn`, in new episodes and on whole rollouts.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from pbt_flow.exceptions import TaskError
from pbt_flow.space import Hparams
from pbt_flow.task import Task

_SCHEDULES = ("clip_range", "clip_range_vf")
"""Hyperparameters that an agent keeps as a function of its progress."""
_FIXED = {"n_steps": "the size of the rollout buffer", "n_envs": "the number of environments"}


class AgentTask(Task):
    """An agent that `make_agent` makes, scored by the returns of its episodes."""

    episodes: ClassVar[int] = 10
    """Episodes of an evaluation; their returns are the sample behind the score."""

    @abc.abstractmethod
    def make_agent(self, seed: int) -> BaseAlgorithm:
        """A fresh agent on training environments of its own; `seed` is below 2**31."""

    @abc.abstractmethod
    def make_evaluation_env(self) -> VecEnv:
        """Environments to evaluate in.

        A `VecNormalize` around them takes the statistics of the training environments; it is made
        with `training=False, norm_reward=False`.
        """

    def __init__(self, *, seed: int, device: str = "cpu") -> None:
        super().__init__(seed=seed, device=device)
        self._turn_seed = seed % 2**31
        agent = self.make_agent(self._turn_seed)
        if not isinstance(agent, OnPolicyAlgorithm):
            raise TaskError(
                f"make_agent() made a {type(agent).__name__}; supported is what learns on policy, "
                "such as PPO and A2C, since a replay buffer is in no checkpoint"
            )
        self.agent, self.evaluation_env = agent, self.make_evaluation_env()
        for name in self.space:
            self._check(name)
        agent.policy.optimizer.register_step_pre_hook(self._see_rate)

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        self._turn_seed = seed % 2**31  # Gymnasium takes more, and what lies below it does not.
        assert self.agent.env is not None
        self.agent.env.seed(self._turn_seed)
        self.agent.action_space.seed(self._turn_seed)
        self.agent._last_obs = None  # learn() then begins new episodes.

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        rollout = self.agent.n_steps * self.agent.n_envs
        if steps % rollout:
            raise TaskError(
                f"a turn of {steps} steps is no whole number of rollouts of {rollout} (n_steps "
                "times environments), and the agent would train for longer; give --interval "
                f"{max(1, round(steps / rollout)) * rollout}"
            )
        for name, value in hparams.items():
            self._set(name, value)
        self._rates = set[float]()
        self.agent.learn(total_timesteps=steps, reset_num_timesteps=True)
        return self._prove(hparams)

    def evaluate(self) -> list[float]:
        self.evaluation_env.seed(self._turn_seed)
        training = self.agent.get_vec_normalize_env()
        if isinstance(self.evaluation_env, VecNormalize) and training is not None:
            self.evaluation_env.obs_rms = training.obs_rms
        returns: Any
        returns, _ = evaluate_policy(
            self.agent,
            self.evaluation_env,
            n_eval_episodes=self.episodes,
            return_episode_rewards=True,
            warn=False,
        )
        return [float(value) for value in returns]

    def state_dict(self) -> dict[str, Any]:
        return {
            "agent": self.agent.get_parameters(),
            **{name: _as_tensors(rms) for name, rms in self._statistics().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.agent.set_parameters(state["agent"])
        for name, rms in self._statistics().items():
            kept = state[name]
            mean, var = kept["mean"].cpu(), kept["var"].cpu()
            rms.mean, rms.var = mean.numpy().copy(), var.numpy().copy()
            rms.count = kept["count"]

    def _statistics(self) -> dict[str, Any]:
        """The running statistics by which the training environments are normalised, if they are."""
        env = self.agent.get_vec_normalize_env()
        return {} if env is None else {"obs_rms": env.obs_rms, "ret_rms": env.ret_rms}

    def model(self) -> torch.nn.Module:
        return self.agent.policy

    def understood(self) -> Mapping[str, str]:
        rollout = self.agent.n_steps * self.agent.n_envs
        kind = f"{type(self.agent).__name__} with a {type(self.agent.policy).__name__}"
        return {"agent": f"{kind}; a turn is a whole number of rollouts of {rollout} steps"}

    # --- hyperparameters --------------------------------------------------------------------------

    def _check(self, name: str) -> None:
        """Refuse a hyperparameter that the agent has not, or that cannot change.

        Raises:
            TaskError: It has not, or it cannot.
        """
        if name in _FIXED:
            raise TaskError(
                f"{name} cannot change while an agent trains: it is {_FIXED[name]}; make it an "
                "option of the task"
            )
        if name.startswith("_") or not hasattr(self.agent, name):
            raise TaskError(
                f"a {type(self.agent).__name__} has no {name!r} that could be tuned; it has, among "
                "others, learning_rate, gamma, gae_lambda, ent_coef, vf_coef and clip_range"
            )

    def _holders(self, name: str) -> list[Any]:
        """The agent, and whatever else keeps a copy of that hyperparameter."""
        copies = [self.agent.rollout_buffer, self.agent.get_vec_normalize_env()]
        return [self.agent, *(one for one in copies if one is not None and name in vars(one))]

    def _set(self, name: str, value: Any) -> None:
        kept = FloatSchedule(value) if name in _SCHEDULES else value
        for holder in self._holders(name):
            setattr(holder, name, kept)
        if name == "learning_rate":
            self.agent.lr_schedule = FloatSchedule(value)

    def _prove(self, hparams: Hparams) -> dict[str, float]:
        """What was live in training, as metrics to record.

        Raises:
            TaskError: It was something else than what was asked for.
        """
        live = {}
        for name, wanted in hparams.items():
            found = {getattr(holder, name) for holder in self._holders(name)}
            if name in _SCHEDULES:
                found = {schedule(progress) for schedule in found for progress in (1.0, 0.0)}
            if name == "learning_rate":
                found = self._rates
            if found != {wanted}:
                raise TaskError(
                    f"{name}: {wanted!r} was asked for, and the agent trained with "
                    f"{', '.join(map(repr, sorted(found))) or 'no step of its optimiser'}"
                )
            if isinstance(wanted, int | float):
                live[f"live/{name}"] = float(wanted)
        return live

    def _see_rate(self, optimizer: Any, *_: Any) -> None:
        self._rates.update(group["lr"] for group in optimizer.param_groups)


def _as_tensors(rms: Any) -> dict[str, Any]:
    mean, var = torch.as_tensor(rms.mean), torch.as_tensor(rms.var)
    return {"mean": mean, "var": var, "count": float(rms.count)}
