"""The figures of a report as plain dictionaries in plotly's form.

A colour is written `var(--name)` and looked up in the page's style, which has one set of them for
light and one for dark surroundings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from pbt_flow.population.lineage import Node, founder_shares, node_of
from pbt_flow.population.records import Turn
from pbt_flow.reporting import series as figures
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.reporting.tree_layout import Tree, lay_out
from pbt_flow.space import index_of
from pbt_flow.utils.text import duration, number

_FOUNDERS = 7
_NODES = 4000
"""With more turns than this the tree is drawn as lines without points."""
_PARTS = {
    "train": "var(--f0)",
    "evaluate": "var(--f4)",
    "checkpoint": "var(--f2)",
    "restore": "var(--f1)",
    "waiting": "var(--others)",
    "lost": "var(--bad)",
}

Chart = dict[str, Any]


def charts(subject: ReportData, shades: figures.Shades) -> dict[str, Chart]:
    """Every figure by the id of its place on the page."""
    found = {"scores": score_chart(subject)}
    for index, name in enumerate(subject.space):
        found[f"hparam-{index}"] = hparam_chart(subject, name, shades)
    found["tree"] = tree_chart(subject, shades)
    found["founders"] = founder_chart(subject)
    found["time"] = time_chart(subject)
    return found


def score_chart(subject: ReportData) -> Chart:
    """Scores of all members, faint; the best and the mean of each round, bold."""
    members = figures.scores(subject.history)
    data = [
        line(
            points,
            "members",
            "var(--faint)",
            width=1,
            legendgroup="members",
            showlegend=not index,
            hovertemplate=f"member {member:02d}<br>%{{x}} steps: %{{y}}<extra></extra>",
        )
        for index, (member, points) in enumerate(members.items())
    ]
    if subject.control is not None:
        best, mean = figures.best_and_mean(subject.control.history)
        data += [
            line(best, "control, best", "var(--control)", width=2.5, dash="dash"),
            line(mean, "control, mean", "var(--control)", width=2, dash="dot"),
        ]
    best, mean = figures.best_and_mean(subject.history)
    data += [
        line(mean, "mean", "var(--mean)", width=3),
        line(best, "best", "var(--best)", width=3),
    ]
    every = [point.value for points in members.values() for point in points]
    log = spans_decades(every)
    layout = frame(
        420,
        x="steps that a member has trained",
        y="score (logarithmic)" if log else "score",
        yaxis={"type": "log"} if log else {},
    )
    if ends := figures.stage_ends(subject.history):
        layout |= _marks(ends)
    return {"data": data, "layout": layout}


def _marks(ends: Sequence[figures.Point]) -> Chart:
    """A line across the figure where a stage ended, with how many members left."""
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


def hparam_chart(subject: ReportData, name: str, shades: figures.Shades) -> Chart:
    """A hyperparameter over the step of the weights, coloured by score; the winner's path bold."""
    dist, size = subject.space[name], len(subject.history.members)

    def height(value: Any, member: int | None = None) -> float:
        if not isinstance(dist, CategoricalDistribution):
            return _round(value)
        # Members with the same choice lie side by side, not one behind the other.
        aside = 0.0 if member is None else 0.7 * (member + 0.5) / size - 0.35
        return round(index_of(value, dist) + aside, 3)

    lines: list[Chart] = [_segments(f"var(--v{n})", 2.5) for n in range(figures.SHADES)]
    for s in figures.stretches(subject.history, name, shades):
        place = height(s.value, s.member)
        line = lines[s.shade]
        line["x"] += [s.start, s.end, None]
        line["y"] += [place, place, None]
        line["text"] += [f"member {s.member:02d}: {escape(number(s.value))}"] * 2 + [None]
    winner = _segments("var(--ink)", 3.5)
    for turn in subject.path:
        value = turn.plan.hparams[name]
        winner["x"] += [turn.plan.start_step, turn.step]
        winner["y"] += [height(value)] * 2
        winner["text"] += [f"the winner: {escape(number(value))}"] * 2
    data = [line for line in [*lines, winner] if line["x"]]
    layout = frame(300, x="step of the weights", y="", yaxis=_axis(dist))
    return {"data": data, "layout": {**layout, "showlegend": False}}


