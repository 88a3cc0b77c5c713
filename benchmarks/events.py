"""Everything that simulated populations do, as a digest: whether a change moved any event.

    python -m benchmarks.events > before.txt    # on the commit before
    python -m benchmarks.events | diff before.txt -

Three problems, both modes and a slot for each member or two for all, with turns of every duration:
each line is the SHA-256 of all turns of all seeds, with who copied whom, every hyperparameter and
every score to the last digit, in the order in which they happened. A digest holds for one machine
and one set of versions: it is there to be compared, and not to be written down.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.problems import Drift
from pbt_flow.population.records import Plan, turn_to_json
from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.tasks.toy import Toy
from pbt_flow.testing.simulation import Simulation, simulate

PROBLEMS = (Toy, NoisyQuadratic, Drift)
MODES = ("async", "generational")
SLOTS = (2, 8)


def uneven(plan: Plan, rng: np.random.Generator) -> float:
    """Seconds of a turn: anything between half and one and a half."""
    return float(rng.uniform(0.5, 1.5))


def events(made: Simulation) -> Iterable[Any]:
    """What a population did, as plain values: the order of its turns, and what came out of each."""
    yield from made.engine.log
    for member in sorted(made.history.turns):
        for turn in made.history.turns[member]:
            plain = turn_to_json(turn)
            del plain["seconds"], plain["started"]
            # Which try of a turn it was names its files, and is no event.
            del plain["plan"]["attempt"]
            yield plain


def digest(problem: type, mode: str, slots: int, seeds: int) -> str:
    """The digest of all events of some populations of 8."""
    sha = hashlib.sha256()
    for seed in range(seeds):
        made = simulate(
            problem,
            slots=slots,
            duration=uneven,
            population=8,
            turns=8,
            interval=5,
            mode=mode,
            seed=seed,
        )
        for event in events(made):
            sha.update(json.dumps(event, sort_keys=True).encode())
    return sha.hexdigest()


def main() -> None:
    """Print a line for each problem, mode and number of slots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="populations for each line")
    seeds = parser.parse_args().seeds
    for problem, mode, slots in itertools.product(PROBLEMS, MODES, SLOTS):
        name = f"{problem.__name__:15} {mode:13} {slots} slots"
        print(name, digest(problem, mode, slots, seeds), flush=True)


if __name__ == "__main__":
    main()
