"""The report: one page that shows what a population did, to open in MLflow or from a disk.

Everything is inside the one file, plotly.js once and the numbers as JSON, so that it also draws
inside MLflow's sandboxed artifact view, without a network, and in ten years.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources

from pbt_flow.population.history import History, best_of_round
from pbt_flow.population.lineage import Node, founders, gifts
from pbt_flow.population.records import Direction
from pbt_flow.population.result import Result, effort_note
from pbt_flow.reporting import series as figures
from pbt_flow.reporting.plotly_charts import Chart, charts
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.utils.text import number, values

_BETTER: dict[Direction, str] = {"maximize": "greater", "minimize": "smaller"}
_SAME_BUDGET = ", which had the same budget"


def page(subject: ReportData) -> str:
    """The report as one HTML page."""
    shades = figures.Shades.of(subject.history)
    drawn = charts(subject, shades) if shades else {}
    return assemble(subject.title, _body(subject, shades), drawn)


def assemble(title: str, body: Iterable[str], charts: Mapping[str, Chart]) -> str:
    """One HTML page with everything in it; a chart is drawn into the element of its name."""
    template = resources.files("pbt_flow.reporting").joinpath("page.html").read_text("utf-8")
    plotly = resources.files("plotly").joinpath("package_data/plotly.min.js").read_text("utf-8")
    numbers = json.dumps(dict(charts), allow_nan=False, separators=(",", ":"))
    parts = {
        "@TITLE@": escape(title),
        "@BODY@": "\n".join(body),
        "@PLOTLY@": plotly,
        "@CHARTS@": numbers.replace("<", "\\u003c"),
    }
    # Cut at the marks, not replaced one by one: what is put in may itself look like a mark.
    page, rest = list[str](), template
    for mark, part in parts.items():
        before, rest = rest.split(mark)
        page += [before, part]
    return "".join([*page, rest])


def _body(subject: ReportData, shades: figures.Shades | None) -> Iterable[str]:
    result, settings = subject.result, subject.settings
    size, turns = len(subject.history.members), result.turns
    better = _BETTER[subject.history.direction]
    yield f"<header><p>{escape(subject.title)}</p>"
    yield f"<h1>{escape(subject.headline)}</h1>"
    yield (
        f"<p>{size} members, {turns} of {settings.all_turns} turns of {settings.interval} "
        f"steps, {result.status}; a {better} score is better{_of_report(result)}. "
        f"Population <code>{escape(result.run_id)}</code></p></header>"
    )
    if settings.stage_plan is not None:
        yield f"<p>{escape(_sentence(settings.stage_plan.describe()))}</p>"
    yield from _warnings(subject)
    yield from _cards(subject)
    if shades is None:
        yield "<section><p>No turn has gone well yet, so there is nothing to draw.</p></section>"
        return
    yield "<section><h2>Scores</h2><p>What selection goes by: each member is a faint line."
    if settings.stage_plan is not None:
        yield "At a dotted line a stage ends, and as many members leave as stand there; a mean is"
        yield "that of the members which are left, all of one age."
    if subject.control is not None:
        note = effort_note(result, subject.control)
        yield f"The broken lines are the control{f': {note}' if note else _SAME_BUDGET}."
    yield '</p><div class="chart" id="scores"></div></section>'
    yield (
        "<section><h2>Hyperparameters</h2><p>Each piece of a line is one turn's value, over the "
        "step of the weights that it trained. The bold line is the winner's schedule: what "
        "<code>schedule.json</code> holds and "
        f"<code>python -m pbt_flow replay {escape(result.run_id)}</code> trains again.</p>"
    )
    yield _legend(shades)
    yield '<div class="grid">'
    for index, name in enumerate(subject.space):
        yield f'<div><h3>{escape(name)}</h3><div class="chart" id="hparam-{index}"></div></div>'
    yield "</div></section>"
    yield (
        "<section><h2>Family tree</h2><p>Lines of descent from the founders, on the left, to the "
        "present members. A line that ends early was given up for a copy of a better one"
        f"{', or left at the end of a stage' if settings.stage_plan is not None else ''}.</p>"
    )
    yield _legend(shades, tree=True)
    yield '<div class="chart" id="tree"></div></section>'
    yield from _pictures(subject)
    yield (
        '<section class="grid"><div><h2>Founders</h2><p class="how">The share of the population '
        'that descends from each.</p><div class="chart" id="founders"></div></div>'
    )
    yield (
        '<div><h2>Time</h2><p class="how">Where the workers\' time went. What is lost are turns '
        'that came to nothing.</p><div class="chart" id="time"></div></div></section>'
    )
    yield "<section><h2>Members</h2><p>Best first; a click on a column sorts by it.</p>"
    yield from _table(subject)
    yield "</section>"
    yield from _understood(subject)


def _of_report(result: Result) -> str:
    """Which way the headline of the report is better, as far as that is known."""
    metric = next(iter(result.winner.report), "") if result.winner else ""
    better = result.report_better(metric) if metric else None
    return f", and a {_BETTER[better]} {escape(metric)} of the report" if better else ""


def _share(result: Result) -> str:
    """How much of a member's budget the winner's weights have trained, where it is not all."""
    share = result.winner_share
    if share is None or share == 1 or result.budget is None:
        return ""
    return f", {share:.4g} times the {result.budget:,} that a member was given"


def _warnings(subject: ReportData) -> Iterable[str]:
    warnings = dict(subject.warnings)
    for what, one in (("budget", subject.result), ("budget of the control", subject.control)):
        if one is not None and one.is_over_budget:
            warnings[what] = one.budget_note
    if not warnings:
        return
    yield '<div class="warnings" role="alert">'
    for name, text in sorted(warnings.items()):
        yield f"<p><b>{escape(name)}</b>: {escape(text)}</p>"
    yield "</div>"


def _understood(subject: ReportData) -> Iterable[str]:
    if not subject.understood:
        return
    yield "<section><h2>What the task understood</h2>"
    for topic, sentence in sorted(subject.understood.items()):
        yield f"<p><b>{escape(topic)}</b>: {escape(sentence)}</p>"
    yield "</section>"


def _cards(subject: ReportData) -> Iterable[str]:
    result = subject.result
    cards: list[tuple[str, str, str]] = []
    finalists = [("winner", result.winner, _share(result))]
    if result.has_copies:
        chosen = f", {result.fate}; the best of {result.initial_scores} scores on the way"
        finalists.append(("best initial setting", result.best_initial, chosen))
    if subject.control is not None:
        control = subject.control
        finalists.append(("winner of the control", control.winner, _share(control)))
    for what, one, more in finalists:
        if one is None:
            continue
        report = f"; report {values(one.report)}" if one.report else ""
        if one.fresh is not None:
            report = f"; on data that no decision has seen {one.fresh}{report}"
        where = f"member {one.member:02d}, turn {one.turn}, step {one.step:,}{more}{report}"
        cards.append((number(one.score), f"score of the {what}", where))
    average = result.average
    if average is not None and average.fresh is not None:
        report = f"; report {values(average.report)}" if average.report else ""
        where = f"handed over in place of the winner; of {average.parents_told}{report}"
        what = f"fresh score of the average of {len(average.parents)} finalists"
        cards.append((number(average.fresh.mean), what, where))
    if not math.isnan(result.mean_score):
        more = "of what the members stand on"
        if result.left:
            more = f"of what the {result.members - result.left} members stand on that are left"
        if subject.control is not None:
            more += f"; the control's {number(subject.control.mean_score)}"
            more += ", of all its members" if result.left else ""
        cards.append((number(result.mean_score), "mean score", more))
    copies = figures.copies(subject.history)
    alive = sum(1 for share in figures.shares(subject.history, 10**6).values() if share[-1])
    have = "has" if alive == 1 else "have"
    founders_left = f"{alive} of {result.members} founders {have} descendants"
    cards.append((str(copies), "copies", founders_left))
    yield '<div class="cards">'
    for index, (value, what, more) in enumerate(cards):
        first = " first" if index == 0 else ""
        yield (
            f'<div class="card{first}"><span>{escape(what)}</span><b>{escape(value)}</b>'
            f"<span>{escape(more)}</span></div>"
        )
    yield "</div>"


def _pictures(subject: ReportData) -> Iterable[str]:
    if not subject.pictures:
        return
    yield "<section><h2>Samples</h2><p>What the best member shows after each round.</p>"
    yield '<div class="pictures">'
    for which, picture in sorted(subject.pictures.items()):
        best = best_of_round(subject.history, which)
        caption = f"round {which}: member {best.member:02d}, score {number(best.score)}"
        data = base64.b64encode(picture).decode()
        yield (
            f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    yield "</div></section>"


def _legend(shades: figures.Shades, *, tree: bool = False) -> str:
    worst, median, best = (number(value) for value in shades.ends)
    bar = "".join(f'<u style="background:var(--v{n})"></u>' for n in range(figures.SHADES))
    text = f'<div class="legend">score {worst}<i>{bar}</i>{best} (median {median})'
    text += "<em></em>the winner's path"
    if tree:
        text += '<em class="copy"></em>a copy'
        text += '<span style="color:var(--bad);margin-left:14px">✕</span>a turn that failed'
    return text + "</div>"


def _table(subject: ReportData) -> Iterable[str]:
    history, settings, space = subject.history, subject.settings, subject.space
    gave, of = gifts(history), founders(history)
    heads = ["member", "score", "turns", "step", "founder", "copied", "was copied", "failures"]
    if history.stages is not None:
        heads.append("left after stage")
    yield '<div class="table"><table><thead><tr>'
    yield "".join(f"<th>{escape(name)}</th>" for name in [*heads, *space]) + "</tr></thead><tbody>"
    sign = 1 if history.direction == "maximize" else -1
    best_first = sorted(
        history.members.values(),
        key=lambda m: (
            # Who has left is younger: its score says little beside those of the others.
            history.left.get(m.index, math.inf),
            -math.inf if m.score is None else sign * m.score,
            -m.index,
        ),
        reverse=True,
    )
    winner = history.winner()
    for member in best_first:
        turns = history.turns.get(member.index, [])
        row = [
            f"{member.index:02d}",
            number(member.score),
            str(member.turn),
            str(member.step),
            f"{of[Node(member.index, member.turn)]:02d}",
            str(sum(turn.plan.donor is not None for turn in turns)),
            str(gave[member.index]),
            str(sum(not turn.ok for turn in turns)),
            *([_left(member.index, history)] if history.stages is not None else []),
            *(number(member.hparams[name]) for name in space),
        ]
        kind = ""
        if winner is not None and winner.member == member.index:
            kind = ' class="winner"'
        elif member.index in history.left:
            kind = ' class="left" title="left at the end of a stage"'
        elif member.failures >= settings.max_failures:
            kind = ' class="retired" title="failed too often and was retired"'
        key = "" if member.score is None else f' data-key="{member.score!r}"'
        cells = [
            f"<td{key if index == 1 else ''}>{escape(cell)}</td>" for index, cell in enumerate(row)
        ]
        yield f"<tr{kind}>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _left(member: int, history: History) -> str:
    """The stage at whose end a member has left, from 1; empty where it has not."""
    return str(history.left[member] + 1) if member in history.left else ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
