"""The winner is chosen again, on data that no decision has seen.

The score by which a member leads is the greatest of many noisy ones, and so it is partly luck: of 8
members whose true qualities spread half as far as one reading of them, the leader by one reading is
worth .32 of a spread of 1, and one chosen by 64 fresh readings .61. So the records that the members
stand on at the end are evaluated again, all of them on the same fresh data, and ranked by what
these evaluations say alone. The best records ever are judged with them: scores can fall again, as a
GAN's do after its peak.

The evaluations are shared out by sequential halving: in each round every finalist that is left is
evaluated equally often, and then the worse half leaves. At the same cost that finds a better winner
than evaluating everybody equally often does (8 finalists, 64 evaluations: .61 against .58).

Source: Karnin, Koren, Somekh 2013, Almost Optimal Exploration in Multi-Armed Bandits (ICML 28).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pbt_flow.engines import Engine, LostJob
from pbt_flow.engines.batch import run_batch
from pbt_flow.engines.jobs import EvaluateAfresh, EvaluatedAfresh
from pbt_flow.population.fresh_score import FreshScore
from pbt_flow.population.history import History
from pbt_flow.population.records import Checkpoint, Turn
from pbt_flow.utils.reasons import reason_in

MOST_EACH = 16
"""Evaluations for each finalist at most, on average."""
SHARE = 0.5
"""Fresh evaluations at most, as a share of those that training has made: of turns. A share of the
time would make the winner depend on the speed of the machine."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is known of the finalists beside their scores."""

    fresh: Mapping[Checkpoint, FreshScore] = field(default_factory=dict)
    """What evaluations on fresh data came to, by checkpoint."""
    scores_repeat: bool = False
    """Whether the task has no other data, so that a record's evaluation gives its very score."""


def rounds_of(finalists: int, evaluations: int) -> list[tuple[int, int]]:
    """How evaluations are shared out among the finalists.

    Args:
        finalists: How many there are, at least 2.
        evaluations: How many evaluations there may be together.

    Returns:
        For each round how many finalists are left in it, and how often each of them is evaluated;
        empty where there are too few evaluations to evaluate each finalist once.

    >>> rounds_of(8, 40)
    [(8, 1), (4, 4), (2, 8)]
    >>> rounds_of(8, 7)
    []
    """
    rounds = math.ceil(math.log2(finalists))
    planned = list[tuple[int, int]]()
    left, rest = finalists, min(evaluations, MOST_EACH * finalists)
    for number in range(rounds):
        each = rest // ((rounds - number) * left)
        if each == 0 and number == 0:
            # A single round is worth more than none.
            each = rest // left
        if each == 0:
            break
        planned.append((left, each))
        rest -= each * left
        left = math.ceil(left / 2)
    return planned


def judge_finalists(
    history: History,
    engine: Engine,
    say: Callable[[str], None],
) -> Judgement:
    """Evaluate the records that the members stand on and the best ever on data not seen before.

    Args:
        history: The population's turns, all of them done.
        engine: Where the evaluations run; it has nothing else to do.
        say: Tells the user what is being done, and what went wrong.

    Returns:
        What the evaluations came to. There is nothing where there is nothing to choose from, where
        training was too short to pay for it, and where the task has no other data: it then gives
        the very score that is known.
    """
    finalists = [
        turn for turn in history.finalists(with_best_ever=True) if turn.checkpoint is not None
    ]
    if len(finalists) < 2:
        return Judgement()
    turns = history.turns_done
    planned = rounds_of(len(finalists), int(SHARE * turns))
    if not planned:
        return Judgement()
    if _repeat_themselves(finalists, history, engine):
        # Of an older population a checkpoint may be gone. Whoever reads the result later sees
        # records only, and must come to the same winner.
        return Judgement(scores_repeat=all(map(history.has_checkpoint, history.best_ever)))
    total = sum(left * each for left, each in planned)
    say(f"judging {len(finalists)} finalists by {total} evaluations on fresh data")
    readings: dict[Checkpoint, list[float]] = defaultdict(list)
    left = [turn.checkpoint for turn in finalists if turn.checkpoint is not None]
    first = 0
    for count, each in planned:
        if first:
            ranked = sorted(
                (one for one in left if one in readings),
                key=lambda one: FreshScore.of(readings[one]).rank(history.direction),
                reverse=True,
            )
            left = ranked[:count]
        for checkpoint, scores in _evaluate(engine, left, first, each, say):
            readings[checkpoint] += scores
        first += each
    return Judgement(fresh={one: FreshScore.of(scores) for one, scores in readings.items()})


def _repeat_themselves(finalists: Sequence[Turn], history: History, engine: Engine) -> bool:
    """Whether fresh evaluations of records give their scores again, to the last bit.

    One record is evaluated twice. A score that several records have may come again by chance, as
    the greatest possible one does. So the record is one whose score is rare, and if it is not the
    only one with its score, the other finalists must repeat theirs as well.
    """
    records = Counter(turn.score for turns in history.turns.values() for turn in turns)
    asked, *others = sorted(finalists, key=lambda turn: records[turn.score])
    if not _all_repeat([asked], 2, engine):
        return False
    return records[asked.score] == 1 or _all_repeat(others, 1, engine)


def _all_repeat(finalists: Sequence[Turn], times: int, engine: Engine) -> bool:
    """Whether each of some evaluations gives its record's score, of those that can be evaluated."""
    known = {turn.checkpoint: turn.score for turn in finalists if turn.checkpoint is not None}
    found = list(_evaluate(engine, list(known), 0, times, lambda text: None))
    return bool(found) and all(score == known[one] for one, scores in found for score in scores)


def _evaluate(
    engine: Engine,
    checkpoints: Sequence[Checkpoint],
    first: int,
    times: int,
    say: Callable[[str], None],
) -> Iterator[tuple[Checkpoint, Sequence[float]]]:
    """The scores of some checkpoints on the data of some numbers; of those that have any."""
    jobs = [
        EvaluateAfresh(member=one.member, checkpoint=one, first=first, times=times)
        for one in checkpoints
    ]
    for done in run_batch(engine, jobs):
        error = ""
        if isinstance(done, EvaluatedAfresh):
            # A turn with such a score has failed. Were all fresh scores such, they would rank
            # nobody, and what the turns came to must decide.
            strange = [score for score in done.scores if not math.isfinite(score)]
            error = f"its score is {strange[0]}" if strange else done.error.strip()
            if not error:
                yield done.request.checkpoint, done.scores
        elif isinstance(done, LostJob):
            error = done.reason
        if error:
            say(f"a finalist could not be evaluated: {reason_in(error)}")
