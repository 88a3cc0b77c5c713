"""Tasks by name: every way of naming one finds it again, and every wrong one says what there is."""

from __future__ import annotations

import inspect
import json
import random
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from optuna.distributions import BaseDistribution, FloatDistribution

from pbt_flow.exceptions import PBTError
from pbt_flow.task import (
    Task,
    TaskError,
    TaskSpec,
    check_options,
    check_task,
    declare,
    find_task,
    is_same_task,
    name_task,
)

SMALL = """
from optuna.distributions import FloatDistribution
from pbt_flow.task import Task

class {name}(Task):
    space = {{"lr": FloatDistribution(0, 1)}}
    def train(self, hparams, steps): return {{}}
    def evaluate(self): return 0.0
    def state_dict(self): return {{}}
    def load_state_dict(self, state): pass
"""


class Small(Task):
    """A task with an option of every kind."""

    space: ClassVar[Mapping[str, BaseDistribution]] = {"lr": FloatDistribution(0, 1)}

    def __init__(
        self,
        *,
        seed: int,
        device: str = "cpu",
        width: int = 8,
        rate: float = 0.5,
        quick: bool = False,
        env: str = "CartPole",
        data: str | None = None,
    ) -> None:
        super().__init__(seed=seed, device=device)
        self.options = (width, rate, quick, env, data)

    def train(self, hparams: Mapping[str, Any], steps: int) -> Mapping[str, float]:
        return {}

    def evaluate(self) -> float:
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Outer:
    class Inner(Small):
        """A task inside a class."""


class WithoutDefault(Small):
    """A task with an option that must be given."""

    def __init__(self, *, seed: int, device: str = "cpu", width: int) -> None:
        super().__init__(seed=seed, device=device, width=width)


class NotATask:
    """Just a class."""


@pytest.fixture(autouse=True)
def modules_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports is gone after it, so that another may call its files the same."""
    before = dict(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - set(before):
        if not name.startswith(("torch", "numpy", "optuna", "scipy")):
            del sys.modules[name]


def write(path: Path, *names: str, extra: str = "") -> Path:
    """A file with small tasks of these names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(extra + "".join(SMALL.format(name=name) for name in names))
    return path


def entry_point(folder: Path, name: str, value: str) -> None:
    """An installed distribution, as pip leaves it behind, that announces a task."""
    info = folder / "announcing_tasks-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: announcing-tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[pbt_flow.tasks]\n{name} = {value}\n")


# --- found ----------------------------------------------------------------------------------------


def test_a_task_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "site/announced.py", "First", "Second")
    entry_point(tmp_path / "site", "walking", "announced:Second")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert find_task("walking").__name__ == "Second"


def test_an_entry_point_goes_before_a_file_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "site/announced.py", "Installed")
    entry_point(tmp_path / "site", "walking", "announced:Installed")
    write(tmp_path / "tasks/walking.py", "Local")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert find_task("walking").__name__ == "Installed"


def test_a_task_is_found_by_module_and_class() -> None:
    assert find_task(f"{__name__}:Small") is Small


@pytest.mark.parametrize(
    "name", ["file.py", "file.py:Mine", "./file.py:Mine", "below/file.py:Mine"]
)
def test_a_task_is_found_by_its_file(tmp_path: Path, name: str) -> None:
    write(tmp_path / name.partition(":")[0], "Mine")
    assert find_task(name).__name__ == "Mine"
    assert find_task(str(tmp_path / name)).__name__ == "Mine"


def test_one_file_is_loaded_once(tmp_path: Path) -> None:
    write(tmp_path / "file.py", "Mine")
    assert find_task("file.py") is find_task(f"{tmp_path}/file.py:Mine")


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder, name in (("a", "One"), ("b", "Two"), ("a", "One")):
        write(tmp_path / folder / "file.py", name)
        assert find_task(f"{folder}/file.py").__name__ == name


def test_a_task_is_found_in_the_folder_tasks_of_the_working_folder(tmp_path: Path) -> None:
    write(tmp_path / "tasks/mine.py", "Mine")
    assert find_task("mine").__name__ == "Mine"


def test_of_several_tasks_in_a_file_the_one_named_is_taken(tmp_path: Path) -> None:
    write(tmp_path / "file.py", "One", "Two")
    assert find_task("file.py:Two").__name__ == "Two"


