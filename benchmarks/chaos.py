"""Kills the controller and the workers of a real population at random, and counts what was lost.

    python -m benchmarks.chaos --kills 50                       # the report in docs/reliability.md
    python -m benchmarks.chaos --kills 15 --mode generational --targets controller everything
                                                    # compared bit for bit with an undisturbed run

Each kill is a SIGKILL at a random moment: of one worker, of the controller, or of all of them at
once. A controller that is gone is replaced by `python -m pbt_flow resume RUN`. In the end every
turn, metric point, reference and digest is counted, from the files and the database alone.

    python -m benchmarks.chaos --kills 24 --targets asleep hung controller

suspends workers as well, with SIGSTOP: one that is `asleep` wakes up after a while, one that is
`hung` only when all is over. By then its turn may have been given up, run again and committed, or
its controller killed and replaced. The task comes to other numbers in each attempt, as on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from optuna.distributions import FloatDistribution

import pbt_flow
from benchmarks.process_tree import children, descendants
from pbt_flow import Task
from pbt_flow.commands.stored_population import StoredPopulation
from pbt_flow.population.checkpoints import file_digest, state_place
from pbt_flow.population.turn_files import ERROR, RECORD, file_place, owner_of, turn_folder

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("worker", "worker", "controller", "everything")
SUSPENSIONS = ("asleep", "hung")


class Walk(Task):
    """A small regression whose every attempt at a turn leaves a line in a file."""

    space: ClassVar = {"lr": FloatDistribution(1e-4, 0.5, log=True)}
    direction = "minimize"

    def __init__(
        self, *, seed: int, device: str = "cpu", log: str = "", repeats: bool = True
    ) -> None:
        """Write a line to the file `log` for each turn that begins.

        Without `repeats` no attempt at a turn comes to the numbers of another one.
        """
        super().__init__(seed=seed, device=device)
        torch.manual_seed(seed)
        self.repeats = repeats
        self.log, self.net = log, torch.nn.Linear(8, 1)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1.0, momentum=0.9)

    def loss(self) -> torch.Tensor:
        """The error on a fresh batch."""
        x = torch.randn(64, 8)
        return (self.net(x) - x.sum(1, keepdim=True) - 0.1 * torch.randn(64, 1)).square().mean()

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        if self.log:
            with open(self.log, "a") as file:
                file.write(".")
        for group in self.optimizer.param_groups:
            group["lr"] = hparams["lr"]
        for _ in range(steps):
            loss = self.loss()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        if not self.repeats:
            with torch.no_grad():
                self.net.bias += int.from_bytes(os.urandom(2)) / 2**24
        return {"loss": loss.item()}

    def evaluate(self) -> float:
        with torch.no_grad():
            return self.loss().item()

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])


class Chaos:
    """One population in this folder, and the processes that are killed."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.rng = given, random.Random(given.seed)
        self.kills: Counter[str] = Counter()
        self.in_flight = 0
        """Turns that may have been under way at the kills, and may thus have been run again."""
        self.seen: dict[Path, str] = {}
        """The digest of each record that was there at some kill."""
        self.changed = 0
        self.turns = given.turns
        self.asleep: dict[int, float] = {}
        """The workers that are suspended, each with the time at which it wakes up."""
        self.suspends = bool(set(given.targets) & set(SUSPENSIONS))

    def start(self, *arguments: object) -> None:
        """Start a controller."""
        command = [sys.executable, "-m", "pbt_flow", *map(str, arguments)]
        with Path("output").open("a") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True
            )

    def run(self) -> str:
        """Begin, kill as often as asked, let it end, and return the population's run."""
        mode, workers, stages = self.given.mode, self.given.workers, self.given.stages
        self.start(
            *("run", "--task", f"{ROOT}/benchmarks/chaos.py:Walk", "--mode", mode, "--seed", 0),
            *("--set", f"log={Path.cwd()}/attempts", "--workers", workers),
            *("--population", self.given.population, "--turns", self.turns, "--interval", 100),
            *("--stages", stages, "--set", f"repeats={not self.suspends}"),
            *(("--turn-timeout", self.given.turn_timeout) if self.suspends else ()),
            # That workers are suspended says nothing about a member.
            *(("--max-failures", 1000) if self.suspends else ()),
        )
        while not list(Path().rglob("turn*.json")):
            self.check()
            time.sleep(0.05)
        run_id = Path("output").read_text().split("population ")[1].split()[0]
        while (done := sum(self.kills.values())) < self.given.kills:
            self.wait(self.rng.expovariate(1 / self.given.every))
            if self.process.poll() is None:
                self.kill(self.rng.choice(self.given.targets))
                print(f"kill {done + 1}: {dict(self.kills)}", file=sys.stderr, flush=True)
            elif self.check() == 0:
                self.turns += 5  # it has come to its end: give it more to do
            if self.process.poll() is not None:
                self.start("resume", run_id, "--turns", self.turns)
        while self.wait_for_the_end():
            self.check()
            self.start("resume", run_id, "--turns", self.turns)
        # Whoever is suspended still wakes up now, when nobody is there to delete what it writes.
        self.wake(math.inf)
        time.sleep(2.0 if self.suspends else 0.0)
        return run_id

    def wait_for_the_end(self) -> int:
        """Wait until the controller has ended, while workers wake up; return its exit code."""
        while self.process.poll() is None:
            self.wake(time.monotonic())
            time.sleep(0.05)
        return self.process.returncode

    def wake(self, now: float) -> None:
        """Let workers go on whose time has come."""
        for pid in [pid for pid, until in self.asleep.items() if until <= now]:
            del self.asleep[pid]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def suspend(self, target: str, pid: int) -> None:
        """Suspend a worker: for up to three times as long as a turn may take, or to the end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            seconds = self.rng.uniform(0, 3 * self.given.turn_timeout)
            self.asleep[pid] = time.monotonic() + seconds if target == "asleep" else 1e9

    def check(self) -> int | None:
        """How the controller ended, if it has; a way that it must never end stops everything."""
        code = self.process.poll()
        if code not in (None, 0, -signal.SIGKILL):
            raise SystemExit(f"exit code {code}\n{Path('output').read_text()[-3000:]}")
        return code

    def wait(self, seconds: float) -> None:
        """Let the population get on: for a while, and by at least one turn."""
        until, before = time.monotonic() + seconds, self.committed()
        while self.process.poll() is None and (
            time.monotonic() < until or self.committed() == before
        ):
            self.wake(time.monotonic())
            time.sleep(0.01)

    def committed(self) -> int:
        """Records on disk."""
        return sum(1 for _ in records())

    def kill(self, target: str) -> None:
        """SIGKILL, without a word to anybody."""
        controller = self.process.pid
        workers = descendants(controller)
        for path in records():
            digest = file_digest(path)
            self.changed += self.seen.setdefault(path, digest) != digest
        forked = [one for child in children(controller) for one in descendants(child)]
        able = sorted(set(forked) - self.asleep.keys())
        if target in SUSPENSIONS and able:
            self.suspend(target, self.rng.choice(able))
            self.in_flight += 1
        elif target in SUSPENSIONS:
            return
        elif target == "worker" and workers:
            os.kill(self.rng.choice(workers), signal.SIGKILL)
            self.in_flight += 1
        elif target == "everything":
            os.killpg(controller, signal.SIGKILL)
        else:
            target = "controller"
            os.kill(controller, signal.SIGKILL)
        if target not in ("worker", *SUSPENSIONS):
            self.process.wait()
            self.in_flight += self.given.workers
        self.kills[target] += 1


def records() -> Iterator[Path]:
    """The records that are committed."""
    return Path("mlruns").rglob("turn*.json")


def report(chaos: Chaos, run_id: str, seconds: float) -> bool:
    """Count everything, print the table, and say whether nothing was lost."""
    from mlflow.tracking import MlflowClient

    client, result = MlflowClient(), pbt_flow.load(run_id)
    history = result.history
    turns = [turn for own in history.turns.values() for turn in own]
    settings = StoredPopulation.open(run_id).settings
    expected = settings.all_turns
    attempts = len(Path("attempts").read_text())
    parent = client.get_run(run_id)
    runs = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'", max_results=1000
    )
    twice = missing = 0
    for run in runs:
        own = history.turns[int(run.data.tags["pbt.member"])]
        for key in run.data.metrics:
            steps = [p.step for p in client.get_metric_history(run.info.run_id, key)]
            twice += len(steps) - len(set(steps))
        scored = {p.step: p.value for p in client.get_metric_history(run.info.run_id, "score")}
        wanted = {t.plan.trained: t.score for t in own if t.ok}
        missing += len(set(scored.items()) ^ set(wanted.items()))
    for key in parent.data.metrics:
        steps = [p.step for p in client.get_metric_history(run_id, key)]
        twice += len(steps) - len(set(steps))

    dangling = 0
    for turn in turns:
        start, donor = turn.plan.start, turn.plan.donor
        if start is not None:
            given = history.turn(start.member, start.turn).checkpoint
            dangling += given is None or (given, given.attempt) != (start, start.attempt)
        if donor is not None:
            sources = [history.turn(source.member, source.turn) for source in donor.sources]
            dangling += sum(not source.ok for source in sources)
    places = {int(run.data.tags["pbt.member"]): Path(run.info.artifact_uri) for run in runs}
    states = {path for place in places.values() for path in place.rglob("*") if path.is_file()}
    # What there is for people beside a turn: why it failed, if it did.
    texts = {
        places[t.member] / file_place(kind, t.number, t.plan.attempt)
        for t in turns
        for kind in (RECORD, *(() if t.ok else (ERROR,)))
    }
    states -= texts
    attempts_of = {(places[t.member] / turn_folder(t.number)): t.plan.attempt for t in turns}
    woken = {path for path in states if owner_of(path.name) != attempts_of.get(path.parent)}
    if chaos.suspends:
        # They were written after the last controller had ended: a resume deletes them.
        states -= woken
    for member in history.present:
        if (stands_on := member.checkpoint) is not None:
            path = places[stands_on.member] / state_place(stands_on)
            dangling += not path.is_file()
    named = {
        places[t.member] / state_place(t.checkpoint): t.checkpoint.digest
        for t in turns
        if t.checkpoint is not None
    }
    wrong = sum(named.get(path) != file_digest(path) for path in states)
    statuses = Counter(run.info.status for run in [parent, *runs])
    lost_records = expected - len(turns)
    again = max(0, attempts - len(turns) - chaos.in_flight)
    rows = {
        "kills": ", ".join(f"{n} of {target}" for target, n in sorted(chaos.kills.items())),
        "turns": f"{len(turns)} of {expected}",
        "committed turns that were lost or run again": lost_records + again,
        "committed records that changed afterwards": chaos.changed,
        f"attempts beside the turns (in flight at the kills: at most {chaos.in_flight})": attempts
        - len(turns),
        "turns that an attempt later than the first decided": sum(
            turn.plan.attempt.number > 1 for turn in turns
        ),
        "files of workers that woke up after the end": len(woken),
        "turns given up, since killed twice (a stated outcome)": sum(
            turn.status == "lost" for turn in turns
        ),
        "metric points twice": twice,
        "scores missing or wrong in MLflow": missing,
        "dangling references": dangling,
        "files that are not what a record says": wrong,
        "checkpoints on disk (members + 3 at most are pinned or stood on)": len(states),
        "run statuses": ", ".join(f"{n} {status}" for status, n in statuses.items()),
        "minutes": f"{seconds / 60:.0f}",
    }
    bad = lost_records + again + chaos.changed + twice + missing + dangling + wrong
    bad += set(statuses) != {"FINISHED"}
    repeats = not chaos.suspends and not any(turn.status == "lost" for turn in turns)
    if chaos.given.mode == "generational" and repeats:
        whole = pbt_flow.run(
            f"{ROOT}/benchmarks/chaos.py:Walk",
            mode="generational",
            seed=0,
            interval=100,
            quiet=True,
            turns=chaos.turns,
            population=chaos.given.population,
            # As it was: a resume with more turns has made the last stage longer.
            stages=str(settings.stage_plan or "none"),
            engine="inline",
        )
        same = [
            [(t.plan, t.score, t.checkpoint) for t in whole.history.turns[m]]
            == [(t.plan, t.score, t.checkpoint) for t in history.turns[m]]
            for m in history.turns
        ]
        rows["members whose every turn is that of an undisturbed run"] = (
            f"{sum(same)} of {len(same)}"
        )
        bad += not all(same)
    print("\n| | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    return not bad


def main() -> int:
    """Run the chaos, print the report; the exit code is 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--every", type=float, default=2.0, help="mean seconds between kills")
    parser.add_argument("--mode", default="async", choices=["async", "generational"])
    parser.add_argument(
        "--targets", nargs="+", default=TARGETS, choices=sorted({*TARGETS, *SUSPENSIONS})
    )
    parser.add_argument("--turn-timeout", type=float, default=6.0, help="where workers hang")
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--stages", default="none", help="as the setting of that name")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        chaos, began = Chaos(given), time.monotonic()
        run_id = chaos.run()
        kept = report(chaos, run_id, time.monotonic() - began)
        os.chdir(ROOT)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
