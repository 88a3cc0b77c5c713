"""PB2: hyperparameters proposed by a model of what they gained, and of how that changes with time.

`explore resample` with `resample pb2` is Population Based Bandits: a member that has copied takes
the whole configuration whose gain has the greatest upper confidence bound.

Source: Parker-Holder et al. 2020, Provably Efficient Online Hyperparameter Optimization with
Population-Based Bandits (arXiv 2002.02518); the kernel is that of Bogunovic et al. 2016,
Time-Varying Gaussian Process Bandit Optimization (arXiv 1601.06650). One departure: members decide
one by one, and a proposal knows nothing of those that others train with at this moment.
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
    from sklearn.gaussian_process import GaussianProcessRegressor

_LENGTHS = (0.05, 0.1, 0.2, 0.4)
"""How far a gain tells of its neighbourhood, in shares of a hyperparameter's range."""
_MEMORIES = (100.0, 10.0)
"""After how many turns a gain has lost all but 1/e of what it tells."""
_NOISE = 0.3
"""The variance of a gain that no hyperparameter explains, in units of all variance."""
_ANYWHERE, _NEARBY, _STEP = 100, 50, 0.08
"""How many proposals are drawn from the space, how many near the newest, and how near those are."""


@dataclass(frozen=True)
class PB2:
    """A Gaussian process bandit on the gains of recent turns.

    The score itself belongs mostly to inherited weights, and gains of early turns are larger than
    those of late ones: the model sees each gain in standard deviations of the gains of its turn. It
    forgets: two gains tell the less of each other the more turns lie between them. Of a few
    lengths and memories it takes those under which the gains are likeliest.

    With many turns this is the greediest choice of all (docs/choosing.md).
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
        if len(gains) < 2:
            return draw(space, rng)
        import numpy as np

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
        # How much an unknown place is worth trying grows with what is known of the others.
        boldness = math.sqrt(max(0.2, 0.2 * math.log(0.4 * len(gains) + 1.1)))
        return proposals[int(np.argmax(mean + boldness * deviation))]


def _standardised(gains: Sequence[Gain]) -> list[float]:
    """Each gain in standard deviations of its turn's gains, from their mean, at most 2 of them."""
    import numpy as np

    # A single outlier among gains of any size must leave the others finite.
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
    """Where hyperparameters lie: two choices without an order are a whole range apart."""
    place = list[float]()
    for name, dist in space.items():
        if isinstance(dist, CategoricalDistribution) and not is_ordered(dist):
            chosen = index_of(hparams[name], dist)
            place += [math.sqrt(0.5) * (number == chosen) for number in range(len(dist.choices))]
        else:
            place.append(to_unit(hparams[name], dist))
    return place


def _neighbour(hparams: Hparams, space: Space, rng: np.random.Generator) -> dict[str, Value]:
    """A configuration near another; choices without an order stay as they are."""
    moved = dict[str, Value]()
    for name, dist in space.items():
        size = _STEP * float(rng.normal())
        is_movable = is_ordered(dist)
        moved[name] = shift(hparams[name], dist, size, rng) if is_movable else hparams[name]
    return moved


def _likeliest(places: np.ndarray, gains: np.ndarray) -> GaussianProcessRegressor:
    """The model under which the gains are likeliest.

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
            # An infinite length takes a column out: the first factor is of the hyperparameters, the
            # second one of time. A Matern kernel of 1/2 is exp(-distance / memory).
            of_hparams = RBF([length] * size + [np.inf], "fixed")
            of_time = Matern([np.inf] * size + [memory], "fixed", nu=0.5)
            model = GaussianProcessRegressor(of_hparams * of_time, alpha=_NOISE, optimizer=None)
            models.append(model.fit(places, gains))
    return max(models, key=lambda model: model.log_marginal_likelihood_value_)
