"""What the README and the docs show is true: each block of code runs, each command is one."""

from __future__ import annotations

import contextlib
import difflib
import doctest
import functools
import importlib
import io
import re
import runpy
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import pbt_flow
from pbt_flow.cli.arguments import split_words
from pbt_flow.cli.parser import make_parser
from pbt_flow.exceptions import CheckpointError
from pbt_flow.settings import STRATEGIES
from pbt_flow.strategies.text import parse
from pbt_flow.task import TaskError, find_task
from pbt_flow.testing import TaskContract

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]
DOCUMENTS += sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
EXAMPLES = ROOT / "docs" / "examples"
PLUGINS = {
    "exploit": {"greedy": runpy.run_path(str(EXAMPLES / "plugin" / "greedy.py"))["Greedy"]},
}
"""The strategies that docs/extending.md has installed before it uses them."""
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
FOREIGN = [
    ["python", "-m", "venv"],
    [".", ".venv/bin/activate"],
    ["python", "-m", "pytest"],
    ["python", "-m", "pbt_flow.tasks.toy"],
    ["python", "-m", "mkdocs"],
    ["pip", "install"],
    ["mlflow", "ui"],
    ["mlflow", "server"],
    ["docker", "build", "-t", "pbt-flow", "."],
]
"""How commands begin whose words are not ours to check."""
SENTENCES = [name for name in dir(TaskContract) if name.startswith("test_")]


def blocks(document: str, language: str) -> list[str]:
    """The blocks of one language in a document."""
    text = (ROOT / document).read_text()
    return [
        body
        for found, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        if found == language
    ]


def prose(document: str) -> str:
    """A document without its blocks."""
    text = (ROOT / document).read_text()
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def commands(document: str) -> Iterator[list[str]]:
    """Each command of a document as words: those of its bash blocks, and those in its sentences."""
    lines = [line for block in blocks(document, "bash") for line in block.splitlines()]
    # In a sentence, a command may be broken over two lines.
    lines += [
        " ".join(code.split())
        for code in re.findall(r"`((?:python|mlflow) [^`]+)`", prose(document))
    ]
    for line in lines:
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield [word for word in words[:end] if not re.fullmatch(r"[A-Z_]+=\S*", word)]
            words = words[end + 1 :]


# --- blocks ---------------------------------------------------------------------------------------


def test_every_block_says_what_it_is():
    """What is neither run nor parsed must say so: text, a diff, or a tree without a language."""
    for document in DOCUMENTS:
        found = re.findall(r"^```(\w*)\n", (ROOT / document).read_text(), re.MULTILINE)
        assert set(found) <= {"", "text", "diff", "python", "bash"}, document


@pytest.fixture(scope="module")
def population(migrated_database):
    """The run of a population that a document may call `run_id`, and where it is."""
    uri = f"sqlite:///{migrated_database.with_name('docs.db')}"
    migrated_database.with_name("docs.db").write_bytes(migrated_database.read_bytes())
    with pytest.MonkeyPatch.context() as here:
        here.setenv("MLFLOW_TRACKING_URI", uri)
        here.chdir(migrated_database.parent)
        settings = {"population": 4, "turns": 3, "interval": 5, "options": {"dimensions": 5}}
        task = f"{ROOT}/tasks/quadratic.py"
        result = pbt_flow.run(task, engine="inline", quiet=True, **settings)
        # The champion that reading.md loads.
        pbt_flow.run("sample_tasks:Regression", engine="inline", quiet=True, register="lander")
    return uri, result.run_id


@pytest.mark.slow
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if blocks(name, "python")])
def test_the_code_of_a_document_runs_as_it_stands(document, population, tmp_path, monkeypatch):
    """All its blocks one after the other, as a script of the reader's."""
    script = tmp_path / "script.py"
    script.write_text("\n\n".join(blocks(document, "python")))
    uri, run_id = population
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.syspath_prepend(EXAMPLES)
    main = types.ModuleType("__main__")
    # A notebook's main module has no file.
    place = {} if document == "docs/notebooks.md" else {"__file__": str(script)}
    main.__dict__.update(place, run_id=run_id)
    monkeypatch.setitem(sys.modules, "__main__", main)
    # Worker processes would take seconds to import torch; other tests are about them.
    monkeypatch.setattr(pbt_flow, "run", functools.partial(pbt_flow.run, engine="inline"))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(script.read_text(), script, "exec"), main.__dict__)
    assert said.getvalue()


@pytest.mark.parametrize(
    "task", ["gan_inception", "quadratic", "rl", "rl_actions", "rl_environments"]
)
def test_the_examples_in_the_docstrings_of_the_tasks_are_true(task):
    try:
        module = importlib.import_module(f"pbt_flow.tasks.{task}")
    except TaskError as error:
        pytest.skip(str(error))
    found = doctest.testmod(module)  # those of translation: see test_translation.py
    assert found.attempted
    assert not found.failed


