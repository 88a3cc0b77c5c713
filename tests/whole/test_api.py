"""The front door: what the command line can do, Python can, and each error can be caught."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from pathlib import Path

import pytest

import pbt_flow
from pbt_flow.cli.parser import make_parser

ROOT = Path(pbt_flow.__file__).parents[1]
BY_ANOTHER_NAME = {
    "random_search": "run",
    "list": "list_populations",
    "export": "export_population",
    "import": "import_population",
}
"""`run(..., exploit="none")` is random search; `import` is a word of Python's own."""
OF_THE_SHELL = ("completion",)
"""Commands that are of use to a shell alone."""


def commands() -> list[str]:
    (parsers,) = (
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return list(parsers.choices)


@pytest.mark.parametrize("command", [name for name in commands() if name not in OF_THE_SHELL])
def test_each_command_is_a_function(command: str) -> None:
    assert inspect.isfunction(getattr(pbt_flow, BY_ANOTHER_NAME.get(command, command)))


@pytest.mark.parametrize("name", pbt_flow.__all__)
def test_each_name_of_the_front_door_is_there_and_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(pbt_flow, name))


@pytest.mark.parametrize("name", [name for name in pbt_flow.__all__ if name.endswith("Error")])
def test_each_error_is_one_that_a_user_can_mend(name: str) -> None:
    assert issubclass(getattr(pbt_flow, name), pbt_flow.PBTError)


def test_every_error_of_ours_that_is_raised_at_a_user_is_at_the_front_door() -> None:
    for path in sorted((ROOT / "pbt_flow").rglob("[!_]*.py")):
        if path.parent.name == "adapters":
            # Their libraries take seconds to import, and not every Python has them.
            assert not re.search(r"^ *class \w+Error\b", path.read_text(), re.MULTILINE), path
        else:
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    # The others are an `OptionError` or a `StoreError` for those who are outside.
    inside = {"OptionError", "StoreUnavailable"}
    assert _errors_below(pbt_flow.PBTError) - inside <= set(pbt_flow.__all__)


def _errors_below(kind: type) -> set[str]:
    """The names of our own errors that are subclasses of one."""
    found = set()
    for one in kind.__subclasses__():
        found |= _errors_below(one)
        # Another test may have imported the tasks that come along, which have errors of their own.
        if one.__module__.startswith("pbt_flow.") and "pbt_flow.tasks" not in one.__module__:
            found.add(one.__name__)
    return found


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
