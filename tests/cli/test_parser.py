"""The words of the command line: settings are options, and a mistake is told with its remedy."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from pbt_flow import __version__
from pbt_flow.cli.arguments import flag, read_config
from pbt_flow.cli.main import _COMMANDS, Outcome, main
from pbt_flow.cli.parser import GROUPS, make_parser, parse, subparsers
from pbt_flow.commands.task_help import domain_in_words
from pbt_flow.settings import Settings


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of a command, and all that it printed."""
    try:
        code = main(words)
    except SystemExit as left:
        code = int(left.code or 0)
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "--popultion", "3"], "no option --popultion (did you mean --population?)"),
        (["run", "--popultion=3"], "no option --popultion (did you mean --population?)"),
        (["run", "--finalist", "own"], "no option --finalist (did you mean --finalists?)"),
        (["resume", "last", "--fin=own"], "no option --fin (did you mean --finalists?)"),
        (["random_search", "--th", "3"], "no option --th (did you mean --threads?)"),
        (["run", "--wo", "3"], "no option --wo (did you mean --workers?)"),
        (["run", "--se=3"], "no option --se (did you mean --set or --seed or --seconds?)"),
        (["export", "last", "--win"], "no option --win (did you mean --winner?)"),
        (["delete", "--ye"], "no option --ye (did you mean --yes?)"),
        (["--vers"], "no option --vers (did you mean --version?)"),
        (["resum", "1"], "there is no 'resum' (did you mean resume?)"),
        (
            ["-q", "resume", "1"],
            "-q stands before the command; say python -m pbt_flow resume first",
        ),
        (
            ["--task=toy", "run"],
            "--task stands before the command; say python -m pbt_flow run first",
        ),
        (["--seed", "1"], "--seed stands before the command; say python -m pbt_flow run first"),
        (["run", "--turns", "many"], "argument --turns: must be a whole number, got 'many'"),
        (["run", "--seconds", "long"], "argument --seconds: must be a number or none, got 'long'"),
        (["run", "--turns", "5", "--turns=6"], "argument --turns: given twice, as 5 and as 6"),
        (["run", "--task", "a", "--task", "b"], "argument --task: given twice, as a and as b"),
        (["resume", "1", "--seconds=none", "--seconds=3"], "given twice, as none and as 3.0"),
        (["run", "--control", "ab", "--control"], "argument --control: given twice, as ab and as"),
        (["ui", "--port", "x"], "argument --port: must be a whole number, got 'x'"),
        (["report", "1", "2"], "too many words: 2"),
        (["report"], "the following arguments are required: RUN"),
        (["run", "--task", "toy", "--quick", "perhaps"], "must be true or false, got 'perhaps'"),
    ],
)
def test_a_misspelt_word_is_told_with_what_was_meant_and_where_the_help_is(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = told(words, capsys)
    assert code == 2
    assert sentence in printed
    command = f" {words[0]}" if words[0] in subparsers(make_parser()) else ""
    assert printed.endswith(f"the options are in python -m pbt_flow{command} --help\n")
    assert "usage" not in printed


def test_without_a_word_there_is_help_and_the_version_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, printed = told([], capsys)
    assert (code, "train a population" in printed) == (2, True)
    assert told(["--version"], capsys) == (0, f"pbt-flow {__version__}\n")


def test_each_setting_stands_under_one_heading_of_the_help() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len(set(names))
    assert set(names) <= {field.name for field in dataclasses.fields(Settings)}
    text = subparsers(make_parser())["run"].format_help()
    for field in dataclasses.fields(Settings):
        option = "--set" if field.name == "options" else f"--{field.name.replace('_', '-')}"
        assert f"  {option} " in text


def test_a_resume_has_no_default_but_what_was() -> None:
    text = subparsers(make_parser())["resume"].format_help()
    assert "the task's default" not in text
    assert "(as it was)" in text


@pytest.mark.parametrize(("word", "means"), [("yes", True), ("TRUE", True), ("no", None)])
def test_a_flag_takes_the_words_that_people_say(word: str, means: bool | None) -> None:
    assert flag(word) is means
    assert parse(["run", "--quick", word])["quick"] is means


def test_help_with_a_task_tells_its_options_and_what_it_searches(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, printed = told(["run", "--task", "toy", "--help"], capsys)
    assert code == 0
    for line in ("  h0: 0 to 1", "  rate: ", "default 0.01", "  turns=20", "maximize the score"):
        assert line in printed
    code, printed = told(["random_search", "--task=nothing", "-h"], capsys)
    assert code == 2
    assert "no task is called 'nothing'" in printed


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        (FloatDistribution(1e-5, 0.01, log=True), "1e-05 to 0.01, logarithmic"),
        (FloatDistribution(0, 1, step=0.25), "0 to 1 in steps of 0.25"),
        (IntDistribution(1, 64), "1 to 64, whole numbers"),
        (IntDistribution(2, 64, step=2), "2 to 64 in steps of 2"),
        (CategoricalDistribution(["adam", "sgd"]), "one of 'adam', 'sgd'"),
    ],
)
def test_a_domain_is_told_in_words(domain: BaseDistribution, words: str) -> None:
    assert domain_in_words(domain) == words


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.json", '{"task": "toy", "turns": 7, "seconds": null, "options": {"rate": 0.5}}'),
        ("own.yaml", "task: toy\nturns: 7\nseconds:\noptions: {rate: 0.5}\n"),
        # As a dry run prints it, and as it lies among a population's artifacts.
        (
            "plan.json",
            '{"settings": {"task": "toy", "turns": 7, "target": null, "options": {"rate": 0.5}},'
            ' "space": {"h0": "0 to 1"}}',
        ),
    ],
)
def test_settings_come_from_a_file_and_what_is_given_goes_before(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text(text)
    called = list[dict[str, Any]]()

    def run(**given: Any) -> Outcome:
        called.append(given)
        return Outcome()

    monkeypatch.setitem(_COMMANDS, "run", run)
    assert main(["run", "--config", name]) == 0
    assert main(["run", "--config", name, "--turns", "3", "--set", "depth=2"]) == 0
    assert called == [
        {"task": "toy", "turns": 7, "options": {"rate": 0.5}},
        {"task": "toy", "turns": 3, "options": {"rate": 0.5, "depth": "2"}},
    ]


class Terminal(io.StringIO):
    """What is printed to a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_wrong_option_is_told_in_lines_that_end_between_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stderr", Terminal())
    with pytest.raises(SystemExit):
        main(["run", "--task", "toy", "--popluation", "4"])
    assert isinstance(sys.stderr, io.StringIO)
    told = sys.stderr.getvalue().split("\n")
    assert max(map(len, told)) <= 80
    assert told[0].endswith("(did you mean")
    assert told[1] == "--population?)"


@pytest.mark.parametrize(
    ("name", "text", "told_as"),
    [
        ("own.yaml", None, "cannot be read: [Errno 2]"),
        ("own.yaml", "turns: [", "cannot be read: "),
        ("own.yaml", "- turns", "must map settings to values"),
        # Of two values the last would be taken, and nobody would be told.
        ("own.yaml", "turns: 7\ntask: toy\nturns: 8\n", "cannot be read: turns is given twice"),
        ("own.yaml", "options: {rate: 1, rate: 2}", "cannot be read: rate is given twice"),
        ("own.yaml", "initial: [{h0: 1}, {h1: 1, h1: 2}]", "cannot be read: h1 is given twice"),
        ("own.json", '{"turns": 7, "turns": 8}', "cannot be read: turns is given twice"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(
    name: str, text: str | None, told_as: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    code, printed = told(["run", "--config", name], capsys)
    assert code == 2
    assert told_as in printed


def test_what_a_settings_file_takes_over_from_elsewhere_may_be_overridden(tmp_path: Path) -> None:
    """A merge key of YAML is there for that, and an alias may lead to what it stands in."""
    text = "options: &usual {rate: 1, depth: 2}\nmore: &loop [{<<: *usual, rate: 3}, *loop]\n"
    (tmp_path / "own.yaml").write_text(text)
    found = read_config(str(tmp_path / "own.yaml"))
    assert found["options"] == {"rate": 1, "depth": 2}
    assert found["more"][0] == {"rate": 3, "depth": 2}
