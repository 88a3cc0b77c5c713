"""The report: one HTML page that shows what a population did, to open in MLflow or from a disk.

The one file holds everything, plotly.js and the numbers as JSON. So the page also works inside
MLflow's sandboxed artifact view, without a network, and in ten years.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from html import escape
from importlib import resources
from typing import Any

from pbt_flow.population.averages import averages_told
from pbt_flow.population.history import History, best_of_round
from pbt_flow.population.lineage import Node, count_copies, founders
from pbt_flow.population.records import Direction, Member, Turn
from pbt_flow.population.result import Result, effort_note
from pbt_flow.reporting import series
from pbt_flow.reporting.chart_words import ChartWords, chart_words
from pbt_flow.reporting.html_text import prose
from pbt_flow.reporting.plotly_charts import MOST_FOUNDERS, Chart, charts
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.utils.text import counted, duration, number, values

_CROWD = 24
"""With more members than this, the page opens with all but the winner's line faded."""
_BETTER: dict[Direction, str] = {"maximize": "greater", "minimize": "smaller"}


def page(subject: ReportData) -> str:
    """The report as one HTML page."""
    shades = series.Shades.of(subject.history)
    drawn = charts(subject, shades) if shades else {}
    return assemble(subject.title, _body(subject, shades), drawn)


def live_page(subject: ReportData, picture: bytes) -> str:
    """The report while a population trains: the same numbers, and its charts as one picture.

    The library that draws charts is 4.8 MB, and this page is sent anew each minute.

    Args:
        subject: The population so far.
        picture: The picture of its charts, as a PNG.
    """
    return assemble(subject.title, _live_body(subject, picture), {})


def _live_body(subject: ReportData, picture: bytes) -> Iterable[str]:
    shades = series.Shades.of(subject.history)
    yield from _head(subject)
    yield "<section><h2>So far</h2><p>The population is training, and this page is made anew each "
    yield "minute at most. The report with charts to point at is there when it has ended, and at "
    run_id = escape(subject.result.run_id)
    yield f"any time by <code>python -m pbt_flow report {run_id} --out FOLDER</code>.</p>"
    told = chart_words(subject, MOST_FOUNDERS) if shades is not None else {}
    alternative = escape(" ".join(one.sentence for one in told.values()))
    data = base64.b64encode(picture).decode()
    yield f'<img class="picture" alt="{alternative}" src="data:image/png;base64,{data}"></section>'
    yield from _members(subject)
    yield from _understood(subject)
    yield from _made_with(subject)


def assemble(title: str, body: Iterable[str], charts: Mapping[str, Chart]) -> str:
    """One HTML page with everything in it.

    Args:
        title: The title of the page, as plain text.
        body: The HTML between the page's head and its scripts.
        charts: The charts, by the id of the element that each is drawn into; without any, the page
            does not hold the library that draws them.
    """
    template = resources.files("pbt_flow.reporting").joinpath("page.html").read_text("utf-8")
    library = resources.files("plotly").joinpath("package_data/plotly.min.js")
    plotly = library.read_text("utf-8") if charts else ""
    numbers = json.dumps(dict(charts), allow_nan=False, separators=(",", ":"))
    parts = {
        "@TITLE@": escape(title),
        "@BODY@": "\n".join(body),
        "@PLOTLY@": plotly,
        # The numbers stand inside a script: a `</script>` in a name would end it.
        "@CHARTS@": numbers.replace("<", "\\u003c"),
    }
    # The template is cut at the marks. If the marks were replaced one by one, a title or a name
    # that looks like a mark would be replaced too.
    page, rest = list[str](), template
    for mark, part in parts.items():
        before, rest = rest.split(mark)
        page += [before, part]
    return "".join([*page, rest])


