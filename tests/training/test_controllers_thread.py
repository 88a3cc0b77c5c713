"""Nothing that a controller does while turns are under way waits for a request to a store."""

import threading
from collections import Counter

import pytest
from requests_seen import requests_seen
from sample_tasks import Regression

import pbt_flow
from pbt_flow.commands import launch, publish
from pbt_flow.engines import InlineEngine, LostJob
from pbt_flow.engines.jobs import Retry
from pbt_flow.population.records import Plan
from pbt_flow.training.controller import Controller

pytestmark = pytest.mark.usefixtures("database")


class Losing(InlineEngine):
    """Loses the first try of member 0's second turn, and both of its third."""

    tries = Counter()

    def submit(self, job):
        plan = job.plan if isinstance(job, Retry) else job
        if isinstance(plan, Plan) and plan.member == 0 and plan.turn in (2, 3):
            self.tries[plan.turn] += 1
            if self.tries[plan.turn] <= plan.turn - 1:
                self._finished.append(LostJob(job=job, reason="the worker died"))
                return
        super().submit(job)


class Failing(Regression):
    """Fails for good in the weakest members, so that they are retired."""

    def train(self, hparams, steps):
        if hparams["lr"] < 0.003:
            raise ValueError("too slow")
        return super().train(hparams, steps)


@pytest.fixture
def asked(monkeypatch):
    """The requests that are made while the controller gives out turns."""
    with requests_seen() as requests:
        go = Controller.go

        def looked_at(self, lease):
            with requests.looking():
                return go(self, lease)

        monkeypatch.setattr(Controller, "go", looked_at)
        yield requests


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "generational", "turns": 4, "max_failures": 1, "samples": "rounds"},
        {"stages": "4x4:both,2x2:both", "turns": 5},
    ],
)
def test_the_controllers_thread_makes_no_request_while_turns_are_under_way(
    asked, settings, monkeypatch
):
    """Whatever happens: copies, lost and failed turns, members that leave, reports on the way."""
    monkeypatch.setattr(launch, "InlineEngine", Losing)
    monkeypatch.setattr(publish, "_REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(publish, "_MOST_TIME_SHARE", 1.0)
    monkeypatch.setattr(Losing, "tries", Counter())
    result = pbt_flow.run(Failing, engine="inline", population=4, seed=3, quiet=True, **settings)
    assert result.status == "finished"
    assert [turn.status for turn in result.history.turns[0]][:3] == ["ok", "ok", "lost"]
    assert asked.seen, "nobody was seen to ask for anything"
    assert asked.by(threading.current_thread()) == []
