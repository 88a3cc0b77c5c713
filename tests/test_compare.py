"""Methods side by side: paired by seed, with intervals, or refused with the reason."""

import json
import re
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow.cli import main
from pbt_flow.compare import Comparison, ComparisonError, Entry
from pbt_flow.interval import Interval
from pbt_flow.runner import compare

pytestmark = pytest.mark.usefixtures("database")
SMALL = {"engine": "inline", "turns": 3, "interval": 4, "quiet": True}


def train(seed=0, **settings):
    return pbt_flow.run(Regression, **{**SMALL, "seed": seed, **settings})


def pairs(seeds):
    return [
        train(seed, exploit=exploit).run_id for seed in seeds for exploit in ("truncation", "none")
    ]


def test_populations_are_paired_by_seed_and_the_control_comes_first():
    runs = pairs([0, 1, 2])
    made = compare(runs)
    assert list(made.methods) == ["random search", "PBT"]
    assert [entry.seed for entry in made.methods["PBT"]] == [0, 1, 2]
    results = [pbt_flow.load(run_id) for run_id in runs]
    # A smaller score is better here, so that a gain is the control's minus ours.
    expected = [results[n + 1].mean_score - results[n].mean_score for n in (0, 2, 4)]
    assert made.differences("PBT", "mean score") == expected
    assert made.gains()["PBT"]["mean score"] == Interval.of(expected)
    reports = [next(iter(result.winner.report.values())) for result in results]
    assert made.differences("PBT", "best report") == [
        reports[n + 1] - reports[n] for n in (0, 2, 4)
    ]
    rows = [line for line in made.table().splitlines() if re.match(r"\| \d \|", line)]
    assert [row.split(" | ")[:2] for row in rows] == [
        [f"| {seed}", method] for seed in (0, 1, 2) for method in ("PBT", "random search")
    ]


def test_the_command_prints_the_table_and_leaves_a_page(capsys):
    runs = pairs([0])
    assert main(["compare", *runs, "--out", "there", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(Path("there/comparison.json").read_text())
    assert {p["population"] for p in told["populations"]} == set(runs)
    page = Path("there/comparison.html").read_text()
    assert 'id="mean"' in page
    assert "PBT, mean score, better by" in page


def test_under_mlflow_run_it_is_put_on_that_run(monkeypatch):
    runs = pairs([0])
    client = MlflowClient()
    run = client.create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    # An MLproject hands over all of them as one text.
    assert main(["compare", " ".join(runs)]) == 0
    found = {info.path for info in client.list_artifacts(run.info.run_id, "comparison")}
    assert found == {"comparison/comparison.html", "comparison/comparison.json"}
    note = client.get_run(run.info.run_id).data.tags["mlflow.note.content"]
    assert "| PBT against random search | mean, 95% interval | ahead in |" in note


def test_methods_are_called_by_what_tells_them_apart():
    made = compare([train(exploit=e).run_id for e in ("truncation", "tournament")])
    assert list(made.methods) == ["PBT truncation", "PBT tournament"]
    assert made.baseline == "PBT truncation"


def test_what_cannot_be_compared_says_why():
    first = train().run_id
    for other, sentence in (
        ({"turns": 2}, r"their turns is 3 and 2"),
        ({"options": {"noise": 0.5}}, r"their options is \{\} and \{'noise': 0.5\}"),
        ({"seed": 1}, "all populations are of one method, PBT; add a control"),
    ):
        with pytest.raises(ComparisonError, match=sentence):
            compare([first, train(**other).run_id])
    made = compare([first, train(mode="generational").run_id])
    assert list(made.methods) == ["PBT async", "PBT generational"]


def test_one_population_or_two_of_a_kind_are_refused():
    result = train()
    entry = Entry(result=result, settings=pbt_flow.Settings.make(Regression, turns=3)[0])
    with pytest.raises(ComparisonError, match="two populations at least"):
        Comparison.of([entry])
    control = train(exploit="none").run_id
    with pytest.raises(ComparisonError, match="PBT has 2 populations of seed 0; name one"):
        compare([control, result.run_id, train().run_id])


def test_a_control_is_trained_beside_with_the_same_members_budget_and_seed():
    result = train(control=True)
    control = result.control
    assert control.history.turns.keys() == result.history.turns.keys()
    for member, turns in control.history.turns.items():
        assert all(turn.plan.donor is None for turn in turns)
        assert turns[0].plan == result.history.turns[member][0].plan
        assert len(turns) == len(result.history.turns[member])
    assert pbt_flow.load(result.run_id).control.run_id == control.run_id
    page = MlflowClient().download_artifacts(result.run_id, "report/index.html")
    assert "the control, which had the same budget" in Path(page).read_text()
    assert result.to_json()["control"]["population"] == control.run_id


def test_a_population_that_is_there_can_be_the_control(capsys):
    known = train(exploit="none")
    command = ["run", "--task", "sample_tasks:Regression", "--engine", "inline", "--turns", "3"]
    assert main([*command, "--interval", "4", "--control", known.run_id]) == 0
    assert f"its control, random search, {known.run_id}:" in capsys.readouterr().out


def test_a_control_that_is_no_population_is_refused_before_anything_runs():
    with pytest.raises(pbt_flow.errors.StoreError, match="no run 123"):
        train(control="123")
    assert not Path("mlruns").exists()
