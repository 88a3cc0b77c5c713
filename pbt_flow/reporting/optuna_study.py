"""The turns of a population as an Optuna study, for `optuna.visualization` and the dashboard.

Optuna takes the trials of a study to be independent, and turns are not: they inherit weights, and a
late turn scores better whatever its hyperparameters are. Therefore `step`, the age of the weights,
is a parameter of the trials too. The importance of a hyperparameter means something only if it is
not small beside that of `step`.
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
"""The name of the parameter that is the age of the weights."""


def study_of(history: History, space: Space, name: str) -> optuna.Study:
    """An in-memory study with a trial for each turn. To change the study changes nothing else.

    The parameters of a trial are the turn's hyperparameters and the step of its weights, the value
    is the score, and the user attributes `pbt:...` say whose turn it was. A turn that failed is a
    failed trial.
    """
    study = optuna.create_study(direction=history.direction, study_name=name)
    turns = list(every_turn(history))
    distributions: dict[str, Any] = dict(space)
    # A hyperparameter of the task may itself be called `step`; then the age is left out.
    if STEP not in space:
        oldest = max((turn.step for turn in turns), default=0)
        distributions[STEP] = IntDistribution(0, max(1, oldest))
    for turn in sorted(turns, key=lambda turn: turn.started):
        study.add_trial(_trial_of(turn, distributions))
    return study


def _trial_of(turn: Turn, distributions: dict[str, Any]) -> Any:
    attributes: dict[str, Any] = {
        "pbt:member": turn.member,
        "pbt:turn": turn.number,
        "pbt:status": turn.status,
    }
    donor = turn.plan.donor
    if donor is not None:
        attributes["pbt:donor"] = f"member {donor.member}, turn {donor.turn}: {donor.copies}"
        if (other := donor.hparams_of) is not None:
            attributes["pbt:hparams_donor"] = f"member {other.member}, turn {other.turn}: hparams"
    trial = create_trial(
        state=TrialState.COMPLETE if turn.score is not None else TrialState.FAIL,
        value=turn.score,
        params={STEP: turn.step, **turn.plan.hparams},
        distributions=distributions,
        user_attrs=attributes,
    )
    # For Optuna's timeline. `create_trial` itself sets both to the present time.
    trial.datetime_start = datetime.datetime.fromtimestamp(turn.started)
    trial.datetime_complete = datetime.datetime.fromtimestamp(turn.ended)
    return trial
