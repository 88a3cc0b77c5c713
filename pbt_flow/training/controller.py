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
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from pbt_flow.engines import Engine, LostJob
from pbt_flow.engines.batch import MOST_MOVES, run_batch
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
    StoreUnavailable,
    TakenOver,
)
from pbt_flow.population.history import History, best_of_round
from pbt_flow.population.lineage import own_records
from pbt_flow.population.records import Checkpoint, Member, Plan, Turn, derive_seed, fitted_turn
from pbt_flow.population.turn_files import Attempt
from pbt_flow.settings import Settings
from pbt_flow.strategies.advise import Outlook, advise, quorum_of, should_wait
from pbt_flow.strategies.exploit import in_phase
from pbt_flow.training.checks import Checks
from pbt_flow.training.diagnostics import Diagnostics
from pbt_flow.training.findings import Finding
from pbt_flow.training.found_checkpoints import FoundCheckpoints
from pbt_flow.training.log_queue import LogCall, LogQueue, MakeQueue
from pbt_flow.training.member_index import MemberIndex
from pbt_flow.training.protocols import Claim, Planner, PopulationStore, ProgressListener
from pbt_flow.training.retention import removable
from pbt_flow.training.round_samples import RoundSamples
from pbt_flow.training.rounds import Rounds
from pbt_flow.training.stage_progress import StageProgress
from pbt_flow.training.turn_callbacks import TurnCallbacks
from pbt_flow.training.turn_times import TurnTimes
from pbt_flow.utils.reasons import reason_in
from pbt_flow.utils.text import turn_count

