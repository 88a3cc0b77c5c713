"""Whoever waits for a store that does not answer reads within seconds what is waited for."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from mlflow.tracking import MlflowClient

from pbt_flow.cli.main import main
from pbt_flow.tracking import slow_answers
from pbt_flow.tracking.client import connect
from pbt_flow.tracking.slow_answers import told_if_slow

COMMANDS = [
    ["list"], ["show", "last"], ["watch", "last"], ["ui", "last", "--no-browser"], ["stop", "last"],
    ["delete", "last", "--yes"], ["report", "last"], ["compare", "last", "abcd"],
    ["resume", "last"], ["replay", "last"], ["export", "last", "out"], ["register", "last", "m"],
    ["run", "--task", "toy", "--engine", "inline"],
]  # fmt: skip


@dataclass(kw_only=True)
class Silence:
    """A server that takes every connection and answers nobody, until somebody is told of it."""

    address: str = ""
    listening: socket.socket = field(default_factory=socket.socket)
    said: list[str] = field(default_factory=list)

    def begin(self) -> None:
        self.listening.bind(("127.0.0.1", 0))
        self.listening.listen(50)
        self.address = f"http://127.0.0.1:{self.listening.getsockname()[1]}"

    def end(self, text: str) -> None:
        self.said.append(text)
        with contextlib.suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silence]:
    """One that nobody has to wait for in a test."""
    made = Silence()
    made.begin()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setattr(slow_answers, "_print", made.end)
    monkeypatch.setattr(slow_answers, "SLOW_SECONDS", 0.05)
    monkeypatch.setattr(slow_answers, "_TELLING", slow_answers._Telling())
    yield made
    made.listening.close()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_every_command_says_which_server_does_not_answer(
    command: list[str], silence: Silence, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    (said,) = silence.said
    assert said.startswith(f"waiting for {silence.address}, which has not answered for")
    assert "cannot reach the MLflow tracking store" in capsys.readouterr().err


class Telling(slow_answers._Telling):
    """Lets a test wait until it was asked to tell."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def tell(self, place: str) -> None:
        super().tell(place)
        self.asked.set()


def test_what_is_told_is_told_once_until_there_is_an_answer(
    silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    telling = Telling()
    monkeypatch.setattr(slow_answers, "_TELLING", telling)

    def wait() -> None:
        telling.asked.clear()
        with told_if_slow("http://a:secret@there"):
            assert telling.asked.wait(30)

    def wait_in_vain() -> None:
        with contextlib.suppress(ZeroDivisionError), told_if_slow("http://a:secret@there"):
            assert telling.asked.wait(30)
            raise ZeroDivisionError

    wait_in_vain()
    (said,) = silence.said
    assert "secret" not in said
    wait()  # It has not answered in between.
    assert len(silence.said) == 1
    wait()
    assert len(silence.said) == 2


def test_threads_wait_in_a_queue_which_tells_of_it_by_itself(silence: Silence) -> None:
    def wait() -> None:
        with told_if_slow("http://there"):
            assert not [one for one in threading.enumerate() if isinstance(one, threading.Timer)]

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    with told_if_slow("http://there"):
        assert [one for one in threading.enumerate() if isinstance(one, threading.Timer)]


def test_a_call_of_a_client_that_falls_silent_later_is_told_of(
    database: object, silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    client, uri = connect()
    telling, get_experiment = Telling(), MlflowClient.get_experiment
    monkeypatch.setattr(slow_answers, "_TELLING", telling)
    silence.said.clear()

    def slow(self: MlflowClient, *arguments: str) -> object:
        assert telling.asked.wait(30)
        return get_experiment(self, *arguments)

    monkeypatch.setattr(MlflowClient, "get_experiment", slow)
    assert client.get_experiment("0").name == "Default"
    assert [said.split(",")[0] for said in silence.said] == [f"waiting for {uri}"]
