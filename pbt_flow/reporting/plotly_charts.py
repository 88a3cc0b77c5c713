"""The charts of a report, as plain dictionaries in plotly's form.

A colour is written as `var(--name)`, a variable of the page's style sheet, which has one set of
colours for light surroundings and one for dark ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from pbt_flow.population.lineage import Node, node_of
from pbt_flow.population.records import Turn
from pbt_flow.reporting import series
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.reporting.tree_layout import Tree, lay_out
from pbt_flow.space import index_of
from pbt_flow.utils.text import duration, number

MOST_FOUNDERS = 7
"""The number of colours for founders in the page's style sheet."""
_MOST_NODES = 4000
"""With more turns than this, the tree is drawn as lines without points."""
_LABEL_HEIGHT = 13
"""Pixels that the label of a founder takes."""
_FADED = 0.25
"""How much of the others is left where all but the winner's line is faded."""
_PART_COLOURS = {
    "train": "var(--f0)",
    "evaluate": "var(--f4)",
    "checkpoint": "var(--f2)",
    "restore": "var(--f1)",
    "waiting": "var(--others)",
    "lost": "var(--bad)",
}

Chart = dict[str, Any]


def charts(subject: ReportData, shades: series.Shades) -> dict[str, Chart]:
    """Every chart, by the id of the element on the page that it is drawn into."""
    found = {"scores": score_chart(subject)}
    for index, name in enumerate(subject.space):
        found[f"hparam-{index}"] = hparam_chart(subject, name, shades)
    found["tree"] = tree_chart(subject, shades)
    found["founders"] = founder_chart(subject)
    found["time"] = time_chart(subject)
    return found


def score_chart(subject: ReportData) -> Chart:
    """The scores of all members, faint; the best and the mean of each round, bold."""
    members = series.scores(subject.history)
    data: list[Chart] = []
    for member, points in members.items():
        data.append(
            line(
                points,
                "members",
                "var(--faint)",
                width=1,
                meta=2 * _FADED,
                legendgroup="members",
                # One entry in the legend for all members.
                showlegend=not data,
                hovertemplate=f"member {member:02d}<br>%{{x}} steps: %{{y}}<extra></extra>",
            )
        )
    if subject.control is not None:
        best, mean = series.best_and_mean(subject.control.history)
        data += [
            line(best, "control, best", "var(--control)", width=2.5, dash="dash"),
            line(mean, "control, mean", "var(--control)", width=2, dash="dot"),
        ]
    own = [
        series.Point(turn.plan.trained, turn.score)
        for turn in subject.path
        if turn.score is not None
    ]
    data.append(line(own, "the winner's line", "var(--ink)", width=2))
    best, mean = series.best_and_mean(subject.history)
    data += [
        line(mean, "mean", "var(--mean)", width=3),
        line(best, "best", "var(--best)", width=3),
    ]
    values: list[float] = []
    for points in members.values():
        values += [point.value for point in points]
    log = spans_decades(values)
    layout = frame(
        420,
        x="steps that a member has trained",
        y="score (logarithmic)" if log else "score",
        # Between powers of ten plotly writes a lone 2 or 5, which looks like the whole value.
        yaxis={"type": "log", "dtick": 1, "exponentformat": "power"} if log else {},
    )
    ends = series.stage_ends(subject.history)
    if ends:
        layout |= _stage_marks(ends)
    return {"data": data, "layout": layout}


def _stage_marks(ends: Sequence[series.Point]) -> Chart:
    """A line across the chart where a stage ended, with the number of members that left."""
    return {
        "shapes": [
            {
                "type": "line",
                "x0": end.trained,
                "x1": end.trained,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": {"width": 1, "dash": "dot", "color": "var(--soft)"},
            }
            for end in ends
        ],
        "annotations": [
            {
                "x": end.trained,
                "y": 0,
                "yref": "paper",
                "yanchor": "bottom",
                "xanchor": "left",
                "showarrow": False,
                "text": f"{end.value:.0f} leave",
                "font": {"color": "var(--soft)"},
            }
            for end in ends
        ],
    }


