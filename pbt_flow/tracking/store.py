"""Where members live between turns: MLflow runs.

The population is a parent run and each member a child run. What never changes is a param
(`cfg/...`, `init/...`), what changes is a metric (`score`, `hparam/<name>`, `donor`, `step`), and
`population.json` on the parent holds what a resume needs. A member's `turns/NNNNNN/turn.json` is
the record; metrics are its projection, with the record's own time, so that logging a turn twice
changes nothing. Everything goes through `MlflowClient` with explicit run ids: MLflow's active run
is global to the process, and it belongs to the user.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import mlflow
from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from optuna.distributions import CategoricalDistribution

from pbt_flow.exceptions import RecordError, StoreError
from pbt_flow.population.checkpoints import RECORD, Folders, LocalFolders, turn_folder
from pbt_flow.population.records import Checkpoint, Turn, fitted_turn
from pbt_flow.space import Space, index_of, space_from_json
from pbt_flow.tracking.adoption import MANIFEST
from pbt_flow.tracking.artifacts import Artifacts
from pbt_flow.tracking.client import connect, is_away, local_path, missing_database, read_text
from pbt_flow.tracking.create import Manifest, create_population, member_name
from pbt_flow.tracking.deletion import States
from pbt_flow.tracking.drivers import hide_password, is_of_a_store, says
from pbt_flow.tracking.lease import Lease, claim
from pbt_flow.tracking.metric_names import MetricNames
from pbt_flow.tracking.outcome import Outcome
from pbt_flow.tracking.population_runs import PopulationRuns
from pbt_flow.tracking.remote_checkpoints import RemoteFolders
from pbt_flow.tracking.saved_view import view_address
from pbt_flow.utils.values import Value

CHANGED = "pbt.settings"
"""The tag with the settings that resumes have changed, as JSON; the manifest stands still."""
_LONGEST_TAG = 5000
"""Characters of a tag that every store of MLflow takes."""


@dataclass(kw_only=True)
class Store(PopulationRuns):
    """One population in MLflow, as its controller sees it: its runs, and the turns in them."""

    manifest: Manifest
    space: Space
    folders: Folders
    charts: str
    """Where the saved view opens: what follows the address of the MLflow UI."""
    states: States
    """The checkpoints' states, where they can be asked for and deleted."""
    names: MetricNames = field(default_factory=MetricNames)
    """What the task's metrics are called."""

    def __post_init__(self) -> None:
        self.names.reserve("winner/score", "winner/fresh_score", "average/fresh_score")
        self.names.reserve("best_initial/score")

    @property
    def outcome(self) -> Outcome:
        """What became of the population."""
        return Outcome(runs=self, names=self.names)

    @property
    def artifacts(self) -> Artifacts:
        """What lies on the population's run to be looked at."""
        return Artifacts(runs=self, space=self.space)

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
        store = cls(
            client=client,
            tracking_uri=uri,
            run_id=run_id,
            members=manifest.members,
            manifest=manifest,
            space=space,
            folders=folders,
            charts=charts,
            states=states,
        )
        if isinstance(folders, RemoteFolders):
            # Downloaded checkpoints go with the last who can ask for them.
            weakref.finalize(store, shutil.rmtree, folders.cache, ignore_errors=True)
        return store

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
        with self.talk():
            run_id = self.members[turn.member]
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
        with self.talk():
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
        with self.talk():
            metrics = self.client.get_run(self.members[member]).data.metrics
        logged = int(metrics.get("turn", 0))
        if logged > committed:
            self._miss(member, committed + 1, f"MLflow has the metrics of turn {logged}")
        # The metrics of a turn arrive together, and before its tags.
        return max(0, logged - 1)

    def _miss(self, member: int, turn: int, why: str) -> NoReturn:
        raise RecordError(
            f"run {self.members[member]}: there is no {turn_folder(turn)}/{RECORD}, and "
            f"{why}: somebody has deleted the record of a turn that has happened; bring the file "
            "back, since it cannot be made again"
        )

    def has_checkpoint(self, checkpoint: Checkpoint) -> bool:
        """Whether the state of a turn is still there."""
        return self.states.has(checkpoint)

    def delete_checkpoint(self, checkpoint: Checkpoint) -> str | None:
        """Delete the state of a turn, if the place for artifacts can. Its record stays for ever.

        Returns:
            What the user must know, once: that checkpoints stay, where and why.

        Raises:
            StoreUnavailable: It does not answer now.
        """
        return self.states.delete(checkpoint)

    # --- settings and claim -----------------------------------------------------------------------

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

    def change(self, settings: Mapping[str, Any], *, began: Mapping[str, Any]) -> None:
        """Note which settings are not those that the population began with.

        Of the options those that it has recorded stay as they are, and others may come to them.

        Args:
            settings: The settings now.
            began: Those of its beginning, with the defaults of settings that came later.
        """
        new = {k: v for k, v in settings.items() if k != "options" and v != began.get(k)}
        others = {k: v for k, v in settings["options"].items() if k not in began["options"]}
        if others and len(json.dumps(new | {"options": others})) <= _LONGEST_TAG:
            new["options"] = others
        if new != self.changed():
            self.tag({CHANGED: json.dumps(new)})

    def claim(self, say: Callable[[str], None] = lambda text: None) -> Lease:
        """Become the population's only controller.

        Args:
            say: Tells the user that another controller is being watched.

        Raises:
            StoreError: Another controller is alive, or was faster.
        """
        with self.talk():
            return claim(self.client, self.run_id, say=say)


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
