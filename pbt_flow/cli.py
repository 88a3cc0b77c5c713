"""The command line: `Settings` as options, a result as text or as one line of JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pbt_flow.exceptions import PBTError, PopulationError
from pbt_flow.population.result import NO_WINNER, Finalist, Result, effort_note
from pbt_flow.population.stages import NOBODY
from pbt_flow.settings import NONE, Settings
from pbt_flow.strategies.text import plugins
from pbt_flow.utils.terminal import unbroken
from pbt_flow.utils.text import duration, number, values

if TYPE_CHECKING:
    from pbt_flow.commands.replay import Replay

_NEEDED = {
    "report": {"run_id": "RUN_ID"},
    "resume": {"run_id": "RUN_ID"},
    "replay": {"run_id": "RUN_ID"},
    "register": {"run_id": "RUN_ID", "model": "NAME"},
}
_EXIT = {"finished": 0, "failed": 1, "interrupted": 130}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0 when a population finished, 1 when it failed, 2 for a wrong command,
        130 when it was interrupted.
    """
    with unbroken():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    words, of_script = split_words(words)
    given = vars(parser.parse_args(_with_flags(words)))
    if of_script:
        if given["command"] not in ("run", "random_search"):
            parser.error(f"{given['command']}: what stands behind -- is for the script of a run")
        given["options"] = {**given["options"], "arguments": of_script}
    command, as_json = given.pop("command"), given.pop("json", False)
    # Of MLflow's own output a person needs none: a link for each run, a bar for each small file.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if threading.current_thread() is threading.main_thread():
        # What asks for an end in this way gets as orderly a one as Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if "MLFLOW_RUN_ID" in os.environ:
        _end_with_launcher()
    # Options that are left empty count as not given: an MLproject hands over all of them.
    given = {name: value for name, value in given.items() if value not in (None, "", [], {})}
    # An MLproject may hand over an empty text for one of them.
    for name, shown in _NEEDED.get(command, {}).items():
        if name not in given:
            parser.error(f"{command}: {shown} is missing")
    from pbt_flow import compare, register, report, resume, run

    try:
        if command == "report":
            run_id = given.pop("run_id")
            places = report(run_id, **given)
            if "out" not in given:
                print(f"among the artifacts of run {run_id}:")
            print("\n".join(places))
            return 0
        if command == "compare":
            runs = [run_id for text in given.pop("runs", []) for run_id in text.split()]
            made = compare(runs, **given)
            print(made.table(), file=sys.stderr if as_json else sys.stdout)
            if as_json:
                print(json.dumps(made.to_json()))
            return 0
        if command == "register":
            print(register(given["run_id"], given["model"]))
            return 0
        if command == "replay":
            return _replay(given.pop("run_id"), as_json=as_json, **given)
        if command == "resume" and _is_replay(given["run_id"]):
            return _resume_replay(given.pop("run_id"), as_json=as_json, **given)
        if command == "resume":
            result = resume(given.pop("run_id"), **given)
        else:
            if command == "random_search":
                # With stages it is successive halving, which is another control.
                given = {"stages": NOBODY, **given, "exploit": "none"}
            if "task" not in given:
                parser.error(f"{command}: --task is missing; for example --task rl")
            result = run(given.pop("task"), **given)
    except KeyboardInterrupt:
        # Once turns run, a population ends in order and says how to go on; this is before or after.
        print(f"pbt_flow {command}: interrupted", file=sys.stderr)
        return 130
    except PopulationError as error:
        print(f"pbt_flow {command}: error: {error}", file=sys.stderr)
        return 1
    except PBTError as error:
        print(f"pbt_flow {command}: error: {error}", file=sys.stderr)
        return 2
    print(summary(result), file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(result.to_json()), flush=True)
    ended = [result.status, *([result.control.status] if result.control else [])]
    return next((_EXIT[status] for status in ended if status != "finished"), 0)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command, and those behind `--`, which are for the script that it trains."""
    end = list(words).index("--") if "--" in words else len(words)
    return list(words[:end]), list(words[end + 1 :])


def _with_flags(words: Sequence[str]) -> list[str]:
    """The words of a command, where a bare --unequal does not take the run id behind it.

    An MLproject hands over a value, and argparse takes the next word for one.
    """
    found = list(words)
    for place, word in enumerate(words):
        following = words[place + 1].lower() if place + 1 < len(words) else ""
        if word == "--unequal" and following not in _FLAGS:
            found[place] = "--unequal=true"
    return found


_FLAGS = ("true", "false", "1", "0")
"""What may stand behind a flag."""


def _replay(source: str, *, as_json: bool, **given: Any) -> int:
    """Train along the schedule of a population's run, or of a file."""
    from pbt_flow.commands.replay import replay

    _tell_replay(replay(source, **given), as_json)
    return 0


