"""Tab in a real shell: commands, options, tasks, a task's own options, populations."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from patience import PATIENCE

import pbt_flow
from pbt_flow.cli.completion import SHELLS, completion_script
from pbt_flow.cli.main import main
from pbt_flow.cli.parser import make_parser
from pbt_flow.cli.suggestions import COMMAND, KINDS, print_suggestions
from pbt_flow.population.result import Result
from pbt_flow.task import declare
from pbt_flow.task.bundled import bundled_tasks
from pbt_flow.tracking.run_words import run_words

ROOT = Path(__file__).resolve().parents[2]
_SHOW, _TAB, _ALL, _CLEAR = "\x0f", "\t", "\x1b*", "\x15"
"""Keys: what is on the line; complete it; write all that may stand there; an empty line again."""
_SETUPS = {
    "bash": 'source ./script; bind -x \'"\\C-o": printf "<<%s>>\\n" "$READLINE_LINE"\'',
    "zsh": 'autoload -U compinit; compinit -u -D; eval "$(<script)"; '
    "show() { printf '<<%s>>\\n' \"$BUFFER\" }; zle -N show; "
    "bindkey '^O' show; bindkey '^U' kill-whole-line",
}
_SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}

COMPLETED = [
    ("regis", "register "),
    ("run --popul", "run --population "),
    ("run --mode gen", "run --mode generational "),
    ("run --explore gau", "run --explore gaussian "),
    ("run --task qua", "run --task quadratic "),
    ("run --task rl --set deca", "run --task rl --set decay="),
    ("run --task rl --set decay=co", "run --task rl --set decay=cosine "),
    ("run --task rl --set decay=none --set hid", "run --task rl --set decay=none --set hidden="),
    ("run --task own.py --set lou", "run --task own.py --set loud="),
    ("run --task ow", "run --task own.py "),
    ("run --quick --warm", "run --quick --warm "),
    ("show las", "show last "),
    ("show 77", "show 77777777 "),
    ("compare last 77", "compare last 77777777 "),
    ("import fol", "import folder/"),
]
"""What is typed before Tab, and the line behind it, both without the program."""
IN_BASH = [
    ("run --task=qua", "run --task=quadratic "),
    ("run --task rl --set decay=cosine hid", "run --task rl --set decay=cosine hidden="),
    ("run --control --popul", "run --control --population "),
]


@pytest.fixture
def program(tmp_path: Path) -> Mapping[str, str]:
    """An environment with `pbt-flow`, a task and a store, in the working folder."""
    bin = tmp_path / "bin"
    bin.mkdir()
    file = bin / "pbt-flow"
    file.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[0] = {str(ROOT)!r}\n"
        "from pbt_flow.__main__ import main\nsys.exit(main())\n"
    )
    file.chmod(0o755)
    Path("folder").mkdir()
    Path("own.py").write_text(
        "class Own(Task):\n    def __init__(self, *, seed, device='cpu', loud: bool): ...\n"
    )
    make_store(Path("mlflow.db"))
    return {**os.environ, "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}", "TERM": "dumb"}


def make_store(path: Path, name: str = "toy pbt s0") -> None:
    """The two tables that are read, with a population and a run of somebody else's.

    That MLflow writes them so is what `test_the_ids_are_those_that_list_shows` holds.
    """
    import sqlite3

    with sqlite3.connect(path) as database:
        database.executescript(
            """
            CREATE TABLE runs (run_uuid, name, status, start_time, lifecycle_stage);
            CREATE TABLE tags ("key", value, run_uuid);
            INSERT INTO runs VALUES ('88888888aaaa', 'other', 'FINISHED', 2, 'active');
            INSERT INTO tags VALUES ('pbt.role', 'population', '77777777aaaa');
            """
        )
        row = ("77777777aaaa", name, "FINISHED", 1, "active")
        database.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?)", row)
    database.close()


class Shell:
    """An interactive shell on a terminal of its own, with the script of its completion loaded."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        Path("script").write_text(completion_script(make_parser(), name))
        leader, follower = pty.openpty()
        self.terminal = leader
        self.process = subprocess.Popen(
            _SHELLS[name], stdin=follower, stdout=follower, stderr=follower,
            env=dict(environment), start_new_session=True,
        )  # fmt: skip
        os.close(follower)
        self.line(f"{_SETUPS[name]}; echo '<<'ready'>>'\n", "")

    def line(self, keys: str, show: str = _SHOW) -> str:
        """The line behind some keys."""
        os.write(self.terminal, f"{keys}{show}".encode())
        text, end = "", time.monotonic() + PATIENCE
        while not (found := re.search("<<([^<]*)>>\r?\n", text)):
            assert time.monotonic() < end, f"the shell does not answer: {text!r}"
            if select.select([self.terminal], [], [], 1)[0]:
                text += os.read(self.terminal, 65536).decode(errors="replace")
        os.write(self.terminal, _CLEAR.encode())
        return found[1].replace("\r\n", "")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture(params=["bash", "zsh"])
