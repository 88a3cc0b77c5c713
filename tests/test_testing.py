"""The contract for tasks: a good task keeps it, and each broken one is caught by one sentence."""

import pytest
import sample_tasks

from pbt_flow.testing import TaskContract


class TestRegressionContract(TaskContract):
    task = sample_tasks.Regression


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
    ],
)
def test_a_broken_task_is_caught(task, sentence):
    assert sentence in failures(task)


def test_a_good_task_is_not():
    assert failures(sample_tasks.Regression) == set()
