"""The problems with known answers, by simulation: the figures of docs/results.md.

python benchmarks/toys.py                 # minutes
python benchmarks/toys.py --seeds 10      # fewer, to see it work
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

from pbt_flow.simulation import simulate
from tasks.quadratic import NoisyQuadratic
from tasks.toy import Toy

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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=100, help="at most so many of each case")
    most = parser.parse_args().seeds
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
