"""Populations on four simulated machines to which things happen, and a count of what was lost.

    python -m benchmarks.machines                       # the table in docs/reliability.md
    python -m benchmarks.machines --stores server --faults 3 --seed 7

The machines are made by `simulated_machines`: one with the head of a Ray cluster and the
controller, three that train and do not have this project. Beside them there are PostgreSQL, an S3
server and `mlflow server`. There is one population for each store, and faults happen at random
moments. In the end every turn, metric point, reference and digest is counted, from the records, the
files in the store and MLflow. It takes root (see `simulated_machines`), PostgreSQL and moto.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

import pbt_flow
from benchmarks.servers import Bucket, Postgres, Server
from benchmarks.simulated_machines import ROOT, CannotSimulate, Command, Machine, Network
from pbt_flow.commands.stored_population import StoredPopulation
from pbt_flow.population.checkpoints import state_place
from pbt_flow.population.history import History
from pbt_flow.population.turn_files import ERROR, RECORD, file_place, owner_of, turn_folder

STORES = ("server", "bucket", "folder", "no server")
"""Artifacts through `mlflow server`, which keeps them in S3; in S3 itself; in a folder that all
machines see; and without any server, runs in PostgreSQL and artifacts in S3."""
WORDS = {
    "killed": "machine killed",
    "cut": "machine cut off",
    "half cut": "machine cut off from the head",
    "suspended": "machine suspended",
    "declared dead": "machine suspended until declared dead, and woken",
    "joined": "machine joined",
    "database": "database restarted",
    "controller": "controller killed",
    "bucket": "S3 silent",
}
"""What may happen."""
MACHINE_FAULTS = ("killed", "cut", "half cut", "suspended", "declared dead")
CPUS = 2
"""Of each machine that trains, and so its workers."""
MACHINES = 3
"""How many train."""
MOST_MACHINES = 5
CHECKED = 6
"""How often the check `restores` trains, once in a population of 40 turns or more."""


class Failed(Exception):
    """A population has ended as it must not; the message says how."""


@dataclass
class Kept:
    """The artifacts of one store, as they lie there."""

    bucket: Bucket
    folder: Path
    """The folder that all machines see."""

    def digests(self, run: Run, wanted: str = "") -> dict[str, str]:
        """The digest of each file of a run, by its place among the run's artifacts.

        Args:
            run: The run.
            wanted: What the name of a file must begin with.
        """
        return {
            place: hashlib.sha256(read()).hexdigest()
            for place, read in self._files(run)
            if place.rpartition("/")[2].startswith(wanted)
        }

    def _files(self, run: Run) -> Iterator[tuple[str, Callable[[], bytes]]]:
        uri = run.info.artifact_uri
        kind, _, place = uri.partition(":")
        if kind not in ("s3", "mlflow-artifacts"):
            root = Path(uri.removeprefix("file://"))
            for path in root.rglob("*"):
                if path.is_file():
                    yield str(path.relative_to(root)), path.read_bytes
            return
        # What goes through the server is behind it in the bucket, at the same place.
        place = place.removeprefix(f"//{self.bucket.name}/") if kind == "s3" else f"behind{place}"
        pages = self.bucket.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket.name, Prefix=f"{place}/"):
            for found in page.get("Contents", []):
                key = found["Key"]
                yield key.removeprefix(f"{place}/"), lambda key=key: self.bucket.read(key)


@dataclass(kw_only=True)
class Seen:
    """What was committed at some moments, to be compared with what there is later."""

    records: dict[tuple[str, str], str] = field(default_factory=dict)
    """The digest of each record, by its run and its place."""
    points: dict[tuple[str, str, int], float] = field(default_factory=dict)
    """The value of each metric point, by its run, key and step."""
    changed_records: int = 0
    changed_points: int = 0

    def look(self, runs: list[Run], kept: Kept, client: MlflowClient) -> None:
        """Note what there is now, and count what is not as it was."""
        records, points = dict[tuple[str, str], str](), dict[tuple[str, str, int], float]()
        for run in runs:
            run_id = run.info.run_id
            for place, digest in kept.digests(run, "turn").items():
                records[run_id, place] = digest
            for point in client.get_metric_history(run_id, "score"):
                points[run_id, "score", point.step] = point.value
        self.changed_records += sum(
            records.get(key, digest) != digest for key, digest in self.records.items()
        )
        self.changed_points += sum(points.get(key) != value for key, value in self.points.items())
        self.records.update(records)
        self.points.update(points)


@dataclass(kw_only=True)
class Servers:
    """What all machines reach."""

    network: Network
    database: Postgres
    bucket: Bucket
    silent: bool = False
    """Whether the S3 server or the database does not answer now."""

    def open_store(self, store: str, stack: contextlib.ExitStack) -> dict[str, str]:
        """Start what a store needs beside the others; return the variables that lead to it."""
        name = store.replace(" ", "-")
        location, environment = f"s3://{self.bucket.name}/{name}", dict(self.bucket.from_here)
        if store == "no server":
            environment["MLFLOW_TRACKING_URI"] = self.database.uri
        else:
            places = {
                "server": ["--artifacts-destination", f"s3://{self.bucket.name}/behind"],
                "bucket": ["--default-artifact-root", location],
                "folder": ["--default-artifact-root", f"{self.network.shared}/artifacts"],
            }[store]
            if store != "server":
                places.append("--no-serve-artifacts")
            server = Server(
                self.network.folder / f"server-{name}",
                places,
                self.database.uri,
                self.bucket.from_here,
                self.network.address,
            )
            server.start()
            stack.callback(server.kill)
            if store == "server":
                environment = {}  # Neither controller nor workers have the bucket's address.
            environment["MLFLOW_TRACKING_URI"] = server.uri
        client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
        client.create_experiment(name, location if store == "no server" else None)
        return {**environment, "MLFLOW_EXPERIMENT_NAME": name}


class Faults:
    """One population, and what happens to the machines under it."""

    def __init__(
        self,
        given: argparse.Namespace,
        servers: Servers,
        store: str,
        environment: Mapping[str, str],
    ) -> None:
        self.given, self.servers, self.network = given, servers, servers.network
        self.store, self.environment = store, environment
        self.rng = random.Random(f"{given.seed} {store}")
        self.turns = given.turns
        self.happened: Counter[str] = Counter()
        self.in_flight = 0
        """Turns that were perhaps under way where something happened, and may be run again."""
        self.later: list[tuple[float, Callable[[], None]]] = []
        """What is to be done at which time, such as to put a cable in again."""
        self.away: set[Machine] = set()
        """Machines that something is the matter with now."""
        self.seen, self.began = Seen(), time.monotonic()
        self.output = self.network.folder / f"output-{store.replace(' ', '-')}"
        self.attempts = self.network.shared / f"attempts-{store.replace(' ', '-')}"
        self.kept = Kept(servers.bucket, self.network.shared)
        self.client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
        self.run_id, self.resumes = "", 0
        self.controller: Command
        self._looked, self._committed = 0.0, 0

    def say(self, text: str) -> None:
        """Print a line of progress."""
        seconds = time.monotonic() - self.began
        print(f"{self.store}, {seconds:4.0f} s: {text}", file=sys.stderr, flush=True)

    # --- from the beginning to the end ---

    def run(self) -> None:
        """Begin, let as many faults happen as were asked for, and let it end."""
        self.start(
            *("run", "--task", f"{ROOT}/benchmarks/unrepeatable.py:Unrepeatable"),
            *("--engine", "ray", "--workers", CPUS * MACHINES, "--seed", self.given.seed),
            *("--population", self.given.population, "--turns", self.turns, "--interval", 1),
            *("--set", f"log={self.attempts}", "--set", f"seconds={self.given.seconds}"),
            # That a machine is suspended says nothing about a member.
            *("--max-failures", 1000),
        )
        self.wait_for(lambda: self.attempted() > 0, "no turn ever begins")
        self.run_id = self.output.read_text().split("population ")[1].split()[0]
        for kind in self.drawn():
            before = self.committed()
            self.wait_for(lambda before=before: self.committed() > before, "no turn is committed")
            until = time.monotonic() + self.rng.expovariate(1 / self.given.every)
            self.wait_for(lambda until=until: time.monotonic() > until, "")
            self.look()
            self.happen(kind)
        self.wait_for(lambda: not self.later and not self.away, "a machine never comes back")
        while self.finish() != 0:
            self.resume()
        self.look()

    def drawn(self) -> list[str]:
        """The faults, in their order: no kind twice before all of them have come."""
        kinds = [kind for kind in WORDS if (kind, self.store) != ("bucket", "folder")]
        chosen: list[str] = []
        while len(chosen) < self.given.faults:
            chosen += self.rng.sample(kinds, len(kinds))
        return chosen[: self.given.faults]

    def start(self, *arguments: object) -> None:
        """Start a controller on the head's machine."""
        self.controller = self.network.head.start(
            ["-m", "pbt_flow", *arguments],
            self.output,
            {**self.environment, "RAY_ADDRESS": self.network.ray_address},
        )

    def resume(self) -> None:
        """Start a controller in the place of one that has ended."""
        self.resumes += 1
        self.start("resume", self.run_id, "--turns", self.turns)

    def wait_for(self, condition: Callable[[], bool], otherwise: str) -> None:
        """Let things go on until something is so; a controller that is gone is replaced.

        Raises:
            Failed: It is not so after a long time, or a controller has ended as it must not.
        """
        deadline = time.monotonic() + self.given.patience
        while not condition():
            if time.monotonic() > deadline:
                raise Failed(f"{otherwise}\n{self.said()}")
            self.go_on()
            code = self.controller.poll()
            if code not in (None, 0, -signal.SIGKILL, 128 + signal.SIGKILL):
                raise Failed(f"the controller's exit code is {code}\n{self.said()}")
            if code is not None and self.run_id:
                if code == 0:
                    self.turns += 4  # It has come to its end: give it more to do.
                self.resume()
            time.sleep(0.1)

    def finish(self) -> int:
        """Wait until the controller has ended, and return its exit code."""
        deadline = time.monotonic() + 2 * self.given.patience
        while (code := self.controller.poll()) is None:
            if time.monotonic() > deadline:
                raise Failed(f"the population does not end\n{self.said()}")
            self.go_on()
            time.sleep(0.1)
        if code not in (0, -signal.SIGKILL, 128 + signal.SIGKILL):
            raise Failed(f"the controller's exit code is {code}\n{self.said()}")
        return code

    def go_on(self) -> None:
        """Do what is to be done by now; start Ray again on machines where it has ended itself."""
        now = time.monotonic()
        due = [step for step in self.later if step[0] <= now]
        self.later = [step for step in self.later if step[0] > now]
        for _, act in due:
            act()
        if now < self._looked + 2.0:
            return
        self._looked = now
        for machine in self.training():
            if machine not in self.away and not machine.has_ray:
                self.say(f"Ray has ended on {machine.name}, and is started again")
                # What is left of Ray there has nobody to talk to any more.
                machine.end_ray()
                machine.start_ray(CPUS)

    def said(self) -> str:
        """What the controllers have printed last."""
        return self.output.read_text()[-3000:]

    def attempted(self) -> int:
        """How many attempts at turns have begun."""
        return len(self.attempts.read_text().splitlines()) if self.attempts.exists() else 0

    def committed(self) -> int:
        """How many turns MLflow has been told of, or as many as before while it does not answer."""
        if not self.servers.silent:
            self._committed = sum(int(run.data.metrics.get("turn", 0)) for run in self.members())
        return self._committed

    def members(self) -> list[Run]:
        """The members' runs."""
        parent = self.client.get_run(self.run_id)
        return list(
            self.client.search_runs(
                [parent.info.experiment_id],
                f"tags.`mlflow.parentRunId` = '{self.run_id}'",
                max_results=1000,
            )
        )

    def look(self) -> None:
        """Compare what is committed with what was before."""
        if not self.servers.silent:
            self.seen.look(self.members(), self.kept, self.client)

    # --- what happens ---

    def training(self) -> list[Machine]:
        """The machines that train, or would if nothing were the matter with them."""
        return self.network.machines[1:]

    def happen(self, kind: str) -> None:
        """Let a fault happen. Two machines at least are left, of which one has what it needs."""
        well = [machine for machine in self.training() if machine not in self.away]
        if kind in MACHINE_FAULTS and len(well) < 2:
            kind = "joined"
        if kind == "joined" and len(self.training()) >= MOST_MACHINES:
            kind = "killed"
        machine = self.rng.choice(well)
        # Shorter than Ray waits, or longer.
        seconds = self.rng.uniform(0.1, 1.5) * self.network.verdict
        self.happened[kind] += 1
        number = sum(self.happened.values())
        who = f" ({machine.name})" if kind in MACHINE_FAULTS else ""
        self.say(f"fault {number}: {WORDS[kind]}{who}; {self.committed()} turns")
        if kind == "killed":
            machine.kill()
            self.network.machines.remove(machine)
            self.in_flight += CPUS
        elif kind == "cut":
            machine.cut()
            self.come_back(machine, seconds, machine.mend)
        elif kind == "half cut":
            machine.lose_sight_of(self.network.head)
            self.come_back(machine, seconds, lambda: machine.see(self.network.head))
        elif kind == "suspended":
            machine.suspend()
            self.come_back(machine, seconds, machine.wake)
        elif kind == "declared dead":
            machine.suspend()
            # Ray may have asked just before, and decides a few seconds later than it says.
            self.come_back(machine, 1.5 * self.network.verdict, machine.wake)
        elif kind == "joined":
            self.network.add(CPUS)
        elif kind == "database":
            self.be_silent(self.servers.database.kill, self.servers.database.start, 5.0)
        elif kind == "bucket":
            bucket = self.servers.bucket
            self.be_silent(bucket.fall_silent, bucket.speak_again, self.rng.uniform(20, 60))
        elif kind == "controller":
            self.controller.send_signal(signal.SIGKILL)
            self.controller.wait(60)
            self.in_flight += CPUS * len(self.training())

    def come_back(self, machine: Machine, seconds: float, act: Callable[[], None]) -> None:
        """Undo after some seconds what has happened to a machine."""
        self.away.add(machine)
        self.in_flight += CPUS

        def undo() -> None:
            self.say(f"{machine.name} is back after {seconds:.0f} s")
            act()
            # It may take a moment to learn that it was declared dead.
            self.later.append((time.monotonic() + 15.0, lambda: self.away.discard(machine)))

        self.later.append((time.monotonic() + seconds, undo))

    def be_silent(self, end: Callable[[], None], begin: Callable[[], None], seconds: float) -> None:
        """Let a server be silent for some seconds."""
        self.servers.silent = True
        end()

        def undo() -> None:
            self.say(f"the server answers again after {seconds:.0f} s")
            begin()
            self.servers.silent = False

        self.later.append((time.monotonic() + seconds, undo))

    # --- the count ---

    def count(self) -> tuple[dict[str, object], int]:
        """The rows of the table, and how many things are not as they must be."""
        result = pbt_flow.load(self.run_id)
        history = result.history
        turns = [turn for own in history.turns.values() for turn in own]
        expected = StoredPopulation.open(self.run_id).settings.all_turns
        parent, runs = self.client.get_run(self.run_id), self.members()
        twice, wrong_scores = self.count_points(parent, runs, history)
        files = {int(run.data.tags["pbt.member"]): self.kept.digests(run) for run in runs}
        dangling, wrong_files, others, states = count_files(history, files)
        statuses = Counter(run.info.status for run in [parent, *runs])
        attempts = self.attempted()
        bad = {
            "turns missing, or more than the budget": abs(expected - len(turns)),
            "attempts that no fault, resume or check explains": max(
                0, attempts - len(turns) - self.in_flight - CHECKED
            ),
            "records that changed after they were committed": self.seen.changed_records,
            "points in MLflow that changed afterwards": self.seen.changed_points,
            "metric points twice": twice,
            "scores missing or wrong in MLflow": wrong_scores,
            "dangling references": dangling,
            "states that are not what a record says": wrong_files,
            "files of other attempts that have stayed": others,
        }
        rows: dict[str, object] = {
            "faults": ", ".join(WORDS[kind] for kind in self.happened.elements()),
            "turns": f"{len(turns)} of {expected}",
            **bad,
            f"attempts beside the turns ({CHECKED} are of a check)": attempts - len(turns),
            "turns in flight at the faults, at most": self.in_flight,
            "turns that an attempt later than the first decided": sum(
                turn.plan.attempt.number > 1 for turn in turns
            ),
            "turns that failed or were given up": sum(not turn.ok for turn in turns),
            "states that are kept": states,
            "resumes": self.resumes,
            "the population": result.status,
            "runs": ", ".join(f"{n} {status}" for status, n in statuses.items()),
            "minutes": f"{(time.monotonic() - self.began) / 60:.0f}",
        }
        wrong_end = result.status != "finished" or set(statuses) != {"FINISHED"}
        return rows, sum(bad.values()) + wrong_end

    def count_points(self, parent: Run, runs: list[Run], history: History) -> tuple[int, int]:
        """How many metric points are there twice, and how many scores are missing or wrong."""
        twice = wrong = 0
        for run in [parent, *runs]:
            for key in run.data.metrics:
                steps = [p.step for p in self.client.get_metric_history(run.info.run_id, key)]
                twice += len(steps) - len(set(steps))
        for run in runs:
            own = history.turns[int(run.data.tags["pbt.member"])]
            points = self.client.get_metric_history(run.info.run_id, "score")
            there = {(point.step, point.value) for point in points}
            wrong += len(there ^ {(turn.plan.trained, turn.score) for turn in own if turn.ok})
        return twice, wrong


