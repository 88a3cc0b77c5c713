"""A worker that was given up goes on all the same, when another one has long committed its turn.

The engine of these tests runs turns in this process. It puts an attempt to sleep in place of
running it, says that it is lost, and later runs it as its worker would have: with the plan that it
was given, into the same folders. The task comes to other weights in every attempt, as on a GPU.
"""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow.commands.stored_population import StoredPopulation
from pbt_flow.engines import InlineEngine, LostJob
from pbt_flow.engines.jobs import Retry
from pbt_flow.engines.worker import Worker
from pbt_flow.exceptions import EngineError, StorageError
from pbt_flow.population.checkpoints import file_digest
from pbt_flow.population.records import Plan
from pbt_flow.population.turn_files import ERROR, RECORD, STATE, Attempt, file_place
from pbt_flow.tracking.journal import JOURNAL

pytestmark = pytest.mark.usefixtures("database")


class Unlike(Regression):
    """Comes to other weights each time, whatever its seed."""

    def train(self, hparams, steps):
        metrics = super().train(hparams, steps)
        with torch.no_grad():
            self.net.bias += int.from_bytes(os.urandom(2)) / 2**20
        return metrics


class Sleepy(InlineEngine):
    """Puts the attempts at some turn to sleep, and wakes them at some events.

    A subclass sets what happens.
    """

    sleeps: tuple[int, int]
    """The member and the turn whose first attempt falls asleep."""
    wakes: str
    """When it wakes up."""
    ends_at_the_second = False
    """Whether the second attempt falls asleep as well, and this engine ends with it."""
    asleep: list

    def start(self, context, *, slots=1):
        super().start(context, slots=slots)
        self.context = context

    def open(self, folders, runs=None):
        super().open(folders, runs)
        self.folders = folders

    def submit(self, job):
        plan = job.plan if isinstance(job, Retry) else job
        if not isinstance(plan, Plan):
            super().submit(job)
            return
        where = plan.member, plan.turn
        if where == self.sleeps and plan == job:
            self.asleep.append(plan)
            self._finished.append(LostJob(job=job, reason="nothing was heard of it"))
            return
        if isinstance(job, Retry) and self.ends_at_the_second:
            self.asleep.append(plan)
            raise EngineError("the controller dies")
        if where == self.sleeps and self.wakes == "before":
            self.wake(0)
        super().submit(job)
        if where == self.sleeps and self.wakes == "before the answer":
            self.wake(0)
        if where == (self.sleeps[0], self.sleeps[1] + 1) and self.wakes == "a turn later":
            # A thread deletes what it has left, perhaps under its hands: then it fails, unheard.
            with contextlib.suppress(StorageError):
                self.wake(0)

    def close(self):
        if self.wakes == "at the end" and self.asleep and not self.ends_at_the_second:
            self.wake(0)
        super().close()

    def wake(self, number):
        """Run a sleeping attempt to its end, as its worker would have."""
        woken = Worker(self.context)
        woken.folders = self.folders
        return woken.run(self.asleep.pop(number))


def engine(monkeypatch, **how):
    made = type("Chosen", (Sleepy,), {"asleep": [], **how})
    monkeypatch.setattr("pbt_flow.commands.launch.InlineEngine", made)
    return made


def check(result, late=frozenset()):
    """What is committed is one story: in the records, in the files and in MLflow.

    Args:
        result: The population's.
        late: Names of files that a worker may have written after the end.
    """
    loaded, client = pbt_flow.load(result.run_id), MlflowClient()
    members = StoredPopulation.open(result.run_id).store.members
    for member, turns in loaded.history.turns.items():
        assert turns == result.history.turns[member]
        run = client.get_run(members[member])
        root = Path(run.info.artifact_uri)
        points = client.get_metric_history(run.info.run_id, "score")
        assert [(p.step, p.value) for p in points] == [(t.plan.trained, t.score) for t in turns]
        named = set()
        for turn in turns:
            checkpoint = turn.checkpoint
            named.add(file_place(RECORD, turn.number, turn.plan.attempt))
            place = file_place(STATE, turn.number, checkpoint.attempt)
            if (root / place).exists():
                named.add(place)
                assert file_digest(root / place) == checkpoint.digest
            if turn.plan.start is not None:
                start = turn.plan.start
                given = loaded.history.turn(start.member, start.turn).checkpoint
                assert (given, given.attempt) == (start, start.attempt)
        there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        assert there - named <= late, "something of another attempt was left"
        assert file_place(STATE, len(turns), turns[-1].plan.attempt) in there


SETTINGS = {"population": 2, "turns": 3, "mode": "generational", "engine": "inline", "quiet": True}


@pytest.mark.parametrize("wakes", ["before", "before the answer", "a turn later", "at the end"])
def test_an_attempt_that_was_given_up_and_wakes_up_changes_nothing(wakes, monkeypatch):
    made = engine(monkeypatch, sleeps=(1, 2), wakes=wakes)
    result = pbt_flow.run(Unlike, **SETTINGS)
    assert result.status == "finished"
    assert made.asleep == [], "it never woke up"
    assert str(result.history.turn(1, 2).plan.attempt) == "1.2"
    # What it began with may be gone by then: it has failed, and its record says so.
    names = [file_place(kind, 2, Attempt(claim=1, number=1)) for kind in (STATE, RECORD, ERROR)]
    check(result, set(names) if wakes == "at the end" else set())


