"""The stores that costs are compared in, and what their servers have done: requests, CPU, bytes.

`sqlite` is MLflow's default store in a folder. `shared` is `mlflow server`, whose artifacts lie in
a folder that all machines see. Behind `proxied` the server keeps the artifacts, on its disk, and
behind `s3` it keeps them in a bucket of moto's. The servers are those of the tests.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process_tree import descendants

STORES = ("sqlite", "shared", "proxied", "s3")
_REQUEST = re.compile(r'"(GET|POST|PUT|PATCH|DELETE|HEAD) (\S+) HTTP/[0-9.]+"? ')
_RUN_ID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class OpenStore:
    """A store with its servers, if it has some."""

    name: str
    environment: Mapping[str, str]
    """What leads MLflow's client to it."""
    folder: Path
    server: Any = None
    bucket: Any = None

    def requests(self) -> Counter[str]:
        """How often each thing was asked of the tracking server, by its own log."""
        return _logged(self.folder / "server" / "log") if self.server else Counter()

    def bucket_requests(self) -> Counter[str]:
        """How often each thing was asked of the bucket, by its own log."""
        return _logged(self.folder / "s3.log") if self.bucket else Counter()

    def server_cpu(self) -> float:
        """CPU seconds that the tracking server has taken so far."""
        return _cpu_of_tree(self.server.process.pid) if self.server else 0.0

    def bucket_cpu(self) -> float:
        """CPU seconds that the bucket's server has taken so far."""
        return _cpu_of_tree(self.bucket.process.pid) if self.bucket else 0.0

    def bytes_kept(self) -> int:
        """Bytes of the artifacts and of the database."""
        kept = 0
        for path in self.folder.rglob("*"):
            # The servers' logs are no part of what is kept.
            if path.is_file() and path.suffix != ".log" and path.name != "log":
                kept += path.stat().st_size
        if self.bucket:
            pages = self.bucket.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket.name):
                kept += sum(found["Size"] for found in page.get("Contents", []))
        return kept


@contextlib.contextmanager
def opened(name: str, folder: Path) -> Iterator[OpenStore]:
    """Open a new store in a folder, with its servers.

    Args:
        name: One of `STORES`.
        folder: An empty folder. What has no server is used from there.
    """
    if name == "sqlite":
        yield OpenStore(name=name, environment={}, folder=folder)
        return
    from benchmarks.servers import Bucket, Server

    bucket = Bucket(folder) if name == "s3" else None
    try:
        places = {
            "shared": ["--default-artifact-root", str(folder / "artifacts")],
            "proxied": ["--artifacts-destination", str(folder / "artifacts")],
            "s3": ["--artifacts-destination", "s3://kept/artifacts"],
        }[name]
        server = Server(folder / "server", places, environment=bucket.from_here if bucket else {})
        server.start()
        try:
            yield OpenStore(
                name=name,
                environment={"MLFLOW_TRACKING_URI": server.uri},
                folder=folder,
                server=server,
                bucket=bucket,
            )
        finally:
            server.kill()
    finally:
        if bucket is not None:
            bucket.stop()


def _logged(log: Path) -> Counter[str]:
    """The requests in a server's log, without what tells one run from another."""
    found = Counter[str]()
    for line in log.read_text(errors="replace").splitlines():
        match = _REQUEST.search(line)
        if match is None:
            continue
        method, path = match.groups()
        path = path.partition("?")[0]
        if path in ("/health", "/moto-api/data.json"):
            continue
        if "mlflow-artifacts" in path or path.startswith("/kept"):
            path = "artifact" if _RUN_ID.search(path) else "artifacts"
        found[f"{method} {path}"] += 1
    return found


def _cpu_of_tree(pid: int) -> float:
    """CPU seconds of a process and of those below it, ended ones included."""
    total, tick = 0.0, os.sysconf("SC_CLK_TCK")
    for one in [pid, *descendants(pid)]:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / tick
    return total
