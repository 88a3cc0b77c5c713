"""What became of a population: its winner, its scores, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal

from pbt_flow.population.finalist import Finalist
from pbt_flow.population.history import History
from pbt_flow.population.records import Checkpoint, Direction, Member, ReportDirection, Turn
from pbt_flow.population.result_html import result_html
from pbt_flow.population.turn_table import turns_dataframe
from pbt_flow.utils.means import mean
from pbt_flow.utils.text import counted, duration, turn_count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pbt_flow.task import Task

Status = Literal["finished", "interrupted", "failed", "running"]


NO_WINNER = "no turn of any member went well"
"""The reason of a population that did all its turns and failed all the same."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Result:
    """What became of a population; `pbt_flow.run` returns it, and `pbt_flow.load` rebuilds it."""

    run_id: str
    """The population's run in MLflow."""
    tracking_uri: str
    status: Status
    reason: str
    """Why the population ended; empty if it used its whole budget."""
    winner: Finalist | None
    """The best of the records that the members stand on, and at the end of the best ever as well;
    None if no turn went well."""
    average: Finalist | None = None
    """The average of some finalists' weights, if it is better than the winner.

    The average is then handed over as the model. It has the member, turn and hyperparameters of the
    winner, which is one of its parents."""
    own_average: Finalist | None = None
    """The average of the winner's own last checkpoints, better or not; None if none was made.

    It is a control, and is never handed over: what averaging finalists brings is what `average` has
    over this one. Its state is not kept."""
    best_initial: Finalist | None
    """The best turn of any initial configuration, before PBT replaced that configuration.

    It seldom comes after the whole budget, since PBT replaces most configurations before."""
    mean_score: float
    """The mean score of the records that the living members stand on; NaN if there are none."""
    members: int
    """How many members the population has."""
    retired: int
    """How many members were retired because they failed too often."""
    left: int = 0
    """How many members left at the end of a stage, as planned."""
    turns: int
    """How many turns all members did together."""
    turns_before: int = 0
    """How many of these turns had been done before the call that made this result."""
    turns_each: float
    """How many turns a member that was not retired did on average; 0 if all were retired.

    With stages, it is the turns of a member in a population without stages that has done as many
    turns in all."""
    seconds: float
    """Wall-clock seconds of the call that made this result."""
    history: History = field(repr=False, compare=False)
    """Every turn of every member."""
    charts: str = ""
    """The part of the charts' address that follows the address of the MLflow UI."""
    budget: int | None = None
    """How many steps a member may train: turns times interval. None if it is not known.

    With stages, it is the steps of a member that stays until their end."""
    report_direction: ReportDirection = None
    """Which direction of the reports' metrics is better, as the task declared it."""
    control: Result | None = None
    """The population to compare this one with, if a control was trained or named."""
    draw: Callable[[Result], Figure] | None = field(default=None, repr=False, compare=False)
    """Draws the picture of the report."""

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
        turns_before: int = 0,
        charts: str = "",
        budget: int | None = None,
        report_direction: ReportDirection = None,
        revive: Callable[[Checkpoint, str | None], Task] | None = None,
        draw: Callable[[Result], Figure] | None = None,
    ) -> Result:
        """Return the result that follows from a history.

        Args:
            history: Every committed turn.
            run_id: The population's run in MLflow.
            tracking_uri: The tracking store that holds the run.
            member_runs: The run id of each member.
            reports: What `Task.report` measured, by the checkpoint that it measured.
            max_failures: How many failures in a row retire a member.
            status: How the population ended, if it did.
            reason: Why it ended.
            seconds: Wall-clock seconds of the call that makes this result.
            turns_before: How many turns had been done before that call.
            charts: The part of the charts' address that follows the address of the MLflow UI.
            budget: How many steps a member may train.
            report_direction: Which direction of the reports' metrics is better.
            revive: Builds the task in the state of a checkpoint, on a device.
            draw: Draws the picture of the report.
        """

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
        scores: list[float] = []
        for member in living:
            standing = history.standing(member)
            if standing is not None and standing.score is not None:
                scores.append(standing.score)
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
            turns=history.turns_done,
            turns_before=turns_before,
            turns_each=_turns_each(history, living),
            seconds=seconds,
            history=history,
            charts=charts,
            budget=budget,
            report_direction=report_direction,
            draw=draw,
        )

    def __repr__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"<Result of population {self.run_id}: {self.status}{reason}; {self.headline}>"

    def _repr_html_(self) -> str:
        """The outcome as a notebook shows it where a cell ends with a result."""
        return result_html(self)

    def plot(self) -> Figure:
        """Return the picture of the report, as a figure of matplotlib that a notebook shows.

        It has the scores of all members, every hyperparameter along the weights' steps, and the
        family tree. With a control, the control's scores are drawn beside them.

        Raises:
            StoreError: The tracking store cannot be reached.
            ValueError: The result was made without access to the population's runs.
        """
        if self.draw is None:
            raise ValueError(
                f"run {self.run_id}: this result was made without access to the population's "
                "runs; pbt_flow.load returns one that has it"
            )
        return self.draw(self)

    def turns_dataframe(self) -> pd.DataFrame:
        """Return every committed turn as a row of a table, ordered by member and turn.

        Its columns, with their dtypes:

        - `member` (int64), and `turn` (int64): which turn of which member, the turns from 1.
        - `step` (int64): the age of the weights after the turn, in steps along their lineage.
        - `trained` (int64): the steps that the member itself has trained, which only grow.
        - `status` (category): `ok`, `diverged`, `failed` or `lost`.
        - `score` (float64): NaN where the turn did not go well.
        - `donor`, `donor_turn` (Int64): the member, and its turn, whose record was copied just
          before this turn; missing where nobody was copied.
        - `hparams_donor` (Int64): the member whose hyperparameters were taken, where that is
          another than the one whose weights were.
        - `seconds` (float64): how long the turn took, with earlier tries that were lost.
        - `started` (datetime64, UTC): when the turn began.
        - `hparam/NAME`, for each hyperparameter: what was live in the turn; float64, int64 or bool
          where all values are of that kind, and object otherwise.
        """
        return turns_dataframe(self.history)

    @property
    def best(self) -> Finalist | None:
        """What is handed over: the average of finalists if there is one, else the winner."""
        return self.average or self.winner

    @property
    def headline(self) -> str:
        """The outcome in one sentence.

        It compares the winner with the winner of the control, or with the best initial setting if
        there is no control, and says how many steps each has trained. It quotes the report if both
        have one. The winner's score would flatter it, being the best of many noisy scores.
        """
        winner = self._quoted
        if winner is None:
            return "No member is in good health" if self.turns else "No turn is done yet"
        control, initial = self.control, self.best_initial
        if control is not None and control.status == "finished":
            control_winner = control._quoted
            if control_winner is not None:
                return self._beside(winner, control, control_winner)
        if initial is None:
            return self._reaches(winner, _headline_metric(winner))
        metric = _headline_metric(winner, initial)
        text = self._reaches(winner, metric)
        is_initial = (initial.member, initial.turn) == (winner.member, winner.turn)
        if is_initial and not winner.parents:
            return f"{text}, with an initial setting that was never changed"
        if not self.has_copies:
            # If nobody copied, every setting is an initial one, and the winner is their best.
            return text
        return (
            f"{text} after {counted(winner.step, 'step')}; the best initial setting came to "
            f"{_value(initial, metric)} after {initial.step:,}, {self.fate}"
        )

    def _reaches(self, finalist: Finalist, metric: str) -> str:
        """What a finalist reaches, and the winner alone, where its own report is better."""
        text = f"{_who(finalist)} reaches {_named_value(finalist, metric)}"
        if metric and metric == self.better_alone:
            alone = f"{self.winner.report[metric]:.4g}" if self.winner else ""
            text += f" (the winner alone {alone}, which is better)"
        return text

    @property
    def better_alone(self) -> str:
        """The first metric of the report, if the winner's is better than that of the average.

        An average is handed over by its fresh score, and a report is measured on other data. It is
        empty where there is no average, where that has the better report, and where the task does
        not say which direction is better.
        """
        if self.average is None or self.winner is None:
            return ""
        metric = _headline_metric(self.average, self.winner)
        better = self.report_better(metric) if metric else None
        if better is None:
            return ""
        alone, together = self.winner.report[metric], self.average.report[metric]
        return metric if (alone > together if better == "maximize" else alone < together) else ""

    @property
    def turns_told(self) -> str:
        """How many turns were done, in words, and how long those of the last call took.

        Nobody has said how long it took where the population has not ended, or was killed.
        """
        text, new = turn_count(self.turns), self.turns - self.turns_before
        if not self.seconds or not new:
            return text
        took = f"in {duration(self.seconds)}"
        return f"{text}, the last {new:,} {took}" if self.turns_before else f"{text} {took}"

    @property
    def _quoted(self) -> Finalist | None:
        """The finalist whose numbers the headline quotes: the one that is handed over."""
        return self.best

    def _beside(self, winner: Finalist, control: Result, control_winner: Finalist) -> str:
        """The headline of a population that has a control."""
        metric = _headline_metric(winner, control_winner)
        text = self._reaches(winner, metric)
        other, who = _value(control_winner, metric), _who(control_winner).lower()
        if is_same_effort(self, control) and winner.step == control_winner.step:
            return f"{text}, {who} of the control {other} with the same budget"
        text += f" after {counted(winner.step, 'step')}, {who} of the control {other} after "
        text += f"{control_winner.step:,}"
        # With stages, members train for different numbers of steps within one budget.
        if is_same_effort(self, control) and self.history.stages is not None:
            return f"{text}, with the same budget in all"
        return text

    @property
    def has_copies(self) -> bool:
        """Whether any member ever copied another."""
        return any(turn.plan.donor for turns in self.history.turns.values() for turn in turns)

    @property
    def fate(self) -> str:
        """Whether the best initial setting was replaced after its best turn, in words."""
        best = self.best_initial
        turns = [] if best is None else self.history.turns[best.member]
        if any(turn.plan.donor for turn in turns):
            return "before it was replaced"
        return "never replaced"

    @property
    def initial_scores(self) -> int:
        """How many scores there are of which `best_initial` is the best."""
        count = 0
        for turns in self.history.turns.values():
            before_first_copy = takewhile(lambda turn: turn.plan.donor is None, turns)
            count += sum(turn.ok for turn in before_first_copy)
        return count

    @property
    def winner_share(self) -> float | None:
        """The age of the winner's weights divided by a member's budget.

        It is None if there is no winner, or if the budget is not known.
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
        """How long the winner's weights have trained; empty if it is a member's whole budget.

        If it is more, the winner must not be compared with populations that kept to the budget.
        Asynchronous populations of the first version could get there if they had a worker for each
        member.
        """
        share, winner, budget = self.winner_share, self.winner, self.budget
        if share is None or winner is None or budget is None or share == 1:
            return ""
        if share < 1:
            return (
                f"the winner's weights have trained {winner.step:,} of the "
                f"{counted(budget, 'step')} that a member was given"
            )
        return (
            f"the winner's weights have trained {counted(winner.step, 'step')} along their "
            f"lineage, {share:.4g} times the {budget:,} that a member was given: it had more "
            "than its budget, and cannot be compared fairly with populations that kept to theirs"
        )

    def report_better(self, metric: str) -> Direction | None:
        """Which direction of a report's metric is better; None if the task does not declare it."""
        declared = self.report_direction
        if declared is None:
            return None
        if isinstance(declared, Mapping):
            return declared.get(metric)
        # A single direction is that of the first metric only.
        first = None if self.winner is None else next(iter(self.winner.report), None)
        return declared if metric == first else None

    def _judged_finalists(self) -> list[dict[str, Any]]:
        """Return the finalists that were judged afresh, the best first, as plain JSON values."""
        ranked = []
        for checkpoint, fresh in self.history.fresh.items():
            turn = self.history.turn(checkpoint.member, checkpoint.turn)
            plain = {"member": turn.member, "turn": turn.number, "score": turn.score}
            ranked.append((fresh.rank(self.history.direction), plain | vars(fresh)))
        ranked.sort(key=lambda pair: pair[0], reverse=True)
        return [plain for _, plain in ranked]

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values; a number that is not finite becomes null."""
        plain = {
            "status": self.status,
            "reason": self.reason,
            "population": self.run_id,
            "tracking_uri": self.tracking_uri,
            "winner": self.winner and self.winner.to_json(),
            "average": self.average and self.average.to_json(),
            "own_average": self.own_average and self.own_average.to_json(),
            "best_initial": self.best_initial and self.best_initial.to_json(),
            "finalists": self._judged_finalists(),
            "scores_repeat": self.history.scores_repeat,
            "mean_score": self.mean_score,
            "members": self.members,
            "retired": self.retired,
            "left": self.left,
            "turns": self.turns,
            "turns_before": self.turns_before,
            "budget": self.budget,
            "winner_step_over_budget": self.winner_share,
            "seconds": round(self.seconds, 3),
        }
        if self.control is not None:
            plain["control"] = self.control.to_json()
        without_nan: dict[str, Any] = _null_unless_finite(plain)
        return without_nan


def _turns_each(history: History, living: Sequence[Member]) -> float:
    """Return the turns of a living member on average; with stages see `Result.turns_each`."""
    if not living:
        return 0.0
    plan = history.stages
    if plan is None:
        return mean(member.turn for member in living)
    if all(member.turn == plan.ends[-1] for member in living):
        # The turns that retired members did not do count as done, as they do without stages.
        return float(plan.turns)
    return history.turns_done / plan.population


def is_same_effort(first: Result, second: Result) -> bool:
    """Whether the members of two populations have trained equally long, at the same interval.

    Retired members do not count, since giving up on a member belongs to the method. Stages divide
    the same budget in another way, so for them the turns of all members count.
    """
    return first.turns_each == second.turns_each


def effort_note(population: Result, control: Result) -> str:
    """How long the members of each population trained; empty if they trained equally long."""
    if is_same_effort(population, control):
        return ""
    text = (
        f"the members of the control did {control.turns_each:.4g} turns each, and those of this "
        f"population {population.turns_each:.4g}"
    )
    if population.status == "running":
        return f"{text} so far"
    return f"{text}: the two did not have the same budget"


def _headline_metric(first: Finalist, *others: Finalist) -> str:
    """Return the first metric of a report if all reports have it; otherwise "", for the score."""
    metric = next(iter(first.report), "")
    return metric if all(metric in other.report for other in others) else ""


def _who(finalist: Finalist) -> str:
    """Return what a headline calls a finalist."""
    if finalist.parents:
        return f"The average of {len(finalist.parents)} finalists"
    return "The winner"


def _value(finalist: Finalist, metric: str) -> str:
    return f"{finalist.report[metric]:.4g}" if metric else f"{finalist.score:.4g}"


def _named_value(finalist: Finalist, metric: str) -> str:
    return f"{metric or 'score'} {_value(finalist, metric)}"


def _null_unless_finite(value: Any) -> Any:
    """Replace each number of a JSON value that is not finite by null: strict JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _null_unless_finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
