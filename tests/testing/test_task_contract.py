"""The contract for tasks: a good task keeps it, and each broken one is caught by one sentence."""

import pytest
import sample_tasks

from pbt_flow.testing import TaskContract


class TestRegressionContract(TaskContract):
    task = sample_tasks.Regression


class TestDropoutContract(TaskContract):
    task = sample_tasks.WithDropout


def failures(task):
    contract = type("Contract", (TaskContract,), {"task": task})()
    found = set()
    for name in dir(contract):
        if name.startswith("test_"):
            try:
                getattr(contract, name)()
            except Exception:
                found.add(name)
    return found


LOOKING = "test_looking_changes_nothing_that_the_next_turn_depends_on"
LOOKED_AT = {
    sample_tasks.TrainsInTheModeThatItFinds: "model",
    sample_tasks.ReportsByTraining: "report",
    sample_tasks.CountsItsSamples: "samples",
    sample_tasks.MovesWhatItShows: "example",
}
"""Tasks that a look changes, and the method that does it."""


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (
            sample_tasks.KeepsTheDonorsRate,
            "test_hyperparameters_are_obeyed_after_restoring_a_donor",
        ),
        (sample_tasks.ForgetsMomentum, "test_a_restored_turn_equals_a_warm_one"),
        (sample_tasks.SavesAnObject, "test_the_state_holds_tensors_and_plain_values_only"),
        (sample_tasks.ExampleOfAnotherSize, "test_the_model_takes_its_example"),
        (sample_tasks.DrawsFromItsOwnGenerator, "test_a_restored_turn_equals_a_warm_one"),
        (sample_tasks.StaysInEvaluation, "test_a_restored_turn_equals_a_warm_one"),
        *((task, LOOKING) for task in LOOKED_AT),
    ],
)
def test_a_broken_task_is_caught(task, sentence):
    assert sentence in failures(task)


@pytest.mark.parametrize(("task", "look"), LOOKED_AT.items())
def test_a_task_that_a_look_changes_is_told_which_look_it_was(task, look):
    contract = type("Contract", (TaskContract,), {"task": task})()
    with pytest.raises(AssertionError, match=rf"of a turn after {look}\(\)"):
        getattr(contract, LOOKING)()


@pytest.mark.parametrize("task", [sample_tasks.Regression, sample_tasks.WithDropout])
def test_a_good_task_is_not(task):
    assert failures(task) == set()
