"""Machines come and go: that is no fault of a turn, and the user is told what is waited for."""

import pytest
from simulated import Counting, turns_of

from pbt_flow.engines import InlineEngine, LostJob
from pbt_flow.engines.batch import MOST_MOVES, run_batch
from pbt_flow.engines.jobs import EvaluateAfresh
from pbt_flow.population.records import Checkpoint
from pbt_flow.testing.simulated_engine import SimulatedEngine
from pbt_flow.testing.simulation import simulate


def turns_without_time(simulation):
    return {
        (turn.member, turn.number): (turn.plan, turn.status, turn.score, turn.checkpoint)
        for turn in turns_of(simulation)
    }


def test_a_turn_whose_machine_is_taken_away_again_and_again_is_neither_lost_nor_another():
    undisturbed = simulate(Counting, mode="generational")
    disturbed = simulate(Counting, mode="generational", faults={(1, 2): ["taken"] * MOST_MOVES})
    assert turns_without_time(disturbed) == turns_without_time(undisturbed)
    tries = [1 for _, event, m, n in disturbed.engine.log if (event, m, n) == ("begins", 1, 2)]
    assert len(tries) == MOST_MOVES + 1


@pytest.mark.parametrize(
    ("faults", "status"),
    [
        (["taken", "dies", "taken"], "ok"),
        (["dies", "taken", "taken", "taken"], "ok"),
        (["taken", "dies", "taken", "dies"], "lost"),
        # A turn that takes its machine along each time must come to an end.
        (["taken"] * (MOST_MOVES + 2), "lost"),
    ],
)
def test_only_what_is_the_turns_own_fault_is_counted_up_to_a_bound(faults, status):
    assert simulate(Counting, faults={(1, 2): faults}).history.turn(1, 2).status == status


class Moved(InlineEngine):
    """Takes the machine of each job away, so many times."""

    def __init__(self, times):
        super().__init__()
        self.left = {}
        self.times = times
        self.submitted = []

    def submit(self, job):
        self.submitted.append(job.member)
        left = self.left[job.member] = self.left.get(job.member, self.times) - 1
        reason = "it died" if left < 0 else "taken away"
        self._finished.append(LostJob(job=job, reason=reason, blameless=left >= 0))


@pytest.mark.parametrize(("times", "told"), [(0, 0), (3, 3), (MOST_MOVES + 5, MOST_MOVES)])
def test_a_job_of_a_batch_is_run_again_where_its_machine_was_taken_away(times, told):
    engine = Moved(times)
    checkpoint = Checkpoint(member=0, turn=1, digest="", size=0)
    jobs = [EvaluateAfresh(member=member, checkpoint=checkpoint) for member in (0, 1)]
    try:
        done = list(run_batch(engine, jobs))
    finally:
        engine.close()
    assert [one.job.member for one in done] == [0, 1]
    assert engine.submitted == [0] * (told + 1) + [1] * (told + 1)


def test_the_user_is_told_what_the_engine_waits_for_once_for_each_thing(monkeypatch):
    def waiting(engine):
        there = {1: 3, 2: 7}.get(int(engine.now) // 3)
        return f"workers: {there} of 8 are there; the cluster has no free GPU" if there else ""

    monkeypatch.setattr(SimulatedEngine, "waiting_for", waiting)
    said = simulate(Counting).said
    assert [text for text in said if text.startswith("waiting for")] == [
        "waiting for workers: 3 of 8 are there; the cluster has no free GPU",
        "waiting for workers: 7 of 8 are there; the cluster has no free GPU",
    ]
