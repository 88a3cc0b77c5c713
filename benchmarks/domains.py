"""PBT beside its controls in the paper's three domains: same budget, seeds and founders.

    python -m benchmarks.domains                                # the tables in docs/results.md
    python -m benchmarks.domains --tasks gan --methods "random search" "PBT in stages, wide"
    python -m benchmarks.domains --tasks rl --seeds 0 1 --with rl "--turns 6 --set env=CartPole-v1"
    python -m benchmarks.domains --study resampling             # docs/choices.md: drawing anew

All methods run the same code, with the task's defaults where nothing else is said. With one seed
they begin with the same members and spend the same number of turns. Which seeds make the pairs is
written in `pairs.json`, and was fixed before the first run. Runs that are done are kept in `--out`,
one JSON file each: the same command goes on where it was stopped, and prints what there is. With
`--record` their reports are entered into `reports.json`, and `benchmarks.evidence` compares them.

For each method the table has the report of what is handed over; the difference to random search
with a 95% t interval over pairs, and a sign-flip test of the same differences; the share of its
budget after which its best score was that of random search's winner, in the median; and the CPU
seconds with everything in them: decisions, restores, the finalists' evaluations. Beside it stands
what a random search of as many members is expected to hand over, from the members of all its seeds
together: all are reported on, and of every set of so many the one with the best score counts.

A study of `pairs.json` compares other methods in the same way, each with the method that the study
names in place of random search. Its pairs were fixed before its own first run.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow

import pbt_flow
from benchmarks.evidence import CONTROL, Pairs, record
from pbt_flow.commands.stored_population import StoredPopulation
from pbt_flow.exceptions import StoreError
from pbt_flow.population.history import History
from pbt_flow.task import find_task

ROOT = Path(__file__).resolve().parents[1]
PAIRS = Path(__file__).with_name("pairs.json")
METHODS: dict[str, list[str]] = {
    CONTROL: ["random_search"],
    "random search, decay": ["random_search", "--set", "decay=cosine"],
    "halving, wide": ["random_search", "--stages", "wide"],
    "halving, narrow": ["random_search", "--stages", "narrow"],
    "PBT": ["run", "--stages", "none"],
    "PBT in stages, wide": ["run", "--stages", "wide"],
    "PBT in stages, narrow": ["run", "--stages", "narrow"],
}
"""The command of each method. Stages in which nobody copies are successive halving."""
STUDIED: dict[str, list[str]] = {
    "PBT, no resampling": ["run", "--stages", "none", "--explore", "resample_probability=0"],
    "narrow, no resampling": ["run", "--stages", "narrow", "--explore", "resample_probability=0"],
    "narrow, a tenth resampled": [
        "run",
        "--stages",
        "narrow",
        "--explore",
        "resample_probability=0.1",
    ],
}
"""The command of each method that only a study of `pairs.json` has. Behind `--explore` stands what
is changed in the task's own strategy."""


def words_of(task: str, method: str) -> list[str]:
    """The command of a method for a task, with the task's own explore strategy written out."""
    words = list((METHODS | STUDIED)[method])
    if "--explore" in words:
        place = words.index("--explore") + 1
        own = find_task(task).defaults["explore"]
        words[place] = changed(own, words[place])
    return words


def changed(strategy: str, setting: str) -> str:
    """A strategy as text with one of its settings changed, or added.

    >>> changed("perturb:factors=0.5/2,resample_probability=0.25", "resample_probability=0")
    'perturb:factors=0.5/2,resample_probability=0'
    >>> changed("gaussian", "sigma=0.2")
    'gaussian:sigma=0.2'
    """
    name, _, told = strategy.partition(":")
    settings = dict(one.split("=", 1) for one in told.split(",") if one)
    settings.update([setting.split("=", 1)])
    return f"{name}:{','.join(f'{key}={value}' for key, value in settings.items())}"


