"""The networks of the rl task: a policy and a value on images, vectors or columns of a vector.

Orthogonal initial weights, and observations that are normalised by running statistics or scaled by
the bounds that an environment declares. What a population keeps of its winner is a `Policy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pbt_flow.task import TaskError

try:
    from gymnasium.spaces import Box, Discrete

    from .rl_actions import Actions, span
except ModuleNotFoundError as error:
    raise TaskError(
        f"the rl task needs {error.name}: pip install 'gymnasium[box2d,classic-control]'"
    ) from error

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)
Array: TypeAlias = np.ndarray[Any, Any]
Act: TypeAlias = Callable[[Array], Array]
"""Observations of a batch to sampled actions."""


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
            out: Array = x @ last[0] + last[1]
            return out

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
        head: Tensor = self.net(obs)[0]
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
        shape = actions.space.shape
        self.shape = (len(actions.start),) if shape is None else shape
        self.is_whole = not actions.numbers

    def forward(self, obs: Tensor) -> Tensor:
        head: Tensor = self.net(obs)[0]
        columns = self.net.columns
        assert columns is not None
        chosen = columns.choices(head)
        # No choice at all has no place of the greatest logit.
        choices = chosen.argmax(2) if chosen.shape[1] else chosen.sum(2)
        actions = columns.join(choices, head[:, columns.logits :])
        start, stop, low, high = self.bounds
        share = torch.where(columns.is_number, (actions + 1) / 2, actions)
        actions = (start + (stop - start) * share).clamp(low, high)
        whole: Tensor = actions.round().long() if self.is_whole else actions
        return whole.reshape(-1, *self.shape)


def _orthogonal(layer: Layer, gain: float = math.sqrt(2)) -> Layer:
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
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
