"""A task given as a file can be imported by the processes that it starts, whatever it is called."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

import pbt_flow
from pbt_flow.task import Task, TaskError, check_found, declare, find_task, name_task
from pbt_flow.task import files as task_files

LIGHT = """
from optuna.distributions import FloatDistribution
from pbt_flow.task import Task

class Box:
    def __init__(self, value): self.value = value

def double(box): return Box(2 * box.value)

class Mine(Task):
    space = {"lr": FloatDistribution(0, 1)}
    def train(self, hparams, steps): return {}
    def evaluate(self): return 0.0
    def state_dict(self): return {}
    def load_state_dict(self, state): pass
"""
"""A task's file that imports no torch, with a class and a function that its children are given."""


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports and adds to the path is gone after it, as is what others left before."""
    for name, module in list(sys.modules.items()):
        # Many tests write a mine.py, and a second one is imported under another name.
        if "pytest-of-" in str(getattr(module, "__file__", None)):
            monkeypatch.delitem(sys.modules, name)
    modules = dict(sys.modules)
    # So is the folder in which another test has written one.
    path = [folder for folder in sys.path if "pytest-of-" not in folder]
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.setattr(task_files, "_LOADED", set())
    monkeypatch.setattr(task_files, "_FOLDERS", [])
    yield
    for name in set(sys.modules) - set(modules):
        if not name.startswith(("torch", "numpy", "optuna", "scipy", "concurrent", "multi")):
            del sys.modules[name]


def write(path: Path, extra: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(LIGHT + extra, encoding="utf-8")
    return path


def in_a_child(task: type[Task], method: str = "spawn") -> Any:
    """What a function of the task's file makes of an object of it, in a process of its own."""
    module = sys.modules[task.__module__]
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(module.double, module.Box(21)).result().value


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("below/mine.py", "mine"),
        ("mine-2.py", "mine-2"),
        ("my task.py", "my task"),
        ("mine.v2.py", None),
        ("random.py", None),
        ("time.py", None),
        ("torch.py", None),
        ("pbt_flow.py", None),
        ("__main__.py", None),
        ("1.py", "1"),
        ("größe.py", "größe"),
        ("package/inner/file.py", "package.inner.file"),
        ("pack-age/file.py", "pack-age.file"),
    ],
)
def test_a_child_imports_a_tasks_file_whatever_it_is_called(
    tmp_path: Path, file: str, module: str | None
) -> None:
    path = write(tmp_path / "somewhere" / file)
    if "pack" in file:
        for folder in path.relative_to(tmp_path / "somewhere").parents[:-1]:
            (tmp_path / "somewhere" / folder / "__init__.py").touch()
    task = find_task(str(path))
    assert task.__module__ == module or module is None
    assert in_a_child(task) == 42
    # What it shadows by its name is what it was.
    assert hasattr(__import__("random"), "Random")
    assert hasattr(__import__("time"), "perf_counter")
    if module is None or "." not in module:
        assert name_task(task) == f"{path}:Mine"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_child_of_any_start_method_imports_a_tasks_file(tmp_path: Path, method: str) -> None:
    assert in_a_child(find_task(str(write(tmp_path / "below/mine.py"))), method) == 42


def test_of_two_files_of_one_name_a_child_imports_the_right_one(tmp_path: Path) -> None:
    tasks = []
    for number, folder in enumerate("ab"):
        write(tmp_path / folder / "file.py", f"\ndef double(box): return Box({number})\n")
        tasks.append(find_task(f"{folder}/file.py"))
    assert [in_a_child(task) for task in tasks] == [0, 1]
    assert [find_task(name_task(task)) for task in tasks] == tasks


def test_a_file_that_is_imported_already_is_not_imported_again(tmp_path: Path) -> None:
    write(tmp_path / "imported_already.py")
    sys.path.insert(0, str(tmp_path))
    module = __import__("imported_already")
    assert find_task("imported_already.py") is module.Mine


def test_a_file_imports_what_stands_beside_it(tmp_path: Path) -> None:
    (tmp_path / "below/library").mkdir(parents=True)
    (tmp_path / "below/library/__init__.py").write_text("factor = 2\n", encoding="utf-8")
    (tmp_path / "below/beside.py").write_text(
        "from library import factor\nfrom mine import Mine\nclass Other(Mine): ...\n", "utf-8"
    )
    write(tmp_path / "below/mine.py", "\ndef double(box):\n    import beside\n    return box\n")
    task = find_task("below/mine.py")
    assert in_a_child(task) == 21
    # The module beside it has the same class, and its own is named by its place as well.
    beside = __import__("beside")
    assert beside.Mine is task
    assert name_task(beside.Other) == f"{tmp_path}/below/beside.py:Other"


def test_a_file_does_not_take_the_helper_of_another_tasks_folder(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "helper_of_mine.py").write_text(f"name = {folder!r}\n", "utf-8")
        write(tmp_path / folder / "mine.py", "\nimport helper_of_mine\n")
        write(tmp_path / folder / "alone.py")
    find_task("first/mine.py")
    with pytest.raises(TaskError, match=r"second/mine\.py imports helper_of_mine, .* means .*/f"):
        find_task("second/mine.py")
    assert find_task("second/alone.py").__name__ == "Mine"
    # A worker trains one task only, and is not told of the others' folders.
    assert not set(task_files.search_path()) & {f"{tmp_path}/first", f"{tmp_path}/second"}


