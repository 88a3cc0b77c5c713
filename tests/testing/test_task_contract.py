"""The contract for tasks: a good task keeps it, and each broken one is caught by one sentence."""

import pytest
import sample_tasks

from pbt_flow.exceptions import PBTError
from pbt_flow.population.records import derive_seed
from pbt_flow.testing import TaskContract
from pbt_flow.testing.task_contract import SEED


class TestRegressionContract(TaskContract):
    task = sample_tasks.Regression


class TestDropoutContract(TaskContract):
    task = sample_tasks.WithDropout


class TestScheduleContract(TaskContract):
    task = sample_tasks.ScalesWhatIsAsked


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
        (
            sample_tasks.KeepsItsSchedule,
            "test_rates_are_live_in_the_optimisers_after_restoring_a_donor",
        ),
        (sample_tasks.MakesItsOptimizerAnew, "test_a_turns_end_changes_nothing"),
        (
            sample_tasks.QuotesItsParameters,
            "test_hyperparameters_are_obeyed_after_restoring_a_donor",
        ),
        (sample_tasks.TakesSignedSeeds, "test_scores_are_finite_at_the_middle_of_the_space"),
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


def message(task, sentence, **declared):
    """What a sentence says of a task that does not keep it."""
    contract = type("Contract", (TaskContract,), {"task": task, **declared})()
    with pytest.raises((AssertionError, PBTError)) as caught:
        getattr(contract, sentence)()
    return str(caught.value)


OBEYED = "test_hyperparameters_are_obeyed_after_restoring_a_donor"
LIVE = "test_rates_are_live_in_the_optimisers_after_restoring_a_donor"
END = "test_a_turns_end_changes_nothing"
FINITE = "test_scores_are_finite_at_the_middle_of_the_space"


@pytest.mark.parametrize(
    ("task", "sentence", "ways_out"),
    [
        (
            sample_tasks.KeepsTheDonorsRate,
            OBEYED,
            ["`steps = 100`", "`obeyed = ('batch', 'loss')`"],
        ),
        (
            sample_tasks.QuotesItsParameters,
            OBEYED,
            ["leaves: after a restore", "`steps", "`obeyed"],
        ),
        (sample_tasks.KeepsItsSchedule, LIVE, ["0.0349559", "`live = ('batch', 'loss')`"]),
        (
            sample_tasks.MakesItsOptimizerAnew,
            END,
            ["state['net']['weight']", "`begins_anew = True`"],
        ),
        (sample_tasks.ReadsTheCommandLine, FINITE, ["argparse", "--set batch_size=32"]),
        (sample_tasks.LeavesWhenBuilt, FINITE, ["sys.exit: exit code 2", "--set batch_size=32"]),
        (
            sample_tasks.SavesAnObject,
            "test_the_state_holds_tensors_and_plain_values_only",
            ["state['path'] is a pathlib"],
        ),
        (sample_tasks.SaysTooMuch, "test_the_state_comes_back_bit_for_bit", ["characters in all"]),
    ],
)
def test_a_message_has_at_most_twenty_lines_and_names_the_way_out(task, sentence, ways_out):
    told = message(task, sentence)
    assert len(told.splitlines()) <= 20
    assert all(way in told for way in ways_out), told


@pytest.mark.parametrize(("obeyed", "why"), [((), "leaves no hyperparameter"), (("rl",), "'rl'")])
def test_obeyed_cannot_pass_on_nothing(obeyed, why):
    assert why in message(sample_tasks.Regression, OBEYED, obeyed=obeyed)


@pytest.mark.parametrize(
    ("task", "sentence", "switch"),
    [
        (sample_tasks.KeepsItsSchedule, LIVE, {"live": ("batch",)}),
        (sample_tasks.MakesItsOptimizerAnew, END, {"begins_anew": True}),
        (sample_tasks.QuotesItsParameters, OBEYED, {"obeyed": ("lr", "batch", "loss")}),
    ],
)
def test_what_is_meant_can_be_said(task, sentence, switch):
    contract = type("Contract", (TaskContract,), {"task": task, **switch})()
    getattr(contract, sentence)()


def test_a_turns_seed_is_beyond_what_a_signed_number_holds():
    assert max(derive_seed(SEED, 0, number) for number in (1, 2)) > 2**31 - 1
