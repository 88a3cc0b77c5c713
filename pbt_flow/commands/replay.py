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
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pbt_flow.commands.frame import check_claim, tell_if_possible, train
from pbt_flow.commands.launch import check_buildable, engine_for, read_declaration, start
from pbt_flow.commands.notebook_line import NotebookLine, is_in_notebook
from pbt_flow.engines import Engine
from pbt_flow.engines.jobs import Describe
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
from pbt_flow.training.log_queue import LogCall
from pbt_flow.utils.interval import Interval
from pbt_flow.utils.terminal import Unbroken
from pbt_flow.utils.text import listed

if TYPE_CHECKING:
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.lease import Lease
    from pbt_flow.tracking.store import Store

CHANGES = ("workers", "threads", "warm", "turn_timeout", "engine", "device", "gpu_share")
"""The settings that say how a replay runs, and not what it trains. A resume may change them."""
SCHEDULE, LAST, INITIAL = "schedule", "last", "best_initial"
"""The names of the arms."""
ARM_TITLES = {
    SCHEDULE: "the winner's schedule",
    LAST: "its last hyperparameters, held constant",
    INITIAL: "the best initial setting, held constant",
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train fresh models, and the results of the models that were trained in it."""

    name: str
    members: Sequence[int]
    """The members of the replay that are the arm's models."""
    hparams: Hparams | None
    """The hyperparameters that are held constant; None if the models follow the schedule."""
    scores: list[float] = field(default_factory=list)
    """The last score of each model that was trained to the end."""
    reports: list[Mapping[str, float]] = field(default_factory=list)
    """What `Task.report` returned for each of these models."""
    errors: dict[int, str] = field(default_factory=dict)
    """Why each other model failed, by member."""

    def label(self, member: int) -> str:
        """The name of the run of one of the arm's models."""
        return f"{self.name}-{self.members.index(member):02d}"

    @property
    def metric(self) -> str:
        """The headline of the reports, which is their first metric; empty if there is none."""
        return next(iter(self.reports[0]), "") if self.reports else ""

    @property
    def column(self) -> str:
        """The headline's title in the table, where the score has a column too."""
        return "score of the report" if self.metric == "score" else self.metric

    def summary(self) -> dict[str, Interval]:
        """Mean and confidence interval of the score, and of the report's headline, by title."""
        found: dict[str, Interval] = {}
        if self.scores:
            found["score"] = Interval.of(self.scores)
        if self.metric:
            # A task may leave a metric out of some reports.
            told = [report[self.metric] for report in self.reports if self.metric in report]
            found[self.column] = Interval.of(told)
        return found


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The result of a replay."""

    run_id: str
    tracking_uri: str
    schedule: Schedule
    arms: Sequence[Arm]

    def table(self) -> list[list[str]]:
        """The results as rows of text: a heading, a row for each arm, and the winner itself."""
        heading = ["", "models", "score"]
        metric = next((arm.column for arm in self.arms if arm.metric), "")
        if metric:
            heading.append(metric)
        rows = [heading]
        for arm in self.arms:
            summary = arm.summary()
            row = [ARM_TITLES[arm.name], f"{len(arm.scores)}/{len(arm.members)}"]
            for title in heading[2:]:
                row.append(str(summary.get(title, "-")))
            rows.append(row)
        winner = ["the winner itself", "1", f"{self.schedule.score:.4g}"]
        # The winner's report is not in the schedule: its cell stays empty.
        rows.append(winner + [""] * (len(heading) - len(winner)))
        return rows

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
    """The arms of a replay, with `seeds` models each."""
    last = schedule.segments[-1].hparams
    ways: list[tuple[str, Hparams | None]] = [(SCHEDULE, None), (LAST, last)]
    # The best initial setting makes an arm of its own only if it is not what another arm trains.
    if schedule.best_initial not in (None, last):
        ways.append((INITIAL, schedule.best_initial))
    arms = []
    for number, (name, hparams) in enumerate(ways):
        members = range(number * seeds, (number + 1) * seeds)
        arms.append(Arm(name=name, members=members, hparams=hparams))
    return arms


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


@dataclass(frozen=True, kw_only=True)
class SchedulePlanner:
    """Plans the turns of a replay, and checks that they were trained as the schedule says."""

    schedule: Schedule
    arms: Sequence[Arm]
    seed: int
    """The replay's seed."""

    def arm_of(self, member: int) -> Arm:
        """The arm that a member belongs to."""
        return next(arm for arm in self.arms if member in arm.members)

    def plan(self, member: Member) -> Plan:
        """The next turn of a member: the next segment of the schedule."""
        segment = self.schedule.segments[member.turn]
        constant = self.arm_of(member.index).hparams
        return Plan(
            member=member.index,
            turn=member.turn + 1,
            seed=derive_seed(self.seed, member.index, member.turn + 1),
            hparams=segment.hparams if constant is None else constant,
            steps=segment.end - segment.start,
            start=member.checkpoint,
            start_step=member.step,
            trained=segment.end,
        )

    def check(self, turn: Turn) -> None:
        """Check that each step of a turn was trained under the hyperparameters of its arm.

        Raises:
            ReplayError: A step was trained under others, or the task says that other values were
                live.
        """
        constant, live = self.arm_of(turn.member).hparams, turn.plan.hparams
        step, end = turn.plan.start_step, turn.plan.start_step + turn.plan.steps
        while step < end:
            segment = self.schedule.segment(step)
            wanted = segment.hparams if constant is None else constant
            if wanted != live:
                raise ReplayError(
                    f"member {turn.member} trained step {step} under {dict(live)}, and the "
                    f"schedule says {dict(wanted)}"
                )
            step = segment.end
        for name, value in live.items():
            # A task may report as `live/NAME` the value that its optimiser really trained with.
            told = turn.metrics.get(f"live/{name}")
            if told is not None and not (isinstance(value, int | float) and told == value):
                raise ReplayError(
                    f"member {turn.member}, turn {turn.number}: the task trained with {name} = "
                    f"{told}, and the schedule says {value}; a restored optimiser may have "
                    "brought its own value back"
                )

    def is_last(self, turn: Turn) -> bool:
        """Whether a turn is the last of its model: it failed, or the schedule is over."""
        return not turn.ok or turn.number == len(self.schedule.segments)

    def last_turns(self, history: History) -> list[Turn]:
        """The last turn of each model that has ended, ordered by member."""
        newest = [turns[-1] for _, turns in sorted(history.turns.items()) if turns]
        return [turn for turn in newest if self.is_last(turn)]

    def enter_results(self, history: History) -> None:
        """Enter the results of the models that have ended into their arms."""
        for turn in self.last_turns(history):
            arm = self.arm_of(turn.member)
            if turn.score is None:
                arm.errors[turn.member] = turn.reason or turn.status
            else:
                arm.scores.append(turn.score)


class ReplayScreen:
    """Checks every turn of a replay, and prints the result of each model that has ended.

    Args:
        planner: The planner of the replay, which knows what the turns should be.
        quiet: Whether to print nothing.
    """

    def __init__(self, planner: SchedulePlanner, *, quiet: bool = False) -> None:
        self.planner, self.quiet = planner, quiet
        self._line = NotebookLine() if is_in_notebook() else None

    def __enter__(self) -> ReplayScreen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def watch(self, history: History, later: Callable[[LogCall], None]) -> ReplayScreen:
        """Check the turns that a resumed replay has done already.

        Nothing that a replay shows has to be asked for, so that nothing is left for `later`.

        Raises:
            ReplayError: A turn was not trained as the schedule says.
        """
        for turns in history.turns.values():
            for turn in turns:
                self.planner.check(turn)
        return self

    def turn(self, turn: Turn, history: History) -> None:
        """Check a turn that has just been committed, and print the result if its model has ended.

        Raises:
            ReplayError: The turn was not trained as the schedule says.
        """
        self.planner.check(turn)
        if self.planner.is_last(turn):
            ended = len(self.planner.last_turns(history))
            label = self.planner.arm_of(turn.member).label(turn.member)
            outcome = f"failed: {turn.reason}" if turn.score is None else f"score {turn.score:.4g}"
            text = f"[{ended}/{len(history.members)}] {label}: {outcome}"
            # A failure stays, where a line that is written over would lose it.
            if self._line is None or turn.score is None:
                self.say(text)
            elif not self.quiet:
                self._line.show(text)

    def tick(self) -> None:
        """Do nothing: a replay shows no time."""

    def say(self, text: str) -> None:
        if not self.quiet:
            # Notebooks show standard error in red.
            stream = sys.stderr if self._line is None else sys.stdout
            print(text, file=Unbroken(stream), flush=True)


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
                store.outcome.log_arms(_arms_to_json(result))
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
        schedule, arms = _arms_from_json(store.outcome.arms(), run_id)
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


def _arms_to_json(result: Replay) -> dict[str, Any]:
    """The schedule and the arms as plain values."""
    return {
        "version": 1,
        "schedule": result.schedule.to_json(),
        "arms": [
            {
                "name": arm.name,
                "members": list(arm.members),
                "hparams": None if arm.hparams is None else dict(arm.hparams),
            }
            for arm in result.arms
        ],
    }


def _arms_from_json(plain: Any, run_id: str) -> tuple[Schedule, list[Arm]]:
    """The inverse of `_arms_to_json`.

    Raises:
        ReplayError: The text is not what `_arms_to_json` wrote.
        ScheduleError: The schedule in it is not valid.
    """
    try:
        if plain["version"] != 1:
            raise ValueError(f"version {plain['version']!r}, this program reads version 1")
        schedule = Schedule.from_json(plain["schedule"])
        arms = []
        for arm in plain["arms"]:
            hparams = arm["hparams"]
            if hparams is not None:
                hparams = check_hparams(hparams, schedule.space)
            members = [int(member) for member in arm["members"]]
            arms.append(Arm(name=arm["name"], members=members, hparams=hparams))
    except PBTError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ReplayError(f"run {run_id}: its arms cannot be read: {error}") from None
    return schedule, arms


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _row_by_row(rows: Sequence[Sequence[str]]) -> list[str]:
    """The same for a narrow terminal: the name of each row, and its cells below."""
    heads, *body = rows
    lines = []
    for name, *cells in body:
        lines.append(name)
        lines += [f"  {head} {cell}" for head, cell in zip(heads[1:], cells, strict=True) if cell]
    return lines


def note(result: Replay) -> str:
    """The description on the replay's page in MLflow, in Markdown."""
    heading, *rows = result.table()
    table = [heading, ["---"] * len(heading), *rows]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    title = f"**Replay of {result.schedule.source}**: mean and 95% t interval over fresh models"
    return "\n".join([title, "", *lines])


def summary(result: Replay, *, width: int | None = None) -> str:
    """What the command prints when a replay has ended: the table, and why models failed.

    Args:
        result: The replay.
        width: Characters of a line; None for those of the terminal, or any number in a file.
    """
    if width is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    rows = result.table()
    lines = _aligned(rows)
    if max(map(len, lines)) > width:
        lines = _row_by_row(rows)
    better = "greater" if result.schedule.direction == "maximize" else "smaller"
    lines.append(f"mean and 95% t interval over a row's models; a {better} score is better")
    for arm in result.arms:
        lines += [f"{arm.name}: a model failed: {error}" for error in arm.errors.values()]
    lines += [f"replay {result.run_id}", "look at it in MLflow's UI with"]
    return "\n".join([*lines, f"  python -m pbt_flow ui {result.run_id[:12]}"])