def hparam_chart(subject: ReportData, name: str, shades: series.Shades) -> Chart:
    """A hyperparameter over the step of the weights, coloured by score; the winner's path bold."""
    dist, size = subject.space[name], len(subject.history.members)

    def height(value: Any, member: int | None = None) -> float:
        if not isinstance(dist, CategoricalDistribution):
            return _rounded(value)
        # Members with the same choice lie side by side, and not one behind the other. Each choice
        # has a band of 0.7 around its index.
        aside = 0.0 if member is None else 0.7 * (member + 0.5) / size - 0.35
        return round(index_of(value, dist) + aside, 3)

    lines = [_others(f"var(--v{shade})", 2.5) for shade in range(series.SHADES)]
    for stretch in series.stretches(subject.history, name, shades):
        place = height(stretch.value, stretch.member)
        label = f"member {stretch.member:02d}: {escape(number(stretch.value))}"
        line = lines[stretch.shade]
        line["x"] += [stretch.start, stretch.end, None]
        line["y"] += [place, place, None]
        line["text"] += [label, label, None]
    winner = _segments("var(--ink)", 3.5)
    for turn in subject.path:
        value = turn.plan.hparams[name]
        winner["x"] += [turn.plan.start_step, turn.step]
        winner["y"] += [height(value)] * 2
        winner["text"] += [f"the winner: {escape(number(value))}"] * 2
    data = [line for line in [*lines, winner] if line["x"]]
    layout = frame(300, x="step of the weights", y="", yaxis=_axis(dist))
    return {"data": data, "layout": {**layout, "showlegend": False}}


def tree_chart(subject: ReportData, shades: series.Shades) -> Chart:
    """The family tree: lines of descent run from left to right, and die out or live on."""
    history = subject.history
    tree = lay_out(history)
    without_label = {"hovertemplate": None, "hoverinfo": "skip"}
    copied = _others("var(--soft)", 1.2, dash="dot") | without_label
    lines = [_others(f"var(--v{shade})", 2) | without_label for shade in range(series.SHADES)]
    for parent, child in tree.edges:
        score = history.turn(*child).score
        assert score is not None, "only turns that went well are in the tree"
        line = copied if parent.member != child.member else lines[shades.shade(score)]
        (x0, y0), (x1, y1) = tree.places[parent], tree.places[child]
        line["x"] += [x0, x1, None]
        line["y"] += [_rounded(y0), _rounded(y1), None]
    data = [line for line in [copied, *lines] if line["x"]]

    path = subject.path
    if path:
        winner = [tree.places[node] for node in [Node(path[0].member, 0), *map(node_of, path)]]
        line = _segments("var(--ink)", 3.5) | without_label
        line["x"], line["y"] = [x for x, _ in winner], [_rounded(y) for _, y in winner]
        data.append(line)
    turns = [node for node in tree.places if node.turn]
    if len(turns) <= _MOST_NODES:
        data.append(_turn_markers([history.turn(*node) for node in turns], tree, shades))
    if tree.failed:
        data.append(_failure_markers(tree.failed))
    founders = [node for node in tree.places if not node.turn]
    height = _tree_height(tree, founders)
    labelled = _choose_labels(tree, founders, height)
    layout = frame(
        height,
        x="step of the weights",
        y="founder",
        yaxis={
            "tickvals": [_rounded(tree.places[node][1]) for node in labelled],
            "ticktext": [f"{node.member:02d}" for node in labelled],
            "range": [tree.rows, 0],
            "showgrid": False,
        },
    )
    return {"data": data, "layout": {**layout, "showlegend": False}}


def _tree_height(tree: Tree, founders: Sequence[Node]) -> int:
    """The height of the tree's chart in pixels: each founder has room for a label, up to a limit.

    Founders whose lines died out lie closer to each other than others.
    """
    rows = [tree.places[node][1] for node in founders]
    nearest = min((below - above for above, below in pairwise(rows)), default=1.0)
    of_a_row = max(22.0, _LABEL_HEIGHT / nearest)
    return int(min(900, max(240, 70 + of_a_row * tree.rows)))