# --- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_command_of_a_document_is_one(document):
    for words in commands(document):
        assert is_command(words), words


def is_command(words: list[str]) -> bool:
    """Whether the program of ours, MLflow's project or the file that is named takes these words."""
    if words[:3] == ["python", "-m", "pbt_flow"]:
        takes(words[3:])
    elif words[:2] == ["mlflow", "run"]:
        entry = PROJECT[words[words.index("-e") + 1]]["parameters"] if "-e" in words else {}
        given = [words[n + 1].partition("=") for n, word in enumerate(words) if word == "-P"]
        assert {name for name, _, _ in given} <= set(entry), words
    elif words[0] == "python" and (words[1] != "-m" or words[2].startswith("benchmarks.")):
        # By its path it would not find pbt_flow in a clone, where nothing is installed.
        assert not words[1].startswith("benchmarks/"), words
        if words[1] == "-m":
            words = ["python", words[2].replace(".", "/") + ".py", *words[3:]]
        script = (ROOT / words[1]).read_text()
        # What has a space in it is a value that was put between quotes.
        options = [word for word in words[2:] if word.startswith("--") and " " not in word]
        assert all(f'"{option}"' in script for option in options), words
    elif words[:2] == ["docker", "compose"]:
        assert (ROOT / words[words.index("-f") + 1]).is_file(), words
        if "pbt-flow" in words:
            takes(words[words.index("pbt-flow") + 1 :])
    elif words[0] == "sbatch":
        assert (ROOT / words[1]).is_file(), words
        takes(words[2:])
    elif words[:2] == ["docker", "run"]:
        takes(words[words.index("pbt-flow") + 1 :])
    else:
        return any(words[: len(one)] == one for one in FOREIGN)
    return True


def takes(words: list[str]) -> None:
    """Check words as the command line would, with the strategies and the task that they name."""
    if "--help" in words:
        return
    given = vars(make_parser().parse_args(split_words(words)[0]))
    for name, kinds in STRATEGIES.items():
        if given.get(name):
            parse(given[name], {**kinds, **PLUGINS.get(name, {})}, name)
    task = given.get("task") or ""
    if task.startswith("docs/"):
        find_task(f"{ROOT}/{task}")


@pytest.mark.parametrize(
    "words",
    [
        "python -m pbt_flow run --tusk rl",
        "python -m pbt_flow run --task rl --exploit truncation:share=0.2",
        "python -m benchmarks.toys --chioces",
        "mlflow run . -e pbt -P tasks=rl",
        "mlflow run . -e bpt",
        "docker run --rm pbt-flow run --tusk rl",
        "docker run --rm pbt_flow run --task rl",
        "mlfow ui",
    ],
)
def test_a_command_that_is_none_is_found_out(words, capsys):
    try:
        good = is_command(words.split())
    except (AssertionError, KeyError, ValueError, SystemExit):
        good = False
    assert not good


def test_each_requirements_file_that_a_document_names_is_there():
    for document in DOCUMENTS:
        for name in re.findall(r"\brequirements[\w-]*\.txt", (ROOT / document).read_text()):
            assert (ROOT / name).exists(), (document, name)


def test_each_extra_that_a_document_names_is_one_and_each_is_told():
    project = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    extras = set(re.findall(r"^([\w-]+) = \[", project.split("\n\n[")[0], re.MULTILINE))
    for document in DOCUMENTS:
        for named in re.findall(r"pip install '\.\[([\w,-]+)\]'", (ROOT / document).read_text()):
            assert set(named.split(",")) <= extras, (document, named)
    told = (ROOT / "docs/start.md").read_text().split("| extra | for |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([\w-]+)`", told)) & extras == extras


def test_the_readme_shows_a_picture_first_and_fits_on_a_page():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 100
    written = [line for line in lines if line]
    assert written[0].startswith("# ")
    assert written[1].startswith("![")


# --- pictures and links ---------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_file_that_a_document_names_is_there(document):
    for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose(document)):
        assert (ROOT / document).parent.joinpath(name).exists(), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_section_that_a_document_points_to_is_there(document):
    for name, section in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", prose(document)):
        there = (ROOT / document).parent.joinpath(name) if name else ROOT / document
        titles = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
        known = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert section in known, f"{name}#{section}"