def count_files(
    history: History, files: Mapping[int, Mapping[str, str]]
) -> tuple[int, int, int, int]:
    """How many references dangle, states are wrong, files are others' and states are kept.

    Args:
        history: The turns, as the records have them.
        files: For each member the digests of its files, by their places.
    """
    dangling = wrong = others = states = 0
    for member, own in history.turns.items():
        attempts = {turn_folder(turn.number): turn.plan.attempt for turn in own}
        named = {
            state_place(turn.checkpoint): turn.checkpoint.digest
            for turn in own
            if turn.checkpoint is not None
        }
        for turn in own:
            dangling += file_place(RECORD, turn.number, turn.plan.attempt) not in files[member]
            if not turn.ok:
                dangling += file_place(ERROR, turn.number, turn.plan.attempt) not in files[member]
            start, donor = turn.plan.start, turn.plan.donor
            if start is not None:
                source = history.turn(start.member, start.turn).checkpoint
                dangling += source is None or (source, source.attempt) != (start, start.attempt)
            if donor is not None:
                sources = [history.turn(one.member, one.turn) for one in donor.sources]
                dangling += sum(not one.ok for one in sources)
        for place, digest in files[member].items():
            folder, _, name = place.rpartition("/")
            if not folder.startswith("turns/"):
                continue
            if owner_of(name) != attempts.get(folder):
                print(f"of another attempt: member {member}, {place}", file=sys.stderr)
                others += 1
            elif name.startswith("state"):
                states += 1
                wrong += named.get(place) != digest
    for member_now in history.present:
        if (stands_on := member_now.checkpoint) is not None:
            dangling += state_place(stands_on) not in files[stands_on.member]
    return dangling, wrong, others, states


