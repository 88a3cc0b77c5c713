"""The mean of several finalists' weights: it is often better than each of them.

Finalists that descend from one founder lie in one valley of the loss, so that the mean of their
weights lies there as well, and is less the chance of anybody's last steps. Whose weights go into it
is decided greedily: it begins with the winner, and the next best finalist is taken in if that makes
the average better on the fresh data of the judgement. The average is kept if it is better than the
winner on data that none of these choices has seen. A task whose data is a fixed split has no such
data; there the score of every turn decides, and nothing is called fresh.

The mean of a model's own last checkpoints is better than its last one as well, and needs no
population. It is the control of the other: what averaging finalists of several members brings is
what that average has over this one.

Source: Wortsman et al. 2022, Model soups (ICML; arXiv 2203.05482), greedy soup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pbt_flow.engines import Engine, LostJob
from pbt_flow.engines.batch import run_batch
from pbt_flow.engines.jobs import AverageEvaluated, EvaluateAfresh, EvaluateAverage, EvaluatedAfresh
from pbt_flow.population.fresh_score import FreshScore
from pbt_flow.population.history import History
from pbt_flow.population.lineage import founders, node_of, own_records
from pbt_flow.population.records import Checkpoint, Turn
from pbt_flow.training.finalists import SHARE
from pbt_flow.utils.means import mean
from pbt_flow.utils.reasons import reason_in


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """An average of the winner's weights with those of other records."""

    parents: Sequence[Turn]
    """Whose weights it is the mean of, the winner first."""
    checkpoint: Checkpoint
    """Its state, below the folder that it was written into."""
    score: float
    """What it is worth: on fresh data where the task has any, else on the data of every turn."""
    fresh: FreshScore | None
    """Its score on data that no choice of its parents has seen; None where the task has no other
    data than that of its turns."""
    report: Mapping[str, float]
    """What `Task.report` measured of it."""


