"""The traps of the door for users: attributes that hide a method, constructors that read words."""

import re

import pytest
import sample_tasks
import torch

from pbt_flow import Task, TaskError
from pbt_flow.task import TaskSpec


@pytest.mark.parametrize(
    ("name", "value", "kind", "other"),
    [
        ("model", torch.nn.Linear(1, 1), "Linear", "net"),
        ("metrics", {"loss": 0.0}, "dict", "measures"),
        ("report", None, "NoneType", "own_report"),
        ("samples", [1, 2], "list", "data"),
        ("train", True, "bool", "training"),
    ],
)
def test_an_attribute_that_hides_a_method_is_refused_where_it_is_set(name, value, kind, other):
    class Hides(sample_tasks.Idle):
        def __init__(self, *, seed, device="cpu"):
            super().__init__(seed=seed, device=device)
            setattr(self, name, value)

    rule = rf"task Hides: the attribute {name}, a {kind}, hides the method {name}\(\).* as {other}"
    with pytest.raises(TaskError, match=rule):
        Hides(seed=0)
    with pytest.raises(TaskError, match="hides the method"):
        type("HidesInItsClass", (sample_tasks.Idle,), {name: value})


def test_a_function_may_take_a_methods_place():
    class Compiled(sample_tasks.Idle):
        def __init__(self, *, seed, device="cpu"):
            super().__init__(seed=seed, device=device)
            self.evaluate = torch.no_grad()(self.evaluate)

    assert Compiled(seed=0).evaluate() == 0.0


@pytest.mark.parametrize("words", [["program"], ["program", "--noise", "0.3"], ["program", "-x"]])
@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("ReadsTheCommandLine", "reads the command line"),
        ("LeavesWhenBuilt", "sys.exit: exit code 2"),
    ],
)
def test_a_constructor_that_reads_the_command_line_is_told_where_options_belong(
    task, what, words, monkeypatch
):
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(TaskError, match=rf"(?s)(?=.*task {task}).*{what}.*--set batch_size=32"):
        TaskSpec(name=f"sample_tasks:{task}").build(0)


def test_a_constructor_may_ask_for_the_programs_name_and_start_processes(monkeypatch):
    import multiprocessing
    import sys

    monkeypatch.setattr("sys.argv", ["program", "word"])

    class Asks(sample_tasks.Idle):
        def __init__(self, *, seed, device="cpu"):
            super().__init__(seed=seed, device=device)
            self.name = sys.argv[0]
            self.told = multiprocessing.reduction.ForkingPickler.dumps(sys.argv)

    from pbt_flow.task.declaration import build_task

    made = build_task(Asks, 0, "cpu", {})
    assert made.name == "program"
    assert multiprocessing.reduction.ForkingPickler.loads(made.told) == ["program", "word"]
    assert sys.argv == ["program", "word"]


def test_a_constructor_that_leaves_out_that_of_a_task_is_told_so_before_any_turn():
    class Forgets(sample_tasks.Idle):
        def __init__(self, *, seed, device="cpu"):
            self.net = torch.nn.Linear(1, 1)

    from pbt_flow.task.declaration import build_task

    with pytest.raises(TaskError, match=r"task Forgets: .*super\(\).__init__\(seed=seed, device="):
        build_task(Forgets, 0, "cpu", {})


def test_a_constructor_that_takes_no_device_is_told_so_when_the_task_is_read():
    class TakesNone(sample_tasks.Idle):
        def __init__(self, seed, width=3):
            super().__init__(seed=seed)

    class PassesOn(sample_tasks.Idle):
        def __init__(self, width=3, **others):
            super().__init__(**others)

    from pbt_flow.task.declaration import check_task

    with pytest.raises(TaskError, match=r"TakesNone: its __init__ .*'device'; it must take"):
        check_task(TakesNone)
    check_task(PassesOn)


def test_the_names_that_are_refused_are_the_methods_that_a_population_calls():
    said = re.findall(r"`(\w+)`", Task.__doc__.split("in this order:")[1])
    assert {"train", "evaluate", "metrics", "state_dict"} <= set(said)
    for name in ("reseed", "understood", "report", "samples", "model", "example"):
        with pytest.raises(TaskError):
            type("Hides", (sample_tasks.Idle,), {name: 1})
