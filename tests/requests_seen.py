"""Which thread makes which request to a store: statements that a database gets, and all HTTP."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import sqlalchemy
import urllib3


@dataclass
class Requests:
    """The requests that were made while somebody looked."""

    seen: list[tuple[str, str]] = field(default_factory=list)
    """The name of each request's thread, and what was asked."""
    on: bool = False

    def add(self, what: str) -> None:
        if self.on:
            self.seen.append((threading.current_thread().name, what))

    def by(self, thread: threading.Thread) -> list[str]:
        """What a thread has asked."""
        return [what for name, what in self.seen if name == thread.name]

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Look at the requests of the block."""
        self.on = True
        try:
            yield
        finally:
            self.on = False


@contextlib.contextmanager
def requests_seen() -> Iterator[Requests]:
    """Make what sees the requests of this process from the lowest place that all go through.

    MLflow's client, botocore and requests all send by urllib3, and each store in a database
    executes by SQLAlchemy.
    """
    requests, send = Requests(), urllib3.HTTPConnectionPool.urlopen

    def executed(connection, cursor, statement, *others):
        requests.add(" ".join(statement.split()))

    def sent(self, method, url, *others, **named):
        requests.add(f"{method} {url}")
        return send(self, method, url, *others, **named)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", executed)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(urllib3.HTTPConnectionPool, "urlopen", sent)
            yield requests
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", executed)
