"""A population from its beginning, or from where it was stopped, to its end."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pbt_flow.commands.frame import (
    check_claim,
    tell_if_possible,
    train,
)
from pbt_flow.commands.launch import check_buildable, engine_for, read_declaration, start
from pbt_flow.commands.progress import Progress, usual_stages_note
from pbt_flow.commands.publish import LiveReport, publish, publish_model
from pbt_flow.engines import Engine
from pbt_flow.engines.jobs import Describe
from pbt_flow.exceptions import PopulationError, SettingsError
from pbt_flow.population.history import History
from pbt_flow.population.records import Checkpoint
from pbt_flow.population.result import NO_WINNER, Result, Status
from pbt_flow.population.stages import NOBODY
from pbt_flow.reporting.comparable import Entry, check_control
from pbt_flow.settings import Settings
from pbt_flow.space import is_same_space, space_to_json
from pbt_flow.task import Declaration, Task, recorded_options
from pbt_flow.training.averaging import Averaged, average_finalists, average_own_records
from pbt_flow.training.controller import Controller
from pbt_flow.training.finalists import judge_finalists
from pbt_flow.training.log_queue import LogCall
from pbt_flow.training.turn_callbacks import OnTurn, read_callbacks
from pbt_flow.utils.collection import collection_paused
from pbt_flow.utils.processes import call_began
from pbt_flow.utils.scratch import temporary_folder
from pbt_flow.utils.text import nearest
from pbt_flow.utils.versions import present_versions

if TYPE_CHECKING:
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.lease import Lease


def run(
    task: str | type[Task] | Callable[[], Any],
    *,
    quiet: bool = False,
    control: bool | str = False,
    on_turn: OnTurn | Sequence[OnTurn] | None = None,
    **settings: Any,
) -> Result:
    """Train a population, and return what became of it.

    Args:
        task: A task class, or the name of one (see `pbt_flow.task.find_task`).
        quiet: Whether to print nothing.
        control: Whether to train its control afterwards: random search with the same budget, seed
            and initial points. Or the run of a population that is there, to compare with.
        on_turn: A function, or several, called as `on_turn(turn, history)` with every turn as soon
            as it is committed, and with all turns so far. It may return `pbt_flow.STOP`: the turns
            under way finish, and the population ends as one that has reached its target. What it
            raises ends the population as well, as failed, and is then raised here; a resume goes
            on. Workers that are free wait for it, so it should take less time than a turn. It is
            not told of the turns of a control.
        settings: Fields of `pbt_flow.Settings`; what is not given comes from the task's defaults.

    Raises:
        ValueError: A setting, a strategy, the task or an initial point cannot be; nothing has been
            written then.
        StoreError: The MLflow tracking store cannot be used.
        PopulationError: The workers cannot be used, or another controller has taken over.
    """
    _check_keywords(run, settings)
    callbacks = read_callbacks(on_turn)
    known = _known(control) if isinstance(control, str) else None
    result = _new(task, quiet=quiet, control=known, on_turn=callbacks, **settings)
    if known is not None:
        return _beside(result, known.result)
    if control and result.status == "finished":
        name = settings.get("name")
        settings |= {"exploit": "none", "stages": NOBODY, "register": None}
        settings |= {"name": name and f"{name}, control"}
        return _beside(result, _new(task, quiet=quiet, **settings))
    return result


def _check_keywords(function: Callable[..., Result], settings: Mapping[str, Any]) -> None:
    """Refuse a misspelt argument of a function, which would pass for a setting.

    Raises:
        SettingsError: There is no such setting, and it is like an argument of the function.
    """
    own = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    known = [f.name for f in dataclasses.fields(Settings)]
    for name in settings:
        near = nearest(name, [*own, *known])
        if name not in known and near in own:
            raise SettingsError(
                f"{function.__name__}() has no argument {name!r} (did you mean {near}?)"
            )


def _new(
    task: str | type[Task] | Callable[[], Any],
    *,
    quiet: bool,
    control: Entry | None = None,
    on_turn: Sequence[OnTurn] = (),
    **settings: Any,
) -> Result:
    began = call_began()
    Settings.check_given(settings)
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(engine_for(**settings))
        if isinstance(task, str):
            engine.submit(Describe(task=task, options=settings.get("options")))
        # All of this takes a second or two, while a worker imports torch.
        with collection_paused():
            from pbt_flow.commands.stored_population import StoredPopulation
            from pbt_flow.tracking.client import connect, short_requests, store_prepared
            from pbt_flow.tracking.create import Manifest
            from pbt_flow.tracking.store import Store
        stack.enter_context(short_requests())
        with store_prepared() as database:
            made, kind = Settings.for_task(
                read_declaration(engine, task, settings.get("options"), quiet=quiet), **settings
            )
            if control is not None:
                check_control(control, made, defaults=kind.option_defaults)
            strategies = made.strategies()
            rng = np.random.default_rng(np.random.SeedSequence([made.seed]))
            initial = made.draw_founders(kind.space, rng)
            start(engine, made)
            understood = check_buildable(engine, made, quiet=quiet)
            client, uri = connect(database)
        plan = Manifest(
            settings=made.to_json(),
            space=space_to_json(kind.space),
            direction=kind.direction,
            report_direction=kind.report_direction,
            option_defaults=kind.option_defaults,
            initial=initial,
            versions=present_versions(),
        )
        tags = {
            "pbt.role": "population",
            "pbt.task": made.task,
            "pbt.exploit": str(strategies.exploit),
            "pbt.explore": str(strategies.explore),
            "pbt.engine": made.engine,
        }
        groups = made.groups if made.has_groups else ()
        store = Store.create(client, uri, plan, tags=tags, groups=groups)
        stored = StoredPopulation(store=store, settings=made)
        return _train(
            stored,
            kind,
            engine,
            began=began,
            understood=understood,
            resumed=False,
            quiet=quiet,
            notes=usual_stages_note(made, settings),
            on_turn=on_turn,
        )


def _known(control: str) -> Entry:
    """The population that is to be the control.

    Raises:
        StoreError: The run is no population.
        ComparisonError: It is a replay.
    """
    from pbt_flow.commands.stored_population import StoredPopulation

    return StoredPopulation.open(control).entry()


def _beside(result: Result, control: Result) -> Result:
    """Note on a population what its control is, and make its report anew with both."""
    from pbt_flow.commands.report import report
    from pbt_flow.commands.stored_population import CONTROL
    from pbt_flow.tracking.client import short_requests
    from pbt_flow.tracking.store import Store

    told = dataclasses.replace(result, control=control)
    if control.status != "finished":
        return told  # half a control is none
    with short_requests():
        store = Store.open(result.run_id)
        store.tag({CONTROL: control.run_id})
        store.outcome.describe(told)
        report(result.run_id)
    return told


def resume(
    run_id: str,
    *,
    quiet: bool = False,
    on_turn: OnTurn | Sequence[OnTurn] | None = None,
    **changes: Any,
) -> Result:
    """Go on with a population that was stopped, from its run id alone.

    Turns that were under way when it stopped are run again; nothing else is.

    Args:
        run_id: The population's run.
        quiet: Whether to print nothing.
        on_turn: As in `run`; it is not told of the turns that were done before.
        changes: Settings to change, such as a larger `turns` or other `workers`; `seconds="none"`
            and `target="none"` lift a limit.

    Raises:
        StoreError: The run is no population, or it is running.
        SettingsError: A setting was given that defines the population.
        TaskError: The task is not found any more, or cannot be built.
        RecordError: A turn record cannot be trusted.
        PopulationError: The workers cannot be used, or another controller has taken over.
    """
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.adoption import take_launched_run
    from pbt_flow.tracking.client import short_requests

    began = call_began()
    _check_keywords(resume, changes)
    callbacks = read_callbacks(on_turn)
    with short_requests():
        stored = StoredPopulation.open(run_id)
        store, run_id = stored.store, stored.run_id
        launched_for = take_launched_run(store.client)
    if stored.is_replay:
        raise PopulationError(
            f"run {run_id} is a replay; go on with pbt_flow.resume_replay, or with "
            f"python -m pbt_flow resume {run_id}"
        )
    if launched_for:
        store.client.set_tag(launched_for, "pbt.resumes", run_id)
    made = stored.settings.resumed(**changes)
    _check_past(stored, made)
    with short_requests():
        # A cluster takes longer to attach to than all that is left to do.
        is_done = made.engine == "ray" and made.device == "cpu" and _is_trained(stored, made)
        on = dataclasses.replace(made, engine="processes", workers=1) if is_done else made
    with (
        engine_for(on.engine, on.threads, on.device) as engine,
        short_requests(),
    ):
        engine.submit(Describe(task=made.task, options=made.options))
        kind = read_declaration(engine, made.task, made.options, quiet=quiet)
        made.check_model(kind)
        if not is_same_space(space_to_json(kind.space), store.manifest.space):
            raise SettingsError(
                f"the space of task {made.task} is not the one that population {run_id} began "
                "with; bring the task's code back, or start a new population"
            )
        defaults = store.manifest.option_defaults
        options, notes = recorded_options(kind, made.options, defaults)
        made = dataclasses.replace(made, options=options)
        start(engine, dataclasses.replace(on, options=options))
        understood = check_buildable(engine, made, begun_with=stored.settings.budget, quiet=quiet)
        return _train(
            dataclasses.replace(stored, settings=made),
            kind,
            engine,
            began=began,
            understood=understood,
            resumed=True,
            quiet=quiet,
            notes=notes,
            on_turn=callbacks,
        )


def _check_past(stored: StoredPopulation, made: Settings) -> None:
    """Refuse settings of a resume that do not go with what the population has done.

    Raises:
        SettingsError: A member has done more turns, or would not have left at the end of a stage.
    """
    before = stored.settings
    if made.turns >= before.turns and made.max_failures >= before.max_failures:
        return
    history = stored.read_history()
    done = max(member.turn for member in history.members.values())
    if made.last_turn < done:
        stages = f" (stages that end after {made.last_turn})" if made.stage_plan else ""
        raise SettingsError(
            f"turns={made.turns}{stages} is less than what was done: a member of population "
            f"{stored.run_id} has done {done}"
        )
    # Who has left follows from the turns and this limit. A retired member does not leave, and what
    # it stands on could win.
    worst = max((history.members[index].failures for index in history.left), default=0)
    if made.max_failures <= worst:
        raise SettingsError(
            f"max_failures={made.max_failures} would retire a member of population "
            f"{stored.run_id} that has left at the end of a stage; give {worst + 1} or more"
        )


def _is_trained(stored: StoredPopulation, settings: Settings) -> bool:
    """Whether MLflow knows every turn of the budget: a resume then does nothing but the end."""
    return sum(stored.store.turns_logged().values()) >= settings.all_turns


# --- from the first turn to the result ------------------------------------------------------------


def _train(
    stored: StoredPopulation,
    kind: Declaration,
    engine: Engine,
    *,
    began: float,
    understood: Mapping[str, str],
    resumed: bool,
    quiet: bool,
    notes: Sequence[str] = (),
    on_turn: Sequence[OnTurn] = (),
) -> Result:
    progress = Progress(stored.settings, stored.run_id, stored.store.tracking_uri, quiet=quiet)

    def watch(history: History, later: Callable[[LogCall], None]) -> LiveReport:
        before = history.turns_done

        def so_far() -> Result:
            return stored.result_of(
                history.snapshot(),
                {},
                status="running",
                seconds=time.monotonic() - began,
                turns_before=before,
            )

        keep = stored.store.artifacts.keep
        return LiveReport(progress, so_far, stored.report_data, keep, later)

    return train(
        stored,
        engine,
        resumed=resumed,
        screen=progress,
        watch=watch,
        greeting=[*progress.greeting, *notes],
        understood=understood,
        end=partial(_end, stored, kind, began),
        on_turn=on_turn,
    )


def _tell_of_failed_ends(history: History, say: Callable[[str], None]) -> None:
    """Say so where the winner is not what its member did last: that turn failed."""
    winner = history.winner()
    assert winner is not None
    standing = [m for m in history.members.values() if m.checkpoint == winner.checkpoint]
    # Nobody stands on a best record ever that was not the last.
    if standing and all(member.failures for member in standing):
        last = history.turns[standing[0].index][-1]
        say(
            f"the winner is what turn {winner.number} of member {winner.member} left; turn "
            f"{last.number} of member {last.member}, which went on from there, failed: "
            f"{last.reason}"
        )


def _end(
    stored: StoredPopulation,
    kind: Declaration,
    began: float,
    controller: Controller,
    status: Status,
    lease: Lease,
) -> Result:
    """Look at the winner, say in MLflow what became of everyone, and make the result."""
    store, history, say = stored.store, controller.history, controller.progress.say
    if status != "interrupted" and not controller.living:
        status = "failed"
    elif status == "finished" and history.winner() is None:
        controller.stopping, status = NO_WINNER, "failed"
    with temporary_folder() as samples, temporary_folder() as average:
        looked = _Looked()
        if status == "finished":
            looked = _look(controller, samples=Path(samples), average=Path(average))
        controller.engine.close()
        result = stored.result_of(
            history,
            looked.reports,
            status=status,
            reason=controller.stopping,
            seconds=time.monotonic() - began,
            turns_before=controller.turns_before,
        )
        last_words: list[LogCall] = []
        if any(Path(samples).iterdir()):
            last_words.append(partial(store.artifacts.log_samples, Path(samples)))
        if result.winner is not None and looked.averaged is not None:
            handed_over = stored.average_of(result.winner, looked.averaged)
            result = dataclasses.replace(result, average=handed_over)
            last_words.append(partial(store.artifacts.keep_average, Path(average)))
        if result.winner is not None and looked.own is not None:
            own = stored.own_average_of(result.winner, looked.own)
            result = dataclasses.replace(result, own_average=own)
        ours = partial(check_claim, store, lease)
        told = partial(stored.report_data, result)
        left = [ours, partial(publish, told, store.artifacts.keep, say)]
        if status == "finished" and kind.has_model:
            name = controller.settings.register
            left.append(partial(publish_model, store.artifacts, result, name, say))
        left.append(partial(store.outcome.conclude, result))
        if status == "failed" and controller.living:
            # What failed may be the very disk that these are written to: it is not waited for.
            left = [partial(tell_if_possible, left, say)]
        seal = partial(store.seal_journal, controller.claim, result.turns)
        finish = partial(store.finish, *_run_statuses(controller, status))
        controller.queues.say_last([*last_words, *left, ours, seal, finish])
    return result


@dataclass(frozen=True, kw_only=True)
class _Looked:
    """What was seen when training was over; nothing where it did not come to its end."""

    reports: Mapping[Checkpoint, Mapping[str, float]] = field(default_factory=dict)
    """What the task reports of the winner and of the best initial setting."""
    averaged: Averaged | None = None
    """The average of finalists, which is handed over where it is better."""
    own: Averaged | None = None
    """That of the winner's own last checkpoints, which is shown beside them."""


