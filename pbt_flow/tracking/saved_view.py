"""The population's charts in MLflow's own UI: a saved view that opens ready-made.

MLflow keeps a saved view as a tag of the experiment: JSON, whose state is compressed. The format is
not documented (found in MLflow 3.17), so a view is a comfort and never a condition: where MLflow
reads it otherwise one day, the runs are there all the same.
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
"""Characters that MLflow keeps of an experiment's tag."""

Scale = Literal["linear", "log"]


def view_tag(run_id: str) -> str:
    """The name of the experiment's tag that holds the view."""
    return f"mlflow.sharedViewState.{_key(run_id)}"


def view_address(experiment_id: str, run_id: str) -> str:
    """Where the view opens: what follows the address of the MLflow UI."""
    return (
        f"#/experiments/{experiment_id}/runs?compareRunsMode=CHART"
        f"&viewStateShareKey={_key(run_id)}&workflowType=machine_learning"
    )


def _key(run_id: str) -> str:
    return f"pbt-{run_id}"


def population_view(
    run_id: str, name: str, space: Space, now: float, *, staged: bool = False
) -> str:
    """The saved view of a population: its members' scores, hyperparameters and lineage.

    Args:
        run_id: The population's run.
        name: What the view is called in MLflow's menu.
        space: The hyperparameters; a logarithmic one gets a logarithmic axis.
        now: Seconds since the epoch.
        staged: Whether members leave at the ends of stages: a column then says when one did.
    """
    sections: dict[str, list[tuple[str, str, Scale]]] = {
        "Score": [("score", "score", "linear")],
        "Hyperparameters": [
            (hparam, f"hparam/{hparam}", "log" if getattr(dist, "log", False) else "linear")
            for hparam, dist in space.items()
        ],
        "Lineage": [
            ("donor: the member copied, its own number if nobody", "donor", "linear"),
            ("step: the age of the weights", "step", "linear"),
        ],
    }
    tags = ["pbt.copied", *(["pbt.left"] if staged else [])]
    return _packed(name, _state(run_id, space, sections, tags), int(now * 1000))


def _state(
    run_id: str,
    space: Space,
    sections: Mapping[str, Sequence[tuple[str, str, Scale]]],
    tags: Sequence[str],
) -> dict[str, Any]:
    places = [
        {
            "uuid": _uuid(run_id, title),
            "name": title,
            "display": True,
            "isReordered": True,
            "deleted": False,
            "isGenerated": False,
        }
        for title in sections
    ]
    charts = [
        _chart(_uuid(run_id, title, metric), _uuid(run_id, title), label, metric, scale)
        for title, there in sections.items()
        for label, metric, scale in there
    ]
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
        # Without it only the first ten runs are drawn.
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": charts,
        "compareRunSections": places,
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


def _chart(own: str, section: str, label: str, metric: str, scale: Scale) -> dict[str, Any]:
    return {
        "uuid": own,
        "type": "LINE",
        "runsCountToCompare": 100,
        "metricSectionId": section,
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


def _uuid(*names: str) -> str:
    """The same for the same names, so that writing a view again changes nothing."""
    return uuid.uuid5(uuid.NAMESPACE_URL, "/".join(names)).hex


def _packed(name: str, state: Mapping[str, Any], milliseconds: int) -> str:
    pressed = zlib.compress(json.dumps(state).encode(), 9)
    return json.dumps(
        {
            "name": name,
            "createdAt": milliseconds,
            "updatedAt": milliseconds,
            "state": "deflate;" + base64.b64encode(pressed).decode(),
        }
    )
