"""What people train with already, as whole populations and as the scripts that it was."""

import importlib.util
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from stored_populations import essence, turns_of

import pbt_flow

# Of the libraries, for one another: torch and transformers are about to drop what they ask for.
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:.is(instance.treespec|_gradient_checkpointing):FutureWarning"
    ),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # A machine may have SLURM's commands and not be one of its nodes.
    pytest.mark.filterwarnings("ignore:The .srun. command is available"),
]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, BEFORE = ROOT / "docs" / "examples", Path(__file__).parent / "scripts"


def example(file, task, library, *, interval):
    missing = importlib.util.find_spec(library) is None
    marks = [pytest.mark.skipif(missing, reason=f"{library} is not installed")]
    return pytest.param(f"{EXAMPLES / file}:{task}", interval, id=file, marks=marks)


LIBRARIES = {"lightning_module": "lightning", "boosting": "lightgbm", "convolution": "keras"}
every_example = pytest.mark.parametrize(
    ("task", "interval"),
    [
        example("lightning_module.py", "Digits", "lightning", interval=1),
        example("lora.py", "Adapters", "peft", interval=2),
        example("boosting.py", "Digits", "lightgbm", interval=2),
        example("convolution.py", "Digits", "keras", interval=1),
    ],
)


@pytest.mark.slow
@pytest.mark.usefixtures("database")
@every_example
def test_two_members_train_in_processes_and_a_killed_run_comes_to_the_same(task, interval):
    settings = {"population": 2, "turns": 2, "mode": "generational", "interval": interval}
    words = [f"--{name}={value}" for name, value in (settings | {"workers": 2}).items()]
    command = [sys.executable, "-m", "pbt_flow", "run", "--task", task, *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("[2/4"):
            process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (run,) = MlflowClient().search_runs(["0"], "tags.`pbt.role` = 'population'")
    resumed = pbt_flow.resume(run.info.run_id, quiet=True, engine="inline")
    undisturbed = pbt_flow.run(task, quiet=True, engine="inline", **settings)
    assert len(turns_of(resumed)) == 4
    assert any(turn.plan.donor for turn in turns_of(resumed))
    assert essence(resumed) == essence(undisturbed)
    for turn in turns_of(resumed):
        for name, value in turn.plan.hparams.items():
            assert turn.metrics[f"live/{name}"] == value


@pytest.mark.parametrize("before", sorted(BEFORE.glob("*_before.py")), ids=lambda path: path.stem)
def test_an_example_is_a_script_with_at_most_15_lines_more_that_prints_the_same(before, capsys):
    after = EXAMPLES / before.name.replace("_before", "")
    pytest.importorskip(LIBRARIES[after.stem], reason=f"{LIBRARIES[after.stem]} is not installed")
    command = ["git", "diff", "--no-index", "--numstat", str(before), str(after)]
    added, removed, _ = subprocess.run(command, capture_output=True, text=True).stdout.split(
        maxsplit=2
    )
    assert int(added) <= 15
    assert int(removed) == 0
    assert len(after.read_text().splitlines()) <= 60
    said = []
    for script in (before, after):
        runpy.run_path(str(script), run_name="__main__")
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[0].strip()
