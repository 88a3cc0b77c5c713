"""The project file, and `mlflow run` on it for real."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient
from mlflow.utils.environment import _PythonEnv
from patience import until

from pbt_flow.cli.parser import make_parser
from pbt_flow.settings import Settings
from pbt_flow.task import find_task
from pbt_flow.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
MLFLOW = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local"]


@pytest.mark.parametrize("name", PROJECT["entry_points"])
def test_each_parameter_is_used_in_its_command_and_is_a_setting(name):
    """MLflow drops a declared parameter that the command does not name, without a word."""
    entry = PROJECT["entry_points"][name]
    used = set(re.findall(r"{(\w+)}", entry["command"]))
    assert used == set(entry["parameters"])
    ours = {"run_id", "set", "quick", "control", "seeds", "runs", "unequal"}
    known = {*Settings.__dataclass_fields__, *ours}
    assert used <= known


@pytest.mark.parametrize("name", PROJECT["entry_points"])
def test_each_command_is_one_that_the_command_line_takes(name):
    entry = PROJECT["entry_points"][name]
    values = {key: spec.get("default", "abc") for key, spec in entry["parameters"].items()}
    words = entry["command"].format(**values).split()
    assert words[:3] == ["python", "-m", "pbt_flow"]
    make_parser().parse_args(words[3:])


_IMPORTS = """
import importlib, sys
path = [*sys.path]
for name in sys.argv[1:]:
    importlib.import_module(f"benchmarks.{name}")
    # What one benchmark puts on the path is not there for the next.
    sys.path[:] = path
    for helper in ("servers", "patience"):
        sys.modules.pop(helper, None)
"""


@pytest.mark.slow
def test_each_benchmark_is_found_as_the_documents_call_it():
    """In a clone nothing but the working folder is on the path, unlike in these tests."""
    names = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
    assert len(names) > 20
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", _IMPORTS, *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_environment_lists_third_parties_only():
    """MLflow caches it by this list: our own code in it would be an old copy for ever."""
    environment = yaml.safe_load((ROOT / "conda.yaml").read_text())
    assert environment["dependencies"][-1] == {"pip": ["-r requirements.txt"]}
    pins = (ROOT / "requirements.txt").read_text().splitlines()
    pin = r"""[\w\-\[\],]+==[\w.]+(; python_version >= "3\.11")?"""
    for line in pins:
        assert not line or line.startswith("#") or re.fullmatch(pin, line)


def test_both_files_that_mlproject_may_name_make_one_environment():
    """MLproject names conda.yaml, by which MLflow makes it with conda, uv or virtualenv."""
    by_conda = _PythonEnv.from_conda_yaml(ROOT / PROJECT["conda_env"])
    assert by_conda.to_dict() == _PythonEnv.from_yaml(ROOT / "python_env.yaml").to_dict()


def test_what_the_image_is_made_of_is_there_and_is_let_in():
    """All that is not let in by name is kept from the builder, such as a user's runs and data."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    let_in = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in let_in
    assert copied == {line[1:] for line in let_in if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    (program,) = re.findall(r'^ENTRYPOINT \["(.+)"\]$', "\n".join(lines), re.MULTILINE)
    assert f"{program} = " in PYPROJECT


def test_a_wheel_has_every_package_and_nothing_beside_pbt_flow():
    """A list in pyproject.toml says so; a wing that is missing there is missing in the wheel."""
    folders = {path.parent for path in (ROOT / "pbt_flow").rglob("*.py")}
    names = {".".join(path.relative_to(ROOT).parts) for path in folders}
    (listed,) = re.findall(r"^packages = \[\n(.*?)^\]$", PYPROJECT, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r'"(.+)"', listed)) == names | {"pbt_flow.tasks"}
    assert 'package-dir = { "pbt_flow.tasks" = "tasks" }' in PYPROJECT
    assert not [path for path in (ROOT / "tasks").rglob("*.py") if path.parent != ROOT / "tasks"]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_that_comes_along_is_found_by_its_name(name):
    found = find_task(name)
    assert f"{found.__module__}:{found.__name__}" == f"pbt_flow.tasks.{TASKS[name]}"


