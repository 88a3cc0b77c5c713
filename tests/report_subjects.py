"""What a report is made of, from simulated populations, and the page as a test reads it."""

from __future__ import annotations

import json
import re
from typing import ClassVar

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pbt_flow.population.result import Result
from pbt_flow.reporting.page import page
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.settings import Settings
from pbt_flow.tasks.quadratic import NoisyQuadratic
from pbt_flow.testing.simulation import simulate


class Rich(NoisyQuadratic):
    """A quadratic with hyperparameters of every kind; all but the rate do nothing."""

    space: ClassVar = {
        "lr": FloatDistribution(1e-4, 1, log=True),
        "share": FloatDistribution(-1.0, 1.0),
        "layers": IntDistribution(1, 8),
        "kind": CategoricalDistribution(["<b>", "&", None]),
    }


def subject(control=False, warnings=(), faults=None, **settings) -> ReportData:
    settings = {"turns": 6, "interval": 5, "options": {"dimensions": 3}, **settings}

    def result(**more):
        history = simulate(Rich, faults=faults, **settings, **more).history
        return Result.of(
            history,
            run_id="0123abcd",
            tracking_uri="sqlite:///x.db",
            member_runs=[f"run-{m}" for m in history.members],
            reports={history.winner().checkpoint: {"loss": 0.125}},
            max_failures=3,
            status="finished",
        )

    made, _ = Settings.for_task(Rich, **settings)
    return ReportData(
        result=result(),
        settings=made,
        space=Rich.space,
        warnings=dict(warnings),
        control=result(exploit="none") if control else None,
    )


def text(one: ReportData) -> str:
    """The page without plotly.js."""
    whole = page(one)
    scripts = re.findall(r"<script>.*?</script>", whole, re.DOTALL)
    return whole.replace(max(scripts, key=len), "")


def drawn(one: ReportData) -> dict:
    """The charts as the page holds them."""
    (found,) = re.findall(r'id="charts">(.*?)</script>', text(one), re.DOTALL)
    return json.loads(found)
