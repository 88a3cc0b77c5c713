"""How many workers a GPU feeds: turns a second of one population, by device and workers.

    python -m benchmarks.gpu_workers --task gan --workers 1 2 4 8

Run it on a machine with a GPU. Each row is the same population, which comes to the same members
whatever its workers; the rate is that of its turns from the first one's start to the last one's
end, without the start of the workers. It is a wall time: run nothing else beside it, and read the
ratios. A row of the CPU, with as many workers as the most, says whether the GPU is worth it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile

import pbt_flow


def rate(task: str, device: str, workers: int, turns: int) -> tuple[float, float]:
    """Turns a second of a population of 8, and the seconds of a turn."""
    result = pbt_flow.run(
        task,
        device=device,
        workers=workers,
        population=8,
        turns=turns,
        stages="none",
        finalists="none",
        exploit="none",
        seed=0,
        quiet=True,
    )
    done = list(itertools.chain(*result.history.turns.values()))
    assert all(turn.ok for turn in done), [turn.error for turn in done if turn.error]
    # The first turn of each member builds it and warms the GPU's kernels up.
    later = [turn for turn in done if turn.plan.turn > 1]
    span = max(turn.ended for turn in later) - min(turn.started for turn in later)
    return len(later) / span, sum(turn.took for turn in later) / len(later)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--task", default="gan")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--turns", type=int, default=4)
    given = parser.parse_args()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    print("| device | workers | turns a second | beside the first row | seconds a turn |")
    print("|---|---|---|---|---|")
    first = 0.0
    rows = [("cuda", workers) for workers in given.workers] + [("cpu", max(given.workers))]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for device, workers in rows:
            turns, seconds = rate(given.task, device, workers, given.turns)
            first = first or turns
            cells = [device, f"{workers}", f"{turns:.3g}", f"{turns / first:.2f}", f"{seconds:.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
