"""What is sent to workers elsewhere: the package, the task's folder, and the way to the store."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from patience import until

import pbt_flow
from pbt_flow.engines.code_shipping import left_out, pack, unpacked
from pbt_flow.engines.node_folder import NodeFolder
from pbt_flow.engines.worker_environment import WorkerEnvironment

CLASS = "from sample_tasks import Idle\nclass Mine(Idle): pass\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder that tasks are imported from, as the working folder is by `python -m`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for place in ("mine.py", "pack/__init__.py", "pack/inner/__init__.py", "pack/inner/task.py"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CLASS)
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "deep.py").write_text(CLASS)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "folder", "there"),
    [
        ("{}/mine.py:Mine", "", "./mine.py:Mine"),
        ("{}/mine.py", "", "./mine.py"),
        # A file inside of a package is imported as part of it.
        ("{}/pack/inner/task.py:Mine", "", "./pack/inner/task.py:Mine"),
        ("{}/spaces/deep.py:Mine", "spaces", "./deep.py:Mine"),
        ("mine:Mine", "", "mine:Mine"),
        ("pack:Mine", "", "pack:Mine"),
        ("pack.inner:Mine", "", "pack.inner:Mine"),
        ("pack.inner.task:Mine", "", "pack.inner.task:Mine"),
        # A folder without an __init__.py is a package as well.
        ("spaces.deep:Mine", "", "spaces.deep:Mine"),
    ],
)
def test_the_folder_that_a_task_is_imported_from_is_sent(
    project, tmp_path_factory, monkeypatch, name, folder, there
):
    shipment = pack(name.format(project), tmp_path_factory.mktemp("scratch"))
    assert (shipment.folder, shipment.task) == (project / folder, there)
    monkeypatch.chdir(project / folder)
    assert unpacked(shipment.task) == name.format(project)


@pytest.mark.parametrize(
    "name", ["pbt_flow.tasks.rl:RL", "pbt_flow.testing.ordered_task:OrderedTask", "torch.nn:Module"]
)
def test_what_comes_with_a_package_is_not_sent_a_second_time(tmp_path, name):
    shipment = pack(name, tmp_path)
    assert (shipment.folder, shipment.task) == (None, name)
    assert "working_dir" not in shipment.runtime_environment()


def test_the_package_that_is_sent_is_complete_and_has_the_tasks_inside(tmp_path):
    package = pack("pbt_flow.tasks.toy:Toy", tmp_path).package
    code = (
        "import pbt_flow, pbt_flow.tasks.toy as toy, pbt_flow.commands.run;"
        "print(pbt_flow.__file__); print(toy.__file__)"
    )
    path = os.pathsep.join([str(tmp_path), *(p for p in sys.path if "pbt" not in p)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        assert Path(line).is_relative_to(package)
    own = Path(pbt_flow.__file__).parent
    files = {path.relative_to(own) for path in own.rglob("*.[ph]*") if path.suffix != ".pyc"}
    assert files <= {path.relative_to(package) for path in package.rglob("*")}


def test_stores_and_environments_in_the_folder_stay_here(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/deep/store.db")
    for place in ("own/pyvenv.cfg", "deep/er/conda-meta/history", "own/in/pyvenv.cfg", "a/b.py"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    found = left_out(tmp_path)
    assert {"mlruns", "mlflow.db*", "/own", "/deep/er", "/deep/store.db*"} <= set(found)
    # What lies in a folder that is left out needs no pattern of its own.
    assert not {"/own/in", "/a"} & set(found)


@pytest.mark.parametrize("uri", ["", "http://127.0.0.1:5000", "sqlite:////elsewhere/store.db"])
def test_a_store_elsewhere_leaves_nothing_out(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert not [pattern for pattern in left_out(tmp_path) if pattern.startswith("/")]


@pytest.mark.parametrize(
    ("place", "patterns"),
    [("tmp", {"/tmp"}), ("deep/er", {"/deep/er"}), (".", {"/ray", "/pbt_flow-*"}), ("..", set())],
)
def test_temporary_files_in_the_folder_are_not_sent(place, patterns, tmp_path, monkeypatch):
    """Ray's archive of the folder lies among them, and would be packed into itself for ever."""
    folder = tmp_path / "project"
    (folder / place).mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / place))
    found = {pattern for pattern in left_out(folder) if pattern.startswith("/")}
    assert found == patterns


def test_workers_get_the_way_to_the_store_and_not_the_controllers_run(tmp_path, monkeypatch):
    key, gone = tmp_path / "key.json", tmp_path / "gone"
    key.write_bytes(b"who I am")
    given = {
        "MLFLOW_TRACKING_TOKEN": "hidden",
        "AWS_PROFILE": "me",
        "GOOGLE_APPLICATION_CREDENTIALS": str(key),
        "AWS_CONFIG_FILE": str(gone),
    }
    for name, value in {**given, "MLFLOW_RUN_ID": "mine", "HOME_OF_MINE": "/home"}.items():
        monkeypatch.setenv(name, value)
    environment = WorkerEnvironment.of_this_process()
    assert "hidden" not in repr(environment)
    for name in (*given, "HOME_OF_MINE"):
        monkeypatch.delenv(name)
    there = tmp_path / "there"
    there.mkdir()
    before = dict(os.environ)
    try:
        environment.apply(there)
        assert os.environ["MLFLOW_TRACKING_TOKEN"] == "hidden"
        assert os.environ["AWS_PROFILE"] == "me"
        assert not {"MLFLOW_RUN_ID", "HOME_OF_MINE", "AWS_CONFIG_FILE"} & set(os.environ)
        # A path of the controller's machine means nothing here: the file came along.
        path = Path(os.environ["GOOGLE_APPLICATION_CREDENTIALS"])
        assert (path.parent, path.read_bytes()) == (there, b"who I am")
        assert path.stat().st_mode & 0o077 == 0
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_a_nodes_folder_goes_when_its_last_worker_has_been_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from pbt_flow.engines.node_folder import NodeFolder\n"
        "folder = NodeFolder(Path(sys.argv[1]))\n"
        "(folder.path / 'state').touch(); print('here', flush=True); time.sleep(600)"
    )
    place = tmp_path / "node"

    def worker():
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "here\n"
        process.stdout.close()
        return process

    first, second = worker(), worker()
    first.kill()
    first.wait()
    third = worker()
    second.kill()
    second.wait()
    assert (place / "state").exists(), "a worker still needs it"
    third.kill()
    third.wait()
    wait_until_gone(place)
    # A later population of the same name begins with an empty folder, which goes as well.
    fourth = worker()
    assert [path.name for path in place.iterdir()] == ["state"]
    fourth.kill()
    fourth.wait()
    wait_until_gone(place)


def wait_until_gone(place):
    lock = place.with_name(f"{place.name}.lock")
    until(lambda: not (place.exists() or lock.exists()), "the folder outlived its workers")


def test_a_folder_that_is_in_use_is_shared(tmp_path):
    first, second = NodeFolder(tmp_path / "node"), NodeFolder(tmp_path / "node")
    assert first.path == second.path
    assert first.path.is_dir()