def test_a_task_that_a_file_imports_is_not_its_own(tmp_path: Path) -> None:
    write(tmp_path / "file.py", "Mine", extra=f"from {__name__} import Small\n")
    assert find_task("file.py").__name__ == "Mine"
    assert find_task("file.py:Small") is Small


def test_a_file_in_a_package_is_imported_as_part_of_it(tmp_path: Path) -> None:
    package = tmp_path / "a_package" / "inner"
    write(package / "file.py", "Mine", extra="from . import helper\nfrom .. import other\n")
    for name in ("a_package/__init__.py", "a_package/other.py", "a_package/inner/__init__.py"):
        (tmp_path / name).write_text("")
    (package / "helper.py").write_text("")
    found = find_task("a_package/inner/file.py")
    assert found.__module__ == "a_package.inner.file"
    assert name_task(found) == "a_package.inner.file:Mine"


def test_two_packages_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    for folder, name in (("a", "One"), ("b", "Two")):
        write(tmp_path / folder / "tasks_of_mine/file.py", name)
        (tmp_path / folder / "tasks_of_mine/__init__.py").write_text("")
    assert find_task("a/tasks_of_mine/file.py").__name__ == "One"
    with pytest.raises(
        TaskError, match=r"b/tasks_of_mine/file\.py cannot be imported: .* is already .*/a/"
    ):
        find_task("b/tasks_of_mine/file.py")


# --- not found ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "walkin",
            r"no task is called 'walkin' \(did you mean walking\?\); "
            r"there are .*'local', .*'walking'.*, or name one as "
            r"module:Class or path/to/file.py:Class",
        ),
        ("", "no task is called ''; there are"),
        ("not an identifier", "no task is called 'not an identifier'; there are"),
        ("../local", "no task is called '../local' \\(did you mean local\\?\\); there are"),
        ("missing.py", r"there is no file /.*/missing\.py to take a task from"),
        ("missing.py:Mine", r"there is no file /.*/missing\.py to take a task from"),
        ("tasks.py", "there is no file .* to take a task from"),
        ("no_such_module:Mine", "there is no module 'no_such_module' to take a task from"),
        ("json.no_such:Mine", "there is no module 'json.no_such' to take a task from"),
        ("no_such.inner:Mine", "there is no module 'no_such.inner' to take a task from"),
        (
            f"{__name__}:Missing",
            rf"task '{__name__}:Missing': no Task called 'Missing'; there are ",
        ),
        (f"{__name__}:NotATask", r"no Task called 'NotATask'; there are 'Small', 'WithoutDefaul"),
        (f"{__name__}:Task", "no Task called 'Task'"),
        (f"{__name__}:", "name the class, as in file.py:Class; there are"),
        ("several.py", r"task 'several.py': name the class, .* there are 'One', 'Two'"),
        ("empty.py", "task 'empty.py': name the class, .* there are no tasks in it"),
        ("abstract.py", "task 'abstract.py': name the class, .* there are no tasks in it"),
        ("abstract.py:Half", "Half lacks 'evaluate', 'load_state_dict', 'state_dict', 'train'$"),
        (":Small", "'' is no module's name to take a task from"),
        ("./file:Small", "'./file' is no module's name to take a task from"),
        ("..:Small", "'..' is no module's name to take a task from"),
    ],
)
def test_a_name_of_no_task_is_refused_with_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    entry_point(tmp_path / "site", "walking", f"{__name__}:Small")
    monkeypatch.syspath_prepend(tmp_path / "site")
    write(tmp_path / "tasks/local.py", "Local")
    write(tmp_path / "tasks/__init__.py")
    write(tmp_path / "several.py", "One", "Two")
    write(tmp_path / "empty.py")
    abstract = "from pbt_flow.task import Task\nclass Half(Task):\n    pass\n"
    write(tmp_path / "abstract.py", extra=abstract)
    (tmp_path / "tasks.py").mkdir()
    with pytest.raises(TaskError, match=message):
        find_task(name)


