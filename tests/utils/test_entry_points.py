"""What packages announce is read once, and again where one was installed meanwhile."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from pbt_flow.utils.entry_points import announced


def install(folder: Path, name: str) -> None:
    """A distribution, as pip leaves it behind."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[a.group]\n{name} = {name}.module:Class\n")


def names() -> list[str]:
    return sorted(announced("a.group"))


def test_what_is_installed_while_the_process_lives_is_found(tmp_path, monkeypatch):
    assert names() == []
    install(tmp_path, "first")
    monkeypatch.syspath_prepend(tmp_path)
    assert names() == ["first"]
    install(tmp_path, "second")
    assert names() == ["first", "second"]
    assert announced("a.group")["second"].value == "second.module:Class"
    assert announced("of.nobody") == {}


def test_the_packages_of_another_working_folder_are_told_apart(tmp_path, monkeypatch):
    install(tmp_path / "one", "one")
    install(tmp_path / "other", "other")
    monkeypatch.syspath_prepend("")
    for folder in ("one", "other"):
        monkeypatch.chdir(tmp_path / folder)
        assert names() == [folder]


def test_seven_groups_are_one_reading(tmp_path, monkeypatch):
    readings = []

    def entry_points() -> metadata.EntryPoints:
        readings.append(1)
        return metadata.EntryPoints()

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    monkeypatch.syspath_prepend(tmp_path)
    for number in range(7):
        announced(f"group.{number}")
    assert readings == [1]


def test_a_place_that_is_not_there_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path / "missing")
    assert names() == []
