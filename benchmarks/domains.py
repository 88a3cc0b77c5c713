"""PBT beside random search in the paper's three domains: same budget, seeds and initial points.

    python benchmarks/domains.py                                # the tables in docs/results.md
    python benchmarks/domains.py --tasks rl --with rl "--turns 6 --set env=CartPole-v1"

Both methods run the same code, with the task's defaults where nothing else is said and the control
with exploit off; with one seed they begin with the same members and draw the same numbers. Runs
that are done are kept in `--out`, one JSON file each: the same command goes on where it was
stopped, and prints what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pbt_flow.task import find_task
from pbt_flow.utils.interval import Interval

ROOT = Path(__file__).resolve().parents[1]
METHODS = {"PBT": "run", "random search": "random_search"}
MEASURES = ("mean score", "best score", "best report")


def measure(task: str, method: str, seed: int, more: Sequence[str], out: Path) -> dict[str, Any]:
    """One population, in a process of its own; its result, from the file where it was kept."""
    name = re.sub(r"[^\w.-]+", "_", "-".join([task, METHODS[method], str(seed), *more]))
    kept = out / f"{name}.json"
    if kept.is_file():
        told: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return told
    print(f"{task}, {method}, seed {seed} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pbt_flow", METHODS[method], "--task", task, "--seed"]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{out.resolve()}/mlflow.db",
        "OMP_NUM_THREADS": "1",
    }
    before = os.times()
    done = subprocess.run(
        [*command, str(seed), "--json", *more],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=(out / f"{name}.log").open("w"),
        text=True,
    )
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{task}, {method}, seed {seed} failed; see {out}/{name}.log")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    told["cpu"] = after.children_user + after.children_system
    told["cpu"] -= before.children_user + before.children_system
    partial = kept.with_suffix(".partial")
    partial.write_text(json.dumps(told, indent=1), "utf-8")
    partial.replace(kept)
    return told


def measures(told: Mapping[str, Any]) -> list[float]:
    """Mean score of the population, and score and report of its best member."""
    winner = told["winner"]
    return [told["mean_score"], winner["score"], next(iter(winner["report"].values()))]


def table(task: str, runs: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> str:
    """Every run, and the paired differences; positive ones are in favour of PBT."""
    kind = find_task(task)
    better = (kind.direction, kind.direction, kind.report_direction)
    lines = [f"\n### {task}\n", f"| seed | method | {' | '.join(MEASURES)} | CPU s |"]
    lines.append("|---" * 6 + "|")
    for seed, both in runs.items():
        for method, told in both.items():
            values = " | ".join(f"{value:.4g}" for value in measures(told))
            lines.append(f"| {seed} | {method} | {values} | {told['cpu']:.0f} |")
    pairs = [both for both in runs.values() if len(both) == len(METHODS)]
    lines += ["", f"| difference over {len(pairs)} seeds | mean, 95% t interval | PBT ahead in |"]
    lines.append("|---" * 3 + "|")
    for index, what in enumerate(MEASURES):
        sign = 1 if better[index] == "maximize" else -1
        differences = [
            sign * (measures(both["PBT"])[index] - measures(both["random search"])[index])
            for both in pairs
        ]
        if differences:
            ahead = sum(difference > 0 for difference in differences)
            found = Interval.of(differences)
            told = f"{found.mean:+.3g}" + (f" ({found.bounds})" if found.bounds else "")
            lines.append(f"| {what} | {told} | {ahead} of {len(pairs)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, seed by seed, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--tasks", nargs="+", default=["gan", "rl", "translation"], metavar="TASK")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="SEED")
    parser.add_argument("--out", type=Path, default=Path("domains"), help="where runs are kept")
    parser.add_argument(
        "--with",
        dest="more",
        nargs=2,
        action="append",
        default=[],
        metavar=("TASK", "OPTIONS"),
        help="options of pbt_flow for a task, for both methods, as one text",
    )
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    options = {task: shlex.split(more) for task, more in given.more}
    runs: dict[str, dict[int, dict[str, Any]]] = {task: {} for task in given.tasks}
    try:
        for seed in given.seeds:
            for task in given.tasks:
                for method in METHODS:
                    told = measure(task, method, seed, options.get(task, []), given.out)
                    runs[task].setdefault(seed, {})[method] = told
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
    for task in given.tasks:
        print(table(task, runs[task]), flush=True)


if __name__ == "__main__":
    main()