def test_pickles_of_earlier_versions_are_read_once_the_task_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "below/mine.py")
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    task = find_task(str(path))
    old = pickle.dumps(task, protocol=0).replace(
        b"cmine\n", f"cpbt_flow_task_mine_{digest}\n".encode()
    )
    assert pickle.loads(old) is task


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "random.py")
    pickled = pickle.dumps(find_task(str(path)))
    module = find_task(str(path)).__module__
    path.unlink()
    del sys.modules[module]
    with pytest.raises(ModuleNotFoundError, match=rf"there is no file {path} any more"):
        pickle.loads(pickled)


def test_a_file_that_cannot_be_imported_leaves_the_path_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path / "below/mine.py", "\n1 / 0\n")
    before = list(sys.path)
    with pytest.raises(ZeroDivisionError):
        find_task(str(path))
    assert sys.path == before
    assert not task_files.is_loading()


# --- scripts --------------------------------------------------------------------------------------


def python(*arguments: str, cwd: Path, feed: str | None = None) -> tuple[str, str]:
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        input=feed,
        timeout=PATIENCE,
    )
    return done.stdout.strip(), done.stderr


NAMED = LIGHT + (
    "\nfrom pbt_flow.task import TaskError, name_task\n"
    "try:\n    print(name_task(Mine))\n"
    "except TaskError as error:\n    print(error)\n"
)


@pytest.mark.parametrize("script", ["train", "train.txt"])
def test_a_class_of_a_script_that_no_other_process_can_import_is_refused_with_the_way_out(
    tmp_path: Path, script: str
) -> None:
    (tmp_path / script).write_text(NAMED, encoding="utf-8")
    told, _ = python(script, cwd=tmp_path)
    assert told == (
        f"Mine is defined in {tmp_path}/{script}, whose name does not end in .py, as that of a "
        f"module must; call it {script}.py"
    )


@pytest.mark.slow
def test_a_class_of_a_script_without_a_file_is_sent_to_other_processes_as_one_of_a_cell_is(
    tmp_path: Path,
) -> None:
    feed = LIGHT + (
        "\nimport pbt_flow\n"
        "print(pbt_flow.run(Mine, population=2, turns=1, interval=1, quiet=True).status)\n"
    )
    told, error = python("-", cwd=tmp_path, feed=feed)
    assert told == "finished", error


def test_a_population_in_a_child_that_imports_the_script_anew_does_not_begin(
    tmp_path: Path,
) -> None:
    (tmp_path / "unguarded.py").write_text(
        LIGHT + "\nimport multiprocessing, pbt_flow\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=double, args=(Box(1),))\n"
        "    child.start(); child.join(); print(child.exitcode)\n"
        "else:\n"
        "    pbt_flow.run(Mine, engine='inline')\n",
        encoding="utf-8",
    )
    told, error = python("unguarded.py", cwd=tmp_path)
    assert told == "1"
    assert 'put the call under if __name__ == "__main__":' in error
    assert not (tmp_path / "mlflow.db").exists()


# --- what is no task ------------------------------------------------------------------------------


def test_what_is_no_class_of_a_task_is_refused_by_name(tmp_path: Path) -> None:
    task = find_task(str(write(tmp_path / "mine.py")))
    for given, told in (
        (None, "got None"),
        (3, "got 3"),
        (dict, "got <class 'dict'>"),
        (task(seed=0), "given as its class, Mine, and not as an object"),
    ):
        with pytest.raises(TaskError, match=told):
            declare(given)  # type: ignore[arg-type]
    made = type("Made", (task,), {"__module__": "json"})
    with pytest.raises(
        TaskError, match="Made says that it is defined in module json, which has no"
    ):
        check_found(made)
    with pytest.raises(TaskError, match="Mine is not what mine has under that name by now"):
        check_found(type("Mine", (task,), {"__module__": task.__module__}))


@pytest.mark.usefixtures("database")
def test_a_population_is_resumed_from_another_folder_whatever_its_file_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "below/helper_here.py").write_text("score = 1.0\n", encoding="utf-8")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    settings = {"population": 2, "turns": 1, "interval": 1, "engine": "inline", "quiet": True}
    for file in ("random.py", "mine-2.py"):
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "below" / file, "\nimport helper_here\n")
        named = f"below/{file}" if file == "random.py" else find_task(f"below/{file}")
        begun = pbt_flow.run(named, **settings)
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert pbt_flow.resume(begun.run_id, turns=2, quiet=True).turns == 4


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_a_worker_trains_a_task_that_starts_processes_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/random.py").write_text(
        "import multiprocessing\n"
        "from pathlib import Path\n"
        "from sample_tasks import Regression\n"
        "from torch.utils.data import DataLoader, Dataset\n"
        "class Data(Dataset):\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, index): return 2 * index\n"
        "class Mine(Regression):\n"
        "    def train(self, hparams, steps):\n"
        "        if not Path('seen').exists():\n"
        "            loader = DataLoader(Data(), num_workers=1, multiprocessing_context='spawn')\n"
        "            Path('seen').write_text(str([int(batch) for batch in loader]))\n"
        "            with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "                assert pool.map(Data().__getitem__, [21]) == [42]\n"
        "        return super().train(hparams, steps)\n",
        encoding="utf-8",
    )
    result = pbt_flow.run("below/random.py", population=2, turns=1, workers=1, quiet=True)
    assert [turn.reason for turns in result.history.turns.values() for turn in turns] == ["", ""]
    assert (tmp_path / "seen").read_text(encoding="utf-8") == "[0, 2, 4, 6]"
