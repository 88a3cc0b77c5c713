"""Samplers: whole configurations, for the initial population and for resampled values.

A sampler that learns is given the *gain* of each recent turn (the fitness after it less the fitness
before it), since the score itself belongs mostly to the inherited weights. A sampler keeps nothing
between two draws: an Optuna study is built anew in memory each time. The record of a population is
in MLflow only.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from optuna.distributions import BaseDistribution, CategoricalDistribution

from pbt_flow.population.history import Gain
from pbt_flow.space import Hparams, Space, check_hparams, draw, from_unit, index_of
from pbt_flow.strategies.bandit import PB2
from pbt_flow.utils.means import in_reach
from pbt_flow.utils.text import listed
from pbt_flow.utils.values import Value, is_container

if TYPE_CHECKING:
    import numpy as np
    import optuna


class Sampler(Protocol):
    """Draws configurations from a space."""

    @property
    def window(self) -> int:
        """From how many of the newest turns it learns; 0 if it does not."""

    def initial(self, space: Space, size: int, rng: np.random.Generator) -> list[dict[str, Value]]:
        """Return the hyperparameters of `size` members that have not trained yet."""

    def fresh(
        self, space: Space, gains: Sequence[Gain], rng: np.random.Generator
    ) -> dict[str, Value]:
        """Return one configuration, in the light of what recent turns gained."""


@dataclass(frozen=True)
class Uniform:
    """Each hyperparameter uniform on its own scale: the prior of the PBT paper."""

    @property
    def window(self) -> int:
        return 0

    def initial(self, space: Space, size: int, rng: np.random.Generator) -> list[dict[str, Value]]:
        return [draw(space, rng) for _ in range(size)]

    def fresh(
        self, space: Space, gains: Sequence[Gain], rng: np.random.Generator
    ) -> dict[str, Value]:
        return draw(space, rng)


@dataclass(frozen=True)
class LatinHypercube(Uniform):
    """An initial population that covers each hyperparameter evenly.

    Each range is cut into as many equal shares as there are members, and one value is drawn from
    each share (McKay et al. 1979, 10.2307/1268522).
    """

    def initial(self, space: Space, size: int, rng: np.random.Generator) -> list[dict[str, Value]]:
        columns = {
            name: [
                from_unit((share + rng.random()) / size, dist) for share in rng.permutation(size)
            ]
            for name, dist in space.items()
        }
        return [{name: column[row] for name, column in columns.items()} for row in range(size)]


@dataclass(frozen=True)
class Sobol(Uniform):
    """An initial population that covers the space evenly (a scrambled Sobol sequence)."""

    def initial(self, space: Space, size: int, rng: np.random.Generator) -> list[dict[str, Value]]:
        from scipy.stats import qmc

        with warnings.catch_warnings():
            # SciPy warns that only powers of two are balanced exactly. Any other size still covers
            # the space more evenly than chance.
            warnings.filterwarnings("ignore", message="The balance properties of Sobol")
            points = qmc.Sobol(len(space), rng=rng).random(size)
        return [
            {
                name: from_unit(unit, dist)
                for unit, (name, dist) in zip(row, space.items(), strict=True)
            }
            for row in points
        ]


@dataclass(frozen=True)
class OptunaSampler:
    """Any sampler of Optuna, such as `TPESampler` or `GPSampler`.

    Raises (when built):
        ValueError: There is no such sampler.
    """

    sampler: str = "TPESampler"
    """A class of `optuna.samplers`, or the dotted name of another subclass of its `BaseSampler`."""
    window: int = 200
    """From how many of the newest turns it learns. What was good long ago misleads by now."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")
        self._kind()

    def initial(self, space: Space, size: int, rng: np.random.Generator) -> list[dict[str, Value]]:
        study, known = self._study(rng), _for_optuna(space)
        return [_ask(study, known, space) for _ in range(size)]

    def fresh(
        self, space: Space, gains: Sequence[Gain], rng: np.random.Generator
    ) -> dict[str, Value]:
        import optuna

        study, known = self._study(rng), _for_optuna(space)
        # A sampler squares the values that it is told, and only their proportions matter to it.
        values = in_reach([gain.gain for gain in gains])
        study.add_trials(
            optuna.trial.create_trial(
                params=_numbered(gain.hparams, space), distributions=dict(known), value=value
            )
            for gain, value in zip(gains, values, strict=True)
        )
        return _ask(study, known, space)

    def check_learns(self) -> None:
        """Refuse a sampler whose draws would not depend on what was observed.

        Raises:
            ValueError: The sampler never learns, or it keeps what it has learnt in a study, which
                here is built anew for each draw.
        """
        reasons = {
            "CmaEsSampler": "it keeps its state in the study that it sampled from",
            "NSGAIISampler": "it keeps its generations in the study that it sampled from",
            "NSGAIIISampler": "it keeps its generations in the study that it sampled from",
            "QMCSampler": "it does not learn",
            "RandomSampler": "it does not learn (choose uniform)",
            "GridSampler": "it does not learn",
            "BruteForceSampler": "it does not learn",
        }
        for kind in self._kind().__mro__:
            if kind.__name__ in reasons:
                raise ValueError(
                    f"{self.sampler} cannot propose resampled values: {reasons[kind.__name__]}; "
                    "choose TPESampler or GPSampler"
                )

    def _kind(self) -> type[optuna.samplers.BaseSampler]:
        import optuna

        module, _, name = self.sampler.rpartition(".")
        try:
            kind = getattr(importlib.import_module(module) if module else optuna.samplers, name)
        except (ImportError, AttributeError):
            known = [
                n for n in optuna.samplers.__all__ if n.endswith("Sampler") and n[:4] != "Base"
            ]
            raise ValueError(
                f"Optuna has no sampler {self.sampler!r}; it has {listed(known)}"
            ) from None
        if not (inspect.isclass(kind) and issubclass(kind, optuna.samplers.BaseSampler)):
            raise ValueError(f"{self.sampler!r} is no subclass of optuna.samplers.BaseSampler")
        return kind

    def _study(self, rng: np.random.Generator) -> optuna.Study:
        import optuna

        kind = self._kind()
        settings = {"seed": int(rng.integers(2**31 - 1))}
        if "scramble" in inspect.signature(kind).parameters:
            # Without it, QMC puts one member on the lower bound of every hyperparameter.
            settings["scramble"] = True
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            try:
                sampler = kind(**settings)
            except TypeError as error:
                raise ValueError(f"{self.sampler} cannot be built from a seed: {error}") from None
            return optuna.create_study(direction="maximize", sampler=sampler)


