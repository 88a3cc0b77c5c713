"""Where members live between turns: MLflow runs.

The population is a parent run and each member a child run. What never changes is a param
(`cfg/...`, `init/...`), what changes is a metric (`score`, `hparam/<name>`, `donor`, `step`), and
`population.json` on the parent holds what a resume needs. A member's `turns/NNNNNN/turn.json` is
the record; metrics are its projection, with the record's own time, so that logging a turn twice
changes nothing. Everything goes through `MlflowClient` with explicit run ids: MLflow's active run
is global to the process, and it belongs to the user.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import mlflow
from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from optuna.distributions import CategoricalDistribution

from pbt_flow.exceptions import StoreError
from pbt_flow.population.checkpoints import RECORD, Folders, LocalFolders, turn_folder
from pbt_flow.population.records import (
    Checkpoint,
    RecordError,
    Turn,
    fitted_turn,
)
from pbt_flow.population.result import Finalist, Result, Status
from pbt_flow.space import Space, index_of, space_from_json
from pbt_flow.task.mlflow_capture import INNER, MemberRuns
from pbt_flow.tracking.adoption import MANIFEST
from pbt_flow.tracking.client import (
    connect,
    is_away,
    local_path,
    missing_database,
    read_bytes,
    read_text,
    talking,
)
from pbt_flow.tracking.create import Manifest, create_population, member_name, shorten, text
from pbt_flow.tracking.deletion import States
from pbt_flow.tracking.drivers import hide_password, is_of_a_store, says
from pbt_flow.tracking.lease import Lease, claim, is_orphan
from pbt_flow.tracking.metric_names import MetricNames
from pbt_flow.tracking.models import ALIAS, log_model, register
from pbt_flow.tracking.remote_checkpoints import RemoteFolders
from pbt_flow.tracking.saved_view import MOST, population_view, view_address, view_tag
from pbt_flow.utils.values import Value

RESULT = "result.json"
CHANGED = "pbt.settings"
LEFT = "pbt.left"
"""The tag of a member that has left, which says at which stage."""
"""The tag with the settings that resumes have changed, as JSON; the manifest stands still."""
ARMS = "arms.json"
"""What a replay trains: the schedule, and who is trained how."""
SAMPLES = "samples"
_ROUND = "round-"
_LONGEST_TAG = 5000
"""Characters of a tag that every store of MLflow takes."""
_UNDERSTOOD = "pbt.understood/"
_ON_RESUME = "pbt.understood-on-resume/"


@dataclass
class Store:
    """One population in MLflow, as its controller sees it."""

    client: MlflowClient
    tracking_uri: str
    run_id: str
    manifest: Manifest
    space: Space
    folders: Folders
    charts: str
    """Where the saved view opens: what follows the address of the MLflow UI."""
    _states: States
    names: MetricNames = field(default_factory=MetricNames)
    """What the task's metrics are called."""

    def __post_init__(self) -> None:
        self.names.reserve("winner/score", "best_initial/score")

    # --- making and finding populations -----------------------------------------------------------

    @classmethod
    def create(
        cls, client: MlflowClient, uri: str, plan: Manifest, *, tags: Mapping[str, str]
    ) -> Store:
        """Make the runs of a new population.

        The population's run is the one that `mlflow run` made for this process, where there is one,
        and else a child of the run that is active in this process, if one is. Its manifest is
        written last: a run without one is not a population.

        Raises:
            StoreError: The tracking server cannot be used.
        """
        members, manifest = create_population(client, uri, plan, tags=tags)
        run_id = members[0].data.tags["mlflow.parentRunId"]
        space = space_from_json(manifest.space)
        return cls._with_folders(client, uri, run_id, manifest, space, members)

    @classmethod
    def open(cls, run_id: str) -> Store:
        """Find a population by its run id.

        Raises:
            StoreError: There is no such run, or it is not a population.
        """
        # A client would make an empty database where there is none, and then find no run in it.
        if (file := missing_database(mlflow.get_tracking_uri())) is not None:
            raise StoreError(
                f"no run {run_id} at {mlflow.get_tracking_uri()}: there is no file {file}. Go to "
                "the folder that the population began in, or set MLFLOW_TRACKING_URI to its store"
            )
        client, uri = connect()
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            where = hide_password(uri)
            if is_away(error):
                raise StoreError(f"{where} does not answer: {says(error)}") from None
            raise StoreError(f"no run {run_id} at {where}: {error.message}") from None
        if (parent := run.data.tags.get("pbt.population")) is not None:
            raise StoreError(f"run {run_id} is a member; its population is {parent}")
        try:
            manifest = Manifest(**json.loads(read_text(client, run_id, MANIFEST)))
        except (ValueError, TypeError) as error:
            raise StoreError(f"run {run_id}: {MANIFEST} is not readable: {error}") from None
        except Exception as error:
            if not is_of_a_store(error):
                raise
            raise _without_manifest(client, run, uri, error) from None
        members = [client.get_run(member) for member in manifest.members]
        space = space_from_json(manifest.space)
        return cls._with_folders(client, uri, run_id, manifest, space, members)

    @classmethod
    def _with_folders(
        cls,
        client: MlflowClient,
        uri: str,
        run_id: str,
        manifest: Manifest,
        space: Space,
        members: Sequence[Run],
    ) -> Store:
        places = {index: local_path(run.info.artifact_uri) for index, run in enumerate(members)}
        local = {index: place for index, place in places.items() if place is not None}
        folders: Folders = LocalFolders(local)
        if len(local) < len(places):
            ids = {index: run.info.run_id for index, run in enumerate(members)}
            cache = tempfile.mkdtemp(prefix="pbt_flow-")
            folders = RemoteFolders(uri, ids, cache)
        charts = view_address(members[0].info.experiment_id, run_id)
        states = States(client, uri, run_id, manifest.members, folders)
        store = cls(client, uri, run_id, manifest, space, folders, charts, states)
        if isinstance(folders, RemoteFolders):
            # Downloaded checkpoints go with the last who can ask for them.
            weakref.finalize(store, shutil.rmtree, folders.cache, ignore_errors=True)
        return store

    @functools.cached_property
    def runs(self) -> MemberRuns:
        """The members' runs, as workers need to know them."""
        with self._talk():
            experiment_id = self.client.get_run(self.run_id).info.experiment_id
        return MemberRuns(
            tracking_uri=self.tracking_uri,
            experiment_id=experiment_id,
            population=self.run_id,
            members=tuple(self.manifest.members),
        )

    # --- turns ------------------------------------------------------------------------------------

    def log_turn(self, turn: Turn) -> str | None:
        """Project a committed turn onto its member's run. Doing it twice changes nothing.

        Returns:
            What the user must know, once: which metrics have other names there.

        The x axis is the member's own effort: MLflow shows the value of the greatest step as the
        latest, so an axis that went back after a copy would show an old score for ever.
        """
        plan, when = turn.plan, int(turn.ended * 1000)
        values: dict[str, float] = {
            # A member that copied nobody is its own donor: a line in the chart, without gaps.
            "donor": plan.donor.member if plan.donor else turn.member,
            "step": turn.step,
            **{f"hparam/{name}": self._number(name, v) for name, v in plan.hparams.items()},
            **self.names.of_turn(turn),
            **{f"seconds/{name}": value for name, value in turn.seconds.items()},
        }
        if turn.score is not None:
            values["score"] = turn.score
        # Last: in a store that is no database, it says that the others have been logged.
        values["turn"] = plan.turn
        # A tag costs as much as all metrics together, so there are none for a turn as usual.
        tags = []
        if plan.donor:
            tags.append(
                RunTag("pbt.copied", f"{member_name(plan.donor.member)} turn {plan.donor.turn}")
            )
        if not turn.ok:
            tags.append(RunTag("pbt.error", _error_tag(turn)))
        metrics = [Metric(key, float(v), when, plan.trained) for key, v in values.items()]
        with self._talk():
            run_id = self.manifest.members[turn.member]
            self.client.log_batch(run_id, metrics=metrics, tags=tags)
        return self.names.news()

    def _number(self, name: str, value: Value) -> float:
        dist = self.space[name]
        if isinstance(dist, CategoricalDistribution):
            return index_of(value, dist)
        return float(value)  # type: ignore[arg-type]

    def log_population(self, metrics: Mapping[str, float], step: int, when: float) -> None:
        """Log metrics of the whole population on the parent run."""
        batch = [Metric(key, float(v), int(when * 1000), step) for key, v in metrics.items()]
        with self._talk():
            self.client.log_batch(self.run_id, metrics=batch)

    def turns(self, member: int) -> list[Turn]:
        """The committed turns of a member, in order.

        Raises:
            RecordError: A record cannot be trusted, or one is missing between others.
        """
        found: list[Turn] = []
        # Asked first: a member that is training may commit another turn while this reads.
        last = self.folders.last(member)
        while (turn := self.record(member, len(found) + 1)) is not None:
            found.append(turn)
        if last > len(found):
            self._miss(member, len(found) + 1, f"turn {last} has one")
        return found

    def record(self, member: int, number: int) -> Turn | None:
        """A committed turn of a member, with the values of the space; None if it has none.

        Raises:
            RecordError: The record cannot be trusted.
        """
        turn = self.folders.record(member, number)
        return None if turn is None else fitted_turn(turn, self.space)

    def projected(self, member: int, committed: int) -> int:
        """How many turns of a member are in its run for certain, of so many with a record.

        Raises:
            RecordError: Its run knows of a turn whose record is gone.
        """
        with self._talk():
            metrics = self.client.get_run(self.manifest.members[member]).data.metrics
        logged = int(metrics.get("turn", 0))
        if logged > committed:
            self._miss(member, committed + 1, f"MLflow has the metrics of turn {logged}")
        # The metrics of a turn arrive together, and before its tags.
        return max(0, logged - 1)

    def _miss(self, member: int, turn: int, why: str) -> NoReturn:
        raise RecordError(
            f"run {self.manifest.members[member]}: there is no {turn_folder(turn)}/{RECORD}, and "
            f"{why}: somebody has deleted the record of a turn that has happened; bring the file "
            "back, since it cannot be made again"
        )

    def has_checkpoint(self, checkpoint: Checkpoint) -> bool:
        """Whether the state of a turn is still there."""
        return self._states.has(checkpoint)

    def delete_checkpoint(self, checkpoint: Checkpoint) -> str | None:
        """Delete the state of a turn, if the place for artifacts can. Its record stays for ever.

        Returns:
            What the user must know, once: that checkpoints stay, where and why.

        Raises:
            StoreUnavailable: It does not answer now.
        """
        return self._states.delete(checkpoint)

    # --- state of the runs ------------------------------------------------------------------------

    def tag(self, tags: Mapping[str, str], member: int | None = None) -> None:
        """Set tags on the population's run, or on a member's."""
        run_id = self.run_id if member is None else self.manifest.members[member]
        with self._talk():
            self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    def rename(self, name: str, member: int) -> None:
        """Call a member's run otherwise."""
        with self._talk():
            self.client.update_run(self.manifest.members[member], name=name)

    def changed(self) -> dict[str, Any]:
        """The settings that resumes have changed.

        Raises:
            StoreError: The tag is not what `change` wrote.
        """
        said = self.tags().get(CHANGED, "{}")
        try:
            return dict(json.loads(said))
        except (ValueError, TypeError):
            raise StoreError(f"run {self.run_id}: the tag {CHANGED} is no JSON object") from None

    def change(self, settings: Mapping[str, Any]) -> None:
        """Note which settings are not those that the population began with.

        Of the options those that it has recorded stay as they are, and others may come to them.
        """
        began = self.manifest.settings
        new = {k: v for k, v in settings.items() if k != "options" and v != began.get(k)}
        others = {k: v for k, v in settings["options"].items() if k not in began["options"]}
        if others and len(json.dumps(new | {"options": others})) <= _LONGEST_TAG:
            new["options"] = others
        if new != self.changed():
            self.tag({CHANGED: json.dumps(new)})

    def begin(self, living: Iterable[int]) -> None:
        """Mark the population's run and those of its living members as running (again)."""
        # What an earlier controller concluded does not hold any more, even if this one is killed.
        # A replay concludes nothing: its run's own status says all.
        if self.role != "replay":
            self.tag({"pbt.status": "running"})
        with self._talk():
            for run_id in (self.run_id, *(self.manifest.members[index] for index in living)):
                self.client.update_run(run_id, status="RUNNING")

    def retire(self, member: int) -> None:
        """End the run of a member that is given up."""
        with self._talk():
            self.client.set_terminated(self.manifest.members[member], status="FAILED")

    def leave(self, member: int, why: str, when: float) -> None:
        """End the run of a member that has left at the end of a stage: it has done what it was to.

        Args:
            member: Who has left.
            why: At which stage.
            when: The end of its last turn, and not now: what is said twice must change nothing.
        """
        self.tag({LEFT: why}, member)
        with self._talk():
            self.client.set_terminated(
                self.manifest.members[member], status="FINISHED", end_time=int(when * 1000)
            )

    def finish(self, status: str, members: Mapping[int, str]) -> None:
        """End the members' runs and then the population's, with the status of each."""
        with self._talk():
            for index, member_status in members.items():
                self.client.set_terminated(self.manifest.members[index], status=member_status)
            # Runs that tasks began, in a worker that died before it could end them.
            left = self.client.search_runs(
                [self.runs.experiment_id],
                f"tags.`pbt.population` = '{self.run_id}' AND tags.`pbt.role` = '{INNER}' "
                "AND attributes.status = 'RUNNING'",
            )
            for run in left:
                self.client.set_terminated(run.info.run_id, status="FAILED")
            self.client.set_terminated(self.run_id, status=status)

    def conclude(self, result: Result) -> None:
        """Write what became of the population on its run."""
        tags = {"pbt.status": result.status, "mlflow.note.content": _note(result)}
        metrics: dict[str, float] = {}
        if (winner := result.winner) is not None:
            tags |= {
                "pbt.winner": winner.run_id,
                "pbt.winner_member": str(winner.member),
                "pbt.winner_turn": str(winner.turn),
            }
            metrics |= {"winner/score": winner.score}
            metrics |= self.names.named("winner", winner.report)
        if (initial := result.best_initial) is not None:
            metrics |= {"best_initial/score": initial.score}
            metrics |= self.names.named("best_initial", initial.report)
        # The last record's time, and not now: what is said again after a kill must change nothing.
        ended = (turn.ended for turns in result.history.turns.values() for turn in turns)
        when = int(max(ended, default=0.0) * 1000)
        batch = [Metric(key, float(v), when, result.turns) for key, v in metrics.items()]
        with self._talk():
            # The tags last: where they say that the population has ended, its result is there.
            self.client.log_dict(self.run_id, result.to_json(), RESULT)
            self.client.log_batch(
                self.run_id, metrics=batch, tags=[RunTag(k, v) for k, v in tags.items()]
            )

    def describe(self, result: Result) -> None:
        """Write the description of the population's run anew, as `conclude` does."""
        self.tag({"mlflow.note.content": _note(result)})

    def log_arms(self, plain: Mapping[str, Any]) -> None:
        """Keep the schedule and the arms of a replay, which its resume needs."""
        with self._talk():
            self.client.log_dict(self.run_id, dict(plain), ARMS)

    def arms(self) -> Any:
        """What `log_arms` kept.

        Raises:
            StoreError: There is none, or it is not JSON.
        """
        try:
            return json.loads(read_text(self.client, self.run_id, ARMS))
        except (MlflowException, OSError, ValueError):
            raise StoreError(
                f"run {self.run_id} has no readable {ARMS}, so nothing says what it was to train; "
                "begin another replay"
            ) from None

    def log_replay(
        self,
        told: Mapping[str, Any],
        note: str,
        reports: Mapping[int, Mapping[str, float]],
        when: float,
    ) -> None:
        """Write what came of a replay: `replay.json`, the means of its arms, each report.

        Args:
            told: What `replay.json` is to hold.
            note: The description on the run's page.
            reports: What was measured of each model that got to the end.
            when: The end of its last turn, and not now: what is said twice must change nothing.
        """
        now = int(when * 1000)
        metrics = []
        for arm, found in told["arms"].items():
            parts = {
                f"{key}_{part}": value
                for key, interval in found["mean"].items()
                for part, value in interval.items()
                if value is not None
            }
            named = self.names.named(arm, parts)
            metrics += [Metric(key, value, now, 0) for key, value in named.items()]
        tags = [RunTag("mlflow.note.content", note)]
        with self._talk():
            self.client.log_batch(self.run_id, metrics=metrics, tags=tags)
            for member, report in reports.items():
                named = self.names.named("report", report)
                found = [Metric(key, value, now, 0) for key, value in named.items()]
                self.client.log_batch(self.manifest.members[member], metrics=found)
            self.client.log_dict(self.run_id, dict(told), "replay.json")

    def schedule(self) -> dict[str, Any]:
        """What `schedule.json` on the population's run holds.

        Raises:
            StoreError: There is none, or it is not JSON.
        """
        try:
            told: dict[str, Any] = json.loads(read_text(self.client, self.run_id, "schedule.json"))
        except (MlflowException, OSError, ValueError):
            raise StoreError(
                f"run {self.run_id} has no readable schedule.json; unless it has no winner yet, "
                f"make it anew with python -m pbt_flow report {self.run_id}"
            ) from None
        return told

    def result(self) -> dict[str, Any]:
        """What `conclude` wrote, or nothing where the population has not ended."""
        with self._talk():
            run = self.client.get_run(self.run_id)
        if run.info.status == "RUNNING" or run.data.tags.get("pbt.status", "running") == "running":
            return {}
        told: dict[str, Any] = json.loads(read_text(self.client, self.run_id, RESULT))
        return told

    @property
    def status(self) -> Status:
        """What MLflow says of the population's run, whether or not its controller concluded it."""
        with self._talk():
            run = self.client.get_run(self.run_id)
        said = "KILLED" if run.info.status == "RUNNING" and is_orphan(run) else run.info.status
        known: dict[str, Status] = {"FINISHED": "finished", "KILLED": "interrupted"}
        return known.get(said, "failed" if said == "FAILED" else "running")

    @property
    def role(self) -> str:
        """What the runs are: a `population`, or a `replay` of one."""
        return self.tags().get("pbt.role", "population")

    def keep(self, folder: Path) -> None:
        """Put the files of a folder on the population's run, under the names they have there."""
        with self._talk():
            self.client.log_artifacts(self.run_id, str(folder))

    def tags(self) -> dict[str, str]:
        """The tags of the population's run."""
        with self._talk():
            return dict(self.client.get_run(self.run_id).data.tags)

    def warnings(self) -> dict[str, str]:
        """What the population warns of, by the name of the warning."""
        return self._tagged("pbt.warning/")

    def checked(self) -> set[str]:
        """The checks that controllers of this population have made."""
        return set(self._tagged("pbt.checked/"))

    def log_understood(self, now: Mapping[str, str], before: Mapping[str, str]) -> None:
        """Keep what the task understood; of a resume what is not as it was when it all began."""
        changed = {topic for topic in now if topic in before and now[topic] != before[topic]}
        tags = {f"{_UNDERSTOOD}{k}": v for k, v in now.items() if k not in before}
        tags |= {f"{_ON_RESUME}{topic}": now[topic] for topic in changed}
        if tags:
            self.tag(tags)

    def understood(self) -> dict[str, str]:
        """What the task understood when the population began, by topic."""
        return self._tagged(_UNDERSTOOD)

    def noted(self) -> dict[str, str]:
        """What showed only while the task trained, by topic."""
        return self._tagged("pbt.noted/")

    def _tagged(self, mark: str) -> dict[str, str]:
        """The tags of the population's run whose keys begin with a mark, without it."""
        return {k[len(mark) :]: text for k, text in self.tags().items() if k.startswith(mark)}

    def show(self) -> None:
        """Save a view of the population's charts for MLflow's UI. A comfort, never a condition."""
        with contextlib.suppress(MlflowException):
            run = self.client.get_run(self.run_id)
            name = f"{run.info.run_name} ({self.run_id[:8]})"
            began = run.info.start_time / 1000
            staged = self.manifest.settings.get("stages", "none") != "none"
            view = population_view(self.run_id, name, self.space, began, staged=staged)
            if len(view) <= MOST:
                tag = view_tag(self.run_id)
                self.client.set_experiment_tag(run.info.experiment_id, tag, view)

    def log_samples(self, folder: Path, turn: Turn | None = None) -> None:
        """Put what a task's `samples` wrote on the population's run.

        Args:
            folder: What was written.
            turn: The best turn of a round, which it shows; None for the winner.
        """
        place = SAMPLES if turn is None else f"{SAMPLES}/{_ROUND}{turn.number:06d}"
        with self._talk():
            self.client.log_artifacts(self.run_id, str(folder), place)

    def shown(self) -> dict[int, str]:
        """The rounds whose samples are on the population's run, and where."""
        with self._talk():
            listed = self.client.list_artifacts(self.run_id, SAMPLES)
        rounds = (info.path for info in listed if info.is_dir and f"/{_ROUND}" in info.path)
        return {int(path.rpartition(_ROUND)[2]): path for path in sorted(rounds)}

    def pictures(self, most: int = 12) -> dict[int, bytes]:
        """The first picture among the samples of some rounds, by the round.

        Args:
            most: How many; they are spread evenly, the first and the last round among them.
        """
        shown, found = self.shown(), dict[int, bytes]()
        rounds = sorted(shown)
        chosen = (
            {rounds[n * (len(rounds) - 1) // (most - 1)] for n in range(most)} if rounds else ()
        )
        for number in sorted(chosen):
            with self._talk():
                listed = self.client.list_artifacts(self.run_id, shown[number])
                names = sorted(info.path for info in listed if info.path.endswith(".png"))
                if names:
                    found[number] = read_bytes(self.client, self.run_id, names[0])
        return found

    def keep_model(self, model: Any, example: Any, turn: Turn, register_as: str | None) -> str:
        """Log the model of a turn's checkpoint with the population's run, and register it.

        Args:
            model: A torch module on the CPU, in evaluation mode.
            example: An input of it as an array, or None.
            turn: What it comes from.
            register_as: The registered model to make it a version of, if any.

        Returns:
            Its address, as `mlflow.pytorch.load_model` takes it.
        """
        assert turn.checkpoint is not None
        with self._talk():
            model_id = log_model(
                self.client,
                self.run_id,
                model,
                example,
                checkpoint=turn.checkpoint.digest,
                params={name: shorten(text(v)) for name, v in turn.plan.hparams.items()},
                step=turn.plan.trained,
            )
            if register_as is None:
                return f"models:/{model_id}"
            register(self.client, model_id, register_as)
            return f"models:/{register_as}@{ALIAS}"

    def claim(self, say: Callable[[str], None] = lambda text: None) -> Lease:
        """Become the population's only controller.

        Args:
            say: Tells the user that another controller is being watched.

        Raises:
            StoreError: Another controller is alive, or was faster.
        """
        with self._talk():
            return claim(self.client, self.run_id, say=say)

    def _talk(self) -> AbstractContextManager[None]:
        return talking(self.tracking_uri, self.run_id)


def _without_manifest(client: MlflowClient, run: Run, uri: str, error: Exception) -> StoreError:
    """Why the manifest of a run could not be read: it is none of a population, or out of reach."""
    run_id, listed = run.info.run_id, [MANIFEST]
    try:
        listed = [file.path for file in client.list_artifacts(run_id)]
    except Exception as why:
        error = why  # of a download MLflow says no more than that it failed
    if MANIFEST in listed:
        place = hide_password(run.info.artifact_uri)
        return StoreError(f"run {run_id}: cannot read {MANIFEST} at {place}: {says(error)}")
    return StoreError(
        f"run {run_id} at {hide_password(uri)} is no population: it has no artifact {MANIFEST}"
    )


# --- small things ---------------------------------------------------------------------------------


_LONGEST_ERROR = 5000
"""Characters of the tag `pbt.error`; MLflow keeps a few more."""


def _error_tag(turn: Turn) -> str:
    """Why a turn went wrong: the reason first, and of a long traceback its end."""
    text = f"turn {turn.number} {turn.status}: {turn.error}"
    if len(text) <= _LONGEST_ERROR:
        return text
    head = f"turn {turn.number} {turn.status}: {turn.reason}\n\n[...]"
    return head + text[len(head) - _LONGEST_ERROR :]


def _note(result: Result) -> str:
    """The description on the population's page in the MLflow UI; the headline comes first."""

    def row(what: str, one: Finalist) -> str:
        report = ", ".join(f"{name} {value:.4g}" for name, value in one.report.items()) or "none"
        hparams = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in one.hparams.items()
        )
        where = f"{member_name(one.member)}, turn {one.turn} (step {one.step:,})"
        return f"| {what} | {where} | {one.score:.4g} | {report} | {hparams} |"

    rows = [row("winner", result.winner)] if result.winner else []
    if result.best_initial and result.has_copies:
        rows.append(row(f"best initial setting, {result.fate}", result.best_initial))
    head = f"**{result.headline}**, {result.status}: {result.members} members, "
    head += f"{result.turns} turns"
    if result.left:
        head += f", {result.left} of which left at the end of a stage"
    if result.retired:
        head += f", {result.retired} retired"
    if result.reason:
        head += f" ({result.reason.splitlines()[0]})"
    if result.budget_note:
        head += f"; {result.budget_note}"
    table = ["| | member | score | report | hyperparameters |", "|---|---|---|---|---|", *rows]
    if result.charts:
        head += f". [Charts]({result.charts}); the whole story is in the artifact report/index.html"
    return "\n".join([head, "", *table]) if rows else head
