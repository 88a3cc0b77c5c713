"""The tasks that come along: one copy of each, whatever folder, package or name a user has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import pbt_flow
from pbt_flow.task import TaskError, find_task, is_same_task, name_task
from pbt_flow.tasks import TASKS
from pbt_flow.utils.folder_finder import FolderFinder

ROOT = Path(__file__).resolve().parents[2]
WATCHED = "open('executed', 'a').close()\n"
MINE = "from pbt_flow.tasks.toy import Toy\nclass {name}(Toy):\n    '''Mine.'''\n"
FIND = """
import sys
from pbt_flow.task import find_task, name_task
for name in sys.argv[1:]:
    found = find_task(name)
    print(found.__module__, found.__name__, name_task(name), sep="|")
    assert find_task(name_task(name)) is found and find_task(name_task(found)) is found
"""


def write(files: Mapping[str, str], folder: Path) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def python(*words: str, path: tuple[Path, ...] = (ROOT,), ok: bool = True) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env)
    assert not ok or done.returncode == 0, done.stderr
    return done.stdout if ok else done.stderr


def find(*names: str, command: str, folder: Path, path: tuple[Path, ...] = (ROOT,)) -> list[str]:
    """What names mean to `python -m pbt_flow`, to `pbt-flow`, or to someone with both on a path."""
    if command == "pbt-flow":  # Python looks beside the script, and not in the working folder.
        write({"bin/find.py": FIND}, folder.parent / f"{folder.name}-script")
        script = folder.parent / f"{folder.name}-script" / "bin" / "find.py"
        return python(str(script), *names, path=path).splitlines()
    return python("-c", FIND, *names, path=path).splitlines()


COMMANDS = pytest.mark.parametrize("command", ["python -m pbt_flow", "pbt-flow"])


@COMMANDS
@pytest.mark.parametrize("file", ["tasks.py", "tasks/__init__.py"])
def test_a_users_own_tasks_are_not_executed_for_one_of_ours(
    file: str, command: str, tmp_path: Path
) -> None:
    write({file: f"{WATCHED}raise RuntimeError('executed')\n"}, tmp_path)
    names = ["toy", "tasks.toy:Toy", "pbt_flow.tasks.toy:Toy"]
    found = find(*names, command=command, folder=tmp_path)
    assert {line.rpartition("|")[0] for line in found} == {"pbt_flow.tasks.toy|Toy"}
    assert not Path("executed").exists()


@COMMANDS
@pytest.mark.parametrize("first", [ROOT, None])
def test_a_users_own_tasks_mean_the_same_to_both_commands(
    first: Path | None, command: str, tmp_path: Path
) -> None:
    write(
        {
            "tasks/__init__.py": "",
            "tasks/common.py": "RATE = 0.02\n",
            "tasks/mine.py": f"from tasks.common import RATE\n{MINE.format(name='Mine')}",
            "mine.py": f"from tasks.common import RATE\n{MINE.format(name='Alone')}",
        },
        tmp_path,
    )
    # A clone that comes before the user's folder has a folder `tasks` as well.
    path = (ROOT,) if first is None else (first, tmp_path)
    names = ["toy", "tasks.mine:Mine", "mine.py", "mine"]
    toy, module, file, name = find(*names, command=command, folder=tmp_path, path=path)
    assert toy.startswith("pbt_flow.tasks.toy|Toy")
    assert module == "tasks.mine|Mine|tasks.mine:Mine"
    assert file.startswith("mine|Alone")
    assert name.startswith("tasks.mine|Mine")


@COMMANDS
def test_a_users_file_at_an_earlier_name_of_ours_is_theirs(command: str, tmp_path: Path) -> None:
    write({"tasks/__init__.py": "", "tasks/toy.py": MINE.format(name="Toy")}, tmp_path)
    names = ["tasks.toy:Toy", "toy", "tasks.quadratic:NoisyQuadratic"]
    found = find(*names, command=command, folder=tmp_path)
    # The path is recorded, which means nothing else elsewhere.
    assert found == [
        f"tasks.toy|Toy|{tmp_path}/tasks/toy.py:Toy",
        "pbt_flow.tasks.toy|Toy|toy",
        "pbt_flow.tasks.quadratic|NoisyQuadratic|pbt_flow.tasks.quadratic:NoisyQuadratic",
    ]


def test_a_users_copy_of_the_whole_folder_is_theirs(tmp_path: Path) -> None:
    """They have copied it to change it, so that its first words are ours."""
    for file in ("__init__.py", "toy.py"):
        write({f"tasks/{file}": (ROOT / "tasks" / file).read_text()}, tmp_path)
    (found,) = find("tasks.toy:Toy", command="python -m pbt_flow", folder=tmp_path)
    assert found == f"tasks.toy|Toy|{tmp_path}/tasks/toy.py:Toy"


@pytest.mark.parametrize(
    "order", ["tasks.toy, pbt_flow.tasks.toy", "pbt_flow.tasks.toy, tasks.toy"]
)
def test_in_a_clone_both_names_are_one_module(order: str, tmp_path: Path) -> None:
    code = f"""