@pytest.fixture(autouse=True)
def this_python(monkeypatch):
    """`mlflow run` starts the `python` of the path, as in an activated environment."""
    here = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([here, os.environ["PATH"]]))


def parameters(**values):
    return [word for key, value in values.items() for word in ("-P", f"{key}={value}")]


def populations():
    client = MlflowClient()
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(ids, "tags.`pbt.role` = 'population'")


@pytest.mark.slow
def test_mlflow_run_trains_a_population_in_the_run_that_it_made():
    done = subprocess.run(
        [*MLFLOW, "-e", "pbt", *parameters(task="toy", turns=2, set="rate=0.02")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (run,) = populations()
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.project.entryPoint"] == "pbt"
    assert run.data.params["option/rate"] == "0.02"
    client = MlflowClient()
    runs = client.search_runs([run.info.experiment_id])
    assert len(runs) == 1 + 8
    assert {one.info.status for one in runs} == {"FINISHED"}
    resumed = subprocess.run(
        [*MLFLOW, "-e", "resume", *parameters(run_id=run.info.run_id, turns=3)],
        capture_output=True,
        text=True,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "24 turns" in resumed.stdout + resumed.stderr


@pytest.mark.slow
def test_mlflow_run_without_options_asks_conda_for_the_environment(tmp_path, monkeypatch):
    """The literal `mlflow run . -e pbt`, with a stand-in for conda that installs nothing."""
    environments = tmp_path / "environments"
    environments.mkdir()
    monkeypatch.setenv("STAND_IN_CONDA", str(environments))
    monkeypatch.setenv("MLFLOW_CONDA_HOME", str(ROOT / "tests" / "stand_in_conda"))
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "pbt"]
    done = subprocess.run(
        [*command, *parameters(task="toy", turns=1, population=2)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (run,) = populations()
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.project.env"] == "conda"
    (asked_for,) = environments.glob("*/environment.yaml")
    assert asked_for.read_text() == (ROOT / "conda.yaml").read_text()


@pytest.mark.slow
def test_a_launcher_that_is_terminated_strands_no_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    (tmp_path / "hang-2").touch()
    settings = parameters(task="sample_tasks:Misbehaving", workers=1, set=f"orders={tmp_path}")
    launcher = subprocess.Popen([*MLFLOW, "-e", "pbt", *settings], start_new_session=True)

    def hangs():
        assert launcher.poll() is None, "the population ended"
        return not (tmp_path / "hang-2").exists()

    until(hangs, "the population does not get on")
    launcher.send_signal(signal.SIGTERM)
    launcher.wait()
    until(lambda: not any(processes_of(launcher.pid)), "a process of ours was stranded")
    (run,) = populations()
    assert run.info.status == "KILLED"


def processes_of(session):
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z" and int(entry.name) != os.getpid():
                yield int(entry.name)


def test_each_mutation_still_fits_the_code(monkeypatch):
    """benchmarks/mutations.py takes half an hour; that it has not rotted is seen at once."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from mutations import MUTATIONS

    table = (ROOT / "docs/mutations.md").read_text()
    for mutation in MUTATIONS:
        text = (ROOT / "pbt_flow" / mutation.file).read_text()
        assert text.count(mutation.before) == 1, mutation.promise
        assert f"| {mutation.promise} |" in table, mutation.promise


def test_no_message_advises_to_install_a_name_that_is_not_ours_on_the_index():
    """Whoever took the name would be run by everybody who follows the advice."""
    files = [*(ROOT / "pbt_flow").rglob("*.py"), *(ROOT / "tasks").glob("*.py")]
    for path in files:
        assert not re.search("pip install '?pbt[-_]flow", path.read_text()), path


def test_the_user_requirements_are_the_tested_ones_without_the_tools_of_the_tests():
    tested, rest = (ROOT / "requirements.txt").read_text().split("# test\n")
    user = (ROOT / "requirements-run.txt").read_text()
    pins = [line for line in tested.splitlines() if "==" in line]
    assert [line for line in user.splitlines() if "==" in line] == pins
    assert "pytest==" in rest