def main() -> int:
    """Let the faults happen, print the table; the exit code is 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--stores", nargs="+", default=STORES, choices=STORES)
    parser.add_argument("--faults", type=int, default=5, help="in each population")
    parser.add_argument("--every", type=float, default=6.0, help="mean seconds between faults")
    parser.add_argument("--population", type=int, default=6)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3.0, help="that a turn takes")
    parser.add_argument(
        "--verdict", type=float, default=20.0, help="seconds until Ray declares a machine dead"
    )
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for one more turn")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "OMP_NUM_THREADS": "1",
    }
    # `kill` ends as Ctrl-C does: nothing of the machines is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    columns: dict[str, dict[str, object]] = {}
    wrong = 0
    try:
        with contextlib.ExitStack() as stack:
            network = stack.enter_context(Network(verdict=given.verdict))
            database = Postgres(network.address)
            stack.callback(database.stop)
            bucket = Bucket(network.folder, network.address)
            stack.callback(bucket.stop)
            servers = Servers(network=network, database=database, bucket=bucket)
            network.add(0, *[CPUS] * MACHINES)
            for store in given.stores:
                with contextlib.ExitStack() as inner:
                    environment = servers.open_store(store, inner)
                    mlflow.set_tracking_uri(environment["MLFLOW_TRACKING_URI"])
                    os.environ.update(environment)
                    faults = Faults(given, servers, store, environment)
                    faults.run()
                    columns[store], bad = faults.count()
                    wrong += bad
                    faults.say(f"{bad} things wrong")
                    if bad:
                        print(faults.output.read_text(), file=sys.stderr)
                while len(network.machines) < 1 + MACHINES:
                    network.add(CPUS)
    except (CannotSimulate, Failed, OSError, KeyboardInterrupt) as error:
        print(str(error) or "interrupted", file=sys.stderr)
        wrong += 1
    print_table(columns)
    return 1 if wrong else 0


def print_table(columns: Mapping[str, Mapping[str, object]]) -> None:
    """Print the counts of populations side by side."""
    if not columns:
        return
    print(f"\n| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    first, *_ = columns.values()
    for name in first:
        print(f"| {name} | {' | '.join(str(rows[name]) for rows in columns.values())} |")


if __name__ == "__main__":
    sys.exit(main())