import pickle, {order}
assert tasks.toy is pbt_flow.tasks.toy
assert tasks.toy.__spec__.name == tasks.toy.__name__ == "pbt_flow.tasks.toy"
from tasks.quadratic import NoisyQuadratic
assert NoisyQuadratic is pbt_flow.tasks.quadratic.NoisyQuadratic
# As models of earlier versions name their classes.
assert pickle.loads(b"ctasks.toy\\nToy\\n.") is pbt_flow.tasks.toy.Toy
try:
    import tasks.no_such
except ModuleNotFoundError:
    print("one")
"""
    assert python("-c", code) == "one\n"


def test_a_model_of_an_earlier_wheel_finds_its_class_when_it_is_told_to(tmp_path: Path) -> None:
    load = "import pickle; print(pickle.loads(b'ctasks.toy\\nToy\\n.').__module__)"
    share = "from pbt_flow.task.bundled import share_modules; share_modules(); "
    write({"tasks/__init__.py": "raise RuntimeError('executed')"}, tmp_path)
    assert python("-c", share + load) == "pbt_flow.tasks.toy\n"


def test_a_folder_beside_the_package_is_ours_by_its_first_words(
    tmp_path: Path,
) -> None:
    """Whoever copies `pbt_flow` into a project of theirs may have a folder `tasks` there."""
    ours = FolderFinder(pbt_flow.PACKAGE, ROOT / "tasks", pbt_flow.FIRST_WORDS)
    assert ours.find_spec("pbt_flow.tasks", None) is not None
    assert ours.find_spec("pbt_flow.tests", None) is None
    write({"tasks/__init__.py": "raise RuntimeError('executed')"}, tmp_path)
    for place in ("tasks", "nowhere"):
        theirs = FolderFinder(pbt_flow.PACKAGE, tmp_path / place, pbt_flow.FIRST_WORDS)
        assert theirs.find_spec("pbt_flow.tasks", None) is None


def test_what_is_installed_goes_before_a_folder_beside_it(tmp_path: Path) -> None:
    """As in a wheel, which has the tasks inside."""
    inside = {"pbt_flow/tasks/__init__.py": "PLACE = 'inside'\n"}
    beside = {"tasks/__init__.py": "'''The tasks that come with pbt_flow: an old wheel's.'''\n"}
    write({**inside, **beside}, tmp_path)
    for file in (ROOT / "pbt_flow").rglob("*.py"):
        write({str(file.relative_to(ROOT)): file.read_text()}, tmp_path)
    code = "import pbt_flow.tasks; print(pbt_flow.tasks.PLACE)"
    assert python("-c", code, path=(tmp_path,)) == "inside\n"


@pytest.mark.parametrize("name", sorted(TASKS))
def test_names_of_all_versions_are_known_for_one_task(name: str, tmp_path: Path) -> None:
    """The path is what a clone recorded; where that is gone, nothing tells what it was."""
    module, _, kind = TASKS[name].partition(":")
    old = {f"old/tasks/{module}.py": "", "old/pbt_flow/__init__.py": ""}
    words = {"old/tasks/__init__.py": '"""The tasks that come with pbt_flow, one file each."""\n'}
    write({**old, **words, f"mine/tasks/{module}.py": "", "mine/tasks/__init__.py": ""}, tmp_path)
    places = [f"{ROOT}/tasks/{module}.py", f"{tmp_path}/old/tasks/{module}.py"]
    for other in (f"tasks.{TASKS[name]}", f"pbt_flow.tasks.{TASKS[name]}", *places):
        assert is_same_task(name, other)
        assert is_same_task(f"{places[1]}:{kind}", other)
        assert not is_same_task(other, f"{tmp_path}/mine/tasks/{module}.py:{kind}")
    assert (
        name_task(places[0]) == name_task(f"{places[0]}:{kind}") == f"pbt_flow.tasks.{TASKS[name]}"
    )
    assert name_task(places[1]) == places[1]


@pytest.mark.parametrize("file", ["my_rl.py", "random.py"])
def test_a_copy_with_relative_imports_is_told_what_to_write(file: str, tmp_path: Path) -> None:
    write({file: "from .rl_network import ActorCritic\n"}, tmp_path)
    with pytest.raises(TaskError, match=rf"{file} has a relative import .*`from pbt_flow\.tasks\."):
        find_task(file)


def test_a_copy_of_a_task_works_when_its_imports_name_the_package(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    text = (ROOT / "tasks" / "rl.py").read_text()
    write({"own_rl.py": text.replace("from .", "from pbt_flow.tasks.")}, tmp_path)
    found = find_task("own_rl.py")
    assert found is not find_task("rl")
    assert name_task(found) == f"{tmp_path}/own_rl.py:RL"
    assert found(seed=0, env="CartPole-v1", envs=2).evaluate
