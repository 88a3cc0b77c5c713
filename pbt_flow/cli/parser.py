"""The words that the command line takes: `Settings` as options, and what else a command needs."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, get_type_hints

from pbt_flow import __version__
from pbt_flow.cli.arguments import (
    GivenOnce,
    TaskOptions,
    flag,
    flag_or_text,
    read_config,
    reader_of,
    split_words,
    with_flags,
)
from pbt_flow.cli.program import program
from pbt_flow.exceptions import PBTError
from pbt_flow.settings import Settings
from pbt_flow.strategies.text import plugins
from pbt_flow.utils.terminal import fitted
from pbt_flow.utils.text import did_you_mean

GROUPS = {
    "what is trained": (
        *("task", "options", "population", "turns", "interval", "seconds", "target", "seed"),
        "initial",
    ),
    "what is tried next": ("mode", "exploit", "explore", "init", "resample", "max_failures"),
    "where turns run": (
        *("engine", "workers", "threads", "device", "gpu_share", "warm", "turn_timeout", "keep"),
    ),
    "what is left in MLflow": ("name", "experiment", "register", "samples"),
}
"""The settings under the headings of the help; a setting that is in none stands under the first."""
_MOST_MEANT = 3
"""So many options may be meant by the beginning of their names; of more, the nearest is told."""
RUN_ID = "its run id, the beginning of it, or last"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a sentence, with what the user may have meant.

    Options are written out: the beginning of one would mean another, or nothing, once a release has
    an option more, and a script would do what nobody wrote.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **named})
        for action in (None, "store"):
            self.register("action", action, GivenOnce)

    def error(self, message: str) -> NoReturn:
        """Print the sentence and where the help is, and exit with 2."""
        told = f"{self.prog}: error: {message}\nthe options are in {self.prog} --help\n"
        self.exit(2, fitted(told, sys.stderr))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            raise argparse.ArgumentError(
                None, f"there is no {value!r}{did_you_mean(str(value), known)}; "
                f"there are {', '.join(known)}"
            )  # fmt: skip


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Read the words of a command: what was given, by name.

    Exits with 2 where they cannot be read, and with 0 after help.
    """
    parser = make_parser()
    words, of_script = split_words(words)
    if not words:
        parser.print_help()
        raise SystemExit(2)
    _check_command_is_first(parser, words)
    if (task := _asks_for_task(words)) is not None:
        from pbt_flow.commands.task_help import task_help

        try:
            told = task_help(task)
        except PBTError as error:
            subparsers(parser)[words[0]].error(str(error))
        print(f"{told}\n\nall other options are in {program()} {words[0]} --help")
        raise SystemExit(0)
    _check_options(parser, words)
    found, unknown = parser.parse_known_args(with_flags(words))
    if unknown:
        word, command = unknown[0].partition("=")[0], subparsers(parser)[found.command]
        what = "no option" if word.startswith("-") else "too many words:"
        command.error(f"{what} {word}{_meant_option(word, command)}")
    given = vars(found)
    if of_script:
        if found.command not in ("run", "random_search"):
            parser.error(f"{found.command}: what stands behind -- is for the script of a run")
        given["options"] = {**given["options"], "arguments": of_script}
    return given


