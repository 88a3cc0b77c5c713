"""Leads what a task logs through MLflow by itself to the run of its member.

MLflow keeps the active run and the tracking store as globals of a process. A task is like a script
to it: if no run is active, `mlflow.log_metric` in a task, or a framework's logger, begins a new run
in the experiment Default. Therefore this module replaces methods of MLflow's client while a job is
under way. A run that the task begins is then the member's run, and a run that it begins inside of
that one is a child of the member's run. What pbt_flow itself logs on the member's run stays as it
is. This module does not import MLflow: it waits until the task does.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pbt_flow.task.mlflow_globals import FLUENT, SavedGlobals, set_variables, without_variables
from pbt_flow.utils.import_hook import ImportHook

INNER = "task"
"""The value of the tag `pbt.role` on a run that a task began inside of its member's run."""
_NO_RUN = "0" * 32
"""A run id that stands for no run: what is logged to it is dropped."""
_CLIENT = "mlflow.tracking.client"
_PARENT, _ROLE, _POPULATION = "mlflow.parentRunId", "pbt.role", "pbt.population"
_OUR_METRICS = ("turn", "step", "score", "donor", "hparams_donor")
_OUR_GROUPS = ("hparam/", "train/", "eval/", "seconds/", "report/", "init/", "legend/", "param/")
_OUR_TAGS = ("mlflow.runName", "mlflow.parentRunId", "mlflow.runColor")
"""These names on a member's run are pbt_flow's. If a task logs under one of them, `task/` is put
before the name."""


@dataclass(frozen=True, kw_only=True)
class MemberRuns:
    """The runs of a population's members, and the store that they are in."""

    tracking_uri: str
    experiment_id: str
    population: str
    """The population's run."""
    members: Sequence[str]
    """The run id of each member."""


@dataclass(kw_only=True)
class Job:
    """One job of a worker, and what its task has done with MLflow in it."""

    runs: MemberRuns | None
    member: str
    """The id of the run that the task logs to: the member's run, or `_NO_RUN` if the job is no turn
    or look of a member."""
    failed: bool = False
    """Whether the job has failed."""
    used: bool = False
    """Whether the task has begun a run or logged something."""
    ended: bool = False
    """Whether the task has ended the run that it takes for its own."""
    params: dict[str, tuple[dict[str, str], set[str]]] = field(default_factory=dict)
    """The params of each run that the task has logged params to, and the names of the params that
    have had another value since."""
    inner: list[tuple[Any, str]] = field(default_factory=list)
    """The runs that the task began inside of the member's run: the client and the id of each."""

    def is_ours(self, run_id: str) -> bool:
        """Whether a run is a member's run, or no run at all."""
        return run_id == _NO_RUN or (self.runs is not None and run_id in self.runs.members)


class _Thread(threading.local):
    is_ours = False
    """Whether a thread logs what pbt_flow says of members, and runs no task."""


_THREAD = _Thread()


def leave_this_thread_alone() -> None:
    """Let what this thread logs go where it says, also while a task trains in this process."""
    _THREAD.is_ours = True


