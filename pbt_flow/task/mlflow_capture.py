"""What a task logs through MLflow by itself lands on the run of its member.

MLflow keeps the active run and the tracking store as globals of a process, for which a task is a
script: its `mlflow.log_metric`, or a framework's logger, begins a run in experiment Default where
none is active. While a job is under way, a run that is begun in this process is the member's, and
one that is begun inside of it is a child of the member's. What the member's run holds of ours stays
as it is. A task that does not import MLflow costs no import of it here.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

INNER = "task"
"""The tag `pbt.role` of a run that a task began inside of its member's."""
_NOWHERE = "0" * 32
"""The id of a run that is none: what is logged to it is dropped."""
_CLIENT, _FLUENT = "mlflow.tracking.client", "mlflow.tracking.fluent"
_PARENT, _ROLE, _POPULATION = "mlflow.parentRunId", "pbt.role", "pbt.population"
_VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_ID",
    "MLFLOW_RUN_CONTEXT",
)

_OUR_METRICS = ("turn", "step", "score", "donor")
_OUR_GROUPS = ("hparam/", "train/", "eval/", "seconds/", "report/", "init/", "legend/", "param/")
_OUR_TAGS = ("mlflow.runName", "mlflow.parentRunId", "mlflow.runColor")
"""Names on a member's run that are ours; a task's own of such a name has task/ before it."""


@dataclass(frozen=True, kw_only=True)
class MemberRuns:
    """The runs of a population's members, for those who log to them."""

    tracking_uri: str
    experiment_id: str
    population: str
    """The population's run."""
    members: Sequence[str]
    """The run id of each member."""


@dataclass(kw_only=True)
class Job:
    """One job of a worker, and what its task did with MLflow in it."""

    runs: MemberRuns | None
    member: str
    """The run that is the task's; the one that is none where the job is no turn of a member."""
    failed: bool = False
    """Whether the job came to nothing."""
    used: bool = False
    """Whether the task has begun a run or logged something."""
    ended: bool = False
    """Whether the task has ended the run that it takes for its own."""
    params: dict[str, tuple[dict[str, str], set[str]]] = field(default_factory=dict)
    """Of each run the params that it has, and the names of those that have changed since."""
    inner: list[tuple[Any, str]] = field(default_factory=list)
    """The runs that the task began inside of the member's: the client and the id of each."""

    def is_ours(self, run_id: str) -> bool:
        return run_id == _NOWHERE or (self.runs is not None and run_id in self.runs.members)


