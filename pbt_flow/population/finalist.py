"""A turn that a result names: what it came to, and the way back to its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pbt_flow.exceptions import TaskError
from pbt_flow.population.fresh_score import FreshScore
from pbt_flow.population.records import Checkpoint
from pbt_flow.space import Hparams
from pbt_flow.utils.values import finite

if TYPE_CHECKING:
    from torch import nn

    from pbt_flow.task import Task


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A turn that a result names: the winner's, or the best of an initial configuration."""

    member: int
    run_id: str
    """The member's run in MLflow."""
    turn: int
    step: int
    """The age of the weights after the turn."""
    score: float
    """The score that selection used. As the best of many noisy scores it is optimistic."""
    report: Mapping[str, float]
    """What `Task.report` measured, on data that selection never saw; empty if it was not called."""
    hparams: Hparams
    fresh: FreshScore | None = None
    """The score on data that no decision has seen; None if it was not judged afresh."""
    parents: Sequence[tuple[int, int]] = ()
    """For an average of weights: the records that it is the average of, as member and turn."""
    checkpoint: Checkpoint | None = None
    """The checkpoint with the state."""
    revive: Callable[[str | None], Task] | None = field(default=None, repr=False, compare=False)
    """Builds the task on a device, in the state that the turn wrote."""

    @property
    def parents_told(self) -> str:
        """The records that this is the average of, in words; empty if it is a record itself."""
        return ", ".join(f"member {member:02d} turn {turn}" for member, turn in self.parents)

    def task(self, device: str | None = None) -> Task:
        """Return a live task in the state that the turn wrote, to evaluate or to train on.

        The task is seeded as for a report: `report()`, called first, returns the numbers of
        `report`.

        Args:
            device: The device to put it on, as torch names it; by default the one it trained on,
                and the CPU where this machine has none such.

        Raises:
            CheckpointError: The state was deleted, or is not the one that the turn wrote.
            ValueError: The result was made without access to the population's checkpoints.
        """
        if self.revive is None:
            raise ValueError(
                f"run {self.run_id}: this result was made without access to the population's "
                "checkpoints; pbt_flow.load returns one that has it"
            )
        return self.revive(device)

    def model(self, device: str | None = None) -> nn.Module:
        """Return the module in the state that the turn wrote, in evaluation mode.

        It is what `Task.model` gives: for one call of it, as `winner.model()(inputs)`.

        Args:
            device: The device to put it on, as torch names it; by default the one it trained on.

        Raises:
            TaskError: The task keeps no model.
            CheckpointError: The state was deleted, or is not the one that the turn wrote.
            ValueError: The result was made without access to the population's checkpoints.
        """
        task = self.task(device)
        model = task.model()
        if model is None:
            raise TaskError(
                f"task {type(task).__name__} keeps no model: it has no model(); task() returns "
                "the whole task in the state that the turn wrote"
            )
        return model.eval()

    def to_json(self) -> dict[str, Any]:
        """Return the turn as plain values. An infinite choice is the text `inf` or `-inf`."""
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
