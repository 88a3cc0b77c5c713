"""Explore: how a member that has just copied moves its hyperparameters.

Every strategy returns values that lie in their distributions, with their types; a hyperparameter
whose domain has one value never moves. `fresh` gives a whole new configuration (from the prior, or
from a sampler that learns); it is asked at most once for a child, and only if it is needed.

Source: Jaderberg et al. 2017, section 4 and appendix A (arXiv 1711.09846).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pbt_flow.space import Hparams, Space, check_names, is_ordered, scale, shift
from pbt_flow.utils.values import Value

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

    A number of a log range is multiplied, any other moves by the factor's logarithm in widths of
    its range (see `pbt_flow.space.scale`, for integers too). Unordered choices have no direction to
    move in and change by resampling only.

    The default factors are each other's inverse, and no value drifts: after 60 moves without any
    selection, walkers that began in the middle of 0..1, of 0.9..0.999 or of 1e-5..1e-1 (log) are in
    the middle in the mean, and integers are spread as they were drawn (`tests/test_space.py`, "many
    moves without selection"). The paper's 0.8/1.2 are not, and lead down by 2% a move: of the
    value on a log range, of the width on any other. It has 0.5/2 for its GANs.

    A move beyond a bound stops there, so that the best value may be the bound itself; from there
    every other move leads back. After those 60 moves 16% of the walkers are at either bound of
    0..1, which is 4.5 moves wide, and 0.2% at either of 1e-5..1e-1, which is 41.
    """

    factors: tuple[float, ...] = (0.8, 1.25)
    resample_probability: float = 0.25
    """For each number and ordered choice on its own. The paper gives none; others use this one."""
    choice_probability: float = 0.25
    """The same for unordered choices, which move by nothing else and would freeze at 0."""
    ordered: tuple[str, ...] = ()
    """Choices, beside those that are sorted numbers, whose neighbours are alike."""

    def __post_init__(self) -> None:
        fine = [math.isfinite(factor) and factor > 0 and factor != 1 for factor in self.factors]
        if not fine or not all(fine):
            raise ValueError(f"factors must be finite, above 0 and not 1, got {self.factors}")
        _check_probability(self.resample_probability)
        _check_probability(self.choice_probability)

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
            if not self._has_order(name, space):
                return hparams[name]
            return scale(hparams[name], space[name], factor, rng)

        def probability(name: str) -> float:
            ordered = self._has_order(name, space)
            return self.resample_probability if ordered else self.choice_probability

        moved = {name: move(name) for name in space}
        return _resample_some(moved, {name: probability(name) for name in space}, fresh, rng)

    def _has_order(self, name: str, space: Space) -> bool:
        return is_ordered(space[name]) or name in self.ordered


@dataclass(frozen=True)
class Gaussian:
    """Step each hyperparameter by a normal amount within its domain mapped to [0, 1].

    The same `sigma` suits a learning rate on a log scale and a discount close to 1. A step beyond
    an end of the domain is reflected.
    """

    sigma: float = 0.1
    resample_probability: float = 0.0
    """For each number and ordered choice on its own."""
    choice_probability: float = 0.25
    """The same for unordered choices, which move by nothing else and would freeze at 0."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 1:
            raise ValueError(f"sigma must lie above 0 and not above 1, got {self.sigma}")
        _check_probability(self.resample_probability)
        _check_probability(self.choice_probability)

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
            return shift(hparams[name], dist, size, rng, reflect=True)

        def probability(name: str) -> float:
            ordered = is_ordered(space[name])
            return self.resample_probability if ordered else self.choice_probability

        moved = {name: move(name) for name in space}
        return _resample_some(moved, {name: probability(name) for name in space}, fresh, rng)


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
        return _resample_some(dict(hparams), dict.fromkeys(space, self.probability), fresh, rng)


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability of resampling must lie in [0, 1], got {probability}")


def _resample_some(
    moved: dict[str, Value],
    probabilities: Mapping[str, float],
    fresh: Callable[[], dict[str, Value]],
    rng: np.random.Generator,
) -> dict[str, Value]:
    chosen = [name for name, probability in probabilities.items() if rng.random() < probability]
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
