"""What it takes to read a large population back, or to go on with one: `load`, `report`, `resume`.

    python -m benchmarks.big_record                        # 1,000 members of 100 turns each
    python -m benchmarks.big_record --members 20 --turns 5000
    python -m benchmarks.big_record --store s3 --members 100 --turns 20
    python -m benchmarks.big_record --left 400             # killed when 400 turns were left

The record is made by all that makes one otherwise: the controller decides, commits, logs and writes
the journal. Only the worker is another one, which trains nothing and has each state by a link to
the first. Then each command runs in a process of its own. CPU seconds are those of that process
from its start to its end, imports and all, which `import` alone has in the first line. What it asks
for is counted where it leaves the process: HTTP of a server, statements of a database. `resume`
trains what a killed controller has left, in its own process, and `compare` follows it. Give a
folder in memory (`--folder /dev/shm/...`) where the disk is slow to sync.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.noop import NoOp
from benchmarks.stores import STORES, opened
from pbt_flow.commands.frame import train
from pbt_flow.commands.stored_population import StoredPopulation
from pbt_flow.engines.base import LostJob
from pbt_flow.population.checkpoints import Folders, save_state
from pbt_flow.population.history import History
from pbt_flow.population.records import Checkpoint, Plan, Turn
from pbt_flow.population.turn_files import STATE, file_name, turn_folder
from pbt_flow.settings import Settings
from pbt_flow.space import space_to_json
from pbt_flow.testing.simulated_engine import Fault, SimulatedEngine
from pbt_flow.training.controller import Controller

ROOT = Path(__file__).resolve().parents[1]
TASK = f"{ROOT}/benchmarks/noop.py:NoOp"
WORKERS = 8


@dataclass
class WritingEngine(SimulatedEngine):
    """Commits each turn that it is given, and trains nothing."""

    folders: Folders | None = None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def open(self, folders: Folders, runs: Any = None) -> None:
        self.folders = folders
        task = NoOp(seed=0, megabytes=0.001)
        self.state = task.state_dict()

    def forget(self, checkpoint: Checkpoint) -> None:
        assert self.folders is not None
        self.folders.forget(checkpoint)

    def _outcome(self, plan: Plan, fault: Fault | None, took: float) -> Turn | LostJob:
        assert self.folders is not None
        checkpoint = self._saved(plan)
        score = float(self.rng.random())
        turn = Turn(
            plan=plan,
            status="ok",
            score=score,
            metrics={"loss": 1.0 - score},
            checkpoint=checkpoint,
            started=self.now,
            seconds={"train": took, "checkpoint": 0.001},
        )
        self.states[plan.member, plan.turn] = self.state
        self.folders.commit(turn)
        return turn

    def _saved(self, plan: Plan) -> Checkpoint:
        """The state after a turn, which is that of all others as well."""
        assert self.folders is not None
        root = self.folders.root(plan.member)
        name = file_name(STATE, plan.attempt)
        if plan.member == 0 and plan.turn == 1:
            self.first = save_state(self.state, 0, 1, root, plan.attempt)
            self.file = root / turn_folder(1) / name
            # The file itself may be deleted while the others last.
            os.link(self.file, kept := Path(tempfile.mkdtemp(dir=Path.cwd()), name))
            self.file = kept
        else:
            path = root / turn_folder(plan.turn) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(self.file, path)
        self.folders.publish(plan.member, plan.turn, name)
        return Checkpoint(
            member=plan.member,
            turn=plan.turn,
            digest=self.first.digest,
            size=self.first.size,
            attempt=plan.attempt,
        )


class Silent:
    """A screen that shows how far it is, once for every hundredth.

    Args:
        total: How many turns there are to be.
        left: How many of them are left when this process kills itself, if there are some.
    """

    def __init__(self, total: int, left: int = 0) -> None:
        self.done, self.total, self.last = 0, total, total - left if left else None

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def turn(self, turn: Turn, history: History) -> None:
        self.done += 1
        if self.done == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.done % max(1, self.total // 100) == 0:
            print(f"{self.done} of {self.total}", file=sys.stderr, flush=True)

    def tick(self) -> None:
        pass

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def make(members: int, turns: int, seed: int, exploit: str, left: int) -> None:
    """Make a population of so many turns in the store in force, and print its run.

    Args:
        members: How many members it has.
        turns: The turns of each.
        seed: Of the population.
        exploit: By which strategy.
        left: How many turns of all are left when this process kills itself; 0 for an end in order.
    """
    from pbt_flow.tracking.client import connect
    from pbt_flow.tracking.create import Manifest
    from pbt_flow.tracking.store import Store

    settings, kind = Settings.for_task(
        NoOp,
        population=members,
        turns=turns,
        interval=1,
        seed=seed,
        exploit=exploit,
        finalists="none",
        samples="none",
        engine="inline",
        options={"megabytes": 0.001},
    )
    # Each command finds the task by its file.
    settings = replace(settings, task=TASK)
    client, uri = connect()
    rng = np.random.default_rng(np.random.SeedSequence([seed]))
    plan = Manifest(
        settings=settings.to_json(),
        space=space_to_json(kind.space),
        direction=kind.direction,
        report_direction=kind.report_direction,
        option_defaults=kind.option_defaults,
        initial=settings.draw_founders(kind.space, rng),
    )
    store = Store.create(client, uri, plan, tags={"pbt.role": "population"})
    stored = StoredPopulation(store=store, settings=settings)
    print(f"\n{store.run_id}", flush=True)  # Now, since this process may be killed.
    screen, began = Silent(members * turns, left), time.monotonic()

    def end(controller: Controller, status: Any, lease: Any) -> None:
        seconds = time.monotonic() - began
        result = stored.result_of(controller.history, {}, status=status, seconds=seconds)
        runs = dict.fromkeys(controller.history.members, "FINISHED")
        controller.queues.say_last(
            [
                lambda: store.outcome.conclude(result),
                lambda: store.seal_journal(controller.claim, result.turns),
                lambda: store.finish("FINISHED", runs),
            ]
        )

    engine = WritingEngine(
        task=lambda seed: NoOp(seed=seed),
        seed=seed,
        slots=WORKERS,
        duration=lambda plan, rng: 0.1,
        now=time.time(),
    )
    train(
        stored,
        engine,
        resumed=False,
        screen=screen,
        watch=lambda history, later: screen,
        end=end,
        understood={},
    )
    # Once more: MLflow prints links as runs end.
    print(store.run_id)


# --- what it takes to read it ---------------------------------------------------------------------


def import_alone(runs: list[str]) -> None:
    """Nothing but the imports that all of these need."""
    import mlflow.tracking

    import pbt_flow.commands.stored_population  # noqa: F401

    assert mlflow.tracking is not None


def load(runs: list[str]) -> None:
    """All turns of a population."""
    import pbt_flow

    result = pbt_flow.load(runs[0])
    assert sum(map(len, result.history.turns.values())) == result.turns


def report(runs: list[str]) -> None:
    """Its page and its picture, written into a folder."""
    import pbt_flow

    with tempfile.TemporaryDirectory() as folder:
        for path in pbt_flow.report(runs[0], out=folder):
            print(Path(path).name, Path(path).stat().st_size, file=sys.stderr)


def show_list(runs: list[str]) -> None:
    """The list of all populations."""
    from pbt_flow.commands.catalogue import list_populations, table

    print(table(list_populations()), file=sys.stderr)


def show(runs: list[str]) -> None:
    """All that defines it and all that became of it."""
    from pbt_flow.commands.catalogue import show

    print(show(runs[0]).about, file=sys.stderr)


def compare(runs: list[str]) -> None:
    """It beside a random search of a tenth of its turns."""
    import pbt_flow

    with tempfile.TemporaryDirectory() as folder:
        print(pbt_flow.compare(runs, out=folder, unequal=True).table(), file=sys.stderr)


def resume(runs: list[str]) -> None:
    """A resume, which trains what is left: nothing where nobody has killed it."""
    import pbt_flow

    assert pbt_flow.resume(runs[0], quiet=True).status == "finished"


COMMANDS = {
    "import": import_alone,
    "load": load,
    "list": show_list,
    "show": show,
    "report": report,
    "resume": resume,
    "compare": compare,
}


@contextlib.contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count what this process asks for in the block, where it leaves the process."""
    import sqlalchemy
    import urllib3

    asked, send = {"http": 0, "statements": 0}, urllib3.HTTPConnectionPool.urlopen

    def executed(*others: Any) -> None:
        asked["statements"] += 1

    def sent(*arguments: Any, **named: Any) -> Any:
        asked["http"] += 1
        return send(*arguments, **named)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", executed)
    urllib3.HTTPConnectionPool.urlopen = sent  # type: ignore[method-assign, assignment]
    try:
        yield asked
    finally:
        urllib3.HTTPConnectionPool.urlopen = send  # type: ignore[method-assign]
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", executed)


