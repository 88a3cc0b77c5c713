"""A population from beginning to end: run a new one, resume a stopped one, load what became."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pbt_flow.commands.frame import (
    check_claim,
    read_history,
    stored_settings,
    tell_if_possible,
    train,
)
from pbt_flow.commands.launch import check_buildable, engine_for, read_declaration, spec_of, start
from pbt_flow.commands.progress import Progress
from pbt_flow.commands.publish import LiveReport, keep_model, publish, publish_model, write
from pbt_flow.engines import Engine
from pbt_flow.engines.worker import Describe
from pbt_flow.exceptions import PopulationError
from pbt_flow.population.checkpoints import load_state
from pbt_flow.population.history import History
from pbt_flow.population.records import Checkpoint, derive_seed, report_seed
from pbt_flow.population.result import NO_WINNER, Result, Status
from pbt_flow.reporting.comparison import (
    Comparison,
    ComparisonError,
    Entry,
    check_control,
    check_ended,
    check_equal,
    check_pair,
    page,
)
from pbt_flow.reporting.report_data import Subject
from pbt_flow.settings import Settings, SettingsError, check_model_name
from pbt_flow.space import check_hparams, is_same_space, space_to_json
from pbt_flow.task import Declaration, Task, recorded_options
from pbt_flow.training.controller import Controller

if TYPE_CHECKING:
    from optuna import Study

    from pbt_flow.tracking.lease import Lease
    from pbt_flow.tracking.store import Store


CONTROL = "pbt.control"
"""The tag that names a population's control."""


def run(
    task: str | type[Task], *, quiet: bool = False, control: bool | str = False, **settings: Any
) -> Result:
    """Train a population, and return what became of it.

    Args:
        task: A task class, or the name of one (see `pbt_flow.task.find_task`).
        quiet: Whether to print nothing.
        control: Whether to train its control afterwards: random search with the same budget, seed
            and initial points. Or the run of a population that is there, to compare with.
        settings: Fields of `pbt_flow.Settings`; what is not given comes from the task's defaults.

    Raises:
        ValueError: A setting, a strategy, the task or an initial point cannot be; nothing has been
            written then.
        StoreError: The MLflow tracking store cannot be used.
        PopulationError: The workers cannot be used, or another controller has taken over.
    """
    known = _entry(control) if isinstance(control, str) else None
    result = _new(task, quiet=quiet, control=known, **settings)
    if known is not None:
        return _beside(result, known.result)
    if control and result.status == "finished":
        name = settings.get("name")
        settings |= {"exploit": "none", "register": None, "name": name and f"{name}, control"}
        return _beside(result, _new(task, quiet=quiet, **settings))
    return result


def _new(
    task: str | type[Task], *, quiet: bool, control: Entry | None = None, **settings: Any
) -> Result:
    with engine_for(**settings) as engine:
        if isinstance(task, str):
            engine.submit(Describe(task=task, options=settings.get("options")))
        # 2 s of imports, while a worker imports torch.
        from pbt_flow.tracking.client import connect, short_requests
        from pbt_flow.tracking.create import Manifest
        from pbt_flow.tracking.store import Store

        made, kind = Settings.make(
            read_declaration(engine, task, settings.get("options")), **settings
        )
        if control is not None:
            check_control(control, made, defaults=kind.option_defaults)
        strategies = made.strategies()
        rng = np.random.default_rng(np.random.SeedSequence([made.seed]))
        drawn = strategies.init.initial(kind.space, made.population - len(made.initial), rng)
        initial = [check_hparams(point, kind.space) for point in [*made.initial, *drawn]]
        start(engine, made)
        with short_requests():
            client, uri = connect()  # a new database takes seconds, while the model is built
            understood = check_buildable(engine, made)
            plan = Manifest(
                settings=made.to_json(),
                space=space_to_json(kind.space),
                direction=kind.direction,
                report_direction=kind.report_direction,
                option_defaults=kind.option_defaults,
                initial=initial,
                versions=_versions(),
            )
            tags = {
                "pbt.role": "population",
                "pbt.task": made.task,
                "pbt.exploit": str(strategies.exploit),
                "pbt.explore": str(strategies.explore),
                "pbt.engine": made.engine,
            }
            store = Store.create(client, uri, plan, tags=tags)
            return _train(
                store, made, kind, engine, understood=understood, resumed=False, quiet=quiet
            )


def _beside(result: Result, control: Result) -> Result:
    """Note on a population what its control is, and make its report anew with both."""
    from pbt_flow.tracking.store import Store

    told = dataclasses.replace(result, control=control)
    if control.status != "finished":
        return told  # half a control is none
    store = Store.open(result.run_id)
    store.tag({CONTROL: control.run_id})
    store.describe(told)
    make_report(result.run_id)
    return told


