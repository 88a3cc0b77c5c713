"""A joined script lives in the process of others: its words, folder, frames, ends and memory."""

import gc
import os
import resource
import sys
import threading
import weakref

import pytest
import torch
from joined_scripts import SCRIPT, build, turn

from pbt_flow import TaskError
from pbt_flow.task import find_task
from pbt_flow.task.joined_script import task_of
from pbt_flow.testing.task_contract import same, through_checkpoint

# --- the script in its process --------------------------------------------------------------------


def test_members_begin_with_other_weights_though_the_script_seeds_itself(script):
    text = """
        torch.manual_seed(1); np.random.seed(1); random.seed(1)
        net = torch.nn.Linear(1, 1)
        drawn = {"values": [random.random(), np.random.random()]}
        data = torch.rand(1, generator=torch.Generator().manual_seed(1))
        pbt = pbt_flow.join({"x": RATE}, lambda: 0.0, net=net, drawn=drawn, data=data)
        for number in pbt.steps():
            pbt["x"]
            torch.manual_seed(5)
            pbt.log(drawn=torch.rand(()).item())
    """
    kind = script(text)
    tasks = [build(kind, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (through_checkpoint(task.state_dict())["objects"] for task in tasks)
    assert same(first, again)
    for name in ("net", "drawn"):
        assert not same(first[name], other[name])
    assert same(first["data"], other["data"]), "a generator of the script's own is its own affair"
    told = tasks[0].understood()["seed"]
    assert "torch.manual_seed(1) of the script" in told
    # Who has seeded the split need not change anything.
    assert "a generator of its own is the same in all; one that has none is another in each" in told
    # In the loop the script's seeding is its own.
    torch.manual_seed(5)
    drawn = torch.rand(()).item()
    assert turn(tasks[2], {"x": 0.5})["drawn"] == drawn
    kept = [build(kind, seed=seed, keep_seed=True) for seed in (0, 1)]
    assert same(*(through_checkpoint(task.state_dict()) for task in kept))


def test_a_script_sees_its_own_words_and_its_own_main_module(script):
    import sys

    kind = script("""
        class Own: pass
        seen = {"before": [sys.argv[1:], sys.modules["__main__"].Own is Own], "in": []}
        def score():
            assert sys.modules["__main__"].Own is Own
            return 1.0
        pbt = pbt_flow.join({"x": RATE}, score, seen=seen)
        for number in pbt.steps():
            pbt["x"]
            seen["in"] = [sys.argv[1:], sys.modules["__main__"].Own is Own, __name__, __file__]
    """)
    words, main = list(sys.argv), sys.modules["__main__"]
    task = build(kind, arguments=["--one", "two words"])
    turn(task, {"x": 0.5})
    task.evaluate()
    seen = task._member.objects["seen"]
    assert seen["before"] == [["--one", "two words"], True]
    assert seen["in"] == [["--one", "two words"], True, "__main__", str(kind.path)]
    assert (sys.argv, sys.modules["__main__"]) == (words, main)


FILES = """
open("last.txt", "a").close()
pbt = pbt_flow.join({"x": RATE}, lambda: 0.0, seen={"files": 0})
for number in pbt.steps():
    pbt["x"]
    import os
    pbt.log(files=len(os.listdir(".")))
    open("last.txt", "x").close()
    open("{missing}").close()
"""


def test_a_members_loop_has_a_folder_of_its_own_that_is_empty_when_a_turn_begins(
    script, tmp_path, monkeypatch
):
    kind = script(FILES.replace("{missing}", "last.txt"))
    monkeypatch.setenv("PBT_FLOW_WORKER", "0")
    monkeypatch.setenv("PBT_FLOW_SCRATCH", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    first, second = build(kind), build(kind)
    here = os.getcwd()
    for task in (first, second, first):
        assert turn(task, {"x": 0.5}, steps=1)["files"] == 0
    assert os.getcwd() == here
    assert len(list((tmp_path / "scratch").iterdir())) == 2
    del first, second, task
    gc.collect()
    assert not list((tmp_path / "scratch").iterdir())
    missing = script(FILES.replace("{missing}", "data/train.csv"), name="joined_other.py")
    with pytest.raises(TaskError, match=r"no data/train.csv in the .*own folder.*keep_folder"):
        turn(build(missing), {"x": 0.5}, steps=1)
    kept = build(missing, keep_folder=True)
    (tmp_path / "last.txt").unlink()
    with pytest.raises(FileNotFoundError):
        turn(kept, {"x": 0.5}, steps=1)


@pytest.mark.parametrize(
    ("loop", "evaluation", "named"),
    [
        ("torch.save(net.state_dict(), 'saved/last.pt')", "0.0", "saved"),
        ("raise OSError(\"Cannot save file into a non-existent directory: 'out'\")", "0.0", "out"),
        ("pass", "open('data/test.csv')", "data/test.csv"),
    ],
)
def test_whatever_is_not_found_in_a_members_folder_is_told_with_the_way_out(
    script, tmp_path, monkeypatch, loop, evaluation, named
):
    kind = script(f"""
        pbt = pbt_flow.join({{"lr": RATE}}, lambda: {evaluation}, net=net, optimizer=optimizer)
        for number in pbt.steps():
            update()
            {loop}
    """)
    monkeypatch.setenv("PBT_FLOW_WORKER", "0")
    monkeypatch.setenv("PBT_FLOW_SCRATCH", str(tmp_path))
    task = build(kind)

    def train():
        turn(task, {"lr": 0.1})
        task.evaluate()

    with pytest.raises(TaskError, match=rf"there is no {named} in .*own folder.*keep_folder=true"):
        train()


def test_a_script_whose_weights_no_checkpoint_would_hold_is_refused(script):
    kind = script(
        """
        pbt = pbt_flow.join({"lr": RATE}, score, optimizer=optimizer)
    """,
        loop=True,
    )
    with pytest.raises(TaskError, match="optimizer trains 2 weights that no object named in join"):
        build(kind)


PART = """
head = torch.nn.Linear(1, 1)
optimizer.add_param_group({{"params": list(head.parameters())}})
class Copies:
    def state_dict(self): return copy.deepcopy(head.state_dict())
    def load_state_dict(self, state): head.load_state_dict(state)
pbt = pbt_flow.join({{"lr": RATE}}, score, net=net, optimizer=optimizer{more})
"""


def test_each_weight_that_is_trained_belongs_to_a_named_object(script):
    with pytest.raises(TaskError, match="optimizer trains 2 of its 4 weights that no object"):
        build(script(PART.format(more=""), loop=True))
    # A state may hold copies, and weights that are frozen belong to nobody.
    build(script(PART.format(more=", head=Copies()"), name="copies.py", loop=True))
    frozen = PART.format(more="") + "head.requires_grad_(False)\n"
    build(script(frozen, name="frozen.py", loop=True))


def test_a_module_that_knows_its_shapes_only_in_training_joins(script):
    kind = script("""
        net = torch.nn.Sequential(torch.nn.LazyLinear(1), torch.nn.Dropout(0.5))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
    """, loop=True)  # fmt: skip
    warm, cold = build(kind), build(kind, seed=1)
    turn(warm, {"lr": 0.1})
    cold.load_state_dict(through_checkpoint(warm.state_dict()))
    assert cold.evaluate() == warm.evaluate()


def test_a_loader_that_does_not_know_its_length_joins(script):
    kind = script("""
        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                return iter(torch.rand(6))
        loader = torch.utils.data.DataLoader(Stream(), batch_size=2)
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
        for batch in pbt.batches(loader):
            update()
            pbt.log(least=batch.min())
    """)
    warm, cold = build(kind), build(kind, seed=1)
    turn(warm, {"lr": 0.1})
    cold.load_state_dict(through_checkpoint(warm.state_dict()))
    assert turn(warm, {"lr": 0.1}, seed=2) == turn(cold, {"lr": 0.1}, seed=2)


NESTED = {
    "epochs": """
        for epoch in range(3):
            for number in pbt.steps():
                update()
    """,
    "function": """
        def train():
            for number in pbt.steps():
                update()
        while True:
            train()
    """,
}


@pytest.mark.parametrize("loops", NESTED.values(), ids=NESTED)
def test_a_loop_inside_of_another_one_is_refused(script, loops):
    joined = 'pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)'
    kind = script(f"        {joined}\n{loops}")
    with pytest.raises(TaskError, match=r"stands inside of another loop \(line \d+ of module\)"):
        build(kind)


def test_a_script_that_was_edited_is_read_as_it_is_now(script):
    join = 'pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)'
    with pytest.raises(TaskError, match="stands inside of another loop"):
        build(script(join + "\nwhile True:\n  for number in pbt.steps():\n    update()"))
    build(script(join + "\nif True:\n  for number in pbt.steps():\n    update()"))


def test_a_loop_in_which_the_script_joins_is_none(script):
    kind = script("""
        def begin():
            return pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
        for fold in range(3):
            pbt = begin()
            for number in pbt.steps(): update()
    """)
    assert turn(build(kind), {"lr": 0.1})


def test_a_script_finds_what_lies_beside_it_before_what_lies_where_the_user_stands(
    script, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    for folder in (tmp_path, tmp_path / "here"):
        (folder / "helper_of_joined.py").write_text(f"folder = {str(folder)!r}\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    monkeypatch.delitem(sys.modules, "helper_of_joined", raising=False)
    kind = script("""
        import helper_of_joined
        seen = {"folder": helper_of_joined.folder}
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer, seen=seen)
    """, loop=True)  # fmt: skip
    order = list(sys.path)
    assert build(kind)._member.objects["seen"] == {"folder": str(tmp_path)}
    assert [entry for entry in sys.path if entry in order] == order
    monkeypatch.delitem(sys.modules, "helper_of_joined")


def test_a_script_that_neither_joins_nor_has_a_class_is_refused_without_running_it(tmp_path):
    (tmp_path / "plain.py").write_text("for epoch in range(9):\n    open('was_run', 'w').close()")
    with pytest.raises(TaskError, match="has a loop and no class, and does not call"):
        find_task(str(tmp_path / "plain.py"))
    assert not (tmp_path / "was_run").exists()


def test_a_member_that_trains_past_the_scripts_own_end_says_so(script):
    kind = script(
        """
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
    """,
        loop=True,
    )
    task = build(kind)
    task.train({"lr": 0.1}, 8)
    assert "loop" not in task.understood()
    task.train({"lr": 0.1}, 1)
    assert "is of 8 passes, and a member trains on past its end" in task.understood()["loop"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pass", r"came to its end without a call of pbt_flow.join\(\)"),
        ("pbt_flow.join({'x': RATE}, score, net=net)", r"without a loop over pbt.steps\(\) or"),
        ("import sys; sys.exit('no data')", "left before its loop.*no data"),
        (
            "pbt = pbt_flow.join({'x': RATE}, score, net=net)\n"
            "with torch.no_grad():\n    for n in pbt.steps(): pass",
            r"stands inside of torch.no_grad\(\)",
        ),
        (
            "pbt = pbt_flow.join({'x': RATE}, score, net=net)\npbt['x']",
            "asks for x before its loop",
        ),
        (
            "for _ in range(2): pbt_flow.join({'x': RATE}, score, net=net)",
            "calls join.. twice",
        ),
        ("pbt_flow.join({'x': RATE}, 0.5, net=net)", "evaluate must be a function"),
        (
            "pbt_flow.join({'x': RATE}, score, net=net).into(object())",
            "no attribute that is called",
        ),
        ("pbt_flow.join({'x': RATE}, score, net=net).steps(list('ab'))", "steps.. takes a range"),
    ],
)
def test_a_script_that_cannot_be_a_member_is_told_why_when_it_is_built(tmp_path, text, said):
    (tmp_path / "joined.py").write_text(SCRIPT + text)
    with pytest.raises(TaskError, match=f"(?s){said}"):
        task_of(tmp_path / "joined.py")(seed=0)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("break", "joined.py left its loop"),
        ("1 / 0", "division by zero"),
        ("for n in pbt.steps(): pass", "one loop"),
    ],
)
def test_a_script_that_leaves_its_loop_fails_the_turn(script, body, said):
    kind = script(f"""
        pbt = pbt_flow.join({{"x": RATE}}, lambda: None, net=net)
        for number in pbt.steps():
            pbt["x"]
            {body}
    """)
    task = build(kind)
    with pytest.raises((TaskError, ZeroDivisionError), match=said):
        turn(task, {"x": 0.5})
    with pytest.raises(TaskError, match="has ended, and trains no more"):
        turn(task, {"x": 0.5})


def test_an_evaluation_that_returns_nothing_is_named(script):
    kind = script("""
        def test(): print("accuracy")
        pbt = pbt_flow.join({"x": RATE}, test, net=net)
        for number in pbt.steps():
            pbt["x"]
    """)
    task = build(kind)
    turn(task, {"x": 0.5})
    with pytest.raises(TaskError, match=r"test, given to join\(\) to evaluate, returned None"):
        task.evaluate()


def test_modules_are_in_the_mode_of_the_loops_beginning_whoever_looked_at_them(script):
    kind = script("""
        pbt = pbt_flow.join({"lr": RATE}, score, report=lambda: {"bias": score()}, net=net,
                            optimizer=optimizer)
        for number in pbt.steps():
            update()
            pbt.log(training=net.training and net[1].training)
    """)
    task = build(kind)
    task.model().eval()
    assert turn(task, {"lr": 0.1})["training"] == 1.0
    assert task.report() == {"bias": task.evaluate()}


def test_a_walk_of_64_frames_of_c_does_not_leave_the_stack_of_a_script(script):
    # Torch walks them for each of its errors. What lies beyond is no frame once the script has
    # waited, and whoever walked on ended the worker by SIGSEGV.
    kind = script("""
        import ctypes
        def frames():
            return ctypes.CDLL(None).backtrace((ctypes.c_void_p * 65)(), 65)
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
        for number in pbt.steps():
            update()
            pbt.log(frames=frames())
    """)
    seen = []

    def train():
        task = build(kind)
        seen.extend(turn(task, {"lr": 0.1})["frames"] for _ in range(2))

    # A thread's own stack is short, so that all frames but a few are the script's.
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [65, 65]


# --- what a waiting member costs ------------------------------------------------------------------


def test_a_member_that_is_dropped_is_freed_with_its_model_and_its_greenlet(script):
    kind = script(
        """
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
    """,
        loop=True,
    )
    task = build(kind)
    turn(task, {"lr": 0.1})
    kept = [weakref.ref(task.model()), weakref.ref(task._script._body), weakref.ref(task)]
    del task
    gc.collect()
    assert [one() for one in kept] == [None, None, None]


def test_a_member_that_waits_takes_little_memory_and_no_time(script):
    kind = script(
        """
        pbt = pbt_flow.join({"lr": RATE}, score, net=net, optimizer=optimizer)
    """,
        loop=True,
    )
    turn(build(kind), {"lr": 0.1})  # what all share is there
    before = _resident()
    waiting = [build(kind, seed=seed) for seed in range(32)]
    for task in waiting:
        turn(task, {"lr": 0.1})
    each = (_resident() - before) / len(waiting)
    assert each < 2**20, f"{each:,.0f} bytes"
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    for _ in range(1000):
        [task.step for task in (one._member for one in waiting)]
    assert sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - used < 1.0


def _resident() -> int:
    """Bytes of memory of this process."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