def two_asleep(monkeypatch):
    """A population whose controller died when two attempts at a turn were asleep.

    Returns:
        Its result, the turn of the first attempt, which was the first to wake up, and a function
        that wakes the second.
    """
    made, opened = engine(monkeypatch, sleeps=(1, 2), wakes="", ends_at_the_second=True), []
    monkeypatch.setattr(
        made, "open", lambda self, *given: (opened.append(self), Sleepy.open(self, *given))[0]
    )
    first = pbt_flow.run(Unlike, **SETTINGS)
    assert (first.status, first.reason) == ("failed", "the controller dies")
    accepted = opened[0].wake(0)
    assert str(accepted.plan.attempt) == "1.1"
    return first, accepted, lambda: opened[0].wake(0)


@pytest.mark.slow
@pytest.mark.parametrize("dies", [False, True])
def test_nor_does_one_that_wakes_up_after_a_resume_has_accepted_an_earlier_one(dies, monkeypatch):
    """The earlier attempt is all that the resume finds, and what it builds on.

    That holds for whoever comes after it as well, if it is killed then: its list of what it has
    accepted is all that it has left.
    """
    first, accepted, wake = two_asleep(monkeypatch)

    class Resumes(InlineEngine):
        def submit(self, job):
            super().submit(job)
            if isinstance(job, Plan) and (job.member, job.turn) == (1, 3):
                assert str(wake().plan.attempt) == "1.2"
                if dies:
                    raise EngineError("the second controller dies")

    monkeypatch.setattr("pbt_flow.commands.launch.InlineEngine", Resumes)
    result = pbt_flow.resume(first.run_id, quiet=True)
    assert result.status == ("failed" if dies else "finished")
    assert result.history.turn(1, 2) == accepted
    # The resume has deleted what the late attempt began with, so that it may fail as well.
    names = ("state-1.2.pt", "turn-1.2.json", "error-1.2.txt")
    if dies:
        # A killed one has written no journal.
        shutil.rmtree(Path(MlflowClient().get_run(first.run_id).info.artifact_uri, JOURNAL))
    else:
        check(result, {f"turns/000002/{name}" for name in names})
    # Whoever reads it later reads the same, as does a third controller.
    assert pbt_flow.load(first.run_id).history.turn(1, 2) == accepted
    monkeypatch.setattr("pbt_flow.commands.launch.InlineEngine", InlineEngine)
    result = pbt_flow.resume(first.run_id, turns=4, quiet=True)
    assert result.history.turn(1, 2) == accepted


def test_nor_does_one_that_wakes_up_when_its_controller_was_replaced_long_after(monkeypatch):
    """The turn is no longer its member's newest: of those the next controller knows anyway."""

    class Dies(Sleepy):
        def open(self, folders, runs=None):
            super().open(folders, runs)
            opened.append(self)

        def submit(self, job):
            if isinstance(job, Plan) and (job.member, job.turn) == (1, 5):
                raise EngineError("the controller dies")
            super().submit(job)

    class Wakes(InlineEngine):
        def submit(self, job):
            super().submit(job)
            if isinstance(job, Plan) and job.turn == 5:
                while opened[0].asleep:
                    opened[0].wake(0)

    opened = []
    made = type("Chosen", (Dies,), {"asleep": [], "sleeps": (1, 2), "wakes": ""})
    monkeypatch.setattr("pbt_flow.commands.launch.InlineEngine", made)
    first = pbt_flow.run(Unlike, **{**SETTINGS, "turns": 5, "mode": "async"})
    assert (first.status, first.reason) == ("failed", "the controller dies")
    monkeypatch.setattr("pbt_flow.commands.launch.InlineEngine", Wakes)
    result = pbt_flow.resume(first.run_id, quiet=True)
    assert result.status == "finished"
    assert made.asleep == [], "it never woke up"
    assert str(result.history.turn(1, 2).plan.attempt) == "1.2"
    check(result)


def test_the_record_of_an_earlier_attempt_is_not_taken_for_that_of_a_later_one(monkeypatch):
    """The later one may still write, and would then count for all who read."""

    class Twice(Sleepy):
        def submit(self, job):
            if not isinstance(job, Retry):
                super().submit(job)
                return
            self.asleep.append(job.plan)
            self.wake(0)
            self._finished.append(LostJob(job=job, reason="nor of the second"))

    made = type("Chosen", (Twice,), {"asleep": [], "sleeps": (1, 2), "wakes": ""})
    monkeypatch.setattr("pbt_flow.commands.launch.InlineEngine", made)
    result = pbt_flow.run(Unlike, **SETTINGS)
    turn = result.history.turn(1, 2)
    assert (turn.status, str(turn.plan.attempt)) == ("lost", "1.3")
    assert pbt_flow.load(result.run_id).history.turn(1, 2) == turn


def test_an_engine_that_hears_late_of_a_lost_attempt_is_not_believed(monkeypatch):
    """It says that an attempt is lost, and has its outcome after all when there is another one."""

    class Confused(Sleepy):
        def wait(self, timeout=None):
            finished = super().wait(timeout)
            if self.late and not any(isinstance(done, LostJob) for done in finished):
                finished.append(self.late.pop())
            return finished

        def submit(self, job):
            super().submit(job)
            if isinstance(job, Retry):
                self.late.append(self.wake(0))

    made = type("Chosen", (Confused,), {"asleep": [], "late": [], "sleeps": (1, 2), "wakes": ""})
    monkeypatch.setattr("pbt_flow.commands.launch.InlineEngine", made)
    result = pbt_flow.run(Unlike, **SETTINGS)
    assert result.status == "finished"
    check(result)
