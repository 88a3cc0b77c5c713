"""What a worker asks of a task beside its turns: a restore, scores once more, scores on fresh data.

A worker does it with checkpoints on a disk, and a simulation with states in memory.
"""

from __future__ import annotations

from collections.abc import Callable

from pbt_flow.engines.jobs import CheckNoise, CheckRestore, Fresh
from pbt_flow.engines.restore_check import Difference, State, Trained, compare_restored
from pbt_flow.engines.returned import read_score
from pbt_flow.population.fresh_score import fresh_seed
from pbt_flow.population.records import derive_seed
from pbt_flow.space import own_hparams
from pbt_flow.task import Task


def try_restoring(
    check: CheckRestore,
    seed: int,
    *,
    build: Callable[[int], Task],
    load: Callable[[], State],
    through_file: Callable[[State], State],
) -> Difference | None:
    """Do what `CheckRestore` asks for, with the seeds that turns of the population would have.

    Args:
        check: The request.
        seed: The population's seed.
        build: Builds a fresh model from a seed.
        load: Reads the check's checkpoint.
        through_file: Returns a state as it would come back from a checkpoint.
    """

    def train(task: Task, part: int) -> Trained:
        task.reseed(derive_seed(seed, check.member, check.checkpoint.turn + 1 + part))
        task.train(own_hparams(check.hparams), check.steps)
        # Both parts are evaluated, as each turn is: an evaluation too may change what training
        # depends on, and the state may leave that out.
        score, _ = read_score(task.evaluate())
        return Trained(score=score, state=through_file(task.state_dict()))

    return compare_restored(
        build=lambda: build(derive_seed(seed, check.member, 0)),
        build_other=lambda: build(derive_seed(seed, check.other, 0)),
        load=load,
        through_file=through_file,
        train=train,
    )


def evaluate_again(check: CheckNoise, seed: int, task: Task) -> tuple[float, ...]:
    """The scores of `CheckNoise`.

    Args:
        check: The request.
        seed: The population's seed.
        task: A task in the state of the check's checkpoint.
    """
    turn_seed = derive_seed(seed, check.member, check.checkpoint.turn)
    scores = []
    for number in range(check.times):
        task.reseed(derive_seed(turn_seed, check.member, number))
        score, _ = read_score(task.evaluate())
        scores.append(score)
    return tuple(scores)


def evaluate_afresh(request: Fresh, seed: int, task: Task) -> tuple[float, ...]:
    """The scores of the fresh evaluations that a request asks for.

    Args:
        request: The request.
        seed: The population's seed.
        task: A task in the state that is to be evaluated.
    """
    scores = []
    for number in range(request.first, request.first + request.times):
        task.reseed(fresh_seed(seed, number))
        score, _ = read_score(task.evaluate_fresh())
        scores.append(score)
    return tuple(scores)
