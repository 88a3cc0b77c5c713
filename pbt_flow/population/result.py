"""What became of a population."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal

from pbt_flow.population.fresh_score import FreshScore
from pbt_flow.population.history import History
from pbt_flow.population.records import Checkpoint, Direction, Member, ReportDirection, Turn
from pbt_flow.space import Hparams
from pbt_flow.utils.means import mean
from pbt_flow.utils.values import finite

if TYPE_CHECKING:
    from pbt_flow.task import Task

Status = Literal["finished", "interrupted", "failed", "running"]


NO_WINNER = "no turn of any member went well"
"""Why a population has failed that did all its turns."""


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """One turn of one member that is worth pointing at."""

    member: int
    run_id: str
    turn: int
    step: int
    """The age of its weights."""
    score: float
    """What selection went by: the maximum of many noisy scores is optimistic."""
    report: Mapping[str, float]
    """What `Task.report` measured on data that selection never saw; empty if it was not asked."""
    hparams: Hparams
    fresh: FreshScore | None = None
    """What it was worth on data that no decision has seen; None if it was not judged afresh."""
    parents: Sequence[tuple[int, int]] = ()
    """Where it is an average of weights: of which records, each as its member and its turn."""
    checkpoint: Checkpoint | None = None
    """Its state."""
    revive: Callable[[str | None], Task] | None = field(default=None, repr=False, compare=False)
    """Builds the task again in this turn's state, on a device."""

    @property
    def parents_told(self) -> str:
        """The records that it is the average of, in words; empty where it is a record itself."""
        return ", ".join(f"member {member:02d} turn {turn}" for member, turn in self.parents)

    def task(self, device: str | None = None) -> Task:
        """A live task in the state that this turn left: to evaluate, to look at, to train on.

        It is seeded as for a report: `report()`, called first, gives the numbers in `report`.

        Args:
            device: Where to put it, as torch names it; by default where it was trained.

        Raises:
            CheckpointError: The state is gone, or is not the one that the turn wrote.
        """
        if self.revive is None:
            raise ValueError(f"run {self.run_id}: this result knows of no place for checkpoints")
        return self.revive(device)

    def to_json(self) -> dict[str, Any]:
        """The turn as plain values; a choice that is infinite is the word `inf` or `-inf`."""
        return {
            "member": self.member,
            "run_id": self.run_id,
            "turn": self.turn,
            "step": self.step,
            "score": self.score,
            "report": dict(self.report),
            "hparams": finite(dict(self.hparams)),
            "fresh": None if self.fresh is None else vars(self.fresh),
            "parents": [list(parent) for parent in self.parents],
            "digest": None if self.checkpoint is None else self.checkpoint.digest,
            "bytes": None if self.checkpoint is None else self.checkpoint.size,
        }


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a population; `pbt_flow.run` returns it, `pbt_flow.load` rebuilds it."""

    run_id: str
    """The population's run in MLflow."""
    tracking_uri: str
    status: Status
    reason: str
    """Why it ended; empty if it ran to the end of its budget."""
    winner: Finalist | None
    """The best of the records that the members stand on; None if no turn has gone well."""
    average: Finalist | None = None
    """The average of some finalists' weights, where it is better than the winner; then it is handed
    over as the model. It has member, turn and hyperparameters of the winner, which is one of its
    parents."""
    best_initial: Finalist | None
    """The best turn of any initial configuration while it was left alone, that is, until PBT
    replaced it: seldom after the whole budget. It is the best of all these turns, where the winner
    is the best of the newest ones only."""
    mean_score: float
    """Mean score of the records that the living members stand on; NaN if there are none."""
    members: int
    retired: int
    """Members that failed too often and were given up."""
    left: int = 0
    """Members that left at the end of a stage, as planned."""
    turns: int
    """Turns of all members together."""
    turns_each: float
    """Turns of a member that was not retired, on average; 0 if all were. With stages: the turns of
    a member of the population without stages that has done as many turns in all."""
    seconds: float
    """Wall-clock seconds of the call that made this result."""
    history: History = field(repr=False, compare=False)
    """Every turn of every member."""
    charts: str = ""
    """Where its charts are in MLflow's UI: what follows the address of the UI."""
    budget: int | None = None
    """Steps that a member was given to train: turns times interval, and with stages what a member
    is given that gets to their end. None where nobody said."""
    report_direction: ReportDirection = None
    """Which way the reports are better, as the task declared it."""
    control: Result | None = None
    """The population that it is to be compared with, if one was trained or named."""

    @classmethod
    def of(
        cls,
        history: History,
        *,
        run_id: str,
        tracking_uri: str,
        member_runs: Sequence[str],
        reports: Mapping[Checkpoint, Mapping[str, float]],
        max_failures: int,
        status: Status,
        reason: str = "",
        seconds: float = 0.0,
        charts: str = "",
        budget: int | None = None,
        report_direction: ReportDirection = None,
        revive: Callable[[Checkpoint, str | None], Task] | None = None,
    ) -> Result:
        """Read the result off a history; `reports` is what was measured of some checkpoints."""

        def finalist(turn: Turn | None) -> Finalist | None:
            if turn is None or turn.score is None or turn.checkpoint is None:
                return None
            return Finalist(
                member=turn.member,
                run_id=member_runs[turn.member],
                turn=turn.number,
                step=turn.step,
                score=turn.score,
                report=reports.get(turn.checkpoint, {}),
                hparams=turn.plan.hparams,
                fresh=history.fresh.get(turn.checkpoint),
                checkpoint=turn.checkpoint,
                revive=None if revive is None else partial(revive, turn.checkpoint),
            )

        living = history.living(max_failures)
        retired = [member for member in history.present if member.failures >= max_failures]
        standing = [turn for member in living if (turn := history.standing(member)) is not None]
        scores = [turn.score for turn in standing if turn.score is not None]
        return cls(
            run_id=run_id,
            tracking_uri=tracking_uri,
            status=status,
            reason=reason,
            winner=finalist(history.winner()),
            best_initial=finalist(history.best_initial),
            mean_score=mean(scores) if scores else math.nan,
            members=len(history.members),
            retired=len(retired),
            left=len(history.left),
            turns=sum(member.turn for member in history.members.values()),
            turns_each=_turns_each(history, living),
            seconds=seconds,
            history=history,
            charts=charts,
            budget=budget,
            report_direction=report_direction,
        )

    @property
    def best(self) -> Finalist | None:
        """What is handed over: the average of finalists where there is one, and else the winner."""
        return self.average or self.winner

    @property
    def headline(self) -> str:
        """What came of it, in one sentence: the winner beside its control, or where there is none
        beside the best initial setting, with the steps that each trained.

        Where both were reported on, it quotes the report and not the score: the winner's score is
        the greatest of many noisy ones.
        """
        winner = self._quoted
        if winner is None:
            return "No member is in good health" if self.turns else "No turn is done yet"
        control, initial = self.control, self.best_initial
        if control is not None and control.status == "finished":
            its = control._quoted
            if its is not None:
                return self._beside(winner, control, its)
        if initial is None:
            return f"{_who(winner)} reaches {_told(winner, _headline_metric(winner))}"
        metric = _headline_metric(winner, initial)
        text = f"{_who(winner)} reaches {_told(winner, metric)}"
        if (initial.member, initial.turn) == (winner.member, winner.turn) and not winner.parents:
            return f"{text}, with an initial setting that was never changed"
        if not self.has_copies:
            return text  # Nobody copied: all settings are initial ones, and the winner is the best.
        return (
            f"{text} after {winner.step:,} steps; the best initial setting came to "
            f"{_value(initial, metric)} after {initial.step:,}, {self.fate}"
        )

    @property
    def _quoted(self) -> Finalist | None:
        """Whose numbers the headline quotes: what is handed over, if it was reported on."""
        if self.average is not None and self.average.report:
            return self.average
        return self.winner

    def _beside(self, winner: Finalist, control: Result, its: Finalist) -> str:
        metric = _headline_metric(winner, its)
        text, other = f"{_who(winner)} reaches {_told(winner, metric)}", _value(its, metric)
        who = _who(its).lower()
        if is_same_effort(self, control) and winner.step == its.step:
            return f"{text}, {who} of the control {other} with the same budget"
        steps = f"{text} after {winner.step:,} steps, {who} of the control {other} after "
        if is_same_effort(self, control) and self.history.stages is not None:
            return f"{steps}{its.step:,}, with the same budget in all"
        return f"{steps}{its.step:,}"

    @property
    def has_copies(self) -> bool:
        """Whether any member ever copied another."""
        return any(turn.plan.donor for turns in self.history.turns.values() for turn in turns)

    @property
    def fate(self) -> str:
        """What became of the best initial setting after its best turn."""
        best = self.best_initial
        turns = [] if best is None else self.history.turns[best.member]
        if any(turn.plan.donor for turn in turns):
            return "before it was replaced"
        return "never replaced"

    @property
    def initial_scores(self) -> int:
        """How many scores `best_initial` is the best of."""
        count = 0
        for turns in self.history.turns.values():
            left_alone = takewhile(lambda turn: turn.plan.donor is None, turns)
            count += sum(turn.ok for turn in left_alone)
        return count

    @property
    def winner_share(self) -> float | None:
        """Steps that the winner's weights have trained along their lineage, as a share of a
        member's budget; None where one of them is not known.
        """
        if self.winner is None or not self.budget:
            return None
        return self.winner.step / self.budget

    @property
    def is_over_budget(self) -> bool:
        """Whether the winner's weights have trained for more than a member's budget."""
        return self.winner_share is not None and self.winner_share > 1

    @property
    def budget_note(self) -> str:
        """How long the winner's weights have trained, where that is not a member's whole budget.

        Above it, the winner must not stand beside what kept to the budget. Asynchronous populations
        of the first version could come to that, where they had a worker for each member.
        """
        share, winner = self.winner_share, self.winner
        if share is None or winner is None or share == 1:
            return ""
        if share < 1:
            return (
                f"the winner's weights have trained {winner.step:,} of the {self.budget:,} steps "
                "that a member was given"
            )
        return (
            f"the winner's weights have trained {winner.step:,} steps along their lineage, "
            f"{share:.4g} times the {self.budget:,} that a member was given: it had more than its "
            "budget, so that it says little beside populations that kept to theirs"
        )

    def report_better(self, metric: str) -> Direction | None:
        """Which way a metric of the reports is better; None if the task does not declare it."""
        told = self.report_direction
        if told is None or isinstance(told, Mapping):
            return None if told is None else told.get(metric)
        first = None if self.winner is None else next(iter(self.winner.report), None)
        return told if metric == first else None

    def _judged(self) -> list[dict[str, Any]]:
        """The finalists that were judged afresh, the best first."""
        found = []
        for checkpoint, fresh in self.history.fresh.items():
            turn = self.history.turn(checkpoint.member, checkpoint.turn)
            place = {"member": turn.member, "turn": turn.number, "score": turn.score}
            found.append((fresh.rank(self.history.direction), place | vars(fresh)))
        found.sort(key=lambda pair: pair[0], reverse=True)
        return [plain for _, plain in found]

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values, with null for what is not a finite number."""
        plain = {
            "status": self.status,
            "reason": self.reason,
            "population": self.run_id,
            "tracking_uri": self.tracking_uri,
            "winner": self.winner and self.winner.to_json(),
            "average": self.average and self.average.to_json(),
            "best_initial": self.best_initial and self.best_initial.to_json(),
            "finalists": self._judged(),
            "mean_score": self.mean_score,
            "members": self.members,
            "retired": self.retired,
            "left": self.left,
            "turns": self.turns,
            "budget": self.budget,
            "winner_step_over_budget": self.winner_share,
            "seconds": round(self.seconds, 3),
        }
        if self.control is not None:
            plain["control"] = self.control.to_json()
        finite: dict[str, Any] = _finite(plain)
        return finite


def _turns_each(history: History, living: Sequence[Member]) -> float:
    """Turns of a living member, on average; with stages see `Result.turns_each`."""
    if not living:
        return 0.0
    plan = history.stages
    if plan is None:
        return mean(member.turn for member in living)
    if all(member.turn == plan.ends[-1] for member in living):
        # As without stages: what retired members did not do belongs to the method.
        return float(plan.turns)
    return sum(member.turn for member in history.members.values()) / plan.population


def is_same_effort(first: Result, second: Result) -> bool:
    """Whether the members of two populations of one interval have trained equally long.

    Members that were retired do not count: what becomes of them belongs to the method. Stages share
    out the same total otherwise, so that of them the total counts.
    """
    return first.turns_each == second.turns_each


def effort_note(population: Result, control: Result) -> str:
    """How much longer one of them trained than the other; empty if they trained equally long."""
    if is_same_effort(population, control):
        return ""
    so_far = population.status == "running"
    return (
        f"the members of the control did {control.turns_each:.4g} turns each, and those of this "
        f"population {population.turns_each:.4g}"
        + (" so far" if so_far else ": the two had not the same budget")
    )


def _headline_metric(*those: Finalist) -> str:
    """The headline of the reports, where all of them have it; else empty, for the score."""
    metric = next(iter(those[0].report), "")
    return metric if all(metric in one.report for one in those) else ""


def _who(one: Finalist) -> str:
    """What a headline calls it."""
    return f"The average of {len(one.parents)} finalists" if one.parents else "The winner"


def _value(one: Finalist, metric: str) -> str:
    return f"{one.report[metric]:.4g}" if metric else f"{one.score:.4g}"


def _told(one: Finalist, metric: str) -> str:
    return f"{metric or 'score'} {_value(one, metric)}"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
