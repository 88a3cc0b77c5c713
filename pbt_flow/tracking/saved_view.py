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

from pbt_flow.space import Space

MOST = 20_000
"""The most characters that MLflow keeps of an experiment's tag."""

Scale = Literal["linear", "log"]
ChartLine = tuple[str, str, Scale]
"""What one chart shows: its title, its metric, and the scale of its y axis."""


def view_tag(run_id: str) -> str:
    """Return the name of the experiment's tag that holds a population's view."""
    return f"mlflow.sharedViewState.{_view_key(run_id)}"


def view_address(experiment_id: str, run_id: str) -> str:
    """Return the address of a population's view, after the address of the MLflow UI."""
    return (
        f"#/experiments/{experiment_id}/runs?compareRunsMode=CHART"
        f"&viewStateShareKey={_view_key(run_id)}&workflowType=machine_learning"
    )


def _view_key(run_id: str) -> str:
    return f"pbt-{run_id}"


def population_view(
    run_id: str, name: str, space: Space, now: float, *, staged: bool = False
) -> str:
    """Return the saved view of a population: its members' scores, hyperparameters and lineage.

    Args:
        run_id: The population's run.
        name: The name of the view in MLflow's menu.
        space: The hyperparameters; a logarithmic one gets a logarithmic axis.
        now: When the view was made, in seconds since the epoch.
        staged: Whether members leave at the ends of stages. A column then says when one left.
    """
    hparams: list[ChartLine] = []
    for hparam, dist in space.items():
        scale: Scale = "log" if getattr(dist, "log", False) else "linear"
        hparams.append((hparam, f"hparam/{hparam}", scale))
    sections: dict[str, Sequence[ChartLine]] = {
        "Score": [("score", "score", "linear")],
        "Hyperparameters": hparams,
        "Lineage": [
            ("donor: the member copied, its own number if nobody", "donor", "linear"),
            ("step: the age of the weights", "step", "linear"),
        ],
    }
    tags = ["pbt.copied", "pbt.left"] if staged else ["pbt.copied"]
    return _packed(name, _state(run_id, space, sections, tags), int(now * 1000))


def _state(
    run_id: str,
    space: Space,
    sections: Mapping[str, Sequence[ChartLine]],
    tags: Sequence[str],
) -> dict[str, Any]:
    """Return the state of MLflow's chart view, with a section of charts for each title."""
    ui_sections: list[dict[str, Any]] = []
    charts: list[dict[str, Any]] = []
    for title, lines in sections.items():
        section_id = _stable_uuid(run_id, title)
        ui_sections.append(
            {
                "uuid": section_id,
                "name": title,
                "display": True,
                "isReordered": True,
                "deleted": False,
                "isGenerated": False,
            }
        )
        for label, metric, scale in lines:
            chart_id = _stable_uuid(run_id, title, metric)
            charts.append(_chart(chart_id, section_id, label, metric, scale))
    columns = ["score", "step", *(f"hparam/{name}" for name in space)]
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{run_id}'",
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [
            *(f"metrics.`{name}`" for name in columns),
            *(f"tags.`{name}`" for name in tags),
        ],
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
