"""The winner's model: logged once with the population, registered, loaded where pbt_flow is not."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow.cli.main import main
from pbt_flow.exceptions import SettingsError

pytestmark = pytest.mark.usefixtures("database")
HERE = Path(__file__).parents[1]


class WithExample(Regression):
    """Its model has an example of an input."""

    def example(self):
        return np.eye(3, dtype=np.float32)


class Odd(Regression):
    """Says that it has a model, and has none."""

    def model(self):
        return None


class NoModel(Regression):
    """Keeps no model."""

    model = pbt_flow.Task.model


def run(task=WithExample, **settings):
    return pbt_flow.run(task, engine="inline", population=2, turns=2, **settings)


def logged(result):
    """The models that have been logged with a population."""
    client = MlflowClient()
    experiment = client.get_run(result.run_id).info.experiment_id
    return client.search_logged_models([experiment])


def result_task(result):
    return MlflowClient().get_run(result.run_id).data.params["cfg/task"]


def versions(name):
    return MlflowClient().search_model_versions(f"name = '{name}'")


def answers(model):
    with torch.no_grad():
        return model(torch.eye(3)).tolist()


def test_the_winners_model_is_logged_with_the_population():
    result = run()
    (model,) = logged(result)
    parent = MlflowClient().get_run(result.run_id)
    assert parent.data.tags["pbt.model"] == model.model_id
    assert [out.model_id for out in parent.outputs.model_outputs] == [model.model_id]
    assert (model.source_run_id, model.status) == (result.run_id, "READY")
    assert model.params["lr"] == str(result.winner.hparams["lr"])
    loaded = mlflow.pytorch.load_model(f"models:/{model.model_id}")
    assert answers(loaded) == answers(result.best.task().model())
    info = mlflow.models.get_model_info(f"models:/{model.model_id}")
    assert info.signature.inputs.input_types() == [np.dtype("float32")]
    assert info.signature.outputs is not None
    served = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    assert served.predict(np.eye(3, dtype=np.float32)).tolist() == answers(loaded)
    assert mlflow.active_run() is None


@pytest.mark.slow
def test_a_model_without_an_example_is_kept_without_a_signature():
    result = run(Regression)
    (model,) = logged(result)
    assert mlflow.models.get_model_info(f"models:/{model.model_id}").signature is None
    assert answers(mlflow.pytorch.load_model(f"models:/{model.model_id}"))


@pytest.mark.slow
def test_a_resume_logs_no_model_twice_and_a_better_winner_becomes_the_champion():
    result = run(register="line", mode="generational")
    again = pbt_flow.resume(result.run_id, quiet=True)
    assert len(logged(again)) == 1
    (version,) = versions("line")
    assert version.version == 1
    # Whoever finds the version knows what it is, and where it comes from.
    assert version.tags["pbt.population"] == result.run_id
    assert float(version.tags["pbt.score"]) == result.winner.score
    told = (f"score {result.winner.score:.4g}", f"task {result_task(result)}", "schedule.json")
    assert all(part in version.description for part in told)
    better = pbt_flow.resume(result.run_id, turns=6, quiet=True)
    assert better.winner.turn == 6
    assert len(logged(better)) == 2
    assert len(versions("line")) == 2
    assert MlflowClient().get_model_version_by_alias("line", "champion").version == 2
    champion = mlflow.pytorch.load_model("models:/line@champion")
    assert answers(champion) == answers(better.best.task().model())


@pytest.mark.slow
def test_a_champion_loads_in_a_process_without_pbt_flow_where_its_class_is_torchs_own(capsys):
    result = run()
    assert main(["register", result.run_id, "line"]) == 0
    assert capsys.readouterr().out == "models:/line@champion\n"
    code = (
        "import sys, mlflow, torch\n"
        "model = mlflow.pytorch.load_model('models:/line@champion')\n"
        "assert not [name for name in sys.modules if name.startswith(('pbt_flow', 'sample'))]\n"
        "print(model(torch.eye(3)).tolist())\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(answers(result.best.task().model()))


@pytest.mark.slow
def test_a_class_from_a_file_of_the_users_own_travels_with_its_model(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "from sample_tasks import Regression\n"
        "class Own(torch.nn.Linear):\n"
        "    def twice(self, x):\n"
        "        return 2 * self(x)\n"
        "class Mine(Regression):\n"
        "    def __init__(self, *, seed, device='cpu'):\n"
        "        super().__init__(seed=seed, device=device)\n"
        "        self.net.__class__ = Own\n"
    )
    result = run(f"{file}:Mine", register="mine")
    file.unlink()
    code = (
        "import mlflow, torch\n"
        "model = mlflow.pytorch.load_model('models:/mine@champion')\n"
        "print(model.twice(torch.eye(3)).tolist())\n"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    (model,) = logged(result)
    expected = 2 * np.array(answers(mlflow.pytorch.load_model(f"models:/{model.model_id}")))
    assert told.stdout.strip() == str(expected.tolist())


@pytest.mark.parametrize(
    ("task", "name", "sentence"),
    [
        (NoModel, "line", "task NoModel keeps no model"),
        (Regression, "a/b", "register must name a model, without any of / : @, got 'a/b'"),
        (Regression, "", "register must name a model"),
    ],
)
def test_what_cannot_be_registered_is_refused_before_anything_runs(task, name, sentence):
    with pytest.raises(SettingsError, match=sentence):
        run(task, register=name)
    assert not MlflowClient().search_registered_models()


def test_a_model_that_cannot_be_kept_is_said_and_the_run_goes_well(capfd):
    result = pbt_flow.run(Odd, engine="inline", turns=2)
    assert result.status == "finished"
    assert "no model: task Odd keeps no model" in "".join(capfd.readouterr())


def test_registering_what_has_no_model_is_one_sentence(capsys):
    result = run(NoModel)
    assert logged(result) == []
    assert main(["register", result.run_id, "line"]) == 1
    assert "task NoModel keeps no model: it has no model()" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "which"), [(["", "lander"], "RUN"), (["0123", ""], "NAME")])
def test_a_run_or_a_name_that_is_empty_is_missing(words, which, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["register", *words])
    assert f"register: error: {which} is missing" in capsys.readouterr().err


def test_a_name_that_cannot_be_is_refused_before_anything_is_logged(capsys):
    assert main(["register", "0123", "a/b"]) == 2
    assert "must name a model, without any of / : @, got 'a/b'" in capsys.readouterr().err
