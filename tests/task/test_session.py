"""Tasks that no file holds: how they are named, found again, sent to workers, and refused."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution

import pbt_flow
from pbt_flow.exceptions import TaskError
from pbt_flow.task import TaskSpec, declare, find_task, name_task
from pbt_flow.task.session import pickle_by_value, unpickle

CELL = """
import threading
import torch
import pbt_flow
from optuna.distributions import FloatDistribution

WIDTH = 3
SPACE = {"lr": FloatDistribution(1e-3, 0.3, log=True)}

def worth():
    return float(WIDTH)

class Line(pbt_flow.Task):
    space = SPACE
    def train(self, hparams, steps):
        return {}
    def evaluate(self):
        return worth()
    def state_dict(self):
        return {}
    def load_state_dict(self, state):
        pass

def fit():
    model = torch.nn.Linear(WIDTH, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pbt = pbt_flow.join(SPACE, worth, model=model, optimizer=optimizer)
    for step in pbt.steps(4):
        optimizer.zero_grad()
        model(torch.ones(1, WIDTH)).sum().backward()
        optimizer.step()
    return "alone"
"""


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Executes cells in a main module that has no file, as a notebook's."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)

    def execute(cell: str = CELL) -> dict[str, Any]:
        exec(compile(cell, "<cell>", "exec"), module.__dict__)
        return module.__dict__

    return execute


def test_a_class_of_a_cell_is_found_by_its_name_and_by_that_of_the_newest_cell(main: Any) -> None:
    line = main()["Line"]
    assert name_task(line) == "__main__:Line"
    assert find_task("__main__:Line") is line
    again = main()["Line"]
    assert again is not line
    assert find_task("__main__:Line") is again


def test_a_worker_gets_a_class_with_all_that_it_uses_of_the_notebook(main: Any) -> None:
    cell = main()
    spec = TaskSpec(name="__main__:Line").with_code()
    cell.clear()
    # Another process has another main module.
    assert spec.build(seed=0).evaluate() == 3.0
    assert type(spec.build(seed=0)) is type(spec.build(seed=1))


@pytest.mark.slow
def test_another_process_gets_it_too(main: Any, tmp_path: Path) -> None:
    main()
    for name in ("Line", "fit"):
        spec = TaskSpec(name=f"__main__:{name}").with_code()
        (tmp_path / "code").write_bytes(spec.code)
        program = (
            "import pathlib\nfrom pbt_flow.task import TaskSpec\n"
            f"spec = TaskSpec(name='__main__:{name}', code=pathlib.Path('code').read_bytes())\n"
            "task = spec.build(seed=0)\ntask.train({'lr': 0.1}, 2)\nprint(task.evaluate())"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.stdout.strip() == "3.0", done.stderr


def test_what_a_file_holds_is_sent_by_its_name_alone() -> None:
    spec = TaskSpec(name="toy")
    assert spec.with_code() is spec


def test_what_no_cell_has_defined_says_how_it_comes_back(main: Any) -> None:
    with pytest.raises(TaskError, match="Line was defined in a notebook .* execute the cell that"):
        find_task("__main__:Line")
    main("Line = 3")
    with pytest.raises(TaskError, match="no Task called 'Line'"):
        find_task("__main__:Line")


def test_what_was_typed_after_a_script_is_not_looked_for_in_the_scripts_file(
    main: Any, tmp_path: Path
) -> None:
    """As under `python -i script.py`."""
    script = tmp_path / "script.py"
    script.write_text(CELL)
    cell = main()
    cell["__file__"] = str(script)
    assert name_task(cell["Line"]) == "__main__:Line"
    exec(compile(CELL, str(script), "exec"), cell)
    assert name_task(cell["Line"]) == f"{script}:Line"
    assert name_task(cell["fit"]) == f"{script}:fit"


@pytest.mark.parametrize(
    ("cell", "name", "message"),
    [
        (
            "lock = threading.Lock()\nclass Mine(Line):\n    def evaluate(self):\n"
            "        with lock:\n            return 0.0",
            "Mine",
            "Mine cannot be sent to worker processes: it uses lock, a lock",
        ),
        (
            "class Mine(Line):\n    seen = (n for n in range(3))",
            "Mine",
            "it uses Mine.seen, a generator",
        ),
        (
            "lock = threading.Lock()\ndef mine():\n    def inner():\n        with lock:\n"
            "            pass\n    inner()",
            "mine",
            "mine cannot be sent to worker processes: it uses lock, a lock",
        ),
    ],
    ids=["global", "attribute", "inner"],
)
def test_what_cannot_be_sent_is_named(main: Any, cell: str, name: str, message: str) -> None:
    main()
    main(cell)
    with pytest.raises(TaskError, match=message):
        TaskSpec(name=f"__main__:{name}").with_code()


def test_what_cannot_be_made_in_a_worker_says_why(main: Any, tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    (tmp_path / "beside_the_notebook.py").write_text("def one(): return 1.0\n")
    main()
    main("from beside_the_notebook import one\nclass Mine(Line):\n    one = staticmethod(one)")
    code = pickle_by_value(find_task("__main__:Mine"))
    sys.path.remove(str(tmp_path))
    del sys.modules["beside_the_notebook"]
    with pytest.raises(TaskError, match="No module named 'beside_the_notebook'; a module that it"):
        unpickle(code)


# --- functions that join --------------------------------------------------------------------------


def test_a_function_that_joins_trains_one_model_alone_and_is_a_task(main: Any) -> None:
    fit = main()["fit"]
    assert fit() == "alone"
    kind = declare(fit)
    assert kind.name == "__main__:fit"
    assert kind.space.keys() == {"lr"}
    assert kind.defaults == {"interval": 1, "turns": 4}
    task = find_task(kind.name)(seed=0)
    before = task.model().weight.clone()
    assert task.train({"lr": 0.25}, 2)["live/lr"] == 0.25
    assert not before.equal(task.model().weight)
    assert task.understood()["script"].startswith("fit(); a checkpoint holds model (Linear)")


@pytest.mark.usefixtures("database")
def test_a_population_of_a_function_is_trained_and_resumed(main: Any) -> None:
    fit = main()["fit"]
    result = pbt_flow.run(fit, population=2, turns=2, engine="inline", quiet=True)
    assert (result.status, result.turns) == ("finished", 4)
    assert pbt_flow.resume(result.run_id, turns=3, quiet=True).turns == 6
    # The run is called as people call the task.
    assert "fit" in pbt_flow.list_populations()[0].name


def test_a_function_of_a_file_is_named_by_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CELL)
    kind = declare("mine.py:fit")
    assert kind.name == f"{tmp_path / 'mine.py'}:fit"
    assert find_task(kind.name)(seed=0).evaluate() == 3.0


def needs_more(width: int) -> None: ...


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (lambda: None, "a lambda is no task; give a class"),
        (needs_more, r"called without arguments, and needs_more\(\) cannot be: missing .* 'width'"),
        (FloatDistribution(0, 1), "a task is a subclass of pbt_flow.Task, a function that calls"),
        (print, "a task is a subclass of pbt_flow.Task, a function that calls"),
    ],
    ids=["lambda", "arguments", "object", "builtin"],
)
def test_what_is_no_task_is_told(task: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        declare(task)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("def mine():\n    pass", r"mine\(\) came to its end without a call of pbt_flow.join\(\)"),
        ("def mine():\n    raise SystemExit('no data')", r"mine\(\) left before its loop"),
        (
            "net = torch.nn.Linear(1, 1)\ndef mine():\n"
            "    pbt = pbt_flow.join(SPACE, worth, model=net)\n    for _ in pbt.steps(3): pass",
            r"mine\(\) trains model, which is net of another cell: all members would train that",
        ),
        (
            "def make():\n    net = torch.nn.Linear(1, 1)\n    def mine():\n"
            "        pbt = pbt_flow.join(SPACE, worth, model=net)\n"
            "        for _ in pbt.steps(3): pass\n    return mine\nmine = make()",
            r"mine\(\) trains model, which is net of another cell",
        ),
    ],
    ids=["no join", "exit", "global", "closure"],
)
def test_a_function_that_cannot_be_a_member_says_why(main: Any, cell: str, message: str) -> None:
    main()
    main(cell)
    with pytest.raises(TaskError, match=message):
        find_task("__main__:mine")(seed=0)
