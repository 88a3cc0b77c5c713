"""The outcome of a population or a replay on its run: result, schedule, description, metrics."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException

from pbt_flow.exceptions import StoreError
from pbt_flow.population.finalist import Finalist
from pbt_flow.population.result import Result
from pbt_flow.tracking.client import read_text
from pbt_flow.tracking.create import member_name
from pbt_flow.tracking.metric_names import MetricNames
from pbt_flow.tracking.population_runs import PopulationRuns
from pbt_flow.utils.values import Value

RESULT = "result.json"
ARMS = "arms.json"
"""The artifact that says what a replay trains: the schedule, and along what each model trains."""
_DESCRIPTION = "mlflow.note.content"
"""MLflow's tag for the description on a run's page."""


_IS_WINNER = "pbt.is_winner"
"""The tag on the run of the member that won."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a population or a replay on its run."""

    runs: PopulationRuns
    names: MetricNames
    """The names of the task's metrics in MLflow."""

    def conclude(self, result: Result) -> None:
        """Write the result of a population on its run: tags, metrics and `result.json`."""
        tags = {"pbt.status": result.status, _DESCRIPTION: _description(result)}
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
            metrics["average/score"] = average.score
            if average.fresh is not None:
                metrics["average/fresh_score"] = average.fresh.mean
            metrics |= self.names.named("average", average.report)
        elif "pbt.average" in self.runs.tags():
            # An average was handed over before a resume; its tag must not stay.
            tags["pbt.average"] = "none"
        if (own := result.own_average) is not None:
            metrics["own_average/score"] = own.score
            if own.fresh is not None:
                metrics["own_average/fresh_score"] = own.fresh.mean
            metrics |= self.names.named("own_average", own.report)
        if (initial := result.best_initial) is not None:
            metrics |= {"best_initial/score": initial.score}
            metrics |= self.names.named("best_initial", initial.report)
        # The metrics have the time of the last turn and not of this moment. After a kill they are
        # logged once more, and MLflow keeps equal points once.
        ended = (turn.ended for turns in result.history.turns.values() for turn in turns)
        when = int(max(ended, default=0.0) * 1000)
        batch = [Metric(key, float(value), when, result.turns) for key, value in metrics.items()]
        with self.runs.talk():
            self._mark_winner(result)
            # The tags come last: once they say that the population has ended, its result exists.
            self.runs.client.log_dict(self.runs.run_id, result.to_json(), RESULT)
            self.runs.client.log_batch(
                self.runs.run_id,
                metrics=batch,
                tags=[RunTag(key, value) for key, value in tags.items()],
            )

    def _mark_winner(self, result: Result) -> None:
        """Say on the winner's own run that it has won; another may have, before a resume."""
        winner, before = result.winner, self.runs.tags().get("pbt.winner")
        if before is not None and (winner is None or winner.run_id != before):
            with contextlib.suppress(MlflowException):  # The run may have been deleted.
                self.runs.client.delete_tag(before, _IS_WINNER)
        if winner is not None:
            said = f"after turn {winner.turn}: score {winner.score:.4g}"
            self.runs.client.set_tag(winner.run_id, _IS_WINNER, said)

    def describe(self, result: Result) -> None:
        """Write only the description of the population's run, as `conclude` does."""
        self.runs.tag({_DESCRIPTION: _description(result)})

    def result(self) -> dict[str, Any]:
        """Return what `conclude` wrote; nothing if the population has not ended."""
        with self.runs.talk():
            run = self.runs.client.get_run(self.runs.run_id)
        # A resume marks the population as running, but leaves its last result where it is.
        if run.info.status == "RUNNING" or run.data.tags.get("pbt.status", "running") == "running":
            return {}
        plain: dict[str, Any] = json.loads(read_text(self.runs.client, self.runs.run_id, RESULT))
        return plain

    def log_arms(self, plain: Mapping[str, Any]) -> None:
        """Keep the schedule and the arms of a replay, which its resume needs."""
        with self.runs.talk():
            self.runs.client.log_dict(self.runs.run_id, dict(plain), ARMS)

    def arms(self) -> Any:
        """Return what `log_arms` kept.

        Raises:
            StoreError: The artifact does not exist, or is not JSON.
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
        """Write the outcome of a replay: `replay.json`, the means of its arms, and the reports.

        Args:
            told: The content of `replay.json`.
            note: The description on the run's page.
            reports: What `Task.report` measured, by the member that got to the end.
            when: When the last turn ended, in seconds since the epoch. It does not change if the
                outcome is written once more, so that MLflow keeps each point once.
        """
        milliseconds = int(when * 1000)
        metrics: list[Metric] = []
        for arm, outcome in told["arms"].items():
            means: dict[str, float] = {}
            for measure, interval in outcome["mean"].items():
                for part, value in interval.items():
                    # A single model has a mean and no bounds.
                    if value is not None:
                        means[f"{measure}_{part}"] = value
            named = self.names.named(arm, means)
            metrics += [Metric(key, value, milliseconds, 0) for key, value in named.items()]
        tags = [RunTag(_DESCRIPTION, note)]
        with self.runs.talk():
            self.runs.client.log_batch(self.runs.run_id, metrics=metrics, tags=tags)
            for member, report in reports.items():
                named = self.names.named("report", report)
                reported = [Metric(key, value, milliseconds, 0) for key, value in named.items()]
                self.runs.client.log_batch(self.runs.members[member], metrics=reported)
            self.runs.client.log_dict(self.runs.run_id, dict(told), "replay.json")

    def schedule(self) -> dict[str, Any]:
        """Return the content of `schedule.json` on the population's run.

        Raises:
            StoreError: The artifact does not exist, or is not JSON.
        """
        try:
            plain: dict[str, Any] = json.loads(
                read_text(self.runs.client, self.runs.run_id, "schedule.json")
            )
        except (MlflowException, OSError, ValueError):
            raise StoreError(
                f"run {self.runs.run_id} has no readable schedule.json; unless it has no winner "
                f"yet, make it anew with python -m pbt_flow report {self.runs.run_id}"
            ) from None
        return plain


def _description(result: Result) -> str:
    """Return the description for the population's page in the MLflow UI, as Markdown."""
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
    if result.charts:
        place = result.charts.partition("?")[0]
        head += f". [Charts]({result.charts}); "
        head += f"[the whole story]({place}/{result.run_id}/artifacts/report/index.html)"
    rows: list[str] = []
    if result.winner:
        rows.append(_table_row("winner", result.winner))
    if result.average:
        count = len(result.average.parents)
        rows.append(_table_row(f"average of {count} finalists", result.average))
    if result.own_average:
        count = len(result.own_average.parents)
        rows.append(_table_row(f"average of the winner's own last {count}", result.own_average))
    if result.best_initial and result.has_copies:
        rows.append(_table_row(f"best initial setting, {result.fate}", result.best_initial))
    if not rows:
        return head
    table_head = ["| | member | score | report | hyperparameters |", "|---|---|---|---|---|"]
    return "\n".join([head, "", *table_head, *rows])


def _table_row(what: str, finalist: Finalist) -> str:
    report = ", ".join(f"{name} {value:.4g}" for name, value in finalist.report.items()) or "none"
    hparams = ", ".join(_hparam_text(*item) for item in finalist.hparams.items())
    where = f"{member_name(finalist.member)}, turn {finalist.turn} (step {finalist.step:,})"
    return f"| {what} | {where} | {finalist.score:.4g} | {report} | {hparams} |"


def _hparam_text(name: str, value: Value) -> str:
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