def _choose_labels(tree: Tree, founders: Sequence[Node], height: int) -> Sequence[Node]:
    """The founders that get a label: all, or where there is no room for that every second or so.

    Args:
        tree: The tree.
        founders: All founders, from the first row to the last.
        height: The height of the chart in pixels.
    """
    # The rows share what the margins leave of the height.
    distance = _LABEL_HEIGHT * tree.rows / (height - 60)
    for step in range(1, len(founders)):
        chosen = founders[::step]
        rows = [tree.places[node][1] for node in chosen]
        if all(below - above >= distance for above, below in pairwise(rows)):
            return chosen
    return founders[:1]


def _turn_markers(turns: Sequence[Turn], tree: Tree, shades: series.Shades) -> Chart:
    places = [tree.places[node_of(turn)] for turn in turns]
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": _FADED,
        "x": [x for x, _ in places],
        "y": [_rounded(y) for _, y in places],
        "marker": {
            "size": 8 if len(turns) <= 400 else 5,
            "color": [f"var(--v{shades.shade(turn.score or 0.0)})" for turn in turns],
        },
        "text": [_turn_label(turn) for turn in turns],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _failure_markers(failed: Sequence[tuple[Turn, tuple[float, float]]]) -> Chart:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x for _, (x, _) in failed],
        "y": [_rounded(y) for _, (_, y) in failed],
        "marker": {"symbol": "x-thin", "size": 9, "line": {"width": 2, "color": "var(--bad)"}},
        "text": [_turn_label(turn) for turn, _ in failed],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _turn_label(turn: Turn) -> str:
    """What a marker shows under the mouse."""
    lines = [f"member {turn.member:02d}, turn {turn.number}"]
    lines.append(f"score {number(turn.score)}" if turn.ok else turn.status)
    donor = turn.plan.donor
    if donor is not None:
        what = {"both": "all", "weights": "the weights", "hparams": "the hyperparameters"}
        whom = f"member {donor.member:02d}, turn {donor.turn}"
        lines.append(f"copied {what[donor.copies]} of {whom}")
        if (other := donor.hparams_of) is not None:
            whom = f"member {other.member:02d}, turn {other.turn}"
            lines.append(f"and {what['hparams']} of {whom}")
    lines += [f"{name} {number(value)}" for name, value in turn.plan.hparams.items()]
    # Escaped, since plotly takes a label for HTML.
    return "<br>".join(escape(line) for line in lines)


def founder_chart(subject: ReportData) -> Chart:
    """How much of the population descends from each founder, over the turns."""
    lines = series.shares(subject.history, MOST_FOUNDERS)
    data = []
    for index, (founder, share) in enumerate(lines.items()):
        name = "others" if founder is None else f"founder {founder:02d}"
        colour = "var(--others)" if founder is None else f"var(--f{index})"
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": list(range(len(share))),
                "y": [_rounded(value) for value in share],
                "name": name,
                "stackgroup": "all",
                "fillcolor": colour,
                "line": {"width": 0.5, "color": "var(--paper)"},
                "hovertemplate": f"{name}: %{{y:.0%}} after turn %{{x}}<extra></extra>",
            }
        )
    layout = frame(
        300, x="turn", y="share", yaxis={"tickformat": ".0%", "range": [0, 1], "showgrid": False}
    )
    return {"data": data, "layout": layout}


def time_chart(subject: ReportData) -> Chart:
    """Where the workers' time went."""
    spent = series.time_spent(subject.history, subject.slots)
    # Before any turn has taken time, the shares are 0 of 1.
    total = math.fsum(spent.values()) or 1.0
    # A part that took no time is none to be told of.
    names = [part for part in _PART_COLOURS if spent.get(part)]
    names += sorted(part for part in spent.keys() - _PART_COLOURS.keys() if spent[part])
    data = []
    for part in names:
        share = spent[part] / total
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "y": [""],
                "x": [_rounded(share)],
                "name": f"{part} {share:.0%}",
                "marker": {"color": _PART_COLOURS.get(part, "var(--f3)")},
                "hovertemplate": f"{part}: {duration(spent[part])}<extra></extra>",
            }
        )
    layout = frame(170, x="", y="", yaxis={"visible": False})
    layout["xaxis"] |= {"tickformat": ".0%", "range": [0, 1], "showgrid": False}
    return {
        "data": data,
        # Of a single bar plotly would leave the legend out, and with it what the bar is.
        "layout": {**layout, "barmode": "stack", "bargap": 0.1, "showlegend": True},
    }


