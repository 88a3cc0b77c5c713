"""The documentation site: what is made for it from the repository and from the code.

`.ci/run` builds it; these tests need no MkDocs.
"""

from __future__ import annotations

import argparse
import itertools
import re
from pathlib import Path

import pytest
import yaml

import pbt_flow
from pbt_flow.cli.parser import make_parser, subparsers
from pbt_flow.settings import Settings
from pbt_flow.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


@pytest.fixture(autouse=True)
def hooks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "hooks"))


def navigation(entries: list) -> list[str]:
    """The pages of a navigation, in its order."""
    found = []
    for entry in entries:
        (inner,) = entry.values() if isinstance(entry, dict) else (entry,)
        found += navigation(inner) if isinstance(inner, list) else [inner]
    return found


# --- pages and links ------------------------------------------------------------------------------


AT_THE_TOP = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
DOCUMENTS = [*AT_THE_TOP, *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]


def test_each_document_is_one_page_of_the_navigation():
    from links import page_of

    assert sorted(navigation(SITE["nav"])) == sorted(map(page_of, DOCUMENTS))


@pytest.mark.parametrize(
    ("document", "link", "on_the_site"),
    [
        ("docs/tour.md", "reading.md", "reading.md"),
        ("docs/tour.md", "reading.md#the-figures", "reading.md#the-figures"),
        ("docs/tour.md", "pictures/gan.png", "pictures/gan.png"),
        ("docs/tour.md", "../README.md", "index.md"),
        ("docs/tour.md", "../tasks/gan.py", "source/tasks/gan.py.md"),
        ("docs/writing.md", "examples/after.py", "source/docs/examples/after.py.md"),
        ("docs/examples/more.md", "../tour.md", "../tour.md"),
        ("docs/examples/more.md", "after.py", "../source/docs/examples/after.py.md"),
        ("README.md", "docs/tour.md", "tour.md"),
        ("README.md", "docs/pictures/rl.png", "pictures/rl.png"),
        ("README.md", "CONTRIBUTING.md#find-your-way", "contributing.md#find-your-way"),
        ("CONTRIBUTING.md", ".pre-commit-config.yaml", "source/pre-commit-config.yaml.md"),
        ("CONTRIBUTING.md", ".ci/run", "source/ci/run.md"),
        ("docs/tour.md", "#look", "#look"),
        ("docs/tour.md", "https://arxiv.org/abs/1711.09846", "https://arxiv.org/abs/1711.09846"),
    ],
)
def test_a_link_leads_where_it_leads_in_the_repository(document, link, on_the_site):
    from links import for_site

    text = f"See [this]({link}), and\n\n```python\nprint([this]({link}))\n```\n\n[that]({link})."
    moved = f"See [this]({on_the_site}), and\n\n```python\nprint([this]({link}))\n```\n\n"
    assert for_site(text, document) == f"{moved}[that]({on_the_site})."


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_links_to_is_a_file(document):
    """The site shows a file as a page; it has none for a folder."""
    from links import linked_files

    for path in linked_files((ROOT / document).read_text(), document):
        assert (ROOT / path).is_file(), path


def test_no_two_documents_become_one_page():
    from links import linked_files, page_of

    linked = {path for name in DOCUMENTS for path in linked_files((ROOT / name).read_text(), name)}
    paths = linked | set(DOCUMENTS)
    assert len(set(map(page_of, paths))) == len(paths)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_headings_and_lists_begin_after_an_empty_line(document):
    """GitHub shows them without one as well, and the site does not."""
    prose = re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(), flags=re.M | re.S)
    lines = prose.splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"#+ ", line):
            assert not before, line
        if re.match(r"(?:[-*+]|\d+\.) ", line):
            assert re.match(r"$|(?:[-*+]|\d+\.) | {2,}", before), line


