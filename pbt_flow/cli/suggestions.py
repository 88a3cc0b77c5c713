"""What the shell offers when Tab is pressed: tasks, options of a task, populations.

The shell starts a process for each Tab, so this file imports nothing that takes long: no MLflow, no
torch, and not the parser. Commands and options need no process: they stand in the script that
`completion.py` makes.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pbt_flow import PACKAGE
from pbt_flow.utils.entry_points import announced

COMMAND = "complete-words"
"""The first word by which the shell asks; it stands in no help."""
_NOT_OPTIONS = ("seed", "device")
_PLAIN = re.compile(r"[\w.,+%/=@-]+")
"""Bash would carry out what stands between $( and ) in a word that is offered to it, and the words
come from files that someone else may have written."""

Suggestion = tuple[str, str]
"""A word, and what a shell that shows descriptions says of it."""


def print_suggestions(words: Sequence[str]) -> int:
    """Print what the shell asks for: one word a line, behind a tab its description.

    Args:
        words: A kind of `KINDS`, then the words of the line up to the cursor.
    """
    kind, *line = words or [""]
    for word, about in KINDS.get(kind, _nothing)(line):
        if not _PLAIN.fullmatch(word):
            continue
        # A description is the name of a run, say, and must neither end the line nor steer the
        # terminal.
        told = " ".join("".join(sign if sign.isprintable() else " " for sign in about).split())
        print(f"{word}\t{told}" if told else word)
    return 0


def _nothing(line: Sequence[str]) -> list[Suggestion]:
    return []


def tasks(line: Sequence[str]) -> list[Suggestion]:
    """The tasks that have a name; a file is completed by the shell."""
    own = {path.stem: "in ./tasks" for path in Path("tasks").glob("[!_]*.py") if _is_task(path)}
    installed = {name: point.value for name, point in announced(PACKAGE).items()}
    bundled = dict.fromkeys(_bundled(), "comes with pbt_flow")
    return sorted({**own, **installed, **bundled}.items())


def _bundled() -> dict[str, str]:
    """The name of each task that comes along, with its `module:Class`."""
    try:
        return dict(importlib.import_module(PACKAGE).TASKS)
    except ModuleNotFoundError:
        return {}


def _is_task(path: Path) -> bool:
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError):
        return False
    return "(Task)" in text or "pbt_flow.join" in text


def options(line: Sequence[str]) -> list[Suggestion]:
    """The options of the task that the line names, and behind one of them its values."""
    from pbt_flow.utils.constructor_options import constructor_options

    place = _place_of_task(_task_in(line))
    if place is None:
        return []
    found = constructor_options(*place, without=_NOT_OPTIONS)
    key, equals, _ = line[-1].partition("=") if line else ("", "", "")
    if equals:
        return [(f"{key}={value}", "") for value in found.get(key, [])]
    return [(f"{name}=", ", ".join(values)) for name, values in found.items()]


def _task_in(line: Sequence[str]) -> str:
    """The task that a line names; empty if it names none yet."""
    for place, word in enumerate(line):
        if word.startswith("--task="):
            return word.partition("=")[2]
        if word == "--task" and place + 1 < len(line):
            return line[place + 1]
    return ""


def _place_of_task(task: str) -> tuple[Path, str] | None:
    """The file of a task and its class; None where only an import would tell."""
    place, _, kind = task.partition(":")
    if place.endswith(".py"):
        return Path(place).expanduser(), kind
    if (bundled := _bundled().get(task)) is not None:
        module, _, kind = bundled.partition(":")
        package = importlib.util.find_spec(PACKAGE)
        if package is None or package.origin is None:
            return None
        return Path(package.origin).parent / f"{module}.py", kind
    return (Path("tasks", f"{task}.py"), "") if task.isidentifier() else None


def runs(line: Sequence[str]) -> list[Suggestion]:
    """The populations of the store in force, newest first, and the word for the newest."""
    from pbt_flow.tracking.run_words import run_words

    found = run_words()
    return [("last", "the newest population"), *found] if found else []


KINDS: dict[str, Callable[[Sequence[str]], list[Suggestion]]] = {
    "tasks": tasks,
    "options": options,
    "runs": runs,
}
"""What the shell may ask for."""