@pytest.mark.parametrize("name", ["file.py", "a_module_of_mine:Mine"])
@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("import no_such_library", ModuleNotFoundError, "no_such_library"),
        ("raise ImportError('install pbt-flow[rl]')", ImportError, r"install pbt-flow\[rl\]"),
        ("1 / 0", ZeroDivisionError, "division"),
    ],
)
def test_an_error_inside_of_a_tasks_file_comes_out_as_it_is(
    tmp_path: Path, name: str, line: str, kind: type[Exception], message: str
) -> None:
    sys.path.insert(0, str(tmp_path))
    for file in ("file.py", "a_module_of_mine.py"):
        write(tmp_path / file, "Mine", extra=f"{line}\n")
    for _ in range(2):  # and a module that failed half-way is not taken for loaded
        with pytest.raises(kind, match=message):
            find_task(name)


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("int('many')", ValueError, "invalid literal for int"),
        ("len(3)", TypeError, "has no len"),
        ("from optuna.distributions import *\nIntDistribution(3, 1)", ValueError, "low"),
    ],
)
def test_a_wrong_value_inside_of_a_tasks_module_comes_out_as_it_is(
    tmp_path: Path, line: str, kind: type[Exception], message: str
) -> None:
    sys.path.insert(0, str(tmp_path))
    write(tmp_path / "a_module_of_mine.py", "Mine", extra=f"{line}\n")
    with pytest.raises(kind, match=message) as raised:
        find_task("a_module_of_mine:Mine")
    assert not isinstance(raised.value, TaskError)


# --- named ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("rl", "rl"),
        ("module:Class", "module:Class"),
        ("file.py:Mine", "{here}/file.py:Mine"),
        ("below/../file.py", "{here}/file.py"),
        ("/else/where/file.py:Mine", "/else/where/file.py:Mine"),
    ],
)
def test_a_name_that_is_a_path_is_kept_as_an_absolute_one(
    tmp_path: Path, name: str, kept: str
) -> None:
    assert name_task(name) == kept.format(here=tmp_path.resolve())


def test_a_class_is_named_so_that_it_is_found_again(tmp_path: Path) -> None:
    write(tmp_path / "file.py", "One", "Two")
    write(tmp_path / "tasks/local.py", "Local")
    for name in (f"{__name__}:Small", "file.py:One", "file.py:Two", "local"):
        task = find_task(name)
        assert find_task(name_task(task)) is task


def test_a_class_of_a_file_is_named_by_where_the_file_is(tmp_path: Path) -> None:
    write(tmp_path / "file.py", "Mine")
    assert name_task(find_task("file.py")) == f"{tmp_path.resolve()}/file.py:Mine"
    assert name_task(Small) == f"{__name__}:Small"


def test_a_name_is_understood_by_another_process_in_another_folder(tmp_path: Path) -> None:
    write(tmp_path / "file.py", "One", "Two")
    write(tmp_path / "tasks/local.py", "Local")
    write(tmp_path / "site/a_module_of_mine.py", "Module")
    sys.path.insert(0, str(tmp_path / "site"))
    names = [name_task(find_task(n)) for n in ("file.py:Two", "local", "a_module_of_mine:Module")]
    names += [name_task("file.py:One")]
    code = "import sys; from pbt_flow.task import find_task\n"
    code += "print(*(find_task(name).__name__ for name in sys.argv[1:]))"
    (tmp_path / "elsewhere").mkdir()
    assert _python("-c", code, *names, cwd=tmp_path / "elsewhere") == "Two Local Module One"


def test_the_name_of_a_file_in_the_folder_tasks_is_understood_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "tasks/mine.py", "Mine")
    name = name_task("mine")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_task(name).__name__ == "Mine"


def test_the_names_of_one_class_are_known_for_one_and_nothing_is_imported(tmp_path: Path) -> None:
    package = tmp_path / "heavy"
    package.mkdir()
    # Whoever imports it to compare two names is found out.
    (package / "__init__.py").write_text("raise ImportError('a library that is not here')")
    (package / "mine.py").write_text("raise ImportError('another')")
    sys.path.insert(0, str(tmp_path))
    try:
        file = str(package / "mine.py")
        same = ["heavy.mine:Mine", file, f"{file}:Mine"]
        assert all(is_same_task(one, other) for one in same for other in same)
        for other in ("heavy.mine:Other", f"{file}:Other", "heavy.other:Mine", "heavy:Mine"):
            assert not is_same_task("heavy.mine:Mine", other)
            assert not is_same_task(other, f"{file}:Mine")
    finally:
        sys.path.remove(str(tmp_path))


