"""A task whose node dies. Its file goes to workers that see no other file of the tests."""

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

from pbt_flow.testing.ordered_task import OrderedTask


class TakesItsNodeAlong(OrderedTask):
    """Kills the raylet of its node, once, in the second turn of member 1."""

    space: ClassVar = {"lr": OrderedTask.space["lr"]}

    def __init__(self, *, seed: int, device: str = "cpu", mark: str = "") -> None:
        super().__init__(seed=seed, device=device)
        self.mark = mark

    def train(self, hparams, steps):
        parent = Path(f"/proc/{os.getppid()}/comm")
        if self.mark and parent.read_text().startswith("raylet") and Path(self.mark).exists():
            Path(self.mark).unlink()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        return super().train({**hparams, "order": "train"}, steps)
