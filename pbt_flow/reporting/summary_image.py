"""The report's main figures as one still picture, for a talk or a README: a PNG."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution

from pbt_flow.population.lineage import Node, node_of
from pbt_flow.reporting import series as figures
from pbt_flow.reporting.plotly_charts import spans_decades
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.reporting.tree_layout import lay_out
from pbt_flow.space import index_of

_BEST, _MEAN, _CONTROL, _FAINT, _INK = "#0072b2", "#d55e00", "#7a8794", "#7d8a9888", "#17202a"


def draw(subject: ReportData, path: Path) -> None:
    """Draw scores, hyperparameters and the family tree into `path`."""
    # 0.5 s, and pictures of text on the screen are nobody's business here.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A dollar in a name or a choice begins no formula, and a letter that the font lacks is a box.
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = _figure(subject, Figure)
        FigureCanvasAgg(figure)
        figure.savefig(path, dpi=100)


def _figure(subject: ReportData, make: Any) -> Any:
    shades = figures.Shades.of(subject.history)
    names = list(subject.space)
    wide = 2 if len(names) == 4 else min(3, len(names))
    rows = math.ceil(len(names) / wide)
    height = 6.4 + 2.4 * rows
    # Margins in inches: matplotlib's own layouts take as long as all the drawing.
    figure = make(figsize=(11, height))
    figure.suptitle(f"{subject.title}\n{subject.headline}", fontsize=12, y=1 - 0.15 / height)
    grid = figure.add_gridspec(
        rows + 2,
        wide * 2,
        height_ratios=[1.3, *([1] * rows), 1.5],
        left=0.07,
        right=0.98,
        bottom=0.5 / height,
        top=1 - 0.75 / height,
        hspace=0.5,
        wspace=0.6,
    )
    _scores(figure.add_subplot(grid[0, :]), subject)
    if shades is not None:
        for index, name in enumerate(names):
            row, column = divmod(index, wide)
            # The last row is centred when it is not full.
            there = min(wide, len(names) - row * wide)
            left = 2 * column + (wide - there)
            _hparam(figure.add_subplot(grid[1 + row, left : left + 2]), subject, name, shades)
        _tree(figure.add_subplot(grid[-1, :]), subject, shades)
    return figure


def _colour(shade: int) -> Any:
    from matplotlib import colormaps

    # The last tenth of viridis is too light on white.
    return colormaps["viridis"](0.92 * shade / (figures.SHADES - 1))


def _bare(axes: Any, **labels: str) -> None:
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.01)


def _scores(axes: Any, subject: ReportData) -> None:
    members = figures.scores(subject.history)
    for points in members.values():
        axes.plot(*_columns(points), color=_FAINT, linewidth=0.7)
    lines = [("best", "mean", subject.history, (_BEST, _MEAN), ("-", "-"))]
    if subject.control is not None:
        control = subject.control.history
        lines.append(("control, best", "control, mean", control, (_CONTROL,) * 2, ("--", ":")))
    for best, mean, history, colours, styles in lines:
        curves = zip((best, mean), figures.best_and_mean(history), colours, styles, strict=True)
        for name, points, colour, style in curves:
            axes.plot(*_columns(points), style, color=colour, linewidth=2, label=name)
    for end in figures.stage_ends(subject.history):
        axes.axvline(end.trained, color=_FAINT, linewidth=1, linestyle=":")
    if spans_decades([point.value for points in members.values() for point in points]):
        axes.set_yscale("log")
    _bare(axes, xlabel="steps that a member has trained", ylabel="score")
    axes.legend(frameon=False, fontsize=8, ncols=4)


def _columns(points: list[figures.Point]) -> tuple[list[int], list[float]]:
    return [point.trained for point in points], [figures.drawn(point.value) for point in points]


def _hparam(axes: Any, subject: ReportData, name: str, shades: figures.Shades) -> None:
    from matplotlib.collections import LineCollection

    dist: Any = subject.space[name]

    def height(value: Any) -> float:
        if isinstance(dist, CategoricalDistribution):
            return index_of(value, dist)
        return figures.drawn(value)

    pieces = figures.stretches(subject.history, name, shades)
    lines = [[(s.start, height(s.value)), (s.end, height(s.value))] for s in pieces]
    axes.add_collection(LineCollection(lines, colors=[_colour(s.shade) for s in pieces]))
    for_winner = [
        (step, height(turn.plan.hparams[name]))
        for turn in subject.path
        for step in (turn.plan.start_step, turn.step)
    ]
    if for_winner:
        axes.plot(*zip(*for_winner, strict=True), color=_INK, linewidth=2)
    if isinstance(dist, CategoricalDistribution):
        axes.set_yticks(range(len(dist.choices)), [str(choice) for choice in dist.choices])
        axes.set_ylim(-0.5, len(dist.choices) - 0.5)
    elif dist.log:
        axes.set_yscale("log")
    axes.autoscale_view()
    _bare(axes, xlabel="step of the weights")
    axes.set_title(name, fontsize=10)


def _tree(axes: Any, subject: ReportData, shades: figures.Shades) -> None:
    from matplotlib.collections import LineCollection

    tree = lay_out(subject.history)
    lines, colours, styles = [], [], []
    for parent, child in tree.edges:
        copied = parent.member != child.member
        score = subject.history.turn(*child).score
        assert score is not None, "only turns that went well are in the tree"
        lines.append([tree.places[parent], tree.places[child]])
        colours.append(_CONTROL if copied else _colour(shades.shade(score)))
        styles.append("dotted" if copied else "solid")
    axes.add_collection(LineCollection(lines, colors=colours, linestyles=styles, linewidths=1.3))
    if path := subject.path:
        places = [tree.places[node] for node in [Node(path[0].member, 0), *map(node_of, path)]]
        axes.plot(*zip(*places, strict=True), color=_INK, linewidth=2)
    axes.autoscale_view()
    axes.invert_yaxis()
    axes.set_yticks([])
    _bare(axes, xlabel="step of the weights", ylabel="lines of descent")
    axes.set_title("family tree: the winner's path bold, copies dotted", fontsize=10)
