"""The population's charts in MLflow's own UI: a saved view of the runs, which opens by a link.

MLflow keeps a saved view as a tag of the experiment, in JSON with a compressed state. The format is
not documented (this is that of MLflow 3.17). If a later MLflow cannot read a view, only the charts
of the link are missing.
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pbt_flow.population.records import Direction
from pbt_flow.space import Space

MOST = 20_000
"""The most characters that MLflow keeps of an experiment's tag."""

Scale = Literal["linear", "log"]
ChartLine = tuple[str, str, Scale]
"""What one chart shows: its title, its metric, and the scale of its y axis."""

OVERVIEW = "populations"
"""What stands in place of a run id for the view of all populations of an experiment."""


def view_tag(run_id: str) -> str:
    """Return the name of the experiment's tag that holds a population's view."""
    return f"mlflow.sharedViewState.{_view_key(run_id)}"


def view_address(experiment_id: str, run_id: str) -> str:
    """Return the address of a population's view, after the address of the MLflow UI."""
    return (
        f"#/experiments/{experiment_id}/runs?compareRunsMode=CHART"
        f"&viewStateShareKey={_view_key(run_id)}&workflowType=machine_learning"
    )


def overview_address(experiment_id: str) -> str:
    """Where the view of all populations opens: what follows the address of the MLflow UI."""
    return (
        f"#/experiments/{experiment_id}/runs?compareRunsMode="
        f"&viewStateShareKey={_view_key(OVERVIEW)}&workflowType=machine_learning"
    )


def overview() -> str:
    """The view of all populations of an experiment: a table, the newest first, and their scores."""
    sections: dict[str, list[ChartLine]] = {
        "Scores": [("best score", "best_score", "linear"), ("mean score", "mean_score", "linear")],
        "Copies": [("copies in a round", "copies", "linear")],
    }
    columns = [
        *(f"metrics.`{name}`" for name in ("winner/score", "best_score", "mean_score", "copies")),
        *(f"params.`cfg/{name}`" for name in ("task", "exploit", "seed", "population", "turns")),
        "tags.`pbt.status`",
    ]
    state = _state(OVERVIEW, "tags.`pbt.role` = 'population'", columns, sections)
    # Always the same, so that saving it again changes nothing.
    return _packed("Populations", state, 0)


def _view_key(run_id: str) -> str:
    return f"pbt-{run_id}"


def population_view(
    run_id: str,
    name: str,
    space: Space,
    now: float,
    *,
    direction: Direction = "maximize",
    staged: bool = False,
    grouped: bool = False,
) -> str:
    """Return the saved view of a population: its members' scores, hyperparameters and lineage.

    Args:
        run_id: The population's run.
        name: The name of the view in MLflow's menu.
        space: The hyperparameters; a logarithmic one gets a logarithmic axis.
        now: When the view was made, in seconds since the epoch.
        direction: Which direction of the score is better: the best member stands first.
        staged: Whether members leave at the ends of stages. A column then says when one left.
        grouped: Whether there are sub-populations, where weights and hyperparameters may have been
            copied from two members. A chart then shows the second.
    """
    label = "hparams_donor: the member whose hyperparameters were copied, where it is another one"
    lineage: list[ChartLine] = [(label, "hparams_donor", "linear")] if grouped else []
    hparams: list[ChartLine] = []
    for hparam, dist in space.items():
        scale: Scale = "log" if getattr(dist, "log", False) else "linear"
        hparams.append((hparam, f"hparam/{hparam}", scale))
    sections: dict[str, Sequence[ChartLine]] = {
        "Score": [("score", "score", "linear")],
        "Hyperparameters": hparams,
        "Lineage": [
            ("donor: the member copied, its own number if nobody", "donor", "linear"),
            *lineage,
            ("step: the age of the weights", "step", "linear"),
        ],
    }
    tags = ["pbt.copied", "pbt.is_winner", *(["pbt.left"] if staged else [])]
    tags += ["pbt.group"] if grouped else []
    columns = ["score", "step", *(f"hparam/{name}" for name in space)]
    state = _state(
        run_id,
        f"tags.`mlflow.parentRunId` = '{run_id}'",
        [*(f"metrics.`{name}`" for name in columns), *(f"tags.`{name}`" for name in tags)],
        sections,
    )
    state |= {"orderByKey": "metrics.`score`", "orderByAsc": direction == "minimize"}
    together = _stable_uuid(run_id, "Together")
    state["compareRunSections"].append(_section(together, "Together", charts=1))
    metrics = [*(f"hparam/{name}" for name in space), "score"]
    state["compareRunCharts"].append(
        _parallel(_stable_uuid(together, "parallel"), together, metrics)
    )
    return _packed(name, state, int(now * 1000))


def _section(own: str, name: str, *, charts: int) -> dict[str, Any]:
    """A group of so many charts, which share the page's width: three stand in a row at most."""
    shape = {"columns": min(charts, 3)} | ({"cardHeight": 420} if charts == 1 else {})
    return {
        "uuid": own,
        "name": name,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
        **shape,
    }


def _state(
    view: str,
    runs: str,
    columns: Sequence[str],
    sections: Mapping[str, Sequence[ChartLine]],
) -> dict[str, Any]:
    """The state of a view.

    Args:
        view: Tells its charts from those of other views.
        runs: Which runs it shows, as MLflow searches them.
        columns: Of the table.
        sections: The charts: label, metric and scale of each.
    """
    ui_sections = [
        # The first chart is what everybody looks for.
        _section(_stable_uuid(view, title), title, charts=len(there) if number > 0 else 1)
        for number, (title, there) in enumerate(sections.items())
    ]
    charts = [
        _chart(_stable_uuid(view, title, metric), _stable_uuid(view, title), label, metric, scale)
        for title, there in sections.items()
        for label, metric, scale in there
    ]
    return {
        "searchFilter": runs,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "columnOrder": [],
        "columnWidths": {},
        # The default draws only the first ten runs.
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": charts,
        "compareRunSections": ui_sections,
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }


def _parallel(own: str, section: str, metrics: Sequence[str]) -> dict[str, Any]:
    """Parallel coordinates: a line for each member through what it has now."""
    return {
        "uuid": own,
        "type": "PARALLEL",
        "runsCountToCompare": 100,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "displayName": "hyperparameters and score of each member, as they are now",
        "showAllRuns": True,
        "selectedParams": [],
        "selectedMetrics": list(metrics),
    }


def _chart(chart_id: str, section_id: str, label: str, metric: str, scale: Scale) -> dict[str, Any]:
    return {
        "uuid": chart_id,
        "type": "LINE",
        "runsCountToCompare": 100,
        "metricSectionId": section_id,
        "deleted": False,
        "isGenerated": False,
        "displayName": label,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": scale,
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _stable_uuid(*names: str) -> str:
    """Return the same id for the same names, so that saving a view again changes nothing."""
    return uuid.uuid5(uuid.NAMESPACE_URL, "/".join(names)).hex


def _packed(name: str, state: Mapping[str, Any], milliseconds: int) -> str:
    """Return a view in the form in which MLflow keeps it in a tag."""
    compressed = zlib.compress(json.dumps(state).encode(), 9)
    return json.dumps(
        {
            "name": name,
            "createdAt": milliseconds,
            "updatedAt": milliseconds,
            "state": "deflate;" + base64.b64encode(compressed).decode(),
        }
    )