def _look(controller: Controller, *, samples: Path, average: Path) -> _Looked:
    """Judge the finalists, average them, and report on the winner.

    Args:
        controller: That of a population which has a winner.
        samples: The folder for what the task shows of its models.
        average: The folder for the state of the average.
    """
    history, engine, say = controller.history, controller.engine, controller.progress.say
    how = controller.settings.finalists
    if how != "none":
        judgement = judge_finalists(history, engine, say)
        history.fresh.update(judgement.fresh)
        history.scores_repeat = judgement.scores_repeat
    _tell_of_failed_ends(history, say)
    best, initial = history.winner(), history.best_initial
    if best is None:
        return _Looked()
    averaged = own = None
    if how in ("average", "own"):
        averaged = average_finalists(history, engine, average, say)
    if how == "own":
        # It is shown and not handed over, so that its state is not kept.
        with temporary_folder() as unkept:
            own = average_own_records(history, engine, Path(unkept), say)
        if own is None:
            say("no average of the winner's own checkpoints: too few, or without a mean")
    # A task may take a minute for it, and nothing would move on the screen.
    say("reporting on the winner and on the best initial setting")
    wanted = None if controller.settings.samples == "none" else str(samples)
    reports = controller.inspect([best, *([initial] if initial else [])], wanted)
    return _Looked(reports=reports, averaged=averaged, own=own)


def _run_statuses(controller: Controller, status: Status) -> tuple[str, dict[int, str]]:
    """How the population's run ends in MLflow, and those of its members.

    Who has left has done what it was to, and its run has ended.
    """
    ended = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}[status]
    living = {member.index for member in controller.living}
    return ended, {
        member: ended if member in living else "FAILED"
        for member in controller.history.members
        if member not in controller.history.left
    }
