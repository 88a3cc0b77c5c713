"""The replay: it trains fresh models along a schedule, and others under constant hyperparameters.

A winner is the best of many members, and so it was lucky too. Its schedule is worth something if
fresh models with other seeds do well along it: better than with the winner's last hyperparameters
from the start, and better than with the best of the initial settings. (Jaderberg et al. 2017 ask
the same of their schedules.)

A replay is a population whose plans come from the schedule: each fresh model is a member, and its
turns are the schedule's segments. So a replay is controlled, recorded, stopped and resumed like a
population.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbt_flow.commands.frame import check_claim, tell_if_possible, train
from pbt_flow.commands.launch import check_buildable, engine_for, read_declaration, start
from pbt_flow.commands.replay_arms import (
    Arm,
    Replay,
    arms_from_json,
    arms_of,
    arms_to_json,
    note,
    summary,
)
from pbt_flow.commands.replay_turns import ReplayScreen, SchedulePlanner
from pbt_flow.engines import Engine
from pbt_flow.engines.jobs import Describe
from pbt_flow.exceptions import ReplayError, ScheduleError, SettingsError, StoreError
from pbt_flow.population.result import Status
from pbt_flow.population.schedule import Schedule
from pbt_flow.population.stages import NOBODY
from pbt_flow.settings import NONE, Settings
from pbt_flow.space import Hparams, Space, check_hparams, space_to_json
from pbt_flow.task import recorded_options
from pbt_flow.training.controller import Controller
from pbt_flow.training.log_queue import LogCall
from pbt_flow.utils.text import listed

if TYPE_CHECKING:
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.lease import Lease
    from pbt_flow.tracking.store import Store

CHANGES = ("workers", "threads", "warm", "turn_timeout", "engine", "device", "gpu_share")
"""The settings that say how a replay runs, and not what it trains. A resume may change them."""


def settings_of(schedule: Schedule, arms: Sequence[Arm], **given: Any) -> Settings:
    """The settings of a replay: a population in which nobody copies and nothing ends early.

    Raises:
        SpaceError: The space of the task is no longer the schedule's.
    """
    first = schedule.segments[0]
    initial: list[Hparams] = []
    for arm in arms:
        initial += [arm.hparams or first.hparams] * len(arm.members)
    made, kind = Settings.for_task(
        given.pop("task", None) or schedule.task,
        **{
            "options": schedule.options,
            "population": sum(len(arm.members) for arm in arms),
            "turns": len(schedule.segments),
            "interval": first.end - first.start,
            # The population's own seed would build the very models that the schedule was found
            # with.
            "seed": schedule.seed + 1,
            "exploit": "none",
            "stages": NOBODY,
            "initial": initial,
            "name": f"replay of {schedule.source[:8]}",
            # The task's defaults may end a population early, or ask for a model and samples. A
            # replay trains each model to the end, and wants only its score and its report.
            "mode": "async",
            "seconds": NONE,
            "target": NONE,
            "register": NONE,
            "samples": "none",
            "max_failures": 1,
            "keep": 1,
            **{name: value for name, value in given.items() if value is not None},
        },
    )
    check_segments(schedule, kind.space)
    return made


def check_segments(schedule: Schedule, space: Space) -> None:
    """Check that the task's space holds each segment of a schedule.

    Raises:
        SpaceError: The space of the task is no longer the schedule's.
    """
    for segment in schedule.segments:
        check_hparams(segment.hparams, space)


def schedule_from(source: str) -> Schedule:
    """The schedule of a population's winner, or the schedule in a file.

    Args:
        source: The run id of the population, or the path of a `schedule.json`.

    Raises:
        ScheduleError: The file or the run has no schedule.
        StoreError: There is no such run, or the run is no population.
    """
    if source.endswith(".json"):
        try:
            plain = json.loads(Path(source).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ScheduleError(f"{source} cannot be read: {error}") from None
        return Schedule.from_json(plain)
    from pbt_flow.commands.stored_population import StoredPopulation

    stored = StoredPopulation.open(source)
    if stored.is_replay:
        raise ScheduleError(
            f"run {source} is a replay, which has no schedule of its own; replay the population "
            f"that it came from, or resume the replay: python -m pbt_flow resume {source}"
        )
    return Schedule.from_json(stored.store.outcome.schedule())


def replay(
    schedule: Schedule | str, *, seeds: int = 5, quiet: bool = False, **given: Any
) -> Replay:
    """Train fresh models along a schedule, and others under constant hyperparameters.

    Each model is an MLflow run, and a child of the replay's run.

    Args:
        schedule: The schedule, or the run id of a population, or the path of a `schedule.json`.
        seeds: How many fresh models each arm has.
        quiet: Whether to print nothing.
        given: The `task`, if it is not found under the schedule's name, and settings that say how
            the replay runs: `seed`, `experiment`, `name`, and those that `resume` may change.

    Raises:
        ReplayError: The models cannot be trained, or were not trained as the schedule says.
        StoreError: The MLflow tracking store cannot be used.
        PopulationError: The workers cannot be used, or another controller has taken over.
        ValueError: A setting or the task is not valid. Nothing has been written then.
    """
    if seeds < 1:
        raise ReplayError(f"seeds must be at least 1, got {seeds}")
    if isinstance(schedule, str):
        schedule = schedule_from(schedule)
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.client import connect, short_requests
    from pbt_flow.tracking.create import Manifest
    from pbt_flow.tracking.store import Store

    arms = arms_of(schedule, seeds)
    task = given.pop("task", None) or schedule.task
    Settings.check_given(given)
    with engine_for(**given) as engine:
        if isinstance(task, str):
            engine.submit(Describe(task=task, options=schedule.options))
        kind = read_declaration(engine, task, schedule.options, quiet=quiet)
        settings = settings_of(schedule, arms, task=kind, **given)
        start(engine, settings, schedule.followed)
        with short_requests():
            client, uri = connect()
            understood = check_buildable(engine, settings, quiet=quiet)
            plan = Manifest(
                settings=settings.to_json(),
                space=space_to_json(schedule.space),
                direction=schedule.direction,
                option_defaults=kind.option_defaults,
                initial=[check_hparams(point, schedule.space) for point in settings.initial],
            )
            tags = {
                "pbt.role": "replay",
                "pbt.task": settings.task,
                "pbt.replays": schedule.source,
            }
            store = Store.create(client, uri, plan, tags=tags)
            result = Replay(run_id=store.run_id, tracking_uri=uri, schedule=schedule, arms=arms)
            with _runs_ended_on_error(store):
                store.outcome.log_arms(arms_to_json(result))
                for arm in arms:
                    for member in arm.members:
                        store.tag({"pbt.arm": arm.name, "pbt.role": "replay"}, member)
                        store.rename(arm.label(member), member)
            stored = StoredPopulation(store=store, settings=settings)
            return _train(stored, engine, result, understood=understood, resumed=False, quiet=quiet)


def resume(run_id: str, *, quiet: bool = False, **changes: Any) -> Replay:
    """Resume a replay that was stopped.

    Args:
        run_id: The replay's run.
        quiet: Whether to print nothing.
        changes: Settings that say how the replay runs: `workers`, `threads`, `warm`,
            `turn_timeout`, `engine`, `device`, `gpu_share`.

    Raises:
        ReplayError: The run is no replay, or its models cannot be trained, or were not trained as
            the schedule says.
        StoreError: The run is neither a population nor a replay, or it is still running, or its
            schedule is gone.
        SettingsError: A setting was given that defines the replay.
        PopulationError: The workers cannot be used, or another controller has taken over.
    """
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.adoption import take_launched_run
    from pbt_flow.tracking.client import short_requests

    with short_requests():
        stored = StoredPopulation.open(run_id)
        store, run_id = stored.store, stored.run_id
        launched_for = take_launched_run(store.client)
        if not stored.is_replay:
            raise ReplayError(f"run {run_id} is no replay; go on with pbt_flow.resume")
        if launched_for:
            store.client.set_tag(launched_for, "pbt.resumes", run_id)
        for name, value in changes.items():
            if name not in CHANGES and value is not None:
                raise SettingsError(
                    f"{name} cannot change on the resume of a replay; what can: {listed(CHANGES)}"
                )
        settings = stored.settings.resumed(**changes)
        schedule, arms = arms_from_json(store.outcome.arms(), run_id)
        uri = store.tracking_uri
        result = Replay(run_id=run_id, tracking_uri=uri, schedule=schedule, arms=arms)
        with engine_for(settings.engine, settings.threads, settings.device) as engine:
            engine.submit(Describe(task=settings.task, options=settings.options))
            kind = read_declaration(engine, settings.task, settings.options, quiet=quiet)
            check_segments(schedule, kind.space)
            defaults = store.manifest.option_defaults
            options, notes = recorded_options(kind, settings.options, defaults)
            settings = dataclasses.replace(settings, options=options)
            start(engine, settings, schedule.followed)
            understood = check_buildable(engine, settings, quiet=quiet)
            return _train(
                dataclasses.replace(stored, settings=settings),
                engine,
                result,
                understood=understood,
                resumed=True,
                quiet=quiet,
                notes=notes,
            )


def _train(
    stored: StoredPopulation,
    engine: Engine,
    result: Replay,
    *,
    understood: Mapping[str, str],
    resumed: bool,
    quiet: bool,
    notes: Sequence[str] = (),
) -> Replay:
    """Train the models of a replay to the end, and enter their results into `result`."""
    settings = stored.settings
    planner = SchedulePlanner(schedule=result.schedule, arms=result.arms, seed=settings.seed)
    screen = ReplayScreen(planner, quiet=quiet)
    models = f"{settings.population} models of {settings.turns} turns each"
    status, reason = train(
        stored,
        engine,
        resumed=resumed,
        screen=screen,
        watch=screen.watch,
        understood=understood,
        end=partial(_end, stored.store, result, planner, screen),
        greeting=[f"replay {result.run_id}, {models}", *notes],
        planner=planner,
    )
    way_on = f"go on with\n  python -m pbt_flow resume {result.run_id}"
    if status == "failed":
        raise ReplayError(f"{reason}\n{way_on}")
    if status == "interrupted":
        screen.say(way_on)
        raise KeyboardInterrupt
    return result


def _end(
    store: Store,
    result: Replay,
    planner: SchedulePlanner,
    screen: ReplayScreen,
    controller: Controller,
    status: Status,
    lease: Lease,
) -> tuple[Status, str]:
    """Report on the models that got to the end, and write all results to MLflow.

    Returns:
        The status of the replay, and the reason why it ended early.
    """
    history = controller.history
    last = planner.last_turns(history)
    messages: list[LogCall] = [partial(check_claim, store, lease)]
    if status == "finished":
        planner.enter_results(history)
        looked = controller.inspect([turn for turn in last if turn.ok], None)
        reports: dict[int, Mapping[str, float]] = {}
        for checkpoint, report in looked.items():
            # A mean over values that are not finite would say nothing.
            if report and all(map(math.isfinite, report.values())):
                reports[checkpoint.member] = report
        for member, report in sorted(reports.items()):
            planner.arm_of(member).reports.append(report)
        # Not the time of day: MLflow keeps points with equal times once, so that a resume which
        # writes the results again adds none.
        when = max(turn.ended for turn in last)
        messages.append(
            partial(store.outcome.log_replay, result.to_json(), note(result), reports, when)
        )
    # Closed before the runs are ended: a turn under way could mark its run as running again.
    controller.engine.close()
    ended = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}[status]
    members = dict.fromkeys(history.members, ended)
    members |= {turn.member: "FINISHED" if turn.ok else "FAILED" for turn in last}
    # The claim is checked again, since the messages before may have waited for minutes.
    seal = partial(store.seal_journal, controller.claim, sum(map(len, history.turns.values())))
    messages += [partial(check_claim, store, lease), seal, partial(store.finish, ended, members)]
    if status == "failed":
        # The cause may be the very disk that the messages are written to. So they are tried once,
        # and not until the disk takes them.
        messages = [partial(tell_if_possible, messages, screen.say)]
    try:
        controller.queues.say_last(messages)
    except StoreError:
        if status == "finished":
            # MLflow does not have the results of hours of training: the user sees them here.
            screen.say(summary(result))
        raise
    return status, controller.stopping


@contextlib.contextmanager
def _runs_ended_on_error(store: Store) -> Iterator[None]:
    """End the runs of a replay on an error in the block: else they say for ever that they run."""
    try:
        yield
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with contextlib.suppress(StoreError):
            store.finish(status, dict.fromkeys(range(len(store.members)), status))
        raise
