"""Does the schedule work again? Fresh models trained along it, beside two that stand still.

A winner is the best of many, and lucky. Its schedule is worth something if fresh models with other
seeds do well along it: better than with the winner's last hyperparameters from the start, and
better than with the best of the initial settings. (Jaderberg et al. 2017 ask the same of theirs.)

A replay is a population whose plans come from the schedule: each fresh model is a member, and its
turns are the schedule's segments. So it is controlled, recorded, stopped and resumed like one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pbt_flow.commands.frame import check_claim, tell_if_possible, train
from pbt_flow.commands.launch import check_buildable, engine_for, read_declaration, start
from pbt_flow.engines import Engine
from pbt_flow.engines.worker import Describe
from pbt_flow.exceptions import PBTError, ReplayError, ScheduleError, SettingsError, StoreError
from pbt_flow.population.history import History
from pbt_flow.population.records import Member, Plan, Turn, derive_seed
from pbt_flow.population.result import Status
from pbt_flow.population.schedule import Schedule
from pbt_flow.population.stages import NOBODY
from pbt_flow.settings import NONE, Settings
from pbt_flow.space import Hparams, Space, check_hparams, space_to_json
from pbt_flow.task import recorded_options
from pbt_flow.training.controller import Controller
from pbt_flow.training.log_queue import Message
from pbt_flow.utils.interval import Interval
from pbt_flow.utils.terminal import Unbroken

if TYPE_CHECKING:
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.lease import Lease
    from pbt_flow.tracking.store import Store

CHANGES = ("workers", "threads", "warm", "turn_timeout", "engine", "device")
"""The settings that say how a replay runs, and not what it trains."""
SCHEDULE, LAST, INITIAL = "schedule", "last", "best_initial"
ARMS = {
    SCHEDULE: "the winner's schedule",
    LAST: "its last hyperparameters, held constant",
    INITIAL: "the best initial setting, held constant",
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What came of the fresh models that were trained in one way."""

    name: str
    members: Sequence[int]
    hparams: Hparams | None
    """What is held constant; None for the schedule."""
    scores: list[float] = field(default_factory=list)
    """The last score of each model that got to the end."""
    reports: list[Mapping[str, float]] = field(default_factory=list)
    """What `Task.report` measured of them."""
    errors: dict[int, str] = field(default_factory=dict)
    """Why others did not, by member."""

    def label(self, member: int) -> str:
        """What the run of one of its models is called."""
        return f"{self.name}-{self.members.index(member):02d}"

    @property
    def metric(self) -> str:
        """The headline of the reports; empty if there is none."""
        return next(iter(self.reports[0]), "") if self.reports else ""

    @property
    def column(self) -> str:
        """What that headline is called beside the score, which may have the same name."""
        return "score of the report" if self.metric == "score" else self.metric

    def summary(self) -> dict[str, Interval]:
        """Mean and interval of the score, and of the report's headline."""
        found = {"score": Interval.of(self.scores)} if self.scores else {}
        if self.metric:
            found[self.column] = Interval.of([report[self.metric] for report in self.reports])
        return found


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came of a replay."""

    run_id: str
    tracking_uri: str
    schedule: Schedule
    arms: Sequence[Arm]

    def table(self) -> list[list[str]]:
        """A row for each arm: what it is, how many got to the end, score, report."""
        metric = next((arm.column for arm in self.arms if arm.metric), "")
        rows = [["", "models", "score", *([metric] if metric else [])]]
        for arm in self.arms:
            summary = arm.summary()
            cells = [str(summary.get(key, "-")) for key in rows[0][2:]]
            rows.append([ARMS[arm.name], f"{len(arm.scores)}/{len(arm.members)}", *cells])
        rows.append(["the winner itself", "1", f"{self.schedule.score:.4g}"])
        return [row + [""] * (len(rows[0]) - len(row)) for row in rows]

    def to_json(self) -> dict[str, Any]:
        """The replay as plain JSON values."""
        return {
            "replay": self.run_id,
            "source": self.schedule.source,
            "winner_score": self.schedule.score,
            "arms": {
                arm.name: {
                    "scores": arm.scores,
                    "reports": [dict(report) for report in arm.reports],
                    "errors": list(arm.errors.values()),
                    "mean": {key: vars(value) for key, value in arm.summary().items()},
                }
                for arm in self.arms
            },
        }


def arms_of(schedule: Schedule, seeds: int) -> list[Arm]:
    """The ways of training to compare, with `seeds` models each."""
    ways: list[tuple[str, Hparams | None]] = [
        (SCHEDULE, None),
        (LAST, schedule.segments[-1].hparams),
    ]
    if schedule.best_initial not in (None, schedule.segments[-1].hparams):
        ways.append((INITIAL, schedule.best_initial))
    return [
        Arm(name=name, members=range(n * seeds, (n + 1) * seeds), hparams=hparams)
        for n, (name, hparams) in enumerate(ways)
    ]


def settings_of(schedule: Schedule, arms: Sequence[Arm], **given: Any) -> Settings:
    """The settings of the replay: a population in which nobody copies, and nothing ends early.

    Raises:
        SpaceError: The task's space is not the schedule's any more.
    """
    first = schedule.segments[0]
    made, kind = Settings.make(
        given.pop("task", None) or schedule.task,
        **{
            "options": schedule.options,
            "population": sum(len(arm.members) for arm in arms),
            "turns": len(schedule.segments),
            "interval": first.end - first.start,
            # Not the population's own seed: its models are those that the schedule was found with.
            "seed": schedule.seed + 1,
            "exploit": "none",
            "stages": NOBODY,
            "initial": [arm.hparams or first.hparams for arm in arms for _ in arm.members],
            "name": f"replay of {schedule.source[:8]}",
            # Whatever the task would have of a population: models are trained to the end.
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
    """Refuse a schedule that the task's space does not hold.

    Raises:
        SpaceError: The task's space is not the schedule's any more.
    """
    for segment in schedule.segments:
        check_hparams(segment.hparams, space)


@dataclass(frozen=True, kw_only=True)
class SchedulePlanner:
    """Plans the turns of a replay, and checks what was trained."""

    schedule: Schedule
    arms: Sequence[Arm]
    seed: int
    """The replay's seed."""

    def arm_of(self, member: int) -> Arm:
        """The arm that a member is a model of."""
        return next(arm for arm in self.arms if member in arm.members)

    def plan(self, member: Member) -> Plan:
        """The next turn of a member: the next segment of the schedule."""
        segment, held = self.schedule.segments[member.turn], self.arm_of(member.index).hparams
        return Plan(
            member=member.index,
            turn=member.turn + 1,
            seed=derive_seed(self.seed, member.index, member.turn + 1),
            hparams=segment.hparams if held is None else held,
            steps=segment.end - segment.start,
            start=member.checkpoint,
            start_step=member.step,
            trained=segment.end,
        )

    def check(self, turn: Turn) -> None:
        """Refuse a turn under other hyperparameters than the arm's at any of its steps.

        Raises:
            ReplayError: It was, or the task says that other values were live.
        """
        held, live = self.arm_of(turn.member).hparams, turn.plan.hparams
        step, end = turn.plan.start_step, turn.plan.start_step + turn.plan.steps
        while step < end:
            segment = self.schedule.segment(step)
            wanted = segment.hparams if held is None else held
            if wanted != live:
                raise ReplayError(
                    f"member {turn.member} trained step {step} under {dict(live)}, and the "
                    f"schedule says {dict(wanted)}"
                )
            step = segment.end
        for name, value in live.items():
            # A task may say what its optimiser really had.
            told = turn.metrics.get(f"live/{name}")
            if told is not None and not (isinstance(value, int | float) and told == value):
                raise ReplayError(
                    f"member {turn.member}, turn {turn.number}: the task trained with {name} = "
                    f"{told}, and the schedule says {value}; a restored optimiser may have "
                    "brought its own value back"
                )

    def ends(self, turn: Turn) -> bool:
        """Whether a turn is the last of its model: it failed, or the schedule is over."""
        return not turn.ok or turn.number == len(self.schedule.segments)

    def last_turns(self, history: History) -> list[Turn]:
        """The last turn of each model that has ended, in their order."""
        newest = (turns[-1] for _, turns in sorted(history.turns.items()) if turns)
        return [turn for turn in newest if self.ends(turn)]

    def enter_results(self, history: History) -> None:
        """Enter in the arms what came of the models that have ended."""
        for turn in self.last_turns(history):
            arm = self.arm_of(turn.member)
            if turn.score is None:
                arm.errors[turn.member] = turn.reason or turn.status
            else:
                arm.scores.append(turn.score)