def _head(subject: ReportData) -> Iterable[str]:
    """What stands above the charts."""
    result, settings = subject.result, subject.settings
    size, turns = len(subject.history.members), result.turns
    better = _BETTER[subject.history.direction]
    yield f"<header><p>{escape(subject.title)}</p>"
    yield f"<h1>{prose(subject.headline)}</h1>"
    yield (
        f"<p>{size} members, {turns} of {settings.all_turns} turns of "
        f"{counted(settings.interval, 'step')}, {result.status}; a {better} score is "
        f"better{_better_report(result)}. "
        f"Population {_run(subject, result.run_id)}</p></header>"
    )
    for sentence in settings.describe_members():
        yield f"<p>{prose(_sentence(sentence))}</p>"
    yield from _cards(subject)
    yield from _averages(subject)
    yield from _warnings(subject)


def _body(subject: ReportData, shades: series.Shades | None) -> Iterable[str]:
    result, settings = subject.result, subject.settings
    size = len(subject.history.members)
    yield from _head(subject)
    if shades is None:
        yield "<section><p>No turn has gone well yet, so there is nothing to draw.</p></section>"
        return
    words = chart_words(subject, MOST_FOUNDERS)
    yield "<section><h2>Scores</h2><p>What selection goes by: each member is a faint line."
    if settings.stage_plan is not None:
        yield "A stage ends at each dotted line, with the number of members that leave; the mean is"
        yield "over the members that are left, all of one age."
    if subject.control is not None:
        note = effort_note(result, subject.control)
        budget = f": {note}" if note else ", which had the same budget"
        yield f"The broken lines are the control{budget}."
    yield f"</p>{_fade_switch(size)}{_chart('scores', words)}</section>"
    yield (
        "<section><h2>Hyperparameters</h2><p>Each piece of a line is one turn's value, over the "
        "step of the weights that it trained. The bold line is the winner's schedule: what "
        "<code>schedule.json</code> holds and "
        f"<code>python -m pbt_flow replay {escape(result.run_id)}</code> trains again.</p>"
    )
    yield _legend(shades) + _fade_switch(size)
    yield '<div class="grid">'
    for index, name in enumerate(subject.space):
        chart = _chart(f"hparam-{index}", words)
        yield f"<div><h3>{escape(name)}</h3>{chart}</div>"
    yield "</div></section>"
    yield (
        "<section><h2>Family tree</h2><p>Lines of descent from the founders, on the left, to the "
        "present members. A line that ends early was given up for a copy of a better one"
        f"{', or left at the end of a stage' if settings.stage_plan is not None else ''}.</p>"
    )
    yield _legend(shades, tree=True) + _fade_switch(size)
    yield f"{_chart('tree', words)}</section>"
    yield from _pictures(subject)
    yield (
        '<section class="grid"><div><h2>Founders</h2><p class="how">The share of the population '
        f"that descends from each.</p>{_chart('founders', words)}</div>"
    )
    yield (
        '<div><h2>Time</h2><p class="how">Where the workers\' time went. The time of turns that '
        f"failed is lost.</p>{_chart('time', words)}</div></section>"
    )
    yield from _members(subject)
    yield from _understood(subject)
    yield from _made_with(subject)


def _members(subject: ReportData) -> Iterable[str]:
    yield '<section><h2>Members</h2><p>Best first<span class="sorts">; a click on a column sorts '
    yield 'by it</span>. <button type="button" id="csv">Save as CSV</button></p>'
    winner = subject.history.winner()
    if winner is not None and not _stands_on(subject.history, winner):
        yield (
            f"<p>A row is what a member stands on now. Member {winner.member:02d} won by its turn "
            f"{winner.number}, whose values are above, and has trained on since.</p>"
        )
    yield from _table(subject)
    yield "</section>"


