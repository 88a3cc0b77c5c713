"""A population as an Optuna study."""

from __future__ import annotations

from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState
from report_subjects import Rich

import pbt_flow
from pbt_flow.population.lineage import every_turn
from pbt_flow.reporting.optuna_study import study_of
from pbt_flow.testing.simulation import simulate


def history(**settings):
    return simulate(
        Rich, population=6, turns=8, interval=5, options={"dimensions": 5}, seed=1, **settings
    ).history


def test_each_turn_is_a_trial_with_its_score_hyperparameters_and_step():
    there = history()
    study = study_of(there, Rich.space, "mine")
    assert len(study.trials) == 48
    assert study.best_value == min(t.score for t in every_turn(there))
    found = {
        (t.user_attrs["pbt:member"], t.user_attrs["pbt:turn"]): (t.value, t.params)
        for t in study.trials
    }
    for turn in every_turn(there):
        params = {"step": turn.step, **turn.plan.hparams}
        assert found[turn.member, turn.number] == (turn.score, params)
    donors = sum("pbt:donor" in trial.user_attrs for trial in study.trials)
    assert donors == sum(turn.plan.donor is not None for turn in every_turn(there)) > 0


def test_a_turn_that_failed_is_a_failed_trial():
    study = study_of(history(faults={(2, 3): ["raises"], (0, 1): ["nan"]}), Rich.space, "mine")
    failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert {(t.user_attrs["pbt:member"], t.user_attrs["pbt:status"]) for t in failed} == {
        (2, "failed"),
        (0, "diverged"),
    }


def test_optuna_can_work_with_it():
    study = study_of(history(), Rich.space, "mine")
    importances = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    assert set(importances) == {"step", *Rich.space}


def test_a_run_id_is_enough(database):
    result = pbt_flow.run("sample_tasks:Regression", turns=2, engine="inline", quiet=True)
    study = pbt_flow.to_study(result.run_id)
    assert study.study_name == result.run_id
    assert study.best_value == min(t.score for t in every_turn(result.history))
    assert study.direction.name == "MINIMIZE"