class ReplayScreen:
    """Checks every turn of a replay, and says of each model what it came to.

    Args:
        planner: Whose turns they are.
        quiet: Whether to say nothing.
    """

    def __init__(self, planner: SchedulePlanner, *, quiet: bool = False) -> None:
        self.planner, self.quiet = planner, quiet

    def __enter__(self) -> ReplayScreen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def watch(self, history: History) -> ReplayScreen:
        """Check the turns that there are already: those of a replay that is gone on with.

        Raises:
            ReplayError: One of them is not what the schedule says.
        """
        for turns in history.turns.values():
            for turn in turns:
                self.planner.check(turn)
        return self

    def turn(self, turn: Turn, history: History) -> None:
        """Check a turn that has just been committed, and tell of a model that has ended.

        Raises:
            ReplayError: It was not trained as the schedule says.
        """
        self.planner.check(turn)
        if self.planner.ends(turn):
            ended, label = len(self.planner.last_turns(history)), self.planner.arm_of(turn.member)
            outcome = f"failed: {turn.reason}" if turn.score is None else f"score {turn.score:.4g}"
            self.say(f"[{ended}/{len(history.members)}] {label.label(turn.member)}: {outcome}")

    def tick(self) -> None:
        """A replay shows no time."""

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=Unbroken(sys.stderr), flush=True)


