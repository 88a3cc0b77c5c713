"""What stands around a controller: the claim, the history so far, signals, and an end in order.

A population and a replay differ in who plans their turns and in what is done at the end. All that
keeps their turns safe is here, once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

from pbt_flow.engines import Engine
from pbt_flow.exceptions import (
    EngineError,
    RecordError,
    StoreError,
    StrategyError,
    TakenOver,
)
from pbt_flow.population.history import History
from pbt_flow.population.records import Turn
from pbt_flow.population.result import Status
from pbt_flow.training.controller import Controller, Planner, ProgressListener, count_turns
from pbt_flow.training.log_queue import Message

if TYPE_CHECKING:
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.lease import Lease
    from pbt_flow.tracking.store import Store

INTERRUPTED = "interrupted"
_Made = TypeVar("_Made")


class Screen(Protocol):
    """Where the user sees how training gets on, from its beginning to its end."""

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def say(self, text: str) -> None: ...


def train(
    stored: StoredPopulation,
    engine: Engine,
    *,
    resumed: bool,
    screen: Screen,
    watch: Callable[[History], ProgressListener],
    end: Callable[[Controller, Status, Lease], _Made],
    understood: Mapping[str, str],
    planner: Planner | None = None,
) -> _Made:
    """Train as the only controller until an end in order, and do then what is to be done.

    Args:
        stored: The population or the replay.
        engine: Where turns run; it has been started.
        resumed: Whether there may be turns already.
        screen: Where the user sees how it gets on.
        watch: Makes what is told of every turn, given the history so far.
        end: Is told what became of it, and makes what this function returns.
        understood: What the task understood of its data, options and environment, by topic.
        planner: Who says what a member trains next; None for the decision of PBT.

    Raises:
        StoreError: Another controller is alive, or the store refuses or was away for too long.
        RecordError: A turn record cannot be trusted.
        PopulationError: Another controller has taken over.
    """
    store, settings = stored.store, stored.settings
    try:
        lease = store.claim(screen.say)
    except BaseException as error:
        # A resume that is refused must not end the runs of the controller that lives.
        if not resumed:
            _give_up(store, error)
        raise
    ending = False
    try:
        history = stored.read_history() if resumed else stored.new_history()
        known, unknown = list[Turn](), list[Turn]()
        for member, turns in history.turns.items():
            logged = store.projected(member, len(turns))
            known += turns[:logged]
            unknown += turns[logged:]
        controller = Controller(settings, store, engine, history, watch(history), planner=planner)
        if lease.took_over:
            screen.say(lease.took_over)
        if settings.stage_plan is not None:
            screen.say(settings.stage_plan.describe())
        warning = None if resumed or planner is not None else settings.copies_warning()
        if warning is not None:
            screen.say(warning)
        store.names.learn(known)
        before = store.understood() if resumed else {}
        for line in _understood_anew(understood, before):
            screen.say(line)
        controller.log_queue.put(partial(store.log_understood, understood, before))
        controller.noted.update(store.noted() if resumed else {})
        # A controller may have been killed between a turn's commit and what is told of it.
        for turns in history.turns.values():
            for turn in turns:
                controller.tell_notes(turn)
        for turn in unknown:
            controller.log_queue.put(partial(controller.log_turn, turn))
        # The same again changes nothing, and a kill may have come before it was told.
        controller.tell_who_left(history.left)
        controller.find_checkpoints()
        if resumed:
            controller.round_samples.shown = store.artifacts.shown()
            # The rounds are gone through again; what was said of them was said.
            controller.diagnostics.seen.update(store.warnings())
            controller.checks.made = store.checked()
            store.begin([member.index for member in controller.living])
            store.change(settings.to_json(), began=stored.began.to_json())
            _say_if_nothing_is_left(controller, screen)
        store.artifacts.save_view(staged=settings.stage_plan is not None)
        engine.open(store.folders, store.member_runs)
        status: Status = "finished"
        with screen, _signals(controller), contextlib.closing(controller.round_samples):
            try:
                controller.go(lease)
            except KeyboardInterrupt:
                controller.stopping = INTERRUPTED
                if controller.in_flight:
                    screen.say(f"{count_turns(len(controller.in_flight))} under way given up")
            except (EngineError, RecordError, StrategyError, OSError) as error:
                controller.stopping, status = str(error), "failed"
        if controller.stopping == INTERRUPTED:
            status = "interrupted"
        ending = True
        return end(controller, status, lease)
    except TakenOver:
        raise
    except BaseException as error:
        # First: a turn under way could mark its member's run as running again.
        engine.close()
        if not lease.lost:
            _give_up(store, error)
        if ending and isinstance(error, KeyboardInterrupt):
            screen.say(
                f"the tracking store {store.tracking_uri} was not told what became of the "
                f"{'population' if planner is None else 'replay'}; every turn that was committed "
                "is safe, "
                f"python -m pbt_flow resume {store.run_id} tells it"
            )
        raise
    finally:
        lease.release()


def _understood_anew(now: Mapping[str, str], before: Mapping[str, str]) -> Iterator[str]:
    """What the user has not been told yet, a line for each topic.

    Args:
        now: What the task understood now.
        before: The same when the population began; empty if it begins now.
    """
    for topic in {**now, **before}:
        sentence, earlier = now.get(topic, "nothing is said any more"), before.get(topic)
        if earlier is None:
            yield f"{topic}: {sentence}"
        elif earlier != sentence:
            yield f"{topic}: {sentence}; when the population began: {earlier}"


def _say_if_nothing_is_left(controller: Controller, screen: Screen) -> None:
    turns, last = controller.settings.turns, controller.settings.last_turn
    if controller.planner is not None:
        if all(member.turn >= last for member in controller.living):
            screen.say("nothing is left to train: every model has ended")
    elif not controller.living:
        screen.say(
            "every member has failed too often; once the task is mended, they go on with "
            "--max-failures N, more than there have been"
        )
    elif all(member.turn >= last for member in controller.living):
        screen.say(
            f"nothing is left to train: the budget of turns={turns} is spent; "
            "with a larger --turns it goes on"
        )


def _give_up(store: Store, error: BaseException) -> None:
    """What no rule foresees must not leave runs that say they are running."""
    status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
    with contextlib.suppress(StoreError):
        store.finish(status, dict.fromkeys(range(len(store.members)), status))


def check_claim(lease: Lease) -> None:
    """Leave runs alone that have become another controller's: an end may wait for minutes."""
    if lease.lost:
        raise TakenOver("another controller has taken over, and it tells what becomes of the runs")


def tell_if_possible(messages: Iterable[Message], say: Callable[[str], None]) -> None:
    """Tell the store what it takes; what it does not can be made again from the turns."""
    try:
        for message in messages:
            message()
    except StoreError as error:
        say(f"no report: {error}")


@contextlib.contextmanager
def _signals(controller: Controller) -> Iterator[None]:
    """Ctrl-C lets the turns under way finish; a second one, or SIGTERM, gives them up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and controller.stopping != INTERRUPTED:
            controller.stopping = INTERRUPTED
            # Not said here: a signal comes in the middle of a line as well.
            under_way = count_turns(len(controller.in_flight))
            controller.soon.append(f"finishing {under_way} under way; Ctrl-C again gives them up")
            return
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
