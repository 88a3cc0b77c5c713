r"""Reinforcement learning: proximal policy optimisation (PPO) on any Gymnasium environment.

    python -m pbt_flow run --task rl
    python -m pbt_flow run --task rl --set env=CartPole-v1
    python -m pbt_flow run --task rl --set env=Taxi-v4 --set wrappers=ClipReward:min_reward=-1
    python -m pbt_flow run --task rl --set env=FrozenLake-v1 \
        --set env_options='{"is_slippery": false}'
    python -m pbt_flow run --task rl --set env=minatar:MinAtar/Breakout-v1   # needs minatar
    python -m pbt_flow run --task rl --set env=ALE/Pong-v5 --set hidden=256  # needs ale-py
    python -m pbt_flow run --task rl --set env=Hopper-v5 --interval 60000    # needs mujoco
    python -m pbt_flow run --task rl --quick     # seconds on CartPole, to see it work

How environments, their arguments and their wrappers are named: `rl_environments.py`.
Observations are images (a Box of three dimensions), or anything that Gymnasium can flatten to a
vector: Box, Discrete, MultiDiscrete, MultiBinary, and Tuple and Dict of them. Actions are the same,
with a bounded Box of integers as choices. As in the paper, PBT tunes the learning rate, the entropy
cost and the unroll length, here with the discount, the GAE lambda and the clip range of PPO, and
selects by the returns of the last training episodes.

Sources: PPO, arXiv 1707.06347, section 3 (clipped objective) and 5 (algorithm); generalised
advantage estimation, arXiv 1506.02438, equation 16; PBT, arXiv 1711.09846, section 4.1 and
appendix A.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor, nn

from pbt_flow.exceptions import Diverged
from pbt_flow.space import Hparams, Space
from pbt_flow.task import Task, TaskError

try:
    import gymnasium as gym
    from gymnasium.spaces import Box, Discrete
    from gymnasium.vector import VectorEnv
    from PIL import Image

    from .decay import Decay, Kind
    from .rl_actions import Actions, describe_actions, scale
    from .rl_environments import (
        declared_observations,
        describe_observations,
        episode_limit,
        read_recipe,
    )
    from .rl_network import (  # noqa: F401 - models that earlier versions logged name these
        Act,
        ActorCritic,
        Array,
        Columns,
        ColumnsPolicy,
        Normaliser,
        Pixels,
        Policy,
    )
except ModuleNotFoundError as error:
    raise TaskError(
        f"the rl task needs {error.name}: pip install 'gymnasium[box2d,classic-control]'"
    ) from error

Shown: TypeAlias = tuple[int, int, Array]
"""A step, a copy, and what it showed after that step."""

VALUE_COST, MAX_GRADIENT = 0.5, 0.5
SHORTEST_UNROLL, LONGEST_UNROLL = 32, 512
"""The range of the unroll, in steps of each environment."""
REPORT_SEED = 2**30
"""Environments train under seeds below it and report under seeds from it on."""
PATIENCE = 30_000
"""Steps after which an episode that is played to its end counts as ended."""
SHORT_PATIENCE, REPORT_PATIENCE = 1_000, 10_000
"""The same where the environment declares no limit, so that there may be no end: in an evaluation
at least, and in a report."""

FRAMES, WIDTH = 240, 240
"""The most frames of an animation, and its width in pixels."""


# --- environments ---------------------------------------------------------------------------------


class Episodes:
    """Environments at play, and the returns of the episodes that they have ended."""

    def __init__(self, env: VectorEnv[Any, Any, Any], seed: int) -> None:
        self.env = env
        self.obs, _ = env.reset(seed=seed)  # copy i of the environment gets seed + i
        self.running = np.zeros(env.num_envs)
        self.returns: list[float] = []
        self.steps, self.longest = 0, 0
        self.begun = np.zeros(env.num_envs, int)
        """The step at which each copy began the episode that it is in."""
        self.over = False
        self.is_cut = False
        """Whether an episode had no end when patience ran out."""

    def step(self, actions: Any) -> tuple[Array, Array, Array, Mapping[str, Any]]:
        """Rewards, which episodes terminated, which were truncated, and Gymnasium's info."""
        self.obs, rewards, terminated, truncated, info = self.env.step(actions)
        self.steps += 1
        self.running += rewards
        ended = terminated | truncated
        if ended.any():
            self.returns += self.running[ended].tolist()
            self.running[ended] = 0.0
            self.longest = max(self.longest, self.steps - int(self.begun[ended].min()))
            self.begun[ended] = self.steps
        return rewards, terminated, truncated, info

    def play_out(self, act: Act, patience: int = PATIENCE) -> None:
        """Let each environment end the episode that it is in; episodes begun later do not count.

        An episode counts as it is where it has no end after `patience` steps.

        Raises:
            Diverged: An observation or a reward is not finite.
        """
        open_, returns = np.ones(self.env.num_envs, bool), self.running
        for _ in range(patience):
            before = self.obs
            self.obs, rewards, terminated, truncated, _ = self.env.step(act(before))
            check_finite(before[None], rewards[None], self.steps)
            self.steps += 1
            returns = returns + np.where(open_, rewards, 0.0)
            open_ &= ~(terminated | truncated)
            if not open_.any():
                break
        self.returns += returns.tolist()
        self.over, self.is_cut = True, bool(open_.any())


