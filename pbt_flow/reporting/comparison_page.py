"""A comparison of methods as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from pbt_flow.reporting.comparable import MEASURES
from pbt_flow.reporting.comparison import Comparison
from pbt_flow.reporting.html_text import prose
from pbt_flow.reporting.page import assemble
from pbt_flow.reporting.plotly_charts import Chart, frame, line
from pbt_flow.reporting.series import best_and_mean
from pbt_flow.utils.means import mean
from pbt_flow.utils.text import number

_COLOURS = ("var(--best)", "var(--mean)", "var(--f2)", "var(--f3)", "var(--f4)")


def page(comparison: Comparison) -> str:
    """The comparison as one HTML page."""
    entry = comparison.methods[comparison.baseline][0]
    place, _, attribute = entry.settings.task.partition(":")
    task = attribute if place == "__main__" else Path(place).stem
    return assemble(f"{task}: methods compared", _body(comparison), _charts(comparison))


def _body(comparison: Comparison) -> Iterator[str]:
    base = comparison.baseline
    yield "<header><h1>What each method came to</h1>"
    alike = "The same task and budget" if comparison.is_equal else "The same task"
    yield f"<p>{alike}, paired by seed. Each population is a faint line, the mean of a "
    yield f"method bold. The baseline of all differences, {escape(base)}, has broken lines.</p>"
    yield "</header>"
    warnings = comparison.warnings()
    if warnings:
        yield '<div class="warnings" role="alert">'
        yield "".join(f"<p><b>warning</b>: {prose(text)}</p>" for text in warnings) + "</div>"
    yield '<div class="cards">'
    for method, gains in comparison.gains().items():
        for measure in gains:
            mean, spread, ahead = comparison.describe_difference(method, measure)
            title = comparison.title_of(measure)
            if comparison.better_direction(measure) is None:
                label = f"{method} minus {base}, {title}"
            else:
                label = f"{method}, {title}, better by"
            yield f'<div class="card"><span>{escape(label)}</span>'
            yield f"<b>{mean}</b><span>{prose(spread)}; {ahead}</span></div>"
    yield "</div>"
    notes = comparison.notes()
    if notes:
        sentences = "".join(f"<p>{escape(text[:1].upper() + text[1:])}.</p>" for text in notes)
        yield f"<section><h2>How far to trust it</h2>{sentences}</section>"
    for measure in ("mean", "best"):
        told = f"The {measure} score of each population over steps, a line for each method. "
        told += "The numbers at the end are in the table of populations."
        yield f"<section><h2>{measure.capitalize()} of the population</h2>"
        yield f'<div class="chart" id="{measure}" role="img" aria-label="{told}"></div></section>'
    yield "<section><h2>Populations</h2>"
    heads = ["method", "seed", "population", *map(comparison.title_of, MEASURES)]
    heads += ["turns", "winner's step", "share of its budget"]
    yield '<div class="table" tabindex="0" role="region" aria-label="Populations">'
    yield "<table><thead><tr>"
    # A column is sorted by a button, which the keyboard reaches and a screen reader names.
    yield "".join(
        f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in heads
    )
    yield "</tr></thead><tbody>"
    numbers = [*MEASURES, "turns", "winner_step", "winner_step_over_budget"]
    for plain in comparison.to_json()["populations"]:
        row = [plain["method"], str(plain["seed"]), plain["population"]]
        row += ["" if plain[name] is None else number(plain[name]) for name in numbers]
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div></section>"


def _charts(comparison: Comparison) -> dict[str, Chart]:
    """Mean and best score of each population, faint, and of each method, bold."""
    return {name: _chart(comparison, index) for index, name in enumerate(("best", "mean"))}


def _chart(comparison: Comparison, which: int) -> Chart:
    """The chart of the best scores, `which` = 0, or of the mean scores, `which` = 1."""
    data: list[Chart] = []
    for index, (method, populations) in enumerate(comparison.methods.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        curves = [best_and_mean(entry.result.history)[which] for entry in populations]
        # A single curve is the method's mean already.
        if len(curves) > 1:
            for curve in curves:
                data.append(line(curve, method, colour, width=1, opacity=0.4, showlegend=False))
        length = min(map(len, curves))
        mean_curve = []
        for points in zip(*(curve[:length] for curve in curves), strict=True):
            value = mean(point.value for point in points)
            mean_curve.append(points[0]._replace(value=value))
        dash = "dash" if method == comparison.baseline else ""
        data.append(line(mean_curve, method, colour, width=3, dash=dash))
    axes = frame(380, x="steps that a member has trained", y="score", yaxis={})
    return {"data": data, "layout": axes}
