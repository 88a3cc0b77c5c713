"""What the first turn of a population waits for, and the first turn after a resume."""

import functools
import threading
from collections import Counter

import pytest
from mlflow.tracking import MlflowClient
from sample_tasks import Regression

import pbt_flow
from pbt_flow.engines.worker import Worker
from pbt_flow.tracking.store import Store


@pytest.fixture
def waited_for(monkeypatch):
    """What the controller's own thread has had MLflow's client do before the first turn began."""
    calls, begun = Counter(), threading.Event()

    def counting(name, original):
        @functools.wraps(original)
        def counted(*arguments, **named):
            if threading.current_thread() is threading.main_thread() and not begun.is_set():
                calls[name] += 1
            return original(*arguments, **named)

        return counted

    for name, original in list(vars(MlflowClient).items()):
        if callable(original) and not name.startswith("_"):
            monkeypatch.setattr(MlflowClient, name, counting(name, original))
    run = Worker.run

    def runs(self, *arguments, **named):
        begun.set()
        return run(self, *arguments, **named)

    monkeypatch.setattr(Worker, "run", runs)

    def forget():
        calls.clear()
        begun.clear()
        return calls

    return forget


def test_a_first_turn_waits_for_one_request_of_each_member_its_run(waited_for, trained):
    trained()  # The first population of all marks the experiment.
    calls = waited_for()
    made = []
    for members in (2, 6):
        waited_for()
        pbt_flow.run(Regression, engine="inline", population=members, turns=1, quiet=True)
        made.append(Counter(calls))
    assert made[1] - made[0] == Counter(create_run=4)
    assert made[0] - made[1] == Counter()


def test_a_resume_waits_for_as_many_requests_whatever_the_number_of_members(waited_for, trained):
    runs = trained({"population": 2, "turns": 3}, {"population": 6, "turns": 3})
    calls = waited_for()
    asked = []
    for result in runs:
        waited_for()
        pbt_flow.resume(result.run_id, turns=4, quiet=True)
        asked.append(Counter(calls))
    assert asked[0] == asked[1]
    for result in runs:
        for run in Store.open(result.run_id).members:
            assert MlflowClient().get_run(run).info.status == "FINISHED"


def test_a_run_that_somebody_has_taken_the_tags_from_is_found_all_the_same(trained):
    (result,) = trained({"population": 3})
    run_id = Store.open(result.run_id).members[1]
    MlflowClient().delete_tag(run_id, "pbt.population")
    assert pbt_flow.load(result.run_id).turns == result.turns
    assert pbt_flow.resume(result.run_id, turns=3, quiet=True).turns == 9