# --- plotly's form --------------------------------------------------------------------------------


def _rounded(value: float) -> float:
    """A number as it is drawn, with six digits.

    That is more than a screen can show, and takes a third of the bytes of all digits.
    """
    return float(f"{series.within_axis(value):.6g}")


def line(
    points: Iterable[series.Point],
    name: str,
    colour: str,
    *,
    width: float,
    dash: str = "",
    **more: Any,
) -> Chart:
    """A line through points. A single point is drawn as a dot."""
    drawn = list(points)
    style: dict[str, Any] = {"color": colour, "width": width}
    if dash:
        style["dash"] = dash
    return {
        "type": "scatter",
        "mode": "lines" if len(drawn) > 1 else "markers",
        "name": name,
        "x": [point.trained for point in drawn],
        "y": [_rounded(point.value) for point in drawn],
        "line": style,
        "marker": {"color": colour},
        **more,
    }


def _segments(colour: str, width: float, dash: str = "solid") -> Chart:
    """An empty line, to which segments are added. A coordinate of None ends a segment."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [],
        "y": [],
        "line": {"color": colour, "width": width, "dash": dash},
        "text": [],
        "hovertemplate": "%{text}, step %{x}<extra></extra>",
    }


def _others(colour: str, width: float, dash: str = "solid") -> Chart:
    """The same for what the page can fade: `meta` is the opacity that is left."""
    return {**_segments(colour, width, dash), "meta": _FADED}


def _axis(dist: BaseDistribution) -> Chart:
    """The vertical axis of a hyperparameter: the whole domain, on the domain's own scale."""
    if isinstance(dist, CategoricalDistribution):
        # Escaped, since plotly takes a label for HTML.
        names = [escape(str(choice)) for choice in dist.choices]
        return {
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "range": [-0.5, len(names) - 0.5],
        }
    low = series.within_axis(dist.low)  # type: ignore[attr-defined]
    high = series.within_axis(dist.high)  # type: ignore[attr-defined]
    log = bool(dist.log)  # type: ignore[attr-defined]
    if log:
        low, high = math.log10(low), math.log10(high)
    # A domain of a single value gets an axis of length 1.
    room = 0.04 * (high - low) or 0.5
    axis: Chart = {"range": [low - room, high + room]}
    if log:
        axis |= {"type": "log", "exponentformat": "power", "minor": {"showgrid": False}}
        if high - low >= 2:
            # Ticks at powers of ten only: between them plotly writes a lone 2 or 5, which a reader
            # would take for the value.
            axis["dtick"] = 1
    return axis


def frame(height: int, *, x: str, y: str, yaxis: Mapping[str, Any]) -> Chart:
    """The layout of a chart: its axes with their titles, and the legend above it.

    Args:
        height: The height in pixels.
        x: The title of the horizontal axis.
        y: The title of the vertical axis.
        yaxis: Other attributes of the vertical axis, in plotly's form.
    """
    axis = {
        "gridcolor": "var(--line)",
        "linecolor": "var(--line)",
        "zeroline": False,
        "automargin": True,
    }
    return {
        "height": height,
        "margin": {"l": 50, "r": 12, "t": 12, "b": 44},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "var(--soft)"},
        "hovermode": "closest",
        "legend": {
            "orientation": "h",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 0,
            "traceorder": "normal",
        },
        "xaxis": {**axis, "title": {"text": x, "standoff": 8}},
        "yaxis": {**axis, "title": {"text": y, "standoff": 8}, **yaxis},
    }


def spans_decades(scores: Sequence[float]) -> bool:
    """Whether scores lie so far apart that only a logarithmic axis shows them all."""
    return bool(scores) and min(scores) > 0 and max(scores) > 100 * min(scores)
