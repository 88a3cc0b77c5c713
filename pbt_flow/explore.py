"""Explore: how a member that has just copied moves its hyperparameters.

Every strategy returns values that lie in their distributions, with their types; a hyperparameter
whose domain has one value never moves. `fresh` gives a whole new configuration (from the prior, or
from a sampler that learns); it is asked at most once for a child, and only if it is needed.

Source: Jaderberg et al. 2017, section 4 and appendix A (arXiv 1711.09846).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pbt_flow.space import Hparams, Space, Value, check_names, from_unit, is_ordered, scale, to_unit

if TYPE_CHECKING:
    import numpy as np


class Explore(Protocol):
    """Decides where the hyperparameters of a copy move."""

    def __call__(
        self,
        hparams: Hparams,
        space: Space,
        fresh: Callable[[], dict[str, Value]],
        rng: np.random.Generator,
    ) -> dict[str, Value]:
        """The hyperparameters to train on with.

        Args:
            hparams: Those of the donor, or the member's own, as the exploit strategy copies.
            space: The distributions that the result must lie in.
            fresh: Gives a configuration that owes nothing to `hparams`.
            rng: The only source of chance.
        """


@dataclass(frozen=True)
class NoExplore:
    """Keep the hyperparameters as they were copied: selection alone, a control."""

    def __call__(
        self,
        hparams: Hparams,
        space: Space,
        fresh: Callable[[], dict[str, Value]],
        rng: np.random.Generator,
    ) -> dict[str, Value]:
        return dict(hparams)


@dataclass(frozen=True)
class Perturb:
    """Scale each hyperparameter by a random factor, or now and then resample it.

    The default factors are each other's inverse, so that a value that is multiplied does not drift
    (one whose range reaches 0 moves by 0.25 of its width up and by 0.2 down); the paper's are
    0.8/1.2, and 0.5/2 for its GANs. Unordered choices have no direction to move in and change by
    resampling only. See `pbt_flow.space.scale` for integers and for ranges that reach 0.
    """

    factors: tuple[float, ...] = (0.8, 1.25)
    resample_probability: float = 0.25
    """For each hyperparameter on its own. The paper gives none; this is what others use."""
    ordered: tuple[str, ...] = ()
    """Choices, beside those that are sorted numbers, whose neighbours are alike."""

    def __post_init__(self) -> None:
        fine = [math.isfinite(factor) and factor > 0 and factor != 1 for factor in self.factors]
        if not fine or not all(fine):
            raise ValueError(f"factors must be finite, above 0 and not 1, got {self.factors}")
        _check_probability(self.resample_probability)

    def __call__(
        self,
        hparams: Hparams,
        space: Space,
        fresh: Callable[[], dict[str, Value]],
        rng: np.random.Generator,
    ) -> dict[str, Value]:
        check_names(self.ordered, space, "explore perturb, ordered")

        def move(name: str) -> Value:
            # Drawn even where it goes unused, so that one choice does not shift the others' chance.
            factor = self.factors[int(rng.integers(len(self.factors)))]
            if not (is_ordered(space[name]) or name in self.ordered):
                return hparams[name]
            return scale(hparams[name], space[name], factor)

        return _resample_some(
            {name: move(name) for name in space}, space, self.resample_probability, fresh, rng
        )


@dataclass(frozen=True)
class Gaussian:
    """Step each hyperparameter by a normal amount within its domain mapped to [0, 1].

    The same `sigma` suits a learning rate on a log scale and a discount close to 1. A step beyond
    an end of the domain is reflected.
    """

    sigma: float = 0.1
    resample_probability: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 1:
            raise ValueError(f"sigma must lie above 0 and not above 1, got {self.sigma}")
        _check_probability(self.resample_probability)

    def __call__(
        self,
        hparams: Hparams,
        space: Space,
        fresh: Callable[[], dict[str, Value]],
        rng: np.random.Generator,
    ) -> dict[str, Value]:
        def move(name: str) -> Value:
            size, dist = rng.normal(0.0, self.sigma), space[name]
            if not is_ordered(dist):
                return hparams[name]
            unit = abs(to_unit(hparams[name], dist) + size) % 2
            moved = from_unit(2 - unit if unit > 1 else unit, dist)
            if moved == hparams[name] and getattr(dist, "step", 1) is not None:
                # A coarse domain would round nearly every step away. A factor next to 1 takes one.
                moved = scale(moved, dist, 1 + math.copysign(1e-9, size))
            return moved

        return _resample_some(
            {name: move(name) for name in space}, space, self.resample_probability, fresh, rng
        )


@dataclass(frozen=True)
class Resample:
    """Draw each hyperparameter anew with some probability, and keep the others."""

    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def __call__(
        self,
        hparams: Hparams,
        space: Space,
        fresh: Callable[[], dict[str, Value]],
        rng: np.random.Generator,
    ) -> dict[str, Value]:
        return _resample_some(dict(hparams), space, self.probability, fresh, rng)


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"a resample probability must lie in [0, 1], got {probability}")


def _resample_some(
    moved: dict[str, Value],
    space: Space,
    probability: float,
    fresh: Callable[[], dict[str, Value]],
    rng: np.random.Generator,
) -> dict[str, Value]:
    chosen = [name for name in space if rng.random() < probability]
    if not chosen:
        return moved
    drawn = fresh()
    return {name: drawn[name] if name in chosen else value for name, value in moved.items()}


EXPLORES = {
    "perturb": Perturb,
    "gaussian": Gaussian,
    "resample": Resample,
    "none": NoExplore,
}
