"""A population without MLflow, files or waiting: the real controller, a simulated engine and clock.

It is for tests, and for studies of the method itself that need thousands of populations. A seed
determines the order of all events, and faults happen where a schedule puts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pbt_flow.population.history import History
from pbt_flow.population.records import Member, Plan, Turn
from pbt_flow.settings import Settings
from pbt_flow.task import Task, build_task
from pbt_flow.testing.memory_store import MemoryStore
from pbt_flow.testing.simulated_engine import Fault, SimulatedEngine
from pbt_flow.testing.simulated_queue import queues_beside
from pbt_flow.training.controller import Controller
from pbt_flow.training.log_queue import LogQueue, MakeQueue


class _Silence:
    """A listener that remembers what it was to say, and a lease that is never lost."""

    lost = False
    asked_to_stop = False
    is_silent = False

    def __init__(self, said: list[str] | None = None) -> None:
        self.said: list[str] = [] if said is None else said

    def turn(self, turn: Turn, history: History) -> None:
        pass

    def tick(self) -> None:
        pass

    def say(self, text: str) -> None:
        self.said.append(text)


@dataclass(frozen=True)
class Simulation:
    """A simulated population, and what came of it."""

    history: History
    engine: SimulatedEngine
    store: MemoryStore
    controller: Controller
    said: list[str]
    """What the user would have read."""

    @property
    def best(self) -> float:
        """The winner's score; NaN if there is none."""
        winner = self.history.winner()
        return math.nan if winner is None or winner.score is None else winner.score

    def go(self) -> Simulation:
        """Train to the end."""
        self.controller.go(_Silence())
        self.controller.queues.drain()
        return self

    def resumed(self, controller: type[Controller] | None = None) -> Simulation:
        """The same population under another controller, which knows only what was committed.

        It is as after a kill: turns under way are lost, and so is all that the controller kept in
        memory.

        Args:
            controller: The class that decides from now on; by default that of the one before.
        """
        before, history = self.controller, self.history
        anew = History(direction=history.direction, stages=history.stages)
        anew.begin(self.store.founders)
        for turn in sorted(self.engine.committed, key=lambda turn: (turn.member, turn.number)):
            anew.add(turn)
        self.engine.forget_turns_under_way()
        self.engine.beside.clear()
        made = _controlled(
            before.settings,
            self.store,
            self.engine,
            anew,
            controller or type(before),
            self.said,
            before.make_queue,
        )
        for turn in self.engine.committed:
            if turn not in self.store.told:
                made.queues.log_turn(turn)
        made.queues.unwritten = [
            turn for turn in self.engine.committed if turn not in self.store.written
        ]
        made.stages.tell_who_left(anew.left, made.leave)
        made.find_checkpoints()
        return Simulation(anew, self.engine, self.store, made, self.said)


def _controlled(
    settings: Settings,
    store: MemoryStore,
    engine: SimulatedEngine,
    history: History,
    controller: type[Controller],
    said: list[str],
    make_queue: MakeQueue,
) -> Controller:
    return controller(
        settings,
        store,
        engine,
        history,
        _Silence(said),
        clock=lambda: engine.now,
        pause=engine.pass_time,
        make_queue=make_queue,
    )


def simulate(task: type[Task], **how: Any) -> Simulation:
    """Train a simulated population; the arguments are those of `prepare`."""
    return prepare(task, **how).go()


def prepare(
    task: type[Task],
    *,
    slots: int | None = 2,
    duration: Callable[[Plan, np.random.Generator], float] = lambda plan, rng: 1.0,
    faults: Mapping[tuple[int, int], list[Fault]] | None = None,
    outages: Sequence[tuple[float, float]] = (),
    controller: type[Controller] = Controller,
    request: float | None = None,
    requests_at_once: int = 8,
    **settings: Any,
) -> Simulation:
    """A simulated population that has not trained yet.

    Args:
        task: The task class; its turns are really trained.
        slots: How many turns run at once; None for one of each member.
        duration: Simulated seconds of a turn, perhaps drawn from the generator.
        faults: What goes wrong, by member and turn.
        outages: When the tracking store does not answer, as pairs of begin and end in simulated
            seconds.
        controller: The class that decides; a subclass can try another rule.
        request: Simulated seconds of a request to the store, which is made beside the turns, as by
            threads. With None the controller makes it itself, and it takes no time.
        requests_at_once: How many such requests are made at once, and as many deletions.
        settings: Fields of `pbt_flow.Settings`.
    """
    made, kind = Settings.for_task(task, **settings)
    rng = np.random.default_rng(np.random.SeedSequence([made.seed]))
    drawn = made.draw_founders(kind.space, rng)
    founders = [
        Member(index=index, hparams=hparams, group=group)
        for index, (hparams, group) in enumerate(zip(drawn, made.groups, strict=True))
    ]
    history = History(direction=kind.direction, stages=made.stage_plan)
    history.begin(founders)
    engine = SimulatedEngine(
        task=lambda seed: build_task(task, seed, "cpu", made.options, budget=made.budget),
        seed=made.seed,
        slots=made.founders if slots is None else slots,
        duration=duration,
        faults=faults or {},
    )
    store = MemoryStore(kind.space, engine, outages=outages, founders=founders)
    said = list[str]()
    make_queue: MakeQueue = LogQueue
    if request is not None:
        make_queue = queues_beside(engine, request, requests_at_once)
    made_by = _controlled(made, store, engine, history, controller, said, make_queue)
    return Simulation(history, engine, store, made_by, said)
