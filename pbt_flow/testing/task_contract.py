"""What a task must keep to, as a test class to inherit.

from pbt_flow.testing import TaskContract

class TestMyTask(TaskContract):
    task = MyTask
    options = {"width": 8}
    steps = 20
"""

from __future__ import annotations

import copy
import io
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from pbt_flow.engines.restore_check import first_difference
from pbt_flow.engines.worker import read_score
from pbt_flow.population.records import derive_seed
from pbt_flow.space import Hparams, Space, check_hparams, draw, from_unit, own_hparams
from pbt_flow.task import Task, check_task

LOOKS = (
    "evaluate",
    "evaluate_fresh",
    "understood",
    "metrics",
    "report",
    "samples",
    "example",
    "model",
)
"""The methods of a task that look at it; the model is used on the example."""


class TaskContract:
    """The contract of a task. A subclass names the task, and options that make it small."""

    task: ClassVar[type[Task]]
    options: ClassVar[Mapping[str, Any]] = {}
    steps: ClassVar[int] = 10
    """Steps of a turn; enough for the hyperparameters to show in the weights."""
    obeyed: ClassVar[tuple[str, ...] | None] = None
    """The hyperparameters whose change must show in the state after one turn; None means all."""

    def make(self, member: int = 0) -> Task:
        """A fresh model of one member."""
        return self.task(seed=derive_seed(0, member, 0), **self.options)

    def turn(self, task: Task, hparams: Hparams, seed: int) -> tuple[float, dict[str, Any]]:
        """One turn: the score, and the state as it comes back from a checkpoint."""
        task.reseed(seed)
        task.train(own_hparams(hparams), self.steps)
        score, _ = read_score(task.evaluate())
        return score, through_checkpoint(task.state_dict())

    def test_declares_a_space_that_can_be_searched(self) -> None:
        check_task(self.task)

    def test_scores_are_finite_at_the_middle_of_the_space(self) -> None:
        score, _ = self.turn(self.make(), middle(self.task.space), seed=1)
        assert math.isfinite(score), f"evaluate() gave {score}"

    def test_the_state_holds_tensors_and_plain_values_only(self) -> None:
        through_checkpoint(self.make().state_dict())

    def test_the_state_comes_back_bit_for_bit(self) -> None:
        task, other = self.make(0), self.make(1)
        _, state = self.turn(task, middle(self.task.space), seed=1)
        other.load_state_dict(copy.deepcopy(state))
        assert_same(through_checkpoint(other.state_dict()), state)

    def test_a_restored_turn_equals_a_warm_one(self) -> None:
        """A worker that kept the member in memory, and one that restored its checkpoint, agree."""
        warm = self.make(0)
        _, state = self.turn(warm, middle(self.task.space), seed=1)
        score, after = self.turn(warm, middle(self.task.space), seed=2)
        # A worker restores into a fresh model, or into that of another member, which has trained
        # and was evaluated: an evaluation that training does not undo shows in the fresh one.
        fresh, used = self.make(1), self.make(1)
        self.turn(used, middle(self.task.space), seed=3)
        for name, cold in (("fresh", fresh), ("used", used)):
            cold.load_state_dict(copy.deepcopy(state))
            cold_score, cold_after = self.turn(cold, middle(self.task.space), seed=2)
            assert_same(cold_after, after, f"state after a restore into a {name} model")
            assert_same(cold_score, score, f"score after a restore into a {name} model")

    def test_looking_changes_nothing_that_the_next_turn_depends_on(self) -> None:
        """Two turns come out the same, whether or not somebody looked at the model between them.

        A worker forgets a model that it has looked at, but people do not: `winner.task()` is there
        to be looked at and trained on. A model that is left in evaluation mode trains on without
        dropout, and without the statistics of batch normalisation.
        """
        state, score = self._after_looks()
        looked_state, looked_score = self._after_looks(*LOOKS)
        if same((state, score), (looked_state, looked_score)):
            return
        for look in LOOKS:  # Which one was it?
            looked_state, looked_score = self._after_looks(look)
            assert_same(looked_state, state, f"state of a turn after {look}()")
            assert_same(looked_score, score, f"score of a turn after {look}()")
        raise AssertionError(f"a turn differs after {', '.join(LOOKS)} together, and after none")

    def _after_looks(self, *looks: str) -> tuple[dict[str, Any], float]:
        """The state and the score after two turns with some looks between them."""
        task = self.make()
        self.turn(task, middle(self.task.space), seed=1)
        for look in looks:
            look_at(task, look)
        score, state = self.turn(task, middle(self.task.space), seed=2)
        return state, score

    def test_hyperparameters_are_obeyed_after_restoring_a_donor(self) -> None:
        """From one donor's state, two values of a hyperparameter must lead to two states.

        Where restoring brings back the donor's value (`optimizer.load_state_dict` does so with the
        learning rate), or a scheduler overwrites the value that was set, both end up the same: the
        commonest bug of PBT in the wild, and a silent one.
        """
        space = self.task.space
        _, donated = self.turn(self.make(0), middle(space), seed=1)
        for name, dist in space.items():
            if dist.single() or (self.obeyed is not None and name not in self.obeyed):
                continue
            after = []
            for unit in (0.2, 0.8):
                member = self.make(1)
                member.load_state_dict(copy.deepcopy(donated))
                hparams = {**middle(space), name: from_unit(unit, dist)}
                after.append(_learnt(self.turn(member, hparams, seed=2)[1], name))
            assert not same(*after), f"{name}: after a restore, changing it changes nothing"

    def test_the_model_takes_its_example(self) -> None:
        look_at(self.make(), "model")

    def test_any_point_of_the_space_trains_without_an_exception(self) -> None:
        rng = np.random.default_rng(0)
        for seed in range(3):
            hparams = check_hparams(draw(self.task.space, rng), self.task.space)
            self.turn(self.make(), hparams, seed=seed)


def look_at(task: Task, look: str) -> None:
    """Call a method that looks at the task, and use what it gives as its callers do."""
    if look == "samples":
        with tempfile.TemporaryDirectory() as folder:
            task.samples(Path(folder))
    elif look == "model":
        model, example = task.model(), task.example()
        if model is not None:
            model.eval()
            if example is not None:
                with torch.no_grad():
                    model(torch.from_numpy(example))
    else:
        getattr(task, look)()


def middle(space: Space) -> dict[str, Any]:
    """The point in the middle of a space, each hyperparameter on its own scale."""
    return {name: from_unit(0.5, dist) for name, dist in space.items()}


def through_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    """The state as it is read back from a file, safely."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal bit for bit."""
    return not first_difference(a, b, "state")


def _learnt(state: Any, name: str) -> Any:
    """A state without the places where a hyperparameter may be noted and yet not be used."""
    if isinstance(state, Mapping):
        noted = ("param_groups", name)
        return {k: _learnt(v, name) for k, v in state.items() if k not in noted}
    return state


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    """Fail with the first place at which two states differ."""
    found = first_difference(a, b, where)
    assert not found, f"not the same: {found}"
