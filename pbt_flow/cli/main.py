"""A command is read, the function behind it is called, and what it returns is printed.

Each command is a function that Python users can call; this file has no knowledge of its own.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from pbt_flow.cli.launched import Launch
from pbt_flow.cli.parser import make_parser, parse, subparsers
from pbt_flow.cli.program import program
from pbt_flow.commands.summary import summary
from pbt_flow.exceptions import PBTError, PopulationError
from pbt_flow.population.stages import NOBODY
from pbt_flow.utils.interrupts import Interrupts, handled_by
from pbt_flow.utils.processes import process_began, timed_from
from pbt_flow.utils.terminal import fitted, unbroken

if TYPE_CHECKING:
    from pbt_flow.commands.replay_arms import Replay
    from pbt_flow.population.result import Result

_TASK = {"task": "--task is missing; for example --task rl"}
_RUN = {"run_id": "RUN is missing"}
_NEEDED = {
    "run": _TASK,
    "random_search": _TASK,
    "resume": _RUN,
    "replay": _RUN,
    "report": _RUN,
    "show": _RUN,
    "stop": _RUN,
    "delete": {"runs": "RUN is missing"},
    "watch": _RUN,
    "export": {**_RUN, "folder": "FOLDER is missing"},
    "import": {"folder": "FOLDER is missing"},
    "register": {**_RUN, "model": "NAME is missing"},
}
"""What a command needs, and what is told where it is missing: an MLproject may hand over an empty
text for it."""
_NEWEST = 20
"""Populations that are listed unless all are wanted."""
_EXIT = {"finished": 0, "failed": 1, "interrupted": 130}
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0 when a population finished, 1 when it failed, 2 for a wrong command,
        130 when it was interrupted.
    """
    launch = Launch()
    handler = Interrupts(launch.is_there)
    with handled_by(handler):
        return run_command(sys.argv[1:] if arguments is None else arguments, handler, launch)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command came to."""

    text: str = ""
    """What a person reads."""
    plain: Any = None
    """The same for a program, as plain JSON values."""
    code: int = 0
    """The exit code."""


def run_command(words: Sequence[str], handler: Interrupts, launch: Launch) -> int:
    """Run one command; what interrupts it has a handler already.

    Args:
        words: The command.
        handler: Has all signals of this process.
        launch: The `mlflow run` that launched this process, if it did.

    Returns:
        The exit code, as of `main`.
    """
    with unbroken():
        given = parse(words)
        command, as_json = given.pop("command"), given.pop("json", False)
        verbose = given.pop("verbose", False)
        _let_libraries_speak(verbose)
        launch.end_together()
        try:
            with timed_from(process_began()):
                outcome = _call(command, given)
            # What has been done stays done, whoever presses Ctrl-C while it is printed.
            handler.note_only()
        except KeyboardInterrupt:
            handler.note_only()
            # Once turns run, a population ends in order and says how to go on; this is before.
            # A terminal has just shown ^C, behind a question perhaps.
            new_line = "\n" if sys.stderr.isatty() else ""
            print(f"{new_line}{program()} {command}: interrupted", file=sys.stderr)
            outcome = Outcome(code=_INTERRUPTED)
        except PBTError as error:
            if verbose:
                traceback.print_exc()
            told = f"{program()} {command}: error: {error}"
            print(fitted(told, sys.stderr), file=sys.stderr)
            outcome = Outcome(code=1 if isinstance(error, PopulationError) else 2)
        if outcome.text:
            stream = sys.stderr if as_json else sys.stdout
            print(fitted(outcome.text, stream), file=stream)
        if as_json and outcome.plain is not None:
            print(json.dumps(outcome.plain), flush=True)
        if outcome.code == _INTERRUPTED:
            launch.tell("KILLED")
        return outcome.code


def _let_libraries_speak(verbose: bool) -> None:
    """Of the output of MLflow a person needs none, such as a link for each run."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "INFO" if verbose else "WARNING")


def _call(command: str, given: dict[str, Any]) -> Outcome:
    """Call the function of a command with what was given."""
    # Options that are left empty count as not given: an MLproject hands over all of them.
    given = {name: value for name, value in given.items() if not _is_missing(value)}
    if "runs" in given and not _words(given["runs"]):
        del given["runs"]
    config = given.pop("config", {})
    if options := {**config.get("options", {}), **given.get("options", {})}:
        given["options"] = options
    given = {**config, **given}
    for name, told in _NEEDED.get(command, {}).items():
        if name not in given:
            _refuse(command, told)
    if command == "random_search":
        # With stages it is successive halving, which is another control.
        given = {"stages": NOBODY, **given, "exploit": "none"}
    return _COMMANDS[command](**given)


def _is_missing(value: Any) -> bool:
    return value is False or value in (None, "", [], {})


def _words(texts: Sequence[str]) -> list[str]:
    """Words that an MLproject may hand over in one text."""
    return [word for text in texts for word in text.split()]


def _refuse(command: str, why: str) -> NoReturn:
    subparsers(make_parser())[command].error(why)
    raise AssertionError  # The parser has left.