def check_finite(obs: Array, rewards: Array, begun: int, last: Sequence[Shown] = ()) -> None:
    """Refuse a stretch of play in which something is not finite, and say what was the first.

    Args:
        obs: What the copies showed before each step, [steps, B, ...].
        rewards: What each step paid, [steps, B].
        begun: How many steps of the turn went before.
        last: What else they showed: where an episode was cut off, and after the last step.

    Raises:
        Diverged: An observation or a reward is not finite.
    """
    found = []
    for what, values, later in (("observation", obs, 0), ("reward", rewards, 1)):
        if values.dtype.kind != "f":  # Images and one-hot vectors are always finite.
            continue
        finite = np.isfinite(values)
        # This takes a third of the time of finite.all(), and an evaluation asks at each step.
        if np.count_nonzero(finite) < finite.size:
            step, copy, *component = np.argwhere(~finite)[0].tolist()
            value = values[step, copy]
            found.append((step + later, later, copy, what, component, value))
    for step, copy, value in last:
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            component = np.argwhere(~np.isfinite(value))[0].tolist()
            found.append((step + 1, 0, copy, "observation", component, value))
    if not found:
        return
    # Of two at the same step, the reward may follow from the observation.
    step, _, copy, what, component, value = min(found, key=lambda first: first[:3])
    place = (
        f"component {component[0] if len(component) == 1 else component} is " if component else ""
    )
    when = f"step {begun + step}" if begun + step else "the reset"
    raise Diverged(
        f"the {what} of copy {copy} of the environment at {when} is not finite: "
        f"{place}{value[tuple(component)]}"
    )


# --- the algorithm --------------------------------------------------------------------------------


def gae(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    ended: Array,
    discount: float,
    lam: float,
) -> Array:
    """Generalised advantage estimates; all arrays are [steps, environments].

    `next_values` are the values of the observations that the steps led to: where an episode ended
    there, of its last one, not of the first of the next. Where it `terminated`, nothing follows and
    the next value counts as 0; where it `ended` (terminated or truncated), no later error may leak
    back into it.
    """
    errors = rewards + discount * np.where(terminated, 0.0, next_values) - values
    carries = discount * lam * ~ended
    advantages, later = np.empty_like(errors), np.zeros(errors.shape[1])
    for t in reversed(range(len(errors))):
        advantages[t] = later = errors[t] + carries[t] * later
    return advantages


