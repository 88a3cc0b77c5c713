"""The contracts for strategies: ours keep them, and each broken one is caught by one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from pbt_flow.population.history import Candidate
from pbt_flow.space import draw
from pbt_flow.strategies.bandit import PB2
from pbt_flow.strategies.exploit import (
    BinaryTournament,
    Exploit,
    NoExploit,
    Truncation,
    TTest,
    is_due,
    is_sure_to_stay,
)
from pbt_flow.strategies.explore import Explore, Gaussian, NoExplore, Perturb, Resample
from pbt_flow.strategies.multiple_frequencies import MultipleFrequencies
from pbt_flow.strategies.samplers import LatinHypercube, OptunaSampler, Sampler, Sobol, Uniform
from pbt_flow.testing import ExploitContract, ExploreContract, SamplerContract

Contract = type[ExploitContract] | type[ExploreContract] | type[SamplerContract]


def failures(contract: Contract, strategy: Any) -> set[str]:
    """The sentences of a contract that a strategy does not keep."""
    test = type("Contract", (contract,), {"strategy": strategy})()
    found = set()
    for name in dir(test):
        if name.startswith("test_"):
            try:
                getattr(test, name)()
            except Exception:
                found.add(name.removeprefix("test_"))
    return found


# --- exploit --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CopiesItself(Truncation):
    def __call__(self, me, others, rng) -> int | None:
        return me.member


@dataclass(frozen=True)
class FlipsItsOwnCoin(Truncation):
    def __call__(self, me, others, rng) -> int | None:
        return super().__call__(me, others, np.random.default_rng())


@dataclass(frozen=True)
class SortsInPlace(Truncation):
    def __call__(self, me, others, rng) -> int | None:
        donor = super().__call__(me, others, rng)
        others.sort(key=lambda c: -c.fitness)
        return donor


@dataclass(frozen=True)
class NeverCopies(Truncation):
    def __call__(self, me, others, rng) -> int | None:
        return None


@dataclass(frozen=True)
class HasAnUnwrittenField(Truncation):
    table: dict[str, int] = field(default_factory=lambda: {"a": 1}, hash=False)


@dataclass(frozen=True)
class IsTooSure(BinaryTournament):
    """Says that nobody of the better half ever copies, which a tournament does not keep."""


@is_sure_to_stay.register
def _(exploit: IsTooSure, *, worse: int, members: int) -> bool:
    return worse >= members // 2


@pytest.mark.parametrize(
    "strategy",
    [
        Truncation(),
        Truncation(fraction=0.5, copies="weights", ties=True),
        BinaryTournament(),
        BinaryTournament(ties=True),
        TTest(),
        NoExploit(),
        Truncation(copies="hparams", until=0.5),
    ],
    ids=str,
)
def test_each_exploit_of_ours_keeps_its_contract(strategy: Exploit) -> None:
    assert failures(ExploitContract, strategy) == set()


class TestMultipleFrequencies(ExploitContract):
    strategy = MultipleFrequencies()
    populations = (8, 16, 24)


class TestFiveFrequencies(ExploitContract):
    strategy = MultipleFrequencies(periods=(1, 1, 2, 3, 7))
    populations = (20, 40)


@dataclass(frozen=True)
class IsNeverDue(MultipleFrequencies):
    """Says that only every other member decides, which it does not keep."""


@is_due.register
def _(exploit: IsNeverDue, me: Candidate) -> bool:
    return me.member % 2 == 0


def test_a_strategy_that_copies_though_it_is_not_due_is_caught() -> None:
    test = type("Contract", (TestMultipleFrequencies,), {"strategy": IsNeverDue()})()
    with pytest.raises(AssertionError, match="not due"):
        test.test_who_is_sure_to_stay_stays_whatever_is_still_to_come()


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        (CopiesItself(), "it_names_one_of_the_others_or_nobody"),
        (FlipsItsOwnCoin(), "the_same_chance_gives_the_same_decision"),
        (SortsInPlace(), "it_leaves_its_arguments_alone"),
        (NeverCopies(), "it_copies_as_it_says"),
        (HasAnUnwrittenField(), "it_can_be_written_down_and_read_back"),
        (IsTooSure(), "who_is_sure_to_stay_stays_whatever_is_still_to_come"),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else "",
)
def test_a_broken_exploit_is_caught(strategy: Exploit, sentence: str) -> None:
    assert sentence in failures(ExploitContract, strategy)


# --- explore --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeavesTheSpace(NoExplore):
    def __call__(self, hparams, space, fresh, rng) -> dict[str, Any]:
        return {**hparams, "log": hparams["log"] * 2}


@dataclass(frozen=True)
class ForgetsTheType(NoExplore):
    def __call__(self, hparams, space, fresh, rng) -> dict[str, Any]:
        return {**hparams, "integer": str(hparams["integer"])}


@dataclass(frozen=True)
class MovesTheDonor(NoExplore):
    def __call__(self, hparams, space, fresh, rng) -> dict[str, Any]:
        hparams.update(fresh())
        return dict(hparams)


@dataclass(frozen=True)
class DrawsOnItsOwn(NoExplore):
    def __call__(self, hparams, space, fresh, rng) -> dict[str, Any]:
        return draw(space, np.random.default_rng())


@dataclass(frozen=True)
class AsksForEach(NoExplore):
    def __call__(self, hparams, space, fresh, rng) -> dict[str, Any]:
        return {name: fresh()[name] for name in space}


@pytest.mark.parametrize(
    "strategy", [Perturb(), Perturb(factors=(0.5, 2.0)), Gaussian(), Resample(), NoExplore()]
)
def test_each_explore_of_ours_keeps_its_contract(strategy: Explore) -> None:
    assert failures(ExploreContract, strategy) == set()


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        (LeavesTheSpace(), "every_move_stays_in_the_space_with_its_types"),
        (ForgetsTheType(), "every_move_stays_in_the_space_with_its_types"),
        (MovesTheDonor(), "the_donors_hyperparameters_are_left_alone"),
        (DrawsOnItsOwn(), "the_same_chance_gives_the_same_move"),
        (AsksForEach(), "a_fresh_configuration_is_asked_for_once_at_most"),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else "",
)
def test_a_broken_explore_is_caught(strategy: Explore, sentence: str) -> None:
    assert sentence in failures(ExploreContract, strategy)


# --- samplers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MakesOneTooMany(Uniform):
    def initial(self, space, size, rng) -> list[dict[str, Any]]:
        return super().initial(space, size + 1, rng)


@dataclass(frozen=True)
class LearnsNonsense(Uniform):
    @property
    def window(self) -> int:
        return 20

    def fresh(self, space, gains: Sequence[Any], rng) -> dict[str, Any]:
        return {name: len(gains) for name in space}


@pytest.mark.parametrize("strategy", [Uniform(), LatinHypercube(), Sobol(), OptunaSampler(), PB2()])
def test_each_sampler_of_ours_keeps_its_contract(strategy: Sampler) -> None:
    assert failures(SamplerContract, strategy) == set()


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        (MakesOneTooMany(), "an_initial_population_has_its_size_and_lies_in_the_space"),
        (LearnsNonsense(), "fresh_configurations_lie_in_the_space"),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else "",
)
def test_a_broken_sampler_is_caught(strategy: Sampler, sentence: str) -> None:
    assert sentence in failures(SamplerContract, strategy)
