"""What a turn costs beside training, next to the bare limit and, where it is installed, Ray Tune.

    python -m benchmarks.overhead                      # the table in docs/results.md
    python -m benchmarks.overhead --sizes 0.01 --populations 8
    python -m benchmarks.overhead --engine ray --sizes 0.01           # beside Ray Tune with MLflow
    python -m benchmarks.overhead --sizes 0.01 --store sqlite shared proxied s3

Each case is a process of its own. CPU seconds are those of the whole process tree; a case is run
with few and with many turns, and the difference gives the cost of a member-turn without start-up.
The requests of a member-turn are the same difference of what the servers have in their own logs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.process_tree import descendants

WORKERS = 2
PLACES = ("sqlite", "shared", "proxied", "s3")
"""The stores of `benchmarks.stores`."""
_OF_SERVERS = ("server_cpu", "bucket_cpu", "requests", "bucket_requests")
ROOT = Path(__file__).resolve().parents[1]


def ours(megabytes: float, population: int, turns: int, engine: str) -> dict[str, float]:
    """One population of ours, with everything in the store that MLflow is set to."""
    began = time.time()
    import pbt_flow

    if engine == "ray":
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    result = pbt_flow.run(
        f"{ROOT}/benchmarks/noop.py:NoOp",
        options={"megabytes": megabytes},
        population=population,
        turns=turns,
        interval=1,
        workers=WORKERS,
        engine=engine,
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


def ray_tune(
    megabytes: float, population: int, turns: int, *, with_mlflow: bool
) -> dict[str, float]:
    """Ray Tune's PopulationBasedTraining at its cheapest: class API, actors reused.

    With MLflow it has its own callback tell the store that MLflow is set to. Params are logged at
    the end of a trial: otherwise that callback ends the run at the first exploit.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
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

    callbacks = []
    if with_mlflow:
        import mlflow
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        callbacks.append(
            MLflowLoggerCallback(
                tracking_uri=mlflow.get_tracking_uri(),
                experiment_name="ray",
                log_params_on_trial_end=True,
            )
        )
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
            callbacks=callbacks,
            verbose=0,
        ),
        param_space={"x": tune.uniform(0, 1)},
    ).fit()
    return {}


SYSTEMS = {
    "limit": limit,
    "pbt_flow": partial(ours, engine="processes"),
    "pbt_flow on ray": partial(ours, engine="ray"),
    "ray tune": partial(ray_tune, with_mlflow=False),
    "ray tune with mlflow": partial(ray_tune, with_mlflow=True),
}
OF_ENGINE = {
    "processes": ["limit", "pbt_flow", "ray tune"],
    "ray": ["pbt_flow on ray", "ray tune with mlflow"],
}
"""The systems that are compared for each engine of ours."""


def measure(
    system: str, megabytes: float, population: int, turns: int, place: str
) -> dict[str, float]:
    """Run one case in a process, a folder and a store of its own."""
    command = [sys.executable, __file__, "--case", system, str(megabytes), str(population)]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        store = None
        if place != "sqlite":
            # With the servers of the tests, which the plain table does not need.
            from benchmarks.stores import opened

            store = stack.enter_context(opened(place, Path(folder)))
            environment |= store.environment
        before_servers = (0.0, 0.0) if store is None else (store.server_cpu(), store.bucket_cpu())
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
        servers: dict[str, float] = {}
        if store is not None:
            size = store.bytes_kept()
            servers = {
                "requests": sum(store.requests().values()),
                "bucket_requests": sum(store.bucket_requests().values()),
                "server_cpu": store.server_cpu() - before_servers[0],
                "bucket_cpu": store.bucket_cpu() - before_servers[1],
            }
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    # Ray leaves processes behind that nobody waits for: of these, what was last seen.
    cpu = max(cpu, sum(seen.cpu.values()))
    told = json.loads(out.strip().splitlines()[-1])
    return {"cpu": cpu, "wall": wall, "peak": seen.peak, "disk": size / 1e6, **servers, **told}


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
        for pid in [process.pid, *descendants(process.pid)]:
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            except OSError:
                continue
            total += sum(int(x.split()[1]) for x in rollup.splitlines() if x.startswith("Pss:"))
            seen.cpu[pid] = sum(map(int, times)) / tick
        seen.peak = max(seen.peak, total / 1000)
        time.sleep(0.25)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.01, 10, 100], metavar="MB")
    parser.add_argument("--populations", type=int, nargs="+", default=[8], metavar="N")
    parser.add_argument("--turns", type=int, nargs=2, default=[2, 12], metavar=("FEW", "MANY"))
    parser.add_argument("--engine", choices=OF_ENGINE, default="processes")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, help="others than the engine's")
    parser.add_argument("--store", nargs="+", choices=PLACES, default=["sqlite"])
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        system, megabytes, population, turns = given.case
        told = SYSTEMS[system](float(megabytes), int(population), int(turns))
        print("\n" + json.dumps(told), flush=True)
        return
    systems = given.systems or OF_ENGINE[given.engine]
    if not importlib.util.find_spec("ray"):
        systems = [system for system in systems if "ray" not in system]
    few, many = given.turns
    print(
        "| store | state MB | population | system | CPU s per member-turn | of the server "
        "| of the bucket | requests | to the bucket | kB per member-turn | wall s per member-turn "
        "| first turn after s | peak PSS MB | disk MB | copies |\n" + "|---" * 15 + "|"
    )
    for place, megabytes, population, system in itertools.product(
        given.store, given.sizes, given.populations, systems
    ):
        short = measure(system, megabytes, population, few, place)
        long = measure(system, megabytes, population, many, place)
        each = {
            name: (long[name] - short[name]) / (population * (many - few))
            for name in ("cpu", "wall", "disk", *_OF_SERVERS)
            if name in long
        }
        of_servers = [f"{each[name]:.3g}" if name in each else "" for name in _OF_SERVERS]
        first = f"{long['first']:.1f}" if "first" in long else ""
        print(
            f"| {place} | {megabytes:g} | {population} | {system} | {each['cpu']:.4f} "
            f"| {' | '.join(of_servers)} | {1000 * each['disk']:.1f} | {each['wall']:.4f} "
            f"| {first} | {long['peak']:.0f} | {long['disk']:.1f} | {long.get('copies', '')} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
