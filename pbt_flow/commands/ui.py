"""MLflow's UI, opened where a population is."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from pbt_flow.exceptions import SettingsError, StoreError

_PATIENCE = 300.0
"""Seconds for which a UI may take to answer."""


@dataclass(frozen=True, kw_only=True)
class OpenedUi:
    """MLflow's UI, answering."""

    address: str
    """Where it is, with the view that was asked for."""
    process: subprocess.Popen[bytes] | None
    """The server of the UI; None if it was there before."""

    def wait(self, *, browser: bool = True) -> None:
        """Open the address in a browser, if there is one, and wait until the server ends."""
        if browser and (sys.platform == "darwin" or os.environ.get("DISPLAY")):
            webbrowser.open(self.address)
        if self.process is not None:
            print("Ctrl-C ends the UI", file=sys.stderr)
            with contextlib.suppress(KeyboardInterrupt):
                self.process.wait()
            print("ending the UI, which takes a moment", file=sys.stderr)


@contextlib.contextmanager
def ui(run_id: str | None = None, *, port: int | None = None) -> Iterator[OpenedUi]:
    """MLflow's UI for the tracking store in force, for as long as the `with` lasts.

    Args:
        run_id: The population to open it on: its run, the beginning of its id, or `last`. None for
            all populations of the experiment that the newest is in.
        port: Where it listens; None for a free port.

    Raises:
        StoreError: There is no such population, or the UI does not start.
        SettingsError: There is no such port, or another program has it.
    """
    if port is not None:
        _check_port(port)
    from pbt_flow.tracking.client import short_requests
    from pbt_flow.tracking.views import address_of, ensure_overview

    with short_requests():
        uri, page = address_of(run_id) if run_id else ensure_overview()
    if uri.startswith("http"):
        yield OpenedUi(address=f"{uri}/{page}", process=None)
        return
    port = port or _free_port()
    command = ["-m", "mlflow", "server", "--backend-store-uri", uri, "--port", str(port)]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_RUN_ID"}
    print("starting MLflow's UI, which takes a few seconds", file=sys.stderr, flush=True)
    # A file, since a pipe that nobody reads would be full one day, and the UI stand still.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, *command, "--workers", "1"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield OpenedUi(address=f"http://127.0.0.1:{port}/{page}", process=process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            process.wait()


def _check_port(port: int) -> None:
    """Refuse a port at which the UI could not listen, or where something else would answer for it.

    Raises:
        SettingsError: It cannot.
    """
    if not 1 <= port <= 65535:
        raise SettingsError(f"port must be from 1 to 65535, got {port}")
    with socket.socket() as one:
        # As the server does: a port that was used a moment ago is free.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError as error:
            raise SettingsError(
                f"port {port} cannot be used ({error.strerror}); give another one, or none for one "
                "that is free"
            ) from None


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for(address: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Return when a server answers.

    Raises:
        StoreError: It has ended, or takes too long.
    """
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()
            why = said[-1] if said else "it gave no reason"
            raise StoreError(f"MLflow's UI did not start: {why}")
        # An error of urllib is an OSError.
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2):
            return
        time.sleep(0.1)
    raise StoreError(f"MLflow's UI did not answer within {_PATIENCE:.0f} s at {address}")