def resume(run_id: str, *, quiet: bool = False, **changes: Any) -> Result:
    """Go on with a population that was stopped, from its run id alone.

    Turns that were under way when it stopped are run again; nothing else is.

    Args:
        run_id: The population's run.
        quiet: Whether to print nothing.
        changes: Settings to change, such as a larger `turns` or other `workers`; `seconds="none"`
            and `target="none"` lift a limit.

    Raises:
        StoreError: The run is no population, or it is running.
        SettingsError: A setting was given that defines the population.
        TaskError: The task is not found any more, or cannot be built.
        RecordError: A turn record cannot be trusted.
        PopulationError: The workers cannot be used, or another controller has taken over.
    """
    from pbt_flow.tracking.adoption import take_launched_run
    from pbt_flow.tracking.client import short_requests
    from pbt_flow.tracking.store import Store

    with short_requests():
        store = Store.open(run_id)
        launched_for = take_launched_run(store.client)
    if store.role == "replay":
        raise PopulationError(
            f"run {run_id} is a replay; go on with pbt_flow.resume_replay, or with "
            f"python -m pbt_flow resume {run_id}"
        )
    if launched_for:
        store.client.set_tag(launched_for, "pbt.resumes", run_id)
    before = stored_settings(store)
    made = before.resumed(**changes)
    if made.turns < before.turns:
        done = max(member.turn for member in read_history(store).members.values())
        if made.turns < done:
            raise SettingsError(
                f"turns={made.turns} is less than what was done: a member of population {run_id} "
                f"has done {done}"
            )
    with (
        engine_for(engine=made.engine, threads=made.threads) as engine,
        short_requests(),
    ):
        engine.submit(Describe(task=made.task, options=made.options))
        kind = read_declaration(engine, made.task, made.options)
        made.check_model(kind)
        if not is_same_space(space_to_json(kind.space), store.manifest.space):
            raise SettingsError(
                f"the space of task {made.task} is not the one that population {run_id} began "
                "with; bring the task's code back, or start a new population"
            )
        defaults = store.manifest.option_defaults
        options, notes = recorded_options(kind, made.options, defaults)
        made = dataclasses.replace(made, options=options)
        start(engine, made)
        understood = check_buildable(engine, made)
        return _train(
            store,
            made,
            kind,
            engine,
            understood=understood,
            resumed=True,
            quiet=quiet,
            notes=notes,
        )


def is_replay(run_id: str) -> bool:
    """Whether a run is a replay of a population, and not a population.

    Raises:
        StoreError: The run is neither.
    """
    from pbt_flow.tracking.client import short_requests
    from pbt_flow.tracking.store import Store

    with short_requests():
        return Store.open(run_id).role == "replay"


def load(run_id: str) -> Result:
    """What has become of a population so far, rebuilt from MLflow; it may be running still.

    Raises:
        StoreError: The run is no population.
        RecordError: A turn record cannot be trusted.
    """
    from pbt_flow.tracking.store import Store

    store = Store.open(run_id)
    settings = stored_settings(store)
    ended = store.result()
    reports = {}
    history = read_history(store)
    for name, turn in (("winner", history.winner()), ("best_initial", history.best_initial)):
        told = ended.get(name) or {}
        same = turn and (told.get("member"), told.get("turn")) == (turn.member, turn.number)
        if turn and turn.checkpoint and same:
            # JSON has no number for what is none.
            reports[turn.checkpoint] = {
                name: math.nan if value is None else value for name, value in told["report"].items()
            }
    result = _result(
        store,
        settings,
        history,
        reports,
        status=ended.get("status", store.status),
        reason=ended.get("reason", ""),
        seconds=ended.get("seconds", 0.0),
    )
    control = store.tags().get(CONTROL)
    return dataclasses.replace(result, control=None if control is None else load(control))


def to_study(run_id: str) -> Study:
    """The turns of a population as an in-memory Optuna study.

    How they are told is in `pbt_flow.reporting.optuna_study`.

    Raises:
        StoreError: The run is no population.
        RecordError: A turn record cannot be trusted.
    """
    from pbt_flow.reporting.optuna_study import study_of
    from pbt_flow.tracking.store import Store

    store = Store.open(run_id)
    return study_of(read_history(store), store.space, run_id)


