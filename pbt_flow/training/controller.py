"""Which member trains next, with what, and what is done with what comes out.

    for each member that is ready:
        member = advise(member, history, ...)     # perhaps a donor's weights, moved hyperparameters
        turn = engine runs it                     # restore, train, evaluate, checkpoint, record
        history.add(turn); store.log_turn(turn)

Asynchronous and generational populations differ in `Controller.ready` alone. At the end of a stage
some members leave; between those ends a population in stages is like any other.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from pbt_flow.engines import Engine, LostJob
from pbt_flow.engines.batch import run_batch
from pbt_flow.engines.jobs import (
    CheckNoise,
    CheckRestore,
    Done,
    Inspect,
    Inspection,
    NoiseChecked,
    RestoreChecked,
    Retry,
)
from pbt_flow.exceptions import (
    RecordError,
    StorageError,
    StoreError,
    TakenOver,
)
from pbt_flow.population.history import History, best_of_round
from pbt_flow.population.records import Checkpoint, Member, Plan, Turn, derive_seed
from pbt_flow.settings import Settings
from pbt_flow.strategies.advise import Outlook, advise, quorum_of, should_wait
from pbt_flow.strategies.exploit import in_phase
from pbt_flow.training.checks import Checks
from pbt_flow.training.diagnostics import Diagnostics
from pbt_flow.training.findings import Finding
from pbt_flow.training.found_checkpoints import FoundCheckpoints
from pbt_flow.training.kept_checkpoints import KeptCheckpoints
from pbt_flow.training.log_queue import LogQueue, MakeQueue
from pbt_flow.training.member_index import MemberIndex
from pbt_flow.training.notices import Notices
from pbt_flow.training.protocols import Claim, Planner, PopulationStore, ProgressListener
from pbt_flow.training.round_samples import RoundSamples
from pbt_flow.training.rounds import Rounds
from pbt_flow.training.stage_progress import StageProgress
from pbt_flow.training.store_queues import StoreQueues
from pbt_flow.training.turn_attempts import TurnAttempts
from pbt_flow.training.turn_callbacks import TurnCallbacks
from pbt_flow.training.turn_times import TurnTimes
from pbt_flow.utils.reasons import reason_in
from pbt_flow.utils.text import turn_count

INTERRUPTED = "interrupted"
"""Why a controller ends that somebody has asked to."""
_LEFT_BEHIND = "left behind"
"""The name of the lanes in which superfluous states of earlier controllers are deleted; a member's
number follows."""


@dataclass
class Controller:
    """Decides which member trains next and with what, and what is done with the outcome."""

    settings: Settings
    store: PopulationStore
    engine: Engine
    history: History
    progress: ProgressListener
    clock: Callable[[], float] = time.time
    """Seconds since any fixed moment."""
    pause: Callable[[float], None] = time.sleep
    """Waits for so many seconds."""
    planner: Planner | None = None
    """Who says what a member trains next; None for the decision of PBT."""
    make_queue: MakeQueue = LogQueue
    """Makes the queues of what the store is told. By default its calls are made in this thread."""
    callbacks: TurnCallbacks = field(default_factory=TurnCallbacks)
    """The user's functions that are told of every turn, and may stop the population."""
    claim: int = 1
    """How many times controllers have claimed the population, this one included."""
    logged: dict[int, int] = field(default_factory=dict)
    """Of each member how many turns the store was told of, or is going to be."""
    turns_before: int = field(init=False)
    """How many turns were done when this controller took over."""
    in_flight: dict[int, Plan] = field(default_factory=dict)
    stopping: str = ""
    """Why no more turns begin; empty while they do."""
    quorum_since: dict[int, float] = field(default_factory=dict)
    """Since when, by the clock, enough members have a score of an age for a comparison."""

    def __post_init__(self) -> None:
        self.stages = StageProgress(self.history, self.settings)
        self.member_index = MemberIndex(
            self.stages.turns_to_do,
            self.settings.max_failures,
            # A worker then goes on with the member that it has in memory.
            longest_first=self.planner is not None,
        )
        self.member_index.add_all(self.history.members.values(), self.history.left)
        self.checkpoints = KeptCheckpoints(
            self.history, self.settings, self.member_index, compares=self.planner is None
        )
        self.strategies = self.settings.strategies()
        self.turn_times = TurnTimes(self.settings.turn_timeout, self.store.folders.patience)
        newest = [t for turns in self.history.turns.values() for t in turns[-1:] if t.ok]
        self.turn_times.count(newest)
        self.engine.turn_timeout = self.turn_times.limit
        self.rounds = Rounds(self.history, self.member_index)
        self.began, self.turns_before = self.clock(), self.history.turns_done
        self.diagnostics = Diagnostics(self.history, self.store.space)
        self.notices = Notices(self.progress.say, self._tag)
        self.queues = StoreQueues(
            self.store,
            self.notices,
            self.clock,
            self.pause,
            self.make_queue,
            members=len(self.history.members),
            logged=self.logged,
        )
        self.attempts = TurnAttempts(
            self.history, self.store, self.queues.deletions, self.claim, self.in_flight
        )
        self.round_samples = RoundSamples(
            self.store.artifacts, self.member_index, self.queues.log, self.progress.say
        )
        self.checks = Checks(
            self.settings,
            self.member_index,
            self.diagnostics,
            note=self.notices.note_check,
            warn=self.notices.warn,
        )

    def _tag(self, tags: Mapping[str, str]) -> None:
        self.queues.log.add(partial(self.store.tag, tags))

    def find_checkpoints(self) -> None:
        """Note which checkpoints of the committed turns still exist."""
        to_be_shown = set[Checkpoint]()
        if self.settings.samples == "rounds" and self.planner is None:
            to_be_shown = self.round_samples.still_to_show(self.history)
        found = FoundCheckpoints(
            self.history,
            self.store,
            self.checkpoints.held,
            lambda: self.checkpoints.forget_unneeded(self.checkpoints.held, to_be_shown),
        )
        found.look()
        for member, checkpoints in found.left_over().items():
            # All of a member at once: for each by itself there might be no room in the queue.
            delete = partial(self._delete_all, checkpoints)
            self.queues.deletions.add(delete, lane=(_LEFT_BEHIND, member))
        self.checkpoints.touched.update(self.checkpoints.held)
        # The turns do not say that a straggler has left before somebody has a turn of the next
        # stage. But nobody else's checkpoint is deleted while its member still needs it.
        standing = {member.index: self.history.standing(member) for member in self.living}
        gone = [m for m, own in standing.items() if own and not self.history.has_checkpoint(own)]
        if gone:
            self._end_stage(late=gone)

    # --- who trains next, with what ---

    @property
    def living(self) -> list[Member]:
        """The members that train: they are not retired, and have not left."""
        return self.history.living(self.settings.max_failures)

    def ready(self) -> Member | None:
        """The member that may begin its next turn: of several the one with the fewest turns."""
        if self.settings.mode == "generational":
            return self._ready_generation()
        outlooks: dict[int, Outlook] = {}
        for index in self.member_index.idle():
            member = self.history.members[index]
            if self.planner is not None or self.stages.is_beginning(member):
                return member
            if member.age not in outlooks:
                outlooks[member.age] = self._outlook(member.age)
            if not should_wait(member, self.history, self.stages.exploit, outlooks[member.age]):
                return member
        return None

    def _outlook(self, age: int) -> Outlook:
        """What can still be expected of an age, in an asynchronous population."""
        living, out = self.member_index.alive, self.member_index.out
        now, waited = self.clock(), 0.0
        if self.history.at(age).count(out) >= quorum_of(living):
            since = now - self.quorum_since.setdefault(age, now)
            turn = self.turn_times.median
            waited = since / turn if turn else math.inf
        return Outlook(
            living=living,
            retired=out,
            behind=self.member_index.behind(age),
            is_arriving=self.member_index.is_target(age),
            waited=waited,
        )

    def _ready_generation(self) -> Member | None:
        """The member with the fewest turns, once all others have as many."""
        index = next(self.member_index.idle(), None)
        if index is None:
            return None
        member, late = self.history.members[index], self._late()
        # Half of the population does not wait for the rest that hangs: whoever is late joins the
        # next generation.
        waited = self.in_flight.keys() - self.member_index.left
        if 2 * len(late) <= self.member_index.alive:
            waited -= late
        generation = min((self.in_flight[m].turn for m in waited), default=sys.maxsize)
        return member if member.turn < generation else None

    def _late(self) -> set[int]:
        """The members whose turns under way have taken longer than a turn may."""
        now = self.clock()
        return {member for member in self.in_flight if self.turn_times.is_late(member, now)}

    def plan(self, member: Member) -> Plan:
        """The next turn of a member, after the decision that precedes it."""
        number, seed, advised = member.turn + 1, self.settings.seed, self.decide(member)
        return Plan(
            member=member.index,
            turn=number,
            seed=derive_seed(seed, member.index, number),
            hparams=advised.hparams,
            steps=self.settings.interval,
            start=advised.checkpoint,
            start_step=advised.step,
            trained=member.trained + self.settings.interval,
            donor=advised.donor,
            compared_at=advised.compared_at,
        )

    def decide(self, member: Member) -> Member:
        """How a member goes on."""
        if self.stages.is_beginning(member):
            return replace(member, donor=None, compared_at=None)
        seed = np.random.SeedSequence([self.settings.seed, member.index, member.turn])
        turns, out = None, self.member_index.out
        if self.settings.mode == "generational":
            # Nor may it matter who has been retired in this generation before others began it.
            turns = member.turn
            out = {index for index in out if self.history.members[index].turn <= turns}
        return advise(
            member,
            self.history,
            living=len(self.history.members) - len(out),
            retired=out,
            turns=turns,
            space=self.store.space,
            exploit=in_phase(self.stages.exploit, done=member.turn, turns=self.stages.turns_to_do),
            explore=self.strategies.explore,
            sampler=self.strategies.resample,
            rng=np.random.default_rng(seed),
        )

    def _end_stage(self, late: Collection[int] = ()) -> None:
        """End the present stage if it is over: some members leave, the others have more to do.

        Args:
            late: Members that nobody waits for, beside those whose turns are past the deadline.
        """
        index = self.member_index
        if self.stages.is_last:
            return
        late = self._late().union(late)
        # Every member is looked at only where that may come to something.
        if index.fewest_turns() < index.budget and not late:
            return
        stage = self.history.stage
        left = self.stages.end(late)
        if self.history.stage == stage:
            return
        there = [*self.history.present, *(self.history.members[index] for index in left)]
        index.begin_stage(self.stages.turns_to_do, there, left, busy=self.in_flight)
        # Nobody stands on their checkpoints any more.
        self.checkpoints.touched.update(left)

    def leave(self, member: int, why: str, when: float) -> None:
        """Have the run of a member end that has left."""
        self.queues.log.add(partial(self.store.leave, member, why, when), lane=member)

    def dispatch(self) -> None:
        """Begin turns on the free slots, and before them what rounds are to show."""
        self._end_stage()
        if self.stopping:
            self.checkpoints.touched.update(self.checks.give_up())
        while len(self.in_flight) + self._beside_turns < self.engine.slots:
            aside = self.round_samples.next() or self.checks.next()
            if aside is not None:
                self.engine.submit(aside)
                continue
            member = None if self.stopping or self.queues.must_hold_up() else self.ready()
            if member is None:
                return
            plan = (self.planner or self).plan(member)
            plan = self.attempts.first(plan)
            self.member_index.pop_idle(member, plan.start_step + plan.steps)
            self.member_index.count_use(plan.start)
            self.in_flight[plan.member] = plan
            self.turn_times.begun[plan.member] = self.clock()
            self.engine.submit(plan)

    @property
    def _beside_turns(self) -> int:
        """How many jobs are under way that are no turns."""
        return self.round_samples.under_way + self.checks.under_way

    # --- what is done with the outcome ---

    def go(self, lease: Claim) -> None:
        """Run turns until the budget is spent or something asks for an end.

        Raises:
            EngineError: No turn can be run any more.
            TakenOver: Another controller has taken over.
            StoreError: The tracking store refuses what is logged, or was away for too long.
        """
        self.notices.say_now()
        winner = self.history.winner()
        self.look_for_an_end([winner] if winner else [])
        # A killed controller may have ended all turns, and not told of their rounds, or not deleted
        # what they made superfluous.
        self.log_rounds()
        self.clean()
        self.dispatch()
        while self.in_flight or self._beside_turns or (self.queues.holds_up and not self.stopping):
            if lease.asked_to_stop and not self.stopping:
                self.stopping = INTERRUPTED
                under_way = turn_count(len(self.in_flight))
                self.notices.soon.append(
                    f"asked to stop from elsewhere: finishing {under_way} under way"
                )
            finished = self._wait()
            # Asked before anything is done with the outcome: this process may have been suspended,
            # and the population may belong to another controller now.
            if lease.lost:
                raise TakenOver(f"another controller has taken over population {self.store.run_id}")
            self.notices.tell_waiting(self.engine.waiting_for())
            self.notices.tell_silence(
                lease.is_silent,
                patience=self.store.folders.patience,
                is_told=bool(len(self.queues.log.lanes)),
            )
            self.notices.say_now()
            turns = [turn for done in finished if (turn := self.accept(done)) is not None]
            # Before the next turns begin, so that nothing begins any more if one asks for an end.
            asked = self.callbacks.call(turns, self.history)
            self.stopping = self.stopping or asked
            self.look_for_an_end(turns)
            # First of all, the workers go on.
            self.dispatch()
            for turn in turns:
                self.queues.log_turn(turn)
                self.queues.unwritten.append(turn)
                self.progress.turn(turn, self.history)
            # After their last turns: a run that has ended gets nothing more.
            self.stages.tell(self.progress.say, self.leave)
            self.notices.say_now()
            self.queues.write_full_segment()
            if finished:
                self.log_rounds()
                self.clean()
                self.attempts.discard_later(
                    self.attempts.disputed & {(t.member, t.number) for t in turns}
                )
                # What a round shows is wanted once it is complete.
                self.dispatch()
            self.queues.log.flush()
            if self.queues.holds_up:
                self.dispatch()
            self.notices.say_now()
            self.progress.tick()
        # Somebody may have woken up meanwhile and written after all.
        self.attempts.discard_later(self.attempts.disputed)

    def _wait(self) -> list[Done | LostJob]:
        """Wait for outcomes, or for room in what the store is to be told, for half a second."""
        if self.in_flight or self._beside_turns:
            return self.engine.wait(timeout=0.5)
        self.queues.wait(0.5)
        return []

    def accept(self, done: Done | LostJob) -> Turn | None:
        """Enter an outcome into the history; None if the turn is to be run again."""
        if isinstance(done, Inspection) or (
            isinstance(done, LostJob) and isinstance(done.job, Inspect)
        ):
            self.checkpoints.touched.add(self.round_samples.receive(done).member)
            return None
        if isinstance(done, RestoreChecked | NoiseChecked) or (
            isinstance(done, LostJob) and isinstance(done.job, CheckRestore | CheckNoise)
        ):
            self.checkpoints.touched.add(self.checks.receive(done))
            return None
        if isinstance(done, LostJob):
            plan = done.job.plan if isinstance(done.job, Retry) else done.job
            assert isinstance(plan, Plan)
            if not self.attempts.is_under_way(plan):
                return None
            outcome = self._outcome_of_lost(plan, done)
            if outcome is None:
                return None
            turn = outcome
        else:
            assert isinstance(done, Turn)
            if not self.attempts.is_under_way(done.plan):
                return None
            turn = done
        # In this order: an exception between the two must not leave the turn in neither.
        self._enter(turn)
        self.in_flight.pop(turn.member, None)
        return turn

    def _outcome_of_lost(self, plan: Plan, lost: LostJob) -> Turn | None:
        """The turn of an attempt whose worker was lost; None if it is run again, or given up since
        its member has left.
        """
        turn = self.attempts.committed(plan)
        self.attempts.disputed.add((plan.member, plan.turn))
        if turn is not None:
            return turn
        if self._leaves_without(plan):
            self._forget_turn(plan)
            return None
        began = self.turn_times.begun[plan.member]
        seconds = max(0.0, self.clock() - began)
        is_tried_again = self.attempts.count_loss(plan, blameless=lost.blameless)
        plan = self.attempts.next(plan)
        if is_tried_again:
            self.progress.say(f"{lost.reason}; turn {plan.turn} of member {plan.member} again")
            self.in_flight[plan.member] = plan
            self.engine.submit(Retry(plan=plan, lost=seconds))
            return None
        turn = Turn(
            plan=plan,
            status="lost",
            error=lost.reason,
            started=began,
            seconds={"lost": seconds},
        )
        self.store.folders.commit(turn)
        return turn

    def settle(self) -> int:
        """After an exception in `go`: let what was committed count, and have the store told of it.

        A worker commits its turn some time before the controller hears of it. No worker may be
        alive any more.

        Returns:
            How many turns under way have not happened.
        """
        given_up, answers = 0, True
        for plan in list(self.in_flight.values()):
            if plan.turn <= len(self.history.turns[plan.member]):
                continue
            turn = None
            # The resume reads the record again, and says what is wrong with it.
            with contextlib.suppress(RecordError, StorageError, OSError):
                try:
                    turn = self.attempts.committed(plan) if answers else None
                except StoreError:
                    # Each further turn would wait for as long again.
                    answers = False
            if turn is None:
                given_up += 1
            else:
                self._enter(turn)
        self.in_flight.clear()
        for member, turns in self.history.turns.items():
            for turn in turns[self.logged.get(member, 0) :]:
                self.queues.log_turn(turn)
                self.queues.unwritten.append(turn)
                self.progress.turn(turn, self.history)
        return given_up

    def _leaves_without(self, plan: Plan) -> bool:
        """Whether a turn that was lost need not be run again, since its member has left, or leaves
        now: a straggler past its deadline counts as last.
        """
        limit = self.turn_times.limit
        if limit is not None and self.clock() - self.turn_times.begun[plan.member] >= limit:
            self._end_stage(late={plan.member})
        return plan.member in self.member_index.left

    def _forget_turn(self, plan: Plan) -> None:
        """Give up a turn of a member that has left meanwhile: it is not run again."""
        self.in_flight.pop(plan.member, None)
        self.member_index.count_arrival(plan.start_step + plan.steps)
        self.member_index.count_use(plan.start, -1)
        self.checkpoints.touch([plan.start])

    def _enter(self, turn: Turn) -> None:
        """Move a member on, and note whose checkpoints that may make superfluous."""
        before = self.history.members[turn.member]
        # The best of an age is kept for stragglers; a better one may make it superfluous.
        was_best = self.history.best_at(turn.step, before.group)
        self.history.add(turn)
        member = self.history.members[turn.member]
        self.member_index.count_arrival(turn.plan.start_step + turn.plan.steps)
        self.member_index.remove(before)
        self.member_index.add(member)
        self.member_index.mark_idle(member)
        self.member_index.count_use(turn.plan.start, -1)
        self.notices.tell_notes(turn)
        if turn.ok:
            self.checkpoints.held[turn.member].append(turn)
            self.turn_times.count([turn])
            self.engine.turn_timeout = self.turn_times.limit
        is_present = member.index not in self.member_index.left
        if is_present and member.failures == self.settings.max_failures:
            self.notices.soon.append(
                f"member {member.index} has failed {turn_count(member.failures)} in a row and is "
                f"retired; the last: {turn.reason}"
            )
            self.queues.log.add(partial(self.store.retire, member.index), lane=member.index)
        left = [before.checkpoint, turn.plan.start, *self.checkpoints.pinned]
        self.checkpoints.pin()
        self.checkpoints.touched.add(turn.member)
        if was_best is not None:
            self.checkpoints.touched.add(was_best.member)
        self.checkpoints.touch(left)

    def look_for_an_end(self, turns: Sequence[Turn]) -> None:
        """Stop beginning turns when the time is over, the target is reached or nobody lives."""
        if self.stopping:
            return
        seconds = self.settings.seconds
        if seconds is not None and self.clock() - self.began >= seconds:
            self.stopping = f"{seconds:g} seconds are over"
        elif not self.member_index.alive:
            self.stopping = "every member failed"
        elif self.settings.target is not None and any(map(self._reaches_target, turns)):
            self.stopping = f"the target {self.settings.target:g} is reached"

    def _reaches_target(self, turn: Turn) -> bool:
        if turn.score is None or self.settings.target is None:
            return False
        sign = 1 if self.history.direction == "maximize" else -1
        return sign * turn.score >= sign * self.settings.target

    def log_rounds(self) -> None:
        """Log best and mean score of each round that is now complete, and what it is a sign of."""
        if self.planner is not None:
            return
        rounds_before = self.rounds.done
        for done in self.rounds.complete():
            for sign in self.diagnostics.round(done.number, done.turns):
                self.notices.warn(sign)
            if done.metrics:
                if self.settings.samples == "rounds":
                    self._show(best_of_round(self.history, done.number))
                self.queues.log.add(
                    partial(self.store.log_population, done.metrics, done.step, done.ended)
                )
        if self.rounds.done > rounds_before and not self.stopping:
            newest = [
                turn
                for member in self.living
                for turn in self.checkpoints.held[member.index]
                if turn.number == self.rounds.done
            ]
            self.checks.ask(newest, noisy=self.diagnostics.looks_noisy)

    def _show(self, turn: Turn) -> None:
        """Have a round's best turn looked at, if its checkpoint still exists."""
        if turn in self.checkpoints.held[turn.member]:
            self.round_samples.request(turn)

    def clean(self) -> None:
        """Delete the checkpoints that nobody can need any more."""
        for turn in self.checkpoints.forget_touched():
            assert turn.checkpoint is not None
            # Here, since an engine is talked to by one thread only.
            self.engine.forget(turn.checkpoint)
            self.queues.deletions.add(partial(self._delete, turn.checkpoint), lane=turn.checkpoint)
        self.queues.deletions.flush()

    def _delete_all(self, checkpoints: Iterable[Checkpoint]) -> None:
        for checkpoint in checkpoints:
            self._delete(checkpoint)

    def _delete(self, checkpoint: Checkpoint) -> None:
        if (text := self.store.delete_checkpoint(checkpoint)) is not None:
            self.notices.warn(Finding("deletion", text))

    # --- what came of it ---

    def inspect(
        self, turns: list[Turn], samples: str | None
    ) -> dict[Checkpoint, Mapping[str, float]]:
        """Reports on some turns' checkpoints, and samples of the first."""
        reports = dict[Checkpoint, Mapping[str, float]]()
        checkpoints = dict.fromkeys(
            turn.checkpoint for turn in turns if turn.checkpoint is not None
        )
        looks = [
            Inspect(member=checkpoint.member, checkpoint=checkpoint, samples=None if n else samples)
            for n, checkpoint in enumerate(checkpoints)
        ]
        for done in run_batch(self.engine, looks):
            error = ""
            if isinstance(done, Inspection):
                reports[done.request.checkpoint], error = done.metrics, done.error.strip()
            elif isinstance(done, LostJob):
                error = done.reason
            if error:
                self.progress.say(f"no report: {reason_in(error)}")
        return reports
