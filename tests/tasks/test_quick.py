"""Each task, from the command line to the end, with its quick settings."""

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pbt_flow.cli.main import main
from pbt_flow.settings import Settings
from pbt_flow.task import declare

ROOT = Path(__file__).resolve().parents[2]
TASKS = sorted(
    path.stem for path in (ROOT / "tasks").glob("*.py") if "\n    quick" in path.read_text()
)


def test_the_tasks_are_all_there():
    assert TASKS == ["gan", "quadratic", "rl", "toy", "translation"]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_quick_run_ends_with_a_winner_and_something_to_look_at(task, database, capsys):
    file = f"{ROOT}/tasks/{task}.py"
    assert main(["run", "--task", file, "--quick", "--json", "--engine", "inline"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    settings, _ = Settings.for_task(declare(file), quick=True)
    assert told["status"] == "finished"
    assert told["turns"] == settings.population * settings.turns <= 80
    assert told["winner"]["report"]
    left = {artifact.path for artifact in MlflowClient().list_artifacts(told["population"])}
    assert {"report", "schedule.json"} <= left
    assert ("samples" in left) == (task in ("gan", "rl", "translation"))
