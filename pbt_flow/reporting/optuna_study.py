"""The turns of a population as an Optuna study, for `optuna.visualization` and the dashboard.

A study takes its trials for independent ones, and turns are not: they inherit weights, and a late
turn scores better whatever its hyperparameters. So `step`, the age of the weights, is a parameter
as well, and an importance that is not small beside that of `step` means something.
"""

from __future__ import annotations

import datetime
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from pbt_flow.population.history import History
from pbt_flow.population.lineage import every_turn
from pbt_flow.population.records import Turn
from pbt_flow.space import Space

STEP = "step"


def study_of(history: History, space: Space, name: str) -> optuna.Study:
    """An in-memory study with a trial for each turn; changing it changes nothing else.

    Its parameters are the turn's hyperparameters and the step of its weights, its value is the
    score, and its user attributes `pbt:...` say whose turn it was. A turn that failed is a failed
    trial.
    """
    study = optuna.create_study(direction=history.direction, study_name=name)
    turns = list(every_turn(history))
    distributions: dict[str, Any] = dict(space)
    if STEP not in space:
        oldest = max((turn.step for turn in turns), default=0)
        distributions[STEP] = IntDistribution(0, max(1, oldest))
    for turn in sorted(turns, key=lambda turn: turn.started):
        study.add_trial(_trial(turn, distributions, {STEP: turn.step, **turn.plan.hparams}))
    return study


def _trial(turn: Turn, distributions: dict[str, Any], params: dict[str, Any]) -> Any:
    attributes: dict[str, Any] = {
        "pbt:member": turn.member,
        "pbt:turn": turn.number,
        "pbt:status": turn.status,
    }
    if (donor := turn.plan.donor) is not None:
        attributes["pbt:donor"] = f"member {donor.member}, turn {donor.turn}: {donor.copies}"
    trial = create_trial(
        state=TrialState.COMPLETE if turn.score is not None else TrialState.FAIL,
        value=turn.score,
        params=params,
        distributions=distributions,
        user_attrs=attributes,
    )
    # Optuna's timeline asks when.
    trial.datetime_start = datetime.datetime.fromtimestamp(turn.started)
    trial.datetime_complete = datetime.datetime.fromtimestamp(turn.ended)
    return trial
