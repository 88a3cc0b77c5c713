"""A server of files on loopback that misbehaves as a test lays down."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BYTES = bytes(range(256)) * 4_000

Answer = Callable[["Handler", int], None]
"""What a server does with a request for the bytes from a number on."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request in the next of the ways that a test has laid down, then in the last."""

    def do_GET(self) -> None:
        server: Any = self.server
        asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
        server.asked.append(int(asked))
        answers = server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self, int(asked))

    def begin(self, status: int, length: int | None, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


def well(handler: Handler, first: int, content: bytes = BYTES, end: int | None = None) -> None:
    """The bytes from the first that is asked for on, or only some of those that it announces."""
    if first:
        place = f"bytes {first}-{len(content) - 1}/{len(content)}"
        handler.begin(206, len(content) - first, ("Content-Range", place))
    else:
        handler.begin(200, len(content))
    handler.wfile.write(content[first:end])


class Server(http.server.ThreadingHTTPServer):
    """A server on loopback."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = [well]
        self.asked: list[int] = []
        """From which byte on each request asked."""
        self.url = f"http://127.0.0.1:{self.server_port}/thing"


@contextmanager
def serving() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()
        thread.join()