def test_code_in_a_table_may_have_bars():
    from tables import with_bars

    row = r"| `drop: float \| None` | `a<b \| c` |"
    shown = "| <code>drop: float &#124; None</code> | <code>a&lt;b &#124; c</code> |"
    assert with_bars(f"{row}\nin `a \\| b` prose\n") == f"{shown}\nin `a \\| b` prose\n"


@pytest.mark.parametrize(
    ("page", "addresses"),
    [
        ('<a href="https://arxiv.org/abs/1711.09846">paper</a>', []),
        ('<script src="assets/a.js"></script><img src="pictures/rl.png">', []),
        ("<script src=https://cdn.example/a.js></script>", ["https://cdn.example/a.js"]),
        ('<img alt="x" src="//img.example/a.png">', ["//img.example/a.png"]),
        ('<link rel="stylesheet" href="https://f.example/css?a=b">', ["https://f.example/css?a=b"]),
        ('<link href="https://f.example" rel=preconnect>', ["https://f.example"]),
        ('<link rel="canonical" href="https://docs.example/">', []),
        ("@font-face { src: url('https://f.example/a.woff2') }", ["https://f.example/a.woff2"]),
        ('@import "https://f.example/a.css";', ["https://f.example/a.css"]),
    ],
)
def test_what_a_page_would_fetch_from_elsewhere_is_found(page, addresses):
    from offline import fetched_from_elsewhere

    assert fetched_from_elsewhere(page) == addresses


# --- references -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command_line():
    with pytest.MonkeyPatch.context() as here:
        here.syspath_prepend(str(ROOT / "docs" / "hooks"))
        import command_line

        return command_line.markdown()


@pytest.mark.parametrize("name", subparsers(make_parser()))
def test_the_reference_has_each_word_and_option_of_a_command(name, command_line):
    command = subparsers(make_parser())[name]
    section = command_line.split(f"\n## {name}\n")[1].split("\n## ")[0]
    for action in command._actions:
        for option in action.option_strings:
            told = re.search(rf"`{option}[ `]", section)
            assert bool(told) == (action.dest != "help" and action.help != argparse.SUPPRESS), (
                option
            )
        if not action.option_strings:
            assert f"| `{action.metavar}` |" in section, action.dest


def test_the_reference_has_each_task_that_comes_along(command_line):
    for name in TASKS:
        section = command_line.split(f"\n### {name}\n")[1].split("\n### ")[0]
        assert "what is searched" in section


def test_a_cell_of_a_table_is_one_line_without_bars():
    import command_line

    assert command_line.cell("one | two\n three") == "one &#124; two three"


@pytest.mark.slow
def test_the_reference_of_python_has_each_public_name_in_the_order_of_the_front_door():
    import front_door

    made = front_door.markdown()
    shown = re.findall(r'^    options: \{"heading": "([\w.]+)"', made, re.MULTILINE)
    # What `join` returns, and a method whose class is shown as a table.
    assert [name for name in shown if name not in ("Join", "Settings.for_task")] == pbt_flow.__all__
    for name in Settings.__dataclass_fields__:
        assert f"| `{name}` | " in made
    assert "\nPBTError\n|-- SettingsError " in made


@pytest.mark.parametrize("page", ["docs/command_line.md", "docs/api.md"])
def test_a_page_that_is_filled_in_says_by_what(page):
    (place,) = re.findall(r"^<!-- generated: (.+) -->$", (ROOT / page).read_text(), re.MULTILINE)
    assert f'    "{place}": ' in (ROOT / "docs/hooks/pages.py").read_text()


def test_the_tools_of_the_site_are_pinned_and_used_by_ci():
    lines = (ROOT / "requirements-docs.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in pins)
    ci = (ROOT / ".ci/run").read_text()
    assert "requirements-docs.txt" in ci
    (build,) = re.findall(r"mkdocs build (.*)", ci)
    assert "--strict" in build
    # MkDocs counts the warnings that it prints.
    assert not set(build.split()) & {"--quiet", "-q"}
