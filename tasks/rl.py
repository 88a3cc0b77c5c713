r"""Reinforcement learning: proximal policy optimisation (PPO) on any Gymnasium environment.

    python -m pbt_flow run --task rl
    python -m pbt_flow run --task rl --set env=CartPole-v1
    python -m pbt_flow run --task rl --set env=Taxi-v4 --set wrappers=ClipReward:min_reward=-1
    python -m pbt_flow run --task rl --set env=FrozenLake-v1 \
        --set env_options='{"is_slippery": false}'
    python -m pbt_flow run --task rl --set env=minatar:MinAtar/Breakout-v1   # needs minatar
    python -m pbt_flow run --task rl --set env=ALE/Pong-v5 --set hidden=256  # needs ale-py
    python -m pbt_flow run --task rl --quick     # seconds on CartPole, to see it work

How environments, their arguments and their wrappers are named: `tasks/environments.py`.
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
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, TypeAlias, TypeVar

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

    from tasks.actions import Actions, describe_actions, scale, span
    from tasks.environments import (
        declared_observations,
        describe_observations,
        episode_limit,
        read_recipe,
    )
except ModuleNotFoundError as error:
    raise TaskError(f"the rl task needs {error.name}: pip install 'pbt-flow[rl]'") from error

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)
Array: TypeAlias = np.ndarray[Any, Any]
Shown: TypeAlias = tuple[int, int, Array]
"""A step, a copy, and what it showed after that step."""
Act: TypeAlias = Callable[[Array], Array]
"""Observations of a batch to sampled actions."""

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


# --- the network ----------------------------------------------------------------------------------


class Normaliser(nn.Module):
    """Shifts and scales to mean 0 and variance 1, by running statistics that are part of its state.

    The statistics are merged batch by batch (Chan et al., 1979) and are those of all data so far.
    """

    count: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, size: int, limit: float = 10.0) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))

    def update(self, batch: Array) -> None:
        """Take in a batch [B, size]."""
        x = torch.as_tensor(batch, dtype=torch.float64, device=self.mean.device)
        var, mean = torch.var_mean(x, dim=0, correction=0)
        share = len(x) / (self.count + len(x))
        delta = mean - self.mean
        self.mean += delta * share
        self.var += (var - self.var) * share + delta**2 * share * (1 - share)
        self.count += len(x)

    def forward(self, x: Tensor) -> Tensor:
        return ((x.float() - self.mean) / (self.var + 1e-8).sqrt()).clamp(-self.limit, self.limit)


class Pixels(nn.Module):
    """Images as an environment gives them, to floats [B, channels, height, width].

    The bounds that the environment declares become 0 and 1, or -1 and 1 where some are negative.
    """

    shift = 0.0
    """What is subtracted; a network that was kept by an earlier version has none of its own."""

    def __init__(self, space: Box) -> None:
        super().__init__()
        low, high = float(space.low.min()), float(space.high.max())
        self.shift = max(low, 0.0) if math.isfinite(low) else 0.0
        self.range = max(abs(low), abs(high)) - self.shift
        self.is_bounded = math.isfinite(self.range) and self.range > 0
        if not self.is_bounded:
            self.shift, self.range = 0.0, 1.0
        self.channels_last = _is_channels_last(space.shape)

    def forward(self, x: Tensor) -> Tensor:
        x = (x.float() - self.shift) / self.range
        return x.permute(0, 3, 1, 2) if self.channels_last else x


def _is_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether an image is [height, width, channels], and not [channels, height, width].

    A square says so, whatever the number of channels; else there are fewer channels than rows.
    """
    first, second, third = shape
    if first == second or second == third:
        return first == second
    return third < first


