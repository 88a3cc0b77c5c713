"""A turn as the metrics and the tags of its member's run, derived from its record alone."""

from __future__ import annotations

from mlflow.entities import Metric
from optuna.distributions import BaseDistribution, CategoricalDistribution

from pbt_flow.population.records import Donor, Turn
from pbt_flow.space import Space, index_of
from pbt_flow.tracking.create import member_name
from pbt_flow.tracking.metric_names import MetricNames
from pbt_flow.tracking.population_runs import MAX_TAG_LENGTH
from pbt_flow.utils.values import Value


def metrics_of(turn: Turn, space: Space, names: MetricNames) -> list[Metric]:
    """The metrics of a turn.

    Args:
        turn: The turn.
        space: The space of its hyperparameters.
        names: The names of the task's metrics in MLflow.
    """
    plan, when = turn.plan, int(turn.ended * 1000)
    values: dict[str, float] = {
        # A member that copied nobody is its own donor, so that the chart has no gaps.
        "donor": plan.donor.member if plan.donor else turn.member,
        "step": turn.step,
    }
    for name, value in plan.hparams.items():
        values[f"hparam/{name}"] = _hparam_number(value, space[name])
    values |= names.of_turn(turn)
    values |= {f"seconds/{name}": value for name, value in turn.seconds.items()}
    if turn.score is not None:
        values["score"] = turn.score
    if plan.donor is not None and plan.donor.hparams_of is not None:
        values["hparams_donor"] = plan.donor.hparams_of.member
    # This metric comes last, since `projected` takes it as a sign that the others are logged.
    # Only a database logs all of them at once.
    values["turn"] = plan.turn
    # The x axis is the member's own effort, which only grows. MLflow shows the value at the
    # greatest step as the latest one, and the step of the weights may go back after a copy.
    return [Metric(key, float(value), when, plan.trained) for key, value in values.items()]


def _hparam_number(value: Value, dist: BaseDistribution) -> float:
    """Return the number that stands for a hyperparameter's value in a metric."""
    if isinstance(dist, CategoricalDistribution):
        return index_of(value, dist)
    return float(value)  # type: ignore[arg-type]


def tags_of(turn: Turn) -> dict[str, str]:
    """What a turn leaves in the tags of its member's run; nothing if it is without events."""
    tags: dict[str, str] = {}
    if turn.plan.donor:
        tags["pbt.copied"] = _copied_tag(turn.plan.donor)
    if not turn.ok:
        tags["pbt.error"] = _error_tag(turn)
    return tags


def _copied_tag(donor: Donor) -> str:
    """Return whom a member copied, and what it took if that was not everything."""
    taken = {"both": "", "weights": "weights of ", "hparams": "hyperparameters of "}
    text = f"{taken[donor.copies]}{member_name(donor.member)} turn {donor.turn}"
    if (other := donor.hparams_of) is not None:
        text += f", hyperparameters of {member_name(other.member)} turn {other.turn}"
    return text


def _error_tag(turn: Turn) -> str:
    """Return why a turn went wrong: its reason, and as much of the traceback's end as fits."""
    text = f"turn {turn.number} {turn.status}: {turn.error}"
    if len(text) <= MAX_TAG_LENGTH:
        return text
    head = f"turn {turn.number} {turn.status}: {turn.reason}\n\n[...]"
    # The index is negative: it leaves room for the head.
    return head + text[len(head) - MAX_TAG_LENGTH :]
