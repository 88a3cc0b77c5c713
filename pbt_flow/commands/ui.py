"""MLflow's UI, opened where a population is."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass

from pbt_flow.exceptions import StoreError

_PATIENCE = 90.0
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


@contextlib.contextmanager
def ui(run_id: str | None = None, *, port: int | None = None) -> Iterator[OpenedUi]:
    """MLflow's UI for the tracking store in force, for as long as the `with` lasts.

    Args:
        run_id: The population to open it on: its run, the beginning of its id, or `last`. None for
            all populations of the experiment that the newest is in.
        port: Where it listens; None for a free port.

    Raises:
        StoreError: There is no such population, or the UI does not start.
    """
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
    process = subprocess.Popen(
        [sys.executable, *command, "--workers", "1"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield OpenedUi(address=f"http://127.0.0.1:{port}/{page}", process=process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Return when a server answers.

    Raises:
        StoreError: It has ended, or takes too long.
    """
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            assert process.stderr is not None
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
            why = said[-1] if said else "it gave no reason"
            raise StoreError(f"MLflow's UI did not start: {why}")
        # An error of urllib is an OSError.
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2):
            return
        time.sleep(0.1)
    raise StoreError(f"MLflow's UI did not answer within {_PATIENCE:.0f} s at {address}")
