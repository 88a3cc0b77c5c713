"""MLflow's UI, opened by a command."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from patience import PATIENCE

import pbt_flow
from pbt_flow.exceptions import SettingsError


@pytest.mark.parametrize("port", [-1, 0, 65536, 80_000])
def test_a_port_that_there_is_not_is_refused_at_once(port: int) -> None:
    with pytest.raises(SettingsError, match=f"port must be from 1 to 65535, got {port}"):
        pbt_flow.ui(port=port).__enter__()


def test_a_port_where_another_program_would_answer_is_refused_at_once() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port} cannot be used .*give another one"):
            pbt_flow.ui(port=port).__enter__()


@pytest.mark.slow
def test_the_ui_answers_while_it_is_wanted_and_no_longer(trained: Callable[..., Any]) -> None:
    (result,) = trained()
    with pbt_flow.ui(result.run_id[:8]) as opened:
        assert result.run_id in opened.address
        home = opened.address.partition("/#")[0]
        urllib.request.urlopen(home, timeout=PATIENCE).close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(home, timeout=PATIENCE)