class TaskLogging:
    """Leads what tasks log in this process to their members' runs.

    Args:
        restores: Whether the active run, the tracking store and the experiment are to be after each
            job what they were before it. In the user's own process they are; a worker has none.
    """

    def __init__(self, *, restores: bool = False) -> None:
        self._restores = restores
        self._runs: MemberRuns | None = None
        self._contexts: list[str] = []
        """For each member the tags, as JSON, of the runs that its task's own processes begin."""
        self._is_environment_set = False
        """Whether the environment's variables name the population's store."""
        self._job: Job | None = None
        self._finder = ImportHook({_CLIENT: self._patch_client, FLUENT: self._patch_fluent})
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        """Each replaced function: its owner, its name, the replacement, and MLflow's own."""
        self._theirs: dict[str, Callable[..., Any]] = {}
        """MLflow's own functions that the replacements call."""

    def install(self) -> None:
        """Replace MLflow's functions now, or as soon as MLflow is imported in this process."""
        for name, patch in self._finder.patches.items():
            module = sys.modules.get(name)
            if module is not None:
                patch(module)
        sys.meta_path.insert(0, self._finder)

    def remove(self) -> None:
        """Put MLflow's own functions back."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        for owner, name, ours, theirs in self._replaced:
            # Another library may have replaced the function since; that one stays.
            if getattr(owner, name, None) is ours:
                setattr(owner, name, theirs)
        # While MLflow is imported, its package takes functions over from its modules.
        mlflow = sys.modules.get("mlflow")
        for _, name, ours, theirs in self._replaced:
            if getattr(mlflow, name, None) is ours:
                setattr(mlflow, name, theirs)
        self._replaced.clear()

    def open(self, runs: MemberRuns | None) -> None:
        """Set the runs of the members. What tasks log before this is dropped."""
        self._runs, self._contexts, self._is_environment_set = runs, [], False
        if runs is not None:
            self._contexts = [_child_tags(runs, member) for member in runs.members]

    @property
    def used(self) -> bool:
        """Whether the task has begun a run or logged something in the job under way."""
        return self._job is not None and self._job.used

    @contextlib.contextmanager
    def job(self, member: int | None) -> Iterator[Job]:
        """Do a job in the block, whose task logs to the run of `member`, or to no run."""
        runs = self._runs
        run_id = _NO_RUN if runs is None or member is None else runs.members[member]
        job = Job(runs=runs, member=run_id)
        saved = SavedGlobals() if self._restores else None
        try:
            if runs is not None and not self._is_environment_set:
                set_variables(runs.tracking_uri, runs.experiment_id)
                # Where globals are restored, the variables are too, and are set before each job.
                self._is_environment_set = saved is None
            if runs is not None and member is not None:
                os.environ["MLFLOW_RUN_CONTEXT"] = self._contexts[member]
            else:
                os.environ.pop("MLFLOW_RUN_CONTEXT", None)
            if saved is not None:
                saved.set_aside(None if runs is None else runs.tracking_uri)
            self._job = job
            yield job
        finally:
            if job.used:
                self._end_open_runs(job)
                # MLflow or the task may have set the variables to something else.
                self._is_environment_set = False
            self._job = None
            if saved is not None:
                saved.restore()

    def _end_open_runs(self, job: Job) -> None:
        """End the runs that the task has left open, and write what MLflow has not written yet."""
        fluent, status = sys.modules[FLUENT], "FAILED" if job.failed else "FINISHED"
        while self._theirs["active_run"]() is not None:
            # A store may be away. MLflow takes the run off its stack all the same, so that this
            # loop ends.
            with contextlib.suppress(Exception):
                fluent.end_run(status)
        # The worker is killed at the end of the population, and would lose what is in MLflow's
        # queues.
        with contextlib.suppress(Exception):
            fluent.flush_async_logging()
        queue = sys.modules.get("mlflow.utils.autologging_utils.metrics_queue")
        with contextlib.suppress(Exception):
            if queue is not None:
                queue.flush_metrics_queue()
        for client, run_id in job.inner:
            # A run that cannot be ended now is ended with the population.
            with contextlib.suppress(Exception):
                if client.get_run(run_id).info.status == "RUNNING":
                    client.set_terminated(run_id, status)

    # --- MLflow's functions -----------------------------------------------------------------------

    # Each replacement gets the job under way and MLflow's own function, and then what that function
    # would get.

    def _patch_client(self, module: ModuleType) -> None:
        client = module.MlflowClient
        self._replace(client, "create_run", self._create_run)
        also_without_run: dict[str, Callable[..., Any]] = {
            "get_run": _get_run,
            "log_param": _log_param,
            "set_terminated": _set_terminated,
            "update_run": _do_nothing,
            "delete_run": _do_nothing,
        }
        dropped_without_run: dict[str, Callable[..., Any]] = {
            "log_metric": _renaming(_own_name),
            "set_tag": _renaming(_own_tag_name),
            "delete_tag": _renaming(_own_tag_name),
            "log_batch": _log_batch,
            "log_artifact": _log_as_it_is,
            "log_artifacts": _log_as_it_is,
            "log_inputs": _log_as_it_is,
            "log_outputs": _log_as_it_is,
        }
        for name, ours in also_without_run.items():
            self._replace(client, name, _for_our_runs(ours))
        for name, ours in dropped_without_run.items():
            self._replace(client, name, _for_our_runs(_dropped_without_run(ours)))

    def _patch_fluent(self, module: ModuleType) -> None:
        self._theirs["active_run"], self._theirs["end_run"] = module.active_run, module.end_run
        for name, ours in (("start_run", self._start_run), ("active_run", self._active_run)):
            self._replace(module, name, ours)
            # `mlflow.start_run` is a name of its own for the same function.
            mlflow = sys.modules.get("mlflow")
            if hasattr(mlflow, name):
                setattr(mlflow, name, getattr(module, name))

    def _replace(self, owner: Any, name: str, ours: Callable[..., Any]) -> None:
        """Replace a function of MLflow's by one that calls `ours` while a job is under way."""
        theirs = getattr(owner, name)

        @functools.wraps(theirs)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            job = None if _THREAD.is_ours else self._job
            return theirs(*args, **kwargs) if job is None else ours(job, theirs, *args, **kwargs)

        setattr(owner, name, replacement)
        self._replaced.append((owner, name, replacement, theirs))

    def _active_run(self, job: Job, theirs: Callable[..., Any]) -> Any:
        """The active run: the member's from the beginning of the job until the task ends it."""
        active = theirs()
        if active is None and not job.ended and self._is_store_of(job):
            return sys.modules[FLUENT].start_run()
        return active

    def _start_run(
        self,
        job: Job,
        theirs: Callable[..., Any],
        run_id: str | None = None,
        experiment_id: str | None = None,
        run_name: str | None = None,
        nested: bool = False,
        parent_run_id: str | None = None,
        tags: dict[str, Any] | None = None,
        description: str | None = None,
        **others: Any,
    ) -> Any:
        given = {"experiment_id": experiment_id, "run_name": run_name, "tags": tags} | others
        given["description"] = description
        if not self._is_store_of(job):
            job.used = True
            # The task has chosen another store, in which the population's experiment and run do not
            # exist.
            with without_variables("MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_CONTEXT"):
                return theirs(run_id, nested=nested, parent_run_id=parent_run_id, **given)
        active = self._theirs["active_run"]()
        is_member = active is not None and job.is_ours(active.info.run_id)
        if nested and run_id is None and active is None:
            # MLflow needs an active run for a nested one to lie in: first the member's is begun.
            active = theirs()
        if is_member and not nested:
            if run_id in (None, active.info.run_id) and parent_run_id is None:
                # The task begins its run again. MLflow would refuse that, since the member's run is
                # open already: for a task it is what a new run is for a script.
                added_tags = dict(tags or {})
                if description:
                    added_tags[_NOTE] = description
                if added_tags:
                    sys.modules["mlflow"].set_tags(added_tags)
                return active
            self._theirs["end_run"]()
        if nested and run_id is None and experiment_id is None and job.runs is not None:
            # MLflow shows a run as a child only if both runs are in the same experiment.
            given["experiment_id"] = job.runs.experiment_id
        return theirs(run_id, nested=nested, parent_run_id=parent_run_id, **given)

    def _is_store_of(self, job: Job, client: Any = None) -> bool:
        """Whether a client, or else MLflow in this process, is set to the population's store."""
        if job.runs is None:
            return True
        if client is None:
            mlflow: Any = sys.modules["mlflow"]
            uri = mlflow.get_tracking_uri()
        else:
            uri = client.tracking_uri
        return _normal_uri(uri) == _normal_uri(job.runs.tracking_uri)

    # --- MLflow's client --------------------------------------------------------------------------

    def _create_run(
        self,
        job: Job,
        theirs: Callable[..., Any],
        client: Any,
        experiment_id: str,
        start_time: int | None = None,
        tags: dict[str, Any] | None = None,
        run_name: str | None = None,
    ) -> Any:
        job.used = True
        if not self._is_store_of(job, client):
            return theirs(client, experiment_id, start_time, tags, run_name)
        given_tags = {key: str(value) for key, value in (tags or {}).items()}
        parent = given_tags.get(_PARENT)
        # A parent alone does not say that the run is an inner one: `start_run` adds the tags in
        # MLFLOW_RUN_CONTEXT, which name the member as the parent. Only an inner run is begun while
        # another run is on MLflow's stack.
        is_outermost = given_tags.get(_ROLE) == INNER and self._theirs["active_run"]() is None
        if parent is None or is_outermost:
            job.ended = False
            own_tags = {key: text for key, text in given_tags.items() if _is_from_task(key)}
            if own_tags:
                tag = sys.modules["mlflow.entities"].RunTag
                client.log_batch(job.member, tags=[tag(key, own_tags[key]) for key in own_tags])
            return client.get_run(job.member)
        if job.runs is None or parent == _NO_RUN:
            return client.get_run(_NO_RUN)
        our_tags = {_ROLE: INNER, _POPULATION: job.runs.population}
        inner = theirs(client, experiment_id, start_time, {**given_tags, **our_tags}, run_name)
        job.inner.append((client, inner.info.run_id))
        return inner