def shell(request: pytest.FixtureRequest, program: Mapping[str, str]) -> Iterator[Shell]:
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param} on this machine")
    opened = Shell(request.param, program)
    opened.name = request.param  # type: ignore[attr-defined]
    yield opened
    opened.close()


def test_tab_completes_a_line(shell: Shell) -> None:
    cases = [*COMPLETED, *(IN_BASH if shell.name == "bash" else [])]  # type: ignore[attr-defined]
    found = {typed: shell.line(f"pbt-flow {typed}{_TAB}") for typed, _ in cases}
    assert found == {typed: f"pbt-flow {line}" for typed, line in cases}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_all_that_may_stand_there_is_offered(program: Mapping[str, str]) -> None:
    shell = Shell("bash", program)
    assert shell.line(f"pbt-flow show {_ALL}") == "pbt-flow show 77777777 last "
    offered = shell.line(f"pbt-flow run --task rl --set decay={_ALL}")
    assert offered == "pbt-flow run --task rl --set decay=cosine none "
    shell.close()


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish on this machine")
def test_fish_completes_a_line(program: Mapping[str, str]) -> None:
    Path("script").write_text(completion_script(make_parser(), "fish"))
    asked = "".join(f"echo '>'; complete -C 'pbt-flow {typed}'\n" for typed, _ in COMPLETED)
    told = subprocess.run(
        ["fish", "--no-config", "-c", f"source ./script\n{asked}"],
        env=dict(program), capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers = told.stdout.split(">\n")[1:]
    for (typed, line), answer in zip(COMPLETED, answers, strict=True):
        words = [one.partition("\t")[0] for one in answer.splitlines()]
        assert line.rstrip().split(" ")[-1] in words, typed


@pytest.mark.parametrize("task", sorted(bundled_tasks()))
def test_the_options_that_are_read_off_the_source_are_those_that_the_task_declares(
    task: str,
) -> None:
    offered = KINDS["options"](["pbt-flow", "run", f"--task={task}", "--set", ""])
    assert [word for word, _ in offered] == [f"{name}=" for name in declare(task).options]


def test_the_ids_are_those_that_list_shows(trained: Callable[..., list[Result]]) -> None:
    (made,) = trained(task="toy")
    pbt_flow.replay(made.run_id, seeds=1, quiet=True, engine="inline")
    listed = pbt_flow.list_populations()
    offered = run_words()
    assert [word for word, _ in offered] == [one.run_id[:8] for one in listed]
    assert [about for _, about in offered] == [f"{one.name}, finished" for one in listed]
    pbt_flow.delete(made.run_id, confirm=lambda _: True)
    assert [word for word, _ in run_words()] == [listed[0].run_id[:8]]


@pytest.mark.parametrize(
    "uri", ["http://localhost:1", "sqlite:///missing.db", "sqlite:///text.db", "mlruns", ""]
)
def test_where_nothing_can_be_read_nothing_is_offered_and_nothing_is_made(uri: str) -> None:
    Path("text.db").write_text("no database")
    before = sorted(Path.cwd().iterdir())
    assert run_words(uri) == []
    assert sorted(Path.cwd().iterdir()) == before


def test_what_a_shell_would_carry_out_is_not_offered(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text(
        "from typing import Literal\n"
        "class Own:\n"
        "    def __init__(self, *, kind: Literal['$(touch made)', '`touch made`', 'plain']): ...\n"
    )
    words = ["options", "pbt-flow", "run", "--task", "own.py", "--set", "kind="]
    assert print_suggestions(words) == 0
    assert capsys.readouterr().out == "kind=plain\n"


def test_the_name_of_a_run_neither_ends_the_line_nor_steers_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_store(Path("mlflow.db"), name="red\x1b[31m\nlast\tx")
    assert print_suggestions(["runs", "pbt-flow", "show", ""]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["last\tthe newest population", "77777777\tred [31m last x, finished"]


@pytest.mark.parametrize("words", [[], ["nonsense"], ["options"], ["options", "--task", "no.py"]])
def test_what_cannot_be_answered_is_no_error(
    words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_suggestions(words) == 0
    assert capsys.readouterr().out == ""


def test_tab_waits_for_no_import_that_takes_long() -> None:
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pbt_flow", COMMAND, "options", "--task", "rl"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert "pbt_flow.cli.suggestions" in imported
    assert not imported & {"mlflow", "torch", "numpy", "optuna", "pydantic", "pbt_flow.cli.parser"}
    assert "env=" in told.stdout


@pytest.mark.parametrize("name", SHELLS)
def test_the_script_is_printed_by_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", name]) == 0
    assert "pbt-flow" in capsys.readouterr().out