class Columns(nn.Module):
    """Heads of several independent choices and numbers, whose log-probabilities add up.

    A head is the logits of all choices, one after the other, and then the means of all numbers.
    """

    places: Tensor
    is_number: Tensor

    def __init__(self, actions: Actions) -> None:
        super().__init__()
        self.logits = sum(actions.sizes)
        # Choices of different sizes are rows of one matrix. What a short row lacks points to an
        # extra logit, which is never chosen.
        places = torch.full((len(actions.sizes), max(actions.sizes, default=0)), self.logits)
        first = 0
        for row, size in zip(places, actions.sizes, strict=True):
            row[:size] = torch.arange(first, first + size)
            first += size
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("is_number", torch.from_numpy(actions.is_number), persistent=False)

    def choices(self, head: Tensor) -> Tensor:
        """The logits [B, choices, sizes] in a head."""
        padded = nn.functional.pad(head[:, : self.logits], (0, 1), value=-1e9)
        return padded[:, self.places]

    def join(self, choices: Tensor, numbers: Tensor) -> Tensor:
        """Columns [B, columns] in the order of the environment's space."""
        columns = numbers.new_empty(len(numbers), len(self.is_number), dtype=torch.float64)
        columns[:, ~self.is_number] = choices.double()
        columns[:, self.is_number] = numbers.double()
        return columns


