"""What a turn costs beside training, next to the bare limit and, where it is installed, Ray Tune.

    python -m benchmarks.overhead                      # the table in docs/results.md
    python -m benchmarks.overhead --sizes 0.01 --populations 8

Each case is a process of its own. CPU seconds are those of the whole process tree; a case is run
with few and with many turns, and the difference gives the cost of a member-turn without start-up.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORKERS = 2
ROOT = Path(__file__).resolve().parents[1]


def ours(megabytes: float, population: int, turns: int) -> dict[str, float]:
    """One population of ours, with everything in MLflow's default store."""
    began = time.time()
    import pbt_flow

    result = pbt_flow.run(
        f"{ROOT}/benchmarks/noop.py:NoOp",
        options={"megabytes": megabytes},
        population=population,
        turns=turns,
        interval=1,
        workers=WORKERS,
        quiet=True,
    )
    first = min(turn.ended for own in result.history.turns.values() for turn in own) - began
    copies = sum(t.plan.donor is not None for own in result.history.turns.values() for t in own)
    return {"first": first, "copies": copies}


def limit(megabytes: float, population: int, turns: int) -> dict[str, float]:
    """The least that must be done: save, fsync and rename a state, or link the donor's."""
    import torch

    state = {"weights": torch.zeros(max(1, int(megabytes * 250_000)))}
    for turn in range(turns):
        for member in range(population):
            partial = Path(f"{member}.partial")
            torch.save(state, partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(f"{member}.pt")
            if turn % 4 == 3 and member:
                Path(f"{member}.pt").unlink()
                os.link("0.pt", f"{member}.pt")
    return {}


def ray(megabytes: float, population: int, turns: int) -> dict[str, float]:
    """Ray Tune's PopulationBasedTraining at its cheapest: class API, actors reused, no MLflow."""
    import torch
    from ray import init, tune
    from ray.tune.schedulers import PopulationBasedTraining

    class Trainable(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.weights = torch.zeros(max(1, int(megabytes * 250_000)))

        def step(self) -> dict[str, float]:
            return {"score": float(torch.rand(1))}

        def save_checkpoint(self, folder: str) -> None:
            torch.save({"weights": self.weights}, Path(folder, "state.pt"))

        def load_checkpoint(self, folder: str) -> None:
            self.weights = torch.load(Path(folder, "state.pt"))["weights"]

        def reset_config(self, config: dict[str, Any]) -> bool:
            return True

    init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    scheduler = PopulationBasedTraining(
        metric="score",
        mode="max",
        perturbation_interval=1,
        hyperparam_mutations={"x": tune.uniform(0, 1)},
    )
    tune.Tuner(
        Trainable,
        tune_config=tune.TuneConfig(scheduler=scheduler, num_samples=population, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(Path.cwd() / "ray"),
            stop={"training_iteration": turns},
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            verbose=0,
        ),
        param_space={"x": tune.uniform(0, 1)},
    ).fit()
    return {}


SYSTEMS = {"limit": limit, "pbt_flow": ours, "ray": ray}


def measure(system: str, megabytes: float, population: int, turns: int) -> dict[str, float]:
    """Run one case in a process and a folder of its own."""
    command = [sys.executable, __file__, "--case", system, str(megabytes), str(population)]
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        before, began = os.times(), time.monotonic()
        process = subprocess.Popen(
            [*command, str(turns)], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
        )
        seen = Seen()
        watcher = threading.Thread(target=_watch, args=(process, seen))
        watcher.start()
        out, _ = process.communicate()
        wall, after = time.monotonic() - began, os.times()
        watcher.join()
        if process.returncode:
            raise SystemExit(f"{system} failed")
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    # Ray leaves processes behind that nobody waits for: of these, what was last seen.
    cpu = max(cpu, sum(seen.cpu.values()))
    told = json.loads(out.strip().splitlines()[-1])
    return {"cpu": cpu, "wall": wall, "peak": seen.peak, "disk": size / 1e6, **told}


@dataclass
class Seen:
    """What was seen of a process tree while it lived."""

    peak: float = 0.0
    """The most memory at once, in MB; shared pages are divided among their users."""
    cpu: dict[int, float] = field(default_factory=dict)
    """CPU seconds of each process when it was last seen."""


def _watch(process: subprocess.Popen[str], seen: Seen) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    while process.poll() is None:
        total = 0.0
        for pid in _tree(process.pid):
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            except OSError:
                continue
            total += sum(int(x.split()[1]) for x in rollup.splitlines() if x.startswith("Pss:"))
            seen.cpu[pid] = sum(map(int, times)) / tick
        seen.peak = max(seen.peak, total / 1000)
        time.sleep(0.25)


def _tree(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [int(c) for task in tasks for c in (task / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(descendant for child in children for descendant in _tree(child))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.01, 10, 100], metavar="MB")
    parser.add_argument("--populations", type=int, nargs="+", default=[8], metavar="N")
    parser.add_argument("--turns", type=int, nargs=2, default=[2, 12], metavar=("FEW", "MANY"))
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        system, megabytes, population, turns = given.case
        told = SYSTEMS[system](float(megabytes), int(population), int(turns))
        print("\n" + json.dumps(told), flush=True)
        return
    systems = [s for s in SYSTEMS if s != "ray" or importlib.util.find_spec("ray")]
    print(
        "| state MB | population | system | CPU s per member-turn | wall s per member-turn "
        "| first turn after s | peak PSS MB | disk MB | copies |\n" + "|---" * 9 + "|"
    )
    few, many = given.turns
    for megabytes in given.sizes:
        for population in given.populations:
            for system in systems:
                short = measure(system, megabytes, population, few)
                long = measure(system, megabytes, population, many)
                extra = population * (many - few)
                first = f"{long['first']:.1f}" if "first" in long else ""
                print(
                    f"| {megabytes:g} | {population} | {system} "
                    f"| {(long['cpu'] - short['cpu']) / extra:.4f} "
                    f"| {(long['wall'] - short['wall']) / extra:.4f} | {first} "
                    f"| {long['peak']:.0f} | {long['disk']:.1f} | {long.get('copies', '')} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
