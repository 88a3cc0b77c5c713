"""The reference of the command line, made from the parser that reads it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

from pbt_flow.cli.parser import make_parser, subparsers
from pbt_flow.commands.task_help import task_help
from pbt_flow.tasks import TASKS

PROGRAM = "python -m pbt_flow"


def markdown() -> str:
    """Each command with its words and options, and each task that comes along with its own."""
    parser = make_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    told = {action.dest: action.help or "" for action in commands._choices_actions}
    lines = ["| command | |", "|---|---|"]
    lines += [f"| [`{name}`](#{name}) | {cell(told[name])} |" for name in told]
    for name, command in subparsers(parser).items():
        lines += ["", f"## {name}", "", f"{told[name][0].upper()}{told[name][1:]}.", ""]
        lines += list(_command(name, command))
    lines += ["", "## Tasks that come along", "", "`run --task NAME --help` prints these."]
    for name in TASKS:
        lines += ["", f"### {name}", "", "```text", _of_task_alone(name), "```"]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """A text as a cell of a table."""
    return " ".join(text.split()).replace("|", "&#124;")


def _command(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    words = [action for action in command._actions if not action.option_strings]
    usage = [f"[{_value(word)}]" if word.nargs == "?" else _value(word) for word in words]
    yield from ["```text", " ".join([PROGRAM, name, *usage, "[options]"]), "```", ""]
    if words:
        yield from _table("word", words, command)
    for group in command._action_groups:
        options = [action for action in group._group_actions if action.option_strings]
        # Help is an option of each command; its own group has nothing else in some.
        options = [one for one in options if one.help != argparse.SUPPRESS and one.dest != "help"]
        if options:
            title = "" if group.title == "options" else (group.title or "")
            yield from [f"**{title[0].upper()}{title[1:]}**", ""] if title else []
            yield from _table("option", options, command)


def _table(
    head: str, actions: Iterable[argparse.Action], command: argparse.ArgumentParser
) -> Iterator[str]:
    formatter = command._get_formatter()
    yield from [f"| {head} | |", "|---|---|"]
    for action in actions:
        names = ", ".join(f"`{_with_value(name, action)}`" for name in action.option_strings)
        told = formatter._expand_help(action) if action.help else ""
        yield f"| {names or f'`{_value(action)}`'} | {cell(told)} |"
    yield ""


def _with_value(option: str, action: argparse.Action) -> str:
    if action.nargs == 0:
        return option
    value = _value(action)
    return f"{option} [{value}]" if action.nargs == "?" else f"{option} {value}"


def _value(action: argparse.Action) -> str:
    found = action.metavar or action.dest.upper()
    return found if isinstance(found, str) else " ".join(found)


def _of_task_alone(name: str) -> str:
    return task_help(name)