def tree_chart(subject: ReportData, shades: figures.Shades) -> Chart:
    """The family tree: a line of descent goes from left to right, and dies out or lives on."""
    history = subject.history
    tree = lay_out(history)
    quiet = {"hovertemplate": None, "hoverinfo": "skip"}
    copied = _segments("var(--soft)", 1.2, dash="dot") | quiet
    lines = [_segments(f"var(--v{n})", 2) | quiet for n in range(figures.SHADES)]
    for parent, child in tree.edges:
        score = history.turn(*child).score
        assert score is not None, "only turns that went well are in the tree"
        line = copied if parent.member != child.member else lines[shades.shade(score)]
        (x0, y0), (x1, y1) = tree.places[parent], tree.places[child]
        line["x"] += [x0, x1, None]
        line["y"] += [_round(y0), _round(y1), None]
    data = [line for line in [copied, *lines] if line["x"]]

    path = subject.path
    if path:
        winner = [tree.places[node] for node in [Node(path[0].member, 0), *map(node_of, path)]]
        line = _segments("var(--ink)", 3.5) | quiet
        line["x"], line["y"] = [x for x, _ in winner], [_round(y) for _, y in winner]
        data.append(line)
    turns = [node for node in tree.places if node.turn]
    if len(turns) <= _NODES:
        data.append(_nodes([history.turn(*node) for node in turns], tree, shades))
    if tree.failed:
        data.append(_failures(tree.failed))
    height = int(min(900, max(240, 70 + 22 * tree.rows)))
    # Labels that would cover each other are left out, those of founders without heirs first.
    heirs = set(founder_shares(history)[-1])
    every = sorted((n for n in tree.places if not n.turn), key=lambda n: n.member not in heirs)
    roots: list[Node] = []
    for node in every:
        row = tree.places[node][1]
        if all(abs(row - tree.places[n][1]) * (height - 60) > 13 * tree.rows for n in roots):
            roots.append(node)
    layout = frame(
        height,
        x="step of the weights",
        y="founder",
        yaxis={
            "tickvals": [_round(tree.places[node][1]) for node in roots],
            "ticktext": [f"{node.member:02d}" for node in roots],
            "range": [tree.rows, 0],
            "showgrid": False,
        },
    )
    return {"data": data, "layout": {**layout, "showlegend": False}}


def _nodes(turns: Sequence[Turn], tree: Tree, shades: figures.Shades) -> Chart:
    places = [tree.places[node_of(turn)] for turn in turns]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x for x, _ in places],
        "y": [_round(y) for _, y in places],
        "marker": {
            "size": 8 if len(turns) <= 400 else 5,
            "color": [f"var(--v{shades.shade(t.score or 0.0)})" for t in turns],
        },
        "text": [_describe(turn) for turn in turns],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _failures(failed: Sequence[tuple[Turn, tuple[float, float]]]) -> Chart:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x for _, (x, _) in failed],
        "y": [_round(y) for _, (_, y) in failed],
        "marker": {"symbol": "x-thin", "size": 9, "line": {"width": 2, "color": "var(--bad)"}},
        "text": [_describe(turn) for turn, _ in failed],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _describe(turn: Turn) -> str:
    lines = [f"member {turn.member:02d}, turn {turn.number}"]
    lines.append(f"score {number(turn.score)}" if turn.ok else turn.status)
    if (donor := turn.plan.donor) is not None:
        what = {"both": "all", "weights": "the weights", "hparams": "the hyperparameters"}
        whom = f"member {donor.member:02d}, turn {donor.turn}"
        lines.append(f"copied {what[donor.copies]} of {whom}")
    lines += [f"{name} {number(value)}" for name, value in turn.plan.hparams.items()]
    # Plotly reads tags in a label.
    return "<br>".join(escape(line) for line in lines)