def divide(due: int, unroll: int, envs: int) -> tuple[int, int]:
    """How many unrolls train the steps that are due, and how long each of them is.

    An unroll takes `unroll` steps of each environment, or as many as are due if that is less.

    >>> divide(10_000, unroll=512, envs=8)  # of 4,096 each; 1,808 are left over
    (2, 512)
    >>> divide(2_000, unroll=512, envs=8)
    (1, 250)
    >>> divide(5, unroll=512, envs=8)
    (0, 0)
    """
    length = min(unroll, due // envs)
    if length < 1:
        return 0, 0
    return due // (length * envs), length


@dataclass(frozen=True, kw_only=True)
class Unroll:
    """What all environments saw and did in one stretch; arrays are [steps, environments, ...]."""

    obs: Array
    actions: Array
    rewards: Array
    terminated: Array
    ended: Array
    traces: Array
    """The discounted sum of an episode's rewards up to each step."""
    next_obs: Array
    """What the environments show after the stretch, [environments, ...]."""
    cut: list[tuple[int, int]]
    """Step and environment of each truncation."""
    cut_obs: list[Array]
    """The last observation of each truncated episode."""


class RL(Task):
    """PPO on a Gymnasium environment. A step is one step of one environment.

    An unroll trains on unroll x envs steps at once, which does not divide an interval. The steps
    that a turn leaves over are trained by the next one; their number is part of the state. So a
    lineage has trained its intervals, less a rest that is smaller than one unroll. An unroll that
    is longer than what is due is cut to that: with 8 environments and an interval of 2,000, an
    `unroll` of 512 trains as one of 250 would. The metric `unroll` of a turn says how long its
    unrolls were, and `env_steps` how many steps it trained.

    The score is the sample of returns of the last episodes that ended in this turn's training, as
    in the paper. A turn starts its environments afresh, so a short turn may end too few, and only
    the short ones of a member that survives for long. Then the episodes still running are played to
    their end by the final weights, without training, and all that began in the turn count. No
    return of an earlier turn is ever used: it would be the score of other weights. Weights that are
    not finite score NaN.

    The last episodes to end are not a fair sample of those that began, since more of the long ones
    are still running when the turn is over. Take a policy whose episodes last either 1,000 steps
    and return -50, or 250 steps and return 200, in 8 environments for 15,000 steps. With 40% of
    long ones it is worth 100 and scores 110 on average; with 60% it is worth 50 and scores 55
    (20,000 simulated turns of each; one score deviates by 21 and by 35). The report has no such
    bias, since it plays each of its episodes to the end.

    Numbers of an environment that are not finite end the turn as diverged, for that reason.
    Where an environment declares no limit of steps, an episode may have no end: then an evaluation
    plays on for as long as the turn has trained, or for 10 times the longest episode that it has
    seen, but for 1,000 steps at least and 30,000 at most, and counts what it has got.

    Args:
        env: The environment: an id, `module:id` or `module:Class` (see `rl_environments.py`).
        env_options: Its arguments, as JSON: `'{"is_slippery": false}'`.
        wrappers: What is put around it, the first one innermost: `FlattenObservation`,
            `TimeLimit:max_episode_steps=100`, `module:Class`.
        max_episode_steps: After how many steps an episode is cut off; by default what is
            registered for the environment.
        envs: How many copies of it step together.
        hidden: Units of each hidden layer.
        epochs: Passes over an unroll.
        minibatches: Parts into which each pass divides an unroll; at most the steps of the shortest
            unroll, 32 x `envs`. An unroll that was cut below that has a part for each step.
        episodes: The size of the sample that PBT selects by. The paper takes 10; but on LunarLander
            returns deviate by about 100, and the mean of 10 is then uncertain by 30, as much as
            members differ by. More would be steadier still, and more of it of older weights.
        report_episodes: How many fresh episodes the report plays.
        decay: With `cosine`, the learning rate is the first one, and falls to 0, from one update to
            the next.
    """

    space: ClassVar[Space] = {
        # Wide on purpose: what someone knows who has never trained on this environment. Shorter
        # unrolls are left out for time: at 16 a step takes twice as long as at 128.
        "lr": FloatDistribution(1e-5, 1e-2, log=True),
        "entropy_cost": FloatDistribution(1e-4, 1e-1, log=True),
        "unroll": IntDistribution(SHORTEST_UNROLL, LONGEST_UNROLL, log=True),
        # With a limit of 0.1, members around 0.07 led early on LunarLander, were copied by most of
        # the population, and did not improve any more.
        "one_minus_gamma": FloatDistribution(1e-3, 3e-2, log=True),
        "gae_lambda": FloatDistribution(0.8, 1.0),
        "clip": FloatDistribution(0.05, 0.5),
    }
    report_direction = "maximize"
    defaults: ClassVar[Mapping[str, Any]] = {
        "population": 8,
        "turns": 14,
        "interval": 15_000,
        # docs/results.md: a race of noisy returns judges by luck, and no stages did best.
        "stages": "none",
        "exploit": "truncation:fraction=0.25",
        "explore": "perturb:factors=0.8/1.25,resample_probability=0.25",
    }
    quick: ClassVar[Mapping[str, Any]] = {
        "population": 4,
        "turns": 3,
        "interval": 2000,
        "options": {"env": "CartPole-v1"},
    }

    def __init__(
        self,
        *,
        seed: int,
        device: str = "cpu",
        env: str = "LunarLander-v3",
        env_options: Mapping[str, Any] | None = None,
        wrappers: Sequence[str] | None = None,
        max_episode_steps: int | None = None,
        envs: int = 8,
        hidden: int = 64,
        epochs: int = 4,
        minibatches: int = 4,
        episodes: int = 20,
        report_episodes: int = 20,
        decay: Kind = "none",
    ) -> None:
        super().__init__(seed=seed, device=device)
        # With one environment a turn might end a single episode, and a t-test needs two returns.
        least = {"envs": (envs, 2), "hidden": (hidden, 1), "epochs": (epochs, 1)}
        least |= {"minibatches": (minibatches, 1), "episodes": (episodes, 2)}
        for name, (value, low) in (least | {"report_episodes": (report_episodes, 2)}).items():
            if value < low:
                raise TaskError(f"option {name} of the rl task must be at least {low}, got {value}")
        if minibatches > (most := SHORTEST_UNROLL * envs):
            raise TaskError(
                f"option minibatches of the rl task must be at most {most}, the steps of the "
                f"shortest unroll ({SHORTEST_UNROLL} of each of {envs} environments), got "
                f"{minibatches}: lower it, or raise envs"
            )
        self.envs, self.epochs, self.minibatches = envs, epochs, minibatches
        self.episodes, self.report_episodes = episodes, report_episodes

        self.recipe = read_recipe(env, env_options, wrappers, max_episode_steps)
        with contextlib.closing(self.recipe.make(1)) as probe:
            observations = probe.single_observation_space
            assert isinstance(observations, Box)  # See `Checked`.
            self.actions = Actions(probe.single_action_space, f"environment {env!r}")
            self.metadata = probe.metadata  # about pictures: read only when one is wanted
            limit, shows = episode_limit(probe), _describe(declared_observations(probe))
        size = math.prod(observations.shape) * np.dtype(observations.dtype).itemsize
        self.unroll_bytes = LONGEST_UNROLL * envs * size
        self.has_limit = limit is not None and limit <= PATIENCE
        self.report_patience = PATIENCE if self.has_limit else REPORT_PATIENCE
        ends = "without a limit that is declared" if limit is None else f"of at most {limit} steps"
        self.described = (
            f"{self.recipe.in_full()}, observations {shows}, "
            f"actions {describe_actions(self.actions)}, episodes {ends}"
        )
        self.unended = False

        torch.manual_seed(seed)
        self.net = ActorCritic(observations, self.actions, hidden).to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), eps=1e-5, fused=True)
        self.traces = Normaliser(1)  # of the discounted sums of rewards, which scale the rewards
        self.carry = 0
        self.decay = Decay(decay)
        self.follows_budget = self.decay.is_on
        self.turn: Episodes | None = None

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        self._end_turn()

    def train(self, hparams: Hparams, steps: int) -> dict[str, float]:
        drawn: Mapping[str, Any] = hparams  # numbers all, as the space says
        due = self.carry + steps
        unrolls, length = divide(due, int(drawn["unroll"]), self.envs)
        self.carry = due - unrolls * length * self.envs

        turn = self.turn
        if turn is None or turn.over:
            turn = self._begin_turn()
        self._check_state("with which the turn began")
        measured = []
        for update in range(1, unrolls + 1):
            rate = self.decay.set_rate(self.optimizer, float(drawn["lr"]), self.budget)
            unroll = self._play(turn, length, 1 - float(drawn["one_minus_gamma"]))
            measured.append(self._learn(unroll, drawn))
            self.decay.age += length * self.envs
            # Broken weights must not act: some environments crash on an action that is NaN.
            self._check_state(f"after update {update} of the turn, at step {turn.steps}")
        metrics = {"env_steps": float(len(measured) * length * self.envs), "unroll": float(length)}
        metrics["episodes"] = float(len(turn.returns))
        if turn.returns:
            metrics["episode_return"] = fmean(turn.returns)
        if measured:
            metrics |= {name: fmean(m[name] for m in measured) for name in measured[0]}
            metrics |= {"rate/lr": rate} if self.decay.is_on else {}
        return metrics

    def _begin_turn(self) -> Episodes:
        # New environments, since some carry more through reset() than they admit: a turn must come
        # out the same in a process that has run none before.
        self._end_turn()
        seed = int(self.rng.integers(REPORT_SEED - self.envs))
        self.turn = Episodes(self.recipe.make(self.envs), seed)
        self.trace: Array = np.zeros(self.envs)
        return self.turn

    def _end_turn(self) -> None:
        if self.turn is not None:
            self.turn.env.close()
        self.turn = None

    def _check_state(self, when: str) -> None:
        """Refuse a state that is not finite.

        Raises:
            Diverged: Something is not, and what.
        """
        if (broken := self._broken()) is not None:
            raise Diverged(f"{broken} are not finite {when}")

    def _broken(self) -> str | None:
        """What in the state is not finite, or None; first what would have broken the rest."""
        of_rewards, of_observations = self.traces.state_dict(), {}
        weights = self.net.state_dict()
        if not self.net.pixels:
            of_observations = {k: v for k, v in weights.items() if k.startswith("body.1.")}
        if not _are_finite(of_rewards):
            return "the running statistics of the rewards"
        if not _are_finite(of_observations):
            return "the running statistics of the observations"
        return None if _are_finite(weights) else "the weights"

    def to_env(self, actions: Array) -> Any:
        """Actions of the policy as the environment takes them."""
        space = self.actions.space
        if isinstance(space, Discrete):
            return actions + space.start
        if self.net.columns is not None:
            return self.actions.to_env(actions)
        assert isinstance(space, Box)
        return scale(actions.reshape(-1, *space.shape), space)

    def _act(self, rng: np.random.Generator) -> Act:
        policy = self.net.actor_of_now(rng)
        return lambda obs: self.to_env(policy(obs))

    def _play(self, turn: Episodes, length: int, discount: float) -> Unroll:
        policy = self.net.actor_of_now(self.rng)
        begun = turn.steps
        obs: list[Array] = []
        actions: list[Array] = []
        rewards: list[Array] = []
        terminated: list[Array] = []
        ended: list[Array] = []
        traces: list[Array] = []
        cut: list[tuple[int, int]] = []
        cut_obs: list[Array] = []

        def check() -> None:
            shown = [(length - 1, copy, seen) for copy, seen in enumerate(turn.obs)]
            shown += [(*place, seen) for place, seen in zip(cut, cut_obs, strict=True)]
            check_finite(np.stack(obs), np.array(rewards), begun, shown)

        try:
            for t in range(length):
                obs.append(turn.obs)
                actions.append(policy(turn.obs))
                reward, terminal, truncated, info = turn.step(self.to_env(actions[-1]))
                end = terminal | truncated
                rewards.append(reward)
                terminated.append(terminal)
                ended.append(end)
                self.trace = self.trace * discount + reward
                traces.append(self.trace)
                if end.any():
                    self.trace = self.trace * ~end
                    for i in np.flatnonzero(truncated & ~terminal):
                        cut.append((t, int(i)))
                        cut_obs.append(info["final_obs"][i])
        except Exception:
            check()  # What came to a bad end may have begun with a number that was not finite.
            raise
        check()
        return Unroll(
            obs=np.stack(obs),
            actions=np.stack(actions),
            rewards=np.stack(rewards),
            terminated=np.stack(terminated),
            ended=np.stack(ended),
            traces=np.stack(traces),
            next_obs=turn.obs,
            cut=cut,
            cut_obs=cut_obs,
        )

    def _learn(self, unroll: Unroll, hparams: Mapping[str, Any]) -> dict[str, float]:
        """One update on one unroll (PPO, algorithm 1), and what happened in it."""
        net, shape = self.net, unroll.rewards.shape
        obs = self._tensor(unroll.obs.reshape(-1, *unroll.obs.shape[2:]))
        actions = self._tensor(unroll.actions.reshape(len(obs), *unroll.actions.shape[2:]))
        with torch.no_grad():
            parts = [net(part) for part in torch.split(obs, 1024)]
            head, value = (torch.cat(part) for part in zip(*parts, strict=True))
            old_log_probs, _ = net.log_prob_and_entropy(head, actions)
            after = np.stack([*unroll.next_obs, *unroll.cut_obs])
            value_after = net(self._tensor(after))[1].cpu().numpy()
        values = value.cpu().numpy().reshape(shape)
        next_values = np.concatenate([values[1:], value_after[None, : self.envs]])
        for place, last in zip(unroll.cut, value_after[self.envs :], strict=True):
            next_values[place] = last

        # Rewards are divided by the root mean square of their discounted sums, so that values are
        # of order 1 in any environment. (Their deviation, used elsewhere, can be 0.)
        self.traces.update(unroll.traces.reshape(-1, 1))
        size = math.sqrt(float(self.traces.var + self.traces.mean**2) + 1e-8)
        gains = gae(
            np.clip(unroll.rewards / size, -10, 10),
            values,
            next_values,
            unroll.terminated,
            unroll.ended,
            1 - float(hparams["one_minus_gamma"]),
            float(hparams["gae_lambda"]),
        )
        targets = self._tensor((gains + values).ravel())
        advantages = self._tensor(((gains - gains.mean()) / (gains.std() + 1e-8)).ravel())

        clip, entropy_cost = float(hparams["clip"]), float(hparams["entropy_cost"])
        parameters = list(net.parameters())
        for _ in range(self.epochs):
            order = torch.from_numpy(self.rng.permutation(len(obs))).to(self.device)
            # More parts than steps would leave some empty, and the mean of nothing is NaN.
            for rows in order.tensor_split(min(self.minibatches, len(obs))):
                head, value = net(obs[rows])
                log_probs, entropies = net.log_prob_and_entropy(head, actions[rows])
                log_ratio = log_probs - old_log_probs[rows]
                ratio, advantage = log_ratio.exp(), advantages[rows]
                clipped = ratio.clamp(1 - clip, 1 + clip)
                policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
                value_loss = 0.5 * (value - targets[rows]).square().mean()
                entropy = entropies.mean()
                loss = policy_loss + VALUE_COST * value_loss - entropy_cost * entropy
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT)
                self.optimizer.step()
        # Afterwards, so that the unroll is learned from as it was acted upon.
        if isinstance(normaliser := net.body[1], Normaliser):
            normaliser.update(unroll.obs.reshape(len(obs), -1))
        with torch.no_grad():  # of the last minibatch: how far the update has gone
            return {
                "value_loss": value_loss.item(),
                "entropy": entropy.item(),
                "kl": (ratio - 1 - log_ratio).mean().item(),
                "clipped": (ratio != clipped).float().mean().item(),
            }

    def _tensor(self, array: Array) -> Tensor:
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        return torch.from_numpy(array).to(self.device)

    def evaluate(self) -> list[float]:
        self._check_state("in the evaluation")
        turn = self.turn or self._begin_turn()
        if len(turn.returns) < self.episodes and not turn.over:
            turn.play_out(self._act(self.rng), self._patience(turn))
            self.unended = turn.is_cut
        return turn.returns if turn.over else turn.returns[-self.episodes :]

    def _patience(self, turn: Episodes) -> int:
        """How many steps an evaluation plays at most to let the last episodes end."""
        if self.has_limit:
            return PATIENCE
        # An episode that goes on for ever would cost many times what the training did.
        return min(PATIENCE, max(SHORT_PATIENCE, turn.steps, 10 * turn.longest))

    def understood(self) -> dict[str, str]:
        told = {"environment": self.described, **self.decay.understood(self.budget)}
        if self.unroll_bytes > 2**30:
            told["memory"] = (
                f"the observations of an unroll of {LONGEST_UNROLL} steps take "
                f"{self.unroll_bytes / 2**30:.1f} GiB in each worker; fewer envs take less, and so "
                "do wrappers that make observations smaller, such as ResizeObservation"
            )
        if self.unended:
            told["episodes"] = (
                f"some of {self.recipe.name} did not end while the evaluation played on, and count "
                "as far as they went; max_episode_steps would cut them off"
            )
        return told

    def state_dict(self) -> dict[str, Any]:
        state = {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "traces": self.traces.state_dict(),
            "carry": self.carry,
            **self.decay.state(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        # Adam keeps the tensors that it is given, and would go on to change them.
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.traces.load_state_dict(state["traces"])
        self.carry = int(state["carry"])
        self.decay.restore(state)
        self._end_turn()

    def report(self) -> dict[str, float]:
        """Returns of fresh episodes, which `self.rng` chooses.

        Reports of one population begin with the same `self.rng`, and so do those of a control with
        the same seed: they play the same episodes, and can be compared in pairs. Populations of
        other seeds play others, so that an interval over seeds includes the choice of episodes.
        The models of one replay all play the same episodes: its intervals leave that choice out.

        The policy acts as in training, by sampling, so that the report differs from the score in
        its episodes alone. Each environment plays one: the first to end among many would be short.
        """
        if self._broken() is not None:
            return {"return": math.nan, "return_std": math.nan}
        rng = copy.deepcopy(self.rng)  # A report takes no random numbers away from training.
        seed = REPORT_SEED + int(rng.integers(REPORT_SEED - self.report_episodes))
        with contextlib.closing(self.recipe.make(self.report_episodes)) as env:
            episodes = Episodes(env, seed)
            episodes.play_out(self._act(rng), self.report_patience)
        return {
            "return": fmean(episodes.returns),
            "return_std": float(np.std(episodes.returns, ddof=1)),
        }

    def samples(self, folder: Path) -> None:
        """Write an episode that training never played as `episode.gif`, if it can be shown."""
        if self._broken() is not None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        # pygame greets on standard output, where the caller may be printing for a machine.
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            frames, delay = self._film()
        # By pygame, MuJoCo, OpenGL, or an environment that is careless about what it need not do:
        # a picture that cannot be made is no failure, and no reason to leave.
        except (Exception, SystemExit) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            logging.getLogger(__name__).warning("cannot render %s: %s", self.recipe, reason)
            return
        if not frames:
            return
        while len(gif := _gif(frames, delay)) > 1_500_000 and len(frames) > 8:
            frames, delay = frames[::2], 2 * delay
        (folder / "episode.gif").write_bytes(gif)

    def _film(self) -> tuple[list[Image.Image], float]:
        """Frames of an episode, evenly spaced, and the milliseconds that each is to be shown.

        There are none where neither the environment draws nor the policy sees an image.
        """
        modes = self.metadata.get("render_modes", ())
        if not isinstance(modes, Collection):
            raise TypeError(f"its metadata gives {modes!r} as the render_modes")
        renders = "rgb_array" in modes
        if not renders and not self.net.pixels:
            return [], 0.0
        frames: list[Image.Image] = []
        stride = 1
        # A display that fails must not leave its window open.
        with contextlib.closing(self.recipe.make(1, render=renders)) as env:
            episode, act = Episodes(env, REPORT_SEED), self._act(np.random.default_rng(REPORT_SEED))
            for t in range(self.report_patience):
                if t % stride == 0:
                    drawn: Any = env.render() if renders else [self._seen(episode.obs)]
                    frames.append(_frame(drawn[0]))
                if len(frames) > FRAMES:
                    frames, stride = frames[::2], 2 * stride
                _, terminated, truncated, _ = episode.step(act(episode.obs))
                if terminated[0] or truncated[0]:
                    break
        # A long episode is shown faster than it was, rather than jerkily.
        return frames, min(stride * 1000 / _frame_rate(self.metadata), 50.0)

    def _seen(self, obs: Array) -> Array:
        """The image that the policy sees: its colours, or the newest of stacked frames."""
        image: Array = (self.net.body[0](torch.as_tensor(obs))[0].clamp(0, 1) * 255).byte().numpy()
        return image.transpose(1, 2, 0) if len(image) == 3 else image[-1]

    def model(self) -> Policy | ColumnsPolicy:
        """Raw observations [B, ...] to the most probable actions, as the environment takes them.

        What is no Box is taken as Gymnasium's `flatten` makes it, with one-hot vectors.
        """
        space = self.actions.space
        if self.net.columns is not None:
            return ColumnsPolicy(self.net, self.actions)
        assert isinstance(space, (Discrete, Box))
        return Policy(self.net, space)

    def example(self) -> Array:
        """What the environment shows first, in four episodes."""
        with contextlib.closing(self.recipe.make(4)) as env:
            obs, _ = env.reset(seed=REPORT_SEED)
        return np.asarray(obs)


def _are_finite(state: Mapping[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in state.values())


def _describe(observations: gym.Space[Any]) -> str:
    """What an environment shows, and what the network makes of it."""
    if not isinstance(observations, Box) or len(observations.shape) != 3:
        return describe_observations(observations)
    pixels = Pixels(observations)
    _, channels, height, width = pixels(torch.zeros(1, *observations.shape)).shape
    bounds = "" if pixels.is_bounded else ", taken as they are since they have no bounds"
    return f"images of {height} x {width} with {channels} channels{bounds}"


def _frame_rate(metadata: Mapping[str, Any]) -> float:
    """Frames a second; 30 where what the environment says is no rate."""
    rate = metadata.get("render_fps")
    if isinstance(rate, (int, float)) and math.isfinite(rate) and rate > 0:
        return float(rate)
    return 30.0


def _frame(pixels: Any) -> Image.Image:
    """What an environment draws as an image: colours or grey, as bytes or from 0 to 1."""
    array = np.asarray(pixels)
    if array.dtype.kind == "f" and array.size and array.min() >= 0 and array.max() <= 1:
        array = (array * 255).astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        kind = f"{array.dtype} of shape {array.shape}"
        raise TypeError(f"render() must give an image of bytes, and gave {kind}")
    image = Image.fromarray(array)
    image = image.resize((WIDTH, max(1, round(image.height * WIDTH / image.width))))
    return image.convert("RGB").quantize(64)


def _gif(frames: list[Image.Image], delay: float) -> bytes:
    file = io.BytesIO()
    frames[0].save(
        file, "GIF", save_all=True, append_images=frames[1:], duration=round(delay), loop=0
    )
    return file.getvalue()
