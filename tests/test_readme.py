"""What the README shows is true."""

import re
from pathlib import Path

import pytest

import pbt_flow

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_task_trains_as_it_stands(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "mine.py"
    path.write_text(code)
    settings = {"population": 4, "turns": 5, "interval": 20, "engine": "inline", "quiet": True}
    result = pbt_flow.run(f"{path}:Mine", **settings)
    first = [turns[0].score for turns in result.history.turns.values()]
    assert result.status == "finished"
    assert result.winner.score < min(first)


@pytest.mark.parametrize(
    "document", ["README.md", "docs/design.md", "docs/reading.md", "docs/results.md"]
)
def test_each_file_that_a_document_names_is_there(document):
    text = (ROOT / document).read_text()
    for name in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / document).parent.joinpath(name).exists(), name


def test_the_tree_shows_each_module_and_no_other():
    tree = README.split("```\npbt_flow/")[1].split("```")[0]
    shown = set(re.findall(r"^  ([\w/.]+)", tree, re.MULTILINE))
    modules = {path.name for path in (ROOT / "pbt_flow").glob("*.py")}
    assert shown == modules - {"__init__.py", "__main__.py", "errors.py"} | {"engines/"}
