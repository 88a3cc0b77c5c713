"""The front door: what the command line can do, Python can, and each error can be caught."""

from __future__ import annotations

import argparse
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import pbt_flow
from pbt_flow.cli.parser import make_parser

ROOT = Path(pbt_flow.__file__).parents[1]
BY_ANOTHER_NAME = {"random_search": "run", "list": "list_populations"}
"""`run(..., exploit="none")` is random search."""


def commands() -> list[str]:
    (parsers,) = (
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return list(parsers.choices)


@pytest.mark.parametrize("command", commands())
def test_each_command_is_a_function(command: str) -> None:
    assert inspect.isfunction(getattr(pbt_flow, BY_ANOTHER_NAME.get(command, command)))


@pytest.mark.parametrize("name", pbt_flow.__all__)
def test_each_name_of_the_front_door_is_there_and_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(pbt_flow, name))


@pytest.mark.parametrize("name", [name for name in pbt_flow.__all__ if name.endswith("Error")])
def test_each_error_is_one_that_a_user_can_mend(name: str) -> None:
    assert issubclass(getattr(pbt_flow, name), pbt_flow.PBTError)


def test_every_error_of_ours_that_is_raised_at_a_user_is_at_the_front_door() -> None:
    code = (
        "import pathlib, importlib, pbt_flow\n"
        "for path in sorted(pathlib.Path('pbt_flow').rglob('[!_]*.py')):\n"
        "    try:\n"
        "        importlib.import_module('.'.join(path.with_suffix('').parts))\n"
        "    except ModuleNotFoundError:\n"
        "        if 'adapters' not in path.parts:  # Its library is not for every Python.\n"
        "            raise\n"
        "def below(kind):\n"
        "    for one in kind.__subclasses__():\n"
        "        yield one.__name__\n"
        "        yield from below(one)\n"
        "print(*sorted(set(below(pbt_flow.PBTError))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # The others are an `OptionError` or a `StoreError` for those who are outside.
    inside = {"OptionError", "StoreUnavailable"}
    assert set(done.stdout.split()) - inside <= set(pbt_flow.__all__)


def test_a_name_that_is_not_there_is_refused_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'pbt_flow' has no attribute 'runn'"):
        pbt_flow.runn  # noqa: B018


@pytest.mark.usefixtures("database")
def test_a_replay_takes_the_run_of_a_population() -> None:
    small = {"engine": "inline", "quiet": True}
    run_id = pbt_flow.run("toy", population=2, turns=2, interval=2, **small).run_id
    made = pbt_flow.replay(run_id, seeds=1, **small)
    assert made.schedule.source == run_id
    with pytest.raises(pbt_flow.ScheduleError, match="is a replay, which has no schedule"):
        pbt_flow.replay(made.run_id, seeds=1, **small)
    with pytest.raises(pbt_flow.ScheduleError, match="cannot be read"):
        pbt_flow.replay("nowhere.json", seeds=1, **small)
