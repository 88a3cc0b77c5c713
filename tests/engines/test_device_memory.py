"""What a worker keeps in memory, and what it does when that was too much."""

import gc
import weakref

import pytest
import torch
from sample_tasks import Regression
from single_turns import plan

from pbt_flow.engines import worker as worker_module
from pbt_flow.engines.device_memory import DeviceMemory, is_out_of_memory
from pbt_flow.engines.inline import InlineEngine
from pbt_flow.engines.jobs import EvaluateAfresh, Inspect, WorkerContext
from pbt_flow.engines.worker import Worker
from pbt_flow.exceptions import EngineError
from pbt_flow.population.checkpoints import LocalFolders
from pbt_flow.task import TaskSpec


class Memory:
    """Readings of a GPU of 100 bytes, on which each living model takes 20 and training 10 more."""

    MODEL, TRAINING, TOTAL = 20, 10, 100

    def __init__(self, others=0):
        self.others = others
        self.most = self.before = 0

    def name(self):
        return "A GPU"

    def total(self):
        return self.TOTAL

    def allocated(self):
        return self.MODEL * len(Sized.alive)

    def reserved(self):
        return self.allocated()

    def free(self):
        return self.TOTAL - self.others - self.reserved()

    def peak(self):
        self.most = max(self.most, self.allocated())
        return self.most + self.TRAINING

    def forget_peak(self):
        self.most = self.allocated()


class Sized(Regression):
    """Takes memory as long as it lives, and no more than there is."""

    alive = weakref.WeakSet()
    room = 100
    """How many of them have a place at once."""
    asked = 0

    def __init__(self, **given):
        super().__init__(**given)
        # In a cycle, as models are: only a collection frees it.
        self.itself = self
        Sized.alive.add(self)

    def _ask_for_memory(self):
        Sized.asked += 1
        if len(Sized.alive) > Sized.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 bytes.")

    def train(self, hparams, steps):
        self._ask_for_memory()
        return super().train(hparams, steps)

    def report(self):
        self._ask_for_memory()
        return super().report()

    def evaluate_fresh(self):
        self._ask_for_memory()
        return super().evaluate_fresh()


@pytest.fixture(autouse=True)
def nothing_alive():
    gc.collect()
    Sized.room, Sized.asked = 100, 0
    assert not Sized.alive


def made(tmp_path, name, warm=4, memory=None):
    spec = TaskSpec(name="test_device_memory:Sized")
    one = Worker(WorkerContext(task=spec, seed=3, warm=warm), memory=memory)
    one.folders = LocalFolders({m: str(tmp_path / f"{name}{m}") for m in range(4)})
    return one


def two_rounds(one):
    first = [one.do(plan(member)) for member in range(4)]
    return first, [one.do(plan(m, 2, first[m].checkpoint)) for m in range(4)]


@pytest.mark.parametrize(
    ("others", "sharers", "most"), [(0, 1, 4), (20, 1, 3), (0, 2, 2), (60, 1, 1), (95, 1, 1)]
)
def test_a_worker_keeps_as_many_members_as_there_is_room_for(others, sharers, most, tmp_path):
    memory = Memory(others)
    roomy = [turn for part in two_rounds(made(tmp_path, "a")) for turn in part]
    gc.collect()
    one = made(tmp_path, "b", memory=DeviceMemory(memory, sharers=sharers))
    counts = []
    turns = []
    for number in (1, 2):
        for member in range(4):
            start = None if number == 1 else turns[member].checkpoint
            turns.append(one.do(plan(member, number, start)))
            counts.append(len(Sized.alive))
    assert max(counts) == most
    # What is kept in memory changes no bit.
    assert [turn.checkpoint for turn in turns] == [turn.checkpoint for turn in roomy]


def test_members_that_wait_give_way_to_the_one_that_trains(tmp_path):
    roomy = two_rounds(made(tmp_path, "a"))
    gc.collect()
    Sized.room = 2
    crowded = made(tmp_path, "b")
    told = two_rounds(crowded)
    assert all(turn.ok for part in told for turn in part), told
    assert [[t.checkpoint for t in p] for p in told] == [[t.checkpoint for t in p] for p in roomy]
    again = told[0][2]
    assert again.seconds["lost"] > 0
    # It has learnt how many have a place: later turns do not try in vain once more.
    assert not any("lost" in turn.seconds for turn in [told[0][3], *told[1]])


