"""A Trainer of transformers as a turn needs it: quiet, of a constant rate, on the right device."""

from __future__ import annotations

import torch
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from pbt_flow.exceptions import TaskError
from pbt_flow.space import Space, from_unit


def prepare_trainer(trainer: Trainer, space: Space, device: str) -> None:
    """Let a fresh trainer train turn by turn; its optimiser is not made yet.

    Args:
        trainer: The trainer.
        space: The hyperparameters that are tuned.
        device: The member's device, as torch names it.

    Raises:
        TaskError: It would train something else than the state holds.
    """
    _check(trainer, device)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    args = trainer.args
    args.lr_scheduler_type, args.warmup_steps = "constant", 0
    args.save_strategy = args.eval_strategy = "no"
    for name, dist in space.items():
        # A group that begins without weight decay, as those of norms do, is to stay without.
        if hasattr(args, name):
            setattr(args, name, from_unit(0.5, dist))


def _check(trainer: Trainer, device: str) -> None:
    """Refuse a trainer that would train something else than the state holds.

    Raises:
        TaskError: It would.
    """
    if trainer.model_init is not None:
        raise TaskError(
            "make_trainer() gives model_init, by which each train() would begin with a fresh "
            "model, the same in all members; give model=..."
        )
    if trainer.lr_scheduler is not None:
        raise TaskError(
            "make_trainer() gives a scheduler, which is in no checkpoint; give "
            "optimizers=(optimizer, None), since PBT finds the schedule of the rate"
        )
    if trainer.args.device.type != torch.device(device).type:
        raise TaskError(
            f"the trainer is on {trainer.args.device}, and the member on {device}; give "
            "TrainingArguments(use_cpu=self.device == 'cpu')"
        )
