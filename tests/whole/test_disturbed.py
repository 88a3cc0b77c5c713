"""The command line as a person and an operating system treat it: killed, interrupted, resumed."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient
from patience import PATIENCE, until

import pbt_flow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def command(*arguments):
    return [sys.executable, "-m", "pbt_flow", *map(str, arguments)]


def start(*arguments):
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def told(process):
    out, err = process.communicate(timeout=PATIENCE)
    return out, err


def population():
    """The only population of the store in this folder, once it has a turn."""
    until(lambda: any(Path().rglob("turn*.json")), "no turn was ever committed")
    client = MlflowClient()
    (run,) = client.search_runs(
        [e.experiment_id for e in client.search_experiments()], "tags.`pbt.role` = 'population'"
    )
    return run.info.run_id


def wait_for_turns(count):
    until(lambda: len(list(Path().rglob("turn*.json"))) >= count, "the population does not get on")


def essence(result):
    return {
        index: [(turn.plan, turn.status, turn.score, turn.checkpoint) for turn in turns]
        for index, turns in result.history.turns.items()
    }


def duplicates(result):
    client = MlflowClient()
    for member in range(result.members):
        points = client.get_metric_history(result_member(result, member), "score")
        steps = [point.step for point in points]
        assert steps == sorted(set(steps))
        assert len(steps) == sum(turn.ok for turn in result.history.turns[member])


def result_member(result, member):
    client = MlflowClient()
    (run,) = client.search_runs(
        [client.get_run(result.run_id).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{result.run_id}' AND tags.`pbt.member` = '{member}'",
    )
    return run.info.run_id


SLOWLY = ("run", "--task", "sample_tasks:Misbehaving", "--mode", "generational", "--turns", 5)


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_a_controller_that_is_killed_twice_loses_nothing_that_was_committed(tmp_path, capsys):
    from pbt_flow.cli.main import main

    kills = 2
    (tmp_path / "slow").touch()
    orders = ("--set", f"orders={tmp_path}", "--workers", 2)
    process = start(*SLOWLY, *orders)
    run_id = population()
    for kill in range(kills):
        wait_for_turns(3 * (kill + 1))
        process.send_signal(signal.SIGKILL)
        told(process)
        if kill < kills - 1:
            process = start("resume", run_id)
    (tmp_path / "slow").unlink()
    assert main(["resume", run_id, "--json", "--engine", "inline"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"its last controller \(.*:\d+\) has died; this one takes over", err)
    result = pbt_flow.load(run_id)
    duplicates(result)
    undisturbed = pbt_flow.run(
        "sample_tasks:Misbehaving",
        options={"orders": str(tmp_path)},
        mode="generational",
        turns=5,
        engine="inline",
        quiet=True,
    )
    assert essence(result) == essence(undisturbed)
    assert json.loads(out)["winner"]["score"] == undisturbed.winner.score


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_ctrl_c_finishes_the_turns_under_way_and_says_how_to_go_on(tmp_path):
    (tmp_path / "slow").touch()
    process = start(*SLOWLY, "--set", f"orders={tmp_path}", "--workers", 2)
    run_id = population()
    process.send_signal(signal.SIGINT)
    out, err = told(process)
    assert process.returncode == 130, err
    assert "turns under way; Ctrl-C again gives them up" in err
    assert f"python -m pbt_flow resume {run_id}" in out
    assert "Traceback" not in err
    assert MlflowClient().get_run(run_id).info.status == "KILLED"
    (tmp_path / "slow").unlink()
    result = pbt_flow.resume(run_id, engine="inline", quiet=True)
    assert (result.status, result.turns) == ("finished", 20)
    duplicates(result)


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_sigterm_stops_at_once_and_leaves_a_population_that_can_be_resumed(tmp_path):
    (tmp_path / "hang-2").touch()
    process = start(*SLOWLY, "--set", f"orders={tmp_path}", "--workers", 1)
    run_id = population()
    wait_for_turns(4)
    process.send_signal(signal.SIGTERM)
    _, err = told(process)
    assert process.returncode == 130, err
    assert MlflowClient().get_run(run_id).info.status == "KILLED"


MISTAKES = [
    (("run",), "--task is missing"),
    (("run", "--task", "rll"), "no task is called 'rll'"),
    (("run", "--task", "no_module:Task"), "no module 'no_module'"),
    (("run", "--task", "missing.py:Task"), "there is no file"),
    (("run", "--task", "toy", "--set", "ratte=1"), "no option 'ratte'"),
    (("run", "--task", "toy", "--set", "rate=fast"), "option rate takes float, got 'fast'"),
    (("run", "--task", "toy", "--set", "rate"), "KEY=VALUE"),
    (("run", "--task", "toy", "--interval", 0), "interval must be at least 1, got 0"),
    (("run", "--task", "toy", "--population", 1), "population must be at least 2"),
    (("run", "--task", "toy", "--population", "many"), "must be a whole number, got 'many'"),
    (("run", "--task", "toy", "--exploit", "truncate"), "there is no 'truncate'"),
    (("run", "--task", "toy", "--exploit", "truncation:part=1"), "'part=1' is no setting"),
    (("run", "--task", "toy", "--initial", '[{"h": 1}]'), "unknown hyperparameter 'h'"),
    (("run", "--task", "toy", "--initial", "[h]"), "is not JSON"),
    (("run", "--task", "toy", "--mode", "sync"), "mode must be one of"),
    (("run", "--task", "toy", "--resample", "optuna:sampler=CmaEsSampler"), "keeps its state"),
    (("resume",), "RUN is missing"),
    (("resume", "0" * 32), "no run 000"),
    (("report", "0" * 32), "set MLFLOW_TRACKING_URI to its store"),
    (("jump",), "there is no 'jump'; there are run"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=lambda x: str(x)[:40])
def test_a_mistake_gets_one_clear_sentence_and_exit_code_2(arguments, sentence, capsys):
    from pbt_flow.cli.main import main

    # One of them asks a worker for the task, as usual; the others save its seconds of imports.
    inline = arguments[0] == "run" and "ratte=1" not in arguments
    try:
        code = main([*map(str, arguments), *(["--engine", "inline"] if inline else [])])
    except SystemExit as stopped:
        code = stopped.code
    err = capsys.readouterr().err
    assert code == 2
    assert sentence in err
    assert "Traceback" not in err
    assert not Path("mlruns").exists()
    assert not Path("mlflow.db").exists()


def test_ctrl_c_before_the_first_turn_is_no_traceback(monkeypatch, capsys):
    from pbt_flow.cli.main import main

    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("pbt_flow.commands.run.run", interrupted)
    assert main(["run", "--task", "toy"]) == 130
    assert capsys.readouterr().err == "python -m pbt_flow run: interrupted\n"


@pytest.mark.usefixtures("database")
def test_the_last_line_of_a_json_run_is_the_result(tmp_path, capsys):
    from pbt_flow.cli.main import main

    assert main(["run", "--task", "toy", "--turns", "3", "--engine", "inline", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert {"status", "population", "tracking_uri", "winner", "mean_score", "members", "turns"} <= (
        set(result)
    )
    assert result["turns"] == 24
    assert set(result["winner"]) >= {"member", "run_id", "turn", "score", "report", "hparams"}
    assert pbt_flow.load(result["population"]).winner.score == result["winner"]["score"]


@pytest.mark.usefixtures("database")
def test_random_search_is_one_word_away(capsys):
    from pbt_flow.cli.main import main

    assert main(["random_search", "--task", "toy", "--turns", "2", "--engine", "inline"]) == 0
    run_id = capsys.readouterr().out.split("population ")[-1].split()[0]
    result = pbt_flow.load(run_id)
    assert all(t.plan.donor is None for turns in result.history.turns.values() for t in turns)


@pytest.mark.usefixtures("database")
@pytest.mark.slow
def test_a_script_of_the_users_own_needs_no_registration(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "import pbt_flow\n"
        "from sample_tasks import Regression\n"
        "class Mine(Regression):\n"
        "    pass\n"
        "if __name__ == '__main__':\n"
        "    print(pbt_flow.run(task=Mine, turns=2, workers=1, quiet=True).turns)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.stdout.strip().endswith("8"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "inline"])
def test_a_script_without_a_guard_is_told_so(tmp_path, engine):
    script = tmp_path / "mine.py"
    script.write_text(
        "import pbt_flow\n"
        "from sample_tasks import Regression\n"
        "class Mine(Regression):\n"
        "    pass\n"
        f"pbt_flow.run(task=Mine, turns=2, workers=1, quiet=True, engine={engine!r})\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'put the call under if __name__ == "__main__":' in done.stderr
    assert not (tmp_path / "mlruns").exists()  # no population has begun


@pytest.mark.slow
def test_a_folder_with_a_space_in_its_name_is_like_any_other(tmp_path, monkeypatch, capsys):
    from pbt_flow.cli.main import main

    (tmp_path / "my folder").mkdir()
    monkeypatch.chdir(tmp_path / "my folder")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(None)
    try:
        common = ["--engine", "inline", "--turns", "1"]
        assert main(["run", "--task", "toy", *common, "--json"]) == 0
        run_id = json.loads(capsys.readouterr().out)["population"]
        assert main(["report", run_id]) == 0
        assert main(["resume", run_id, "--engine", "inline", "--turns", "2"]) == 0
    finally:
        mlflow.set_tracking_uri(None)


def test_a_value_with_a_space_is_one_value():
    from pbt_flow.cli.parser import make_parser

    given = make_parser().parse_args(
        ["run", "--set", "data=/my files/x", "--set", "a=1 b=two words"]
    )
    assert given.options == {"data": "/my files/x", "a": "1", "b": "two words"}
    assert make_parser().parse_args(["run", "--set", ""]).options == {}  # of an MLproject


def test_an_error_in_a_tasks_file_is_told_from_the_first_line_on_that_is_its_authors(
    tmp_path, capsys
):
    from pbt_flow.cli.main import main

    (tmp_path / "mine.py").write_text("def wrong(:\n    pass\n")
    (tmp_path / "other.py").write_text("def f():\n    import no_such_library\nf()\n")
    for file in ("mine.py", "other.py"):
        assert main(["run", "--task", str(tmp_path / file), "--engine", "inline"]) == 2
        err = capsys.readouterr().err
        assert f"error: task {tmp_path / file} cannot be imported:" in err
        assert f'File "{tmp_path / file}", line 1' in err or "line 3, in <module>" in err
        assert "importlib" not in err
        assert "pbt_flow/" not in err.replace(str(tmp_path), "")


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_a_reader_that_leaves_ends_no_training(tmp_path):
    process = subprocess.Popen(
        command("run", "--task", "toy", "--turns", 3, "--engine", "inline"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    while not process.stdout.readline().startswith(b"population"):
        pass
    process.stdout.close()
    assert process.wait(timeout=PATIENCE) == 0
    (run,) = MlflowClient().search_runs(["0"], "tags.`pbt.role` = 'population'")
    assert run.info.status == "FINISHED"
    assert pbt_flow.load(run.info.run_id).turns == 24


@pytest.mark.slow
@pytest.mark.usefixtures("database")
def test_a_resume_with_nothing_left_to_train_says_so(capsys):
    result = pbt_flow.run("toy", population=2, turns=2, engine="inline", quiet=True)
    assert pbt_flow.resume(result.run_id, turns=2, engine="inline").turns == 4
    assert "is spent; resume with a larger --turns to train more" in capsys.readouterr().err