def test_an_entry_point_and_what_it_stands_for_are_one_task() -> None:
    file = str(Path(inspect.getfile(find_task("toy"))).resolve())
    for other in ("tasks.toy:Toy", file, f"{file}:Toy"):
        assert is_same_task("toy", other)
        assert is_same_task(other, "toy")
    assert not is_same_task("toy", "quadratic")
    assert not is_same_task("nowhere.to:Be", "toy")
    assert is_same_task("nowhere.to:Be", "nowhere.to:Be")


def test_a_class_inside_of_a_class_is_refused() -> None:
    with pytest.raises(
        TaskError, match=r"Outer\.Inner is defined inside a class; move it to the top"
    ):
        name_task(Outer.Inner)


def test_of_two_files_of_one_name_each_class_is_named_by_its_own(tmp_path: Path) -> None:
    tasks = []
    for folder in "ab":
        write(tmp_path / folder / "file.py", "Mine")
        tasks.append(find_task(f"{folder}/file.py"))
    assert [name_task(task) for task in tasks] == [f"{tmp_path}/{f}/file.py:Mine" for f in "ab"]


def test_a_class_inside_of_a_function_is_refused() -> None:
    class Local(Small):
        pass

    with pytest.raises(TaskError, match=r"Local is defined inside a function"):
        name_task(Local)


def _python(*arguments: str, cwd: Path) -> str:
    path = ":".join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_class_of_a_script_is_named_by_the_script(tmp_path: Path) -> None:
    write(tmp_path / "script.py", "Mine")
    with (tmp_path / "script.py").open("a") as script:
        script.write("\nfrom pbt_flow.task import name_task\nprint(name_task(Mine))\n")
    assert _python("script.py", cwd=tmp_path) == f"{tmp_path.resolve()}/script.py:Mine"


