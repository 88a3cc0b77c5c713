"""An exploit strategy in a package of its own: whoever lags behind copies the best."""

from dataclasses import dataclass

from pbt_flow.population.records import Copies


@dataclass(frozen=True)
class Greedy:
    """A member copies the best of the others if that one is ahead by more than a margin."""

    margin: float = 0.5
    copies: Copies = "both"

    def __call__(self, me, others, rng):
        best = others[-1]
        return best.member if best.fitness > me.fitness + self.margin else None
