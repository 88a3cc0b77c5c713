"""The cache: a download from a real server that misbehaves, and files that appear in whole."""

from __future__ import annotations

import doctest
import hashlib
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from file_server import BYTES, Answer, Handler, Server, serving, well

from pbt_flow.tasks import cache, phrases

ROOT = Path(__file__).resolve().parents[2]
WHEEL = "thing-1.0-py3-none-any.whl"
DIGEST = hashlib.sha256(BYTES).hexdigest()


def break_off(end: int) -> Answer:
    return lambda handler, first: well(handler, first, end=end)


def everything(handler: Handler, first: int) -> None:
    """A server that knows no ranges."""
    well(handler, 0)


def another(handler: Handler, first: int) -> None:
    well(handler, 0, BYTES[::-1])


def packed(handler: Handler, first: int) -> None:
    """A packed file, announced as a packed answer: it must not be unpacked."""
    handler.begin(200, len(BYTES), ("Content-Encoding", "gzip"))
    handler.wfile.write(BYTES)


def unannounced(handler: Handler, first: int) -> None:
    handler.begin(200, None)
    handler.wfile.write(BYTES)


def elsewhere(handler: Handler, first: int) -> None:
    """Another range than the one that was asked for."""
    well(handler, 7)


def too_far(handler: Handler, first: int) -> None:
    handler.begin(416 if first else 200, 0 if first else len(BYTES))
    handler.wfile.write(b"" if first else BYTES)


def refuse(status: int) -> Answer:
    return lambda handler, first: handler.begin(status, 0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as made:
        yield made


def get(server: Server, path: Path, sha256: str = DIGEST, size: int | None = None) -> bytes:
    return cache.download(server.url, path, sha256=sha256, size=size).read_bytes()


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ([well], [0]),
        ([packed], [0]),
        ([unannounced], [0]),
        ([break_off(300_000), well], [0, 300_000]),
        ([break_off(1), break_off(300_000), break_off(900_000), well], [0, 1, 300_000, 900_000]),
        ([break_off(300_000), everything], [0, 300_000]),
        ([break_off(300_000), elsewhere, well], None),
        ([break_off(300_000), too_far, well], [0, 300_000, 0]),
        ([break_off(0), break_off(0), well], [0, 0, 0]),
    ],
    ids=lambda value: None,
)
def test_a_download_comes_in_whole_however_often_the_connection_breaks(
    answers: list[Answer], asked: list[int] | None, server: Server, tmp_path: Path
) -> None:
    server.answers = answers
    if asked is None:  # Bytes from another place are not taken for those that were asked for.
        with pytest.raises(cache.CacheError, match="SHA-256 differs"):
            get(server, tmp_path / "a" / "thing")
        assert list((tmp_path / "a").iterdir()) == []
        return
    assert get(server, tmp_path / "a" / "thing") == BYTES
    assert server.asked == asked
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["thing"]


@pytest.mark.parametrize(
    ("answers", "message", "requests"),
    [
        ([refuse(404)], "cannot be downloaded: 404", 1),
        ([refuse(503)], "cannot be downloaded: 503", 1),
        ([break_off(0)], "3 connections brought nothing", 3),
        ([break_off(5)], "3 connections brought nothing", 4),
        ([another], r"not the known thing \(its SHA-256 differs\)", 1),
    ],
)
def test_what_cannot_be_had_or_is_another_file_leaves_nothing(
    answers: list[Answer], message: str, requests: int, server: Server, tmp_path: Path
) -> None:
    server.answers = answers
    with pytest.raises(cache.CacheError, match=message):
        get(server, tmp_path / "thing")
    assert len(server.asked) == requests
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_falls_silent_is_not_waited_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "TIMEOUT", (5.0, 0.1))
    over = threading.Event()

    def fall_silent(handler: Handler, first: int) -> None:
        well(handler, first, end=first + 100_000)
        handler.wfile.flush()
        over.wait(30)

    server.answers = [fall_silent, well]
    assert get(server, tmp_path / "thing") == BYTES
    assert server.asked == [0, 98_304]  # whole chunks
    over.set()