def test_the_tree_shows_each_module_and_no_other():
    tree = (ROOT / "docs/design.md").read_text().split("```\npbt_flow/")[1].split("```")[0]
    package, shown, wing = ROOT / "pbt_flow", set(), ""
    for line in tree.splitlines():
        if found := re.match(r"^  (\w+)/ ", line):
            wing = found[1]
            shown.add(wing)
        elif found := re.match(r"^  (\w+)\.py ", line):
            shown.add(found[1])
        elif found := re.match(r"^    ((?:\w+, )*\w+)  ", line):
            shown.update(f"{wing}.{name}" for name in found[1].split(", "))
    paths = [path.relative_to(package).with_suffix("") for path in package.rglob("*.py")]
    modules = {".".join(path.parts) for path in paths if not path.name.startswith("__")}
    wings = {path.parts[0] for path in paths if len(path.parts) > 1}
    # The contracts are named by what they are for.
    assert {name for name in modules if not name.startswith("testing.")} | wings == shown


# --- writing a task -------------------------------------------------------------------------------


PAIRS = {"a script that joins": ("script_before", "script"), "a class": ("before", "after")}
"""The files whose differences docs/writing.md shows, in its order."""


def changes(pair: tuple[str, str]) -> tuple[list[str], list[str]]:
    """The lines that the plain script lost and won, without empty ones."""
    before, after = (EXAMPLES.joinpath(f"{name}.py").read_text() for name in pair)
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    lost, won = ([line[2:] for line in lines if line[:2] == sign] for sign in ("- ", "+ "))
    return [line for line in lost if line], [line for line in won if line]


def test_the_lines_that_are_counted_in_words_are_those_of_the_files():
    assert len(changes(PAIRS["a class"])[1]) == 9
    assert "Nine lines were added or changed" in prose("docs/writing.md")
    pair = [str(EXAMPLES / f"{name}.py") for name in PAIRS["a script that joins"]]
    counted = subprocess.run(
        ["git", "diff", "--no-index", "--numstat", *pair], capture_output=True, text=True
    )
    assert counted.stdout.split()[:2] == ["8", "2"]
    assert "Eight lines were added and two removed" in prose("docs/writing.md")
    assert "eight lines more, two less" in prose("README.md")


@pytest.mark.parametrize("number", range(2), ids=PAIRS)
def test_the_diff_that_is_shown_is_that_of_the_files(number):
    shown, pair = blocks("docs/writing.md", "diff")[number], [*PAIRS.values()][number]
    lost, won = (re.findall(rf"^\{sign}(.+)$", shown, re.MULTILINE) for sign in "-+")
    assert (lost, won) == changes(pair)
    context = set(re.findall(r"^ (.+)$", shown, re.MULTILINE))
    assert context <= set((EXAMPLES / f"{pair[0]}.py").read_text().splitlines())


def test_the_script_trains_before(capsys):
    runpy.run_path(str(EXAMPLES / "before.py"), run_name="__main__")
    scores = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert scores[-1] > 0.9
    assert Path("digits.pt").exists()


@pytest.mark.slow
def test_the_script_trains_a_population_after(monkeypatch, population):
    """In the example's own words but for where it trains."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", population[0])
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    sys.modules["__main__"].__file__ = str(EXAMPLES / "after.py")
    monkeypatch.setattr(pbt_flow, "run", functools.partial(pbt_flow.run, engine="inline"))
    code = compile((EXAMPLES / "after.py").read_text(), "after.py", "exec")
    exec(code, sys.modules["__main__"].__dict__)
    assert set(torch.load("digits.pt")) == {"net", "optimizer"}


class TestTheScriptAfter(TaskContract):
    task = find_task(f"{EXAMPLES}/after.py")
    steps = 20


def written(monkeypatch) -> dict[str, type]:
    """The classes of docs/writing.md."""
    monkeypatch.syspath_prepend(EXAMPLES)
    there = {"__name__": "writing"}
    exec("\n".join(blocks("docs/writing.md", "python")), there)
    return {name: kind for name, kind in there.items() if isinstance(kind, type)}


def keep(task: type, sentences: list[str]) -> None:
    """Run some sentences of the contract against a task."""
    contract = type("Contract", (TaskContract,), {"task": task, "steps": 20})()
    for sentence in sentences:
        getattr(contract, sentence)()


def test_each_mistake_that_is_shown_is_caught_by_the_sentence_beside_it(monkeypatch):
    text = "".join(blocks("docs/writing.md", "python"))
    mistakes = re.findall(
        r"^class (\w+)\(Digits\):\n(?:(?:    .*)?\n)*?    # .* (test_\w+)$", text, re.M
    )
    classes = written(monkeypatch)
    assert len(mistakes) == 3
    for name, sentence in mistakes:
        with pytest.raises((AssertionError, CheckpointError)):
            keep(classes[name], [sentence])


def test_the_complete_task_keeps_the_contract(monkeypatch):
    keep(written(monkeypatch)["Complete"], SENTENCES)


def test_all_sentences_of_the_contract_are_told():
    told = re.findall(r"^\| `(test_\w+)` \|", (ROOT / "docs/writing.md").read_text(), re.MULTILINE)
    assert sorted(told) == SENTENCES