def _run(task: str, dry_run: bool = False, **given: Any) -> Outcome:
    if dry_run:
        from pbt_flow.commands.dry_run import dry_run as try_one_turn

        made = try_one_turn(task, **given)
        return Outcome(text=made.text(), plain=made.to_json())
    from pbt_flow.commands.run import run

    return _outcome_of(run(task, **given))


def _resume(run_id: str, **given: Any) -> Outcome:
    from pbt_flow.commands.run import resume
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.client import short_requests

    with short_requests():
        is_replay = StoredPopulation.open(run_id).is_replay
    if is_replay:
        from pbt_flow.commands.replay import resume as resume_replay

        return _outcome_of_replay(resume_replay(run_id, **given))
    return _outcome_of(resume(run_id, **given))


def _replay(run_id: str, **given: Any) -> Outcome:
    from pbt_flow.commands.replay import replay

    return _outcome_of_replay(replay(run_id, **given))


def _report(run_id: str, **given: Any) -> Outcome:
    from pbt_flow.commands.report import report
    from pbt_flow.commands.stored_population import StoredPopulation

    run_id = StoredPopulation.open(run_id).run_id
    places = report(run_id, **given)
    head = [] if "out" in given else [f"among the artifacts of run {run_id}:"]
    return Outcome(text="\n".join([*head, *places]))


def _compare(runs: Sequence[str], **given: Any) -> Outcome:
    from pbt_flow.commands.compare import compare

    made = compare(_words(runs), **given)
    return Outcome(text=made.table(), plain=made.to_json())


def _register(run_id: str, model: str) -> Outcome:
    from pbt_flow.commands.register import register

    return Outcome(text=register(run_id, model))


def _list(all: bool = False) -> Outcome:
    from pbt_flow.commands.catalogue import list_populations, table

    found = list_populations(most=None if all else _NEWEST)
    return Outcome(text=table(found), plain=[one.to_json() for one in found])


def _show(run_id: str) -> Outcome:
    from pbt_flow.commands.catalogue import show

    shown = show(run_id)
    return Outcome(text=shown.text(), plain=shown.to_json())


def _ui(run_id: str | None = None, port: int | None = None, no_browser: bool = False) -> Outcome:
    from pbt_flow.commands.ui import ui

    with ui(run_id, port=port) as opened:
        print(opened.address, flush=True)
        opened.wait(browser=not no_browser)
    return Outcome()


def _stop(run_id: str) -> Outcome:
    from pbt_flow.commands.manage import stop

    return Outcome(text=stop(run_id))


def _delete(runs: Sequence[str], yes: bool = False) -> Outcome:
    from pbt_flow.commands.manage import ask_in_terminal, delete

    return Outcome(text=delete(*_words(runs), confirm=(lambda _: True) if yes else ask_in_terminal))


def _watch(run_id: str) -> Outcome:
    from pbt_flow.commands.watch import watch

    try:
        return _outcome_of(watch(run_id))
    except KeyboardInterrupt:
        told = f"{program()} watch: no longer watched; the population goes on"
        print(f"\n{told}", file=sys.stderr)
        return Outcome(code=_INTERRUPTED)


def _export(run_id: str, folder: str, winner: bool = False, quiet: bool = False) -> Outcome:
    if winner:
        from pbt_flow.commands.export_winner import export_winner

        one = export_winner(run_id, folder, quiet=quiet)
        text = "\n".join([f"the winner of {one.run_id} is in {one.folder}:", *one.files])
        return Outcome(text=text, plain=one.to_json())
    from pbt_flow.commands.transfer import export_population

    made = export_population(run_id, folder, quiet=quiet)
    return Outcome(text=made.export_text(), plain=made.to_json())


def _import(folder: str, **given: Any) -> Outcome:
    from pbt_flow.commands.transfer import import_population

    made = import_population(folder, **given)
    return Outcome(text=made.import_text(), plain=made.to_json())


def _completion(shell: str) -> Outcome:
    from pbt_flow.cli.completion import completion_script

    # A shell reads it: no line of it may be fitted to a terminal.
    print(completion_script(make_parser(), shell))
    return Outcome()


_COMMANDS: dict[str, Callable[..., Outcome]] = {
    "run": _run,
    "random_search": _run,
    "resume": _resume,
    "replay": _replay,
    "report": _report,
    "compare": _compare,
    "register": _register,
    "list": _list,
    "show": _show,
    "ui": _ui,
    "stop": _stop,
    "delete": _delete,
    "watch": _watch,
    "export": _export,
    "import": _import,
    "completion": _completion,
}


def _outcome_of(result: Result) -> Outcome:
    ended = [result.status, *([result.control.status] if result.control else [])]
    code = next((_EXIT[status] for status in ended if status != "finished"), 0)
    return Outcome(text=summary(result), plain=result.to_json(), code=code)


def _outcome_of_replay(made: Replay) -> Outcome:
    from pbt_flow.commands.replay_arms import summary as replay_summary

    return Outcome(text=replay_summary(made), plain=made.to_json())
