"""Temporary folders: what a killed process leaves, the next one clears, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbt_flow.utils import scratch

HOLDER = """
import os, signal, sys
from pathlib import Path
from pbt_flow.utils.scratch import new_temporary_folder, scratch_folder

kept = new_temporary_folder()
Path(kept, "state.pt").write_bytes(b"large")
if sys.argv[1] == "forks" and os.fork() == 0:
    sys.exit()  # A child of its own ends, and must not take the folder with it.
if sys.argv[1] == "forks":
    os.wait()
    assert Path(kept, "state.pt").is_file()
print(scratch_folder(), flush=True)
if sys.argv[1] == "waits":
    sys.stdin.read()
if sys.argv[1] == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, in which each test begins with nothing."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv(scratch.SCRATCH, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(scratch, "_held", None)
    return tmp_path


def holder(what: str) -> subprocess.Popen[str]:
    """A process that has a folder of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def living() -> Iterator[Path]:
    """The folder of a process that lives."""
    process = holder("waits")
    assert process.stdout is not None
    yield Path(process.stdout.readline().strip())
    process.communicate()


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(
    root: Path, living: Path
) -> None:
    killed = holder("is killed")
    left = Path(killed.communicate()[0].strip())
    assert killed.returncode == -signal.SIGKILL
    assert left.parent == root
    assert list(left.rglob("state.pt"))
    (root / "pbt_flow-held-a-file").touch()
    (root / "pbt_flow-held-a-link").symlink_to(living)
    theirs = root / "tmp1234"
    theirs.mkdir()
    folder = scratch.scratch_folder()
    assert not left.exists()
    assert list(living.rglob("state.pt"))
    assert theirs.is_dir()
    assert {folder, living, theirs} <= set(root.iterdir())


@pytest.mark.parametrize("what", ["ends", "forks"])
def test_a_process_that_ends_leaves_nothing(what: str, root: Path) -> None:
    assert holder(what).communicate()[0]
    assert list(root.iterdir()) == []


def test_what_another_user_left_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = root / "pbt_flow-held-theirs"
    left.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 4711)
        assert scratch.clear_abandoned(root) == 0
    assert left.is_dir()
    assert scratch.clear_abandoned(root) == 1
    assert not left.exists()


def test_a_process_that_was_given_a_folder_makes_none_of_its_own(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path_factory.mktemp("given")
    monkeypatch.setenv(scratch.SCRATCH, str(given))
    with scratch.temporary_folder() as folder:
        assert Path(folder).parent == given
    assert list(root.iterdir()) == []
