"""The comparison of methods: populations of the same task and budget, paired by seed.

With the same seed, two methods begin with the same members and draw the same random numbers.
Therefore few pairs suffice to show how much better one method is, and an interval says how certain
that is. A single pair proves nothing.
"""

from __future__ import annotations

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
from pbt_flow.reporting.html_text import prose
from pbt_flow.reporting.page import assemble
from pbt_flow.reporting.plotly_charts import Chart, frame, line
from pbt_flow.reporting.series import best_and_mean
from pbt_flow.settings import Settings
from pbt_flow.task import is_same_task
from pbt_flow.utils.interval import Interval
from pbt_flow.utils.means import difference, mean
from pbt_flow.utils.text import listed, number
from pbt_flow.utils.values import is_same_in_json

MEASURES = ("mean score", "best score", "best report")
CONTROL = "random search"
"""The name of the method that copies nobody."""
_MUST_AGREE = ("population", "interval")
"""Settings in which compared populations must agree, besides the task, its options and the budget.
"""
_METHOD_SETTINGS = ("mode", "exploit", "explore", "init", "resample")
"""Settings that make a method, besides the stages."""
_SHORT_NAMES = {
    "Population Based Training": "PBT",
    "Population Based Training in stages": "PBT in stages",
}
"""Short names of methods."""
_ENOUGH_PAIRS = 6
"""With fewer pairs no sign-flip permutation test can reach 5%: with n pairs there are 2^n sign
patterns, and the two most extreme ones, all + and all -, have a share of 2 / 2^n."""
_COLOURS = ("var(--best)", "var(--mean)", "var(--f2)", "var(--f3)", "var(--f4)")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One population in a comparison."""

    result: Result
    settings: Settings
    option_defaults: Mapping[str, Any] = field(default_factory=dict)
    """The defaults of the task's options when the population began. Populations of earlier versions
    have none on record."""

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def run_id(self) -> str:
        return self.result.run_id

    @property
    def report_metric(self) -> str:
        """The headline of the winner's report; empty if there is none."""
        winner = self.result.winner
        return next(iter(winner.report), "") if winner else ""

    @property
    def scores_at_equal_age(self) -> list[float]:
        """The scores at the age to which all members of a population without stages come.

        With stages, only the members that have not left by then have such a score.
        """
        turns, number = self.result.history.turns.values(), self.settings.turns
        at_age = [own[number - 1] for own in turns if len(own) >= number]
        return [turn.score for turn in at_age if turn.score is not None]

    @property
    def mean_score(self) -> float:
        """The mean score of the population; with stages, that of `scores_at_equal_age`, or NaN."""
        if self.settings.stage_plan is None:
            return self.result.mean_score
        scores = self.scores_at_equal_age
        return mean(scores) if scores else math.nan

    def measures(self, metric: str) -> dict[str, float | None]:
        """The population's mean score, the winner's score, and a metric of the report.

        The report is on the winner, or on the average that is handed over in the winner's place. A
        number is None if it does not exist, or is not finite.
        """
        winner = self.result.winner
        numbers = (
            self.mean_score,
            winner.score if winner else None,
            self.result.best.report.get(metric) if self.result.best else None,
        )
        found: dict[str, float | None] = {}
        for measure, value in zip(MEASURES, numbers, strict=True):
            found[measure] = value if value is not None and math.isfinite(value) else None
        return found


# --- which populations can be compared ------------------------------------------------------------


