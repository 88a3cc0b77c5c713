"""What MLflow's UI shows of a population: wide scores, all of it together, colours, the winner."""

from __future__ import annotations

import base64
import colorsys
import json
import zlib
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from optuna.distributions import FloatDistribution

import pbt_flow
from pbt_flow.population.records import Direction
from pbt_flow.tracking.create import member_colour
from pbt_flow.tracking.saved_view import OVERVIEW, overview, population_view, view_tag
from pbt_flow.tracking.views import ensure_overview


def state_of(view: str) -> dict[str, Any]:
    """The state of a saved view, as MLflow unpacks it."""
    packed = json.loads(view)["state"].removeprefix("deflate;")
    return dict(json.loads(zlib.decompress(base64.b64decode(packed))))


def test_the_score_is_as_wide_as_the_page_and_all_of_it_stands_together_at_the_end() -> None:
    state = state_of(population_view("r" * 32, "view", {"lr": FloatDistribution(0, 1)}, 0.0))
    sections = {section["uuid"]: section for section in state["compareRunSections"]}
    charts = [(sections[c["metricSectionId"]]["name"], c) for c in state["compareRunCharts"]]
    assert [name for name, _ in charts[:1]] == ["Score"]
    assert sections[charts[0][1]["metricSectionId"]]["columns"] == 1
    shape = {section["name"]: section["columns"] for section in sections.values()}
    assert shape["Hyperparameters"] == 1, "a chart alone has all of the width"
    name, last = charts[-1]
    assert (name, last["type"], last["selectedMetrics"]) == (
        "Together",
        "PARALLEL",
        ["hparam/lr", "score"],
    )


@pytest.mark.parametrize(("direction", "ascending"), [("maximize", False), ("minimize", True)])
def test_the_best_member_stands_first(direction: Direction, ascending: bool) -> None:
    space = {"lr": FloatDistribution(0, 1)}
    state = state_of(population_view("r" * 32, "view", space, 0.0, direction=direction))
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`score`", ascending)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_second_donor_has_a_chart_where_there_may_be_one(grouped: bool) -> None:
    space = {"lr": FloatDistribution(0, 1)}
    state = state_of(population_view("r" * 32, "view", space, 0.0, grouped=grouped))
    metrics = [chart.get("metricKey") for chart in state["compareRunCharts"]]
    assert ("hparams_donor" in metrics) == grouped
    assert ("tags.`pbt.group`" in state["selectedColumns"]) == grouped


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("exploit", ["truncation", "mfpbt:periods=1/2"])
def test_a_population_saves_the_view_of_its_kind(exploit: str) -> None:
    made = pbt_flow.run("toy", population=8, turns=1, exploit=exploit, engine="inline", quiet=True)
    client = MlflowClient()
    run = client.get_run(made.run_id)
    tags = client.get_experiment(run.info.experiment_id).tags
    assert tags[view_tag(OVERVIEW)] == overview(), "the list of all is in the menu as well"
    state = state_of(tags[view_tag(made.run_id)])
    metrics = [chart.get("metricKey") for chart in state["compareRunCharts"]]
    assert ("hparams_donor" in metrics) == (exploit != "truncation")
    # What is not set is no param, and what is None is written as MLflow writes it.
    assert "null" not in run.data.params.values()
    assert "cfg/seconds" not in run.data.params
    assert run.data.params["cfg/interval"]


def test_the_view_of_all_populations_shows_no_member_and_is_always_the_same() -> None:
    state = state_of(overview())
    assert state["searchFilter"] == "tags.`pbt.role` = 'population'"
    assert "metrics.`best_score`" in state["selectedColumns"]
    assert overview() == overview()


def test_every_member_has_a_colour_of_its_own_on_a_light_and_on_a_dark_page() -> None:
    colours = [member_colour(index) for index in range(64)]
    assert len(set(colours)) == 64
    for colour in colours:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        assert 0.25 < colorsys.rgb_to_hls(*parts)[1] < 0.8


@pytest.mark.usefixtures("database")
def test_the_winner_is_marked_and_after_a_resume_only_the_new_one() -> None:
    result = pbt_flow.run("toy", population=4, turns=1, engine="inline", quiet=True)
    client, marks = MlflowClient(), set()
    for turns in (1, 2, 6):
        if turns > 1:
            result = pbt_flow.resume(result.run_id, turns=turns, quiet=True)
        marked = client.search_runs(["0"], "tags.`pbt.is_winner` LIKE 'after%'")
        assert [run.info.run_id for run in marked] == [result.winner.run_id]
        marks.add(result.winner.run_id)
    assert len(marks) > 1
    _, page = ensure_overview()
    assert "viewStateShareKey=pbt-populations" in page