def measure(task: str, method: str, seed: int, more: Sequence[str], out: Path) -> dict[str, Any]:
    """One population, in a process of its own; its result, from the file where it was kept."""
    command, *own = words_of(task, method)
    name = re.sub(r"[^\w.-]+", "_", "-".join([task, command, *own, str(seed), *more]))
    kept = out / f"{name}.json"
    if kept.is_file():
        told: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        return told
    print(f"{task}, {method}, seed {seed} ...", file=sys.stderr, flush=True)
    words = [sys.executable, "-m", "pbt_flow", command, "--task", task, "--seed", str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
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


def reports_of(runs: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Of each method the reports of its seeds, as `reports.json` has them."""
    reports: dict[str, dict[str, float]] = {}
    for seed, done in runs.items():
        for method, told in done.items():
            reports.setdefault(method, {})[str(seed)] = float(f"{report_of(told):.4g}")
    return reports


def best_so_far(history: History) -> Iterator[float]:
    """The best fitness of any record, after each turn in the order in which turns ended."""
    turns = sorted(itertools.chain(*history.turns.values()), key=lambda turn: turn.ended)
    return itertools.accumulate(map(history.fitness, turns), max)


def share_needed(own: History, control: History) -> float:
    """The share of all its turns after which a population had the best score of its control's end.

    Scores of both are single readings, so that both are flattered alike. Turns are as long in both,
    and as many run at once, so that this is a share of the time as well; infinite for never.
    """
    goal = max(map(control.fitness, control.finalists()))
    reached = list(best_so_far(own))
    late = sum(fitness < goal for fitness in reached)
    return math.inf if late == len(reached) else (late + 1) / len(reached)


def told_share(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], histories: Mapping[str, History]
) -> str:
    """The median over pairs of the share needed, in words; empty where no pair is stored still."""
    shares = []
    for own, other in pairs:
        names = own["population"], other["population"]
        if all(name in histories for name in names):
            shares.append(share_needed(*(histories[name] for name in names)))
    if not shares:
        return ""
    share = statistics.median(shares)
    return f"{share:.0%}" if math.isfinite(share) else "never"


def expected_best(pool: Sequence[tuple[float, float]], size: int) -> float:
    """The report to be expected of the best by score among so many members, drawn from a pool.

    Args:
        pool: The fitness and the report of every member.
        size: How many are drawn, without putting any back.

    >>> expected_best([(1.0, 10.0), (2.0, 20.0), (3.0, 30.0)], 2)
    26.666666666666668
    """
    ranked = sorted(pool)
    # Of all sets, those in which a member is the best have the others from below it.
    ways = [math.comb(below, size - 1) for below in range(len(ranked))]
    reports = [report for _, report in ranked]
    return sum(w * r for w, r in zip(ways, reports, strict=True)) / sum(ways)


def pool_of(runs: Sequence[Mapping[str, Any]], out: Path) -> list[tuple[float, float]]:
    """The fitness and the report of the last record of every member of some populations."""
    pool = list[tuple[float, float]]()
    for told in runs:
        kept = out / f"pool-{told['population']}.json"
        if not kept.is_file():
            print(f"reporting on the members of {told['population']} ...", file=sys.stderr)
            stored = StoredPopulation.open(told["population"])
            history = stored.read_history()
            found = []
            for turn in history.finalists():
                if turn.checkpoint is not None:
                    report = stored.revive(turn.checkpoint).report()
                    found.append((history.fitness(turn), next(iter(report.values()))))
            kept.write_text(json.dumps(found), "utf-8")
        pool += [(fitness, report) for fitness, report in json.loads(kept.read_text("utf-8"))]
    return pool


def table(
    task: str,
    runs: Mapping[int, Mapping[str, Mapping[str, Any]]],
    out: Path,
    against: str = CONTROL,
) -> str:
    """Every report, and the paired differences to a method; positive ones are better."""
    kind = find_task(task)
    minimize = kind.report_direction == "minimize"
    named = [*METHODS, *STUDIED]
    methods = [method for method in named if any(method in done for done in runs.values())]
    reports = reports_of(runs)
    lines = [f"\n### {task}\n", f"| seed | {' | '.join(methods)} |"]
    lines.append("|---" * (len(methods) + 1) + "|")
    for seed in runs:
        found = (reports[method].get(str(seed)) for method in methods)
        cells = ["" if report is None else f"{report:.4g}" for report in found]
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    lines += [
        "",
        f"| method | mean report | better than {against} by | ahead in | sign-flip p |",
    ]
    lines[-1] += " as good after | CPU s a run |"
    lines.append("|---" * 7 + "|")
    histories = dict[str, History]()
    for done in runs.values():
        for told in done.values():
            # What a run came to stays in its file where its population has been deleted.
            with contextlib.suppress(StoreError):
                # Runs may have been made in parts, each with a database of its own.
                mlflow.set_tracking_uri(told["tracking_uri"])
                histories[told["population"]] = pbt_flow.load(told["population"]).history
    for method in methods:
        own = [done[method] for done in runs.values() if method in done]
        row = [method, f"{statistics.fmean(reports[method].values()):.4g}"]
        if method == against or against not in reports:
            row += ["", "", "", ""]
        else:
            row += Pairs.of(reports[method], reports[against], minimize=minimize).cells
            pairs = [done for done in runs.values() if method in done and against in done]
            row.append(told_share([(done[method], done[against]) for done in pairs], histories))
        row.append(f"{sum(told['cpu'] for told in own) / len(own):.0f}")
        lines.append(f"| {' | '.join(row)} |")
    controls = [done[CONTROL] for done in runs.values() if CONTROL in done]
    if controls:
        pool, size = pool_of(controls, out), controls[0]["members"]
        lines += [
            "",
            f"A random search of {size} members is expected to hand over "
            f"{expected_best(pool, size):.4g}, by the {len(pool)} members of all seeds.",
        ]
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, seed by seed, and print the tables."""
    pairs = json.loads(PAIRS.read_text("utf-8"))
    plan, studies = pairs["tasks"], pairs["studies"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--tasks", nargs="+", choices=list(plan), help="default: all")
    methods = list(METHODS | STUDIED)
    parser.add_argument(
        "--methods", nargs="+", choices=methods, help="default: all, or the study's"
    )
    parser.add_argument("--study", choices=list(studies), help="the methods and tasks of a study")
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
    parser.add_argument(
        "--record",
        action="store_true",
        help="enter the reports into reports.json, which benchmarks.evidence compares",
    )
    given = parser.parse_args()
    if given.record and (given.more or given.seeds):
        parser.error("--record is for the pairs of pairs.json, with the options that they have")
    against = CONTROL
    if given.study is not None:
        study = studies[given.study]
        plan, against = study["tasks"], study["against"]
        given.tasks = [task for task in plan if task in (given.tasks or plan)]
        if not given.tasks:
            parser.error(f"the study {given.study} is of {', '.join(plan)}")
        given.methods = given.methods or study["methods"]
    given.tasks = given.tasks or list(plan)
    given.methods = given.methods or list(METHODS)
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{given.out.resolve()}/mlflow.db"
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
    if given.record:
        record({task: reports_of(runs[task]) for task in given.tasks})
    for task in given.tasks:
        print(table(task, runs[task], given.out, against), flush=True)


if __name__ == "__main__":
    main()
