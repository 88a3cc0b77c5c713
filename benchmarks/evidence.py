"""What the measured pairs of `benchmarks.domains` say, worked out anew and without training.

    python -m benchmarks.evidence                                 # each method beside random search
    python -m benchmarks.evidence --tasks translation --against "halving, narrow"

`reports.json` has the report of each run in the tables of docs/results.md. New ones are entered by
`benchmarks.domains --record`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pbt_flow.utils.interval import Interval

REPORTS = Path(__file__).with_name("reports.json")
CONTROL = "random search"

Reports = dict[str, dict[str, dict[str, float]]]
"""Of each task and method the report of what each seed handed over. Seeds are text, as in JSON."""


def recorded() -> Reports:
    """The reports that were measured."""
    reports: Reports = json.loads(REPORTS.read_text("utf-8"))
    return reports


def record(new: Reports) -> None:
    """Enter reports among the recorded ones; one that is there already is replaced."""
    reports = recorded()
    for task, methods in new.items():
        for method, seeds in methods.items():
            reports.setdefault(task, {}).setdefault(method, {}).update(seeds)
    text = json.dumps(reports, indent=2)
    # The seeds of a method on one line.
    text = re.sub(r"\{\s+(\"\d[^{}]*?)\s+\}", lambda m: f"{{{' '.join(m[1].split())}}}", text)
    REPORTS.write_text(f"{text}\n", "utf-8")


def sign_flip(differences: Sequence[float]) -> float:
    """The two-sided p-value of the sign-flip permutation test of a mean of zero, exact.

    It assumes no normal distribution. The least that n pairs can give is 2 / 2**n.
    """
    count = len(differences)
    observed = abs(sum(differences))
    signs = itertools.product((1, -1), repeat=count)
    sums = (abs(sum(s * d for s, d in zip(flips, differences, strict=True))) for flips in signs)
    # Equal sums may differ in the last digit by the order of adding.
    extreme = sum(total >= observed * (1 - 1e-12) for total in sums)
    return extreme / 2**count


@dataclass(frozen=True)
class Pairs:
    """By how much one method is better than another with the same seeds."""

    differences: list[float]

    @classmethod
    def of(
        cls, own: Mapping[str, float], other: Mapping[str, float], *, minimize: bool = False
    ) -> Pairs:
        """The pairs of the seeds that both methods have; a positive difference is better."""
        sign = -1 if minimize else 1
        return cls([sign * (own[seed] - other[seed]) for seed in own if seed in other])

    @property
    def told(self) -> str:
        """The mean difference with its 95% interval."""
        found = Interval.of(self.differences)
        return f"{found.mean:+.3g}" + (f" ({found.bounds})" if found.bounds else "")

    @property
    def ahead(self) -> str:
        """In how many pairs the method is better."""
        return f"{sum(d > 0 for d in self.differences)} of {len(self.differences)}"

    @property
    def cells(self) -> list[str]:
        """The difference, in how many pairs it is positive, and the sign-flip test's p-value."""
        if not self.differences:
            return ["", "", ""]
        return [self.told, self.ahead, f"{sign_flip(self.differences):.3g}"]


def table(methods: Mapping[str, Mapping[str, float]], against: str) -> str:
    """Each method beside one of them."""
    lines = [f"| method | mean report | better than {against} by | ahead in | sign-flip p |"]
    lines.append("|---" * 5 + "|")
    for method, seeds in methods.items():
        cells = [method, f"{fmean(seeds.values()):.4g}"]
        cells += ["", "", ""] if method == against else Pairs.of(seeds, methods[against]).cells
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print a table for each task."""
    reports = recorded()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--tasks", nargs="+", choices=list(reports), default=list(reports))
    parser.add_argument("--against", metavar="METHOD", default=CONTROL, help="default: %(default)s")
    given = parser.parse_args()
    for task in given.tasks:
        if given.against not in reports[task]:
            parser.error(
                f"{task} has no {given.against!r}, but {', '.join(map(repr, reports[task]))}"
            )
        print(f"\n### {task}\n\n{table(reports[task], given.against)}")


if __name__ == "__main__":
    main()