@contextlib.contextmanager
def logging_dropped() -> Iterator[None]:
    """Drop what a task logs by itself in the block, which only looks at the task."""
    logging = TaskLogging(restores=True)
    logging.install()
    try:
        with logging.job(None):
            yield
    finally:
        logging.remove()


# --- replacements for methods of the client, for our runs -----------------------------------------


def _for_our_runs(ours: Callable[..., Any]) -> Callable[..., Any]:
    """Make a replacement that calls `ours` for members' runs and for no run.

    For any other run it calls MLflow's own function.
    """

    @functools.wraps(ours)
    def replacement(
        job: Job, theirs: Callable[..., Any], client: Any, run_id: str, *args: Any, **kw: Any
    ) -> Any:
        if job.is_ours(run_id):
            return ours(job, theirs, client, run_id, *args, **kw)
        return theirs(client, run_id, *args, **kw)

    return replacement


def _dropped_without_run(ours: Callable[..., Any]) -> Callable[..., Any]:
    """Make a replacement that calls `ours` for members' runs, and drops what goes to no run."""

    def replacement(
        job: Job, theirs: Callable[..., Any], client: Any, run_id: str, *args: Any, **kw: Any
    ) -> Any:
        job.used = True
        return None if run_id == _NO_RUN else ours(job, theirs, client, run_id, *args, **kw)

    return replacement


