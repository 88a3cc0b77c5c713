"""Ctrl-C in a real terminal: no traceback, runs that are KILLED, and how to go on."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def this_python(monkeypatch):
    """`mlflow run` starts the `python` of the path, as in an activated environment."""
    here = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([here, os.environ["PATH"]]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "moment"), [("mlflow", "first turn"), ("mlflow", "at the id"), ("pbt-flow", "3 s")]
)
def test_ctrl_c_ends_in_order_at_any_moment(command, moment, tmp_path, monkeypatch):
    """benchmarks/interrupts.py has eleven moments of each."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from interrupts import COMMANDS, MOMENTS, in_terminal, statuses

    seen = in_terminal(COMMANDS[command], MOMENTS[moment], folder=tmp_path)
    assert seen.bad == []
    assert seen.code == (1 if command == "mlflow" else 130)
    found = statuses(tmp_path)
    assert found in ([], ["KILLED"])
    if command == "mlflow":
        assert found == ["KILLED"]
        (run_id,) = set(re.findall("population ([0-9a-f]{32})", seen.text))
        assert f"python -m pbt_flow resume {run_id}" in seen.text
