"""What MLflow keeps for the whole process: its active run, its store, variables of the environment.

Nothing here imports MLflow: it is looked up where the task has imported it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

FLUENT = "mlflow.tracking.fluent"
"""The module that has MLflow's active runs."""
_VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_ID",
    "MLFLOW_RUN_CONTEXT",
)


def set_variables(tracking_uri: str, experiment_id: str) -> None:
    """Lead processes that the task starts to the population's store and experiment."""
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    os.environ["MLFLOW_EXPERIMENT_ID"] = experiment_id
    # MLflow refuses the name of an experiment beside an id.
    os.environ.pop("MLFLOW_EXPERIMENT_NAME", None)
    # With this, each process would resume one and the same run, and end it.
    os.environ.pop("MLFLOW_RUN_ID", None)


@contextlib.contextmanager
def without_variables(*names: str) -> Iterator[None]:
    """Take variables out of the environment for the time of the block."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


class SavedGlobals:
    """MLflow's globals and variables of the environment, as they were before a job."""

    def __init__(self) -> None:
        self._variables = {name: os.environ.get(name) for name in _VARIABLES}
        modules: Any = sys.modules
        self._mlflow, self._fluent = modules.get("mlflow"), modules.get(FLUENT)

    def set_aside(self, tracking_uri: str | None) -> None:
        """Let the job find MLflow as it is in a worker: at the population's store, with no run.

        Args:
            tracking_uri: The population's store; None leaves the store as it is.
        """
        if self._fluent is None:
            return
        self._uri = self._mlflow.get_tracking_uri()
        if tracking_uri not in (None, self._uri):
            self._mlflow.set_tracking_uri(tracking_uri)
        self._experiment = self._fluent._active_experiment_id
        self._fluent._active_experiment_id = None
        # The stack of this thread. MLflow has no public way to set an active run aside without
        # ending it.
        self._active = self._fluent._active_run_stack.get()
        self._fluent._active_run_stack.set([])

    def restore(self) -> None:
        """Set all globals and variables to what they were."""
        has_moved = self._fluent is not None and self._mlflow.get_tracking_uri() != self._uri
        self._restore_variables()
        if self._fluent is None:
            return
        self._fluent._active_run_stack.set(self._active)
        self._fluent._active_experiment_id = self._experiment
        if has_moved:
            # First None: a store that came from a variable, or from MLflow's default, is then
            # found in that way again, and not set for good.
            for uri in (None, self._uri):
                if self._mlflow.get_tracking_uri() != self._uri:
                    self._mlflow.set_tracking_uri(uri)
                    # `set_tracking_uri` writes to the environment too.
                    self._restore_variables()

    def _restore_variables(self) -> None:
        for name, value in self._variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
