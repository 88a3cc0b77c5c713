"""The runs of one population in MLflow: their tags, their names, and the status of each.

Everything goes through `MlflowClient` with explicit run ids: MLflow's active run is global to the
process, and it belongs to the user.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from urllib.parse import urlsplit

from mlflow.entities import RunInfo, RunTag
from mlflow.tracking import MlflowClient

from pbt_flow.population.result import Status
from pbt_flow.task.mlflow_capture import INNER, MemberRuns
from pbt_flow.tracking.client import requests_at_once, talking
from pbt_flow.tracking.lease import HEARTBEAT, is_orphan
from pbt_flow.utils.at_once import call_at_once

_UNDERSTOOD = "pbt.understood/"
_ON_RESUME = "pbt.understood-on-resume/"
STATUSES: Mapping[str, Status] = {
    "FINISHED": "finished",
    "KILLED": "interrupted",
    "FAILED": "failed",
}
"""The status of a population that its run's status in MLflow stands for; else it is running."""
MAX_TAG_LENGTH = 5000
"""The most characters of a tag that every store of MLflow takes."""
LEFT = "pbt.left"
"""The tag of a member that has left, which says at which stage; empty of one that is back."""


@dataclass(kw_only=True)
class PopulationRuns:
    """The population's run and those of its members."""

    client: MlflowClient
    tracking_uri: str
    run_id: str
    """The population's run."""
    members: Sequence[str]
    """The run of each member."""
    said_to_have_left: Collection[int] = ()
    """The members of which their runs said, when the population was opened, that they have left."""

    def tag(self, tags: Mapping[str, str], member: int | None = None) -> None:
        """Set tags on the population's run, or on a member's."""
        run_id = self.run_id if member is None else self.members[member]
        with self.talk():
            self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    def tags(self) -> dict[str, str]:
        """The tags of the population's run."""
        with self.talk():
            return dict(self.client.get_run(self.run_id).data.tags)

    def warnings(self) -> dict[str, str]:
        """Return the warnings of the population, by the name of each."""
        return self._tagged("pbt.warning/")

    def checked(self) -> set[str]:
        """Return the names of the checks that controllers of this population have made."""
        return set(self._tagged("pbt.checked/"))

    def log_understood(self, now: Mapping[str, str], before: Mapping[str, str]) -> None:
        """Log what the task understood of its data and options.

        Args:
            now: What it understands now, by topic.
            before: What it understood when the population began. If a topic has changed since, the
                change is logged under another name.
        """
        tags: dict[str, str] = {}
        for topic, text in now.items():
            if topic not in before:
                tags[f"{_UNDERSTOOD}{topic}"] = text
            elif text != before[topic]:
                tags[f"{_ON_RESUME}{topic}"] = text
        if tags:
            self.tag(tags)

    def understood(self) -> dict[str, str]:
        """Return what the task understood when the population began, by topic."""
        return self._tagged(_UNDERSTOOD)

    def noted(self) -> dict[str, str]:
        """Return what the task found out only while it trained, by topic."""
        return self._tagged("pbt.noted/")

    def _tagged(self, prefix: str) -> dict[str, str]:
        """Return the tags of the population's run with a prefix, by their names without it."""
        found: dict[str, str] = {}
        for name, text in self.tags().items():
            if name.startswith(prefix):
                found[name.removeprefix(prefix)] = text
        return found

    def rename(self, name: str, member: int) -> None:
        """Give a member's run another name."""
        with self.talk():
            self.client.update_run(self.members[member], name=name)

    def begin(self) -> None:
        """Mark the population's run as running again."""
        # The conclusion of an earlier controller does not hold any more, even if this one is killed
        # before it comes to its own. A replay has no such tag, only the status of its run.
        if self.role != "replay":
            self.tag({"pbt.status": "running"})
        with self.talk():
            self.client.update_run(self.run_id, status="RUNNING")

    def begin_member(self, member: int) -> None:
        """Mark the run of a member that trains on as running again."""
        if member in self.said_to_have_left:
            # A straggler of which no turn says that it was not waited for: after a kill it is.
            # Not deleted, since what is said twice must change nothing.
            self.tag({LEFT: ""}, member)
        with self.talk():
            self.client.update_run(self.members[member], status="RUNNING")

    def retire(self, member: int) -> None:
        """End the run of a retired member."""
        with self.talk():
            self.client.set_terminated(self.members[member], status="FAILED")

    def leave(self, member: int, why: str, when: float) -> None:
        """End the run of a member that has left at the end of a stage: it has done what it was to.

        Args:
            member: Who has left.
            why: At which stage.
            when: The end of its last turn, and not now: what is said twice must change nothing.
        """
        self.tag({LEFT: why}, member)
        with self.talk():
            self.client.set_terminated(
                self.members[member], status="FINISHED", end_time=int(when * 1000)
            )

    def finish(self, status: str, members: Mapping[int, str]) -> None:
        """End the members' runs, each with its status, and then the population's run."""
        with self.talk():
            call_at_once(
                lambda index: self.client.set_terminated(
                    self.members[index], status=members[index]
                ),
                members,
                self.requests_at_once,
            )
            # A task may have begun runs in a worker that died before it could end them.
            left = self.client.search_runs(
                [self.member_runs.experiment_id],
                f"tags.`pbt.population` = '{self.run_id}' AND tags.`pbt.role` = '{INNER}' "
                "AND attributes.status = 'RUNNING'",
            )
            for run in left:
                self.client.set_terminated(run.info.run_id, status="FAILED")
            self.client.set_terminated(self.run_id, status=status)

    @property
    def status(self) -> Status:
        """The status of the population, from that of its run in MLflow."""
        return self.pulse()[0]

    def pulse(self) -> tuple[Status, str]:
        """The status of the population, and the last that was heard of its controller."""
        with self.talk():
            run = self.client.get_run(self.run_id)
        status = STATUSES.get(run.info.status, "running")
        # A controller that was killed has left its run behind as running.
        if run.info.status == "RUNNING" and is_orphan(run):
            status = "interrupted"
        return status, run.data.tags.get(HEARTBEAT, "")

    @property
    def role(self) -> str:
        """The kind of the population: `population`, or `replay` for one that follows a schedule."""
        return self.tags().get("pbt.role", "population")

    @property
    def place(self) -> str:
        """The artifact URI of the population's run. It never changes, and is asked for once."""
        return str(self._info.artifact_uri)

    @functools.cached_property
    def _info(self) -> RunInfo:
        with self.talk():
            return self.client.get_run(self.run_id).info

    @functools.cached_property
    def member_runs(self) -> MemberRuns:
        """The members' runs, in the form in which workers get them."""
        return MemberRuns(
            tracking_uri=self.tracking_uri,
            experiment_id=self._info.experiment_id,
            population=self.run_id,
            members=tuple(self.members),
        )

    @property
    def runs_address(self) -> str:
        """What the address of a run in MLflow's UI begins with; empty where no server shows them.

        A page may be seen by many: a user's name and password in the store's URI are left out.
        """
        parts = urlsplit(self.tracking_uri)
        if parts.scheme not in ("http", "https"):
            return ""
        place = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
        return f"{place.geturl().rstrip('/')}/#/experiments/{self.member_runs.experiment_id}/runs"

    @property
    def requests_at_once(self) -> int:
        """How many requests the store takes at once without making one wait for another."""
        return requests_at_once(self.tracking_uri)

    def talk(self) -> AbstractContextManager[None]:
        """Return a context for requests, whose errors name the store and say how to go on."""
        return talking(self.tracking_uri, self.run_id)
