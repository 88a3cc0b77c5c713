"""What became of a population or a replay, as its run tells it: result, schedule, description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException

from pbt_flow.exceptions import StoreError
from pbt_flow.population.result import Finalist, Result
from pbt_flow.tracking.client import read_text
from pbt_flow.tracking.create import member_name
from pbt_flow.tracking.metric_names import MetricNames
from pbt_flow.tracking.population_runs import PopulationRuns

RESULT = "result.json"
ARMS = "arms.json"
"""What a replay trains: the schedule, and who is trained how."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a population or a replay, as its run tells it."""

    runs: PopulationRuns
    names: MetricNames
    """What the task's metrics are called."""

    def conclude(self, result: Result) -> None:
        """Write what became of the population on its run."""
        tags = {"pbt.status": result.status, "mlflow.note.content": _note(result)}
        metrics: dict[str, float] = {}
        if (winner := result.winner) is not None:
            tags |= {
                "pbt.winner": winner.run_id,
                "pbt.winner_member": str(winner.member),
                "pbt.winner_turn": str(winner.turn),
            }
            metrics |= {"winner/score": winner.score}
            if winner.fresh is not None:
                metrics["winner/fresh_score"] = winner.fresh.mean
            metrics |= self.names.named("winner", winner.report)
        if (average := result.average) is not None:
            tags["pbt.average"] = average.parents_told
            if average.fresh is not None:
                metrics["average/fresh_score"] = average.fresh.mean
            metrics |= self.names.named("average", average.report)
        if (initial := result.best_initial) is not None:
            metrics |= {"best_initial/score": initial.score}
            metrics |= self.names.named("best_initial", initial.report)
        # The last record's time, and not now: what is said again after a kill must change nothing.
        ended = (turn.ended for turns in result.history.turns.values() for turn in turns)
        when = int(max(ended, default=0.0) * 1000)
        batch = [Metric(key, float(v), when, result.turns) for key, v in metrics.items()]
        with self.runs.talk():
            # The tags last: where they say that the population has ended, its result is there.
            self.runs.client.log_dict(self.runs.run_id, result.to_json(), RESULT)
            self.runs.client.log_batch(
                self.runs.run_id, metrics=batch, tags=[RunTag(k, v) for k, v in tags.items()]
            )

    def describe(self, result: Result) -> None:
        """Write the description of the population's run anew, as `conclude` does."""
        self.runs.tag({"mlflow.note.content": _note(result)})

    def result(self) -> dict[str, Any]:
        """What `conclude` wrote, or nothing where the population has not ended."""
        with self.runs.talk():
            run = self.runs.client.get_run(self.runs.run_id)
        if run.info.status == "RUNNING" or run.data.tags.get("pbt.status", "running") == "running":
            return {}
        told: dict[str, Any] = json.loads(read_text(self.runs.client, self.runs.run_id, RESULT))
        return told

    def log_arms(self, plain: Mapping[str, Any]) -> None:
        """Keep the schedule and the arms of a replay, which its resume needs."""
        with self.runs.talk():
            self.runs.client.log_dict(self.runs.run_id, dict(plain), ARMS)

    def arms(self) -> Any:
        """What `log_arms` kept.

        Raises:
            StoreError: There is none, or it is not JSON.
        """
        try:
            return json.loads(read_text(self.runs.client, self.runs.run_id, ARMS))
        except (MlflowException, OSError, ValueError):
            raise StoreError(
                f"run {self.runs.run_id} has no readable {ARMS}, so nothing says what it was to "
                "train; begin another replay"
            ) from None

    def log_replay(
        self,
        told: Mapping[str, Any],
        note: str,
        reports: Mapping[int, Mapping[str, float]],
        when: float,
    ) -> None:
        """Write what came of a replay: `replay.json`, the means of its arms, each report.

        Args:
            told: What `replay.json` is to hold.
            note: The description on the run's page.
            reports: What was measured of each model that got to the end.
            when: The end of its last turn, and not now: what is said twice must change nothing.
        """
        now = int(when * 1000)
        metrics = []
        for arm, found in told["arms"].items():
            parts = {
                f"{key}_{part}": value
                for key, interval in found["mean"].items()
                for part, value in interval.items()
                if value is not None
            }
            named = self.names.named(arm, parts)
            metrics += [Metric(key, value, now, 0) for key, value in named.items()]
        tags = [RunTag("mlflow.note.content", note)]
        with self.runs.talk():
            self.runs.client.log_batch(self.runs.run_id, metrics=metrics, tags=tags)
            for member, report in reports.items():
                named = self.names.named("report", report)
                found = [Metric(key, value, now, 0) for key, value in named.items()]
                self.runs.client.log_batch(self.runs.members[member], metrics=found)
            self.runs.client.log_dict(self.runs.run_id, dict(told), "replay.json")

    def schedule(self) -> dict[str, Any]:
        """What `schedule.json` on the population's run holds.

        Raises:
            StoreError: There is none, or it is not JSON.
        """
        try:
            told: dict[str, Any] = json.loads(
                read_text(self.runs.client, self.runs.run_id, "schedule.json")
            )
        except (MlflowException, OSError, ValueError):
            raise StoreError(
                f"run {self.runs.run_id} has no readable schedule.json; unless it has no winner "
                f"yet, make it anew with python -m pbt_flow report {self.runs.run_id}"
            ) from None
        return told


def _note(result: Result) -> str:
    """The description on the population's page in the MLflow UI; the headline comes first."""

    def row(what: str, one: Finalist) -> str:
        report = ", ".join(f"{name} {value:.4g}" for name, value in one.report.items()) or "none"
        hparams = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in one.hparams.items()
        )
        where = f"{member_name(one.member)}, turn {one.turn} (step {one.step:,})"
        return f"| {what} | {where} | {one.score:.4g} | {report} | {hparams} |"

    rows = [row("winner", result.winner)] if result.winner else []
    if result.average:
        rows.append(row(f"average of {len(result.average.parents)} finalists", result.average))
    if result.best_initial and result.has_copies:
        rows.append(row(f"best initial setting, {result.fate}", result.best_initial))
    head = f"**{result.headline}**, {result.status}: {result.members} members, "
    head += f"{result.turns} turns"
    if result.left:
        head += f", {result.left} of which left at the end of a stage"
    if result.retired:
        head += f", {result.retired} retired"
    if result.reason:
        head += f" ({result.reason.splitlines()[0]})"
    if result.budget_note:
        head += f"; {result.budget_note}"
    table = ["| | member | score | report | hyperparameters |", "|---|---|---|---|---|", *rows]
    if result.charts:
        head += f". [Charts]({result.charts}); the whole story is in the artifact report/index.html"
    return "\n".join([head, "", *table]) if rows else head