def _is_replay(run_id: str) -> bool:
    from pbt_flow.commands.stored_population import StoredPopulation
    from pbt_flow.tracking.client import short_requests

    with short_requests():
        return StoredPopulation.open(run_id).is_replay


def _resume_replay(run_id: str, *, as_json: bool, **given: Any) -> int:
    """Go on with a replay."""
    from pbt_flow.commands.replay import resume

    _tell_replay(resume(run_id, **given), as_json)
    return 0


def _tell_replay(made: Replay, as_json: bool) -> None:
    from pbt_flow.commands.replay import summary

    print(summary(made), file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(made.to_json()), flush=True)


def summary(result: Result) -> str:
    """What a person wants to know when a population has ended."""
    told = result.reason and result.reason != result.status
    lines = [
        f"\n{result.status}: {result.members} members, {result.turns} turns in "
        f"{duration(result.seconds)}" + (f" ({result.reason})" if told else "")
    ]
    if result.left:
        lines.append(f"{result.left} members left at the end of a stage, as planned")
    if result.retired:
        lines.append(f"{result.retired} members failed too often and were retired")
    if result.winner is not None:
        lines += _finalist("winner", result.winner)
        if result.average is not None:
            lines += _average(result.average)
        if result.budget_note and result.status != "running":
            lines.append(f"  {_budget(result)}")
        lines.append(f"  mean score of the population {number(result.mean_score)}")
    # Where nobody copied, each member is an initial setting, and the winner the best of them today.
    if result.has_copies and result.best_initial is not None and result.winner is not None:
        if result.best_initial == result.winner:
            lines.append("the winner is an initial setting that was never changed")
        else:
            what, best = f"best initial setting, {result.fate}", result.best_initial
            lines += _finalist(what, best, f"the best of {result.initial_scores} on the way")
    if result.control is not None:
        lines += _control(result, result.control)
    lines += ["", f"population {result.run_id}", *ui(result)]
    if result.status != "finished":
        lines += ["go on with", f"  python -m pbt_flow resume {result.run_id}"]
    elif result.reason:
        limit = "target" if "target" in result.reason else "seconds"
        again = f"  python -m pbt_flow resume {result.run_id} --{limit} none"
        lines += ["go on without that limit", again]
    if result.retired == result.members:
        lines[-1] += " --max-failures N"
        lines.append("once the task is mended, with more failures allowed than there have been")
    elif result.reason == NO_WINNER:
        lines[-1] += " --turns N"
        lines.append("once the task is mended, with more turns than there have been")
    return "\n".join(lines)


def _control(result: Result, control: Result) -> list[str]:
    if control.status != "finished":
        return [
            f"its control, random search, is {control.status} after {control.turns} turns, and "
            "nothing is compared with it; go on with",
            f"  python -m pbt_flow resume {control.run_id}",
            f"  python -m pbt_flow report {result.run_id} --control {control.run_id}",
        ]
    lines = [f"its control, random search, {control.run_id}:"]
    if control.winner is not None:
        lines += [f"  {line}" for line in _finalist("winner", control.winner)[:-1]]
        if control.budget_note:
            lines.append(f"    {_budget(control)}")
    note = effort_note(result, control)
    if note:
        lines.append(f"  warning: {note}")
    return [*lines, f"  mean score of the population {number(control.mean_score)}"]


def _budget(result: Result) -> str:
    return f"{'warning: ' if result.is_over_budget else ''}{result.budget_note}"


def _finalist(what: str, one: Finalist, chosen: str = "what selection went by") -> list[str]:
    lines = [f"{what}: member {one.member:02d} after turn {one.turn} (step {one.step})"]
    lines.append(f"  score {number(one.score)}, {chosen}")
    if one.fresh is not None:
        lines.append(f"  fresh score {one.fresh}, on data that no decision has seen")
    if one.report:
        # A task whose score is exact may report the score again.
        apart = ", on data that selection never saw" * ([*one.report.values()] != [one.score])
        lines.append(f"  report {values(one.report)}{apart}")
    lines.append(f"  {values(one.hparams)}")
    return lines