def founder_chart(subject: ReportData) -> Chart:
    """How much of the population descends from each founder, over the turns."""
    lines = figures.shares(subject.history, _FOUNDERS)
    data = []
    for index, (founder, share) in enumerate(lines.items()):
        name = "others" if founder is None else f"founder {founder:02d}"
        colour = "var(--others)" if founder is None else f"var(--f{index})"
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": list(range(len(share))),
                "y": [_round(value) for value in share],
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
    settings = subject.settings
    slots = 1 if settings.engine == "inline" else min(settings.workers, settings.founders)
    spent = figures.time_spent(subject.history, slots)
    total = math.fsum(spent.values()) or 1.0
    names = [*(part for part in _PARTS if part in spent), *sorted(spent.keys() - _PARTS.keys())]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "y": [""],
            "x": [_round(spent[part] / total)],
            "name": f"{part} {spent[part] / total:.0%}",
            "marker": {"color": _PARTS.get(part, "var(--f3)")},
            "hovertemplate": f"{part}: {duration(spent[part])}<extra></extra>",
        }
        for part in names
    ]
    layout = frame(170, x="", y="", yaxis={"visible": False})
    layout["xaxis"] |= {"tickformat": ".0%", "range": [0, 1], "showgrid": False}
    return {
        "data": data,
        "layout": {**layout, "barmode": "stack", "bargap": 0.1},
    }


# --- plotly's form --------------------------------------------------------------------------------


def _round(value: float) -> float:
    """Six digits are more than a screen can show, and a third of the bytes."""
    return float(f"{figures.drawn(value):.6g}")


def line(
    points: Iterable[figures.Point],
    name: str,
    colour: str,
    *,
    width: float,
    dash: str = "",
    **more: Any,
) -> Chart:
    """A line through points; a single one is drawn as a dot."""
    there = list(points)
    return {
        "type": "scatter",
        "mode": "lines" if len(there) > 1 else "markers",
        "name": name,
        "x": [point.trained for point in there],
        "y": [_round(point.value) for point in there],
        "line": {"color": colour, "width": width, **({"dash": dash} if dash else {})},
        "marker": {"color": colour},
        **more,
    }


def _segments(colour: str, width: float, dash: str = "solid") -> Chart:
    """A line to which pieces are added; None in it lifts the pen."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [],
        "y": [],
        "line": {"color": colour, "width": width, "dash": dash},
        "text": [],
        "hovertemplate": "%{text}, step %{x}<extra></extra>",
    }


def _axis(dist: BaseDistribution) -> Chart:
    """The vertical axis of a hyperparameter: its whole domain, on its own scale."""
    if isinstance(dist, CategoricalDistribution):
        names = [str(choice) for choice in dist.choices]
        return {
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "range": [-0.5, len(names) - 0.5],
        }
    low = figures.drawn(dist.low)  # type: ignore[attr-defined]
    high = figures.drawn(dist.high)  # type: ignore[attr-defined]
    log = bool(dist.log)  # type: ignore[attr-defined]
    if log:
        low, high = math.log10(low), math.log10(high)
    room = 0.04 * (high - low) or 0.5
    axis: Chart = {"range": [low - room, high + room]}
    if log:
        axis |= {"type": "log", "exponentformat": "power", "minor": {"showgrid": False}}
        # Between decades plotly writes a lone 2 or 5 that reads as the number itself.
        axis |= {"dtick": 1} if high - low >= 2 else {}
    return axis


def frame(height: int, *, x: str, y: str, yaxis: Mapping[str, Any]) -> Chart:
    """What surrounds a figure: its axes with their titles, and the legend above it."""
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
    """Whether scores are so far apart that only a logarithmic axis shows them all."""
    return bool(scores) and min(scores) > 0 and max(scores) > 100 * min(scores)
