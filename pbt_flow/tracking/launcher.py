"""The status of a run whose launcher, `mlflow run`, has the last word on it.

When Ctrl-C is pressed, `mlflow run` waits for the process that it has launched, and then marks the
run as FAILED, whatever that process wrote (MLflow 3.17 asks whether the run has ended, and compares
a word with numbers). So a process of our own waits until the launcher is gone, and says then what
became of the run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from pbt_flow.utils.processes import is_alive

_PATIENCE = 120.0
"""Seconds for which the launcher is waited for."""
_PAUSE = 0.05


def tell_after_launcher(run_id: str, status: str, launcher: int) -> None:
    """Have a run's status written when its launcher has gone; this returns at once.

    Args:
        run_id: The run that the launcher made.
        status: What became of it, as MLflow calls it.
        launcher: The process id of the launcher.
    """
    package_root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH", "")]))
    # Without a session of its own, the next Ctrl-C would end it.
    with contextlib.suppress(OSError):
        subprocess.Popen(
            [sys.executable, "-m", "pbt_flow.tracking.launcher", run_id, status, str(launcher)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def correct_status(run_id: str, status: str, launcher: int) -> None:
    """Wait for the end of a launcher, and write a run's status over the one that it wrote.

    A population that says meanwhile that it is running is left alone: somebody has resumed it.
    """
    from mlflow.tracking import MlflowClient

    client, end = MlflowClient(), time.monotonic() + _PATIENCE
    while is_alive(launcher):
        if time.monotonic() > end:
            return
        time.sleep(_PAUSE)
    run = client.get_run(run_id)
    resumed = run.info.status == "RUNNING" and "pbt.role" in run.data.tags
    if run.info.status != status and not resumed:
        client.set_terminated(run_id, status, end_time=run.info.end_time)


def main() -> None:
    """What runs in the process that waits."""
    run_id, status, launcher = sys.argv[1:]
    correct_status(run_id, status, int(launcher))


if __name__ == "__main__":
    main()