def test_a_class_of_a_prompt_is_named_as_one_that_no_file_holds(tmp_path: Path) -> None:
    code = SMALL.format(name="Mine") + (
        "\nfrom pbt_flow.task import name_task\nprint(name_task(Mine))\n"
    )
    assert _python("-c", code, cwd=tmp_path) == "__main__:Mine"


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("width", "16", 16),
        ("width", 16, 16),
        ("rate", "1e-3", 0.001),
        ("rate", "2", 2.0),
        ("quick", "true", True),
        ("quick", "True", True),
        ("quick", "1", True),
        ("quick", "FALSE", False),
        ("quick", "0", False),
        ("quick", True, True),
        ("env", "Acrobot-v1", "Acrobot-v1"),
        ("env", "1", "1"),
        ("data", "folder:pictures", "folder:pictures"),
        ("data", None, None),
    ],
)
def test_the_text_of_an_option_takes_the_type_of_its_default(
    name: str, given: Any, value: Any
) -> None:
    checked = check_options(declare(Small), {name: given})
    assert checked == {name: value}
    assert type(checked[name]) is type(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"widht": "16"},
            r"task Small has no option 'widht' \(did you mean width\?\); there are 'data', 'env'",
        ),
        ({"seed": 3}, "task Small has no option 'seed'"),
        ({"device": "cuda"}, "task Small has no option 'device'"),
        (
            {"arguments": ["x"]},
            "Small has no arguments of its own, which only a script.*--set",
        ),
        ({"width": "wide"}, "task Small: option width takes int, got 'wide'"),
        ({"width": "1.5"}, "task Small: option width takes int, got '1.5'"),
        ({"width": ""}, "task Small: option width takes int, got ''"),
        ({"rate": "fast"}, "task Small: option rate takes float, got 'fast'"),
        ({"quick": "yes"}, "task Small: option quick takes bool, got 'yes'"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        check_options(declare(Small), options)


def test_the_text_of_an_option_without_a_default_takes_the_type_of_its_annotation() -> None:
    assert check_options(declare(WithoutDefault), {"width": "16"}) == {"width": 16}


def test_no_options_are_no_options() -> None:
    assert check_options(declare(Small), {}) == {}


def test_a_spec_builds_the_task_with_its_options(tmp_path: Path) -> None:
    options = {"width": 3, "quick": True}
    spec = TaskSpec(name=f"{__name__}:Small", options=options, device="meta")
    task, other = spec.build(seed=5), spec.build(seed=5, device="cpu")
    assert isinstance(task, Small)
    assert isinstance(other, Small)
    assert (task.seed, task.device, task.options) == (5, "meta", (3, 0.5, True, "CartPole", None))
    assert other.device == "cpu"
    assert task.rng.random() == other.rng.random() == np.random.default_rng(5).random()


# --- declarations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "direction", "message"),
    [
        ({}, "maximize", r"task Odd: a space maps at least one name .* got \{\}"),
        (None, "maximize", "task Odd: a space maps at least one name .* got None"),
        ({"lr": 0.1}, "maximize", "task Odd: hyperparameter 'lr': its domain must be"),
        ({"lr": FloatDistribution(1, 1)}, "maximize", "task Odd: no hyperparameter of"),
        (Small.space, "max", "task Odd: direction is 'maximize' or 'minimize', got 'max'"),
        (Small.space, None, "task Odd: direction is 'maximize' or 'minimize', got None"),
    ],
)
def test_a_task_that_declares_nonsense_is_refused(space: Any, direction: Any, message: str) -> None:
    odd = type("Odd", (Small,), {"space": space, "direction": direction})
    with pytest.raises(TaskError, match=message):
        check_task(odd)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("up", "report_direction is 'maximize' or 'minimize' for the first metric"),
        (True, "got True"),
        ("", "got ''"),
        ({"loss": "down"}, "maps the name of a metric to 'maximize' or 'minimize', got 'loss'"),
        ({3: "minimize"}, "got 3: 'minimize'"),
        ({"loss": None}, "got 'loss': None"),
        ({"loss": ["minimize"]}, "got 'loss': \\['minimize'\\]"),
        (["loss"], "got \\['loss'\\]"),
    ],
    ids=str,
)
def test_a_direction_of_the_report_that_is_none_is_refused(told: Any, message: str) -> None:
    with pytest.raises(TaskError, match=f"task Odd: .*{message}"):
        check_task(type("Odd", (Small,), {"report_direction": told}))


@pytest.mark.parametrize(
    "told", [None, "minimize", "maximize", {"loss": "minimize", "acc": "maximize"}], ids=str
)
def test_the_direction_of_the_report_is_declared_in_a_form_that_json_holds(told: Any) -> None:
    given = types.MappingProxyType(told) if isinstance(told, dict) else told
    made = declare(type("Small", (Small,), {"report_direction": given, "__module__": __name__}))
    assert json.loads(json.dumps(made.report_direction)) == told


def test_a_task_without_a_space_is_refused() -> None:
    class Bare(Task):
        pass

    with pytest.raises(TaskError, match="task Bare: a space maps at least one name"):
        check_task(Bare)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_task_that_declares_sense_is_accepted(direction: str) -> None:
    check_task(type("Good", (Small,), {"direction": direction}))


def test_a_task_must_have_its_five_methods() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Task(seed=0)  # type: ignore[abstract]


def test_what_a_task_need_not_have_is_empty(tmp_path: Path) -> None:
    task = Small(seed=0)
    task.samples(tmp_path)
    assert (dict(task.report()), task.model(), list(tmp_path.iterdir())) == ({}, None, [])
    assert (Task.direction, dict(Task.defaults)) == ("maximize", {})


# --- randomness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_reseeding_restarts_every_source_of_randomness(seed: int) -> None:
    task = Small(seed=1)

    def numbers() -> list[float]:
        own, plain = task.rng.random(), random.random()
        return [own, plain, np.random.random(), torch.rand(()).item()]  # noqa: NPY002

    task.reseed(seed)
    first, later = numbers(), numbers()
    task.reseed(seed)
    assert numbers() == first
    assert all(a != b for a, b in zip(first, later, strict=True))
    task.reseed(seed + 1)
    assert all(a != b for a, b in zip(first, numbers(), strict=True))


def test_a_task_error_is_one_that_a_user_can_mend() -> None:
    assert issubclass(TaskError, PBTError)
    assert issubclass(TaskError, ValueError)
