"""Many workers at once: what a store is told by several populations arrives, and nobody waits.

`test_stores.py` has the same of a server with PostgreSQL.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from patience import PATIENCE
from servers import TROUBLE, check

import pbt_flow

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    paths = [Path(pbt_flow.__file__).parents[1], Path(__file__).parents[1]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))


def start(*arguments):
    command = [sys.executable, "-m", "pbt_flow", "run", "--task", "sample_tasks:Regression"]
    command += ["--population", "8", "--interval", "1", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
    """The population, and that its user has read of no trouble."""
    out, err = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 0, err
    for trouble in TROUBLE:
        assert trouble not in err, err
    return out.split("population ")[-1].split()[0]


def test_two_populations_share_one_sqlite_file_and_their_users_read_of_no_lock(database):
    both = [start("--workers", 2, "--turns", 8, "--seed", seed) for seed in (1, 2)]
    runs = [finished(process) for process in both]
    assert len(set(runs)) == 2
    for run_id in runs:
        check(pbt_flow.load(run_id), 8)
    experiments = {MlflowClient().get_run(run_id).info.experiment_id for run_id in runs}
    assert len(experiments) == 1
