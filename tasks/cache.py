"""What the tasks keep on this machine: downloads, vocabularies, trained classifiers.

A file gets its name when it is whole. So no process reads half of one, and whoever is killed in the
middle leaves nothing that counts: the next one that writes there clears it away. Workers that want
the same download at the same time wait for the first of them, and then find it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pbt_flow.task import TaskError

from .phrases import megabytes

TIMEOUT = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes."""
TRIES = 3
"""How many connections in a row may bring nothing before a download is given up."""
_STAGE = ".unfinished-"
"""What folders of unfinished files are called; nobody looks for a file there."""
_CHUNK = 1 << 14
"""How many bytes are taken at a time; so many are lost where a connection breaks."""


class CacheError(TaskError):
    """A file cannot be had, or is not the one that it should be."""


def cache_folder() -> Path:
    """Where all this is kept: `PBT_FLOW_CACHE`, or the folder for caches of the platform."""
    if chosen := os.environ.get("PBT_FLOW_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        home = "~/Library/Caches"
    else:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "pbt-flow"


def keep(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written, unless another process has done so by now: that one stays.

    Args:
        path: The file.
        write: Writes it under the path that it is given.
    """
    with _alone(path.parent), _stage(path) as written:
        write(written)
        if not path.exists():
            os.replace(written, path)


def download(url: str, path: Path, *, sha256: str, size: int | None = None) -> Path:
    """The file `path` of the cache, downloaded if it is not there.

    A connection that breaks is followed by another, which asks for the rest.

    Args:
        url: Where it is.
        path: Where it is kept.
        sha256: Its digest in hexadecimal, or how that begins where no more is known.
        size: Its size in bytes, where it is known: not every server tells it.

    Raises:
        CacheError: It cannot be had, or is another file.
    """

    def receive(file: Path, line: _Line) -> None:
        _receive(url, file, size, line)

    return _fetch(path, receive, source=url, sha256=sha256, size=size)


def download_with_pip(requirement: str, path: Path, *, sha256: str) -> Path:
    """The wheel `path` of the cache, by `pip download` if it is not there; it is not installed.

    pip knows the index, the proxy and the credentials of whoever set up this machine.

    Args:
        requirement: As pip takes it.
        path: Where the wheel is kept; pip gives it the same name.
        sha256: Its digest in hexadecimal.

    Raises:
        CacheError: It cannot be had, or is another file.
    """

    def receive(file: Path, line: _Line) -> None:
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
        options += ["--timeout", f"{TIMEOUT[1]:.0f}", "--dest", str(file.parent)]
        command = [*_pip(requirement), "download", *options, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CacheError(f"pip could not fetch {requirement}: {done.stderr.strip()}")

    return _fetch(path, receive, source=requirement, sha256=sha256, size=None)


def _fetch(
    path: Path,
    receive: Callable[[Path, _Line], None],
    *,
    source: str,
    sha256: str,
    size: int | None,
) -> Path:
    if _is_whole(path, sha256):
        return path
    with _alone(path.parent):
        if _is_whole(path, sha256):  # Another worker has had it meanwhile.
            return path
        much = f" ({megabytes(size)})" if size else ""
        with (
            _stage(path) as file,
            contextlib.closing(_Line(f"downloading {path.name}{much} into {path.parent}")) as line,
        ):
            receive(file, line)
            if not _is_whole(file, sha256):
                raise CacheError(
                    f"what came from {source} is not the known {path.name} (its SHA-256 differs), "
                    "so it is not used"
                )
            os.replace(file, path)
    return path


def _is_whole(path: Path, sha256: str) -> bool:
    """Whether a file is there, and is what it should be."""
    if not path.is_file():
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest().startswith(sha256)


def _receive(url: str, file: Path, size: int | None, line: _Line) -> None:
    """Write to `file` what a server has, over as many connections as it takes.

    Raises:
        CacheError: The server refuses, or several connections in a row bring nothing.
    """
    import requests  # It takes a fifth of a second, and most runs download nothing.
    import urllib3

    tries = 0
    while tries < TRIES:
        have = file.stat().st_size if file.is_file() else 0
        try:
            if _receive_rest(url, file, have, size, line):
                return
            reason = "the connection ended too early"
        except requests.HTTPError as error:
            raise CacheError(f"{url} cannot be downloaded: {error}") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            reason = " ".join(str(error).split())
        gained = file.is_file() and file.stat().st_size > have
        tries = 0 if gained else tries + 1
    raise CacheError(f"{url} cannot be downloaded: {TRIES} connections brought nothing ({reason})")


def _receive_rest(url: str, file: Path, have: int, size: int | None, line: _Line) -> bool:
    """Add to the first `have` bytes of a file what comes over one connection.

    Returns:
        Whether the file has all its bytes now.
    """
    import requests

    headers = {"Accept-Encoding": "identity"}  # A packed file is wanted packed.
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if have and answer.status_code == requests.codes.requested_range_not_satisfiable:
            file.unlink()  # There are fewer bytes than we have: it is another file by now.
            return False
        answer.raise_for_status()
        # A server that knows no ranges sends the whole file again.
        begun = have if answer.headers.get("Content-Range", "").startswith(f"bytes {have}-") else 0
        length = answer.headers.get("Content-Length")
        total = begun + int(length) if length and length.isdigit() else size
        with file.open("r+b" if begun else "wb") as out:
            out.seek(begun)
            for chunk in answer.raw.stream(_CHUNK, decode_content=False):
                out.write(chunk)
                line.update(out.tell(), total)
            out.truncate()
            return total is None or out.tell() >= total


class _Line:
    """The one line that says of a download what it is and, on a terminal, how far it is."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.is_live = sys.stderr.isatty()
        print(what, end="" if self.is_live else "\n", file=sys.stderr, flush=True)

    def update(self, received: int, total: int | None) -> None:
        if self.is_live and total:
            share = f"{received / total:.0%} of {megabytes(total)}"
            print(f"\r{self.what}: {share}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.is_live:
            print(file=sys.stderr)


def _pip(requirement: str) -> list[str]:
    """The command that is pip here."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    # An environment that uv has made has no pip of its own.
    other = shutil.which("pip") or shutil.which("pip3")
    if other is None:
        raise CacheError(f"fetching {requirement} takes pip, which is not installed")
    return [other]


@contextlib.contextmanager
def _stage(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file under, so that renaming it moves no bytes."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_STAGE) as folder:
        yield Path(folder, path.name)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from writing in a folder, and clear away what a killed one has left."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            # The system gives it back when the process ends, however it ends.
            fcntl.flock(opened, fcntl.LOCK_EX)
        except OSError:
            # Some network file systems have no locks. Then several workers may download the same,
            # and the last one's stays.
            pass
        else:
            for left in folder.glob(f"{_STAGE}*"):
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(opened)