def check_same(
    first: str,
    ours: Settings,
    second: str,
    theirs: Settings,
    *,
    unequal: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Check that the settings of two populations say the same problem and the same budget.

    Args:
        first: The name of the first population in the message.
        ours: The settings of the first population.
        second: The name of the second population in the message.
        theirs: The settings of the second population.
        unequal: Whether the populations may differ in their number of turns.
        defaults: The defaults of the task's options, as far as they are known. If only one of the
            populations has an option on record, the option was at its default in the other:
            populations of earlier versions recorded only what was given, and the class may have got
            the option since.

    Raises:
        ComparisonError: The settings differ. The message names the setting, or the option.
    """
    names = list(_MUST_AGREE)
    if not unequal:
        names.append("turns")
    if not is_same_task(ours.task, theirs.task):
        names.insert(0, "task")
    for name in names:
        if getattr(ours, name) != getattr(theirs, name):
            raise ComparisonError(
                f"populations {first} and {second} cannot be compared: their {name} is "
                f"{getattr(ours, name)!r} and {getattr(theirs, name)!r}"
                + (_WAYS_OUT if name == "turns" else "")
            )
    known = defaults or {}
    for name in dict.fromkeys([*ours.options, *theirs.options]):
        default = known.get(name, _NOT_ON_RECORD)
        our_value, their_value = ours.options.get(name, default), theirs.options.get(name, default)
        if not is_same_in_json(our_value, their_value):
            raise ComparisonError(
                f"populations {first} and {second} cannot be compared: the task's option {name} is "
                f"{our_value!r} and {their_value!r}"
            )


_NOT_ON_RECORD = "not on record"
_WAYS_OUT = (
    "; train both to the end of the same budget, or compare them all the same with --unequal: the "
    "result then says beside its numbers that the budgets differ"
)


def check_ended(entry: Entry) -> None:
    """Check that a population has ended, so that it cannot become better any more.

    Raises:
        ComparisonError: The population is running, or was interrupted.
    """
    result = entry.result
    if result.status in ("running", "interrupted"):
        raise ComparisonError(
            f"population {entry.run_id} is not at its end: it is {result.status} after "
            f"{result.turns} turns; if nothing trains it, go on with python -m pbt_flow resume "
            f"{entry.run_id}"
        )


def check_equal(first: Entry, second: Entry, *, unequal: bool = False) -> None:
    """Check that two populations have trained the same problem equally long.

    The turns that the members have really done are compared: `seconds`, `target` or a failure may
    have ended a population early.

    Args:
        first: One population.
        second: The other population.
        unequal: Whether the populations may have trained for different times.

    Raises:
        ComparisonError: They have not trained the same problem equally long.
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
            f"{_turns_done(first)} and {_turns_done(second)}{_WAYS_OUT}"
        )