def measured(command: str, runs: list[str]) -> dict[str, Any]:
    """What a command takes in this process, which has done nothing else."""
    with counted() as asked:
        COMMANDS[command](runs)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss / 1024, **asked}


def in_its_own_process(
    folder: Path, environment: dict[str, str], *words: str, may_die: bool = False
) -> str:
    """Run a part of this script in a process of its own, and return the last line that it prints.

    Args:
        folder: Its working folder.
        environment: Variables of its own.
        words: What it is to do.
        may_die: Whether it is to kill itself.

    Raises:
        SystemExit: It failed.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.big_record", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode != (-signal.SIGKILL if may_die else 0):
        raise SystemExit(f"{words} failed")
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--members", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=100, help="of each member")
    parser.add_argument("--left", type=int, default=0, help="turns, when its controller is killed")
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--folder", help="an empty folder for the store; by default a new one")
    parser.add_argument("--keep", action="store_true", help="leave the folder as it is at the end")
    parser.add_argument("--make", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        members, turns, seed, left = map(int, given.make[:4])
        make(members, turns, seed, given.make[4], left)
        return
    if given.measure:
        print("\n" + json.dumps(measured(given.measure[0], given.measure[1:])))
        return
    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as stack:
        folder = Path(given.folder or made)
        store = stack.enter_context(opened(given.store, folder))
        environment, runs = dict(store.environment), list[str]()
        shorter = max(1, given.turns // 10)
        for turns, left, exploit in ((given.turns, given.left, "truncation"), (shorter, 0, "none")):
            words = ("--make", *map(str, (given.members, turns, 0, left)), exploit)
            runs.append(in_its_own_process(folder, environment, *words, may_die=left > 0))
        print(
            "| command | CPU s | of them more than `import` | peak MB | statements | requests "
            "| of the server to S3 | server CPU s |\n" + "|---" * 8 + "|"
        )
        alone = 0.0
        for command in given.commands:
            before = store.server_cpu(), sum(store.bucket_requests().values())
            told = json.loads(in_its_own_process(folder, environment, "--measure", command, *runs))
            alone = told["cpu"] if command == "import" else alone
            print(
                f"| {command} | {told['cpu']:.1f} | {told['cpu'] - alone:.1f} "
                f"| {told['peak']:.0f} | {told['statements']} | {told['http']} "
                f"| {sum(store.bucket_requests().values()) - before[1]} "
                f"| {store.server_cpu() - before[0]:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
