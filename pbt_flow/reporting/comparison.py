"""The comparison of methods: populations of the same task and budget, paired by seed.

With the same seed, two methods begin with the same members and draw the same random numbers.
Therefore few pairs suffice to show how much better one method is, and an interval says how certain
that is. A single pair proves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pbt_flow.exceptions import ComparisonError
from pbt_flow.population.records import Direction
from pbt_flow.population.result import is_same_effort
from pbt_flow.reporting.comparable import (
    MEASURES,
    Entry,
    check_ended,
    check_equal,
    turns_done,
)
from pbt_flow.utils.interval import Interval
from pbt_flow.utils.means import difference
from pbt_flow.utils.text import listed

CONTROL = "random search"
"""The name of the method that copies nobody."""
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
        for populations in methods.values():
            populations.sort(key=lambda entry: entry.seed)
        _check_seeds(methods)
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
                f"{_population_name(method, entry)} did {turns_done(entry)}"
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


def _check_seeds(methods: Mapping[str, Sequence[Entry]]) -> None:
    """Check that a method has each seed once, and the baseline one that another method has.

    Raises:
        ComparisonError: They have not.
    """
    for method, populations in methods.items():
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
