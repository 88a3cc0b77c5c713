"""Scripts that join, as whole populations: what any task is promised, they are promised."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from stored_populations import essence, turns_of

import pbt_flow
from pbt_flow.cli.main import main
from pbt_flow.commands import launch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "examples" / "script.py"
BATCHES = ROOT / "tests" / "joining" / "scripts" / "batches.py"
PARTIAL_FIT = ROOT / "tests" / "joining" / "scripts" / "partial_fit.py"

pytestmark = pytest.mark.usefixtures("database")


def test_the_scripts_own_arguments_are_handed_on_recorded_and_taken_up_by_a_resume(capsys):
    settings = ["--population", "2", "--turns", "2", "--engine", "inline", "--json"]
    words = ["run", "--task", str(SCRIPT), *settings, "--", "--batch-size", "400", "--lr", "0.5"]
    assert main(words) == 0
    said = capsys.readouterr()
    told = json.loads(said.out.splitlines()[-1])
    assert "script: script.py, run with --batch-size 400 --lr 0.5; a checkpoint" in said.err
    assert "hyperparameters: lr: lr of optimizer, as the base of its schedule" in said.err
    run = MlflowClient().get_run(told["population"])
    assert run.data.params["option/arguments"] == json.dumps(["--batch-size", "400", "--lr", "0.5"])
    result = pbt_flow.resume(told["population"], turns=3, quiet=True)
    assert len(turns_of(result)) == 6
    for turn in turns_of(result):
        assert turn.metrics["live/lr"] == turn.plan.hparams["lr"]
        assert turn.metrics["factor/lr"] == pytest.approx(0.7 ** (turn.step - 1))
    task = result.winner.task()
    assert task.model() is task._member.objects["model"]


def test_words_for_a_script_are_refused_where_there_is_none(capsys):
    with pytest.raises(SystemExit):
        main(["resume", "abc", "--", "--lr", "1"])
    assert "what stands behind -- is for the script of a run" in capsys.readouterr().err
    assert main(["run", "--task", "toy", "--", "--lr", "1"]) == 2
    assert "no arguments of its own, which only a script has" in capsys.readouterr().err


def test_a_replay_trains_along_the_schedule_and_finds_it_live():
    options = {"arguments": ["--batch-size", "400"]}
    settings = {"population": 2, "turns": 2, "engine": "inline", "quiet": True}
    result = pbt_flow.run(str(SCRIPT), options=options, **settings)
    made = pbt_flow.replay(result.run_id, seeds=1, engine="inline", quiet=True)
    assert not any(arm.errors for arm in made.arms)
    assert all(arm.scores for arm in made.arms)


def command(script, *words):
    return [sys.executable, "-m", "pbt_flow", "run", "--task", str(script), *words]


@pytest.mark.slow
@pytest.mark.parametrize("script", [SCRIPT, BATCHES, PARTIAL_FIT], ids=lambda path: path.stem)
def test_four_members_train_four_turns_in_processes_and_a_killed_run_comes_to_the_same(
    script, tmp_path
):
    settings = {"population": 4, "turns": 4, "mode": "generational", "workers": 2}
    words = [f"--{name}={value}" for name, value in settings.items()]
    process = subprocess.Popen(command(script, *words), stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("[6/16"):
            process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (run,) = MlflowClient().search_runs(["0"], "tags.`pbt.role` = 'population'")
    resumed = pbt_flow.resume(run.info.run_id, quiet=True, engine="inline")
    undisturbed = pbt_flow.run(str(script), quiet=True, **{**settings, "engine": "inline"})
    assert len(turns_of(resumed)) == 16
    assert any(turn.plan.donor for turn in turns_of(resumed))
    assert essence(resumed) == essence(undisturbed)
    for turn in turns_of(resumed):
        for name, value in turn.plan.hparams.items():
            assert turn.metrics.get(f"live/{name}", value) == value
    assert not list(tmp_path.glob("digits.pt")), "what stands after the loop runs alone only"


MISTAKEN = """
import torch
from optuna.distributions import FloatDistribution
import pbt_flow

model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
space = {"lr": FloatDistribution(0.01, 1.0), "clip": FloatDistribution(0.1, 1.0)}
pbt = pbt_flow.join(space, lambda: 0.5, interval=2, model=model, optimizer=optimizer)
for step in pbt.steps(4):
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    MISTAKE
"""


def mistaken(tmp_path, mistake):
    path = tmp_path / "mistaken.py"
    path.write_text(MISTAKEN.replace("MISTAKE", mistake))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "mistake", "told"),
    [
        ("inline", "pbt.get('clpi', 1.0)", "no hyperparameter 'clpi' in the space (did you mean "),
        ("inline", "pass", "nobody took the hyperparameter clip in this turn"),
        ("processes", "pass", "nobody took the hyperparameter clip in this turn"),
    ],
)
def test_a_hyperparameter_that_cannot_arrive_ends_the_population_at_its_first_turn(
    tmp_path, engine, mistake, told
):
    settings = {"population": 2, "turns": 2, "engine": engine, "workers": 1, "quiet": True}
    result = pbt_flow.run(mistaken(tmp_path, mistake), **settings)
    assert (result.status, result.turns) == ("failed", 0)
    assert told in result.reason
    # What was wrong is mended, and the same population goes on.
    mistaken(tmp_path, "pbt.get('clip', 1.0)")
    assert pbt_flow.resume(result.run_id, quiet=True).status == "finished"


def test_an_error_in_a_scripts_loop_is_told_with_its_line(tmp_path):
    path = mistaken(tmp_path, "pbt.get('clip', 1.0) / (step - 1)")
    line = Path(path).read_text().splitlines().index("    pbt.get('clip', 1.0) / (step - 1)") + 1
    settings = {"population": 2, "turns": 1, "engine": "inline", "quiet": True}
    result = pbt_flow.run(path, **settings)
    assert {turn.reason for turn in turns_of(result)} == {
        f"ZeroDivisionError: float division by zero (mistaken.py, line {line})"
    }


@pytest.mark.slow
def test_a_script_that_does_not_come_to_its_loop_is_told_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launch, "_LONG", 0.0)
    path = mistaken(tmp_path, "pbt.get('clip', 1.0)")
    settings = {"population": 2, "turns": 1, "workers": 1}
    assert pbt_flow.run(path, quiet=True, **settings).status == "finished"
    assert capsys.readouterr().err == ""
    assert pbt_flow.run(path, **settings).status == "finished"
    assert "mistaken.py has run for 0 s and has not come to its loop" in capsys.readouterr().err
