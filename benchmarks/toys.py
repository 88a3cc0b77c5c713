"""The problems with known answers, by simulation: the figures of docs/results.md.

python -m benchmarks.toys                 # minutes
python -m benchmarks.toys --seeds 10      # fewer, to see it work
python -m benchmarks.toys --choices       # a quarter of an hour: the tables of docs/choices.md
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from statistics import fmean, median, stdev
from typing import Any

from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.tasks.toy import Toy
from pbt_flow.testing.simulation import Simulation, simulate

PAIR = [{"h0": 1.0, "h1": 0.0}, {"h0": 0.0, "h1": 1.0}]
MODES = ("generational", "async")
Settings = dict[str, Any]


def two(copies: str, explore: str) -> Settings:
    """The paper's Figure 2: two members that see one coordinate each."""
    exploit = f"truncation:fraction=0.5,copies={copies},ties=true"
    return {
        "task": Toy,
        "population": 2,
        "initial": PAIR,
        "turns": 50,
        "exploit": exploit,
        "explore": explore,
    }


EIGHT: Settings = {"task": Toy, "population": 8, "initial": PAIR * 4}
QUADRATIC: Settings = {
    "task": NoisyQuadratic,
    "init": "uniform",
    "exploit": "truncation:fraction=0.2",
    "explore": "perturb:resample_probability=0",
}
CASES: list[tuple[str, Settings, int, Callable[[Sequence[float]], float]]] = [
    ("toy, grid search", {**two("both", "none"), "exploit": "none"}, 1, median),
    ("toy, 2 members, weights copied, no explore", two("weights", "none"), 1, median),
    ("the same with explore", two("weights", "gaussian:sigma=0.1"), 100, median),
    ("the same, hyperparameters copied too", two("both", "gaussian:sigma=0.1"), 100, median),
    ("toy, 8 members, 20 turns of 4 steps", EIGHT, 50, median),
    ("noisy quadratic, truncation of 20%", QUADRATIC, 10, fmean),
    ("noisy quadratic, binary tournament", {**QUADRATIC, "exploit": "tournament"}, 10, fmean),
    ("noisy quadratic, random search", {**QUADRATIC, "exploit": "none"}, 10, fmean),
    *(
        (
            f"noisy quadratic, interval {interval}, {2000 // interval} turns",
            {**QUADRATIC, "interval": interval, "turns": 2000 // interval},
            10,
            fmean,
        )
        for interval in (10, 40, 100, 400)
    ),
]


# --- choices --------------------------------------------------------------------------------------

STEPS = 2_000
"""Of each member, in 100 turns."""


class BlurredQuadratic(NoisyQuadratic):
    """The noisy quadratic where a score is 10 readings, each off by as much as the loss itself."""

    def evaluate(self) -> list[float]:  # type: ignore[override]
        """Readings of the loss, as from 10 small batches."""
        return [
            super(BlurredQuadratic, self).evaluate() * (1 + e) for e in self.rng.normal(size=10)
        ]


EXPLOITS = {
    "truncation of 20%": "truncation:fraction=0.2",
    "truncation of 25%, the default": "truncation",
    "truncation of 50%": "truncation:fraction=0.5",
    "binary tournament": "tournament",
    "t-test": "ttest",
    "truncation of 20%, weights only": "truncation:fraction=0.2,copies=weights",
    "truncation of 20%, hyperparameters only": "truncation:fraction=0.2,copies=hparams",
    "none: random search": "none",
}
EXPLORES = {
    "perturb by 0.8 or 1.25": "perturb:resample_probability=0",
    "the same, a quarter resampled: the default": "perturb",
    "perturb by 0.5 or 2": "perturb:factors=0.5/2,resample_probability=0",
    "Gaussian, sigma 0.1": "gaussian:sigma=0.1",
    "resample": "resample",
    "none": "none",
}
INITS = ["latin", "sobol", "uniform"]


def true_loss(simulation: Simulation) -> float:
    """The exact loss of the winner, whatever it was judged by."""
    winner = simulation.history.winner()
    assert winner is not None
    task = NoisyQuadratic(seed=0)
    task.load_state_dict(simulation.engine.states[winner.member, winner.number])
    return task.evaluate()


def spread(seeds: int, **settings: Any) -> str:
    """Mean, standard deviation and worst of the winner's exact loss."""
    found = [true_loss(simulate(**{**QUADRATIC, **settings}, seed=seed)) for seed in range(seeds)]
    return f"{fmean(found):.3f} ± {stdev(found):.3f} | {max(found):.2f}"


def choices(seeds: int) -> None:
    """Print what the choices of docs/choices.md come to."""
    print(f"Mean, standard deviation and worst over {seeds} seeds.\n")
    print("| members | each 2,000 steps | worst | 40,000 steps in all | worst |")
    print("|---|---|---|---|---|")
    for size in (2, 4, 8, 20, 40):
        each = spread(seeds, population=size, turns=STEPS // 20)
        total = spread(seeds, population=size, turns=20 * STEPS // 20 // size)
        print(f"| {size} | {each} | {total} |", flush=True)
    print("\n| exploit | exact score | worst | blurred score | worst |\n|---|---|---|---|---|")
    for name, exploit in EXPLOITS.items():
        exact = "needs a sample | " if exploit == "ttest" else spread(seeds, exploit=exploit)
        blurred = spread(seeds, exploit=exploit, task=BlurredQuadratic)
        print(f"| {name} | {exact} | {blurred} |", flush=True)
    print("\n| explore | loss | worst |\n|---|---|---|")
    for name, explore in EXPLORES.items():
        print(f"| {name} | {spread(seeds, explore=explore)} |", flush=True)
    print("\n| init | 8 members | worst | 4 members | worst |\n|---|---|---|---|---|")
    for init in INITS:
        eight, four = (spread(seeds, init=init, population=size) for size in (8, 4))
        print(f"| {init} | {eight} | {four} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=100, help="at most so many of each case")
    parser.add_argument("--choices", action="store_true", help="population and strategies instead")
    given = parser.parse_args()
    most = given.seeds
    if given.choices:
        choices(min(10, most))
        return
    print(f"| problem | seeds | {' | '.join(MODES)} |\n|---|---|---|---|")
    for name, settings, seeds, summary in CASES:
        seeds = min(seeds, most)
        found = [
            summary([simulate(mode=mode, seed=seed, **settings).best for seed in range(seeds)])
            for mode in MODES
        ]
        print(f"| {name} | {seeds} | {' | '.join(f'{value:.3f}' for value in found)} |", flush=True)


if __name__ == "__main__":
    main()
