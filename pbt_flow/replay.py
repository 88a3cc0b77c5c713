"""Does the schedule work again? Fresh models trained along it, beside two that stand still.

A winner is the best of many, and lucky. Its schedule is worth something if fresh models with other
seeds do well along it: better than with the winner's last hyperparameters from the start, and
better than with the best of the initial settings. (Jaderberg et al. 2017 ask the same of theirs.)

Each fresh model is a member whose turns are the schedule's segments; the workers, the records and
the runs in MLflow are those of a population in which nobody copies.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pbt_flow.engines import Engine, EngineError, Lost
from pbt_flow.errors import PBTError, StoreError
from pbt_flow.interval import Interval
from pbt_flow.launch import check_probe, hired, start
from pbt_flow.member import Member, Plan, Turn, derive_seed
from pbt_flow.schedule import Schedule
from pbt_flow.settings import Settings
from pbt_flow.space import Hparams, check_hparams
from pbt_flow.worker import Look, Report

SCHEDULE, LAST, INITIAL = "schedule", "last", "best_initial"
ARMS = {
    SCHEDULE: "the winner's schedule",
    LAST: "its last hyperparameters, held constant",
    INITIAL: "the best initial setting, held constant",
}


class ReplayError(PBTError, RuntimeError):
    """A replay that cannot go on, or that did not train what the schedule says."""


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

    def summary(self) -> dict[str, Interval]:
        """Mean and interval of the score, and of the report's headline."""
        found = {"score": Interval.of(self.scores)} if self.scores else {}
        if self.metric:
            found[self.metric] = Interval.of([report[self.metric] for report in self.reports])
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
        metric = next((arm.metric for arm in self.arms if arm.metric), "")
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
    """The settings of the replay: a population in which nobody copies.

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
            "initial": [arm.hparams or first.hparams for arm in arms for _ in arm.members],
            "name": f"replay of {schedule.source[:8]}",
            **{name: value for name, value in given.items() if value is not None},
        },
    )
    for segment in schedule.segments:
        check_hparams(segment.hparams, kind.space)
    return made


class Director:
    """Trains the members of a replay, each segment by segment, and checks what was trained.

    Args:
        schedule: What to train along.
        arms: Who is trained how; their results are put in here.
        seed: The replay's seed.
        engine: Where turns run.
        log: Is told every turn.
        drop: Is told of every checkpoint that nobody needs any more.
        say: Is told of every model that has got to its end.
    """

    def __init__(
        self,
        schedule: Schedule,
        arms: Sequence[Arm],
        *,
        seed: int,
        engine: Engine,
        log: Callable[[Turn], None],
        drop: Callable[[Turn], object],
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.schedule, self.arms, self.seed, self.engine = schedule, arms, seed, engine
        self.log, self.drop, self.say = log, drop, say
        self.ended = 0
        self.arm_of = {member: arm for arm in arms for member in arm.members}
        self.last: dict[int, Turn] = {}
        """The newest turn of each member."""

    def plan(self, member: Member) -> Plan:
        """The next turn of a member: the next segment of the schedule."""
        segment, held = self.schedule.segments[member.turn], self.arm_of[member.index].hparams
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
        held, live = self.arm_of[turn.member].hparams, turn.plan.hparams
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

    def train(self) -> None:
        """Train every member to the end of the schedule.

        Raises:
            ReplayError: See `check`.
            EngineError: No turn can be run any more.
        """
        waiting = [
            Member(index=m, hparams=self.plan(Member(index=m, hparams={})).hparams)
            for m in self.arm_of
        ]
        under_way: dict[int, Member] = {}
        while waiting or under_way:
            # Whoever has begun goes first, so that a worker keeps its member in memory.
            waiting.sort(key=lambda member: (-member.turn, member.index))
            while waiting and len(under_way) < self.engine.slots:
                member = waiting.pop(0)
                under_way[member.index] = member
                self.engine.submit(self.plan(member))
            for done in self.engine.wait():
                assert not isinstance(done, Report), "nobody has asked for a report yet"
                waiting += self._accept(done, under_way)
        for arm in self.arms:
            turns = [self.last[member] for member in arm.members if member not in arm.errors]
            arm.scores.extend(turn.score for turn in turns if turn.score is not None)

    def _accept(self, done: Any, under_way: dict[int, Member]) -> list[Member]:
        """The member that goes on after an outcome, if it does."""
        if isinstance(done, Lost):
            assert isinstance(done.job, Plan)
            del under_way[done.job.member]
            return self._fail(done.job.member, done.reason)
        turn: Turn = done
        self.check(turn)
        self.log(turn)
        member = under_way.pop(turn.member).after(turn)
        if (before := self.last.get(turn.member)) is not None:
            self.drop(before)
        self.last[turn.member] = turn
        if not turn.ok:
            return self._fail(turn.member, turn.reason or turn.status)
        if member.turn < len(self.schedule.segments):
            return [member]
        self._tell(turn.member, f"score {turn.score:.4g}")
        return []

    def _fail(self, member: int, reason: str) -> list[Member]:
        self.arm_of[member].errors[member] = reason
        self._tell(member, f"failed: {reason}")
        return []

    def _tell(self, member: int, outcome: str) -> None:
        self.ended += 1
        self.say(
            f"[{self.ended}/{len(self.arm_of)}] {self.arm_of[member].label(member)}: {outcome}"
        )

    def report(self) -> dict[int, Mapping[str, float]]:
        """Have every model that got to the end reported on, and enter that in the arms."""
        ended = [member for arm in self.arms for member in arm.members if member not in arm.errors]
        waiting = [
            Look(member=member, checkpoint=checkpoint)
            for member in ended
            if (checkpoint := self.last[member].checkpoint) is not None
        ]
        reports: dict[int, Mapping[str, float]] = {}
        under_way = 0
        while waiting or under_way:
            while waiting and under_way < self.engine.slots:
                self.engine.submit(waiting.pop(0))
                under_way += 1
            for done in self.engine.wait():
                under_way -= 1
                finite = isinstance(done, Report) and all(map(math.isfinite, done.metrics.values()))
                if isinstance(done, Report) and done.metrics and finite:
                    reports[done.look.member] = done.metrics
        for member, told in sorted(reports.items()):
            self.arm_of[member].reports.append(told)
        return reports


def replay(schedule: Schedule, *, seeds: int = 5, quiet: bool = False, **given: Any) -> Replay:
    """Train fresh models along a schedule, and beside it, as MLflow runs.

    Args:
        schedule: What to train along.
        seeds: Fresh models of each arm.
        quiet: Whether to print nothing.
        given: `task`, where the task is not found under the schedule's name, and settings of how
            it runs: `seed`, `workers`, `engine`, `device`, `experiment`, `name`, `turn_timeout`.

    Raises:
        ReplayError: It cannot be trained, or what was trained is not the schedule.
        StoreError: The MLflow tracking store cannot be used.
        ValueError: A setting or the task cannot be; nothing has been written then.
    """
    if seeds < 1:
        raise ReplayError(f"seeds must be at least 1, got {seeds}")
    from pbt_flow.connection import connect
    from pbt_flow.store import Store

    arms = arms_of(schedule, seeds)
    settings = settings_of(schedule, arms, **given)
    with hired(settings.engine, settings.threads) as engine:
        engine.turn_timeout = settings.turn_timeout
        start(engine, settings)
        client, uri = connect()
        check_probe(engine, settings)
        store = Store.create(
            client,
            uri,
            settings=settings.to_json(),
            space=schedule.space,
            direction=schedule.direction,
            initial=[check_hparams(point, schedule.space) for point in settings.initial],
            tags={
                "pbt.role": "replay",
                "pbt.task": settings.task,
                "pbt.replays": schedule.source,
            },
            versions={},
        )
        for arm in arms:
            for member in arm.members:
                tags = {"pbt.arm": arm.name, "pbt.role": "replay"}
                store.tag(tags, member)
                store.rename(arm.label(member), member)
        store.show()
        engine.open(store.folders)
        director = Director(
            schedule,
            arms,
            seed=settings.seed,
            engine=engine,
            log=store.log_turn,
            drop=lambda turn: (
                None if turn.checkpoint is None else store.delete_checkpoint(turn.checkpoint)
            ),
            say=(lambda text: None) if quiet else partial(print, file=sys.stderr, flush=True),
        )
        status = "FAILED"
        try:
            director.train()
            reports = director.report()
            made = Replay(run_id=store.run_id, tracking_uri=uri, schedule=schedule, arms=arms)
            try:
                store.log_replay(made.to_json(), note(made), reports)
            except StoreError:
                director.say(summary(made))  # what was trained for hours must be seen somewhere
                raise
            status = "FINISHED"
        except EngineError as error:
            raise ReplayError(str(error)) from None
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            if status != "FINISHED":
                with contextlib.suppress(StoreError):
                    store.finish(status, dict.fromkeys(director.arm_of, status))
        failed = {member for arm in arms for member in arm.errors}
        store.finish(
            "FINISHED", {m: "FAILED" if m in failed else "FINISHED" for m in director.arm_of}
        )
    return made


def note(made: Replay) -> str:
    """The description on the replay's page in MLflow."""
    head, *rows = made.table()
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    what = f"**Replay of {made.schedule.source}**: mean and 95% interval over fresh models"
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
    lines.append(f"mean and 95% interval; a {better} score is better")
    for arm in made.arms:
        lines += [f"{arm.name}: a model failed: {error}" for error in arm.errors.values()]
    return "\n".join([*lines, f"replay {made.run_id}"])
