"""PB2: proposes hyperparameters by a model of what they gain, and of how that changes with time.

The settings `explore resample` and `resample pb2` together are Population Based Bandits. A member
that has copied then trains on with the configuration whose gain has the greatest upper confidence
bound.

Source: Parker-Holder et al. 2020, Provably Efficient Online Hyperparameter Optimization with
Population-Based Bandits (arXiv 2002.02518); the kernel is that of Bogunovic et al. 2016,
Time-Varying Gaussian Process Bandit Optimization (arXiv 1601.06650). There is one departure: since
members decide one by one, a proposal does not know what others train with at this moment.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna.distributions import CategoricalDistribution

from pbt_flow.population.history import Gain
from pbt_flow.space import Hparams, Space, draw, index_of, is_ordered, shift, to_unit
from pbt_flow.utils.means import in_reach
from pbt_flow.utils.values import Value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sklearn.gaussian_process import GaussianProcessRegressor

_LENGTHS = (0.05, 0.1, 0.2, 0.4)
"""How far a gain tells of its neighbourhood, in shares of a hyperparameter's range."""
_MEMORIES = (100.0, 10.0)
"""After how many turns a gain has lost all but 1/e of what it tells."""
_NOISE = 0.3
"""The variance of a gain that no hyperparameter explains, in units of all variance."""
_ANYWHERE, _NEARBY, _STEP = 100, 50, 0.08
"""How many proposals are drawn from the space, how many near configurations of the newest turn, and
how far from those, in shares of a range (the deviation of a normal distribution)."""


@dataclass(frozen=True)
class PB2:
    """A Gaussian process bandit that learns from the gains of recent turns.

    Gains of early turns are larger than those of late ones. So the model is given each gain in
    standard deviations of the gains of its turn. It forgets: the more turns lie between two gains,
    the less they tell of each other. How fast it forgets, and how smooth gains are, is chosen from
    a few values by the likelihood of the gains.

    If there are many turns, this is the greediest choice of all (docs/choices.md).
    """

    window: int = 120
    """From how many of the newest turns it learns. The time that a proposal takes grows with the
    square."""

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError(f"window must be at least 2, got {self.window}")

    def initial(self, space: Space, size: int, rng: np.random.Generator) -> list[dict[str, Value]]:
        return [draw(space, rng) for _ in range(size)]

    def fresh(
        self, space: Space, gains: Sequence[Gain], rng: np.random.Generator
    ) -> dict[str, Value]:
        import numpy as np

        # Imported here, since a population tries its strategies before it begins: if the package is
        # missing, or slow to import, it is noticed then and not at the first copy.
        from sklearn.gaussian_process import GaussianProcessRegressor  # noqa: F401

        if len(gains) < 2:
            return draw(space, rng)
        known = np.array([_place(gain.hparams, space) for gain in gains])
        turns = np.array([[float(gain.turn)] for gain in gains])
        model = _likeliest(np.hstack([known, turns]), np.array(_standardised(gains)))
        now = max(gain.turn for gain in gains) + 1
        newest = [gain.hparams for gain in gains if gain.turn == now - 1]
        proposals: list[dict[str, Value]] = [draw(space, rng) for _ in range(_ANYWHERE)]
        for _ in range(_NEARBY):
            near = newest[int(rng.integers(len(newest)))]
            proposals.append(_neighbour(near, space, rng))
        places = np.array([[*_place(proposal, space), now] for proposal in proposals])
        mean, deviation = model.predict(places, return_std=True)
        # An unknown place is the more worth a trial the more is known of the other places.
        boldness = math.sqrt(max(0.2, 0.2 * math.log(0.4 * len(gains) + 1.1)))
        return proposals[int(np.argmax(mean + boldness * deviation))]


def _standardised(gains: Sequence[Gain]) -> list[float]:
    """Return how far each gain lies from the mean of its turn's gains, in standard deviations.

    No value is beyond -2 and 2, so that a single outlier does not rule the model.
    """
    import numpy as np

    # Gains may be as great as floats can be, and a deviation is a square root of squares.
    values = in_reach([gain.gain for gain in gains])
    of_turn: dict[int, list[float]] = defaultdict(list)
    for gain, value in zip(gains, values, strict=True):
        of_turn[gain.turn].append(value)
    found = []
    for gain, value in zip(gains, values, strict=True):
        spread = float(np.std(of_turn[gain.turn]))
        off = value - float(np.mean(of_turn[gain.turn]))
        found.append(min(2.0, max(-2.0, off / spread)) if spread > 0 else 0.0)
    return found


def _place(hparams: Hparams, space: Space) -> list[float]:
    """Return where hyperparameters lie, with each range as the interval from 0 to 1.

    A choice without an order has a number for each possible value. Two different ones are as far
    apart as the two ends of a range.
    """
    place = list[float]()
    for name, dist in space.items():
        if isinstance(dist, CategoricalDistribution) and not is_ordered(dist):
            chosen = index_of(hparams[name], dist)
            place += [math.sqrt(0.5) * (number == chosen) for number in range(len(dist.choices))]
        else:
            place.append(to_unit(hparams[name], dist))
    return place


def _neighbour(hparams: Hparams, space: Space, rng: np.random.Generator) -> dict[str, Value]:
    """Return a configuration near another; choices without an order stay as they are."""
    moved = dict[str, Value]()
    for name, dist in space.items():
        size = _STEP * float(rng.normal())
        is_movable = is_ordered(dist)
        moved[name] = shift(hparams[name], dist, size, rng) if is_movable else hparams[name]
    return moved


def _likeliest(places: NDArray[np.float64], gains: NDArray[np.float64]) -> GaussianProcessRegressor:
    """Return the model under which the gains are likeliest.

    Args:
        places: Of each gain where its hyperparameters lie, and last its turn; one row each.
        gains: The standardised gains.
    """
    import numpy as np
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, Matern

    size = places.shape[1] - 1
    models = []
    for length in _LENGTHS:
        for memory in _MEMORIES:
            # A column with an infinite length does not count. So the first kernel is one of
            # hyperparameters, and the second one of time: exp(-turns between / memory).
            of_hparams = RBF([length] * size + [np.inf], "fixed")
            of_time = Matern([np.inf] * size + [memory], "fixed", nu=0.5)
            model = GaussianProcessRegressor(of_hparams * of_time, alpha=_NOISE, optimizer=None)
            models.append(model.fit(places, gains))
    return max(models, key=lambda model: model.log_marginal_likelihood_value_)
