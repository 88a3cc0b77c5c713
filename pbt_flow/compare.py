"""What did a method buy? Populations of the same task and budget, side by side, paired by seed.

With one seed, two methods begin with the same members and draw the same numbers, so that their
difference is told by few pairs; the interval says how well. A single pair proves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from pbt_flow.charts import Chart, frame, line
from pbt_flow.errors import PBTError
from pbt_flow.figures import best_and_mean
from pbt_flow.interval import Interval
from pbt_flow.progress import number
from pbt_flow.report import assemble
from pbt_flow.result import Result
from pbt_flow.settings import Settings

MEASURES = ("mean score", "best score", "best report")
CONTROL = "random search"
_SAME = ("task", "options", "population", "turns", "interval")
"""Settings in which compared populations must agree: the problem and the budget."""
_METHOD = ("mode", "exploit", "explore", "init", "resample")
"""Settings that make a method."""
_COLOURS = ("var(--best)", "var(--mean)", "var(--f2)", "var(--f3)", "var(--f4)")


class ComparisonError(PBTError, ValueError):
    """Populations that cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One population in a comparison."""

    result: Result
    settings: Settings

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def measures(self) -> dict[str, float | None]:
        """The mean score of the population, and score and report of its winner."""
        winner = self.result.winner
        report = next(iter(winner.report.values()), None) if winner else None
        scores = self.result.mean_score, winner.score if winner else None
        return dict(zip(MEASURES, (*scores, report), strict=True))


def check_same(first: str, ours: Settings, second: str, theirs: Settings) -> None:
    """Refuse to compare two populations that had not the same problem and budget.

    Raises:
        ComparisonError: They had not; it names the setting.
    """
    for name in _SAME:
        if getattr(ours, name) != getattr(theirs, name):
            raise ComparisonError(
                f"populations {first} and {second} cannot be compared: their {name} is "
                f"{getattr(ours, name)!r} and {getattr(theirs, name)!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Populations by method, the control first, each in the order of its seeds."""

    methods: Mapping[str, Sequence[Entry]]
    sign: int
    """1 if a greater score is better, else -1."""

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Comparison:
        """Group populations by method.

        Raises:
            ComparisonError: There are not two methods, or the populations differ in task or budget,
                or a method has two populations of one seed.
        """
        if len(entries) < 2:
            raise ComparisonError("a comparison takes two populations at least")
        first = entries[0]
        for entry in entries:
            check_same(first.result.run_id, first.settings, entry.result.run_id, entry.settings)
            if entry.result.status in ("running", "interrupted"):
                raise ComparisonError(
                    f"population {entry.result.run_id} is not at its end: it is "
                    f"{entry.result.status} after {entry.result.turns} turns; if nothing trains "
                    f"it, go on with python -m pbt_flow resume {entry.result.run_id}"
                )
        methods: dict[str, list[Entry]] = {}
        for entry in sorted(entries, key=lambda e: not e.settings.is_control):
            methods.setdefault(_label(entry, entries), []).append(entry)
        if len(methods) < 2:
            raise ComparisonError(
                f"all populations are of one method, {next(iter(methods))}; add a control, trained "
                "by python -m pbt_flow random_search with the same settings and seed"
            )
        for method, those in methods.items():
            those.sort(key=lambda entry: entry.seed)
            seed, count = Counter(entry.seed for entry in those).most_common(1)[0]
            if count > 1:
                raise ComparisonError(f"{method} has {count} populations of seed {seed}; name one")
        sign = 1 if first.result.history.direction == "maximize" else -1
        return cls(methods=methods, sign=sign)

    @property
    def baseline(self) -> str:
        """The method that the others are compared with: the control, if there is one."""
        return next(iter(self.methods))

    def differences(self, method: str, measure: str) -> list[float]:
        """How much better a method is than the baseline, for each seed that both have."""
        base = {entry.seed: entry.measures[measure] for entry in self.methods[self.baseline]}
        pairs = [(e.measures[measure], base.get(e.seed)) for e in self.methods[method]]
        return [self.sign * (ours - b) for ours, b in pairs if ours is not None and b is not None]

    def gains(self) -> dict[str, dict[str, Interval]]:
        """The mean of the differences by method and measure; positive ones favour the method."""
        others = list(self.methods)[1:]
        found = {m: {what: self.differences(m, what) for what in MEASURES} for m in others}
        return {
            method: {what: Interval.of(those) for what, those in each.items() if those}
            for method, each in found.items()
        }

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain values."""
        return {
            "baseline": self.baseline,
            "populations": [
                {"method": m, "seed": e.seed, "population": e.result.run_id, **e.measures}
                for m, those in self.methods.items()
                for e in those
            ],
            "gains": {
                method: {what: vars(interval) for what, interval in each.items()}
                for method, each in self.gains().items()
            },
        }

    def table(self) -> str:
        """Every population, and the differences, as Markdown."""
        lines = [f"| seed | method | {' | '.join(MEASURES)} |", "|---" * 5 + "|"]
        every = [(entry.seed, m, entry) for m, those in self.methods.items() for entry in those]
        order = list(self.methods)
        for seed, method, entry in sorted(every, key=lambda e: (e[0], -order.index(e[1]))):
            values = " | ".join("" if v is None else f"{v:.4g}" for v in entry.measures.values())
            lines.append(f"| {seed} | {method} | {values} |")
        for method, each in self.gains().items():
            lines += ["", f"| {method} against {self.baseline} | mean, 95% interval | ahead in |"]
            lines.append("|---" * 3 + "|")
            for what, interval in each.items():
                those = self.differences(method, what)
                ahead = sum(difference > 0 for difference in those)
                told = f"{interval.mean:+.3g}"
                if interval.bounds:
                    told += f" ({interval.bounds})"
                lines.append(f"| {what} | {told} | {ahead} of {len(those)} |")
        return "\n".join(lines)

    def charts(self) -> dict[str, Chart]:
        """Mean and best score of each population, faint, and of each method, bold."""
        return {name: self._chart(index) for index, name in enumerate(("best", "mean"))}

    def _chart(self, which: int) -> Chart:
        data: list[Chart] = []
        for place, (method, those) in enumerate(self.methods.items()):
            colour = _COLOURS[place % len(_COLOURS)]
            curves = [best_and_mean(entry.result.history)[which] for entry in those]
            data += [
                line(points, method, colour, width=1, opacity=0.4, showlegend=False)
                for points in curves
                if len(curves) > 1
            ]
            length = min(map(len, curves))
            middle = [
                points[0]._replace(value=sum(p.value for p in points) / len(points))
                for points in zip(*(curve[:length] for curve in curves), strict=True)
            ]
            dash = "dash" if method == self.baseline else ""
            data.append(line(middle, method, colour, width=3, dash=dash))
        axes = frame(380, x="steps that a member has trained", y="score", yaxis={})
        return {"data": data, "layout": axes}


def page(comparison: Comparison) -> str:
    """The comparison as one HTML page."""
    entry = comparison.methods[comparison.baseline][0]
    task = Path(entry.settings.task.partition(":")[0]).stem
    return assemble(f"{task}: methods compared", _body(comparison), comparison.charts())


def _body(comparison: Comparison) -> Iterator[str]:
    base = comparison.baseline
    yield "<header><h1>What each method came to</h1>"
    yield "<p>The same task, budget and seeds. Each population is a faint line, the mean of a "
    yield f"method bold. {escape(base)}, which the others are compared with, is broken.</p>"
    yield "</header>"
    yield '<div class="cards">'
    for method, each in comparison.gains().items():
        for what, interval in each.items():
            those = comparison.differences(method, what)
            ahead = f"ahead in {sum(d > 0 for d in those)} of {len(those)} seeds"
            if interval.bounds:
                ahead = f"95% interval {interval.bounds}; {ahead}"
            yield f'<div class="card"><span>{escape(method)}, {what}, better by</span>'
            yield f"<b>{interval.mean:+.3g}</b><span>{ahead}</span></div>"
    yield "</div>"
    yield '<section><h2>Mean of the population</h2><div class="chart" id="mean"></div></section>'
    yield '<section><h2>Best of the population</h2><div class="chart" id="best"></div></section>'
    yield "<section><h2>Populations</h2>"
    heads = ["method", "seed", "population", *MEASURES]
    yield '<div class="table"><table><thead><tr>'
    yield "".join(f"<th>{name}</th>" for name in heads) + "</tr></thead><tbody>"
    for told in comparison.to_json()["populations"]:
        row = [told["method"], str(told["seed"]), told["population"]]
        row += ["" if told[what] is None else number(told[what]) for what in MEASURES]
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div></section>"


def _label(entry: Entry, entries: Sequence[Entry]) -> str:
    """What a method is called: what tells it from the others."""
    if entry.settings.is_control:
        return CONTROL
    pbt = [other for other in entries if not other.settings.is_control]
    telling = [
        name for name in _METHOD if len({getattr(other.settings, name) for other in pbt}) > 1
    ]
    return " ".join(["PBT", *(str(getattr(entry.settings, name)) for name in telling)])
