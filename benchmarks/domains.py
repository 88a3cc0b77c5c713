"""PBT beside its controls in the paper's three domains: same budget, seeds and founders.

    python benchmarks/domains.py                                # the tables in docs/results.md
    python benchmarks/domains.py --tasks gan --methods "random search" "PBT in stages"
    python benchmarks/domains.py --tasks rl --seeds 0 1 --with rl "--turns 6 --set env=CartPole-v1"

All methods run the same code, with the task's defaults where nothing else is said. With one seed
they begin with the same members and spend the same number of turns. Which seeds make the pairs is
written in `pairs.json`, and was fixed before the first run. Runs that are done are kept in `--out`,
one JSON file each: the same command goes on where it was stopped, and prints what there is.

For each method the table has the report of what is handed over, the difference to random search
with a 95% t interval over pairs, a sign-flip test of the same differences, and the CPU seconds with
everything in them: decisions, restores, the finalists' evaluations.
"""

from __future__ import annotations

import argparse
import itertools
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
PAIRS = Path(__file__).with_name("pairs.json")
CONTROL = "random search"
METHODS: dict[str, list[str]] = {
    CONTROL: ["random_search"],
    "random search, decay": ["random_search", "--set", "decay=cosine"],
    "halving, same stages": ["random_search", "--stages", "wide"],
    "PBT": ["run"],
    "PBT in stages, wide": ["run", "--stages", "wide"],
    "PBT in stages, narrow": ["run", "--stages", "narrow"],
}
"""The command of each method."""


def measure(task: str, method: str, seed: int, more: Sequence[str], out: Path) -> dict[str, Any]:
    """One population, in a process of its own; its result, from the file where it was kept."""
    command, *own = METHODS[method]
    name = re.sub(r"[^\w.-]+", "_", "-".join([task, command, *own, str(seed), *more]))
    kept = out / f"{name}.json"
    if kept.is_file():
        told: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return told
    print(f"{task}, {method}, seed {seed} ...", file=sys.stderr, flush=True)
    words = [sys.executable, "-m", "pbt_flow", command, "--task", task, "--seed", str(seed)]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{out.resolve()}/mlflow.db",
        "OMP_NUM_THREADS": "1",
    }
    before = os.times()
    with (out / f"{name}.log").open("w") as log:
        done = subprocess.run(
            [*words, "--json", *own, *more],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
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


def report_of(told: Mapping[str, Any]) -> float:
    """The headline of the report of what is handed over."""
    best = told.get("average") or told["winner"]
    return float(next(iter(best["report"].values())))


def sign_flip(differences: Sequence[float]) -> float:
    """The two-sided p-value of the sign-flip permutation test of a mean of zero, exact.

    It assumes no normal distribution. The least that n pairs can give is 2 / 2**n.
    """
    count = len(differences)
    observed = abs(sum(differences))
    signs = itertools.product((1, -1), repeat=count)
    sums = (abs(sum(s * d for s, d in zip(flips, differences, strict=True))) for flips in signs)
    # Equal sums may differ in the last digit by the order of adding.
    extreme = sum(total >= observed * (1 - 1e-12) for total in sums)
    return extreme / 2**count


def table(task: str, runs: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> str:
    """Every report, and the paired differences to random search; positive ones are better."""
    kind = find_task(task)
    minimize = kind.report_direction == "minimize"
    methods = [method for method in METHODS if any(method in done for done in runs.values())]
    lines = [f"\n### {task}\n", f"| seed | {' | '.join(methods)} |"]
    lines.append("|---" * (len(methods) + 1) + "|")
    for seed, done in runs.items():
        cells = [f"{report_of(done[m]):.4g}" if m in done else "" for m in methods]
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    lines += [
        "",
        "| method | mean report | better than random search by | ahead in | sign-flip p |",
    ]
    lines[-1] += " CPU s a run |"
    lines.append("|---" * 6 + "|")
    for method in methods:
        own = [done[method] for done in runs.values() if method in done]
        reports = [report_of(told) for told in own]
        row = [method, f"{sum(reports) / len(reports):.4g}"]
        pairs = [done for done in runs.values() if method in done and CONTROL in done]
        differences = [report_of(done[method]) - report_of(done[CONTROL]) for done in pairs]
        if minimize:
            differences = [-difference for difference in differences]
        if method == CONTROL or not differences:
            row += ["", "", ""]
        else:
            found = Interval.of(differences)
            told = f"{found.mean:+.3g}" + (f" ({found.bounds})" if found.bounds else "")
            ahead = sum(difference > 0 for difference in differences)
            row += [told, f"{ahead} of {len(differences)}", f"{sign_flip(differences):.3g}"]
        row.append(f"{sum(told['cpu'] for told in own) / len(own):.0f}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, seed by seed, and print the tables."""
    plan = json.loads(PAIRS.read_text("utf-8"))["tasks"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--tasks", nargs="+", choices=list(plan), default=list(plan))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="SEED", help="other seeds than those of pairs.json"
    )
    parser.add_argument("--out", type=Path, default=Path("domains"), help="where runs are kept")
    parser.add_argument(
        "--with",
        dest="more",
        nargs=2,
        action="append",
        default=[],
        metavar=("TASK", "OPTIONS"),
        help="options of pbt_flow for a task, for all methods, as one text",
    )
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    options = {task: shlex.split(plan[task]["options"]) for task in given.tasks}
    options |= {task: shlex.split(more) for task, more in given.more}
    runs: dict[str, dict[int, dict[str, Any]]] = {task: {} for task in given.tasks}
    try:
        for task in given.tasks:
            for seed in given.seeds or plan[task]["seeds"]:
                for method in given.methods:
                    told = measure(task, method, seed, options[task], given.out)
                    runs[task].setdefault(seed, {})[method] = told
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
    for task in given.tasks:
        print(table(task, runs[task]), flush=True)


if __name__ == "__main__":
    main()