def make_report(
    run_id: str, *, control: str | None = None, out: str | None = None, unequal: bool = False
) -> list[str]:
    """Make the report of a population anew, whether it is running or has ended.

    Args:
        run_id: The population's run.
        control: The run of a population to compare it with.
        out: A folder to write into; None for the population's run in MLflow.
        unequal: Whether to accept a control that did not train equally long; the page says so.

    Returns:
        The files that were written, or where they are on the run.

    Raises:
        StoreError: A run is no population.
        RecordError: A turn record cannot be trusted.
        ComparisonError: The control is of another task or budget, or has not ended.
    """
    from pbt_flow.tracking.store import Store

    os.environ.pop("MLFLOW_RUN_ID", None)
    store = Store.open(run_id)
    if store.role == "replay":
        raise PopulationError(
            f"run {run_id} is a replay, which has no report: what it came to stands on its page"
        )
    result, settings = load(run_id), stored_settings(store)
    beside = result.control
    if control is not None:
        known = _entry(control)
        check_ended(known)
        # A population that has not ended is seen beside its control on the way; the page says so.
        on_the_way = result.status in ("running", "interrupted")
        defaults = store.manifest.option_defaults
        ours = Entry(result=result, settings=settings, option_defaults=defaults)
        check_equal(ours, known, unequal=unequal or on_the_way)
        check_pair(known, settings)
        beside = known.result
    subject = Subject(
        result=result,
        settings=settings,
        space=store.space,
        warnings=store.warnings(),
        understood={**store.understood(), **store.noted()},
        pictures=store.pictures(),
        control=beside,
    )
    if out is not None:
        with _writing(out):
            return [str(path) for path in write(subject, Path(out))]
    with tempfile.TemporaryDirectory() as folder:
        names = [str(path.relative_to(folder)) for path in write(subject, Path(folder))]
        store.keep(Path(folder))
    return names


def compare(run_ids: Sequence[str], *, out: str | None = None, unequal: bool = False) -> Comparison:
    """Compare populations of one task and budget by method, paired by seed.

    Args:
        run_ids: The populations' runs, at least one of each method.
        out: A folder to write the page and the numbers into. Under `mlflow run` they are put on its
            run as well.
        unequal: Whether to accept populations that did not train equally long, and to say so.

    Raises:
        StoreError: A run is no population.
        ComparisonError: They differ in task or budget, or are all of one method.
    """
    launched_for = _launched_for_comparison()
    made = Comparison.of([_entry(run_id) for run_id in dict.fromkeys(run_ids)], unequal=unequal)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(out or folder)
        with _writing(str(place)):
            place.mkdir(parents=True, exist_ok=True)
            (place / "comparison.html").write_text(page(made), encoding="utf-8")
            (place / "comparison.json").write_text(json.dumps(made.to_json(), indent=1), "utf-8")
        if launched_for is not None:
            from pbt_flow.tracking.client import connect

            client, _ = connect()
            client.log_artifacts(launched_for, str(place), "comparison")
            client.set_tag(launched_for, "mlflow.note.content", made.table())
    return made


def _launched_for_comparison() -> str | None:
    """The run that `mlflow run` made for a comparison, where there is one.

    Raises:
        StoreError: The run that MLFLOW_RUN_ID names is something already: it would lose its
            description.
    """
    if not os.environ.get("MLFLOW_RUN_ID"):
        return None
    from pbt_flow.tracking.adoption import launched_run
    from pbt_flow.tracking.client import connect

    run = launched_run(*connect())
    os.environ.pop("MLFLOW_RUN_ID")
    return None if run is None else str(run.info.run_id)


def _entry(run_id: str) -> Entry:
    """A population that is to stand beside another.

    Raises:
        StoreError: The run is no population.
        ComparisonError: It is a replay, whose members are no random search.
    """
    from pbt_flow.tracking.store import Store

    store = Store.open(run_id)
    if store.role == "replay":
        raise ComparisonError(
            f"run {run_id} is a replay, and no population that can be compared with another"
        )
    return Entry(
        result=load(run_id),
        settings=stored_settings(store),
        option_defaults=store.manifest.option_defaults,
    )


def register(run_id: str, name: str) -> str:
    """Make the winner of a population a version of a registered model, and its champion.

    Args:
        run_id: The population's run.
        name: The registered model; it is made if there is none.

    Returns:
        The address of the model, as `mlflow.pytorch.load_model` takes it.

    Raises:
        StoreError: The run is no population, or the registry refuses.
        PopulationError: The population has no winner, or its task keeps no model.
    """
    from pbt_flow.tracking.store import Store

    check_model_name(name)
    os.environ.pop("MLFLOW_RUN_ID", None)
    return keep_model(Store.open(run_id), load(run_id), name)


@contextlib.contextmanager
def _writing(out: str) -> Iterator[None]:
    """Write into a folder of the user's.

    Raises:
        PopulationError: It cannot be written to.
    """
    try:
        yield
    except OSError as error:
        raise PopulationError(f"cannot write to the folder {out}: {error}") from None


