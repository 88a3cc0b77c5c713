"""What `mlflow run` means to the process that it has launched: they end together."""

from __future__ import annotations

import os
import signal
import threading
import time

from pbt_flow.tracking.launcher import tell_after_launcher
from pbt_flow.utils.processes import ancestors, launched_by

RUN = "MLFLOW_RUN_ID"


class Launch:
    """What `mlflow run` said when it launched this process; of another start it knows nothing."""

    def __init__(self) -> None:
        self.run_id = os.environ.get(RUN)
        self.launcher = launched_by("mlflow") if self.run_id else None
        self._family = ancestors()

    def is_there(self) -> bool:
        """Whether the launcher is still there."""
        return self.launcher is not None and ancestors() == self._family

    def tell(self, status: str) -> None:
        """Have the run's status written when the launcher has written its own."""
        if self.run_id is not None and self.launcher is not None:
            tell_after_launcher(self.run_id, status, self.launcher)

    def end_together(self) -> None:
        """Stop cleanly when the launcher is gone.

        A killed launcher leaves its entry point as an orphan, whose runs would stay RUNNING.
        """
        if self.run_id is None:
            return

        def watch() -> None:
            while ancestors() == self._family:
                time.sleep(1)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, daemon=True, name="pbt_flow-launcher").start()
