"""Scripts as people have them, and the same after they have joined: few lines, the same output."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from pbt_flow.task import find_task
from pbt_flow.testing import TaskContract

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS, EXAMPLES = ROOT / "tests" / "joining" / "scripts", ROOT / "docs" / "examples"
PAIRS = {
    "script": (EXAMPLES / "script_before.py", EXAMPLES / "script.py", (8, 2)),
    "batches": (SCRIPTS / "batches_before.py", SCRIPTS / "batches.py", (11, 2)),
    "partial_fit": (SCRIPTS / "partial_fit_before.py", SCRIPTS / "partial_fit.py", (8, 1)),
}
"""Each script before and after, and the lines that were added and removed."""
every_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def numstat(before, after, *options):
    """The lines that git counts as added and as removed."""
    command = ["git", "diff", "--no-index", "--numstat", *options, str(before), str(after)]
    counted = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return int(counted[0]), int(counted[1])


@every_pair
def test_a_script_joins_by_few_lines_and_none_is_indented_anew(pair):
    before, after, lines = pair
    assert numstat(before, after) == lines
    assert lines[0] <= 11
    assert lines[1] <= 2
    assert numstat(before, after, "--ignore-all-space") == lines


@every_pair
def test_alone_a_script_prints_what_it_printed_byte_for_byte(pair, monkeypatch, capfdbinary):
    said = []
    for script in pair[:2]:
        monkeypatch.setattr(sys, "argv", [str(script)])
        runpy.run_path(str(script), run_name="__main__")
        said.append(capfdbinary.readouterr())
    assert said[0] == said[1]
    assert len(said[0].out.splitlines()) >= 4
    assert not said[0].err


@pytest.mark.slow
@every_pair
def test_as_a_program_a_script_prints_what_it_printed_byte_for_byte(pair):
    words = ["--lr", "0.5"] if pair is PAIRS["script"] else []
    said = [
        subprocess.run([sys.executable, str(script), *words], capture_output=True, check=True)
        for script in pair[:2]
    ]
    assert said[0].stdout == said[1].stdout
    assert not said[0].stderr + said[1].stderr


class TestScriptContract(TaskContract):
    task, steps = find_task(str(EXAMPLES / "script.py")), 1


class TestBatchesContract(TaskContract):
    task, steps = find_task(str(SCRIPTS / "batches.py")), 7  # 30 batches an epoch


class TestPartialFitContract(TaskContract):
    task, steps = find_task(str(SCRIPTS / "partial_fit.py")), 1