def _renaming(own_name: Callable[[str], str]) -> Callable[..., Any]:
    """Make a replacement that calls MLflow's own function with another name of what is logged."""

    def replacement(
        job: Job,
        theirs: Callable[..., Any],
        client: Any,
        run_id: str,
        key: str,
        *args: Any,
        **kw: Any,
    ) -> Any:
        return theirs(client, run_id, own_name(key), *args, **kw)

    return replacement


def _log_as_it_is(
    job: Job, theirs: Callable[..., Any], client: Any, run_id: str, *args: Any, **kw: Any
) -> Any:
    return theirs(client, run_id, *args, **kw)


def _get_run(job: Job, theirs: Callable[..., Any], client: Any, run_id: str) -> Any:
    return _make_no_run() if run_id == _NO_RUN else theirs(client, run_id)


def _set_terminated(
    job: Job, theirs: Callable[..., Any], client: Any, run_id: str, *args: Any, **kw: Any
) -> None:
    # The run ends for the task only: the controller ends the member's run in MLflow.
    job.ended = True


def _do_nothing(
    job: Job, theirs: Callable[..., Any], client: Any, run_id: str, *args: Any, **kw: Any
) -> None:
    """Replaces what would delete the member's run, or change its status or name."""


def _log_param(
    job: Job,
    theirs: Callable[..., Any],
    client: Any,
    run_id: str,
    key: str,
    value: Any,
    synchronous: bool | None = None,
) -> Any:
    # By way of `log_batch`, which knows what to do with a value that has changed.
    param = sys.modules["mlflow.entities"].Param(key, str(value))
    done = client.log_batch(run_id, params=[param], synchronous=synchronous)
    return done if synchronous is False else value