def average_finalists(
    history: History, engine: Engine, folder: Path, say: Callable[[str], None]
) -> Averaged | None:
    """Average the weights of finalists, as long as that makes them better.

    Args:
        history: The population's turns, and what the finalists are worth on fresh data.
        engine: Where the averages are evaluated; it has nothing else to do.
        folder: Where the state of the average is to be written.
        say: Tells the user what is being done, and what went wrong.

    Returns:
        The average; None where none is better than the winner, and where there is none: the
        finalists descend from different founders, or the task has no model that can be averaged.
    """
    related = _relatives_of_the_winner(history)
    if len(related) < 2:
        return None
    sign = 1.0 if history.direction == "maximize" else -1.0
    winner = related[0]
    assert winner.checkpoint is not None
    judged = _judge_winner(history, engine, winner)
    if judged is None:
        return None
    times, best = judged.times, sign * judged.score
    turns = history.turns_done
    candidates = related[1 : 1 + max(1, int(SHARE * turns) // times)]
    parents = [winner]
    for candidate in candidates:
        done = _try(engine, [*parents, candidate], 0, times, say)
        if done is None:
            # What was better already stays so. The next one may cost a worker as well.
            break
        worth = sign * mean(done.scores)
        if worth > best:
            best, parents = worth, [*parents, candidate]
    if len(parents) == 1:
        return None
    # What was chosen on these data looks better on them than it is.
    before = _evaluate(engine, winner.checkpoint, judged.unseen, times)
    found = _try_for_good(engine, parents, judged, say, folder)
    if found is None or not before or not sign * found.score > sign * mean(before):
        return None
    say(f"the average of {len(parents)} finalists is better than the winner")
    return found


def average_own_records(
    history: History, engine: Engine, folder: Path, say: Callable[[str], None]
) -> Averaged | None:
    """Average the winner with the checkpoints that came before it, better or not: a control.

    Args:
        history: The population's turns, and what the finalists are worth on fresh data.
        engine: Where the average is evaluated; it has nothing else to do.
        folder: Where the state of the average is to be written.
        say: Tells the user what went wrong.

    Returns:
        The average, judged on the data on which an average of finalists is judged; None where no
        earlier checkpoint of the winner is there, or where the task has no model that can be
        averaged.
    """
    winner = history.winner()
    if winner is None:
        return None
    parents = [turn for turn in own_records(history, winner) if history.has_checkpoint(turn)]
    if len(parents) < 2 or parents[0] != winner:
        return None
    judged = _judge_winner(history, engine, winner)
    return None if judged is None else _try_for_good(engine, parents, judged, say, folder)


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """What the winner is worth where averages are tried."""

    times: int
    """How many evaluations that is the mean of."""
    score: float
    has_fresh_data: bool
    """Whether the task has other data than that of its turns."""

    @property
    def unseen(self) -> int:
        """The number of the first evaluation on data that no choice has seen, where it exists."""
        return self.times if self.has_fresh_data else 0


def _judge_winner(history: History, engine: Engine, winner: Turn) -> _Judged | None:
    """What the winner is worth; None if it cannot be evaluated."""
    assert winner.checkpoint is not None
    known = history.fresh.get(winner.checkpoint)
    if known is not None:
        return _Judged(times=known.readings, score=known.mean, has_fresh_data=True)
    scores = _evaluate(engine, winner.checkpoint, 0, 2)
    if not scores:
        return None
    # A task that gives the score of the turn again is evaluated on the same data each time. Where a
    # score has few values, it may come again by chance, but seldom twice.
    repeats = all(score == winner.score for score in scores)
    return _Judged(times=1, score=scores[0], has_fresh_data=not repeats)


def _try_for_good(
    engine: Engine,
    parents: Sequence[Turn],
    judged: _Judged,
    say: Callable[[str], None],
    folder: Path,
) -> Averaged | None:
    """An average with its state and its report, judged on data that no choice has seen; None if it
    cannot be judged.
    """
    done = _try(engine, parents, judged.unseen, judged.times, say, folder)
    if done is None or done.checkpoint is None or not all(map(math.isfinite, done.scores)):
        return None
    return Averaged(
        parents=parents,
        checkpoint=done.checkpoint,
        score=mean(done.scores),
        fresh=FreshScore.of(done.scores) if judged.has_fresh_data else None,
        report=done.metrics,
    )


def _relatives_of_the_winner(history: History) -> list[Turn]:
    """The winner, and the other finalists whose weights descend from its founder, best first."""
    winner = history.winner()
    if winner is None:
        return []
    founder_of = founders(history)
    found = [winner]
    for turn in history.ranked_finalists():
        same = founder_of[node_of(turn)] == founder_of[node_of(winner)]
        if same and turn != winner and math.isfinite(history.fitness(turn)):
            found.append(turn)
    return found


def _try(
    engine: Engine,
    parents: Sequence[Turn],
    first: int,
    times: int,
    say: Callable[[str], None],
    folder: Path | None = None,
) -> AverageEvaluated | None:
    """Evaluate an average, alone: who goes into the next one depends on it.

    Returns:
        What came of it; None if it cannot be evaluated, or if the task's states have no mean.
    """
    job = EvaluateAverage(
        member=parents[0].member,
        parents=tuple(turn.checkpoint for turn in parents if turn.checkpoint is not None),
        first=first,
        times=times,
        folder=None if folder is None else str(folder),
    )
    (done,) = run_batch(engine, [job])
    error = done.reason if isinstance(done, LostJob) else ""
    if isinstance(done, AverageEvaluated):
        error = done.error.strip()
        if not error:
            return done if done.scores else None
    say(f"no average of {len(parents)} records: {reason_in(error)}")
    return None


def _evaluate(engine: Engine, checkpoint: Checkpoint, first: int, times: int) -> Sequence[float]:
    """The scores of a checkpoint on the data of some numbers; empty if it cannot be evaluated."""
    job = EvaluateAfresh(member=checkpoint.member, checkpoint=checkpoint, first=first, times=times)
    (done,) = run_batch(engine, [job])
    return done.scores if isinstance(done, EvaluatedAfresh) else ()
