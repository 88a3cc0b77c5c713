"""A population is exported from one store, imported into another, and goes on there as at home."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow.cli.main import main
from pbt_flow.commands.transfer import Transferred
from pbt_flow.commands.transfer_progress import TransferProgress
from pbt_flow.tracking import import_runs
from pbt_flow.tracking.export_folder import _digest_of
from pbt_flow.tracking.lease import new_owner
from pbt_flow.tracking.saved_view import view_tag

SMALL: dict[str, Any] = {
    "population": 2,
    "turns": 2,
    "engine": "inline",
    "mode": "generational",
    "quiet": True,
}
ID = re.compile("[0-9a-f]{32}")


class LogsByItself(Regression):
    """Uses MLflow as a script does: a run inside of its own, a data set, a model."""

    def train(self, hparams: Any, steps: int) -> Mapping[str, float]:
        with mlflow.start_run():
            mlflow.log_input(mlflow.data.from_numpy(np.arange(3), name="numbers"), context="train")
            with mlflow.start_run(run_name="inside", nested=True):
                mlflow.log_metric("deep", 0.5, step=3)
                mlflow.log_metric("deep", float("nan"), step=4)
        return super().train(hparams, steps)


def empty_store(migrated: Path, folder: Path) -> str:
    """The address of a store in a folder, whose artifacts lie beside it."""
    folder.mkdir()
    shutil.copy(migrated, folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture
def home(migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The store that populations begin in."""
    uri = empty_store(migrated_database, tmp_path / "home")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def go(home: str, migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Goes to the store of another machine, or home."""
    uris = {"home": home, "away": empty_store(migrated_database, tmp_path / "away")}
    return lambda where: monkeypatch.setenv("MLFLOW_TRACKING_URI", uris[where])


@pytest.fixture(scope="module")
def exported(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A population that has been exported once, for tests that take copies of the folder."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", empty_store(migrated_database, folder / "store"))
        experiment = MlflowClient().create_experiment("there", str(folder / "there"))
        patch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
        made = pbt_flow.run("toy", **SMALL)
        pbt_flow.export_population(made.run_id, folder / "out", quiet=True)
    return folder / "out"


def digests(result: Any) -> dict[int, list[str]]:
    """The states of all turns, by member."""
    return {
        member: [turn.checkpoint.digest for turn in turns]
        for member, turns in result.history.turns.items()
    }


def runs_here() -> list[Any]:
    client = MlflowClient()
    experiments = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(experiments, run_view_type=ViewType.ACTIVE_ONLY))


def essence(run: Any) -> dict[str, Any]:
    """What is the same of a run wherever it is: ids are not, nor what belongs to its store."""
    client = MlflowClient()
    skipped = ("pbt.founding", "pbt.founder", "pbt.heartbeat", "pbt.origin", "mlflow.note.content")
    points = {
        name: [(p.step, p.timestamp, str(p.value)) for p in client.get_metric_history(
            run.info.run_id, name)]
        for name in run.data.metrics
    }  # fmt: skip
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "times": (run.info.start_time, run.info.end_time),
        "params": {k: v for k, v in run.data.params.items() if not k.startswith("lease/")},
        "tags": {k: ID.sub("ID", v) for k, v in run.data.tags.items() if k not in skipped},
        "points": points,
        "datasets": [one.to_dictionary() for one in run.inputs.dataset_inputs],
        "models": len(run.outputs.model_outputs),
        "files": sorted(files_of(run)),
    }


def files_of(run: Any) -> list[str]:
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]


def test_the_command_that_an_export_prints_takes_a_folder_with_spaces() -> None:
    made = Transferred(
        run_id="0123abcd", name="toy", folder="/my work/out ü", size=1, runs=3, tracking_uri=""
    )
    command = made.export_text().splitlines()[-1]
    assert shlex.split(command)[2:] == ["pbt_flow", "import", "/my work/out ü"]


@pytest.mark.slow
def test_a_population_goes_on_in_another_store_with_the_digests_that_it_would_have_had_at_home(
    go: Callable[[str], None], tmp_path: Path
) -> None:
    first = pbt_flow.run(Regression, **{**SMALL, "population": 4})
    pbt_flow.export_population("last", tmp_path / "out", quiet=True)
    go("away")
    moved = pbt_flow.import_population(tmp_path / "out", quiet=True)
    there = pbt_flow.load(moved.run_id)
    assert (there.status, there.winner.score, there.winner.report) == (
        "finished",
        first.winner.score,
        first.winner.report,
    )
    assert digests(there) == digests(first)
    away = pbt_flow.resume(moved.run_id, turns=4, quiet=True)
    go("home")
    home = pbt_flow.resume(first.run_id, turns=4, quiet=True)
    assert digests(away) == digests(home)
    assert any(turn.plan.donor for turns in home.history.turns.values() for turn in turns)
    assert away.best.checkpoint == home.best.checkpoint
    assert away.winner.run_id != home.winner.run_id


@pytest.mark.slow
def test_attempts_go_on_to_be_counted_wherever_a_population_goes_on(
    go: Callable[[str], None], tmp_path: Path
) -> None:
    """Else those of the new store would be older than what came along, and count for nothing."""
    first = pbt_flow.run(Regression, **SMALL)
    for turns in (3, 4):
        pbt_flow.resume(first.run_id, turns=turns, quiet=True)
    pbt_flow.export_population(first.run_id, tmp_path / "out", quiet=True)
    go("away")
    moved = pbt_flow.import_population(tmp_path / "out", quiet=True)
    away = pbt_flow.resume(moved.run_id, turns=5, quiet=True)
    for result in (away, pbt_flow.load(moved.run_id)):
        claims = [
            [turn.plan.attempt.claim for turn in own] for own in result.history.turns.values()
        ]
        assert claims == [[1, 1, 2, 3, 4]] * len(claims)
    pbt_flow.export_population(moved.run_id, tmp_path / "back", quiet=True)
    with pytest.raises(pbt_flow.ExportError, match="here already"):
        pbt_flow.import_population(tmp_path / "out", quiet=True)


@pytest.mark.slow
def test_every_run_comes_with_all_that_mlflow_keeps_of_it(
    go: Callable[[str], None], tmp_path: Path
) -> None:
    pbt_flow.run(LogsByItself, **SMALL)
    before = sorted(map(essence, runs_here()), key=str)
    assert len(before) == 1 + 2 + 2 * 2  # A run inside of each of two turns of two members.
    pbt_flow.export_population("last", tmp_path / "out", quiet=True)
    go("away")
    moved = pbt_flow.import_population(tmp_path / "out", quiet=True)
    after = sorted(map(essence, runs_here()), key=str)
    assert after == before
    assert sum(len(one["datasets"]) for one in after) == 2
    # The winner's model is one of this store, and is loaded from it.
    tags = MlflowClient().get_run(moved.run_id).data.tags
    assert mlflow.pytorch.load_model(f"models:/{tags['pbt.model']}").weight.shape == (1, 3)
    experiment = MlflowClient().get_experiment(runs_here()[0].info.experiment_id)
    assert view_tag(moved.run_id) in experiment.tags


@pytest.mark.slow
def test_nothing_names_a_run_of_the_old_store_and_the_control_and_a_replay_come_along(
    go: Callable[[str], None], tmp_path: Path
) -> None:
    made = pbt_flow.run("toy", control=True, **SMALL)
    pbt_flow.replay(made.run_id, seeds=1, engine="inline", quiet=True)
    replay = next(one for one in pbt_flow.list_populations() if one.method == "replay")
    old = {run.info.run_id for run in runs_here()}
    pbt_flow.export_population(made.run_id, tmp_path / "out", quiet=True)
    pbt_flow.export_population(replay.run_id, tmp_path / "replay", quiet=True)
    go("away")
    moved = pbt_flow.import_population(tmp_path / "out", quiet=True)
    replayed = pbt_flow.import_population(tmp_path / "replay", quiet=True)
    there = pbt_flow.load(moved.run_id)
    assert there.control.run_id != made.control.run_id
    assert there.control.winner.score == made.control.winner.score
    for run in runs_here():
        root = Path(run.info.artifact_uri.removeprefix("file://"))
        texts = [path.read_text() for path in root.rglob("*.json")]
        texts += [path.read_text() for path in root.rglob("index.html")]
        texts += [text for name, text in run.data.tags.items() if name != "pbt.origin"]
        named = {word for text in texts for word in ID.findall(text)}
        assert not named & old
        assert "sqlite" not in "".join(texts) or "/away/mlflow.db" in "".join(texts)
        assert "/home/mlflow.db" not in "".join(texts)
    tags = MlflowClient().get_run(replayed.run_id).data.tags
    assert tags["pbt.replays"] == moved.run_id
    # It is compared, reported on and replayed as one that began here.
    compared = pbt_flow.compare([moved.run_id, there.control.run_id])
    assert moved.run_id in json.dumps(compared.to_json())
    assert pbt_flow.report(moved.run_id)
    again = pbt_flow.replay(moved.run_id, seeds=1, engine="inline", quiet=True)
    assert again.schedule.source == moved.run_id


@pytest.mark.slow
def test_what_is_here_already_is_told_and_what_has_gone_on_elsewhere_comes_back(
    go: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = pbt_flow.run("toy", **SMALL)
    pbt_flow.export_population(made.run_id, tmp_path / "out", quiet=True)
    with pytest.raises(pbt_flow.ExportError, match=f"here already.*: run {made.run_id}"):
        pbt_flow.import_population(tmp_path / "out", quiet=True)
    go("away")
    moved = pbt_flow.import_population(tmp_path / "out", quiet=True)
    with pytest.raises(pbt_flow.ExportError, match=f"here already.*: run {moved.run_id}"):
        pbt_flow.import_population(tmp_path / "out", quiet=True)
    pbt_flow.resume(moved.run_id, turns=3, quiet=True)
    with pytest.raises(pbt_flow.ExportError, match=f"here already.*: run {moved.run_id}"):
        pbt_flow.import_population(tmp_path / "out", quiet=True)
    pbt_flow.export_population(moved.run_id, tmp_path / "back", quiet=True)
    go("home")
    back = pbt_flow.import_population(tmp_path / "back")
    assert f"an earlier state of {made.run_id}" not in capsys.readouterr().out
    assert pbt_flow.load(back.run_id).turns == 6
    with pytest.raises(pbt_flow.ExportError, match=f"here already.*: run {back.run_id}"):
        pbt_flow.import_population(tmp_path / "back", quiet=True)
    # What was deleted can be brought back.
    pbt_flow.delete(back.run_id)
    assert pbt_flow.import_population(tmp_path / "back", quiet=True).run_id != back.run_id


@pytest.mark.slow
def test_a_task_in_a_file_is_found_where_it_is_now(
    go: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "from sample_tasks import Regression\n\nclass Mine(Regression):\n    pass\n"
    there, here = tmp_path / "there" / "own_task.py", tmp_path / "here" / "own_task.py"
    for file in (there, here):
        file.parent.mkdir()
        file.write_text(text)
    made = pbt_flow.run(f"{there}:Mine", **SMALL)
    pbt_flow.export_population(made.run_id, tmp_path / "out", quiet=True)
    there.unlink()
    go("away")
    pbt_flow.delete(pbt_flow.import_population(tmp_path / "out").run_id)
    told = capsys.readouterr().err
    assert f"its task {there}:Mine is not here" in told
    assert "import it again with --task" in told
    moved = pbt_flow.import_population(tmp_path / "out", task=f"{here}:Mine")
    assert "is not here" not in capsys.readouterr().err
    resumed = pbt_flow.resume(moved.run_id, turns=3, quiet=True)
    assert (resumed.status, resumed.turns) == ("finished", 6)
    run = MlflowClient().get_run(moved.run_id)
    assert run.data.params["cfg/task"] == run.data.tags["pbt.task"] == f"{here}:Mine"
    again = pbt_flow.replay(moved.run_id, seeds=1, engine="inline", quiet=True)
    assert again.schedule.task == f"{here}:Mine"


# --- refusals -------------------------------------------------------------------------------------


def test_an_export_is_refused_with_the_reason_and_leaves_nothing(home: str, tmp_path: Path) -> None:
    made = pbt_flow.run("toy", **SMALL)
    (tmp_path / "there").mkdir()
    cases = {
        "exists already": (tmp_path / "there", {}),
        "there is no folder": (tmp_path / "nowhere" / "out", {}),
        "5 B are free": (tmp_path / "out", {"free": lambda folder: 5}),
    }
    before = sorted(tmp_path.rglob("*"))
    for told, (folder, arguments) in cases.items():
        with pytest.raises(pbt_flow.ExportError, match=told):
            pbt_flow.export_population(made.run_id, folder, quiet=True, **arguments)
    MlflowClient().update_run(made.run_id, status="RUNNING")
    with pytest.raises(pbt_flow.PopulationError, match="is running; stop it first"):
        pbt_flow.export_population(made.run_id, tmp_path / "out", quiet=True)
    assert sorted(tmp_path.rglob("*")) == before


def change_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change `export.json` as a careful forger would."""
    plain = json.loads((folder / "export.json").read_text())
    change(plain)
    del plain["sha256"]
    (folder / "export.json").write_text(json.dumps({**plain, "sha256": _digest_of(plain)}))


def some_file(folder: Path, name: str) -> Path:
    return min(folder.rglob(name))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lead_out(folder: Path) -> None:
    """A link to a file of this machine in place of one of the export's, of equal content."""
    path, secret = some_file(folder, "turn-*.json"), folder.parent / "secret"
    secret.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(secret)


def name_outside(folder: Path) -> None:
    def change(plain: dict[str, Any]) -> None:
        name = next(iter(plain["files"]))
        plain["files"][f"../{folder.name}/{name}"] = plain["files"].pop(name)

    change_index(folder, change)


def no_manifest(folder: Path) -> None:
    def change(plain: dict[str, Any]) -> None:
        files = plain["files"]
        plain["files"] = {k: v for k, v in files.items() if "population.json" not in k}

    change_index(folder, change)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no folder"),
        (lambda folder: (folder / "export.json").unlink(), "is no export: it has no export.json"),
        (lambda folder: (folder / "export.json").write_text("[]"), "is no export"),
        (lambda folder: cut_short(folder / "export.json"), "is no export"),
        (lambda folder: (folder / "export.json").write_bytes(
            (folder / "export.json").read_bytes().replace(b'"toy', b'"tax')),
            "export.json is not as it was written"),
        (lambda folder: change_index(folder, lambda plain: plain.update(version=2)),
            "written by pbt-flow .*, and this version reads up to 1; update"),
        (lambda folder: change_index(folder, lambda plain: plain.update(populations=[])),
            "is damaged"),
        (lambda folder: change_index(
            folder, lambda plain: plain["populations"][0].update(run_id="../x")), "is damaged"),
        (lambda folder: some_file(folder, "turn-*.json").unlink(), "turn-1.1.json is missing"),
        (lambda folder: cut_short(some_file(folder, "state-*.pt")),
            "state-1.1.pt has .* were written"),
        (lambda folder: alter(some_file(folder, "state-*.pt")),
            "state-1.1.pt is not what was written"),
        (lambda folder: alter(some_file(folder, "metrics.json")), "is not what was written"),
        (lead_out, "a link that leads out of it"),
        (name_outside, "is no path inside of the folder"),
        (no_manifest, "has no population.json"),
        (lambda folder: [(folder / "winner.json").touch(), (folder / "export.json").unlink()],
            "holds a winner alone"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_whole_export_is_refused_and_no_run_is_made(
    exported: Path,
    home: str,
    tmp_path: Path,
    damage: Callable[[Path], object],
    told: str,
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    damage(folder)
    with pytest.raises(pbt_flow.ExportError, match=told):
        pbt_flow.import_population(folder, quiet=True)
    assert runs_here() == []


def test_an_export_without_room_for_it_is_refused_and_leaves_no_experiment(
    exported: Path, home: str
) -> None:
    with pytest.raises(pbt_flow.ExportError, match="and 5 B are free where its artifacts"):
        pbt_flow.import_population(exported, quiet=True, free=lambda folder: 5)
    assert runs_here() == []
    assert [one.name for one in MlflowClient().search_experiments()] == ["Default"]
    assert pbt_flow.import_population(exported, quiet=True).runs == 3


def test_an_experiment_that_is_deleted_is_told_and_another_one_can_be_named(
    exported: Path, home: str
) -> None:
    client = MlflowClient()
    client.delete_experiment(client.create_experiment("there"))
    with pytest.raises(pbt_flow.StoreError, match="'there' is deleted; restore it or name another"):
        pbt_flow.import_population(exported, quiet=True)
    pbt_flow.import_population(exported, quiet=True, experiment="Default")
    (listed,) = pbt_flow.list_populations()
    assert listed.experiment == "Default"


# --- Ctrl-C ---------------------------------------------------------------------------------------


def press_ctrl_c(patch: pytest.MonkeyPatch, what: str, after: int) -> None:
    """Interrupt an export or an import when so many blocks have been copied."""
    left = iter(range(after - 1, -1, -1))

    def advance(progress: TransferProgress, size: int) -> None:
        if progress._what.startswith(what) and next(left) == 0:
            raise KeyboardInterrupt

    patch.setattr(TransferProgress, "advance", advance)


@pytest.mark.parametrize("after", [1, 9])
def test_an_interrupted_export_leaves_nothing(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    made = pbt_flow.run("toy", **SMALL)
    before = sorted(tmp_path.rglob("*"))
    press_ctrl_c(monkeypatch, "exporting", after)
    assert main(["export", made.run_id, str(tmp_path / "out")]) == 130
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("after", [1, 5])
def test_an_interrupted_import_leaves_no_run_and_no_file_and_can_be_made_again(
    exported: Path, home: str, tmp_path: Path, after: int
) -> None:
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        press_ctrl_c(patch, "importing", after)
        assert main(["import", str(exported)]) == 130
    assert runs_here() == []
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [one.name for one in MlflowClient().search_experiments()] == ["Default"]
    if after > 1:
        assert pbt_flow.import_population(exported, quiet=True).runs == 3


@pytest.mark.slow
def test_what_a_killed_import_left_is_no_population_and_is_deleted_by_the_next_one(
    exported: Path, home: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # Whoever is killed undoes nothing.
        patch.setattr(import_runs, "undo", lambda *arguments: None)
        patch.setattr(import_runs, "_delete_experiment", lambda *arguments: None)
        # At the last file: of the population's own run everything is there by then.
        files = json.loads((exported / "export.json").read_text())["files"]
        press_ctrl_c(patch, "importing", sum("/artifacts/" in name for name in files))
        with pytest.raises(KeyboardInterrupt):
            pbt_flow.import_population(exported, quiet=True)
    left = runs_here()
    assert len(left) == 3
    assert pbt_flow.list_populations() == []
    (parent,) = [run for run in left if "pbt.importing" in run.data.tags]
    # While its process lives, nobody touches it.
    assert import_runs.delete_abandoned(MlflowClient(), home) == 0
    host, pid, identity, name = new_owner().split(":")
    dead = f"{host}:{pid}:{identity[:-1]}{(int(identity[-1]) + 1) % 10}:{name}"
    MlflowClient().set_tag(parent.info.run_id, "pbt.importing", dead)
    moved = pbt_flow.import_population(exported)
    assert "deleted what 1 killed import left" in capsys.readouterr().err
    assert len(runs_here()) == 3
    assert [one.run_id for one in pbt_flow.list_populations()] == [moved.run_id]


# --- the winner alone -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_winner_is_used_without_its_store(go: Callable[[str], None], tmp_path: Path) -> None:
    import torch

    made = pbt_flow.run(Regression, **{**SMALL, "population": 3})
    out = tmp_path / "winner"
    told = pbt_flow.export_winner("last", out, quiet=True)
    assert {path.name for path in out.iterdir()} == set(told.files)
    go("away")
    shutil.rmtree(tmp_path / "home")
    state = torch.load(out / "state.pt", weights_only=True)
    task = Regression(seed=0)
    task.load_state_dict(state)
    model = mlflow.pytorch.load_model(str(out / "model"))
    assert torch.equal(model.weight, task.net.weight)
    assert task.report() == made.best.report
    plain = json.loads((out / "winner.json").read_text())
    assert (plain["population"], plain["digest"]) == (made.run_id, made.best.checkpoint.digest)
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["population"], settings["task"]) == (3, "sample_tasks:Regression")
    again = pbt_flow.replay(str(out / "schedule.json"), seeds=1, engine="inline", quiet=True)
    assert again.schedule.score == made.winner.score


class Fails(Regression):
    """No turn of it goes well."""

    def train(self, hparams: Any, steps: int) -> Mapping[str, float]:
        raise ValueError("never")


def make_no_winner() -> str:
    return str(pbt_flow.run(Fails, **SMALL).run_id)


def make_running() -> str:
    run_id = str(pbt_flow.run("toy", **SMALL).run_id)
    MlflowClient().update_run(run_id, status="RUNNING")
    return run_id


def make_replay() -> str:
    made = pbt_flow.run("toy", **SMALL)
    return str(pbt_flow.replay(made.run_id, seeds=1, engine="inline", quiet=True).run_id)


def make_one_whose_state_is_gone() -> str:
    made = pbt_flow.run("toy", **SMALL)
    for run in runs_here():
        for path in Path(run.info.artifact_uri.removeprefix("file://")).rglob("state*.pt"):
            path.unlink()
    return str(made.run_id)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (make_no_winner, pbt_flow.PopulationError, "has no winner yet"),
        (make_running, pbt_flow.PopulationError, "is running; stop it first"),
        (make_replay, pbt_flow.PopulationError, "is a replay, which has no winner"),
        (make_one_whose_state_is_gone, pbt_flow.CheckpointError, "state of the winner is gone"),
    ],
)
def test_a_winner_that_cannot_be_had_is_told_and_leaves_nothing(
    home: str, tmp_path: Path, make: Callable[[], str], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        pbt_flow.export_winner(make(), tmp_path / "winner", quiet=True)
    assert not list(tmp_path.glob("*winner*"))