def _average(average: Finalist) -> list[str]:
    """What is handed over in place of the winner, where it is better."""
    lines = [f"handed over: the average of {len(average.parents)} finalists' weights"]
    lines.append(f"  {average.parents_told}")
    lines.append(f"  fresh score {average.fresh}, on data that no choice has seen")
    if average.report:
        lines.append(f"  report {values(average.report)}")
    return lines


def ui(result: Result) -> list[str]:
    """How to open the MLflow UI on the population."""
    if result.tracking_uri.startswith("http"):
        return [f"look at it in the MLflow UI at {result.tracking_uri}/{result.charts}"]
    command = f"mlflow ui --backend-store-uri {result.tracking_uri}"
    lines = ["look at it in the MLflow UI with", f"  {command}"]
    if result.charts:
        lines.append(f"  and open http://127.0.0.1:5000/{result.charts}")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pbt_flow",
        description="Population Based Training whose members are MLflow runs.",
        epilog="The runs go to MLFLOW_TRACKING_URI, by default mlflow.db in the working folder.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="train a population")
    control = commands.add_parser(
        "random_search", help="train the control: the same members, nobody copies"
    )
    resume = commands.add_parser(
        "resume", help="go on with a population or a replay that was stopped"
    )
    resume.add_argument(
        "run_id", nargs="?", metavar="RUN_ID", help="the run of the population, or of the replay"
    )
    for command in (run, control, resume):
        _add_settings(
            command, on_resume=command is resume, skip=("exploit",) * (command is control)
        )
        command.add_argument(
            "--json", action="store_true", help="print the result as one line of JSON, last"
        )
    for command in (run, control):
        command.add_argument(
            "--quick",
            nargs="?",
            const=True,
            type=_flag,
            help="train for seconds only, with the task's small settings, to see it work",
        )
    run.add_argument(
        "--control",
        nargs="?",
        const=True,
        type=_flag_or_text,
        metavar="RUN_ID",
        help="train random search beside it, with the same budget, seed and initial points; or "
        "compare with that population",
    )
    report = commands.add_parser(
        "report", help="make the report of a population: a page, a picture, the winner's schedule"
    )
    report.add_argument("run_id", metavar="RUN_ID", help="the population's run")
    report.add_argument(
        "--control", metavar="RUN_ID", help="a population to compare with, such as random search"
    )
    report.add_argument(
        "--out", metavar="FOLDER", help="write files there, and not to the run in MLflow"
    )
    compare = commands.add_parser(
        "compare", help="compare populations of one task and budget by method, paired by seed"
    )
    compare.add_argument("runs", nargs="+", metavar="RUN_ID", help="the populations' runs")
    for command in (report, compare):
        command.add_argument(
            "--unequal",
            nargs="?",
            const=True,
            type=_flag,
            help="compare what did not train equally long all the same, and say so",
        )
    compare.add_argument("--out", metavar="FOLDER", help="write a page and the numbers there")
    compare.add_argument(
        "--json", action="store_true", help="print the result as one line of JSON, last"
    )
    register = commands.add_parser(
        "register", help="make the winner a version of a registered model, and its champion"
    )
    register.add_argument("run_id", metavar="RUN_ID", help="the population's run")
    register.add_argument("model", metavar="NAME", help="the registered model")
    replay = commands.add_parser(
        "replay", help="train fresh models along the winner's schedule, and beside it"
    )
    replay.add_argument("run_id", metavar="RUN_ID", help="the population's run, or a schedule.json")
    replay.add_argument("--seeds", type=_reader("seeds", int), help="fresh models of each kind (5)")
    replay.add_argument("--task", help="where the task is now, if it is not where it was")
    own = ("workers", "threads", "warm", "turn_timeout", "engine", "device")
    for name in ("seed", *own, "name", "experiment"):
        hint = get_type_hints(Settings)[name]
        replay.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            type=_reader(name, hint),
            metavar=name.upper(),
            help=Settings.__dataclass_fields__[name].metadata["help"],
        )
    replay.add_argument(
        "--json", action="store_true", help="print the result as one line of JSON, last"
    )
    return parser