def _check_command_is_first(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Exit with 2 where an option of a command stands before the command.

    Its value would be taken for the command, and the option be called unknown.
    """
    option = words[0].partition("=")[0]
    if option.startswith("-") and option not in parser._option_string_actions:
        if meant := _meant_option(option, parser):
            parser.error(f"no option {option}{meant}")
        command = next((word for word in words if word in subparsers(parser)), "run")
        parser.error(f"{option} stands before the command; say {parser.prog} {command} first")


def _check_options(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Exit with 2 where a command has no such option, before anything else is found wrong.

    The value of an unknown option would pass for what the command is about.
    """
    command = subparsers(parser).get(words[0])
    if command is None:
        return
    for word in words[1:]:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in command._option_string_actions:
            command.error(f"no option {option}{_meant_option(option, command)}")


def _meant_option(word: str, command: argparse.ArgumentParser) -> str:
    """Which option of a command was meant, as the end of a sentence; empty where none is near."""
    known = list(command._option_string_actions)
    begins = [option for option in known if option.startswith(word)]
    if word.startswith("--") and 1 <= len(begins) <= _MOST_MEANT:
        return f" (did you mean {' or '.join(begins)}?)"
    return did_you_mean(word, known)


def _asks_for_task(words: Sequence[str]) -> str | None:
    """The task that help is wanted with, as in `run --task rl --help`."""
    if words[0] not in ("run", "random_search") or not {"-h", "--help"} & set(words):
        return None
    for place, word in enumerate(words):
        if word.startswith("--task="):
            return word.partition("=")[2]
        if word == "--task" and place + 1 < len(words):
            return words[place + 1]
    return None


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    (found,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog=program(),
        description="Population Based Training whose members are MLflow runs.",
        epilog="The runs go to MLFLOW_TRACKING_URI, by default mlflow.db in the working folder. "
        f"A RUN is {RUN_ID}. A task's own options: {program()} run --task rl --help.",
    )
    parser.add_argument("--version", action="version", version=f"pbt-flow {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_training(commands)
    _add_looking(commands)
    _add_keeping(commands)
    _add_completion(commands)
    return parser


def _add_training(commands: Any) -> None:
    run = commands.add_parser("run", help="train a population")
    control = commands.add_parser(
        "random_search", help="train the control: the same members, nobody copies"
    )
    resume = commands.add_parser(
        "resume", help="go on with a population or a replay that was stopped"
    )
    _add_run_id(resume, "the population, or the replay", optional=True)
    for command in (run, control, resume):
        _add_settings(
            command, on_resume=command is resume, skip=("exploit",) * (command is control)
        )
        _add_output(command)
    for command in (run, control):
        command.add_argument(
            "--quick",
            nargs="?",
            const=True,
            type=flag,
            help="train for seconds only, with the task's small settings, to see it work",
        )
        command.add_argument(
            "--config",
            metavar="FILE",
            type=read_config,
            help="settings from a JSON or YAML file, as settings.json of export --winner is; what "
            "else is given goes before",
        )
        command.add_argument(
            "--dry-run",
            action="store_true",
            help="train one turn of one member in a temporary folder, say what all of it would "
            "take, and write nothing",
        )
    run.add_argument(
        "--control",
        nargs="?",
        const=True,
        type=flag_or_text,
        metavar="RUN",
        help="train random search beside it, with the same budget, seed and initial points; or "
        "compare with that population",
    )
    replay = commands.add_parser(
        "replay", help="train fresh models along the winner's schedule, and two that stand still"
    )
    replay.add_argument("run_id", metavar="RUN", help="the population, or a schedule.json")
    replay.add_argument(
        "--seeds", type=reader_of("seeds", int), help="fresh models of each kind (5)"
    )
    replay.add_argument("--task", help="where the task is now, if it is not where it was")
    own = ("workers", "threads", "warm", "turn_timeout", "engine", "device", "gpu_share")
    for name in ("seed", *own, "name", "experiment"):
        hint = get_type_hints(Settings)[name]
        replay.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            type=reader_of(name, hint),
            metavar=name.upper(),
            help=Settings.__dataclass_fields__[name].metadata["help"],
        )
    _add_output(replay)
    stop = commands.add_parser(
        "stop", help="ask a population that is training elsewhere to end in order"
    )
    _add_run_id(stop, "the population, or the replay")


def _add_looking(commands: Any) -> None:
    listed = commands.add_parser("list", help="the populations that there are, newest first")
    listed.add_argument(
        "--all", action="store_true", help="all of them, and not only the newest twenty"
    )
    _add_json(listed, "print a JSON list")
    shown = commands.add_parser("show", help="what became of a population, and its settings")
    _add_run_id(shown, "the population")
    _add_json(shown, "print one line of JSON")
    watch = commands.add_parser(
        "watch", help="follow a population that is training in another terminal"
    )
    _add_run_id(watch, "the population")
    _add_json(watch)
    ui = commands.add_parser("ui", help="open MLflow's UI on a population")
    _add_run_id(ui, "the population; without it, all of them", optional=True)
    ui.add_argument(
        "--port", type=reader_of("port", int), help="where the UI listens; default: a free port"
    )
    ui.add_argument("--no-browser", action="store_true", help="print the address only")
    report = commands.add_parser(
        "report", help="make the report of a population: a page, a picture, the winner's schedule"
    )
    _add_run_id(report, "the population")
    report.add_argument(
        "--control", metavar="RUN", help="a population to compare with, such as random search"
    )
    report.add_argument(
        "--out", metavar="FOLDER", help="write files there, and not to the run in MLflow"
    )
    compare = commands.add_parser(
        "compare", help="compare populations of one task and budget by method, paired by seed"
    )
    _add_run_ids(compare, "the populations; of one alone its control is the other")
    for command in (report, compare):
        command.add_argument(
            "--unequal",
            nargs="?",
            const=True,
            type=flag,
            help="compare what did not train equally long all the same, and say so",
        )
    compare.add_argument("--out", metavar="FOLDER", help="write a page and the numbers there")
    _add_json(compare)


def _add_keeping(commands: Any) -> None:
    register = commands.add_parser(
        "register", help="make the winner a version of a registered model, and its champion"
    )
    _add_run_id(register, "the population")
    register.add_argument("model", metavar="NAME", help="the registered model")
    export = commands.add_parser(
        "export", help="write a population into a folder that another store takes in"
    )
    _add_run_id(export, "the population, or the replay")
    export.add_argument("folder", metavar="FOLDER", help="a folder that does not exist yet")
    export.add_argument(
        "--winner",
        action="store_true",
        help="its winner alone, to be used without a store: model, state, schedule, settings",
    )
    taken = commands.add_parser("import", help="take a population in that was exported")
    taken.add_argument("folder", metavar="FOLDER", help="the folder that export wrote")
    taken.add_argument(
        "--experiment", help="the experiment for its runs (one of the same name as where it was)"
    )
    taken.add_argument("--task", help="where its task is here, if it is not where it was")
    for command in (export, taken):
        _add_json(command)
        command.add_argument("-q", "--quiet", action="store_true", help="nothing but the result")
    delete = commands.add_parser(
        "delete", help="delete populations: their runs, checkpoints, reports and saved views"
    )
    _add_run_ids(delete, "the populations, or the replays")
    delete.add_argument("--yes", action="store_true", help="do not ask")


def _add_completion(commands: Any) -> None:
    completion = commands.add_parser(
        "completion", help="print what completes pbt-flow in a shell: bash, zsh or fish"
    )
    completion.add_argument(
        "shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="the shell"
    )


def _add_run_id(command: argparse.ArgumentParser, what: str, *, optional: bool = False) -> None:
    # An MLproject hands over an empty text for one that is missing.
    command.add_argument(
        "run_id", nargs="?" if optional else None, metavar="RUN", help=f"{what}: {RUN_ID}"
    )  # fmt: skip


def _add_run_ids(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("runs", nargs="+", metavar="RUN", help=f"{what}; each is {RUN_ID}")


def _add_json(
    command: argparse.ArgumentParser, help: str = "print the result as one line of JSON, last"
) -> None:
    command.add_argument("--json", action="store_true", help=help)


def _add_output(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("what is printed")
    group.add_argument("--json", action="store_true", help="the result as one line of JSON, last")
    group.add_argument(
        "-q", "--quiet", action="store_true", help="nothing but the result, while it trains"
    )
    group.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="MLflow's own log lines as well, and of an error its traceback",
    )


def _add_settings(parser: argparse.ArgumentParser, *, on_resume: bool, skip: Sequence[str]) -> None:
    """One option for each field of the settings."""
    hints = get_type_hints(Settings)
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    titles = {name: title for title, names in GROUPS.items() for name in names}
    first = next(iter(GROUPS))
    for f in dataclasses.fields(Settings):
        if f.name in skip:
            continue
        group = groups[titles.get(f.name, first)]
        fixed = on_resume and not f.metadata.get("on_resume")
        if f.name == "options":
            group.add_argument(
                "--set",
                dest="options",
                action=TaskOptions,
                nargs="*",
                default={},
                metavar="KEY=VALUE",
                help=argparse.SUPPRESS if fixed else "options of the task, such as env=CartPole-v1",
            )
            continue
        group.add_argument(
            f"--{f.name.replace('_', '-')}",
            dest=f.name,
            type=reader_of(f.name, hints[f.name]),
            metavar=f.name.upper(),
            # Taken all the same: that it cannot change is said by whom it concerns.
            help=argparse.SUPPRESS if fixed else _help(f, on_resume=on_resume),
        )


def _help(setting: dataclasses.Field[Any], *, on_resume: bool) -> str:
    """What the help says of a setting: what it is, which plugins there are, its default."""
    text: str = setting.metadata["help"]
    if installed := sorted(plugins(setting.name)):
        text += f"; installed: {', '.join(installed)}"
    if on_resume:
        return f"{text} (as it was)"
    if setting.default not in (None, dataclasses.MISSING) and setting.name != "initial":
        text += f" (the task's default, or {setting.default})"
    return text
