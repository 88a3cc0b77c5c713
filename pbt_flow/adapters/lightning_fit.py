"""One `fit` of Lightning's: the checkpoint that it goes on from, and what is live in it."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import lightning
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.warnings import PossibleUserWarning

from pbt_flow.adapters.places import WAYS_OUT
from pbt_flow.joining.hyperparameters import AttributeTarget, Hyperparameters
from pbt_flow.space import Hparams, Space

HELD = "held in memory"
"""What stands for a path where Lightning wants one."""


class HeldCheckpoint(CheckpointIO):
    """The checkpoint with which one `fit` ends and the next begins; it touches no disk."""

    checkpoint: dict[str, Any] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        # What the module was made with is a donor's, and comes with each turn.
        self.checkpoint = {
            key: value
            for key, value in checkpoint.items()
            if "hparams" not in key and "hyper_parameters" not in key
        }

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return dict(self.checkpoint or {})

    def remove_checkpoint(self, path: Any) -> None:
        self.checkpoint = None

    def age(self, unit: str) -> int:
        """The epochs, or the optimiser's steps, that the checkpoint has behind it."""
        if self.checkpoint is None:
            return 0
        if unit == "steps":
            return int(self.checkpoint["global_step"])
        return int(self.checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"])


class LiveHyperparameters(lightning.Callback):
    """Sets a turn's hyperparameters after all was restored, and proves them when it ends.

    Args:
        space: The task's space.
        label: What the module is called in messages.
        targets: Where hyperparameters live in the module.
        hparams: Those of the turn.
    """

    def __init__(
        self, space: Space, label: str, targets: Sequence[AttributeTarget], hparams: Hparams
    ) -> None:
        self._hparams = hparams
        self._live = Hyperparameters(space, label, WAYS_OUT)
        self._live.add_targets(targets)
        self.proved: dict[str, float] = {}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        # The optimisers are new here: in what ratio their groups begin is the module's own choice.
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        objects = [*trainer.optimizers, *schedulers]
        named = {f"{type(one).__name__} {number}": one for number, one in enumerate(objects)}
        self._live.attach(named)
        self._live.watch(named)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._live.begin(self._hparams)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.proved = self._live.prove()
        trainer.save_checkpoint(HELD)


def with_interned_keys(value: Any) -> Any:
    """A state that was read from a file, with the keys that a running optimiser would have.

    A file holds a text once for each object that it is. An optimiser keeps the keys of what it was
    given, so without this a restored member would write other bytes than one kept in memory.
    """
    if isinstance(value, dict):
        named = ((sys.intern(key) if isinstance(key, str) else key, key) for key in value)
        return type(value)((key, with_interned_keys(value[old])) for key, old in named)
    if isinstance(value, list):
        return [with_interned_keys(one) for one in value]
    return value


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the lines that each Trainer would say again."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Lightning 2.6 asks torch for what torch 2.13 is about to drop.
            warnings.filterwarnings("ignore", r".isinstance\(treespec", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
