"""What all tests share: a folder of their own, an MLflow without a past, repeatable examples."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "50")),
)
# HYPOTHESIS_PROFILE=thorough: what docs/reliability.md says was run once.
settings.register_profile("thorough", settings.get_profile("repeatable"), max_examples=1000)
# For benchmarks/mutations.py: it asks whether there is a failing example, and not for the smallest.
settings.register_profile(
    "red",
    settings.get_profile("repeatable"),
    max_examples=500,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# Two test processes with a thread for every core each wait for one another: a test of a second
# takes half a minute. Set before anything imports torch, for the processes of the tests as well.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# A shell lets what it starts in the background ignore Ctrl-C, and every process inherits that.
# Tests press Ctrl-C, on themselves and on others.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# These lead MLflow's client to a store or a run of somebody else's.
_MLFLOW = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
)


@pytest.fixture(scope="session", autouse=True)
def as_if_installed() -> Iterator[None]:
    """The package and its tasks are found from any folder, by other processes too.

    After the README's first command they are not installed, and the second runs these tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        before = os.environ.get("PYTHONPATH", "")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), before])))
        yield


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test works in an empty folder: MLflow's default store is a file in the working one."""
    monkeypatch.chdir(tmp_path)
    for name in _MLFLOW:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    yield
    # `mlflow.set_experiment` sets one, and a fixture of the next module would find it.
    for name in _MLFLOW:
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its migrations take seconds, so all tests share one."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    # The default experiment keeps its artifacts where it was made: not in this repository.
    before = Path.cwd()
    os.chdir(path.parent)
    MlflowClient(f"sqlite:///{path}").search_experiments()
    os.chdir(before)
    return path


@pytest.fixture
def database(migrated_database: Path, tmp_path: Path) -> Path:
    """MLflow's default store in the working folder, empty and ready."""
    path = Path(shutil.copy(migrated_database, tmp_path / "mlflow.db"))
    # As MLflow would have it: the default experiment keeps its artifacts beside its database.
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        where = str(tmp_path / "mlruns" / "0")
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0", (where,)
        )
    return path
