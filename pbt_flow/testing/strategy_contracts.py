"""The contracts of strategies: for each kind a test class, which a strategy's own test inherits."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pbt_flow.population.history import Candidate, Gain
from pbt_flow.space import Hparams, Space, Value, check_hparams, draw
from pbt_flow.strategies.exploit import EXPLOITS, Exploit, groups_of, is_due, is_sure_to_stay
from pbt_flow.strategies.explore import EXPLORES, Explore
from pbt_flow.strategies.samplers import SAMPLERS, Sampler
from pbt_flow.strategies.sources import Sources
from pbt_flow.strategies.text import parse, write

EVERY_KIND: Space = {
    "log": FloatDistribution(1e-5, 1e-1, log=True),
    "linear": FloatDistribution(-1.0, 1.0),
    "stepped": FloatDistribution(0.1, 0.9, step=0.1),
    "integer": IntDistribution(1, 12),
    "log integer": IntDistribution(1, 1024, log=True),
    "even": IntDistribution(2, 64, step=2),
    "ordered": CategoricalDistribution([16, 32, 64]),
    "name": CategoricalDistribution(["relu", "tanh", None]),
    "fixed": FloatDistribution(0.5, 0.5),
}
"""A space with a domain of every kind. The domain `fixed` holds a single value."""


class ExploitContract:
    """The contract of an exploit strategy. A subclass names the strategy."""

    strategy: ClassVar[Exploit]
    populations: ClassVar[Sequence[int]] = (2, 3, 8, 20)
    """Sizes of the populations in which the strategy decides."""
    decisions: ClassVar[int] = 200
    """How many decisions the tests ask for in each size. A strategy that copies rarely needs more,
    so that the tests see it copy."""

    def decide(self, everyone: Sequence[Candidate], member: int, seed: int) -> int | Sources | None:
        """The member that `member` copies, or whose weights and whose hyperparameters it takes;
        None for nobody.
        """
        me = everyone[member]
        # A strategy is always given the others from the worst to the best.
        others = [candidate for candidate in everyone if candidate is not me]
        others.sort(key=lambda candidate: candidate.fitness)
        return self.strategy(me, others, np.random.default_rng(seed))

    def situations(self, size: int) -> list[list[Candidate]]:
        """Populations to decide in, of one age each. In every fourth some have equal scores."""
        rng = np.random.default_rng(size)
        count = max(2, self.decisions // size)
        groups = groups_of(self.strategy, size)
        return [
            _population(groups, rng, age=number + 1, equal=number % 4 == 1)
            for number in range(count)
        ]

    def test_it_can_be_written_down_and_read_back(self) -> None:
        assert_written(self.strategy, EXPLOITS, "exploit")

    def test_it_names_one_of_the_others_or_nobody(self) -> None:
        for size in self.populations:
            for seed, everyone in enumerate(self.situations(size)):
                for me in range(size):
                    donor = self.decide(everyone, me, seed)
                    others = set(range(size)) - {me}
                    named = donor.members if isinstance(donor, Sources) else [donor]
                    assert donor is None or set(named) <= others, f"member {me} copies {donor!r}"

    def test_the_same_chance_gives_the_same_decision(self) -> None:
        for size in self.populations:
            for seed, everyone in enumerate(self.situations(size)):
                first = [self.decide(everyone, me, seed) for me in range(size)]
                again = [self.decide(everyone, me, seed) for me in range(size)]
                assert first == again, "a decision depends on more than its arguments"

    def test_it_leaves_its_arguments_alone(self) -> None:
        for size in self.populations:
            everyone = self.situations(size)[0]
            me, *others = sorted(everyone, key=lambda candidate: candidate.fitness)
            before = copy.deepcopy(others)
            self.strategy(me, others, np.random.default_rng(0))
            assert others == before, "the strategy changed the list of the others"

    def test_it_copies_as_it_says(self) -> None:
        """A strategy that never copies says so in `copies`: its population counts as a control."""
        donors: list[int | Sources | None] = []
        for size in self.populations:
            for seed, everyone in enumerate(self.situations(size)):
                donors += [self.decide(everyone, me, seed) for me in range(size)]
        copied = any(donor is not None for donor in donors)
        said = self.strategy.copies is not None
        assert copied == said, (
            f"copies is {self.strategy.copies!r}, and in {len(donors)} decisions "
            f"{'somebody' if copied else 'nobody'} copied"
        )

    def test_who_is_sure_to_stay_stays_whatever_is_still_to_come(self) -> None:
        """A member trains on before all scores are known if it is not due or `is_sure_to_stay`."""
        for size in self.populations:
            for seed, everyone in enumerate(self.situations(size)):
                for me in range(size):
                    mine = everyone[me]
                    own = [other for other in everyone if other.group == mine.group]
                    worse = sum(other.fitness < mine.fitness for other in own)
                    sure = is_sure_to_stay(self.strategy, worse=worse, members=len(own))
                    if sure or not is_due(self.strategy, mine):
                        donor = self.decide(everyone, me, seed)
                        assert donor is None, (
                            f"a member with {worse} worse ones of {len(own)} is not due or sure "
                            f"to stay, and copied {donor}"
                        )


class ExploreContract:
    """The contract of an explore strategy. A subclass names the strategy."""

    strategy: ClassVar[Explore]
    space: ClassVar[Space] = EVERY_KIND
    """The space in which the strategy moves. Set it if the strategy works in one space only."""
    moves: ClassVar[int] = 100
    """How many moves the tests ask for."""

    def move(self, hparams: Hparams, seed: int) -> dict[str, Value]:
        """The hyperparameters under which a copy of a member with `hparams` trains on."""
        rng = np.random.default_rng(seed)
        return self.strategy(hparams, self.space, lambda: draw(self.space, rng), rng)

    def test_it_can_be_written_down_and_read_back(self) -> None:
        assert_written(self.strategy, EXPLORES, "explore")

    def test_every_move_stays_in_the_space_with_its_types(self) -> None:
        hparams: Hparams = draw(self.space, np.random.default_rng(0))
        for seed in range(self.moves):
            hparams = check_hparams(self.move(hparams, seed), self.space)

    def test_the_same_chance_gives_the_same_move(self) -> None:
        hparams = draw(self.space, np.random.default_rng(0))
        for seed in range(self.moves):
            assert self.move(hparams, seed) == self.move(hparams, seed)

    def test_the_donors_hyperparameters_are_left_alone(self) -> None:
        hparams = draw(self.space, np.random.default_rng(0))
        before = dict(hparams)
        for seed in range(self.moves):
            self.move(hparams, seed)
            assert hparams == before, "the strategy changed the donor's own hyperparameters"

    def test_a_fresh_configuration_is_asked_for_once_at_most(self) -> None:
        """A sampler that learns may take a second for a fresh configuration."""
        hparams = draw(self.space, np.random.default_rng(0))
        for seed in range(self.moves):
            rng = np.random.default_rng(seed)
            fresh = _CountedDraws(self.space, rng)
            self.strategy(hparams, self.space, fresh, rng)
            assert fresh.asked <= 1, (
                f"one move asked for {fresh.asked} fresh configurations; ask for one at most"
            )


class _CountedDraws:
    """Draws fresh configurations, and counts how often it was asked for one."""

    def __init__(self, space: Space, rng: np.random.Generator) -> None:
        self.space, self.rng, self.asked = space, rng, 0

    def __call__(self) -> dict[str, Value]:
        self.asked += 1
        return draw(self.space, self.rng)


class SamplerContract:
    """The contract of a sampler. A subclass names the strategy."""

    strategy: ClassVar[Sampler]
    space: ClassVar[Space] = EVERY_KIND
    sizes: ClassVar[Sequence[int]] = (1, 2, 8)
    """Sizes of the initial populations that the tests ask for."""

    def gains(self, number: int) -> list[Gain]:
        """The gains of `number` recent turns, or of as many as the sampler wants to know."""
        rng = np.random.default_rng(number)
        count = min(number, self.strategy.window)
        return [Gain(hparams=draw(self.space, rng), gain=float(rng.normal())) for _ in range(count)]

    def test_it_can_be_written_down_and_read_back(self) -> None:
        assert_written(self.strategy, SAMPLERS, "init")

    def test_an_initial_population_has_its_size_and_lies_in_the_space(self) -> None:
        for size in self.sizes:
            made = self.strategy.initial(self.space, size, np.random.default_rng(size))
            assert len(made) == size
            for point in made:
                check_hparams(point, self.space)

    def test_fresh_configurations_lie_in_the_space(self) -> None:
        for number in (0, 1, 20):
            fresh = self.strategy.fresh(
                self.space, self.gains(number), np.random.default_rng(number)
            )
            check_hparams(fresh, self.space)

    def test_the_same_chance_gives_the_same_configurations(self) -> None:
        def everything() -> list[Any]:
            rng = np.random.default_rng(0)
            first = self.strategy.initial(self.space, 4, rng)
            return [*first, self.strategy.fresh(self.space, self.gains(20), rng)]

        assert everything() == everything()


def assert_written(strategy: Any, kinds: Mapping[str, type[Any]], what: str) -> None:
    """Check that a resumed population builds the same strategy again from the strategy's text."""
    text = write(strategy, kinds)
    assert parse(text, kinds, what) == strategy, f"{text!r} is read as another strategy"


def _population(
    groups: Sequence[int], rng: np.random.Generator, *, age: int, equal: bool
) -> list[Candidate]:
    """Members of one age with a sample each. With `equal` some members have equal scores."""
    samples = [rng.normal(member, 1.0, size=5) for member in rng.permutation(len(groups))]
    if equal:
        # Rounded to so few values that several members share one.
        samples = [np.full(5, np.round(sample.mean() / 3)) for sample in samples]
    return [
        Candidate(
            member=member,
            turn=age,
            fitness=float(sample.mean()),
            sample=tuple(sample.tolist()),
            group=groups[member],
            age=age,
        )
        for member, sample in enumerate(samples)
    ]
