"""The summary picture: the report's main charts as one PNG, for a talk or a README."""

from __future__ import annotations

import functools
import io
import math
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution

from pbt_flow.population.lineage import Node, node_of
from pbt_flow.reporting import series
from pbt_flow.reporting.plotly_charts import spans_decades
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.reporting.tree_layout import lay_out
from pbt_flow.space import index_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLE_LETTERS = 115
"""So many letters of the title have room beside each other."""
_BEST, _MEAN, _CONTROL, _FAINT, _INK = "#0072b2", "#d55e00", "#7a8794", "#7d8a9888", "#17202a"


def draw(subject: ReportData, path: Path) -> None:
    """Draw scores, hyperparameters and the family tree into the file `path`."""
    _save(figure(subject), path)


def figure(subject: ReportData) -> Figure:
    """Draw scores, hyperparameters and the family tree, as a figure that a notebook shows."""
    # Imported here, since matplotlib takes 0.5 s. Not pyplot, which might open a window.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class ReportFigure(Figure):
        """A figure that shows itself: a notebook shows only those of pyplot by itself."""

        def _repr_png_(self) -> bytes:
            image = io.BytesIO()
            _save(self, image)
            return image.getvalue()

    made: Figure = _make_figure(subject, ReportFigure)
    FigureCanvasAgg(made)
    return made


def _save(figure: Figure, to: Path | io.BytesIO) -> None:
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box; the user need not hear of it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(to, dpi=100)


def _make_figure(subject: ReportData, figure_class: Any) -> Any:
    shades = series.Shades.of(subject.history)
    names = list(subject.space)
    # Four charts look better as two rows of two than as three and one.
    columns = 2 if len(names) == 4 else min(3, len(names))
    rows = math.ceil(len(names) / columns)
    title = textwrap.wrap(subject.title, _TITLE_LETTERS)
    title += textwrap.wrap(subject.headline, _TITLE_LETTERS)
    # Two lines have room above the charts.
    extra = 0.2 * max(0, len(title) - 2)
    height = 6.4 + 2.4 * rows + extra
    # The margins are set by hand, in inches: matplotlib's automatic layouts would take as long as
    # all the drawing.
    figure = figure_class(figsize=(11, height))
    figure.suptitle(_without_math("\n".join(title)), fontsize=12, y=1 - 0.15 / height)
    grid = figure.add_gridspec(
        rows + 2,
        # Two columns of the grid for each chart, so that a short row can be centred.
        columns * 2,
        height_ratios=[1.3, *([1] * rows), 1.5],
        left=0.07,
        right=0.98,
        bottom=0.5 / height,
        top=1 - (0.75 + extra) / height,
        hspace=0.5,
        wspace=0.6,
    )
    _draw_scores(figure.add_subplot(grid[0, :]), subject)
    if shades is not None:
        for index, name in enumerate(names):
            row, column = divmod(index, columns)
            # The last row is centred if it is not full.
            charts_in_row = min(columns, len(names) - row * columns)
            left = 2 * column + (columns - charts_in_row)
            axes = figure.add_subplot(grid[1 + row, left : left + 2])
            _draw_hparam(axes, subject, name, shades)
        _draw_tree(figure.add_subplot(grid[-1, :]), subject, shades)
    return figure


def _without_math(text: str) -> str:
    """A text as matplotlib shows it letter for letter: a dollar in a name begins no formula.

    Formulas cannot be switched off for all: the powers of ten on an axis are some.
    """
    return text.replace("$", r"\$")


@functools.cache
def _colour(shade: int) -> Any:
    from matplotlib import colormaps

    # The last tenth of viridis is too light on white.
    return colormaps["viridis"](0.92 * shade / (series.SHADES - 1))


def _style_axes(axes: Any, **labels: str) -> None:
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.01)


def _draw_scores(axes: Any, subject: ReportData) -> None:
    scores: list[float] = []
    for points in series.scores(subject.history).values():
        axes.plot(*_coordinates(points), color=_FAINT, linewidth=0.7)
        scores += [point.value for point in points]
    best, mean = series.best_and_mean(subject.history)
    lines = [("best", best, _BEST, "-"), ("mean", mean, _MEAN, "-")]
    if subject.control is not None:
        best, mean = series.best_and_mean(subject.control.history)
        lines.append(("control, best", best, _CONTROL, "--"))
        lines.append(("control, mean", mean, _CONTROL, ":"))
    for name, points, colour, style in lines:
        axes.plot(*_coordinates(points), style, color=colour, linewidth=2, label=name)
    for end in series.stage_ends(subject.history):
        axes.axvline(end.trained, color=_FAINT, linewidth=1, linestyle=":")
    if spans_decades(scores):
        axes.set_yscale("log")
    _style_axes(axes, xlabel="steps that a member has trained", ylabel="score")
    axes.legend(frameon=False, fontsize=8, ncols=4)


def _coordinates(points: list[series.Point]) -> tuple[list[int], list[float]]:
    return [point.trained for point in points], [
        series.within_axis(point.value) for point in points
    ]


def _draw_hparam(axes: Any, subject: ReportData, name: str, shades: series.Shades) -> None:
    from matplotlib.collections import LineCollection

    dist: Any = subject.space[name]

    def height(value: Any) -> float:
        if isinstance(dist, CategoricalDistribution):
            return index_of(value, dist)
        return series.within_axis(value)

    lines, colours = [], []
    for stretch in series.stretches(subject.history, name, shades):
        place = height(stretch.value)
        lines.append([(stretch.start, place), (stretch.end, place)])
        colours.append(_colour(stretch.shade))
    axes.add_collection(LineCollection(lines, colors=colours))
    winners_steps: list[int] = []
    winners_values: list[float] = []
    for turn in subject.path:
        winners_steps += [turn.plan.start_step, turn.step]
        winners_values += [height(turn.plan.hparams[name])] * 2
    if winners_steps:
        axes.plot(winners_steps, winners_values, color=_INK, linewidth=2)
    if isinstance(dist, CategoricalDistribution):
        axes.set_yticks(
            range(len(dist.choices)), [_without_math(str(choice)) for choice in dist.choices]
        )
        axes.set_ylim(-0.5, len(dist.choices) - 0.5)
    elif dist.log:
        axes.set_yscale("log")
    axes.autoscale_view()
    _style_axes(axes, xlabel="step of the weights")
    axes.set_title(_without_math(name), fontsize=10)


def _draw_tree(axes: Any, subject: ReportData, shades: series.Shades) -> None:
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
    path = subject.path
    if path:
        places = [tree.places[node] for node in [Node(path[0].member, 0), *map(node_of, path)]]
        axes.plot(*zip(*places, strict=True), color=_INK, linewidth=2)
    axes.autoscale_view()
    axes.invert_yaxis()
    axes.set_yticks([])
    _style_axes(axes, xlabel="step of the weights", ylabel="lines of descent")
    axes.set_title("family tree: the winner's path bold, copies dotted", fontsize=10)