def check_pair(control: Entry, settings: Settings) -> None:
    """Check that a population is the control of another, whose settings are given.

    Raises:
        ComparisonError: The control copies members, or began with another seed or other members.
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
        # A record has lists where a task's space may have tuples.
        if not is_same_in_json(getattr(theirs, name), getattr(settings, name)):
            raise ComparisonError(
                f"population {control.run_id} is no control: its {name} is "
                f"{getattr(theirs, name)!r} in place of {getattr(settings, name)!r}, so that it "
                "began with other members; train one with --control, or compare several seeds of "
                "both with python -m pbt_flow compare"
            )


def check_control(control: Entry, settings: Settings, *, defaults: Mapping[str, Any]) -> None:
    """Check that a population can be the control of one that is still to be trained.

    Args:
        control: The control.
        settings: The settings of the new population.
        defaults: The defaults of the task's options.

    Raises:
        ComparisonError: The control has not ended, or has another problem, or ended before its
            budget was used up.
    """
    check_same(control.run_id, control.settings, "the new one", settings, defaults=defaults)
    check_pair(control, settings)
    check_ended(control)
    # If the new population may end early itself, the two are compared when it has ended.
    may_end_early = settings.seconds is not None or settings.target is not None
    if control.result.turns_each != settings.turns and not may_end_early:
        raise ComparisonError(
            f"population {control.run_id} is no control for the new one: its members did "
            f"{_turns_done(control)}, and those of the new one are to do {settings.turns}; resume "
            "the control, or train another one with --control"
        )


def _turns_done(entry: Entry) -> str:
    """How many turns the members of a population did on average, and why not more."""
    result, settings = entry.result, entry.settings
    text = f"{result.turns_each:.4g} of {settings.turns} turns each"
    if settings.stage_plan is not None:
        text = f"{result.turns} of {settings.all_turns} turns of all members together"
    if result.turns_each == settings.turns:
        return text
    why = result.reason.splitlines()[0] if result.reason else result.status
    return f"{text} ({why})"


# --- the comparison -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Populations by method, and the differences between the methods."""

    methods: Mapping[str, Sequence[Entry]]
    """The populations of each method, ordered by seed. The control is the first method."""
    direction: Direction
    """Whether a greater or a smaller score is better."""
    report_metric: str = ""
    """The metric of the reports that is compared; empty if there are no reports."""
    report_direction: Direction | None = None
    """Whether a greater or a smaller value of that metric is better; None if no task declares it.
    """

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
            raise ComparisonError(
                "a comparison takes two populations at least, or one that was trained with a "
                "control; python -m pbt_flow list shows what there is"
            )
        first = entries[0]
        for entry in entries:
            check_ended(entry)
            check_equal(first, entry, unequal=unequal)
        methods: dict[str, list[Entry]] = {}
        for entry in sorted(entries, key=_controls_first):
            methods.setdefault(_method_name(entry, entries), []).append(entry)
        if len(methods) < 2:
            raise ComparisonError(
                f"all populations are of one method, {next(iter(methods))}; add a control, trained "
                "by python -m pbt_flow random_search with the same settings and seed"
            )
        for method, populations in methods.items():
            populations.sort(key=lambda entry: entry.seed)
            seed, count = Counter(entry.seed for entry in populations).most_common(1)[0]
            if count > 1:
                same = [one.result.run_id[:12] for one in populations if one.seed == seed]
                raise ComparisonError(
                    f"{method} has {count} populations of seed {seed}: {', '.join(same)}; leave "
                    "all but one of them out"
                )
        seeds = [{entry.seed for entry in populations} for populations in methods.values()]
        base_seeds, other_seeds = seeds[0], set[int]().union(*seeds[1:])
        if not base_seeds & other_seeds:
            raise ComparisonError(
                f"no seed is in common: {next(iter(methods))} has {listed(sorted(base_seeds))}, "
                f"the others {listed(sorted(other_seeds))}; differences are taken between "
                "populations of the same seed, which began with the same members"
            )
        metric = next((entry.report_metric for entry in entries if entry.report_metric), "")
        # Populations of the first version do not say in which direction a report is better. All
        # are of the same task here, so that what one of them says holds for them too.
        directions = {entry.result.report_better(metric) for entry in entries} - {None}
        return cls(
            methods=methods,
            direction=first.result.history.direction,
            report_metric=metric,
            report_direction=directions.pop() if len(directions) == 1 else None,
        )

    @property
    def baseline(self) -> str:
        """The method that the others are compared with: the control, if there is one."""
        return next(iter(self.methods))

    @property
    def entries(self) -> list[tuple[str, Entry]]:
        """Every population with its method."""
        found = []
        for method, populations in self.methods.items():
            found += [(method, entry) for entry in populations]
        return found

    @property
    def is_equal(self) -> bool:
        """Whether all populations trained equally long."""
        first = self.methods[self.baseline][0].result
        return all(is_same_effort(first, entry.result) for _, entry in self.entries)

    def better_direction(self, measure: str) -> Direction | None:
        """Which value of a measure is better, a greater or a smaller one; None if nobody says."""
        return self.report_direction if measure == "best report" else self.direction

    def title_of(self, measure: str) -> str:
        """A measure as people read it, with the metric of the report."""
        if measure == "best report" and self.report_metric:
            return f"{measure} ({self.report_metric})"
        return measure

    def measures(self, entry: Entry) -> dict[str, float | None]:
        """The numbers of a population that are compared, by measure."""
        return entry.measures(self.report_metric)

    def differences(self, method: str, measure: str) -> list[float]:
        """How much better a method is than the baseline, for each seed that both have.

        If it is not known which direction is better, the method's value minus the baseline's.
        """
        base_values = {
            entry.seed: self.measures(entry)[measure] for entry in self.methods[self.baseline]
        }
        sign = -1 if self.better_direction(measure) == "minimize" else 1
        found = []
        for entry in self.methods[method]:
            value, base_value = self.measures(entry)[measure], base_values.get(entry.seed)
            if value is not None and base_value is not None:
                found.append(sign * difference(value, base_value))
        return found

    def gains(self) -> dict[str, dict[str, Interval]]:
        """The mean difference to the baseline, by method and measure.

        A positive one favours the method, if it is known which direction of the measure is better.
        """
        found: dict[str, dict[str, Interval]] = {}
        for method in list(self.methods)[1:]:
            found[method] = {}
            for measure in MEASURES:
                differences = self.differences(method, measure)
                if differences:
                    found[method][measure] = Interval.of(differences)
        return found

    def warnings(self) -> list[str]:
        """What must be known before any number is quoted."""
        found = []
        if not self.is_equal:
            turns = [
                f"{_population_name(method, entry)} did {_turns_done(entry)}"
                for method, entry in self.entries
            ]
            found.append(
                "these populations did not train equally long, so that a difference is not the "
                f"method's alone: {'; '.join(turns)}"
            )
        for method, entry in self.entries:
            if entry.result.is_over_budget:
                found.append(f"{_population_name(method, entry)}: {entry.result.budget_note}")
        return found

    def notes(self) -> list[str]:
        """What a careful reader wants to know besides."""
        found = []
        for method, entry in self.entries:
            result, name = entry.result, _population_name(method, entry)
            if result.retired:
                found.append(
                    f"{name}: {result.retired} of {result.members} members failed too often and "
                    f"were retired; it did {result.turns} of {entry.settings.all_turns} turns"
                )
            if result.budget_note and not result.is_over_budget:
                found.append(f"{name}: {result.budget_note}")
            found += _notes_on_stages(name, entry)
        began = {(entry.settings.init, str(entry.settings.initial)) for _, entry in self.entries}
        if len(began) > 1:
            found.append(
                "not all populations began alike (init or initial differ): populations of the same "
                "seed began with different members, so that a difference between them also says "
                "something of the beginning"
            )
        for method, gains in self.gains().items():
            found += self._notes_on_pairs(method, gains)
        if self.report_metric and self.report_direction is None:
            found.append(
                f"whether a greater or a smaller {self.report_metric} is better is not declared "
                "(report_direction of the task), so that its difference is shown and not judged"
            )
        return found

    def _notes_on_pairs(self, method: str, gains: Mapping[str, Interval]) -> Iterator[str]:
        """What is to be known of the number of pairs behind a method's gains."""
        counts = {measure: len(self.differences(method, measure)) for measure in gains}
        most = max(len(self.methods[method]), len(self.methods[self.baseline]))
        for measure in MEASURES:
            count = counts.get(measure, 0)
            is_expected = measure != "best report" or self.report_metric
            if is_expected and count < most:
                yield (
                    f"{method}, {self.title_of(measure)}: {count} of {most} seeds have this number "
                    f"for both {method} and {self.baseline}; the other seeds are left out of the "
                    "difference"
                )
        fewest = min(counts.values(), default=0)
        if fewest == 1:
            yield f"{method}: a single pair has no interval, and proves nothing"
        elif 1 < fewest < _ENOUGH_PAIRS:
            yield (
                f"{method}: with {fewest} pairs a sign-flip permutation test cannot come below p = "
                f"{2 / 2**fewest:.3g}, so that these intervals rest on differences being normal; "
                f"train {_ENOUGH_PAIRS} pairs or more, and fix how many before looking"
            )

    def describe_difference(self, method: str, measure: str) -> tuple[str, str, str]:
        """A difference in words: its mean, its interval, and in how many pairs it is a gain."""
        differences = self.differences(method, measure)
        interval, pairs = Interval.of(differences), len(differences)
        if interval.bounds:
            spread = f"95% t interval {interval.bounds} over {pairs} seeds"
        elif pairs == 1:
            spread = "one pair: no interval"
        else:
            spread = "too far apart for an interval"
        word = "greater" if self.better_direction(measure) is None else "ahead"
        ahead = f"{word} in {sum(gain > 0 for gain in differences)} of {pairs}"
        # Winners that still have the same initial setting, for instance, have equal scores.
        equal = differences.count(0.0)
        if equal:
            ahead += f", equal in {equal}"
        return f"{interval.mean:+.3g}", spread, ahead

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain JSON values."""
        populations = []
        for method, entry in self.entries:
            result = entry.result
            populations.append(
                {
                    "method": method,
                    "seed": entry.seed,
                    "population": entry.run_id,
                    **self.measures(entry),
                    "turns": result.turns,
                    "budget": result.budget,
                    "winner_step": result.winner.step if result.winner else None,
                    "winner_step_over_budget": result.winner_share,
                }
            )
        gains: dict[str, dict[str, Any]] = {}
        for method, intervals in self.gains().items():
            gains[method] = {}
            for measure, interval in intervals.items():
                gains[method][measure] = {
                    **vars(interval),
                    "seeds": len(self.differences(method, measure)),
                    "direction": self.better_direction(measure),
                }
        return {
            "baseline": self.baseline,
            "report_metric": self.report_metric,
            "equal_budgets": self.is_equal,
            "warnings": self.warnings(),
            "notes": self.notes(),
            "populations": populations,
            "gains": gains,
        }

    def table(self) -> str:
        """Every population, and the differences, as Markdown."""
        heads = ["seed", "method", *map(self.title_of, MEASURES)]
        lines = [f"| {' | '.join(heads)} |", "|---" * 5 + "|"]
        order = list(self.methods)
        # Seed by seed, and the control below the methods that are compared with it.
        rows = sorted(self.entries, key=lambda row: (row[1].seed, -order.index(row[0])))
        for method, entry in rows:
            cells = [
                "" if value is None else f"{value:.4g}" for value in self.measures(entry).values()
            ]
            lines.append(f"| {entry.seed} | {method} | {' | '.join(cells)} |")
        for method, gains in self.gains().items():
            lines += ["", f"| {method} against {self.baseline} | mean difference | pairs |"]
            lines.append("|---" * 3 + "|")
            for measure in gains:
                mean, spread, ahead = self.describe_difference(method, measure)
                title = self.title_of(measure)
                unknown = self.better_direction(measure) is None
                title += f", {method} minus {self.baseline}" if unknown else ", better by"
                lines.append(f"| {title} | {mean} ({spread}) | {ahead} |")
        lines += [f"\nwarning: {text}" for text in self.warnings()]
        lines += [f"\n{text}" for text in self.notes()]
        return "\n".join(lines)

    def charts(self) -> dict[str, Chart]:
        """Mean and best score of each population, faint, and of each method, bold."""
        return {name: self._chart(index) for index, name in enumerate(("best", "mean"))}

    def _chart(self, which: int) -> Chart:
        """The chart of the best scores, `which` = 0, or of the mean scores, `which` = 1."""
        data: list[Chart] = []
        for index, (method, populations) in enumerate(self.methods.items()):
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
            dash = "dash" if method == self.baseline else ""
            data.append(line(mean_curve, method, colour, width=3, dash=dash))
        axes = frame(380, x="steps that a member has trained", y="score", yaxis={})
        return {"data": data, "layout": axes}


def page(comparison: Comparison) -> str:
    """The comparison as one HTML page."""
    entry = comparison.methods[comparison.baseline][0]
    place, _, attribute = entry.settings.task.partition(":")
    task = attribute if place == "__main__" else Path(place).stem
    return assemble(f"{task}: methods compared", _body(comparison), comparison.charts())


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


def _population_name(method: str, entry: Entry) -> str:
    """The name of a population in warnings and notes."""
    return f"{method}, seed {entry.seed} ({entry.run_id[:8]})"


def _controls_first(entry: Entry) -> tuple[bool, bool]:
    """A sort key: random search first, and then the other method that copies nobody."""
    return not entry.settings.is_control, entry.settings.method != "successive halving"


def _notes_on_stages(name: str, entry: Entry) -> Iterator[str]:
    """What stages have to do with the numbers of a population; nothing if it has no stages."""
    plan, settings = entry.settings.stage_plan, entry.settings
    if plan is None:
        return
    left = len(entry.scores_at_equal_age)
    if left:
        mean_note = (
            f"its mean score is that of the {left} members that were left after {settings.turns} "
            "turns, the age of the others"
        )
    else:
        mean_note = (
            f"no member came to {settings.turns} turns, so that its mean score is not compared"
        )
    yield (
        f"{name}: its stages {plan} share out the budget otherwise, so that its winner may train "
        f"{plan.ends[-1]} turns where others train {settings.turns}; {mean_note}"
    )
    if plan.unspent and entry.result.turns_each == settings.turns:
        yield (
            f"{name}: its stages leave {plan.unspent} of the {plan.budget} turns of the budget over"
        )


def _method_name(entry: Entry, entries: Sequence[Entry]) -> str:
    """The name of a population's method, with the settings that tell it from similar methods."""
    if entry.settings.is_control:
        return CONTROL
    method = entry.settings.method
    similar = [other.settings for other in entries if other.settings.method == method]
    words = [_SHORT_NAMES.get(method, method)]
    if len({settings.stages for settings in similar}) > 1:
        words.append(entry.settings.stages)
    for name in _METHOD_SETTINGS:
        if len({getattr(settings, name) for settings in similar}) > 1:
            words.append(str(getattr(entry.settings, name)))
    return " ".join(words)