def _log_batch(
    job: Job,
    theirs: Callable[..., Any],
    client: Any,
    run_id: str,
    metrics: Sequence[Any] = (),
    params: Sequence[Any] = (),
    tags: Sequence[Any] = (),
    synchronous: bool | None = None,
) -> Any:
    entities = sys.modules["mlflow.entities"]
    tag_texts = {_own_tag_name(tag.key): tag.value for tag in tags}
    new, changed = _sort_params(job, client, run_id, params) if params else ({}, {})
    for name, value in changed.items():
        tag_texts[f"param/{name}"] = value
    answer = theirs(
        client,
        run_id,
        [_with_name(metric, _own_name(metric.key)) for metric in metrics],
        [entities.Param(name, value) for name, value in new.items()],
        [entities.RunTag(name, value) for name, value in tag_texts.items()],
        synchronous,
    )
    if params:
        # Only now: the store has taken them.
        known, moved = job.params[run_id]
        known.update(new)
        moved.update(changed)
    return answer


def _sort_params(
    job: Job, client: Any, run_id: str, params: Iterable[Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """Sort params into new ones and those whose value has changed.

    MLflow refuses to change a param. A task that logs its hyperparameters as params logs other
    values after each move, and must not fail for that. So a new value is written to a tag.

    Returns:
        The params that the run does not have yet, and those that it has with another value.
    """
    if run_id not in job.params:
        data = client.get_run(run_id).data
        moved = {tag.removeprefix("param/") for tag in data.tags if tag.startswith("param/")}
        job.params[run_id] = dict(data.params), moved
    known, moved = job.params[run_id]
    new: dict[str, str] = {}
    changed: dict[str, str] = {}
    for param in params:
        name, value = _own_name(param.key), str(param.value)
        if name not in known and name not in new:
            new[name] = value
        # A param that has moved keeps its tag up to date, even if it moves back to the value
        # that the param itself has.
        elif name in moved or {**known, **new}[name] != value:
            changed[name] = value
    return new, changed


# --- names and single values ----------------------------------------------------------------------

_NOTE = "mlflow.note.content"


def _is_from_task(tag: str) -> bool:
    """Whether a tag of a new run is the task's own, and not MLflow's or ours."""
    return tag == _NOTE or not tag.startswith(("mlflow.", "pbt."))


def _own_name(name: str) -> str:
    """The name that a task's metric or param gets on the member's run: never one of ours."""
    return f"task/{name}" if name in _OUR_METRICS or name.startswith(_OUR_GROUPS) else name


def _own_tag_name(name: str) -> str:
    """The name that a task's tag gets on the member's run: never one of ours."""
    is_ours = name in _OUR_TAGS or name.startswith(("pbt.", "param/"))
    return f"task/{name}" if is_ours else name


def _with_name(metric: Any, name: str) -> Any:
    """The same metric under another name."""
    if metric.key == name:
        return metric
    return type(metric)(
        name,
        metric.value,
        metric.timestamp,
        metric.step,
        model_id=metric.model_id,
        dataset_name=metric.dataset_name,
        dataset_digest=metric.dataset_digest,
    )


def _make_no_run() -> Any:
    """A run object for a task that logs to no run: MLflow's functions return a run, never None."""
    entities = sys.modules["mlflow.entities"]
    info = entities.RunInfo(
        run_id=_NO_RUN,
        experiment_id="0",
        user_id="",
        status="RUNNING",
        start_time=0,
        end_time=None,
        lifecycle_stage="active",
    )
    return entities.Run(info, entities.RunData())


def _normal_uri(uri: str) -> str:
    """A tracking store's address in a single spelling, so that two can be compared."""
    scheme, mark, place = uri.rstrip("/").partition(":///")
    if mark and scheme.startswith("sqlite") and not place.startswith(":"):
        return f"sqlite:///{Path(place).absolute()}"
    return uri.rstrip("/")


def _child_tags(runs: MemberRuns, member: str) -> str:
    """The tags, as JSON, of runs that are begun by processes which a member's task has started.

    MLflow in such a process reads them from MLFLOW_RUN_CONTEXT.
    """
    return json.dumps({_PARENT: member, _ROLE: INNER, _POPULATION: runs.population})
