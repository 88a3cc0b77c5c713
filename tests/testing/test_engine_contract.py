"""The contract for engines: a good engine keeps it, and each broken one is caught by a sentence."""

import dataclasses
import pickle
import tempfile
from pathlib import Path

import pytest

from pbt_flow.engines import InlineEngine, LostJob, ProcessEngine
from pbt_flow.engines.jobs import Described, Inspect, Inspection, Plan, Retry
from pbt_flow.exceptions import EngineError
from pbt_flow.population.checkpoints import LocalFolders
from pbt_flow.population.records import Turn
from pbt_flow.testing import EngineContract


class TestInlineContract(EngineContract):
    in_this_process = True
    keeps_output = False
    make = InlineEngine


@pytest.mark.slow
class TestProcessContract(EngineContract):
    make = ProcessEngine


class NamesTheTaskElsewhere(InlineEngine):
    def wait(self, timeout=None):
        def elsewhere(done):
            if not isinstance(done, Described):
                return done
            found = dataclasses.replace(pickle.loads(done.declaration), name="/elsewhere.py:Task")
            return Described(declaration=pickle.dumps(found))

        return [elsewhere(done) for done in super().wait(timeout)]


class AnswersTwice(InlineEngine):
    answered = ()

    def wait(self, timeout=None):
        now = super().wait(timeout)
        again, self.answered = self.answered, [done for done in now if isinstance(done, Turn)]
        return now or again


class ForgetsADonor(InlineEngine):
    def submit(self, job):
        super().submit(dataclasses.replace(job, start=None) if isinstance(job, Plan) else job)


class RunsTheTurnOfAnother(InlineEngine):
    def submit(self, job):
        super().submit(dataclasses.replace(job, seed=1) if isinstance(job, Plan) else job)


class WritesElsewhere(InlineEngine):
    def open(self, folders, runs=None):
        self.elsewhere = tempfile.TemporaryDirectory()
        roots = {member: f"{self.elsewhere.name}/{member}" for member in folders.roots}
        super().open(LocalFolders(roots), runs)


class LeavesSamplesWhereTheyWereMade(InlineEngine):
    def submit(self, job):
        if not isinstance(job, Inspect):
            super().submit(job)
            return
        with tempfile.TemporaryDirectory() as folder:
            super().submit(dataclasses.replace(job, samples=folder))
        self._finished[-1] = dataclasses.replace(self._finished[-1], request=job)


class ReturnsItsOwnRequest(InlineEngine):
    def wait(self, timeout=None):
        def own(done):
            if not isinstance(done, Inspection):
                return done
            return dataclasses.replace(
                done, request=dataclasses.replace(done.request, samples="/of/the/worker")
            )

        return [own(done) for done in super().wait(timeout)]


class ForgetsWhatWasLost(InlineEngine):
    def submit(self, job):
        super().submit(job.plan if isinstance(job, Retry) else job)


class HasThreadsOfItsOwn(InlineEngine):
    def start(self, context, *, slots=1):
        super().start(dataclasses.replace(context, threads=context.threads + 1), slots=slots)


class LosesWhatTheTaskRaises(InlineEngine):
    def wait(self, timeout=None):
        return [
            LostJob(job=done.plan, reason=done.error)
            if isinstance(done, Turn) and not done.ok
            else done
            for done in super().wait(timeout)
        ]


class BlamesTheTaskForTheDisk(InlineEngine):
    def submit(self, job):
        try:
            super().submit(job)
        except EngineError as error:
            self._finished.append(LostJob(job=job, reason=str(error)))


class HasNoSlots(InlineEngine):
    slots = 0


def failures(engine, **declared):
    declared = {"in_this_process": True, "keeps_output": False, **declared}
    contract = type("Contract", (EngineContract,), {"make": engine, **declared})
    found = set()
    for name in vars(EngineContract):
        if not name.startswith("test_"):
            continue
        try:
            if contract._engine is None:
                contract.setup_class()
            getattr(contract(), name)()
        except Exception:
            found.add(name)
    contract.teardown_class()
    return found


EVERYTHING = {name for name in vars(EngineContract) if name.startswith("test_")}
FILES = "test_files_are_written_where_they_are_wanted_and_requests_come_back_as_made"
TROUBLE = "test_what_ended_in_trouble_can_be_closed_and_begun_anew"
HERE = "test_a_turn_comes_to_what_it_comes_to_in_this_process"
BEGINS = "test_a_turn_begins_with_the_checkpoint_of_its_plan"


@pytest.mark.parametrize(
    ("engine", "sentences"),
    [
        (NamesTheTaskElsewhere, {"test_it_describes_a_task_before_it_starts"}),
        (AnswersTwice, {"test_every_job_has_one_outcome"}),
        (ForgetsADonor, {BEGINS}),
        (RunsTheTurnOfAnother, {HERE, BEGINS}),
        (WritesElsewhere, {"test_a_turn_has_committed_its_record_when_it_comes_back"}),
        (LeavesSamplesWhereTheyWereMade, {FILES}),
        (ReturnsItsOwnRequest, {FILES}),
        (ForgetsWhatWasLost, {"test_a_turn_that_is_run_again_counts_what_was_lost"}),
        (HasThreadsOfItsOwn, {"test_torch_has_the_threads_that_are_asked_for"}),
        (LosesWhatTheTaskRaises, {"test_an_error_of_the_task_is_an_outcome_of_its_turn"}),
        (BlamesTheTaskForTheDisk, {TROUBLE}),
        (HasNoSlots, EVERYTHING),
    ],
)
def test_a_broken_engine_is_caught(engine, sentences):
    assert sentences <= failures(engine)


def test_a_good_engine_is_not():
    assert failures(InlineEngine) == set()


class LetsTurnsHang(ProcessEngine):
    def _replace_hung(self):
        return []


class SwallowsLosses(ProcessEngine):
    def wait(self, timeout=None):
        return [done for done in super().wait(timeout) if not isinstance(done, LostJob)]


class DropsWhatIsPrinted(ProcessEngine):
    def wait(self, timeout=None):
        found = super().wait(timeout)
        for turn in found:
            if isinstance(turn, Turn):
                root = Path(self._opened[0].root(turn.member))
                for path in root.glob("turns/*/output.txt"):
                    path.unlink()
        return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "sentence"),
    [
        (LetsTurnsHang, "test_a_turn_that_takes_longer_than_it_may_is_lost"),
        (SwallowsLosses, "test_a_worker_that_dies_loses_its_job_and_no_other"),
        (DropsWhatIsPrinted, "test_what_a_task_prints_in_a_turn_is_kept_beside_its_record"),
    ],
)
def test_an_engine_whose_workers_are_not_looked_after_is_caught(engine, sentence):
    contract = type("Contract", (EngineContract,), {"make": engine})
    contract.setup_class()
    # Its workers have started: what does not come now never comes.
    contract.patience = 15.0
    try:
        with pytest.raises((AssertionError, FileNotFoundError)):
            getattr(contract(), sentence)()
    finally:
        contract.teardown_class()