# --- from the first turn to the result ------------------------------------------------------------


def _train(
    store: Store,
    settings: Settings,
    kind: Declaration,
    engine: Engine,
    *,
    understood: Mapping[str, str],
    resumed: bool,
    quiet: bool,
    notes: Sequence[str] = (),
) -> Result:
    began = time.monotonic()
    progress = Progress(settings, store.run_id, store.tracking_uri, quiet=quiet)
    for note in notes:
        progress.say(note)

    def watch(history: History) -> LiveReport:
        return LiveReport(
            progress, store, settings, lambda: _so_far(store, settings, history, began)
        )

    return train(
        store,
        settings,
        engine,
        resumed=resumed,
        screen=progress,
        watch=watch,
        understood=understood,
        end=partial(_end, store, kind, began),
    )


def _tell_of_failed_ends(history: History, say: Callable[[str], None]) -> None:
    """Say so where the winner is not what its member did last: that turn failed."""
    winner = history.winner()
    assert winner is not None
    standing = [m for m in history.members.values() if m.checkpoint == winner.checkpoint]
    if all(member.failures for member in standing):
        last = history.turns[standing[0].index][-1]
        say(
            f"the winner is what turn {winner.number} of member {winner.member} left; turn "
            f"{last.number} of member {last.member}, which went on from there, failed: "
            f"{last.reason}"
        )


def _end(
    store: Store,
    kind: Declaration,
    began: float,
    controller: Controller,
    status: Status,
    lease: Lease,
) -> Result:
    """Look at the winner, say in MLflow what became of everyone, and make the result."""
    history, log_queue = controller.history, controller.log_queue
    if status != "interrupted" and not controller.living:
        status = "failed"
    elif status == "finished" and history.winner() is None:
        controller.stopping, status = NO_WINNER, "failed"
    if status == "finished":
        _tell_of_failed_ends(history, controller.progress.say)
    best, initial = history.winner(), history.best_initial
    reports: Mapping[Checkpoint, Mapping[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if status == "finished" and best is not None:
            # A task may take a minute for it, and nothing would move on the screen.
            controller.progress.say("reporting on the winner and on the best initial setting")
            wanted = None if controller.settings.samples == "none" else folder
            reports = controller.look([best, *([initial] if initial else [])], wanted)
            if any(Path(folder).iterdir()):
                log_queue.put(partial(store.log_samples, Path(folder)))
        controller.engine.close()
        result = _result(
            store,
            controller.settings,
            history,
            reports,
            status=status,
            reason=controller.stopping,
            seconds=time.monotonic() - began,
        )
        living = {member.index for member in controller.living}
        ended = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}[status]
        members = {m: ended if m in living else "FAILED" for m in history.members}
        say = controller.progress.say
        ours = partial(check_claim, lease)
        left = [ours, partial(publish, store, controller.settings, result, say)]
        if status == "finished" and kind.has_model:
            left.append(partial(publish_model, store, controller.settings, result, say))
        left.append(partial(store.conclude, result))
        if status == "failed" and living:
            # What failed may be the very disk that these are written to: it is not waited for.
            left = [partial(tell_if_possible, left, say)]
        for message in [*left, ours, partial(store.finish, ended, members)]:
            log_queue.put(message)
        log_queue.drain()
    return result


def _so_far(store: Store, settings: Settings, history: History, began: float) -> Result:
    """What has become of a population that is still training."""
    seconds = time.monotonic() - began
    return _result(store, settings, history, {}, status="running", reason="", seconds=seconds)


def _result(
    store: Store,
    settings: Settings,
    history: History,
    reports: Mapping[Checkpoint, Mapping[str, float]],
    *,
    status: Status,
    reason: str,
    seconds: float,
) -> Result:
    return Result.of(
        history,
        run_id=store.run_id,
        tracking_uri=store.tracking_uri,
        member_runs=store.manifest.members,
        reports=reports,
        max_failures=settings.max_failures,
        status=status,
        reason=reason,
        seconds=seconds,
        charts=store.charts,
        budget=settings.turns * settings.interval,
        report_direction=store.manifest.report_direction,
        revive=partial(_revive, store, settings),
    )


def _revive(
    store: Store, settings: Settings, checkpoint: Checkpoint, device: str | None = None
) -> Task:
    """A task in the state of a checkpoint."""
    device = device or settings.device
    task = spec_of(settings).build(derive_seed(settings.seed, checkpoint.member, 0), device)
    task.load_state_dict(load_state(checkpoint, store.folders.fetch(checkpoint), device))
    task.reseed(report_seed(settings.seed))
    return task


def _versions() -> dict[str, str]:
    names = ("pbt-flow", "mlflow", "optuna", "torch", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
