"""What all tests share: a folder of their own, an MLflow without a past, repeatable examples."""

from __future__ import annotations

import base64
import functools
import gc
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings

if TYPE_CHECKING:
    from stored_populations import TrainedOnce

    from pbt_flow.population.result import Result

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

# By default Python looks for garbage so often that it took a seventh of the time of these tests.
gc.set_threshold(20_000, 10, 10)

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


@pytest.fixture(scope="module", autouse=True)
def older_objects_are_passed_over() -> None:
    """A collection of garbage passes over what is there before the tests of a file begin.

    The imports are 340,000 objects, and MLflow keeps thousands more for each database that was
    opened. A worker in this process collects whenever it drops a member, and each time it would
    look at all of them.
    """
    _pass_over()


_modules = 0
"""How many modules were there when garbage was collected and the rest passed over the last time."""


def _pass_over() -> None:
    global _modules
    _modules = len(sys.modules)
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def so_is_what_the_test_before_has_imported() -> None:
    """The first population of a file imports most of what the file will ever need."""
    if len(sys.modules) > _modules + 50:
        _pass_over()


@pytest.fixture(autouse=True)
def mlflow_knows_itself() -> None:
    """MLflow reads its 50 migrations anew for each store that is opened, and finds the same."""
    if (utils := sys.modules.get("mlflow.store.db.utils")) is not None:
        latest = utils._get_latest_schema_revision
        if not hasattr(latest, "cache_info"):
            utils._get_latest_schema_revision = functools.cache(latest)


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
    # A logger that a test has tried sets the store of the whole process, for all tests after it.
    if "mlflow.tracking" in sys.modules:
        sys.modules["mlflow.tracking._tracking_service.utils"]._tracking_uri = None


_hurries = False
"""Whether connections to SQLite that are opened now need not wait for the disk."""


@pytest.fixture(autouse=True)
def nothing_waits_for_the_disk(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """What this process writes is handed to the system, and a power cut is none of the tests'.

    A small population waits for the disk a hundred times, which takes half a second on a good one.
    What is killed loses nothing by it. A test of it says so: `@pytest.mark.durable`.
    """
    global _hurries
    if request.node.get_closest_marker("durable") is not None:
        yield
        return
    monkeypatch.setattr("os.fsync", lambda number: None)
    if (alchemy := sys.modules.get("sqlalchemy")) is not None:
        engine = alchemy.Engine
        if not alchemy.event.contains(engine, "connect", _hurry):
            alchemy.event.listen(engine, "connect", _hurry)
    _hurries = True
    yield
    _hurries = False


def _hurry(connection: object, _: object) -> None:
    if _hurries and isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF").close()


_EMPTY_PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True)
def pictures_without_ink(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture of a population is laid out, and its file is there, but nothing is painted.

    Each population ends with its picture, and the painting is half of the time of a small one.
    A test to which the picture matters says so: `@pytest.mark.paints`.
    """
    if request.node.get_closest_marker("paints") is None:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", _save_nothing)


def _save_nothing(figure: object, path: Path, **how: object) -> None:
    path.write_bytes(_EMPTY_PICTURE)


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its migrations take seconds, so all tests share one."""
    from mlflow.tracking import MlflowClient
    from stored_populations import working_in

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    # The default experiment keeps its artifacts where it was made: not in this repository.
    with working_in(path.parent):
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(migrated_database: Path, tmp_path: Path) -> Path:
    """MLflow's default store in the working folder, empty and ready."""
    from stored_populations import copy_empty

    return copy_empty(migrated_database, tmp_path)


@pytest.fixture(scope="session")
def trained_once(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedOnce:
    """The populations that more than one test begins with."""
    from stored_populations import TrainedOnce

    return TrainedOnce(tmp_path_factory.mktemp("trained"), migrated_database)


@pytest.fixture
def trained(trained_once: TrainedOnce, tmp_path: Path) -> Callable[..., list[Result]]:
    """Populations in the store of the working folder, which the test may do with as it likes.

    `one, other = trained({"turns": 3}, {"exploit": "none"})` begins a test: the two are trained
    once for all tests that ask for the same, and copied. By default the task is `Regression`.
    """

    def trained(*populations: Mapping[str, Any], task: Any = None) -> list[Result]:
        from sample_tasks import Regression

        return trained_once.copy_to(tmp_path, task or Regression, populations or ({},))

    return trained