INTERRUPTED = "interrupted"
"""Why a controller ends that somebody has asked to."""
_MOST_UNTOLD = 20_000
"""How many things may wait to be logged before no turn begins any more: about what a thousand
members do in the ten minutes for which a store may be silent. Each takes kilobytes of memory."""
_LONG_HOLD = 10.0
"""Seconds for which no turn begins before the user is told."""
_SEGMENT = 500
"""How many turns the journal gets at once; a resume reads so many records one by one at most."""
_LEFT_BEHIND = "left behind"
"""The name of the lanes in which superfluous states of earlier controllers are deleted; a member's
number follows."""
_ATTEMPTS = "attempts"
"""The lane in which what lost attempts have left is deleted."""
_TRIES = 2
"""How often a turn whose worker dies is run before it counts as lost."""


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
    in_flight: dict[int, Plan] = field(default_factory=dict)
    held: dict[int, list[Turn]] = field(default_factory=lambda: defaultdict(list))
    """Of each member the turns whose checkpoints exist, oldest first."""
    disputed: set[tuple[int, int]] = field(default_factory=set)
    """The turns, by member and number, at which there may have been several attempts."""
    moves: Counter[tuple[int, int]] = field(default_factory=Counter)
    """For each member and turn, how often its machine was taken away."""
    told_waiting: str = ""
    """What the engine waits for, as the user was told last."""
    told_silent: bool = False
    """Whether the user knows that the tracking store does not answer."""
    soon: deque[str] = field(default_factory=deque)
    """What the user is told as soon as nothing else is being said."""
    stopping: str = ""
    """Why no more turns begin; empty while they do."""
    held_up: bool = False
    """Whether no turn begins for now, since the store has not been told of too many."""
    held_up_since: float = 0.0
    """Since when, by the clock; infinity once the user was told."""
    quorum_since: dict[int, float] = field(default_factory=dict)
    """Since when, by the clock, enough members have a score of an age for a comparison."""
    unwritten: list[Turn] = field(default_factory=list)
    """Committed turns that the journal does not have yet."""
    noted: set[str] = field(default_factory=set)
    """The topics of turns' notes that the user has been told."""
    touched: set[int] = field(default_factory=set)
    """Members of whose checkpoints one may have become superfluous."""

    def __post_init__(self) -> None:
        self.stages = StageProgress(self.history, self.settings)
        self.member_index = MemberIndex(
            self.stages.turns_to_do,
            self.settings.max_failures,
            # A worker then goes on with the member that it has in memory.
            longest_first=self.planner is not None,
        )
        self.member_index.add_all(self.history.members.values(), self.history.left)
        self.pinned: list[Checkpoint] = []
        self._pin()
        self.undecided = self.member_index.undecided()
        self.strategies = self.settings.strategies()
        self.turn_times = TurnTimes(self.settings.turn_timeout, self.store.folders.patience)
        newest = [t for turns in self.history.turns.values() for t in turns[-1:] if t.ok]
        self.turn_times.count(newest)
        self.engine.turn_timeout = self.turn_times.limit
        self.rounds = Rounds(self.history, self.member_index)
        self.began = self.clock()
        self.diagnostics = Diagnostics(self.history, self.store.space)
        self.log_queue = self.make_queue(
            self.progress.say,
            self.clock,
            self.pause,
            limit=_MOST_UNTOLD,
            waits="what is logged",
        )
        # Apart from the others, since the disk that has the checkpoints may be there when the
        # tracking store is not. What waits here takes room: a checkpoint for each member.
        self.deletions = self.make_queue(
            self.progress.say,
            self.clock,
            self.pause,
            limit=2 * len(self.history.members),
            waits="what is to be deleted",
        )
        self.round_samples = RoundSamples(
            self.store.artifacts, self.member_index, self.log_queue, self.progress.say
        )
        self.checks = Checks(
            self.settings, self.member_index, self.diagnostics, note=self._note, warn=self._warn
        )

    def find_checkpoints(self) -> None:
        """Note which checkpoints of the committed turns still exist."""
        to_be_shown = set[Checkpoint]()
        if self.settings.samples == "rounds" and self.planner is None:
            to_be_shown = self.round_samples.still_to_show(self.history)
        found = FoundCheckpoints(
            self.history,
            self.store,
            self.held,
            lambda: self._forget_unneeded(self.held, to_be_shown),
        )
        found.look()
        for member, checkpoints in found.left_over().items():
            # All of a member at once: for each by itself there might be no room in the queue.
            delete = partial(self._delete_all, checkpoints)
            self.deletions.add(delete, lane=(_LEFT_BEHIND, member))
        self.touched.update(self.held)

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
        self.touched.update(left)

    def leave(self, member: int, why: str, when: float) -> None:
        """Have the run of a member end that has left."""
        self.log_queue.add(partial(self.store.leave, member, why, when), lane=member)

    def dispatch(self) -> None:
        """Begin turns on the free slots, and before them what rounds are to show."""
        self._end_stage()
        if self.stopping:
            self.touched.update(self.checks.give_up())
        while len(self.in_flight) + self._beside_turns < self.engine.slots:
            aside = self.round_samples.next() or self.checks.next()
            if aside is not None:
                self.engine.submit(aside)
                continue
            member = None if self.stopping or self._must_hold_up() else self.ready()
            if member is None:
                return
            plan = (self.planner or self).plan(member)
            plan = replace(plan, attempt=Attempt(claim=self.claim, number=1))
            self.member_index.pop_idle(member, plan.start_step + plan.steps)
            self.member_index.count_use(plan.start)
            self.in_flight[plan.member] = plan
            self.turn_times.begun[plan.member] = self.clock()
            self.engine.submit(plan)

    def _must_hold_up(self) -> bool:
        """Whether no turn may begin, since too much waits for the store."""
        waiting, unneeded = len(self.log_queue.lanes), len(self.deletions.lanes)
        full = self.log_queue.is_full or self.deletions.is_full
        if full and not self.held_up:
            self.held_up_since = self.clock()
        # Where turns take milliseconds the store is often behind for a moment, which is no news.
        if full and self.clock() >= self.held_up_since + _LONG_HOLD:
            self.held_up_since = math.inf
            self.soon.append(
                f"{waiting} things wait to be logged and {unneeded} checkpoints to be deleted; no "
                "turn begins until the store has caught up"
            )
        self.held_up = full
        return full

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
        self._say_now()
        winner = self.history.winner()
        self.look_for_an_end([winner] if winner else [])
        # A killed controller may have ended all turns, and not told of their rounds, or not deleted
        # what they made superfluous.
        self.log_rounds()
        self.clean()
        self.dispatch()
        while self.in_flight or self._beside_turns or (self.held_up and not self.stopping):
            if lease.asked_to_stop and not self.stopping:
                self.stopping = INTERRUPTED
                under_way = turn_count(len(self.in_flight))
                self.soon.append(f"asked to stop from elsewhere: finishing {under_way} under way")
            finished = self._wait()
            # Asked before anything is done with the outcome: this process may have been suspended,
            # and the population may belong to another controller now.
            if lease.lost:
                raise TakenOver(f"another controller has taken over population {self.store.run_id}")
            self._tell_waiting()
            self._tell_silence(lease)
            self._say_now()
            turns = [turn for done in finished if (turn := self.accept(done)) is not None]
            # Before the next turns begin, so that nothing begins any more if one asks for an end.
            asked = self.callbacks.call(turns, self.history)
            self.stopping = self.stopping or asked
            self.look_for_an_end(turns)
            # First of all, the workers go on.
            self.dispatch()
            for turn in turns:
                self.log_turn(turn)
                self.unwritten.append(turn)
                self.progress.turn(turn, self.history)
            # After their last turns: a run that has ended gets nothing more.
            self.stages.tell(self.progress.say, self.leave)
            self._say_now()
            if len(self.unwritten) >= _SEGMENT:
                self._write_journal()
            if finished:
                self.log_rounds()
                self.clean()
                self._discard_later(self.disputed & {(t.member, t.number) for t in turns})
                # What a round shows is wanted once it is complete.
                self.dispatch()
            self.log_queue.flush()
            if self.held_up:
                self.dispatch()
            self._say_now()
            self.progress.tick()
        # Somebody may have woken up meanwhile and written after all.
        self._discard_later(self.disputed)

    def _wait(self) -> list[Done | LostJob]:
        """Wait for outcomes, or for room in what the store is to be told, for half a second."""
        if self.in_flight or self._beside_turns:
            return self.engine.wait(timeout=0.5)
        full = self.log_queue if self.log_queue.is_full else self.deletions
        full.wait(0.5)
        return []

    def log_turn(self, turn: Turn) -> None:
        """Have the store told of a turn."""
        self.log_queue.add_item(self._tell_turns, turn, lane=turn.member)
        self.logged[turn.member] = turn.number

    def _tell_turns(self, turns: Sequence[Turn]) -> None:
        """Tell the store of turns of one member, and the user of the names of their metrics."""
        if (text := self.store.log_turns(turns)) is not None:
            self._warn(Finding("names", text))

    def _write_journal(self) -> None:
        """Have the store write what the journal does not have yet."""
        for first in range(0, len(self.unwritten), _SEGMENT):
            turns = self.unwritten[first : first + _SEGMENT]
            # Not behind what is logged: of a resume's requests those for turns that the journal
            # lacks would be most, and a killed controller may have thousands to log.
            self.deletions.add(partial(self.store.log_records, turns), lane="journal")
        self.unwritten = []

    def drain(self) -> None:
        """Have the store told all that it is to know so far, and wait for it.

        Raises:
            StoreError: The tracking store refuses what is logged, or was away for too long.
        """
        self._write_journal()
        # First the deletions: they may have something to be logged.
        self.deletions.flush_and_wait()
        self.log_queue.flush_and_wait()
        self._say_now()

    def say_last(self, calls: Sequence[LogCall]) -> None:
        """Have the store told how it ended, once it knows all that came before.

        Each call is made in this thread, after the one before.

        Raises:
            StoreError: The tracking store refuses what is logged, or was away for too long.
        """
        self.drain()
        last = LogQueue(self.progress.say, self.clock, self.pause)
        for call in calls:
            last.add(call)
        last.flush_and_wait()

    def close(self) -> None:
        """Give up what the store has not been told: it follows from the turns."""
        self.deletions.close()
        self.log_queue.close()

    def _tell_waiting(self) -> None:
        """Tell the user what the engine waits for, once for each thing."""
        waiting = self.engine.waiting_for()
        if waiting and waiting != self.told_waiting:
            self.soon.append(f"waiting for {waiting}")
        self.told_waiting = waiting

    def _tell_silence(self, lease: Claim) -> None:
        """Tell the user that the tracking store is away, or back, where nobody else would.

        What waits to be logged has words of its own. Where nothing waits, all workers may be
        waiting to leave their turns in the store.
        """
        patience, is_told = self.store.folders.patience, bool(len(self.log_queue.lanes))
        if lease.is_silent and not self.told_silent and patience > 0.0 and not is_told:
            self.told_silent = True
            self.soon.append(
                "the tracking store does not answer; a turn that ends waits to be left there, for "
                f"{patience:g} seconds at most"
            )
        elif self.told_silent and not lease.is_silent:
            self.told_silent = False
            self.soon.append("the tracking store answers again")

    def _say_now(self) -> None:
        while self.soon:
            self.progress.say(self.soon.popleft())

    def accept(self, done: Done | LostJob) -> Turn | None:
        """Enter an outcome into the history; None if the turn is to be run again."""
        if isinstance(done, Inspection) or (
            isinstance(done, LostJob) and isinstance(done.job, Inspect)
        ):
            self.touched.add(self.round_samples.receive(done).member)
            return None
        if isinstance(done, RestoreChecked | NoiseChecked) or (
            isinstance(done, LostJob) and isinstance(done.job, CheckRestore | CheckNoise)
        ):
            self.touched.add(self.checks.receive(done))
            return None
        if isinstance(done, LostJob):
            plan = done.job.plan if isinstance(done.job, Retry) else done.job
            assert isinstance(plan, Plan)
            if not self._is_under_way(plan):
                return None
            turn = self._committed(plan)
            # Its worker may be alive all the same, and still write. It does so under the names of
            # its own attempt, which does not count beside a later one.
            self.disputed.add((plan.member, plan.turn))
            if turn is None and self._leaves_without(plan):
                self._forget_turn(plan)
                return None
            if turn is None:
                began = self.turn_times.begun[plan.member]
                lost = max(0.0, self.clock() - began)
                is_move = done.blameless and self.moves[plan.member, plan.turn] < MOST_MOVES
                self.moves[plan.member, plan.turn] += is_move
                # Of all attempts those that a worker died of.
                deaths = plan.attempt.number - self.moves[plan.member, plan.turn]
                plan = replace(plan, attempt=replace(plan.attempt, number=plan.attempt.number + 1))
                if is_move or deaths < _TRIES:
                    self.progress.say(
                        f"{done.reason}; turn {plan.turn} of member {plan.member} again"
                    )
                    self.in_flight[plan.member] = plan
                    self.engine.submit(Retry(plan=plan, lost=lost))
                    return None
                turn = Turn(
                    plan=plan,
                    status="lost",
                    error=done.reason,
                    started=began,
                    seconds={"lost": lost},
                )
                self.store.folders.commit(turn)
        else:
            assert isinstance(done, Turn)
            if not self._is_under_way(done.plan):
                return None
            turn = done
        # In this order: an exception between the two must not leave the turn in neither.
        self._enter(turn)
        self.in_flight.pop(turn.member, None)
        return turn

    def settle(self) -> int:
        """After an exception in `go`: let what was committed count, and have the store told of it.

        A worker commits its turn some time before the controller hears of it. No worker may be
        alive any more.

        Returns:
            How many turns under way have not happened.
        """
        given_up = 0
        for plan in list(self.in_flight.values()):
            if plan.turn <= len(self.history.turns[plan.member]):
                continue
            turn = None
            # The resume reads the record again, and says what is wrong with it.
            with contextlib.suppress(RecordError, StorageError, StoreError, OSError):
                turn = self._committed(plan)
            if turn is None:
                given_up += 1
            else:
                self._enter(turn)
        self.in_flight.clear()
        for member, turns in self.history.turns.items():
            for turn in turns[self.logged.get(member, 0) :]:
                self.log_turn(turn)
                self.unwritten.append(turn)
                self.progress.turn(turn, self.history)
        return given_up

    def _is_under_way(self, plan: Plan) -> bool:
        """Whether an outcome is that of the attempt that was given out last.

        An engine may hear late of one that it has told to be lost.
        """
        given = self.in_flight.get(plan.member)
        return given is not None and (given.turn, given.attempt) == (plan.turn, plan.attempt)

    def _committed(self, plan: Plan) -> Turn | None:
        """The turn of a plan whose worker died after its commit: then the turn has happened.

        The record of an earlier attempt is none: a later one may still be written over its head.
        """
        turn = self.store.folders.record(plan.member, plan.turn)
        if turn is None or turn.plan.attempt != plan.attempt:
            return None
        return fitted_turn(turn, self.store.space)

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
        if plan.start is not None:
            self.touched.add(plan.start.member)

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
        self.tell_notes(turn)
        if turn.ok:
            self.held[turn.member].append(turn)
            self.turn_times.count([turn])
            self.engine.turn_timeout = self.turn_times.limit
        is_present = member.index not in self.member_index.left
        if is_present and member.failures == self.settings.max_failures:
            self.soon.append(
                f"member {member.index} has failed {turn_count(member.failures)} in a row and is "
                f"retired; the last: {turn.reason}"
            )
            self.log_queue.add(partial(self.store.retire, member.index), lane=member.index)
        left = [before.checkpoint, turn.plan.start, *self.pinned]
        self._pin()
        self.touched.add(turn.member)
        if was_best is not None:
            self.touched.add(was_best.member)
        self.touched.update(checkpoint.member for checkpoint in left if checkpoint is not None)

    def tell_notes(self, turn: Turn) -> None:
        """Tell the user what the task understood only in training, once for each topic."""
        for topic, sentence in turn.notes.items():
            if topic not in self.noted:
                self.noted.add(topic)
                where = f"turn {turn.number} of member {turn.member}"
                self.soon.append(f"{topic}: {sentence} (first seen in {where})")
                self.log_queue.add(partial(self.store.tag, {f"pbt.noted/{topic}": sentence}))

    def _pin(self) -> None:
        """Hold on to what the end looks at: the best initial setting, and the best records ever."""
        wanted = list[Turn]()
        if self.planner is None:
            if self.history.best_initial is not None:
                wanted.append(self.history.best_initial)
            if self.settings.finalists != "none":
                wanted += self.history.best_ever
            if self.settings.finalists == "own":
                wanted += self._earlier_records()
        pinned = [turn.checkpoint for turn in wanted if turn.checkpoint is not None]
        if pinned == self.pinned:
            return
        for checkpoint in self.pinned:
            self.member_index.count_use(checkpoint, -1)
        for checkpoint in pinned:
            self.member_index.count_use(checkpoint)
        self.pinned = pinned

    def _earlier_records(self) -> list[Turn]:
        """The records before those that may be finalists, as far back as a running average goes."""
        found = dict[tuple[int, int], Turn]()
        for turn in self.history.finalists(with_best_ever=True):
            for own in own_records(self.history, turn)[1:]:
                found[own.member, own.number] = own
        return list(found.values())

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
                self._warn(sign)
            if done.metrics:
                if self.settings.samples == "rounds":
                    self._show(best_of_round(self.history, done.number))
                self.log_queue.add(
                    partial(self.store.log_population, done.metrics, done.step, done.ended)
                )
        if self.rounds.done > rounds_before and not self.stopping:
            newest = [
                turn
                for member in self.living
                for turn in self.held[member.index]
                if turn.number == self.rounds.done
            ]
            self.checks.ask(newest, noisy=self.diagnostics.looks_noisy)

    def _show(self, turn: Turn) -> None:
        """Have a round's best turn looked at, if its checkpoint still exists."""
        if turn in self.held[turn.member]:
            self.round_samples.request(turn)

    @property
    def keep(self) -> int:
        """How many checkpoints of a member are kept for stragglers at most.

        A generation has none, only members that are younger since a rescue. What those can copy
        must not depend on which of the others has finished its turn first.
        """
        return sys.maxsize if self.settings.mode == "generational" else self.settings.keep

    def clean(self) -> None:
        """Delete the checkpoints that nobody can need any more."""
        undecided, before = self.member_index.undecided(), self.undecided
        self.undecided = undecided
        # Once a round the last member goes beyond an age, which may concern everybody.
        touched = self.touched if undecided <= before else set(self.held)
        held = {member: self.held[member] for member in sorted(touched)}
        self.touched.clear()
        for turn in self._forget_unneeded(held):
            assert turn.checkpoint is not None
            # Here, since an engine is talked to by one thread only.
            self.engine.forget(turn.checkpoint)
            self.deletions.add(partial(self._delete, turn.checkpoint), lane=turn.checkpoint)
        self.deletions.flush()

    def _forget_unneeded(
        self, held: Mapping[int, Sequence[Turn]], to_be_shown: Container[Checkpoint] = ()
    ) -> list[Turn]:
        """Forget the checkpoints among some that nobody can need any more; return their turns.

        They are forgotten before they are deleted: one that a decision can still see must exist.

        Args:
            held: Of each member the turns whose checkpoints exist, oldest first.
            to_be_shown: Checkpoints of which somebody will still want samples.
        """
        unneeded = removable(
            held,
            undecided=self.member_index.undecided(),
            needed=lambda one: self.member_index.needs(one) or one in to_be_shown,
            is_best=self._is_best,
            keep=self.keep,
            left=self.member_index.left,
        )
        for turn in unneeded:
            self.history.forget(turn.member, turn.number)
            self.held[turn.member].remove(turn)
        return unneeded

    def discard_attempts(self, turns: Iterable[tuple[int, int]]) -> None:
        """Delete what attempts at some turns have left that do not count, and wait for it.

        Args:
            turns: The member and the number of each turn. None of them is under way.
        """
        self._discard(self._counting_attempts(turns))

    def _discard_later(self, turns: Iterable[tuple[int, int]]) -> None:
        """The same for turns that are decided, and nobody waits: which attempts count is settled
        now, whenever the others are deleted.
        """
        if kept := self._counting_attempts(turns):
            self.deletions.add(partial(self._discard, kept), lane=_ATTEMPTS)

    def _counting_attempts(
        self, turns: Iterable[tuple[int, int]]
    ) -> dict[tuple[int, int], Attempt | None]:
        """Of each turn, by member and number, the attempt that counts; None if none does."""
        kept = dict[tuple[int, int], Attempt | None]()
        for member, number in sorted(turns):
            own = self.history.turns[member]
            kept[member, number] = own[number - 1].plan.attempt if number <= len(own) else None
        return kept

    def _discard(self, kept: Mapping[tuple[int, int], Attempt | None]) -> None:
        """Delete what attempts at some turns have left, but for those that are kept."""
        if not kept:
            return
        # What stays takes room, and is looked for once more at the end.
        with contextlib.suppress(StoreUnavailable):
            self.store.discard_attempts(kept, claim=self.claim)

    def _is_best(self, turn: Turn) -> bool:
        """Whether a turn is the best of its age and sub-population that can be copied."""
        group = self.history.members[turn.member].group
        return self.planner is None and turn == self.history.best_at(turn.step, group)

    def _delete_all(self, checkpoints: Iterable[Checkpoint]) -> None:
        for checkpoint in checkpoints:
            self._delete(checkpoint)

    def _delete(self, checkpoint: Checkpoint) -> None:
        if (text := self.store.delete_checkpoint(checkpoint)) is not None:
            self._warn(Finding("deletion", text))

    def _warn(self, sign: Finding) -> None:
        """Tell the user of something that may be wrong, and keep it on the population's run."""
        # A thread that talks to the store may say it as well, and must not write to the screen.
        self.soon.append(f"warning: {sign.text}")
        self.log_queue.add(partial(self.store.tag, {f"pbt.warning/{sign.name}": sign.text}))

    def _note(self, check: str, outcome: str) -> None:
        """Keep on the population's run what came of a check, which is made only once."""
        self.log_queue.add(partial(self.store.tag, {f"pbt.checked/{check}": outcome}))

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
