"""What an engine must keep to, as a test class to inherit.

from pbt_flow.testing import EngineContract

class TestMyEngine(EngineContract):
    @classmethod
    def make(cls):
        return MyEngine()
"""

from __future__ import annotations

import math
import pickle
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import torch

from pbt_flow.engines.base import Engine, LostJob
from pbt_flow.engines.jobs import (
    AverageEvaluated,
    Describe,
    Described,
    Done,
    EvaluateAverage,
    Inspect,
    Inspection,
    Job,
    Probe,
    Probed,
    Retry,
    WorkerContext,
)
from pbt_flow.engines.worker import Worker
from pbt_flow.exceptions import EngineError
from pbt_flow.population.checkpoints import LocalFolders, load_state
from pbt_flow.population.records import Checkpoint, Plan, Turn, derive_seed
from pbt_flow.population.turn_files import OUTPUT, file_place
from pbt_flow.task import TaskSpec
from pbt_flow.testing.ordered_task import ORDERS, SAMPLE, OrderedTask

SEED = 0
"""The seed of the population whose turns the contract runs."""
STEPS = 3
"""The steps of a turn."""
_MEMBERS = 100
"""How many members there are to take fresh ones from."""
_Outcome = TypeVar("_Outcome", bound="Done | LostJob")


class EngineContract:
    """The contract of an engine. A subclass says how one is made.

    One engine serves all sentences, so that workers are started once. pytest calls `setup_class`
    and `teardown_class`; whoever calls the sentences in another way calls those two as well.
    """

    slots: ClassVar[int] = 2
    """How many turns are to run at once."""
    threads: ClassVar[int] = 2
    """The CPU threads of torch in a worker."""
    in_this_process: ClassVar[bool] = False
    """Whether turns run in the process of the test. What would end that process, or keep it for
    ever, is then not asked for."""
    keeps_output: ClassVar[bool] = True
    """Whether what a task prints in a turn is kept beside its record."""
    patience: ClassVar[float] = 300.0
    """Seconds within which an outcome must come."""

    _engine: ClassVar[Engine | None] = None
    _folder: ClassVar[tempfile.TemporaryDirectory[str] | None] = None
    _described: ClassVar[Done | LostJob | None] = None
    _probed: ClassVar[Done | LostJob | None] = None
    _used: ClassVar[int] = 0
    """How many members have been used."""

    @classmethod
    def make(cls) -> Engine:
        """A fresh engine, which has not been started."""
        raise NotImplementedError("make() returns the engine that is to keep the contract")

    @classmethod
    def setup_class(cls) -> None:
        """Start an engine; what it says before its first turn is asked for here."""
        cls._folder = tempfile.TemporaryDirectory(prefix="pbt_flow-contract-")
        cls._used = 0
        cls._engine = cls._start(cls._folders())

    @classmethod
    def teardown_class(cls) -> None:
        """Close the engine, twice."""
        if cls._engine is not None:
            cls._engine.close()
            cls._engine.close()
        cls._engine = None
        if cls._folder is not None:
            cls._folder.cleanup()
            cls._folder = None

    # --- what the sentences are made of ---

    @classmethod
    def _context(cls) -> WorkerContext:
        return WorkerContext(task=_spec(), seed=SEED, warm=2, threads=cls.threads)

    @classmethod
    def _folders(cls, place: str = "turns") -> LocalFolders:
        assert cls._folder is not None, "setup_class makes the folder"
        root = Path(cls._folder.name, place)
        return LocalFolders({member: str(root / str(member)) for member in range(_MEMBERS)})

    @classmethod
    def _start(cls, folders: LocalFolders) -> Engine:
        engine = cls.make()
        try:
            engine.submit(Describe(task=_spec().name))
            (cls._described,) = cls._outcomes(engine, 1)
            engine.start(cls._context(), slots=cls.slots)
            engine.submit(Probe())
            (cls._probed,) = cls._outcomes(engine, 1)
            engine.open(folders)
        except BaseException:
            engine.close()
            raise
        return engine

    @classmethod
    def _outcomes(cls, engine: Engine, count: int) -> list[Done | LostJob]:
        """So many outcomes of an engine, and no more."""
        end, found = time.monotonic() + cls.patience, list[Done | LostJob]()
        while len(found) < count:
            assert 1 <= engine.slots <= cls.slots, f"slots is {engine.slots} of {cls.slots}"
            left = end - time.monotonic()
            assert left > 0, f"{len(found)} of {count} outcomes came in {cls.patience:g} seconds"
            found += engine.wait(timeout=left)
        assert len(found) == count, f"{len(found)} outcomes of {count} jobs: {found}"
        return found

    @property
    def engine(self) -> Engine:
        """The engine, which has no job under way."""
        assert self._engine is not None, "setup_class starts the engine"
        return self._engine

    def run(self, *jobs: Job) -> list[Done | LostJob]:
        """The outcomes of some jobs, in the order in which they came."""
        waiting, under_way, found = list(jobs), 0, list[Done | LostJob]()
        while waiting or under_way:
            while waiting and under_way < self.engine.slots:
                self.engine.submit(waiting.pop(0))
                under_way += 1
            for done in self._outcomes_so_far():
                under_way -= 1
                found.append(done)
        return found

    def _outcomes_so_far(self) -> list[Done | LostJob]:
        """At least one outcome."""
        end = time.monotonic() + self.patience
        while not (found := self.engine.wait(timeout=max(0.0, end - time.monotonic()))):
            assert time.monotonic() < end, f"no outcome came in {self.patience:g} seconds"
        return found

    def run_one(self, job: Job, kind: type[_Outcome]) -> _Outcome:
        """The outcome of one job, which must be of this kind."""
        (done,) = self.run(job)
        assert isinstance(done, kind), f"{type(job).__name__} came to {done}"
        return done

    def member(self) -> int:
        """A member that has not trained yet."""
        type(self)._used += 1
        return self._used - 1

    def plan(
        self, member: int, order: str = "train", turn: int = 1, start: Checkpoint | None = None
    ) -> Plan:
        """A turn of a member."""
        assert order in ORDERS, order
        return Plan(
            member=member,
            turn=turn,
            seed=derive_seed(SEED, member, turn),
            hparams={"lr": 0.1, "order": order},
            steps=STEPS,
            start=start,
            start_step=STEPS * (turn - 1),
            trained=STEPS * turn,
        )

    def here(self, plan: Plan) -> Turn:
        """What a turn comes to in this process, in the thread count of this process."""
        worker = Worker(self._context(), reraise=(KeyboardInterrupt,))
        worker.folders = _Elsewhere(self._folders(), self._folders("here"))
        return worker.run(plan)

    # --- the sentences ---

    def test_it_describes_a_task_before_it_starts(self) -> None:
        """The answer names the task as the controller's machine finds it again."""
        assert isinstance(self._described, Described), self._described
        declared = pickle.loads(self._described.declaration)
        assert (declared.name, set(declared.space)) == (_spec().name, {"lr", "order"})

    def test_it_builds_a_model_before_it_is_told_of_folders(self) -> None:
        """Whatever is wrong with a task comes to light before anything is written."""
        assert isinstance(self._probed, Probed), self._probed
        assert self._probed.error == ""

    def test_a_turn_comes_to_what_it_comes_to_in_this_process(self) -> None:
        plan = self.plan(self.member())
        there, here = self.run_one(plan, Turn), self.here(plan)
        assert there.ok, there.error
        assert (there.plan, there.checkpoint, there.score) == (plan, here.checkpoint, here.score)

    def test_a_turn_has_committed_its_record_when_it_comes_back(self) -> None:
        turn = self.run_one(self.plan(self.member()), Turn)
        assert self._folders().record(turn.member, 1) == turn

    def test_every_job_has_one_outcome(self) -> None:
        """More jobs than slots, of which each comes back once, and nothing comes later."""
        members = [self.member() for _ in range(2 * self.slots + 1)]
        turns = self.run(*(self.plan(member) for member in members))
        assert all(isinstance(turn, Turn) for turn in turns), turns
        assert sorted(turn.member for turn in turns if isinstance(turn, Turn)) == members
        assert self.engine.wait(timeout=0.0) == []

    def test_a_turn_begins_with_the_checkpoint_of_its_plan(self) -> None:
        """Whichever worker runs it, and whatever that one has in memory."""
        donor, copier = self.member(), self.member()
        given = self.run_one(self.plan(donor), Turn)
        own = self.run_one(self.plan(copier), Turn)
        assert given.checkpoint != own.checkpoint
        plans = [
            self.plan(copier, turn=2, start=given.checkpoint),
            self.plan(donor, turn=2, start=given.checkpoint),
        ]
        found = {turn.member: turn for turn in self.run(*plans) if isinstance(turn, Turn)}
        for plan in plans:
            turn = found[plan.member]
            assert turn.ok, turn.error
            assert turn.checkpoint == self.here(plan).checkpoint, f"member {plan.member}"

    def test_an_error_of_the_task_is_an_outcome_of_its_turn(self) -> None:
        for order in ("raise", "exit"):
            turn = self.run_one(self.plan(self.member(), order), Turn)
            assert (turn.status, turn.checkpoint) == ("failed", None), order
            assert "as ordered" in turn.error, order

    def test_files_are_written_where_they_are_wanted_and_requests_come_back_as_made(self) -> None:
        """Also where the worker's machine has no such folder."""
        turn = self.run_one(self.plan(self.member()), Turn)
        other = self.run_one(self.plan(self.member()), Turn)
        assert turn.checkpoint is not None, turn.error
        assert other.checkpoint is not None, other.error
        with tempfile.TemporaryDirectory() as folder:
            samples, average = Path(folder, "samples"), Path(folder, "average")
            samples.mkdir()
            average.mkdir()
            look = Inspect(member=turn.member, checkpoint=turn.checkpoint, samples=str(samples))
            inspection = self.run_one(look, Inspection)
            assert (inspection.request, inspection.error) == (look, "")
            assert set(inspection.metrics) == {"greatest"}
            assert (samples / "inner" / SAMPLE).read_text("utf-8").startswith("[")
            parents = (turn.checkpoint, other.checkpoint)
            mean = EvaluateAverage(member=turn.member, parents=parents, folder=str(average))
            averaged = self.run_one(mean, AverageEvaluated)
            assert (averaged.request, averaged.error) == (mean, "")
            assert averaged.checkpoint is not None
            states = [load_state(p, self._folders().root(p.member)) for p in parents]
            expected = torch.stack([state["weights"] for state in states]).mean(0)
            assert torch.equal(load_state(averaged.checkpoint, average)["weights"], expected)

    def test_a_turn_that_is_run_again_counts_what_was_lost(self) -> None:
        turn = self.run_one(Retry(plan=self.plan(self.member()), lost=7.5), Turn)
        assert (turn.ok, turn.seconds.get("lost")) == (True, 7.5)

    def test_torch_has_the_threads_that_are_asked_for(self) -> None:
        """Torch splits sums among its threads, so that results depend on their number."""
        turn = self.run_one(self.plan(self.member()), Turn)
        assert turn.metrics["threads"] == self.threads

    def test_what_a_task_prints_in_a_turn_is_kept_beside_its_record(self) -> None:
        if not self.keeps_output:
            return
        turn = self.run_one(self.plan(self.member(), "print"), Turn)
        path = self._folders().root(turn.member) / file_place(
            OUTPUT, turn.number, turn.plan.attempt
        )
        assert path.read_text("utf-8") == "as ordered\n"

    def test_a_worker_that_dies_loses_its_job_and_no_other(self) -> None:
        """The job comes back as it was submitted, and can be submitted again at once."""
        if self.in_this_process:
            return
        dying, training = self.plan(self.member(), "die"), self.plan(self.member())
        done = {type(one): one for one in self.run(dying, training)}
        lost, turn = done.get(LostJob), done.get(Turn)
        assert isinstance(lost, LostJob), done
        assert isinstance(turn, Turn), done
        assert (lost.job, lost.blameless, turn.ok) == (dying, False, True)
        assert lost.reason, "the user reads why"
        for number in range(self.slots):
            # Another turn each time, since no file of a turn may be written twice.
            again = self.run_one(self.plan(dying.member, turn=1 + number), Turn)
            assert again.ok, again.error

    def test_a_turn_that_takes_longer_than_it_may_is_lost(self) -> None:
        if self.in_this_process:
            return
        member = self.member()
        # The worker is warm, so that the limit holds for the turn alone.
        self.run_one(self.plan(member), Turn)
        self.engine.turn_timeout = 1.0
        try:
            hanging = self.plan(member, "hang", turn=2)
            lost = self.run_one(hanging, LostJob)
            assert lost.job == hanging
            assert "turn_timeout" in lost.reason, "the user reads which limit it was"
        finally:
            self.engine.turn_timeout = math.inf
        assert self.run_one(self.plan(member, turn=3), Turn).ok

    def test_what_ended_in_trouble_can_be_closed_and_begun_anew(self) -> None:
        """Where turns cannot be written no turn blames its task, and the engine cannot go on."""
        cls = type(self)
        self.engine.close()
        cls._engine = None
        folders = self._folders("blocked")
        root = Path(folders.roots[1]).parent
        root.mkdir()
        # Even an administrator cannot write below a file.
        Path(folders.roots[1]).touch()
        cls._engine = self._start(folders)
        assert self.run_one(self.plan(0), Turn).ok
        try:
            found: object = self.run(self.plan(1))
        except EngineError as error:
            found = error
        assert isinstance(found, EngineError), f"a turn without a folder came to {found}"
        assert "member 1" in str(found), f"the message must name the turn: {found}"
        self.engine.close()
        self.engine.close()
        cls._engine = None
        cls._engine = self._start(self._folders())
        assert self.run_one(self.plan(self.member()), Turn).ok


class _Elsewhere(LocalFolders):
    """Folders that are read where the engine writes, and written elsewhere."""

    def __init__(self, read: LocalFolders, written: LocalFolders) -> None:
        super().__init__(written.roots)
        object.__setattr__(self, "_read", read)

    def fetch(self, checkpoint: Checkpoint) -> Path:
        read: LocalFolders = self._read  # type: ignore[attr-defined]
        return read.fetch(checkpoint)


def _spec() -> TaskSpec:
    return TaskSpec(name=f"{OrderedTask.__module__}:{OrderedTask.__qualname__}")


__all__: Sequence[str] = ["EngineContract"]
