"""In a real kernel: classes and functions of cells train, and one line of progress is written over.

`tests/task/test_session.py` has what needs no kernel.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from patience import PATIENCE

pytest.importorskip("ipykernel", reason="ipykernel is not installed")

from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "notebook.ipynb"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("database"),
    # Of the kernel's client, and not ours to mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Executes cells in a fresh kernel, whose working folder is the test's."""
    # What jupyter keeps of a user's is not read.
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))

    def execute(*cells: str) -> list[Any]:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        return run(notebook, tmp_path)

    return execute


def run(notebook: Any, folder: Path) -> list[Any]:
    """The outputs of each cell that has code."""
    client = NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3")
    client.execute(cwd=str(folder), env={**os.environ, "PYTHONPATH": str(ROOT)})
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def text_of(outputs: Any) -> str:
    """All that was printed, on both streams."""
    return "".join(one.text for one in outputs if one.output_type == "stream")


CLASS = """
import torch
import pbt_flow
from optuna.distributions import FloatDistribution

WIDTH_OF_MINE = 3

def target(x):
    return x.sum(1, keepdim=True)

class Line(pbt_flow.Task):
    space = {"lr": FloatDistribution(1e-3, 0.3, log=True)}
    direction = "minimize"

    def __init__(self, *, seed, device="cpu"):
        super().__init__(seed=seed, device=device)
        torch.manual_seed(seed)
        self.net = torch.nn.Linear(WIDTH_OF_MINE, 1)

    def loss(self):
        x = torch.randn(32, WIDTH_OF_MINE)
        return (self.net(x) - target(x)).square().mean()

    def train(self, hparams, steps):
        optimizer = torch.optim.SGD(self.net.parameters(), lr=hparams["lr"])
        for _ in range(steps):
            optimizer.zero_grad()
            self.loss().backward()
            optimizer.step()
        return {}

    def evaluate(self):
        with torch.no_grad():
            return self.loss().item()

    def state_dict(self):
        return {"net": self.net.state_dict()}

    def load_state_dict(self, state):
        self.net.load_state_dict(state["net"])

    def model(self):
        return self.net

small = {"population": 2, "turns": 2, "interval": 5, "mode": "generational"}
"""
ESSENCE = """
def essence(result):
    turns = [turn for own in result.history.turns.values() for turn in own]
    turns.sort(key=lambda turn: (turn.member, turn.number))
    return [(turn.plan, turn.score, turn.checkpoint) for turn in turns]
"""


def test_a_class_of_a_cell_trains_in_workers_and_inline_and_is_resumed_by_another_kernel(
    execute: Any,
) -> None:
    *_, trained, alike, shown = execute(
        CLASS + ESSENCE,
        "result = pbt_flow.run(Line, workers=2, **small)",
        "inline = pbt_flow.run(Line, engine='inline', quiet=True, **small)\n"
        "print(essence(result) == essence(inline))",
        "print(result.run_id)\nresult",
    )
    assert text_of(alike).strip() == "True"
    printed, one = shown
    run_id = printed.text.strip()
    assert one.data["text/html"].startswith("<div><p><strong>The winner reaches score")
    assert one.data["text/plain"].startswith("<Result of population ")
    _check_progress(trained)
    # Nothing that the class uses is in the store; the cell alone brings it back.
    kept = [path for path in Path().rglob("*") if _is_kept(path)]
    assert kept
    assert not [path for path in kept if b"WIDTH_OF_MINE" in path.read_bytes()]
    resume = f"pbt_flow.resume('{run_id}', turns=3, quiet=True, engine='inline')"
    refused, _, resumed = execute(
        f"import pbt_flow\ntry:\n    {resume}\nexcept pbt_flow.TaskError as error:\n"
        "    print(error)",
        CLASS,
        f"print({resume}.turns, pbt_flow.load('{run_id}').winner.model())",
    )
    told = "Line was defined in a notebook or at a prompt, and no file or store has it: execute "
    # A library may warn in the first cell that imports it.
    assert told in text_of(refused)
    assert text_of(resumed).splitlines()[-1] == "6 Linear(in_features=3, out_features=1, bias=True)"


def _is_kept(path: Path) -> bool:
    """Whether a file is one of the population's, and not the kernel's own."""
    return path.is_file() and not path.parts[0].startswith(("jupyter", "ipython"))


def _check_progress(outputs: Any) -> None:
    """One line that is written over, and whole lines without a terminal's colours."""
    (line,) = [one for one in outputs if one.output_type == "display_data"]
    assert line.data.keys() == {"text/plain"}
    assert line.data["text/plain"].startswith("4 of 4 turns; best score ")
    printed = [text for text in text_of(outputs).splitlines() if "INFO" not in text]
    assert "\x1b" not in text_of(outputs)
    assert not [text for text in printed if text.startswith("[")]
    assert 2 <= len(printed) <= 8


def test_the_example_runs_from_its_first_cell_to_its_last(execute: Any, tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLE, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not kept"
    nbformat.validate(notebook)
    outputs = run(notebook, tmp_path)
    kinds = [{kind for one in of for kind in one.get("data", {})} for of in outputs]
    assert "text/html" in kinds[2]
    assert "image/png" in kinds[3]
    assert "<table" in outputs[4][0].data["text/html"]
    assert outputs[5][0].data["text/plain"].startswith("(")
