"""An engine gets to work for a task: what it declares is read, and a first model is built.

Whatever is wrong with the task or the settings comes to light here, before anything is written.
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pbt_flow.engines import Engine, InlineEngine, LostJob, ProcessEngine
from pbt_flow.engines.batch import MOST_MOVES
from pbt_flow.engines.jobs import Described, Done, Probe, Probed, WorkerContext
from pbt_flow.exceptions import EngineError, PBTError, PopulationError, SettingsError
from pbt_flow.joining import is_joining
from pbt_flow.settings import Settings
from pbt_flow.task import Declaration, Task, TaskError, TaskSpec, check_found, declare
from pbt_flow.task.files import is_loading
from pbt_flow.utils.reasons import reason_of
from pbt_flow.utils.terminal import Unbroken

_LONG = 30.0
"""Seconds for which a task may load before the user is told that it is waited for."""
_LOOK = 1.0
"""Seconds between two looks at what is waited for."""


def spec_of(settings: Settings, budget: int | None = None) -> TaskSpec:
    """The task of a population, with all that is needed to build a model of it.

    Args:
        settings: Those of the population.
        budget: The steps of a member that trains to the end; by default as the settings say.
    """
    return TaskSpec(
        name=settings.task,
        options=settings.options,
        device=settings.device,
        budget=settings.budget if budget is None else budget,
    )


@contextlib.contextmanager
def engine_for(
    engine: str | None = None, threads: int | None = None, device: Any = None, **others: Any
) -> Iterator[Engine]:
    """The engine that the settings ask for; they are not checked yet."""
    # A script that runs a population when it is imported would start another in each worker.
    if is_loading():
        raise PopulationError(
            "run() was called while the file of the task was imported for its class; put the call "
            'under if __name__ == "__main__":'
        )
    threads = threads if type(threads) is int and threads > 0 else 1
    made: Engine
    if engine == "inline":
        made = InlineEngine()
    elif engine == "ray":
        from pbt_flow.engines.ray import RayEngine

        made = RayEngine(threads)
    else:
        made = ProcessEngine(threads, device if isinstance(device, str) else "cpu")
    try:
        yield made
    finally:
        made.close()


def read_declaration(
    engine: Engine,
    task: str | type[Task] | Callable[[], Any],
    options: Any = None,
    *,
    quiet: bool = False,
) -> Declaration:
    """What the task declares; of a task given by name, a worker has been asked to find out.

    So this process imports neither the task's libraries nor, above all, torch.

    Args:
        engine: Has been asked what the task declares, if that is given by name.
        task: The class, or its name.
        options: The task's options.
        quiet: Whether to print nothing, even if it takes long.

    Raises:
        TaskError: The task cannot be imported.
    """
    if isinstance(task, str):
        if not task:
            raise TaskError("the name of the task is empty")
        described = _ask(engine, "" if quiet else task)
        if isinstance(described, LostJob):
            raise TaskError(f"task {task} cannot be imported: {described.reason}")
        assert isinstance(described, Described)
        with contextlib.suppress(Exception):
            found: Declaration = pickle.loads(described.declaration)
            return found
    try:
        declaration = declare(task, options)
        if not isinstance(task, str):
            check_found(task)
        return declaration
    except (PBTError, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise TaskError(f"task {task} cannot be imported: {reason_of(error)}") from error
    except BaseException as error:
        raise TaskError(f"task {task} cannot be imported:\n{_own_lines(error)}") from error


def _own_lines(error: BaseException) -> str:
    """The traceback of an error, from the first line on that is the user's."""
    trace = error.__traceback__
    ours = (
        str(Path(__file__).parents[1]),
        "<frozen importlib",
        str(Path(importlib.__file__).parent),
    )
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(ours):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace, chain=False)).rstrip()


def context_of(settings: Settings, slots: int, budget: int | None = None) -> WorkerContext:
    """What all turns of a population share, where so many run at once; `budget` as in `spec_of`."""
    share = -(-settings.founders // slots)
    spec = spec_of(settings, budget)
    return WorkerContext(
        task=spec if settings.engine == "inline" else spec.with_code(),
        seed=settings.seed,
        warm=settings.warm or share,
        threads=settings.threads,
        gpu_share=settings.gpu_share,
    )


def start(engine: Engine, settings: Settings, budget: int | None = None) -> None:
    """Let the engine get ready, and build the task's first model; `budget` as in `spec_of`."""
    slots = 1 if settings.engine == "inline" else min(settings.workers, settings.founders)
    engine.start(context_of(settings, slots, budget), slots=slots)
    engine.submit(Probe())


def check_buildable(
    engine: Engine, settings: Settings, *, begun_with: int | None = None, quiet: bool = False
) -> Mapping[str, str]:
    """Refuse a task that cannot be built, before anything is written.

    Args:
        engine: Builds the task's first model.
        settings: Those of the population.
        begun_with: The budget that a population which is resumed has had until now.
        quiet: Whether to print nothing, even if it takes long.

    Returns:
        What the task understood of its data, options and environment, by topic.

    Raises:
        TaskError: It cannot be built.
        SettingsError: The task follows the budget, and the budget is another now.
    """
    probed = _ask(engine, "" if quiet else settings.task)
    reason = probed.reason if isinstance(probed, LostJob) else ""
    if isinstance(probed, Probed) and probed.error:
        reason = probed.error
    if reason:
        raise TaskError(f"task {settings.task} cannot be built: {reason}")
    if not isinstance(probed, Probed):
        return {}
    if probed.follows_budget and begun_with not in (None, settings.budget):
        raise SettingsError(
            f"turns cannot change here: task {settings.task} trains along a schedule that ends at "
            f"step {begun_with:,}, and the members have begun with it; give turns to a new "
            "population instead"
        )
    return probed.understood


def _told_of_waiting(task: str) -> str:
    """What the user reads while a task takes long: a script may never come to its loop."""
    place, _, attribute = task.partition(":")
    if place.endswith(".py") and not attribute and is_joining(Path(place)):
        return (
            f"{Path(place).name} has run for {_LONG:.0f} s and has not come to its loop over "
            "pbt.steps() or pbt.batches(); what stands before the loop is run once for each "
            "member. Ctrl-C gives up"
        )
    return f"task {task} has been loading for {_LONG:.0f} s; Ctrl-C gives up"


def _ask(engine: Engine, task: str) -> Done | LostJob:
    """The answer to the only job under way.

    Args:
        engine: Has the job.
        task: The task that the user is told of if it takes long; empty if nobody is.
    """
    end, told, moves = time.monotonic() + _LONG, "", 0
    finished: list[Done | LostJob] = []
    try:
        while not finished:
            left = _LOOK if told else max(0.0, end - time.monotonic())
            finished = engine.wait(min(_LOOK, left))
            # A worker that is ready ends the wait as well.
            waiting = engine.waiting_for()
            if waiting:
                # The task is not to blame for what has not begun to load.
                end, text = time.monotonic() + _LONG, f"waiting for {waiting}; Ctrl-C gives up"
            else:
                text = _told_of_waiting(task) if time.monotonic() >= end else ""
            if task and text and text != told and not finished:
                print(text, file=Unbroken(sys.stderr), flush=True)
                told = text
            for lost in list(finished):
                if isinstance(lost, LostJob) and lost.blameless and moves < MOST_MOVES:
                    moves += 1
                    finished.remove(lost)
                    engine.submit(lost.job)
    except EngineError as error:
        raise PopulationError(str(error)) from None
    (answer,) = finished
    return answer