def _chart(chart_id: str, words: Mapping[str, ChartWords]) -> str:
    """Where a chart is drawn, and the same in words and numbers for whom it shows nothing."""
    told = words[chart_id]
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in told.head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in told.rows
    )
    return (
        f'<div class="chart" id="{chart_id}" role="img" aria-label="{escape(told.sentence)}"></div>'
        f'<details class="words"><summary>in words and numbers</summary>'
        f'<p>{prose(told.sentence)}</p><div class="scroll" tabindex="0" role="region" '
        f'aria-label="Numbers: {escape(told.sentence)}"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _fade_switch(members: int) -> str:
    """The switch that leaves the winner's line alone; all switches of a page go together."""
    checked = " checked" if members > _CROWD else ""
    return (
        f'<label class="switch"><input type="checkbox" class="fade"{checked}> fade all but the '
        "winner's line</label>"
    )


def _run(subject: ReportData, run_id: str, text: str = "") -> str:
    """A run by its id or by another text, as a link where a server shows it."""
    shown = f"<code>{escape(run_id)}</code>" if not text else escape(text)
    if not subject.runs_address:
        return f'<span title="run {escape(run_id)}">{shown}</span>' if text else shown
    # The page is shown in a frame of MLflow's UI, which must not open itself once more in there.
    address = escape(f"{subject.runs_address}/{run_id}")
    return f'<a href="{address}" target="_blank" rel="noopener">{shown}</a>'


def _better_report(result: Result) -> str:
    """The direction in which the headline of the report is better; empty if it is not known."""
    metric = next(iter(result.winner.report), "") if result.winner else ""
    better = result.report_better(metric) if metric else None
    return f", and a {_BETTER[better]} {escape(metric)} of the report" if better else ""


def _budget_share(result: Result) -> str:
    """The share of a member's budget that the winner's weights have trained; empty if it is 1."""
    share = result.winner_share
    if share is None or share == 1 or result.budget is None:
        return ""
    return f", {share:.4g} times the {result.budget:,} that a member was given"


def _warnings(subject: ReportData) -> Iterable[str]:
    warnings = dict(subject.warnings)
    results = {"budget": subject.result, "budget of the control": subject.control}
    for name, result in results.items():
        if result is not None and result.is_over_budget:
            warnings[name] = result.budget_note
    if not warnings:
        return
    yield '<div class="warnings" role="alert">'
    for name, text in sorted(warnings.items()):
        yield f"<p><b>{escape(name)}</b>: {prose(text)}</p>"
    yield "</div>"


def _understood(subject: ReportData) -> Iterable[str]:
    if not subject.understood:
        return
    yield "<section><h2>What the task understood</h2>"
    for topic, sentence in sorted(subject.understood.items()):
        yield f"<p><b>{escape(topic)}</b>: {prose(sentence)}</p>"
    yield "</section>"


def _made_with(subject: ReportData) -> Iterable[str]:
    """The settings, the versions and the times: what somebody needs who wants to train it again."""
    settings = subject.settings
    told: dict[str, Any] = {}
    for name, value in settings.to_json().items():
        if name not in ("options", "initial") and value not in (None, "", [], {}):
            told[name] = value
    told |= {f"option {name}": value for name, value in settings.options.items()}
    told |= {f"version of {name}": version for name, version in subject.versions.items()}
    turns = [turn for own in subject.history.turns.values() for turn in own]
    if turns:
        began, ended = min(turn.started for turn in turns), max(turn.ended for turn in turns)
        told["first turn began"] = _moment(began)
        told["last turn ended"] = f"{_moment(ended)}, {duration(ended - began)} later"
    yield "<section><details><summary><h2>Settings and versions</h2></summary><dl>"
    for name, value in told.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(number(value))}</dd>"
    yield "</dl></details></section>"


