"""What a user reads while a store does not answer: which one is waited for.

MLflow's client waits for its answer without a word, and gives up after 20 seconds at the earliest.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Iterator
from typing import Any

from mlflow.tracking import MlflowClient

from pbt_flow.utils.passwords import hide_password
from pbt_flow.utils.terminal import Unbroken, fitted

SLOW_SECONDS = 2.0
"""How long an answer may take before the user is told who is waited for."""


def _print(text: str) -> None:
    print(fitted(text, sys.stderr), file=Unbroken(sys.stderr), flush=True)


class _Telling:
    """Tells of each place once, until it has answered."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, place: str) -> None:
        if place not in self._told:
            self._told.add(place)
            _print(
                f"waiting for {hide_password(place)}, which has not answered for "
                f"{SLOW_SECONDS:.0f} s; Ctrl-C gives up"
            )

    def forget(self, place: str) -> None:
        self._told.discard(place)


_TELLING = _Telling()
"""Of this process, as its terminal is."""


@contextlib.contextmanager
def told_if_slow(place: str) -> Iterator[None]:
    """Tell the user, if the block takes long, which store is waited for.

    Outside of the main thread nothing is told: there a queue waits, which has words of its own.

    Args:
        place: The URI of the store.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wait = threading.Timer(SLOW_SECONDS, _TELLING.tell, (place,))
    wait.daemon = True
    wait.start()
    try:
        yield
        _TELLING.forget(place)
    finally:
        wait.cancel()


class AwaitedClient(MlflowClient):
    """A client that tells the user of a call that takes long (see `told_if_slow`)."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found

        @functools.wraps(found)
        def call(*arguments: Any, **named: Any) -> Any:
            with told_if_slow(self.tracking_uri):
                return found(*arguments, **named)

        return call