def schedule_from(source: str) -> Schedule:
    """The winner's schedule of a population, by its run id; or one from a file, `schedule.json`.

    Raises:
        ScheduleError: The file or the run has none.
        StoreError: There is no such run, or it is no population.
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
            f"that it came from, or go on with it: python -m pbt_flow resume {source}"
        )
    return Schedule.from_json(stored.store.outcome.schedule())


def replay(
    schedule: Schedule | str, *, seeds: int = 5, quiet: bool = False, **given: Any
) -> Replay:
    """Train fresh models along a schedule, and beside it, as MLflow runs.

    Args:
        schedule: What to train along: a schedule, or the run of a population, or a file (see
            `schedule_from`).
        seeds: Fresh models of each arm.
        quiet: Whether to print nothing.
        given: `task`, where the task is not found under the schedule's name, and settings of how
            it runs: `seed`, `experiment`, `name` and those that `resume` may change.

    Raises:
        ReplayError: It cannot be trained, or what was trained is not the schedule.
        StoreError: The MLflow tracking store cannot be used.
        PopulationError: The workers cannot be used, or another controller has taken over.
        ValueError: A setting or the task cannot be; nothing has been written then.
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
    with engine_for(**given) as engine:
        if isinstance(task, str):
            engine.submit(Describe(task=task, options=schedule.options))
        kind = read_declaration(engine, task, schedule.options)
        settings = settings_of(schedule, arms, task=kind, **given)
        start(engine, settings)
        with short_requests():
            client, uri = connect()
            understood = check_buildable(engine, settings)
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
            made = Replay(run_id=store.run_id, tracking_uri=uri, schedule=schedule, arms=arms)
            with _ended_if_unmade(store):
                store.outcome.log_arms(_arms_to_json(made))
                for arm in arms:
                    for member in arm.members:
                        store.tag({"pbt.arm": arm.name, "pbt.role": "replay"}, member)
                        store.rename(arm.label(member), member)
            stored = StoredPopulation(store=store, settings=settings)
            return _train(stored, engine, made, understood=understood, resumed=False, quiet=quiet)


def resume(run_id: str, *, quiet: bool = False, **changes: Any) -> Replay:
    """Go on with a replay that was stopped, from its run id alone.

    Args:
        run_id: The replay's run.
        quiet: Whether to print nothing.
        changes: Settings of how it runs: `workers`, `threads`, `warm`, `turn_timeout`, `engine`,
            `device`.

    Raises:
        ReplayError: The run is no replay, it cannot be trained, or what was trained is not the
            schedule.
        StoreError: The run is no population, it is running, or nothing says what it was to train.
        SettingsError: A setting was given that defines the replay.
        PopulationError: The workers cannot be used, or another controller has taken over.
    """
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.adoption import take_launched_run
    from pbt_flow.tracking.client import short_requests

    with short_requests():
        stored = StoredPopulation.open(run_id)
        store = stored.store
        launched_for = take_launched_run(store.client)
        if not stored.is_replay:
            raise ReplayError(f"run {run_id} is no replay; go on with pbt_flow.resume")
        if launched_for:
            store.client.set_tag(launched_for, "pbt.resumes", run_id)
        for name, value in changes.items():
            if name not in CHANGES and value is not None:
                raise SettingsError(
                    f"{name} cannot change on the resume of a replay; what can: {list(CHANGES)}"
                )
        settings = stored.settings.resumed(**changes)
        schedule, arms = _arms_from_json(store.outcome.arms(), run_id)
        made = Replay(run_id=run_id, tracking_uri=store.tracking_uri, schedule=schedule, arms=arms)
        with engine_for(settings.engine, settings.threads) as engine:
            engine.submit(Describe(task=settings.task, options=settings.options))
            kind = read_declaration(engine, settings.task, settings.options)
            check_segments(schedule, kind.space)
            defaults = store.manifest.option_defaults
            options, notes = recorded_options(kind, settings.options, defaults)
            settings = dataclasses.replace(settings, options=options)
            start(engine, settings)
            understood = check_buildable(engine, settings)
            return _train(
                dataclasses.replace(stored, settings=settings),
                engine,
                made,
                understood=understood,
                resumed=True,
                quiet=quiet,
                notes=notes,
            )