def _moment(seconds: float) -> str:
    """A moment as a date and a time of the day, which all readers read alike."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _cards(subject: ReportData) -> Iterable[str]:
    """The cards above the charts: each has a large number, a title and an explanation."""
    result, control = subject.result, subject.control
    finalists = [("winner", result.winner, _budget_share(result))]
    if result.has_copies:
        chosen = f", {result.fate}; the best of {result.initial_scores} scores on the way"
        finalists.append(("best initial setting", result.best_initial, chosen))
    if control is not None:
        finalists.append(("winner of the control", control.winner, _budget_share(control)))
    cards: list[tuple[str, str, str]] = []
    for name, finalist, more in finalists:
        if finalist is None:
            continue
        place = f"member {finalist.member:02d}, turn {finalist.turn}, step {finalist.step:,}{more}"
        if finalist.fresh is not None:
            place += f"; on data that no decision has seen {finalist.fresh}"
        if finalist.report:
            place += f"; report {values(finalist.report)}"
        cards.append((number(finalist.score), f"score of the {name}", place))
    average = result.average
    if average is not None:
        kind = "score" if average.fresh is None else "fresh score"
        title = f"{kind} of the average of {len(average.parents)} finalists"
        explanation = f"handed over in place of the winner; of {average.parents_told}"
        if average.report:
            explanation += f"; report {values(average.report)}"
        if metric := result.better_alone:
            explanation += (
                f", whose {metric} is worse than the winner's own: it was chosen by its score, on "
                "other data"
            )
        cards.append((number(average.score), title, explanation))
    if not math.isnan(result.mean_score):
        explanation = "of what the members stand on"
        if result.left:
            remaining = result.members - result.left
            explanation = f"of what the {remaining} members stand on that are left"
        if control is not None:
            explanation += f"; the control's {number(control.mean_score)}"
            if result.left:
                explanation += ", of all its members"
        cards.append((number(result.mean_score), "mean score", explanation))
    survivors = series.surviving_founders(subject.history, subject.settings.max_failures)
    have = "has" if len(survivors) == 1 else "have"
    descendants = f"{len(survivors)} of {result.members} founders {have} descendants"
    cards.append((str(series.copies(subject.history)), "copies", descendants))
    if told := _two_numbers(result):
        yield f'<p class="how">{prose(told)}</p>'
    yield '<div class="cards">'
    for index, (value, title, explanation) in enumerate(cards):
        # The first card has a coloured edge.
        first = " first" if index == 0 else ""
        yield (
            f'<div class="card{first}"><span>{escape(title)}</span><b>{escape(value)}</b>'
            f"<span>{prose(explanation)}</span></div>"
        )
    yield "</div>"


def _averages(subject: ReportData) -> Iterable[str]:
    """What averages bring, beside the control if there is one; nothing where none was made."""
    told = {"this population": list(averages_told(subject.result))}
    if subject.control is not None:
        told["its control"] = list(averages_told(subject.control))
    if not any(told.values()):
        return
    yield (
        "<section><h2>What averaging brings</h2><p>The mean of the winner's own last checkpoints "
        "needs no population. What the mean of finalists of several members has over it is what "
        "averaging across members brings. The scores of averages are on data that no choice has "
        "seen, where the task has any, and the reports on data that selection never saw.</p>"
    )
    yield '<div class="scroll" tabindex="0" role="region" aria-label="Averages">'
    yield "<table><thead><tr><th>model</th><th>score</th><th>report</th></tr></thead><tbody>"
    for whose, rows in told.items():
        for name, finalist in rows:
            score = finalist.score if finalist.fresh is None else finalist.fresh.mean
            of = f" ({whose})" if len(told) > 1 else ""
            yield (
                f"<tr><td>{escape(name + of)}</td><td>{escape(number(score))}</td>"
                f"<td>{escape(values(finalist.report))}</td></tr>"
            )
    yield "</tbody></table></div></section>"


def _two_numbers(result: Result) -> str:
    """Why the winner has another number in the headline than on its card; empty if it has one."""
    best = result.best
    if best is None or not best.report or [*best.report.values()] == [best.score]:
        return ""
    metric = next(iter(best.report))
    return (
        f"The headline quotes {metric}, the first metric of the report, which the task measures on "
        "data that no selection has seen. A score is what selection went by: the greatest of many "
        "noisy ones, it flatters the winner."
    )


def _pictures(subject: ReportData) -> Iterable[str]:
    if not subject.pictures:
        return
    yield "<section><h2>Samples</h2><p>What the best member shows after each round.</p>"
    yield '<div class="pictures">'
    for round_number, picture in sorted(subject.pictures.items()):
        best = best_of_round(subject.history, round_number)
        caption = f"round {round_number}: member {best.member:02d}, score {number(best.score)}"
        # Inside the page, since a page in MLflow's artifact view cannot load other files.
        data = base64.b64encode(picture).decode()
        yield (
            f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    yield "</div></section>"


def _legend(shades: series.Shades, *, tree: bool = False) -> str:
    """The legend of the colours for scores; for the family tree, of its marks as well."""
    worst, median, best = (number(value) for value in shades.ends)
    colours = [f'<u style="background:var(--v{shade})"></u>' for shade in range(series.SHADES)]
    scale = f"score {worst}<i>{''.join(colours)}</i>{best} (median {median})"
    text = f'<div class="legend"><span class="scale">{scale}</span>'
    text += "<span><em></em>the winner's path</span>"
    if tree:
        text += '<span><em class="copy"></em>a copy</span>'
        text += '<span><b style="color:var(--bad)">✕</b> a turn that failed</span>'
    return text + "</div>"


def _table(subject: ReportData) -> Iterable[str]:
    """The table of the members, the best first."""
    history, settings, space = subject.history, subject.settings, subject.space
    gave, founder_of = count_copies(history), founders(history)
    heads = ["member", "score", "turns", "step", "founder", "copied", "was copied", "failures"]
    has_groups = len(history.group_sizes) > 1
    if has_groups:
        heads.append("group")
    if history.stages is not None:
        heads.append("left after stage")
    # A column is sorted by a button, which the keyboard reaches and a screen reader names.
    columns = (
        f'<th scope="col"><button type="button">{escape(name)}</button></th>'
        for name in [*heads, *space]
    )
    yield '<div class="table" tabindex="0" role="region" aria-label="Members">'
    yield '<table id="members"><thead><tr>'
    yield "".join(columns) + "</tr></thead><tbody>"
    sign = 1 if history.direction == "maximize" else -1

    def rank(member: Member) -> tuple[float, float, int]:
        # A member that has left is younger: its score says little beside those of the others.
        stage = history.left.get(member.index, math.inf)
        fitness = -math.inf if member.score is None else sign * member.score
        return stage, fitness, -member.index

    winner = history.winner()
    for member in sorted(history.members.values(), key=rank, reverse=True):
        turns = history.turns.get(member.index, [])
        row = [
            f"{member.index:02d}",
            number(member.score),
            str(member.turn),
            str(member.step),
            f"{founder_of[Node(member.index, member.turn)]:02d}",
            str(sum(turn.plan.donor is not None for turn in turns)),
            str(gave[member.index]),
            str(sum(not turn.ok for turn in turns)),
        ]
        if has_groups:
            row.append(str(member.group))
        if history.stages is not None:
            row.append(_stage_left(member.index, history))
        row += [number(member.hparams[name]) for name in space]
        attributes = ""
        if winner is not None and winner.member == member.index and _stands_on(history, winner):
            attributes = ' class="winner"'
        elif member.index in history.left:
            attributes = ' class="left" title="left at the end of a stage"'
        elif member.failures >= settings.max_failures:
            attributes = ' class="retired" title="failed too often and was retired"'
        cells = [f"<td>{escape(cell)}</td>" for cell in row]
        if subject.member_runs:
            run = _run(subject, subject.member_runs[member.index], row[0])
            cells[0] = f'<td data-key="{member.index}">{run}</td>'
        if member.score is not None:
            # The cell shows four digits of the score; the page sorts by all of them.
            cells[1] = f'<td data-key="{member.score!r}">{escape(row[1])}</td>'
        yield f"<tr{attributes}>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _stands_on(history: History, turn: Turn) -> bool:
    """Whether a turn is the last of its member that went well."""
    return not any(one.ok and one.number > turn.number for one in history.turns[turn.member])


def _stage_left(member: int, history: History) -> str:
    """The stage at whose end a member has left, from 1; empty if the member has not left."""
    return str(history.left[member] + 1) if member in history.left else ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