class TaskLogging:
    """Leads to its member's run what a task logs in this process.

    Args:
        restores: Whether the process is somebody else's, whose own active run, tracking store and
            experiment are to be as before after each job.
    """

    def __init__(self, *, restores: bool = False) -> None:
        self._restores = restores
        self._runs: MemberRuns | None = None
        self._contexts: list[str] = []
        """Of each member what the runs say that processes of its task begin."""
        self._is_set = False
        """Whether the variables of the environment are as they are to be, but for the member."""
        self._job: Job | None = None
        self._finder = _AfterImport({_CLIENT: self._meet_client, _FLUENT: self._meet_fluent})
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._theirs: dict[str, Callable[..., Any]] = {}

    def install(self) -> None:
        """Meet MLflow wherever it is, or is going to be, imported in this process."""
        for name, meet in self._finder.meet.items():
            if (module := sys.modules.get(name)) is not None:
                meet(module)
        sys.meta_path.insert(0, self._finder)

    def remove(self) -> None:
        """Leave MLflow as it was."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        for owner, name, ours, theirs in self._replaced:
            if getattr(owner, name, None) is ours:
                setattr(owner, name, theirs)
        # What was bound in MLflow's own namespace while it was imported.
        mlflow = sys.modules.get("mlflow")
        for _, name, ours, theirs in self._replaced:
            if getattr(mlflow, name, None) is ours:
                setattr(mlflow, name, theirs)
        self._replaced.clear()

    def open(self, runs: MemberRuns | None) -> None:
        """Say which runs the members have; until then, what tasks log goes nowhere."""
        self._runs, self._contexts, self._is_set = runs, [], False
        if runs is not None:
            self._contexts = [_context(runs, member) for member in runs.members]

    @property
    def used(self) -> bool:
        """Whether the task has begun a run or logged something in the job under way."""
        return self._job is not None and self._job.used

    @contextlib.contextmanager
    def job(self, member: int | None) -> Iterator[Job]:
        """A job whose task may log: to the run of `member`, or to none."""
        runs = self._runs
        run_id = _NOWHERE if runs is None or member is None else runs.members[member]
        made = Job(runs=runs, member=run_id)
        lent = _Lent() if self._restores else None
        try:
            if runs is not None and not self._is_set:
                _set_variables(runs)
                self._is_set = lent is None
            if runs is not None and member is not None:
                os.environ["MLFLOW_RUN_CONTEXT"] = self._contexts[member]
            else:
                os.environ.pop("MLFLOW_RUN_CONTEXT", None)
            if lent is not None:
                lent.put_aside(runs)
            self._job = made
            yield made
        finally:
            if made.used:
                self._end_what_is_left(made)
                self._is_set = False  # MLflow and the task may have set others
            self._job = None
            if lent is not None:
                lent.give_back()

    def _end_what_is_left(self, job: Job) -> None:
        """End the runs that the task has left open, and write what waits to be written."""
        fluent, status = sys.modules[_FLUENT], "FAILED" if job.failed else "FINISHED"
        while self._theirs["active_run"]() is not None:
            with contextlib.suppress(Exception):  # a store that is away; it is off the stack
                fluent.end_run(status)
        # Otherwise it would be lost with the worker, which is killed when all is done.
        with contextlib.suppress(Exception):
            fluent.flush_async_logging()
        queue = sys.modules.get("mlflow.utils.autologging_utils.metrics_queue")
        with contextlib.suppress(Exception):
            if queue is not None:
                queue.flush_metrics_queue()
        for client, run_id in job.inner:
            # What stays open for now is ended with the population.
            with contextlib.suppress(Exception):
                if client.get_run(run_id).info.status == "RUNNING":
                    client.set_terminated(run_id, status)

    # --- MLflow's functions -----------------------------------------------------------------------

    def _meet_client(self, module: ModuleType) -> None:
        self._replace(module.MlflowClient, "create_run", self._create_run)
        given: dict[str, Callable[..., Any]] = {
            "get_run": self._get_run,
            "log_metric": self._log_metric,
            "log_param": self._log_param,
            "log_batch": self._log_batch,
            "set_tag": self._set_tag,
            "delete_tag": self._delete_tag,
            "set_terminated": self._set_terminated,
            "update_run": self._leave_alone,
            "delete_run": self._leave_alone,
            "log_artifact": self._log_file,
            "log_artifacts": self._log_file,
            "log_inputs": self._log_file,
            "log_outputs": self._log_file,
        }
        for name, ours in given.items():
            self._replace(module.MlflowClient, name, _of_our_runs(ours))

    def _meet_fluent(self, module: ModuleType) -> None:
        self._theirs["active_run"], self._theirs["end_run"] = module.active_run, module.end_run
        for name, ours in (("start_run", self._start_run), ("active_run", self._active_run)):
            self._replace(module, name, ours)
            mlflow = sys.modules.get("mlflow")
            if hasattr(mlflow, name):
                setattr(mlflow, name, getattr(module, name))

    def _replace(self, owner: Any, name: str, ours: Callable[..., Any]) -> None:
        theirs = getattr(owner, name)

        @functools.wraps(theirs)
        def asked(*args: Any, **kwargs: Any) -> Any:
            job = self._job
            return theirs(*args, **kwargs) if job is None else ours(job, theirs, *args, **kwargs)

        setattr(owner, name, asked)
        self._replaced.append((owner, name, asked, theirs))

    def _active_run(self, job: Job, theirs: Callable[..., Any]) -> Any:
        """The member's run is active from the beginning, until the task ends it."""
        active = theirs()
        if active is None and not job.ended and self._is_store_of(job):
            return sys.modules[_FLUENT].start_run()
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
            # They are of the population's store, and this is another.
            with _without("MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_CONTEXT"):
                return theirs(run_id, nested=nested, parent_run_id=parent_run_id, **given)
        active = self._theirs["active_run"]()
        is_member = active is not None and job.is_ours(active.info.run_id)
        if nested and run_id is None and active is None:
            active = theirs()
        if is_member and not nested:
            if run_id in (None, active.info.run_id) and parent_run_id is None:
                # The same run once more: the task finds it open, as a script finds none.
                said = {**(tags or {})} | ({_NOTE: description} if description else {})
                if said:
                    sys.modules["mlflow"].set_tags(said)
                return active
            self._theirs["end_run"]()
        if nested and run_id is None and experiment_id is None and job.runs is not None:
            # MLflow shows a run inside of another only where both are in one experiment.
            given["experiment_id"] = job.runs.experiment_id
        return theirs(run_id, nested=nested, parent_run_id=parent_run_id, **given)

    def _is_store_of(self, job: Job, client: Any = None) -> bool:
        """Whether what a task asks now, it asks of the population's store."""
        if job.runs is None:
            return True
        if client is None:
            mlflow: Any = sys.modules["mlflow"]
            asked = mlflow.get_tracking_uri()
        else:
            asked = client.tracking_uri
        return _plain_uri(asked) == _plain_uri(job.runs.tracking_uri)

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
        said = {key: str(value) for key, value in (tags or {}).items()}
        parent = said.get(_PARENT)
        # `start_run` adds what MLFLOW_RUN_CONTEXT says, which names the member as the parent; of a
        # run inside of another, that other is on the stack.
        is_first = said.get(_ROLE) == INNER and self._theirs["active_run"]() is None
        if parent is None or is_first:
            job.ended = False
            own = {key: text for key, text in said.items() if _is_from_task(key)}
            if own:
                self._log_tags(client, job.member, own)
            return client.get_run(job.member)
        if job.runs is None or parent == _NOWHERE:
            return client.get_run(_NOWHERE)
        marks = {_ROLE: INNER, _POPULATION: job.runs.population}
        made = theirs(client, experiment_id, start_time, {**said, **marks}, run_name)
        job.inner.append((client, made.info.run_id))
        return made

    def _get_run(self, job: Job, theirs: Callable[..., Any], client: Any, run_id: str) -> Any:
        return _no_run() if run_id == _NOWHERE else theirs(client, run_id)

    def _log_metric(
        self,
        job: Job,
        theirs: Callable[..., Any],
        client: Any,
        run_id: str,
        key: str,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        job.used = True
        return None if run_id == _NOWHERE else theirs(client, run_id, _apart(key), *args, **kwargs)

    def _log_param(
        self,
        job: Job,
        theirs: Callable[..., Any],
        client: Any,
        run_id: str,
        key: str,
        value: Any,
        synchronous: bool | None = None,
    ) -> Any:
        param = sys.modules["mlflow.entities"].Param(key, str(value))
        done = client.log_batch(run_id, params=[param], synchronous=synchronous)
        return done if synchronous is False else value

    def _set_tag(
        self,
        job: Job,
        theirs: Callable[..., Any],
        client: Any,
        run_id: str,
        key: str,
        value: Any,
        synchronous: bool | None = None,
    ) -> Any:
        job.used = True
        if run_id == _NOWHERE:
            return None
        return theirs(client, run_id, _apart_tag(key), value, synchronous)

    def _log_batch(
        self,
        job: Job,
        theirs: Callable[..., Any],
        client: Any,
        run_id: str,
        metrics: Sequence[Any] = (),
        params: Sequence[Any] = (),
        tags: Sequence[Any] = (),
        synchronous: bool | None = None,
    ) -> Any:
        job.used = True
        if run_id == _NOWHERE:
            return None
        entities = sys.modules["mlflow.entities"]
        texts = {_apart_tag(tag.key): tag.value for tag in tags}
        new, changed = self._sort_params(job, client, run_id, params) if params else ({}, {})
        texts |= {f"param/{name}": value for name, value in changed.items()}
        done = theirs(
            client,
            run_id,
            [_with_name(metric, _apart(metric.key)) for metric in metrics],
            [entities.Param(name, value) for name, value in new.items()],
            [entities.RunTag(name, value) for name, value in texts.items()],
            synchronous,
        )
        if params:
            known, moved = job.params[run_id]
            known.update(new)
            moved.update(changed)
        return done

    def _sort_params(
        self, job: Job, client: Any, run_id: str, params: Iterable[Any]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """The params that a run does not have yet, and those that have another value by now.

        MLflow refuses another value of a param. A task that logs what it trains with logs another
        one after each move, and no turn is to fail of that.
        """
        if run_id not in job.params:
            data = client.get_run(run_id).data
            moved = {tag.removeprefix("param/") for tag in data.tags if tag.startswith("param/")}
            job.params[run_id] = dict(data.params), moved
        known, moved = job.params[run_id]
        new: dict[str, str] = {}
        changed: dict[str, str] = {}
        for param in params:
            name, value = _apart(param.key), str(param.value)
            if name not in known and name not in new:
                new[name] = value
            elif name in moved or {**known, **new}[name] != value:
                changed[name] = value
        return new, changed

    def _delete_tag(
        self, job: Job, theirs: Callable[..., Any], client: Any, run_id: str, key: str
    ) -> Any:
        if run_id != _NOWHERE:
            theirs(client, run_id, _apart_tag(key))
        return None

    def _set_terminated(
        self, job: Job, theirs: Callable[..., Any], client: Any, run_id: str, *args: Any, **kw: Any
    ) -> Any:
        job.ended = True  # for the task; when a member ends is not for it to say
        return None

    def _leave_alone(
        self, job: Job, theirs: Callable[..., Any], client: Any, run_id: str, *args: Any, **kw: Any
    ) -> Any:
        """What would change the status or the name of the member's run, or delete it."""
        return None

    def _log_file(
        self, job: Job, theirs: Callable[..., Any], client: Any, run_id: str, *args: Any, **kw: Any
    ) -> Any:
        return None if run_id == _NOWHERE else theirs(client, run_id, *args, **kw)

    def _log_tags(self, client: Any, run_id: str, tags: Mapping[str, str]) -> None:
        entities = sys.modules["mlflow.entities"]
        client.log_batch(run_id, tags=[entities.RunTag(key, text) for key, text in tags.items()])


def _of_our_runs(ours: Callable[..., Any]) -> Callable[..., Any]:
    """Leave to MLflow what is asked of a run that is neither a member's nor none."""

    @functools.wraps(ours)
    def asked(
        job: Job, theirs: Callable[..., Any], client: Any, run_id: str, *args: Any, **kw: Any
    ) -> Any:
        if job.is_ours(run_id):
            return ours(job, theirs, client, run_id, *args, **kw)
        return theirs(client, run_id, *args, **kw)

    return asked


@contextlib.contextmanager
def logging_dropped() -> Iterator[None]:
    """Let what a task logs by itself go nowhere, in a process that only wants to look at it."""
    logging = TaskLogging(restores=True)
    logging.install()
    try:
        with logging.job(None):
            yield
    finally:
        logging.remove()


# --- small things ---------------------------------------------------------------------------------

_NOTE = "mlflow.note.content"


def _is_from_task(tag: str) -> bool:
    """Whether a tag that a run is begun with is the task's own, and not MLflow's or ours."""
    return tag == _NOTE or not tag.startswith(("mlflow.", "pbt."))


def _apart(name: str) -> str:
    """The name of a task's metric or param on its member's run, where ours are too."""
    return f"task/{name}" if name in _OUR_METRICS or name.startswith(_OUR_GROUPS) else name


def _apart_tag(name: str) -> str:
    """The name of a task's tag on its member's run, where ours are too."""
    is_ours = name in _OUR_TAGS or name.startswith(("pbt.", "param/"))
    return f"task/{name}" if is_ours else name


def _with_name(metric: Any, name: str) -> Any:
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


def _no_run() -> Any:
    """A run that is none, for code that wants one."""
    entities = sys.modules["mlflow.entities"]
    info = entities.RunInfo(
        run_id=_NOWHERE,
        experiment_id="0",
        user_id="",
        status="RUNNING",
        start_time=0,
        end_time=None,
        lifecycle_stage="active",
    )
    return entities.Run(info, entities.RunData())


def _plain_uri(uri: str) -> str:
    """One spelling of a tracking store's address."""
    scheme, mark, place = uri.rstrip("/").partition(":///")
    if mark and scheme.startswith("sqlite") and not place.startswith(":"):
        return f"sqlite:///{Path(place).absolute()}"
    return uri.rstrip("/")


def _context(runs: MemberRuns, member: str) -> str:
    """What MLflow is to say of a run that a process begins which the task has started."""
    return json.dumps({_PARENT: member, _ROLE: INNER, _POPULATION: runs.population})


def _set_variables(runs: MemberRuns) -> None:
    """Lead to the population's store what processes log that the task starts."""
    os.environ["MLFLOW_TRACKING_URI"] = runs.tracking_uri
    os.environ["MLFLOW_EXPERIMENT_ID"] = runs.experiment_id
    # MLflow refuses a name beside an id, and a run to resume would be this one's alone.
    os.environ.pop("MLFLOW_EXPERIMENT_NAME", None)
    os.environ.pop("MLFLOW_RUN_ID", None)


@contextlib.contextmanager
def _without(*names: str) -> Iterator[None]:
    """Some variables of the environment are not there while this lasts."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


class _Lent:
    """MLflow's globals as they were in somebody else's process before a job."""

    def __init__(self) -> None:
        self._variables = {name: os.environ.get(name) for name in _VARIABLES}
        modules: Any = sys.modules
        self._mlflow, self._fluent = modules.get("mlflow"), modules.get(_FLUENT)

    def put_aside(self, runs: MemberRuns | None) -> None:
        """Let a job find MLflow as a worker finds it."""
        if self._fluent is None:
            return
        self._uri = self._mlflow.get_tracking_uri()
        if runs is not None and self._uri != runs.tracking_uri:
            self._mlflow.set_tracking_uri(runs.tracking_uri)
        self._experiment = self._fluent._active_experiment_id
        self._fluent._active_experiment_id = None
        # Of this thread; there is no other way to put an active run aside without ending it.
        self._active = self._fluent._active_run_stack.get()
        self._fluent._active_run_stack.set([])

    def give_back(self) -> None:
        """Bring everything back."""
        has_moved = self._fluent is not None and self._mlflow.get_tracking_uri() != self._uri
        self._give_variables_back()
        if self._fluent is None:
            return
        self._fluent._active_run_stack.set(self._active)
        self._fluent._active_experiment_id = self._experiment
        if has_moved:
            for uri in (None, self._uri):
                # A store that was set by a variable, or by default, is one again.
                if self._mlflow.get_tracking_uri() != self._uri:
                    self._mlflow.set_tracking_uri(uri)
                    self._give_variables_back()

    def _give_variables_back(self) -> None:
        for name, value in self._variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _AfterImport(MetaPathFinder):
    """Tells of some modules when they are imported.

    Args:
        meet: What is to be done with each once it is loaded, by its name.
    """

    def __init__(self, meet: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self.meet = meet

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.meet:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.meet[fullname])
        return spec


class _Loader(Loader):
    """Loads a module as another loader does, and then does something with it."""

    def __init__(self, theirs: Loader, meet: Callable[[ModuleType], None]) -> None:
        self._theirs, self._meet = theirs, meet

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._theirs.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._theirs.exec_module(module)
        self._meet(module)
