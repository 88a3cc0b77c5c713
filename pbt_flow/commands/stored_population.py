"""A population as it is stored: what every command on one begins with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbt_flow.commands.launch import spec_of
from pbt_flow.exceptions import ComparisonError, RecordError
from pbt_flow.population.checkpoints import load_state
from pbt_flow.population.finalist import Finalist
from pbt_flow.population.fresh_score import FreshScore
from pbt_flow.population.history import History
from pbt_flow.population.leaving import end_stages
from pbt_flow.population.records import Checkpoint, Member, derive_seed, report_seed
from pbt_flow.population.result import Result, Status
from pbt_flow.reporting import summary_image
from pbt_flow.reporting.comparable import Entry
from pbt_flow.reporting.report_data import ReportData
from pbt_flow.settings import Settings
from pbt_flow.space import check_hparams
from pbt_flow.task import Task
from pbt_flow.tracking.store import Store
from pbt_flow.training.averaging import Averaged
from pbt_flow.utils.devices import usable_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTROL = "pbt.control"
"""The tag that names a population's control."""


@dataclass(frozen=True, kw_only=True)
class StoredPopulation:
    """The runs of a population or of a replay, and the settings that it goes by.

    Each command opens it once, does what it is for, and writes. What it asks the tracking store for
    is not kept: a population may be training meanwhile.
    """

    store: Store
    settings: Settings
    """As they are after its resumes."""

    @classmethod
    def open(cls, run_id: str) -> StoredPopulation:
        """Find a population or a replay by its run id.

        Raises:
            StoreError: There is no such run, or it is neither.
            SettingsError: Its settings are of another version, or a tag gives what cannot change.
        """
        store = Store.open(run_id)
        began = Settings.from_json(store.manifest.settings)
        return cls(store=store, settings=began.changed(store.changed()))

    @property
    def began(self) -> Settings:
        """The settings that it began with."""
        return Settings.from_json(self.store.manifest.settings)

    @property
    def run_id(self) -> str:
        """The population's run."""
        return self.store.run_id

    @property
    def is_replay(self) -> bool:
        """Whether it is a replay of a population, and not a population."""
        return self.store.role == "replay"

    # --- what it has done ---

    def new_history(self) -> History:
        """Its history before the first turn."""
        history = History(direction=self.store.manifest.direction, stages=self.settings.stage_plan)
        initial = self.store.manifest.initial
        # A replay compares nobody with anybody.
        groups = [0] * len(initial) if self.is_replay else self.settings.groups
        history.begin(
            Member(index=index, hparams=check_hparams(point, self.store.space), group=group)
            for index, (point, group) in enumerate(zip(initial, groups, strict=True))
        )
        return history

    def read_history(self, say: Callable[[str], None] = warnings.warn) -> History:
        """Its history so far, from its journal and its turn records.

        Args:
            say: Tells the user what in the journal is not believed.

        Raises:
            RecordError: A turn record cannot be trusted.
        """
        history = self.new_history()
        self.store.look_for_claims()
        for turns in self.store.read_turns(say).values():
            for turn in turns:
                history.add(turn)
        end_stages(history, max_failures=self.settings.max_failures)
        return history

    # --- what became of it ---

    def result(self) -> Result:
        """What has become of it so far, as MLflow and the turn records say.

        Raises:
            RecordError: A turn record cannot be trusted.
        """
        history, ended = self.read_history(), self.store.outcome.result()
        history.fresh.update(_read_fresh(ended.get("finalists", []), history))
        history.scores_repeat = ended.get("scores_repeat", False)
        reports = {}
        for name, turn in (("winner", history.winner()), ("best_initial", history.best_initial)):
            told = ended.get(name) or {}
            same = turn and (told.get("member"), told.get("turn")) == (turn.member, turn.number)
            if turn and turn.checkpoint and same:
                reports[turn.checkpoint] = _read_report(told["report"])
        result = self.result_of(
            history,
            reports,
            status=ended.get("status", self.store.status),
            reason=ended.get("reason", ""),
            seconds=ended.get("seconds", 0.0),
            turns_before=ended.get("turns_before", 0),
        )
        average = ended.get("average")
        if average is not None and result.winner is not None:
            result = replace(result, average=self._read_average(average, result.winner))
        own = ended.get("own_average")
        if own is not None and result.winner is not None:
            told = self._read_average(own, result.winner)
            result = replace(result, own_average=replace(told, checkpoint=None, revive=None))
        control = self.store.tags().get(CONTROL)
        if control is None:
            return result
        return replace(result, control=StoredPopulation.open(control).result())

    def result_of(
        self,
        history: History,
        reports: Mapping[Checkpoint, Mapping[str, float]],
        *,
        status: Status,
        reason: str = "",
        seconds: float,
        turns_before: int = 0,
    ) -> Result:
        """What a history of it comes to.

        Args:
            history: Its turns.
            reports: What was measured of some checkpoints.
            status: Whether it is running, or how it ended.
            reason: Why it ended; empty if it ran to the end of its budget.
            seconds: For how long it has trained.
            turns_before: How many turns had been done before.
        """
        return Result.of(
            history,
            run_id=self.store.run_id,
            tracking_uri=self.store.tracking_uri,
            member_runs=self.store.members,
            reports=reports,
            max_failures=self.settings.max_failures,
            status=status,
            reason=reason,
            seconds=seconds,
            turns_before=turns_before,
            charts=self.store.charts,
            budget=self.settings.budget,
            report_direction=self.store.manifest.report_direction,
            revive=self.revive,
            draw=self._draw,
        )

    def _draw(self, result: Result) -> Figure:
        return summary_image.figure(self.report_data(result, result.control))

    def revive(self, checkpoint: Checkpoint, device: str | None = None) -> Task:
        """Its task in the state of a checkpoint, seeded as for a report.

        Args:
            checkpoint: Whose state.
            device: Where to put it, as torch names it; by default where it was trained,
                and on the CPU where this machine has no such device.

        Raises:
            CheckpointError: The state is gone, or is not the one that the turn wrote.
        """
        return self._in_state(checkpoint, self.store.folders.fetch(checkpoint), device)

    def _in_state(self, checkpoint: Checkpoint, root: Path, device: str | None) -> Task:
        """The task in the state of a checkpoint that lies below a folder."""
        settings = self.settings
        device = device or usable_device(settings.device)
        task = spec_of(settings).build(derive_seed(settings.seed, checkpoint.member, 0), device)
        task.load_state_dict(load_state(checkpoint, root, device))
        task.reseed(report_seed(settings.seed))
        return task

    def average_of(self, winner: Finalist, averaged: Averaged) -> Finalist:
        """An average of finalists, beside the winner."""
        return replace(
            winner,
            score=averaged.score,
            report=averaged.report,
            fresh=averaged.fresh,
            parents=tuple((turn.member, turn.number) for turn in averaged.parents),
            checkpoint=averaged.checkpoint,
            revive=partial(self._revive_average, averaged.checkpoint),
        )

    def own_average_of(self, winner: Finalist, averaged: Averaged) -> Finalist:
        """An average of the winner's own last checkpoints, whose state is not kept."""
        told = self.average_of(winner, averaged)
        return replace(told, checkpoint=None, revive=None)

    def _read_average(self, plain: Mapping[str, Any], winner: Finalist) -> Finalist:
        """The same, as `Result.to_json` wrote it."""
        checkpoint = Checkpoint(
            member=winner.member, turn=winner.turn, digest=plain["digest"], size=plain["bytes"]
        )
        return replace(
            winner,
            score=plain["score"],
            report=_read_report(plain["report"]),
            fresh=None if plain["fresh"] is None else FreshScore(**plain["fresh"]),
            parents=tuple((member, turn) for member, turn in plain["parents"]),
            checkpoint=checkpoint,
            revive=partial(self._revive_average, checkpoint),
        )

    def _revive_average(self, checkpoint: Checkpoint, device: str | None = None) -> Task:
        return self._in_state(checkpoint, self.store.artifacts.fetch_average(), device)

    # --- what it is shown as ---

    def entry(self) -> Entry:
        """It as a population that is to stand beside others.

        Raises:
            ComparisonError: It is a replay, whose members are no random search.
            RecordError: A turn record cannot be trusted.
        """
        if self.is_replay:
            raise ComparisonError(
                f"run {self.run_id} is a replay, and no population that can be compared with "
                "another"
            )
        return self.entry_of(self.result())

    def entry_of(self, result: Result) -> Entry:
        """The same, where what became of it is known already."""
        defaults = self.store.manifest.option_defaults
        return Entry(result=result, settings=self.settings, option_defaults=defaults)

    def report_data(self, result: Result, control: Result | None = None) -> ReportData:
        """What a report of it is about.

        Args:
            result: What has become of it.
            control: The population to see it beside.
        """
        return ReportData(
            result=result,
            settings=self.settings,
            space=self.store.space,
            warnings=self.store.warnings(),
            understood={**self.store.understood(), **self.store.noted()},
            pictures=self.store.artifacts.pictures(),
            control=control,
            member_runs=self.store.members,
            runs_address=self.store.runs_address,
            versions=self.store.manifest.versions,
        )


def _read_report(plain: Mapping[str, float | None]) -> dict[str, float]:
    """A report as `Result.to_json` wrote it: JSON has no number for what is none."""
    return {name: math.nan if value is None else value for name, value in plain.items()}


def _read_fresh(
    plain: Sequence[Mapping[str, Any]], history: History
) -> Iterator[tuple[Checkpoint, FreshScore]]:
    """What finalists were worth, as `Result.to_json` wrote it.

    Raises:
        RecordError: The record of one is not there any more.
    """
    for one in plain:
        member, turn = one["member"], one["turn"]
        if turn > len(history.turns[member]):
            raise RecordError(
                f"member {member} has no record of its turn {turn}, which was judged at the end; "
                f"somebody deleted it from turns/{turn:06d} of its run: bring the file back"
            )
        checkpoint = history.turn(member, turn).checkpoint
        if checkpoint is not None:
            # JSON has no number for what is none.
            mean = math.nan if one["mean"] is None else one["mean"]
            yield checkpoint, FreshScore(mean=mean, readings=one["readings"], error=one["error"])
