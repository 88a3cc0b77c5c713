"""What did a method buy? Populations of the same task and budget, side by side, paired by seed.

With one seed, two methods begin with the same members and draw the same numbers, so that their
difference is told by few pairs; the interval says how well. A single pair proves nothing.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from pbt_flow.exceptions import ComparisonError
from pbt_flow.population.records import Direction
from pbt_flow.population.result import Result, is_same_effort
from pbt_flow.reporting.page import assemble
from pbt_flow.reporting.plotly_charts import Chart, frame, line
from pbt_flow.reporting.series import best_and_mean
from pbt_flow.settings import Settings, value_to_json
from pbt_flow.task import is_same_task
from pbt_flow.utils.interval import Interval
from pbt_flow.utils.means import difference, mean
from pbt_flow.utils.text import number

MEASURES = ("mean score", "best score", "best report")
CONTROL = "random search"
_SAME = ("population", "interval")
"""Settings in which compared populations must agree, besides the task, its options and the budget.
"""
_METHOD = ("mode", "exploit", "explore", "init", "resample")
"""Settings that make a method, besides the stages."""
_METHODS = {
    "Population Based Training": "PBT",
    "Population Based Training in stages": "PBT in stages",
}
"""Short names of methods."""
_ENOUGH = 6
"""Pairs below which no sign-flip permutation test can reach 5%: with n there are 2^n sign patterns,
and the most telling two of them, all + and all -, have a share of 2 / 2^n."""
_COLOURS = ("var(--best)", "var(--mean)", "var(--f2)", "var(--f3)", "var(--f4)")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One population in a comparison."""

    result: Result
    settings: Settings
    option_defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the options' defaults were when it began; earlier versions do not say."""

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def run_id(self) -> str:
        return self.result.run_id

    @property
    def report_metric(self) -> str:
        """The headline of its winner's report; empty if there is none."""
        winner = self.result.winner
        return next(iter(winner.report), "") if winner else ""

    @property
    def at_equal_age(self) -> list[float]:
        """With stages: the scores at the age to which all members come without stages. Only those
        that were left by then have one.
        """
        turns, number = self.result.history.turns.values(), self.settings.turns
        there = [own[number - 1] for own in turns if len(own) >= number]
        return [turn.score for turn in there if turn.score is not None]

    @property
    def mean_score(self) -> float:
        """The mean score of the population; with stages at the age of one without them, or NaN."""
        if self.settings.stage_plan is None:
            return self.result.mean_score
        scores = self.at_equal_age
        return mean(scores) if scores else math.nan

    def measures(self, metric: str) -> dict[str, float | None]:
        """The mean score of the population, and of its winner the score and a metric of the report.

        None where there is no such number, or it is not finite.
        """
        winner = self.result.winner
        told = (
            self.mean_score,
            winner.score if winner else None,
            self.result.best.report.get(metric) if self.result.best else None,
        )
        finite = (None if value is None or not math.isfinite(value) else value for value in told)
        return dict(zip(MEASURES, finite, strict=True))


# --- who may stand beside whom --------------------------------------------------------------------


