"""An agent of Stable-Baselines3 as a task: on policy (PPO, A2C) or off policy (SAC, TD3, DQN).

A subclass says what is tuned and makes the agent and its evaluation: see docs/examples/agent.py,
and docs/examples/off_policy.py.

A step is a step of the environment. A turn is one `learn`, in new episodes and on whole rollouts.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from pbt_flow.adapters.sb3_hyperparameters import AgentHyperparameters
from pbt_flow.adapters.sb3_state import (
    agent_state,
    begin_turn,
    check_off_policy,
    describe_buffer,
    load_agent_state,
)
from pbt_flow.exceptions import TaskError
from pbt_flow.space import Hparams
from pbt_flow.task import Task


class AgentTask(Task):
    """An agent that `make_agent` makes, scored by the returns of its episodes."""

    episodes: ClassVar[int] = 10
    """Episodes of an evaluation; their returns are the sample behind the score."""
    keeps_replay_buffer: ClassVar[bool] = True
    """Whether the replay buffer of an agent that learns off policy is part of the state. Without
    it a checkpoint is small, and each turn begins with an empty buffer."""

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
        self.agent = agent = self.make_agent(self._turn_seed)
        if not isinstance(agent, OnPolicyAlgorithm | OffPolicyAlgorithm):
            raise TaskError(
                f"make_agent() made a {type(agent).__name__}; supported is what learns on policy, "
                "such as PPO and A2C, or off policy, such as SAC, TD3 and DQN"
            )
        if isinstance(agent, OffPolicyAlgorithm):
            check_off_policy(agent)
        self.evaluation_env = self.make_evaluation_env()
        self._live = AgentHyperparameters(agent, self.space)

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        self._turn_seed = seed % 2**31  # Gymnasium takes more, and what lies below it does not.
        assert self.agent.env is not None
        self.agent.env.seed(self._turn_seed)
        self.agent.action_space.seed(self._turn_seed)
        self.agent._last_obs = None  # learn() then begins new episodes.
        if isinstance(self.agent, OffPolicyAlgorithm):
            begin_turn(self.agent, with_buffer=self.keeps_replay_buffer)

    def train(self, hparams: Hparams, steps: int) -> Mapping[str, float]:
        rollout, made_of = self._rollout()
        if steps % rollout:
            raise TaskError(
                f"a turn of {steps} steps is no whole number of rollouts of {rollout} ({made_of} "
                "times environments), and the agent would train for longer; give --interval "
                f"{max(1, round(steps / rollout)) * rollout}"
            )
        self._live.begin(hparams)
        # What learns off policy counts on: it does not wait for its first transitions again.
        is_anew = isinstance(self.agent, OnPolicyAlgorithm)
        self.agent.learn(total_timesteps=steps, reset_num_timesteps=is_anew)
        return self._live.prove(hparams)

    def _rollout(self) -> tuple[int, str]:
        """The steps between two updates, and the argument that says so."""
        agent: Any = self.agent
        if isinstance(agent, OnPolicyAlgorithm):
            return agent.n_steps * agent.n_envs, "n_steps"
        return agent.train_freq.frequency * agent.n_envs, "train_freq"

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
        return agent_state(self.agent, with_buffer=self.keeps_replay_buffer)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_agent_state(self.agent, state)

    def model(self) -> torch.nn.Module:
        return self.agent.policy

    def understood(self) -> Mapping[str, str]:
        kind = f"{type(self.agent).__name__} with a {type(self.agent.policy).__name__}"
        rollout, _ = self._rollout()
        told = {"agent": f"{kind}; a turn is a whole number of rollouts of {rollout} steps"}
        if isinstance(self.agent, OffPolicyAlgorithm):
            told["replay buffer"] = describe_buffer(
                self.agent, with_buffer=self.keeps_replay_buffer
            )
        return told