def _train(
    stored: StoredPopulation,
    engine: Engine,
    made: Replay,
    *,
    understood: Mapping[str, str],
    resumed: bool,
    quiet: bool,
    notes: Sequence[str] = (),
) -> Replay:
    settings = stored.settings
    planner = SchedulePlanner(schedule=made.schedule, arms=made.arms, seed=settings.seed)
    screen = ReplayScreen(planner, quiet=quiet)
    screen.say(f"replay {made.run_id}, {settings.population} models of {settings.turns} turns each")
    for note in notes:
        screen.say(note)
    status, reason = train(
        stored,
        engine,
        resumed=resumed,
        screen=screen,
        watch=screen.watch,
        understood=understood,
        end=partial(_end, stored.store, made, planner, screen),
        planner=planner,
    )
    again = f"go on with\n  python -m pbt_flow resume {made.run_id}"
    if status == "failed":
        raise ReplayError(f"{reason}\n{again}")
    if status == "interrupted":
        screen.say(again)
        raise KeyboardInterrupt
    return made


def _end(
    store: Store,
    made: Replay,
    planner: SchedulePlanner,
    screen: ReplayScreen,
    controller: Controller,
    status: Status,
    lease: Lease,
) -> tuple[Status, str]:
    """Look at the models that got to the end, and say in MLflow what became of everyone."""
    history, log_queue = controller.history, controller.log_queue
    last = planner.last_turns(history)
    left: list[Message] = [partial(check_claim, lease)]
    if status == "finished":
        planner.enter_results(history)
        reports = {
            checkpoint.member: told
            for checkpoint, told in controller.look(
                [turn for turn in last if turn.ok], None
            ).items()
            if told and all(map(math.isfinite, told.values()))
        }
        for member, told in sorted(reports.items()):
            planner.arm_of(member).reports.append(told)
        when = max(turn.ended for turn in last)
        left.append(partial(store.outcome.log_replay, made.to_json(), note(made), reports, when))
    controller.engine.close()
    ended = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}[status]
    members = dict.fromkeys(history.members, ended)
    members |= {turn.member: "FINISHED" if turn.ok else "FAILED" for turn in last}
    left += [partial(check_claim, lease), partial(store.finish, ended, members)]
    if status == "failed":
        # What failed may be the very disk that these are written to: it is not waited for.
        left = [partial(tell_if_possible, left, screen.say)]
    for message in left:
        log_queue.put(message)
    try:
        log_queue.drain()
    except StoreError:
        if status == "finished":
            screen.say(summary(made))  # what was trained for hours must be seen somewhere
        raise
    return status, controller.stopping


@contextlib.contextmanager
def _ended_if_unmade(store: Store) -> Iterator[None]:
    """Where a replay's runs cannot all be made, let none say for ever that it is running."""
    try:
        yield
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with contextlib.suppress(StoreError):
            store.finish(status, dict.fromkeys(range(len(store.members)), status))
        raise


def _arms_to_json(made: Replay) -> dict[str, Any]:
    """The schedule and the arms as plain values."""
    return {
        "version": 1,
        "schedule": made.schedule.to_json(),
        "arms": [
            {
                "name": arm.name,
                "members": list(arm.members),
                "hparams": None if arm.hparams is None else dict(arm.hparams),
            }
            for arm in made.arms
        ],
    }


def _arms_from_json(plain: Any, run_id: str) -> tuple[Schedule, list[Arm]]:
    """The inverse of `_arms_to_json`.

    Raises:
        ReplayError: It is not what was written.
        ScheduleError: The schedule in it is none.
    """
    try:
        if plain["version"] != 1:
            raise ValueError(f"version {plain['version']!r}, this program reads version 1")
        schedule = Schedule.from_json(plain["schedule"])
        arms = [
            Arm(
                name=arm["name"],
                members=[int(member) for member in arm["members"]],
                hparams=None
                if arm["hparams"] is None
                else check_hparams(arm["hparams"], schedule.space),
            )
            for arm in plain["arms"]
        ]
    except PBTError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ReplayError(f"run {run_id}: its arms cannot be read: {error}") from None
    return schedule, arms


def note(made: Replay) -> str:
    """The description on the replay's page in MLflow."""
    head, *rows = made.table()
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    what = f"**Replay of {made.schedule.source}**: mean and 95% t interval over fresh models"
    return "\n".join([what, "", *lines])


def summary(made: Replay) -> str:
    """What a person wants to know when a replay has ended."""
    rows = made.table()
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    better = "greater" if made.schedule.direction == "maximize" else "smaller"
    lines.append(f"mean and 95% t interval over a row's models; a {better} score is better")
    for arm in made.arms:
        lines += [f"{arm.name}: a model failed: {error}" for error in arm.errors.values()]
    return "\n".join([*lines, f"replay {made.run_id}"])
