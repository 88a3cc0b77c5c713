"""Populations are found again: in a list, by the beginning of a run id, by the word `last`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import pbt_flow
from pbt_flow.cli.main import main
from pbt_flow.commands.catalogue import table
from pbt_flow.population.result import Result
from pbt_flow.tracking.catalogue import ListedPopulation
from pbt_flow.tracking.create import short_task

SMALL = {"population": 2, "turns": 2, "engine": "inline", "quiet": True}

pytestmark = pytest.mark.usefixtures("database")


def test_a_population_is_listed_with_what_it_is_and_has_done() -> None:
    assert pbt_flow.list_populations() == []
    first = pbt_flow.run("toy", seed=3, **SMALL)
    second = pbt_flow.run("toy", exploit="none", **SMALL)
    newest, oldest = pbt_flow.list_populations()
    assert (newest.run_id, oldest.run_id) == (second.run_id, first.run_id)
    assert (newest.method, oldest.method) == ("random search", "pbt")
    assert (oldest.task, oldest.seed, oldest.status) == ("toy", 3, "finished")
    assert (oldest.members, oldest.turns, oldest.budget) == (2, 4, 4)
    assert oldest.best == first.winner.score
    assert oldest.name == "toy pbt s3"
    assert oldest.disk is not None
    assert oldest.disk > 10_000  # its report alone
    assert [one.run_id for one in pbt_flow.list_populations(most=1)] == [second.run_id]


def test_a_replay_is_listed_as_one_with_its_models_in_it(
    trained: Callable[..., list[Result]],
) -> None:
    (made,) = trained(task="toy")
    replay = pbt_flow.replay(made.run_id, seeds=1, quiet=True, engine="inline")
    first, second = pbt_flow.list_populations()
    assert (first.run_id, first.method, second.run_id) == (replay.run_id, "replay", made.run_id)
    models = sum(len(arm.members) for arm in replay.arms)
    segments = len(replay.schedule.segments)
    assert (first.members, first.turns, first.budget) == (models, models * segments, 4)


@pytest.mark.slow
def test_a_run_id_may_be_its_beginning_or_the_word_last_wherever_one_is_taken(
    trained: Callable[..., list[Result]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (first,) = trained(task="toy")
    beginning = first.run_id[:10]
    assert pbt_flow.load("last").run_id == pbt_flow.load(beginning).run_id == first.run_id
    resumed = pbt_flow.resume(beginning, turns=3, quiet=True)
    assert (resumed.run_id, resumed.turns) == (first.run_id, 6)
    assert pbt_flow.to_study("last").study_name == first.run_id
    assert main(["report", beginning, "--out", str(tmp_path / "out")]) == 0
    assert main(["report", beginning]) == 0
    assert f"among the artifacts of run {first.run_id}:" in capsys.readouterr().out
    assert main(["show", "last", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (shown["run_id"], shown["turns"]) == (first.run_id, 6)
    replay = pbt_flow.replay(beginning, seeds=1, engine="inline", quiet=True)
    assert replay.schedule.source == first.run_id
    # A replay is nobody's last population.
    assert pbt_flow.load("last").run_id == first.run_id
    search = pbt_flow.run("toy", exploit="none", interval=3, **{**SMALL, "turns": 3})
    made = pbt_flow.compare([beginning, first.run_id, search.run_id[:9]])
    assert first.run_id in json.dumps(made.to_json())


@pytest.mark.slow
def test_the_last_population_is_not_the_control_that_was_trained_beside_it() -> None:
    made = pbt_flow.run("toy", control=True, **SMALL)
    assert pbt_flow.list_populations()[0].run_id == made.control.run_id
    assert pbt_flow.load("last").run_id == made.run_id
    # It stands beside that control, where nothing else is named.
    told = json.dumps(pbt_flow.compare(["last"]).to_json())
    assert made.control.run_id in told
    with pytest.raises(pbt_flow.ComparisonError, match="two populations at least, or one that"):
        pbt_flow.compare([made.control.run_id])


def test_what_a_word_does_not_mean_is_told_with_the_way_out() -> None:
    with pytest.raises(pbt_flow.StoreError, match="there is no population at"):
        pbt_flow.load("last")
    made = [MlflowClient().create_run("0", tags={"pbt.role": "population"}) for _ in range(17)]
    ids = [run.info.run_id for run in made]
    # Of seventeen ids two begin alike.
    (shared, *_) = sorted(one[0] for one in ids if sum(o[0] == one[0] for o in ids) > 1)
    with pytest.raises(pbt_flow.StoreError, match=f"{shared} is the beginning of"):
        pbt_flow.load(shared)
    with pytest.raises(pbt_flow.StoreError, match=r"begins so; python -m pbt_flow list shows"):
        pbt_flow.load("nothing")
    for word in ("", None, 3):
        with pytest.raises(pbt_flow.StoreError, match=f"the word last, got {word!r}; python -m"):
            pbt_flow.load(word)


def listed(**changes: object) -> ListedPopulation:
    values = {
        "run_id": "0123456789abcdef" * 2, "name": "toy pbt s0", "experiment": "Default",
        "task": "toy", "method": "pbt", "seed": 0, "members": 8, "turns": 112, "budget": 160,
        "best": 1.28e-7, "status": "finished", "began": 0.0, "disk": 1_400_000,
    }  # fmt: skip
    return ListedPopulation(**{**values, **changes})


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_list_has_whole_columns_at_any_width(width: int) -> None:
    found = [listed(), listed(best=None, seed=None, budget=None, disk=None, method="replay")]
    lines = table(found, width=width).splitlines()
    rows = lines[:3]
    assert all(len(row) <= width for row in rows)
    assert rows[1].startswith("01234567")
    left_out = len(lines) - 3
    assert (left_out == 0) == (len(rows[0].split()) == 10)
    if width >= 40:
        assert "1.28e-07" in rows[1]


@pytest.mark.parametrize(
    ("tasks", "shown"),
    [
        (["models.py:Wide", "models.py:Wide"], ["models", "models"]),
        (["models.py:Wide", "models.py:Deep"], ["models:Wide", "models:Deep"]),
        (["/a/train.py", "/b/train.py"], ["a/train", "b/train"]),
        (["/a/own.py:Net", "/b/own.py:Net", "toy"], ["a/own:Net", "b/own:Net", "toy"]),
        (["first.tasks:Net", "second.tasks:Net"], ["first.tasks:Net", "second.tasks:Net"]),
        (["__main__:Net", "models.py:Net"], ["Net", "models"]),
    ],
)
def test_tasks_of_one_file_or_of_files_of_one_name_are_told_apart(
    tasks: list[str], shown: list[str]
) -> None:
    found = [listed(task=short_task(task), whole_task=task) for task in tasks]
    head, *rows = table(found, width=200).splitlines()
    where = head.index("task")
    assert [row[where:].split()[0] for row in rows] == shown


def test_a_list_of_nothing_says_so() -> None:
    assert table([], width=80) == "no populations yet"