class ActorCritic(nn.Module):
    """From raw observations to the head of the policy, and to the value.

    The head holds the logits of a discrete action, or the mean of a normal distribution whose
    standard deviation is learned but does not depend on the observation, or several of both.
    """

    def __init__(self, observations: Box, actions: Actions, hidden: int) -> None:
        super().__init__()
        outputs = actions.outputs
        self.discrete = isinstance(actions.space, Discrete)
        is_plain = self.discrete or (isinstance(actions.space, Box) and not actions.sizes)
        self.columns = None if is_plain else Columns(actions)
        self.log_std = nn.Parameter(torch.zeros(actions.numbers)) if actions.numbers else None
        self.pixels = len(observations.shape) == 3
        if self.pixels:
            self.body = nn.Sequential(Pixels(observations), *_convolutions(observations, hidden))
            self.actor: nn.Module = _orthogonal(nn.Linear(hidden, outputs), 0.01)
            self.critic: nn.Module = _orthogonal(nn.Linear(hidden, 1), 1.0)
        else:
            size = math.prod(observations.shape)
            self.body = nn.Sequential(nn.Flatten(), Normaliser(size))
            # At 0.01 the first policy is nearly the same whatever it sees.
            self.actor = _perceptron(size, hidden, outputs, 0.01)
            self.critic = _perceptron(size, hidden, 1, 1.0)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(obs)
        return self.actor(x), self.critic(x).squeeze(1)

    def log_prob_and_entropy(self, head: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Both are [B]. NaN runs through into the weights (torch.distributions would raise)."""
        if self.columns is not None:
            return self._of_columns(self.columns, head, actions)
        if self.log_std is None:
            log_probs = head.log_softmax(1)
            entropy = -(log_probs.exp() * log_probs).sum(1)
            return -nn.functional.nll_loss(log_probs, actions, reduction="none"), entropy
        return self._of_numbers(self.log_std, head, actions)

    def _of_numbers(self, log_std: Tensor, means: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        noise = (actions - means) / log_std.exp()
        constant = log_std.sum() + 0.5 * math.log(2 * math.pi) * len(log_std)
        entropy = constant + 0.5 * len(log_std)
        return -0.5 * noise.square().sum(1) - constant, entropy.expand(len(means))

    def _of_columns(self, columns: Columns, head: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        log_probs = columns.choices(head).log_softmax(2)
        entropy = -(log_probs.exp() * log_probs).sum((1, 2))
        chosen = actions[:, ~columns.is_number].long().unsqueeze(2)
        log_prob = log_probs.gather(2, chosen).sum((1, 2))
        if self.log_std is not None:
            means, numbers = head[:, columns.logits :], actions[:, columns.is_number]
            more = self._of_numbers(self.log_std, means, numbers)
            log_prob, entropy = log_prob + more[0], entropy + more[1]
        return log_prob, entropy

    def actor_of_now(self, rng: np.random.Generator) -> Act:
        """A function that samples actions under the present weights.

        Perceptrons act in NumPy, which takes a third of torch's time for a batch of 8.
        """
        head = self.torch_head() if self.pixels else self.numpy_head()
        if self.columns is not None:
            return self._sampler_of_columns(self.columns, head, rng)
        if self.log_std is None:
            # The place of the greatest logit is, under Gumbel noise, a sample of their softmax.
            return lambda obs: ((logits := head(obs)) + rng.gumbel(size=logits.shape)).argmax(1)
        std = self.log_std.detach().exp().cpu().numpy()
        return lambda obs: head(obs) + std * rng.standard_normal((len(obs), len(std)))

    def _sampler_of_columns(self, columns: Columns, head: Act, rng: np.random.Generator) -> Act:
        places, is_number = columns.places.cpu().numpy(), columns.is_number.cpu().numpy()
        log_std = torch.zeros(0) if self.log_std is None else self.log_std.detach()
        std = log_std.exp().cpu().numpy()

        def sample(obs: Array) -> Array:
            out = head(obs)
            padded = np.pad(out[:, : columns.logits], ((0, 0), (0, 1)), constant_values=-np.inf)
            logits = padded[:, places]
            actions = np.empty((len(out), len(is_number)))
            if logits.size:
                actions[:, ~is_number] = (logits + rng.gumbel(size=logits.shape)).argmax(2)
            noise = std * rng.standard_normal((len(out), len(std)))
            actions[:, is_number] = out[:, columns.logits :] + noise
            return actions

        return sample

    def torch_head(self) -> Act:
        device = next(self.parameters()).device

        def head(obs: Array) -> Array:
            with torch.no_grad():
                out: Tensor = self.actor(self.body(torch.as_tensor(obs, device=device)))
            return out.cpu().numpy()

        return head

    def numpy_head(self) -> Act:
        normaliser = self.body[1]
        assert isinstance(normaliser, Normaliser)
        shift, scale = (x.cpu().numpy() for x in (normaliser.mean, (normaliser.var + 1e-8).sqrt()))
        limit = np.float32(normaliser.limit)
        first, second, last = (
            (layer.weight.detach().cpu().numpy().T.copy(), layer.bias.detach().cpu().numpy())
            for layer in self.actor.children()
            if isinstance(layer, nn.Linear)
        )

        def head(obs: Array) -> Array:
            x = (obs.reshape(len(obs), -1).astype(np.float32, copy=False) - shift) / scale
            x = np.minimum(np.maximum(x, -limit), limit)
            x = np.tanh(x @ first[0] + first[1])
            x = np.tanh(x @ second[0] + second[1])
            return x @ last[0] + last[1]

        return head


class Policy(nn.Module):
    """From raw observations [B, ...] to the most probable actions, as the environment takes them.

    This is what is kept at the end; `net` is the whole network.
    """

    start: Tensor
    stop: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, net: ActorCritic, actions: Discrete | Box) -> None:
        super().__init__()
        self.net = net
        if isinstance(actions, Discrete):
            self.first = int(actions.start)
        else:
            bounds = {"low": actions.low, "high": actions.high}
            bounds["start"], bounds["stop"] = span(actions)
            for name, value in bounds.items():
                self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32))

    def forward(self, obs: Tensor) -> Tensor:
        head, _ = self.net(obs)
        if self.net.discrete:
            return head.argmax(1) + self.first
        head = head.reshape(-1, *self.start.shape)
        scaled = self.start + (self.stop - self.start) * (head + 1) / 2
        return scaled.clamp(self.low, self.high)


class ColumnsPolicy(nn.Module):
    """The same for several choices and numbers.

    Of MultiDiscrete, MultiBinary and a Box of integers the actions have the shape that the
    environment takes. Those of Tuple and Dict are [B, columns], their parts one after the other.
    """

    bounds: Tensor

    def __init__(self, net: ActorCritic, actions: Actions) -> None:
        super().__init__()
        self.net = net
        bounds = [actions.start, actions.stop, actions.low, actions.high]
        self.register_buffer("bounds", torch.from_numpy(np.stack(bounds)))
        is_nested = actions.space.shape is None
        self.shape = (len(actions.start),) if is_nested else actions.space.shape
        self.is_whole = not actions.numbers

    def forward(self, obs: Tensor) -> Tensor:
        head, _ = self.net(obs)
        columns = self.net.columns
        assert columns is not None
        chosen = columns.choices(head)
        # No choice at all has no place of the greatest logit.
        choices = chosen.argmax(2) if chosen.shape[1] else chosen.sum(2)
        actions = columns.join(choices, head[:, columns.logits :])
        start, stop, low, high = self.bounds
        share = torch.where(columns.is_number, (actions + 1) / 2, actions)
        actions = (start + (stop - start) * share).clamp(low, high)
        return (actions.round().long() if self.is_whole else actions).reshape(-1, *self.shape)


def _orthogonal(layer: Layer, gain: float = math.sqrt(2)) -> Layer:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.constant_(layer.bias, 0.0)
    return layer


def _perceptron(inputs: int, hidden: int, outputs: int, gain: float) -> nn.Sequential:
    return nn.Sequential(
        _orthogonal(nn.Linear(inputs, hidden)),
        nn.Tanh(),
        _orthogonal(nn.Linear(hidden, hidden)),
        nn.Tanh(),
        _orthogonal(nn.Linear(hidden, outputs), gain),
    )


def _convolutions(space: Box, hidden: int) -> list[nn.Module]:
    """The small network of A3C (arXiv 1602.01783, section 8); finer filters for small images."""
    pixels = Pixels(space)(torch.zeros(1, *space.shape))
    channels, fine = pixels.shape[1], min(pixels.shape[2:]) < 36
    layers: list[nn.Module] = [
        _orthogonal(nn.Conv2d(channels, 16, 3, 1, 1) if fine else nn.Conv2d(channels, 16, 8, 4)),
        nn.ReLU(),
        _orthogonal(nn.Conv2d(16, 32, 3, 2, 1) if fine else nn.Conv2d(16, 32, 4, 2)),
        nn.ReLU(),
        nn.Flatten(),
    ]
    features = nn.Sequential(*layers)(pixels).shape[1]
    return [*layers, _orthogonal(nn.Linear(features, hidden)), nn.ReLU()]


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
        env: The environment: an id, `module:id` or `module:Class` (see `tasks/environments.py`).
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
            self.actions = Actions(probe.single_action_space, f"environment {env!r}")
            self.metadata = probe.metadata  # about pictures: read only when one is wanted
            limit, shows = episode_limit(probe), _describe(declared_observations(probe))
        size = math.prod(observations.shape) * observations.dtype.itemsize
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
        self.turn: Episodes | None = None

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        self._end_turn()

    def train(self, hparams: Hparams, steps: int) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = float(hparams["lr"])
        due = self.carry + steps
        unrolls, length = divide(due, int(hparams["unroll"]), self.envs)
        self.carry = due - unrolls * length * self.envs

        turn = self.turn
        if turn is None or turn.over:
            turn = self._begin_turn()
        self._check_state("with which the turn began")
        measured = []
        for update in range(1, unrolls + 1):
            unroll = self._play(turn, length, 1 - float(hparams["one_minus_gamma"]))
            measured.append(self._learn(unroll, hparams))
            # Broken weights must not act: some environments crash on an action that is NaN.
            self._check_state(f"after update {update} of the turn, at step {turn.steps}")
        metrics = {"env_steps": float(len(measured) * length * self.envs), "unroll": float(length)}
        metrics["episodes"] = float(len(turn.returns))
        if turn.returns:
            metrics["episode_return"] = fmean(turn.returns)
        if measured:
            metrics |= {name: fmean(m[name] for m in measured) for name in measured[0]}
        return metrics

    def _begin_turn(self) -> Episodes:
        # New environments, since some carry more through reset() than they admit: a turn must come
        # out the same in a process that has run none before.
        self._end_turn()
        seed = int(self.rng.integers(REPORT_SEED - self.envs))
        self.turn = Episodes(self.recipe.make(self.envs), seed)
        self.trace = np.zeros(self.envs)
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
        obs, actions, rewards, terminated, ended, traces = [], [], [], [], [], []
        cut, cut_obs = [], []

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

    def _learn(self, unroll: Unroll, hparams: Hparams) -> dict[str, float]:
        """One update on one unroll (PPO, algorithm 1), and what happened in it."""
        net, shape = self.net, unroll.rewards.shape
        obs = self._tensor(unroll.obs.reshape(-1, *unroll.obs.shape[2:]))
        actions = self._tensor(unroll.actions.reshape(len(obs), *unroll.actions.shape[2:]))
        with torch.no_grad():
            parts = [net(part) for part in obs.split(1024)]
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
        told = {"environment": self.described}
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
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        # Adam keeps the tensors that it is given, and would go on to change them.
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.traces.load_state_dict(state["traces"])
        self.carry = int(state["carry"])
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
                    frames.append(_frame(env.render()[0] if renders else self._seen(episode.obs)))
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
    is_rate = isinstance(rate, (int, float)) and math.isfinite(rate) and rate > 0
    return float(rate) if is_rate else 30.0


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