def check_same(
    first: str,
    ours: Settings,
    second: str,
    theirs: Settings,
    *,
    unequal: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Refuse to compare two populations whose settings give them other problems or budgets.

    Args:
        first: What the one is called in the message.
        ours: Its settings.
        second: What the other is called.
        theirs: Its settings.
        unequal: Whether another number of turns is accepted.
        defaults: The defaults of the task's options, as far as they are known. An option that only
            one of the two has on record was at its default in the other: populations of earlier
            versions recorded what was given, and a class may have got the option since.

    Raises:
        ComparisonError: They do; it names the setting, or the option.
    """
    names = [*_SAME, *([] if unequal else ["turns"])]
    if not is_same_task(ours.task, theirs.task):
        names.insert(0, "task")
    for name in names:
        if getattr(ours, name) != getattr(theirs, name):
            raise ComparisonError(
                f"populations {first} and {second} cannot be compared: their {name} is "
                f"{getattr(ours, name)!r} and {getattr(theirs, name)!r}"
                + (_INSIST if name == "turns" else "")
            )
    for name in dict.fromkeys([*ours.options, *theirs.options]):
        told = [{**(defaults or {}), **settings.options} for settings in (ours, theirs)]
        values = [json.dumps(one.get(name, _UNKNOWN), sort_keys=True) for one in told]
        if values[0] != values[1]:
            raise ComparisonError(
                f"populations {first} and {second} cannot be compared: the task's option {name} is "
                + " and ".join(repr(one.get(name, _UNKNOWN)) for one in told)
            )


_UNKNOWN = "not on record"
_INSIST = (
    "; train both to the end of one budget, or insist with --unequal, and it is said beside the "
    "numbers"
)


def check_ended(entry: Entry) -> None:
    """Refuse a population that may still become better.

    Raises:
        ComparisonError: It is running, or was interrupted.
    """
    result = entry.result
    if result.status in ("running", "interrupted"):
        raise ComparisonError(
            f"population {entry.run_id} is not at its end: it is {result.status} after "
            f"{result.turns} turns; if nothing trains it, go on with python -m pbt_flow resume "
            f"{entry.run_id}"
        )


def check_equal(first: Entry, second: Entry, *, unequal: bool = False) -> None:
    """Refuse to compare two populations that did not train the same problem equally long.

    What counts is what the members have done: `seconds`, `target` or a failure may have ended one
    of them before its turns were over.

    Raises:
        ComparisonError: They did not.
    """
    check_same(
        first.run_id,
        first.settings,
        second.run_id,
        second.settings,
        unequal=unequal,
        defaults={**second.option_defaults, **first.option_defaults},
    )
    if not unequal and not is_same_effort(first.result, second.result):
        raise ComparisonError(
            f"populations {first.run_id} and {second.run_id} cannot be compared: their members did "
            f"{_turns(first)} and {_turns(second)}{_INSIST}"
        )


def check_pair(control: Entry, settings: Settings) -> None:
    """Refuse a control that is none, or that began with other members.

    Raises:
        ComparisonError: It copies, or has another seed or other initial members.
    """
    theirs = control.settings
    if theirs.stage_plan is not None:
        raise ComparisonError(
            f"population {control.run_id} is no control: its stages are {theirs.stages}, where "
            "the members of a control all train to the end; compare methods with python -m "
            "pbt_flow compare"
        )
    if not theirs.is_control:
        raise ComparisonError(
            f"population {control.run_id} is no control: exploit is {theirs.exploit}, where a "
            "control copies nobody; compare methods with python -m pbt_flow compare"
        )
    for name in ("seed", "init", "initial"):
        # As text: a record has lists where a task's space has tuples.
        if _written(getattr(theirs, name)) != _written(getattr(settings, name)):
            raise ComparisonError(
                f"population {control.run_id} is no control: its {name} is "
                f"{getattr(theirs, name)!r} in place of {getattr(settings, name)!r}, so that it "
                "began with other members; train one with --control, or compare several seeds of "
                "both with python -m pbt_flow compare"
            )


def _written(value: Any) -> str:
    """A setting as it stands in a record."""
    return json.dumps(value_to_json(value), sort_keys=True)


def check_control(control: Entry, settings: Settings, *, defaults: Mapping[str, Any]) -> None:
    """Refuse a control for a population that is still to be trained under these settings.

    Args:
        control: The control.
        settings: Those of the new population.
        defaults: The defaults of the task's options.

    Raises:
        ComparisonError: It has not ended, or is of another problem, or ended before its budget did.
    """
    check_same(control.run_id, control.settings, "the new one", settings, defaults=defaults)
    check_pair(control, settings)
    check_ended(control)
    # Where the new one may end early itself, how long it trained is compared when it has ended.
    may_end_early = settings.seconds is not None or settings.target is not None
    if control.result.turns_each != settings.turns and not may_end_early:
        raise ComparisonError(
            f"population {control.run_id} is no control for the new one: its members did "
            f"{_turns(control)}, and those of the new one are to do {settings.turns}; go on with "
            f"it, or train another one with --control"
        )


def _turns(entry: Entry) -> str:
    """How many turns its members did, and why not more."""
    result, settings = entry.result, entry.settings
    text = f"{result.turns_each:.4g} of {settings.turns} turns each"
    if settings.stage_plan is not None:
        text = f"{result.turns} of {settings.all_turns} turns of all members together"
    why = result.reason.splitlines()[0] if result.reason else result.status
    return text if result.turns_each == settings.turns else f"{text} ({why})"


# --- the comparison -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Populations by method, the control first, each in the order of its seeds."""

    methods: Mapping[str, Sequence[Entry]]
    direction: Direction
    """Which way a score is better."""
    report_metric: str = ""
    """The metric of the reports that is compared; empty if there are none."""
    report_direction: Direction | None = None
    """Which way it is better; None if the task does not declare it."""

    @classmethod
    def of(cls, entries: Sequence[Entry], *, unequal: bool = False) -> Comparison:
        """Group populations by method.

        Args:
            entries: The populations.
            unequal: Whether to accept populations that did not train equally long.

        Raises:
            ComparisonError: There are not two methods, or the populations differ in task or budget,
                or a method has two populations of one seed.
        """
        if len(entries) < 2:
            raise ComparisonError("a comparison takes two populations at least")
        first = entries[0]
        for entry in entries:
            check_ended(entry)
            check_equal(first, entry, unequal=unequal)
        methods: dict[str, list[Entry]] = {}
        for entry in sorted(entries, key=_controls_first):
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
        base, *others = ({entry.seed for entry in those} for those in methods.values())
        if not any(base & seeds for seeds in others):
            raise ComparisonError(
                f"no seed is in common: {next(iter(methods))} has {sorted(base)}, the others "
                f"{sorted(set().union(*others))}; differences are taken between populations of one "
                "seed, which began with the same members"
            )
        metric = next((entry.report_metric for entry in entries if entry.report_metric), "")
        # Populations of the first version do not say; those of one task beside them speak for them.
        said = {entry.result.report_better(metric) for entry in entries} - {None}
        return cls(
            methods=methods,
            direction=first.result.history.direction,
            report_metric=metric,
            report_direction=said.pop() if len(said) == 1 else None,
        )

    @property
    def baseline(self) -> str:
        """The method that the others are compared with: the control, if there is one."""
        return next(iter(self.methods))

    @property
    def entries(self) -> list[tuple[str, Entry]]:
        """Every population with its method."""
        return [(method, entry) for method, those in self.methods.items() for entry in those]

    @property
    def is_equal(self) -> bool:
        """Whether all populations trained equally long."""
        first = self.methods[self.baseline][0].result
        return all(is_same_effort(first, entry.result) for _, entry in self.entries)

    def better(self, measure: str) -> Direction | None:
        """Which way a measure is better; None where nobody said."""
        return self.report_direction if measure == "best report" else self.direction

    def name(self, measure: str) -> str:
        """A measure as people read it, with the metric of the report."""
        if measure == "best report" and self.report_metric:
            return f"{measure} ({self.report_metric})"
        return measure

    def measures(self, entry: Entry) -> dict[str, float | None]:
        """What is compared of a population."""
        return entry.measures(self.report_metric)

    def differences(self, method: str, measure: str) -> list[float]:
        """How much better a method is than the baseline, for each seed that both have.

        Where nobody said which way the measure is better: the method's less the baseline's.
        """
        base = {e.seed: self.measures(e)[measure] for e in self.methods[self.baseline]}
        pairs = [(self.measures(e)[measure], base.get(e.seed)) for e in self.methods[method]]
        sign = -1 if self.better(measure) == "minimize" else 1
        return [
            sign * difference(ours, b) for ours, b in pairs if ours is not None and b is not None
        ]

    def gains(self) -> dict[str, dict[str, Interval]]:
        """The mean of the differences by method and measure; positive ones favour the method, where
        it is known which way the measure is better.
        """
        others = list(self.methods)[1:]
        found = {m: {what: self.differences(m, what) for what in MEASURES} for m in others}
        return {
            method: {what: Interval.of(those) for what, those in each.items() if those}
            for method, each in found.items()
        }

    def warnings(self) -> list[str]:
        """What must be known before any number is quoted."""
        said = []
        if not self.is_equal:
            said.append("these populations did not train equally long, so that a difference is not")
            said[-1] += " the method's alone: " + "; ".join(
                f"{_place(method, entry)} did {_turns(entry)}" for method, entry in self.entries
            )
        for method, entry in self.entries:
            if entry.result.is_over_budget:
                said.append(f"{_place(method, entry)}: {entry.result.budget_note}")
        return said

    def notes(self) -> list[str]:
        """What a careful reader wants to know besides."""
        said = []
        for method, entry in self.entries:
            result = entry.result
            if result.retired:
                said.append(
                    f"{_place(method, entry)}: {result.retired} of {result.members} members failed "
                    f"too often and were retired; it did {result.turns} of "
                    f"{entry.settings.all_turns} turns"
                )
            if result.budget_note and not result.is_over_budget:
                said.append(f"{_place(method, entry)}: {result.budget_note}")
            said += _about_stages(method, entry)
        began = {(entry.settings.init, str(entry.settings.initial)) for _, entry in self.entries}
        if len(began) > 1:
            said.append(
                "not all populations began alike (init or initial differ): those of one seed began "
                "with other members, and their difference says something of the beginning, too"
            )
        for method, each in self.gains().items():
            said += self._about_pairs(method, each)
        if self.report_metric and self.report_direction is None:
            said.append(
                f"whether a greater or a smaller {self.report_metric} is better is not declared "
                "(report_direction of the task), so that its difference is shown and not judged"
            )
        return said

    def _about_pairs(self, method: str, gains: Mapping[str, Interval]) -> Iterator[str]:
        counts = {what: len(self.differences(method, what)) for what in gains}
        most = max(len(self.methods[method]), len(self.methods[self.baseline]))
        for what in MEASURES:
            expected = what != "best report" or self.report_metric
            if expected and counts.get(what, 0) < most:
                yield (
                    f"{method}, {self.name(what)}: {counts.get(what, 0)} of {most} seeds have this "
                    f"number for both {method} and {self.baseline}; the others count in no "
                    "difference"
                )
        fewest = min(counts.values(), default=0)
        if fewest == 1:
            yield f"{method}: a single pair has no interval, and proves nothing"
        elif 1 < fewest < _ENOUGH:
            yield (
                f"{method}: with {fewest} pairs a sign-flip permutation test cannot come below p = "
                f"{2 / 2**fewest:.3g}, so that these intervals rest on differences being normal; "
                f"train {_ENOUGH} pairs or more, and fix how many before looking"
            )

    def told(self, method: str, measure: str) -> tuple[str, str, str]:
        """A difference as people read it: the mean, what is known of its spread, who is ahead."""
        those = self.differences(method, measure)
        interval = Interval.of(those)
        spread = "one pair: no interval" if len(those) == 1 else "too far apart for an interval"
        if interval.bounds:
            spread = f"95% t interval {interval.bounds} over {len(those)} seeds"
        word = "greater" if self.better(measure) is None else "ahead"
        ahead = f"{word} in {sum(gained > 0 for gained in those)} of {len(those)}"
        # Both may hand over one and the same initial setting.
        if equal := those.count(0.0):
            ahead += f", equal in {equal}"
        return f"{interval.mean:+.3g}", spread, ahead

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain values."""
        return {
            "baseline": self.baseline,
            "report_metric": self.report_metric,
            "equal_budgets": self.is_equal,
            "warnings": self.warnings(),
            "notes": self.notes(),
            "populations": [
                {
                    "method": method,
                    "seed": entry.seed,
                    "population": entry.run_id,
                    **self.measures(entry),
                    "turns": entry.result.turns,
                    "budget": entry.result.budget,
                    "winner_step": entry.result.winner.step if entry.result.winner else None,
                    "winner_step_over_budget": entry.result.winner_share,
                }
                for method, entry in self.entries
            ],
            "gains": {
                method: {
                    what: {
                        **vars(interval),
                        "seeds": len(self.differences(method, what)),
                        "direction": self.better(what),
                    }
                    for what, interval in each.items()
                }
                for method, each in self.gains().items()
            },
        }

    def table(self) -> str:
        """Every population, and the differences, as Markdown."""
        heads = ["seed", "method", *map(self.name, MEASURES)]
        lines = [f"| {' | '.join(heads)} |", "|---" * 5 + "|"]
        order = list(self.methods)
        for method, entry in sorted(self.entries, key=lambda e: (e[1].seed, -order.index(e[0]))):
            numbers = self.measures(entry).values()
            values = " | ".join("" if v is None else f"{v:.4g}" for v in numbers)
            lines.append(f"| {entry.seed} | {method} | {values} |")
        for method, each in self.gains().items():
            lines += ["", f"| {method} against {self.baseline} | mean difference | pairs |"]
            lines.append("|---" * 3 + "|")
            for what in each:
                mean, spread, ahead = self.told(method, what)
                judged = "" if self.better(what) else f", {method} minus {self.baseline}"
                lines.append(f"| {self.name(what)}{judged} | {mean} ({spread}) | {ahead} |")
        lines += [f"\nwarning: {text}" for text in self.warnings()]
        lines += [f"\n{text}" for text in self.notes()]
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
                points[0]._replace(value=mean(p.value for p in points))
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
    alike = "The same task and budget" if comparison.is_equal else "The same task"
    yield f"<p>{alike}, paired by seed. Each population is a faint line, the mean of a "
    yield f"method bold. {escape(base)}, which the others are compared with, is broken.</p>"
    yield "</header>"
    if warnings := comparison.warnings():
        yield '<div class="warnings" role="alert">'
        yield "".join(f"<p><b>warning</b>: {escape(text)}</p>" for text in warnings) + "</div>"
    yield '<div class="cards">'
    for method, each in comparison.gains().items():
        for what in each:
            mean, spread, ahead = comparison.told(method, what)
            label = f"{method}, {comparison.name(what)}, better by"
            if comparison.better(what) is None:
                label = f"{method} minus {base}, {comparison.name(what)}"
            yield f'<div class="card"><span>{escape(label)}</span>'
            yield f"<b>{mean}</b><span>{escape(spread)}; {ahead}</span></div>"
    yield "</div>"
    if notes := comparison.notes():
        said = "".join(f"<p>{escape(text[:1].upper() + text[1:])}.</p>" for text in notes)
        yield f"<section><h2>How far to trust it</h2>{said}</section>"
    yield '<section><h2>Mean of the population</h2><div class="chart" id="mean"></div></section>'
    yield '<section><h2>Best of the population</h2><div class="chart" id="best"></div></section>'
    yield "<section><h2>Populations</h2>"
    heads = ["method", "seed", "population", *map(comparison.name, MEASURES)]
    heads += ["turns", "winner's step", "share of its budget"]
    yield '<div class="table"><table><thead><tr>'
    yield "".join(f"<th>{escape(name)}</th>" for name in heads) + "</tr></thead><tbody>"
    for told in comparison.to_json()["populations"]:
        row = [told["method"], str(told["seed"]), told["population"]]
        numbers = [*MEASURES, "turns", "winner_step", "winner_step_over_budget"]
        row += ["" if told[what] is None else number(told[what]) for what in numbers]
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div></section>"


def _place(method: str, entry: Entry) -> str:
    return f"{method}, seed {entry.seed} ({entry.run_id[:8]})"


def _controls_first(entry: Entry) -> tuple[bool, bool]:
    """Random search before all others, then what copies nobody either."""
    return not entry.settings.is_control, entry.settings.method != "successive halving"


def _about_stages(method: str, entry: Entry) -> Iterator[str]:
    """What stages have to do with the numbers of a population; nothing where it has none."""
    plan, settings = entry.settings.stage_plan, entry.settings
    if plan is None:
        return
    left = len(entry.at_equal_age)
    yield (
        f"{_place(method, entry)}: its stages {plan} share out the budget otherwise, so that its "
        f"winner may train {plan.ends[-1]} turns where others train {settings.turns}; "
        + (
            f"its mean score is that of the {left} members that were left after {settings.turns} "
            "turns, the age of the others"
            if left
            else f"no member came to {settings.turns} turns, so that its mean score is not compared"
        )
    )
    if plan.unspent and entry.result.turns_each == settings.turns:
        yield (
            f"{_place(method, entry)}: its stages leave {plan.unspent} of the {plan.budget} turns "
            "of the budget over"
        )


def _label(entry: Entry, entries: Sequence[Entry]) -> str:
    """What a method is called: what tells it from the others."""
    if entry.settings.is_control:
        return CONTROL
    alike = [other for other in entries if other.settings.method == entry.settings.method]
    telling = [
        name for name in _METHOD if len({getattr(other.settings, name) for other in alike}) > 1
    ]
    words = [_METHODS.get(entry.settings.method, entry.settings.method)]
    if len({other.settings.stages for other in alike}) > 1:
        words.append(entry.settings.stages)
    return " ".join([*words, *(str(getattr(entry.settings, name)) for name in telling)])