def _is_numbered(dist: BaseDistribution) -> bool:
    """Whether Optuna is told the indices of choices in place of the choices.

    Some samplers look choices up in tables, which cannot hold lists, and to Optuna 1 and True are
    one choice.
    """
    if not isinstance(dist, CategoricalDistribution):
        return False
    if any(map(is_container, dist.choices)):
        return True
    return len(set(dist.choices)) < len(dist.choices)


def _for_optuna(space: Space) -> dict[str, BaseDistribution]:
    """Return the space as Optuna's samplers are told it."""
    return {
        name: CategoricalDistribution(range(len(dist.choices)))
        if isinstance(dist, CategoricalDistribution) and _is_numbered(dist)
        else dist
        for name, dist in space.items()
    }


def _numbered(hparams: Hparams, space: Space) -> dict[str, Any]:
    """Return hyperparameters as Optuna's samplers are told them."""
    return {
        name: index_of(hparams[name], dist)
        if isinstance(dist, CategoricalDistribution) and _is_numbered(dist)
        else hparams[name]
        for name, dist in space.items()
    }


def _ask(study: optuna.Study, known: Space, space: Space) -> dict[str, Value]:
    """Return what Optuna proposes, as a configuration of the space."""
    with _quiet():
        proposed: dict[str, Any] = dict(study.ask(dict(known)).params)
    for name, dist in space.items():
        if isinstance(dist, CategoricalDistribution) and _is_numbered(dist):
            proposed[name] = dist.choices[proposed[name]]
    # Optuna proposes 0.30000000000000004 where 3 steps of 0.1 are meant: `check_hparams` snaps it.
    return check_hparams(proposed, space)


class _quiet:
    """While it is entered, Optuna does not announce each study that is built for one draw.

    Nor does it warn of a space with conditions, for which some of its samplers take one in which a
    range has a single value.
    """

    def __enter__(self) -> None:
        import optuna

        self.level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def __exit__(self, *_: object) -> None:
        import optuna

        optuna.logging.set_verbosity(self.level)


SAMPLERS = {
    "uniform": Uniform,
    "latin": LatinHypercube,
    "sobol": Sobol,
    "optuna": OptunaSampler,
    "pb2": PB2,
}