def test_looks_and_fresh_evaluations_find_room_as_turns_do(tmp_path):
    one = made(tmp_path, "a")
    first = [one.do(plan(member)) for member in range(3)]
    Sized.room, Sized.asked = 1, 0
    seen = one.do(Inspect(member=0, checkpoint=first[0].checkpoint))
    assert (seen.error, Sized.asked) == ("", 2)
    for member in (0, 1):
        Sized.room = 100
        one = made(tmp_path, "a")
        for other in range(3):
            one.do(EvaluateAfresh(member=other, checkpoint=first[other].checkpoint))
        Sized.room = 1
        done = one.do(EvaluateAfresh(member=member, checkpoint=first[member].checkpoint))
        assert len(done.scores) == 1, done.error


def test_a_turn_for_which_memory_is_too_small_even_alone_fails_with_the_way_out(tmp_path):
    one = made(tmp_path, "a")
    Sized.room = 0
    turn = one.do(plan(0))
    assert turn.status == "failed"
    first = turn.error.splitlines()[0]
    assert "CUDA out of memory" in first
    assert first.endswith("give fewer --workers, or a smaller model or batch")
    assert Sized.asked == 1
    Sized.room = 1
    assert one.do(plan(1)).ok


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (OSError(28, "No space left on device"), False),
    ],
)
def test_exhausted_memory_is_told_from_other_errors(error, says):
    assert is_out_of_memory(error) is says


def test_where_a_worker_trains_is_told_with_who_shares_it():
    assert DeviceMemory().place() == ""
    assert (
        DeviceMemory(Memory()).place()
        == "each worker has a GPU to itself; the first: A GPU (0 GiB)"
    )
    assert DeviceMemory(Memory(), sharers=3).place().startswith("up to 3 workers share a GPU")


class Trap(Regression):
    """A turn with the order to do so ends with an error of the task's."""

    def train(self, hparams, steps):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_worker_whose_device_refuses_everything_says_so_with_its_last_answer(
    tmp_path, monkeypatch
):
    spec = TaskSpec(name="test_device_memory:Trap")
    one = Worker(WorkerContext(task=spec, seed=3))
    one.folders = LocalFolders({0: str(tmp_path)})
    assert not one.do(plan()).ok
    # An error of the task alone leaves the device as it was.
    assert one.spoiled == ""
    monkeypatch.setattr(worker_module, "device_error", lambda device: f"{device} refuses")
    turn = one.do(plan(turn=2))
    assert (turn.status, one.spoiled) == ("failed", "cpu refuses")


def test_this_process_does_no_turn_on_a_device_that_refuses_everything(tmp_path, monkeypatch):
    engine = InlineEngine()
    engine.start(WorkerContext(task=TaskSpec(name="test_device_memory:Trap"), seed=3))
    engine.open(LocalFolders({0: str(tmp_path)}))
    try:
        monkeypatch.setattr(worker_module, "device_error", lambda device: f"{device} refuses")
        engine.submit(plan())
        (turn,) = engine.wait()
        assert turn.status == "failed"
        with pytest.raises(EngineError, match="cpu refuses; a new process can resume"):
            engine.submit(plan(turn=2))
    finally:
        engine.close()


def test_what_a_job_needs_is_its_model_and_its_training_whether_the_model_was_there_or_not():
    class Readings(Memory):
        TOTAL, now, top = 100, 0, 0

        def allocated(self):
            return self.now

        def peak(self):
            return self.top

    for before, peak, own_part in ((0, 30, 0.0), (20, 30, 1.0), (60, 70, 1 / 3), (40, 70, 0.0)):
        readings = Readings()
        memory = DeviceMemory(readings)
        readings.now, readings.top = before, peak
        with memory.watched(own_part):
            pass
        readings.now = 70
        assert memory.has_room()
        readings.now = 71
        assert not memory.has_room()


@pytest.mark.parametrize("looked_at", [False, True])
def test_a_population_in_this_process_leaves_its_memory_to_the_user(tmp_path, looked_at):
    """Also where its last model was reported on, and waits for no turn any more."""
    engine = InlineEngine()
    engine.start(WorkerContext(task=TaskSpec(name="test_device_memory:Sized"), seed=3, warm=2))
    engine.open(LocalFolders({0: str(tmp_path)}))
    engine.submit(plan())
    (turn,) = engine.wait()
    if looked_at:
        engine.submit(Inspect(member=turn.member, checkpoint=turn.checkpoint))
        engine.wait()
    assert len(Sized.alive) == 1
    engine.close()
    assert not Sized.alive