def _add_settings(parser: argparse.ArgumentParser, *, on_resume: bool, skip: Sequence[str]) -> None:
    """One option for each field of the settings."""
    hints = get_type_hints(Settings)
    for f in dataclasses.fields(Settings):
        if f.name in skip:
            continue
        fixed = on_resume and not f.metadata.get("on_resume")
        if f.name == "options":
            parser.add_argument(
                "--set",
                dest="options",
                action=_Options,
                nargs="*",
                default={},
                metavar="KEY=VALUE",
                help=argparse.SUPPRESS if fixed else "options of the task, such as env=CartPole-v1",
            )
            continue
        text = f.metadata["help"]
        if installed := sorted(plugins(f.name)):
            text += f"; installed: {', '.join(installed)}"
        if f.default is not None and f.default is not dataclasses.MISSING and f.name != "initial":
            text += f" (the task's default, or {f.default})"
        parser.add_argument(
            f"--{f.name.replace('_', '-')}",
            dest=f.name,
            type=_reader(f.name, hints[f.name]),
            metavar=f.name.upper(),
            # Taken all the same: that it cannot change is said by whom it concerns.
            help=argparse.SUPPRESS if fixed else text,
        )


def _reader(name: str, hint: Any) -> Any:
    if name == "initial":
        return _json
    possible = get_args(hint) or (hint,)
    kinds = [kind for kind in possible if kind in (int, float)]
    if not kinds:
        return str

    def read(text: str) -> Any:
        if text == NONE and type(None) in possible:
            return NONE
        return kinds[0](text) if text else None

    read.__name__ = kinds[0].__name__
    return read


def _flag(text: str) -> bool | None:
    """A flag of an MLproject, where it has a value."""
    if text.lower() in ("", "false", "0"):
        return None
    if text.lower() in ("true", "1"):
        return True
    raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")


def _flag_or_text(text: str) -> bool | str | None:
    """A flag that may also name something."""
    try:
        return _flag(text)
    except argparse.ArgumentTypeError:
        return text


def _json(text: str) -> Any:
    """Initial points: a JSON list of objects, or `@file.json`."""
    if not text:
        return None
    try:
        points = json.loads(Path(text[1:]).read_text("utf-8") if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise argparse.ArgumentTypeError('must be a list of objects, as in [{"lr": 0.001}]')
    return points


class _Options(argparse.Action):
    """Collects `--set a=1 --set b=2 c=3`; an MLproject hands over all of them as one text."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        collected = dict(getattr(namespace, self.dest))
        # A value may hold spaces, as a path does: an option ends where the next one begins.
        items = list[str]()
        for text in values:
            items += _split_options(text.strip())
        for item in items:
            key, equals, value = item.partition("=")
            if not equals or not key:
                parser.error(f"--set takes KEY=VALUE, got {item!r}")
            if collected.get(key, value) != value:
                parser.error(f"--set: {key} is given twice, as {collected[key]} and as {value}")
            collected[key] = value
        setattr(namespace, self.dest, collected)


def _split_options(text: str) -> list[str]:
    """The options in one text: each begins where a name with = does, except inside of JSON."""
    found = list[str]()
    for part in re.split(r"(?<!\s)(?=\s+[^\W\d]\w*=)", text):
        inside = found[-1].partition("=")[2] if found else ""
        if inside[:1] in ("{", "[") and not _is_json(inside):
            found[-1] += part
        elif part.strip():
            found.append(part.strip())
    return found


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _end_with_launcher() -> None:
    """Stop cleanly when the `mlflow run` that launched this process is gone.

    A killed launcher leaves its entry point running as an orphan, whose runs would stay RUNNING.
    """
    family = _ancestors()

    def watch() -> None:
        while _ancestors() == family:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="pbt_flow-launcher").start()


def _ancestors() -> tuple[int, ...]:
    """The parent, and where /proc tells, the grandparent: `mlflow run` may put a shell between."""
    parent = os.getppid()
    try:
        status = Path(f"/proc/{parent}/status").read_text()
    except OSError:
        return (parent,)
    return (parent, *(int(line.split()[1]) for line in status.splitlines() if line[:5] == "PPid:"))
