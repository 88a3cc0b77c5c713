"""Explore: how a member that has just copied moves its hyperparameters.

Every strategy returns values that lie in their distributions, with their types. A hyperparameter
whose domain has one value never moves. `fresh` gives a whole new configuration, from the prior or
from a sampler that learns. A strategy asks it at most once for a move, and only if it needs it.

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
        """Return the hyperparameters to train on with.

        Args:
            hparams: The hyperparameters to move: the donor's, or the member's own if only weights
                were copied.
            space: The distributions that the result must lie in.
            fresh: Gives a configuration that does not depend on `hparams`.
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

    The default factors are each other's inverse, so that no value drifts. After 60 moves without
    any selection, walkers that began in the middle of 0..1, of 0.9..0.999 or of 1e-5..1e-1 (log)
    are in the middle in the mean, and integers are spread as they were drawn
    (`tests/test_space.py`, "many moves without selection"). The paper's factors 0.8/1.2 are not
    each other's inverse. They lead down by 2% a move: of the value on a log range, of the width on
    any other. For its GANs the paper has 0.5/2.

    A move beyond a bound stops at the bound, since the best value may be the bound itself. From
    there every other move leads back. After those 60 moves 16% of the walkers are at either bound
    of 0..1, which is 4.5 moves wide, and 0.2% at either bound of 1e-5..1e-1, which is 41.
    """

    factors: tuple[float, ...] = (0.8, 1.25)
    resample_probability: float = 0.25
    """How likely each number and each ordered choice is drawn anew. The paper gives no value; other
    implementations use this one. docs/choices.md has what others came to."""
    choice_probability: float = 0.25
    """How likely each unordered choice is drawn anew. It moves by nothing else, and would freeze at
    0."""
    ordered: tuple[str, ...] = ()
    """Names of choices whose neighbours are alike. Choices that are sorted numbers need not be
    named."""

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
            # The factor is drawn even if it goes unused, so that a hyperparameter without an order
            # does not change what is drawn for the others.
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
    """Move each hyperparameter by a normally distributed share of its range.

    Each range is measured on its own scale, perhaps a log one. So the same `sigma` suits a learning
    rate and a discount close to 1. A move beyond an end of the range turns back there.
    """

    sigma: float = 0.1
    resample_probability: float = 0.0
    """How likely each number and each ordered choice is drawn anew."""
    choice_probability: float = 0.25
    """How likely each unordered choice is drawn anew. It moves by nothing else, and would freeze at
    0."""

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
    """Draw each hyperparameter anew with a probability, and keep the others as they were copied."""

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
