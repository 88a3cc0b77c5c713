"""A Trainer of Lightning, of which there is one for each fit and each validation."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import lightning
import torch

from pbt_flow.adapters.lightning_fit import HELD, HeldCheckpoint, quiet

Function: TypeAlias = Literal["fit", "validate"]
_QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
"""Settings of a Trainer of which there is one a turn; `trainer_settings` may say otherwise."""


def run_trainer(
    function: Function,
    module: lightning.LightningModule,
    data: Any,
    *,
    held: HeldCheckpoint,
    callbacks: list[Any],
    settings: dict[str, Any],
    own: dict[str, Any],
) -> lightning.Trainer:
    """Let a new Trainer fit or validate, from the held checkpoint on, and return it.

    Args:
        function: What it does.
        module: The module.
        data: A data module, or a training and a validation loader; None where the module has them.
        held: The checkpoint, which a fit replaces.
        callbacks: Ours, which go before the user's.
        settings: Arguments of `Trainer` that nothing may change.
        own: Arguments of `Trainer` of the user's.
    """
    merged = _QUIET | own | settings
    merged["callbacks"] = [*callbacks, *_as_list(own.get("callbacks"))]
    merged["plugins"] = [held, *_as_list(own.get("plugins"))]
    given = {"datamodule": data}
    if isinstance(data, tuple):
        training, validation = data
        given = {"train_dataloaders": training}
        if function == "validate":
            given = {"dataloaders": validation}
    path = None if held.checkpoint is None else HELD
    with quiet():
        trainer = lightning.Trainer(**merged)
        if function == "fit":
            trainer.fit(module, ckpt_path=path, **given)
        else:
            trainer.validate(module, ckpt_path=path, verbose=False, **given)
    return trainer


def device_settings(device: str) -> dict[str, Any]:
    """The arguments of `Trainer` that stand for a device of torch's."""
    place = torch.device(device)
    return {
        "accelerator": place.type,
        "devices": 1 if place.type == "cpu" else [place.index or 0],
    }


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