def test_a_size_that_is_known_is_told_and_waited_for(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unannounced_half(handler: Handler, first: int) -> None:
        handler.begin(200, None)
        handler.wfile.write(BYTES[:5000])

    server.answers = [unannounced_half, well]
    assert get(server, tmp_path / "thing", size=len(BYTES)) == BYTES
    assert server.asked == [0, 5000]
    assert capsys.readouterr().err == f"downloading thing (1.02 MB) into {tmp_path}\n"


def test_a_terminal_sees_one_line_that_grows(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    get(server, tmp_path / "thing")
    said = capsys.readouterr().err
    assert said.endswith(f"\rdownloading thing into {tmp_path}: 100% of 1.02 MB\n")
    assert said.count("\n") == 1


def test_a_file_that_is_there_is_not_downloaded_and_a_damaged_one_is_again(
    server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "thing"
    get(server, path)
    assert get(server, path, sha256=DIGEST[:8]) == BYTES
    assert len(server.asked) == 1
    path.write_bytes(BYTES[:-1])
    assert get(server, path) == BYTES
    assert len(server.asked) == 2


def test_several_workers_that_want_a_file_download_it_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda _: get(server, tmp_path / "thing"), range(4)))
    assert got == [BYTES] * 4
    assert len(server.asked) == 1


def test_a_killed_download_leaves_nothing_that_counts(server: Server, tmp_path: Path) -> None:
    over, begun = threading.Event(), threading.Event()

    def wait(handler: Handler, first: int) -> None:
        well(handler, first, end=500_000)
        handler.wfile.flush()
        begun.set()
        over.wait(60)

    server.answers = [wait, well]
    code = "import sys; from pathlib import Path; from pbt_flow.tasks import cache\n"
    code += "cache.download(sys.argv[1], Path(sys.argv[2]), sha256='0')"
    command = [sys.executable, "-c", code, server.url, str(tmp_path / "thing")]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        assert begun.wait(60)
        process.send_signal(signal.SIGKILL)
    over.set()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".unfinished-")
    assert get(server, tmp_path / "thing") == BYTES
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_an_interrupt_leaves_nothing(server: Server, tmp_path: Path) -> None:
    def interrupt(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.keep(tmp_path / "thing", interrupt)
    assert list(tmp_path.iterdir()) == []


def test_of_two_who_write_a_file_the_first_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "below" / "thing"
    cache.keep(path, lambda file: file.write_text("first"))
    cache.keep(path, lambda file: file.write_text("second"))
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_without_locks_is_written_to_all_the_same(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some network file systems. What another process is about to write stays there."""

    def refuse(*given: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(cache.fcntl, "flock", refuse)
    (tmp_path / ".unfinished-of-another").mkdir()
    assert get(server, tmp_path / "thing") == BYTES
    assert {path.name for path in tmp_path.iterdir()} == {"thing", ".unfinished-of-another"}


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, and no other place."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def make_wheel(shelf: Path) -> str:
    wheel = shelf / WHEEL
    info = "thing-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_a_wheel_is_fetched_by_pip_once_though_two_ask_at_once(shelf: Path, tmp_path: Path) -> None:
    digest, folder = make_wheel(shelf), tmp_path / "cache"

    def fetch(_: int) -> Path:
        return cache.download_with_pip("thing==1.0", folder / WHEEL, sha256=digest)

    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(fetch, range(2)))
    assert paths == [folder / WHEEL] * 2
    assert [path.name for path in folder.iterdir()] == [WHEEL]
    (shelf / WHEEL).unlink()
    assert fetch(0) == paths[0]


def test_a_damaged_wheel_in_the_cache_is_fetched_again(shelf: Path, tmp_path: Path) -> None:
    digest, path = make_wheel(shelf), tmp_path / WHEEL
    path.write_bytes(b"half of it")
    cache.download_with_pip("thing==1.0", path, sha256=digest)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("exists", "message"), [(False, "pip could not fetch thing==1.0"), (True, "SHA-256 differs")]
)
def test_a_wheel_that_cannot_be_had_or_is_another_leaves_nothing(
    shelf: Path, exists: bool, message: str, tmp_path: Path
) -> None:
    if exists:
        make_wheel(shelf)
    with pytest.raises(cache.CacheError, match=message):
        cache.download_with_pip("thing==1.0", tmp_path / "cache" / WHEEL, sha256="0" * 64)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"PBT_FLOW_CACHE": "~/mine"}, "home/mine"),
        ({"XDG_CACHE_HOME": "/somewhere"}, "/somewhere/pbt-flow"),
        ({"XDG_CACHE_HOME": ""}, "home/.cache/pbt-flow"),
        ({}, "home/.cache/pbt-flow"),
    ],
)
@pytest.mark.skipif(sys.platform == "darwin", reason="has a place of its own")
def test_the_cache_is_where_the_user_says_or_the_platform(
    variables: dict[str, str], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PBT_FLOW_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path / "home"), **variables}.items():
        monkeypatch.setenv(name, value)
    assert cache.cache_folder() == tmp_path / folder


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(phrases).attempted
    assert not doctest.testmod(phrases).failed
