"""An engine whose turns are really trained, and take simulated time."""

from __future__ import annotations

import copy
import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pbt_flow.engines.base import Engine, LostJob
from pbt_flow.engines.evaluations import evaluate_afresh, evaluate_again, try_restoring
from pbt_flow.engines.jobs import (
    AverageEvaluated,
    CheckNoise,
    CheckRestore,
    Done,
    EvaluateAfresh,
    EvaluateAverage,
    EvaluatedAfresh,
    Inspect,
    Inspection,
    Job,
    NoiseChecked,
    RestoreChecked,
    Retry,
    WorkerContext,
)
from pbt_flow.engines.restore_check import State
from pbt_flow.engines.returned import read_score
from pbt_flow.population.checkpoints import Folders
from pbt_flow.population.records import Checkpoint, Plan, Turn, derive_seed, report_seed
from pbt_flow.space import own_hparams
from pbt_flow.task import Task
from pbt_flow.task.mlflow_capture import MemberRuns
from pbt_flow.testing.simulated_queue import SimulatedQueue

Fault = Literal["raises", "nan", "inf", "dies", "hangs", "taken"]
"""What goes wrong with a try of a turn; `taken` is its machine, which is no fault of the turn."""


@dataclass
class SimulatedEngine(Engine):
    """Runs each turn when it is submitted, and hands it over when the simulated clock says so."""

    task: Callable[[int], Task]
    """Builds a fresh model from a seed."""
    seed: int
    slots: int
    duration: Callable[[Plan, np.random.Generator], float] = lambda plan, rng: 1.0
    """Simulated seconds of a turn."""
    faults: Mapping[tuple[int, int], list[Fault]] = field(default_factory=dict)
    """What goes wrong, by member and turn; each attempt at the turn uses up one."""
    now: float = 0.0
    """The simulated clock, in seconds."""
    states: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    """The checkpoints that exist."""
    most_states: int = 0
    """The greatest number of checkpoints that ever existed at once."""
    log: list[tuple[float, str, int, int]] = field(default_factory=list)
    """What happened, as the time, the event, the member and the turn."""
    committed: list[Turn] = field(default_factory=list)
    """The turns that have a record, in the order in which they ended."""
    beside: list[SimulatedQueue] = field(default_factory=list)
    """The queues whose calls to the store take time beside the turns."""

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(np.random.SeedSequence([self.seed, 10**6]))
        self._pending: list[tuple[float, int, Done | LostJob]] = []
        self._faults = {key: list(kinds) for key, kinds in self.faults.items()}
        self._order = 0

    def start(self, context: WorkerContext, *, slots: int = 1) -> None:
        pass

    def open(self, folders: Folders, runs: MemberRuns | None = None) -> None:
        pass

    def submit(self, job: Job) -> None:
        assert len(self._pending) < self.slots, "more jobs than slots"
        self._order += 1
        if isinstance(job, Inspect):
            self._see(job.checkpoint, "a look")
            if job.samples is not None:
                Path(job.samples, "looked").touch()
            heapq.heappush(self._pending, (self.now + 1.0, self._order, Inspection(request=job)))
            return
        if isinstance(job, EvaluateAfresh | EvaluateAverage):
            # Training is over then, and nothing is left that could be delayed.
            heapq.heappush(self._pending, (self.now, self._order, self._judge(job)))
            return
        if isinstance(job, CheckRestore | CheckNoise):
            self._see(job.checkpoint, "a check")
            # A check takes no simulated time, so that it changes no result of a study.
            heapq.heappush(self._pending, (self.now, self._order, self._check(job)))
            return
        plan, lost = (job.plan, job.lost) if isinstance(job, Retry) else (job, 0.0)
        assert isinstance(plan, Plan), "a simulation runs, looks at, checks and judges turns"
        fault = next(iter(self._faults.get((plan.member, plan.turn), [])), None)
        took = self.duration(plan, self._rng)
        if fault == "hangs" and self.turn_timeout is not None:
            took = self.turn_timeout
        self.log.append((self.now, "begins", plan.member, plan.turn))
        outcome = self._outcome(plan, fault, took)
        if isinstance(outcome, LostJob):
            outcome = replace(outcome, job=job)
        elif lost:
            seconds = {**outcome.seconds, "lost": lost}
            outcome = replace(outcome, started=self.now - lost, seconds=seconds)
        heapq.heappush(self._pending, (self.now + took, self._order, outcome))

    def wait(self, timeout: float | None = None) -> list[Done | LostJob]:
        if timeout is not None and self._pending[0][0] > self.now + timeout:
            self.pass_time(timeout)
            return []
        ends, _, done = heapq.heappop(self._pending)
        # The clock may be further already: a controller that talks to the store itself passes time.
        self._pass_until(max(ends, self.now))
        plan = done.job if isinstance(done, LostJob) else getattr(done, "plan", None)
        if isinstance(plan, Retry):
            plan = plan.plan
        if isinstance(plan, Plan):
            # Only now is the attempt over: one that is lost with its controller is made again, and
            # meets the same fault.
            del self._faults.get((plan.member, plan.turn), [])[:1]
        if isinstance(plan, Plan) and plan.start is not None:
            # Until now the turn might have had to be run again by a worker that must restore, so
            # the checkpoint that it began with must still exist.
            self._see(plan.start, "a turn")
        if isinstance(done, Inspection):
            self._see(done.request.checkpoint, "a look")
        if isinstance(done, RestoreChecked | NoiseChecked):
            self._see(done.check.checkpoint, "a check")
        if isinstance(done, Turn):
            self.committed.append(done)
            self.log.append((self.now, done.status, done.member, done.number))
        return [done]

    def _check(self, check: CheckRestore | CheckNoise) -> Done:
        def load() -> State:
            state = self.states[check.checkpoint.member, check.checkpoint.turn]
            return copy.deepcopy(state)

        if isinstance(check, CheckRestore):
            difference = try_restoring(
                check, self.seed, build=self.task, load=load, through_file=copy.deepcopy
            )
            return RestoreChecked(check=check, difference=difference)
        task = self.task(derive_seed(self.seed, check.member, 0))
        task.load_state_dict(load())
        return NoiseChecked(check=check, scores=evaluate_again(check, self.seed, task))

    def _judge(self, job: EvaluateAfresh | EvaluateAverage) -> Done:
        """Evaluate a record or an average as a worker does; an average is written nowhere."""
        task = self.task(derive_seed(self.seed, job.member, 0))
        asked = [job.checkpoint] if isinstance(job, EvaluateAfresh) else list(job.parents)
        states = []
        for checkpoint in asked:
            self._see(checkpoint, "a judgement")
            states.append(copy.deepcopy(self.states[checkpoint.member, checkpoint.turn]))
        if isinstance(job, EvaluateAfresh):
            task.load_state_dict(states[0])
            scores = evaluate_afresh(job, self.seed, task)
            return EvaluatedAfresh(request=job, scores=scores)
        state = task.average(states)
        if state is None:
            return AverageEvaluated(request=job)
        task.load_state_dict(state)
        scores = evaluate_afresh(job, self.seed, task)
        task.reseed(report_seed(self.seed))
        return AverageEvaluated(
            request=job, scores=scores, metrics=dict(task.report()), checkpoint=asked[0]
        )

    def close(self) -> None:
        self._pending.clear()

    def _see(self, checkpoint: Checkpoint, what: str) -> None:
        """Fail if a checkpoint was deleted that something still needs."""
        place = checkpoint.member, checkpoint.turn
        assert place in self.states, f"{place} was deleted during {what} that needs it"

    def forget_turns_under_way(self) -> None:
        """Lose the outcomes that no controller has received, with the states that they left."""
        for _, _, done in self._pending:
            if isinstance(done, Turn):
                self.states.pop((done.member, done.number), None)
        self._pending.clear()

    def pass_time(self, seconds: float) -> None:
        """Let the simulated clock run on."""
        self._pass_until(self.now + seconds)

    def _pass_until(self, end: float) -> None:
        """Let the clock run on to a moment, and what happens beside the turns happen on the way."""
        while self.beside:
            first = min(self.beside, key=SimulatedQueue.next_event)
            when = first.next_event()
            if when > end:
                break
            self.now = max(self.now, when)
            first.happen()
        self.now = end

    def _outcome(self, plan: Plan, fault: Fault | None, took: float) -> Turn | LostJob:
        if fault in ("dies", "hangs"):
            return LostJob(job=plan, reason=f"the worker {fault}")
        if fault == "taken":
            return LostJob(job=plan, reason="the worker was taken away", blameless=True)
        if fault == "raises":
            return Turn(plan=plan, status="failed", error="raised by the simulation")
        task = self.task(derive_seed(self.seed, plan.member, 0))
        if plan.start is not None:
            task.load_state_dict(copy.deepcopy(self.states[plan.start.member, plan.start.turn]))
        task.reseed(plan.seed)
        metrics = dict(task.train(own_hparams(plan.hparams), plan.steps))
        score, sample = read_score(task.evaluate())
        score = {"nan": math.nan, "inf": math.inf}.get(fault or "", score)
        if not math.isfinite(score):
            return Turn(plan=plan, status="diverged", error=f"the score is {score}")
        self.states[plan.member, plan.turn] = copy.deepcopy(task.state_dict())
        self.most_states = max(self.most_states, len(self.states))
        checkpoint = Checkpoint(member=plan.member, turn=plan.turn, digest="", size=0)
        return Turn(
            plan=plan,
            status="ok",
            score=score,
            sample=sample,
            metrics=metrics,
            checkpoint=checkpoint,
            started=self.now,
            seconds={"train": took},
        )
