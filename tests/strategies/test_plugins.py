"""Strategies that an installed package announces, and the page that shows how."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pbt_flow
from pbt_flow.cli.main import main
from pbt_flow.exceptions import SettingsError, StrategyError
from pbt_flow.strategies.exploit import EXPLOITS, Truncation
from pbt_flow.strategies.text import parse

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "docs" / "examples" / "plugin"


def announce(folder: Path, entries: str) -> None:
    """An installed distribution, as pip leaves it behind."""
    info = folder / "pbt_greedy-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pbt-greedy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugin of the documentation, installed in a folder on the path."""
    text = (PLUGIN / "pyproject.toml").read_text()
    ((group, lines),) = re.findall(r'^\[project\.entry-points\."(.+)"\]\n((?:.+\n)+)', text, re.M)
    announce(tmp_path, f"[{group}]\n" + lines.replace('"', ""))
    (tmp_path / "greedy.py").write_text((PLUGIN / "greedy.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "greedy", raising=False)
    return tmp_path


def test_the_page_shows_the_files_as_they_are() -> None:
    shown = re.findall(
        r"^```text\n(.*?)^```$", (ROOT / "docs/extending.md").read_text(), re.DOTALL | re.MULTILINE
    )
    files = ("greedy.py", "test_greedy.py", "pyproject.toml")
    # Behind them stands the test of an engine, which belongs to no package.
    assert shown[: len(files)] == [(PLUGIN / name).read_text() for name in files]


def test_a_strategy_that_a_package_announces_is_chosen_by_its_name(installed: Path) -> None:
    strategy = parse("greedy:margin=0.1,copies=weights", EXPLOITS, "exploit")
    assert type(strategy).__name__ == "Greedy"
    assert (strategy.margin, strategy.copies) == (0.1, "weights")


def test_it_is_named_where_one_looks_for_it(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "installed: greedy" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(StrategyError, match="'greedy', 'mfpbt', 'none', 'tournament'"):
        parse("gredy", EXPLOITS, "exploit")


@pytest.mark.slow
def test_a_population_copies_by_it_and_is_resumed_with_it(installed: Path) -> None:
    small = {"population": 3, "turns": 6, "interval": 2, "engine": "inline", "quiet": True}
    result = pbt_flow.run("toy", exploit="greedy:margin=0", **small)
    assert result.has_copies
    assert pbt_flow.resume(result.run_id, turns=7, quiet=True).status == "finished"


def test_a_name_of_ours_goes_before_a_plugins(tmp_path: Path, monkeypatch) -> None:
    announce(tmp_path, "[pbt_flow.exploits]\ntruncation = greedy:Greedy\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert parse("truncation", EXPLOITS, "exploit") == Truncation()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("1 / 0", "greedy:Greedy, which an installed package announces, cannot be imported: Zero"),
        ("x = 1", "cannot be imported: AttributeError"),
        ("def Greedy(): pass", "greedy:Greedy must be a frozen dataclass"),
    ],
)
def test_a_plugin_that_does_not_load_is_named_with_its_reason(
    code: str, sentence: str, installed: Path
) -> None:
    (installed / "greedy.py").write_text(code)
    with pytest.raises((StrategyError, SettingsError), match=re.escape(sentence)):
        pbt_flow.run("toy", exploit="greedy", engine="inline", quiet=True)


@pytest.mark.slow
def test_the_plugins_own_test_runs_the_contract(installed: Path, tmp_path: Path) -> None:
    (installed / "test_greedy.py").write_text((PLUGIN / "test_greedy.py").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_greedy.py"],
        cwd=installed,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert "6 passed" in done.stdout, done.stdout + done.stderr
