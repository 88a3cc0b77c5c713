"""The frame around a controller: the claim, the history so far, signals, and an orderly end.

A population and a replay differ in what plans their turns, and in what is done at the end. All that
keeps their turns safe is the same for both, and is here.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from pbt_flow.engines import Engine
from pbt_flow.exceptions import (
    EngineError,
    RecordError,
    StoreError,
    StrategyError,
    TakenOver,
)
from pbt_flow.population.checkpoints import Folders
from pbt_flow.population.history import History
from pbt_flow.population.records import Turn
from pbt_flow.population.result import Status
from pbt_flow.training.controller import INTERRUPTED, Controller
from pbt_flow.training.log_queue import LISTENER, LogCall
from pbt_flow.training.log_threads import ThreadedLogQueue
from pbt_flow.training.protocols import Planner, ProgressListener
from pbt_flow.training.turn_callbacks import OnTurn, TurnCallbacks
from pbt_flow.utils.interrupts import interrupts_lead_to, one_interrupt_waits
from pbt_flow.utils.passwords import hide_password
from pbt_flow.utils.text import turn_count

if TYPE_CHECKING:
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.lease import Lease
    from pbt_flow.tracking.store import Store

_Result = TypeVar("_Result")


class _LeftAtOnce(KeyboardInterrupt):
    """Ctrl-C by somebody who has given up the turns, and does not wait for the store either."""


class Screen(Protocol):
    """Shows the user the progress of the training, as a context manager around it."""

    def __enter__(self) -> object: ...

    def __exit__(self, *error: object) -> None: ...

    def say(self, text: str) -> None: ...


def train(
    stored: StoredPopulation,
    engine: Engine,
    *,
    resumed: bool,
    screen: Screen,
    watch: Callable[[History, Callable[[LogCall], None]], ProgressListener],
    end: Callable[[Controller, Status, Lease], _Result],
    understood: Mapping[str, str],
    greeting: Sequence[str] = (),
    planner: Planner | None = None,
    on_turn: Sequence[OnTurn] = (),
) -> _Result:
    """Train a population or a replay, as its only controller, until it has ended.

    Args:
        stored: The population or the replay.
        engine: The engine that runs the turns. It has been started.
        resumed: Whether the population exists already, and may have turns.
        screen: Shows the user the progress.
        watch: Makes the listener that is told of every turn, from the history so far, and from what
            has a thread make a call, for what the listener would have the controller wait for.
        end: Does what is to be done at the end, and makes what this function returns.
        understood: What the task understood of its data, options and environment: a sentence for
            each topic.
        greeting: What the user is told before anything else.
        planner: Plans what each member trains next; None for the decisions of PBT.
        on_turn: The user's functions that are told of every turn. What one of them raises is raised
            again once the population has ended in order.

    Raises:
        StoreError: Another controller is alive, the store refuses a request, or it was away for too
            long.
        RecordError: A turn record cannot be trusted.
        PopulationError: Another controller has taken over.
    """
    store = stored.store
    callbacks = TurnCallbacks(on_turn, say=screen.say)
    try:
        lease = store.claim(screen.say)
    except BaseException as error:
        # The runs of a population that is resumed belong to the controller that is alive.
        if not resumed:
            _give_up(store, error, screen)
        raise
    queues, hurried = contextlib.ExitStack(), False
    try:
        # A population that is refused is not greeted first.
        for line in greeting:
            screen.say(line)
        history = stored.read_history(screen.say) if resumed else stored.new_history()

        def later(call: LogCall) -> None:
            controller.queues.log.add(call, lane=LISTENER)

        controller = Controller(
            stored.settings,
            store,
            engine,
            history,
            watch(history, later),
            planner=planner,
            make_queue=partial(
                ThreadedLogQueue,
                threads=store.requests_at_once,
                check=partial(check_claim, store, lease),
            ),
            callbacks=callbacks,
            claim=lease.number,
            logged=store.projected(history.turns) if resumed else {},
        )
        queues.callback(controller.queues.close)
        if lease.number > 1:
            _settle_attempts(store, controller, history)
        _tell_at_first(controller, lease, store, understood, resumed=resumed, say=screen.say)
        # The first of all that a member's run hears, and no turn waits for it.
        for member in store.unfounded:
            controller.queues.log.add(partial(store.log_founder, member), lane=member)
        if resumed:
            _go_on_as_before(controller, stored, screen)
        _tell_what_was_committed(controller, store)
        staged, grouped = stored.settings.stage_plan is not None, stored.settings.has_groups
        save = partial(store.artifacts.save_view, store.manifest.direction)
        controller.queues.log.add(partial(save, staged=staged, grouped=grouped))
        status, folders = _run_turns(controller, store, lease, screen)
        result = end(controller, status, lease)
        # A token that stays behind otherwise, as after a kill, is deleted by the next controller.
        folders.remove_token()
    except TakenOver:
        # The runs belong to the controller that has taken over.
        raise
    except BaseException as error:
        # Closed before the runs are ended: a turn under way could mark its run as running again.
        engine.close()
        queues.close()
        hurried = isinstance(error, _LeftAtOnce)
        if not lease.lost:
            _give_up(store, error, screen, silent=hurried)
        raise
    finally:
        queues.close()
        lease.release(unheard=hurried)
    if callbacks.error is not None:
        _tell_way_on(callbacks.error, store.run_id, screen)
        raise callbacks.error
    return result


def _tell_at_first(
    controller: Controller,
    lease: Lease,
    store: Store,
    understood: Mapping[str, str],
    *,
    resumed: bool,
    say: Callable[[str], None],
) -> None:
    """Tell the user, and the store, what is known before the first turn."""
    if lease.took_over:
        say(lease.took_over)
    for sentence in controller.settings.describe_members():
        say(sentence)
    warning = controller.settings.copies_warning()
    if warning is not None and not resumed and controller.planner is None:
        say(warning)
    before = store.understood() if resumed else {}
    for line in _new_sentences(understood, before):
        say(line)
    controller.queues.log.add(partial(store.log_understood, understood, before))


def _tell_what_was_committed(controller: Controller, store: Store) -> None:
    """Have told what a killed controller has committed, and may not have told.

    To tell it twice changes nothing.
    """
    history, logged = controller.history, dict(controller.logged)
    told_before = list[Turn]()
    for member, turns in history.turns.items():
        told_before += turns[: logged.get(member, 0)]
    store.names.learn(told_before)
    # The topics that the user was told; an empty history has none.
    controller.notices.noted.update(store.noted() if any(history.turns.values()) else {})
    for turns in history.turns.values():
        for turn in turns:
            controller.notices.tell_notes(turn)
    for member, turns in history.turns.items():
        for turn in turns[logged.get(member, 0) :]:
            controller.queues.log_turn(turn)
    controller.queues.unwritten += store.not_in_journal
    controller.stages.tell_who_left(history.left, controller.leave)
    controller.find_checkpoints()


def _go_on_as_before(controller: Controller, stored: StoredPopulation, screen: Screen) -> None:
    """Let a controller that resumes a population know what an earlier one has told and found."""
    store = stored.store
    controller.round_samples.done_rounds = store.artifacts.shown()
    # The controller goes through the rounds again, and must not warn of the same twice.
    controller.diagnostics.seen.update(store.warnings())
    controller.checks.made = store.checked()
    store.begin()
    for member in controller.living:
        index = member.index
        controller.queues.log.add(partial(store.begin_member, index), lane=index)
    store.change(stored.settings.to_json(), began=stored.began.to_json())
    _say_if_nothing_is_left(controller, screen)


def _run_turns(
    controller: Controller, store: Store, lease: Lease, screen: Screen
) -> tuple[Status, Folders]:
    """Run turns until something ends the training.

    Returns:
        How it has ended, and the folders with the token that was left in them.
    """
    engine, folders = controller.engine, store.folders
    status: Status = "finished"
    with screen, _signals_handled(controller), contextlib.closing(controller.round_samples):
        try:
            folders = folders.leave_token()
            engine.open(folders, store.member_runs)
            controller.go(lease)
        except KeyboardInterrupt:
            controller.stopping = INTERRUPTED
            _give_up_turns(controller, store, screen)
        except (EngineError, RecordError, StrategyError, OSError) as error:
            controller.stopping, status = str(error), "failed"
            _give_up_turns(controller, store, screen)
    if controller.callbacks.error is not None:
        status = "failed"
    # A first Ctrl-C raises nothing: the turns under way have finished, and `go` has returned.
    if controller.stopping == INTERRUPTED:
        status = "interrupted"
    return status, folders


def _give_up_turns(controller: Controller, store: Store, screen: Screen) -> None:
    """End the turns under way, but for those that have just been committed."""
    from pbt_flow.tracking.remote_checkpoints import asked_once
    from pbt_flow.tracking.slow_answers import told_if_slow

    # Before it is looked whose turns have happened: a worker that lives might still commit one.
    controller.engine.close()
    with contextlib.ExitStack() as looking:
        if controller.stopping == INTERRUPTED:
            looking.enter_context(asked_once())
            looking.enter_context(told_if_slow(store.tracking_uri))
        try:
            given_up = controller.settle()
        except KeyboardInterrupt:
            raise _LeftAtOnce from None
    if given_up and controller.stopping == INTERRUPTED:
        screen.say(f"{turn_count(given_up)} under way given up")


def _settle_attempts(store: Store, controller: Controller, history: History) -> None:
    """Decide what counts of earlier controllers' turns, whose workers may still be alive.

    What other attempts at each member's newest turn have left is deleted before anything is
    trained: this controller may be killed as well, and the next one looks at the newest turns only.
    """
    store.accept(controller.claim, history.turns)
    last = {member: len(history.turns[member]) for member in history.members}
    newest = {(member, number) for member, number in last.items() if number > 0}
    controller.attempts.discard(newest)
    controller.attempts.disputed.update(
        newest, ((member, number + 1) for member, number in last.items())
    )
    # A machine that was suspended under an earlier controller may have woken up since.
    controller.attempts.disputed.update(_tried_again(history))


def _tried_again(history: History) -> Iterator[tuple[int, int]]:
    """The turns at which there was more than one attempt, by member and number.

    It may be so of the first turn of each claim: the controller before had perhaps begun it.
    """
    for member, turns in history.turns.items():
        claim = 1
        for turn in turns:
            attempt = turn.plan.attempt
            if attempt.number > 1 or attempt.claim > claim:
                yield member, turn.number
            claim = attempt.claim


def _tell_way_on(error: BaseException, run_id: str, screen: Screen) -> None:
    """Tell the user of an error of their own function how to go on with the population."""
    text = f'every turn that was committed is safe; go on with pbt_flow.resume("{run_id}")'
    if sys.version_info >= (3, 11):
        error.add_note(text)  # It stands below the traceback, also where nothing is printed.
    else:
        screen.say(text)


def _new_sentences(now: Mapping[str, str], before: Mapping[str, str]) -> Iterator[str]:
    """What the task understood and the user has not been told yet, a line for each topic.

    Args:
        now: What the task understood now, by topic.
        before: What it understood when the population began; empty if the population begins now.
    """
    for topic in {**now, **before}:
        sentence, earlier = now.get(topic, "nothing is said any more"), before.get(topic)
        if earlier is None:
            yield f"{topic}: {sentence}"
        elif earlier != sentence:
            yield f"{topic}: {sentence}; when the population began: {earlier}"


def _say_if_nothing_is_left(controller: Controller, screen: Screen) -> None:
    """Tell the user of a resume that has nothing to train, and how more could be trained."""
    turns, last = controller.settings.turns, controller.settings.last_turn
    if controller.planner is not None:
        if all(member.turn >= last for member in controller.living):
            screen.say("nothing is left to train: every model has ended")
    elif not controller.living:
        screen.say(
            "every member has failed too often; mend the task, and resume with --max-failures N, "
            "where N is more than the failures in a row of any member"
        )
    elif all(member.turn >= last for member in controller.living):
        screen.say(
            f"nothing is left to train: the budget of turns={turns} is spent; resume with a larger "
            "--turns to train more; now what came of it is told, as far as it was not"
        )


def _give_up(store: Store, error: BaseException, screen: Screen, *, silent: bool = False) -> None:
    """What no rule foresees must not leave runs that say they are running.

    Of an interrupt that did not wait for an end in order, the user is told how to go on.

    Args:
        store: Where the runs are.
        error: What has ended the training.
        screen: Shows the user what is said.
        silent: Whether nobody waits for the store, since it does not answer.
    """
    interrupted = isinstance(error, KeyboardInterrupt)
    status, told = "KILLED" if interrupted else "FAILED", False
    if not silent:
        with contextlib.suppress(StoreError), one_interrupt_waits():
            store.finish(status, dict.fromkeys(range(len(store.members)), status))
            told = True
    if not interrupted:
        return
    again = f"python -m pbt_flow resume {store.run_id}"
    if told:
        screen.say(f"interrupted; every turn that was committed is safe, go on with\n  {again}")
    else:
        screen.say(
            f"the tracking store {hide_password(store.tracking_uri)} was not told what became of "
            f"the runs; every turn that was committed is safe; go on with\n  {again}"
        )


def check_claim(store: Store, lease: Lease) -> None:
    """Check that no other controller has taken over: then the runs are that controller's.

    It is called before anything is told that may have waited. Where nothing was heard of the claim
    for a while, since the store was away or this process was suspended, the store is asked first.

    Raises:
        TakenOver: Another controller has taken over.
        StoreUnavailable: The store must be asked, and does not answer.
    """
    with store.talk():
        lease.confirm()
    if lease.lost:
        raise TakenOver("another controller has taken over, and it tells what becomes of the runs")


def tell_if_possible(messages: Iterable[LogCall], say: Callable[[str], None]) -> None:
    """Send messages to the store until it refuses one; the user is told why.

    What is not sent can be made again from the turns.
    """
    try:
        for message in messages:
            message()
    except StoreError as error:
        say(f"no report: {error}")


@contextlib.contextmanager
def _signals_handled(controller: Controller) -> Iterator[None]:
    """On Ctrl-C let the turns under way finish; on a second one, or on SIGTERM, give them up."""

    def stop(number: int) -> None:
        if number == signal.SIGINT and controller.stopping != INTERRUPTED:
            controller.stopping = INTERRUPTED
            # The controller says it later: a signal may come in the middle of a printed line.
            under_way = turn_count(len(controller.in_flight))
            controller.notices.soon.append(
                f"finishing {under_way} under way; Ctrl-C again gives them up"
            )
            return
        raise KeyboardInterrupt

    with interrupts_lead_to(stop):
        yield
