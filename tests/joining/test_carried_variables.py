"""What a loop carries from pass to pass is found in its text, and what it only gathers is not."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pbt_flow.joining.carried_variables import carried_variables

_CARRIED = {
    "a counter": ("n = 0", "n += 1; print(n)", ["n"]),
    "a best score": ("best = None", "if best is None or s > best: best = s", ["best"]),
    "a list that is looked at": ("h = []", "h.append(s); print(len(h))", ["h"]),
    "a moving average": ("e = torch.zeros(2)", "e.mul_(0.9).add_(s); print(e.sum())", ["e"]),
    "a cycle": ("it = itertools.cycle([1])", "x = next(it)", ["it"]),
    "an iterator under a name": ("it = iter([1])", "if (x := next(it, None)): print(x)", ["it"]),
    "an entry of a dict": ("d = {'n': 0}", "d['n'] += 1; print(d)", ["d"]),
    "what a call gives back": ("h = None", "out, h = print(s, h), s", ["h"]),
    "an attribute": ("a = Namespace(lr=1)", "a.lr *= 0.9; print(a.lr)", ["a.lr"]),
    "what is set in one branch": ("x = 0", "if s == 0: x = s\nprint(x)", ["x"]),
    "a buffer of its own": ("b = Own()", "b.add(s); print(b.all())", ["b"]),
    "what a comprehension goes through": ("h = []", "h.append(s); print([h for h in h])", ["h"]),
    "two": ("n = m = 0", "n, m = m, n\nprint(n)", ["m", "n"]),
    "in a condition": ("n = 0", "while n < s: n += 1", ["n"]),
}
_NOT_CARRIED = {
    "what nobody reads": ("n = 0", "n += 1"),
    "the losses of a curve": ("h = []", "h.append(s)"),
    "a sum of one pass": ("n = 0", "n = 0\nfor k in range(2): n += k\nprint(n)"),
    "a list of one pass": ("h = []", "h = []; h.append(s); print(len(h))"),
    "what is not there before": ("", "if s == 0: x = s\nif s == 0: print(x)"),
    "what is only read": ("x = 1", "print(x)"),
    "what is set in both branches": ("x = 0", "if s: x = 1\nelse: x = 2\nprint(x)"),
    "what no other branch comes to": ("x = 0", "if s: x = 1\nelse: continue\nprint(x)"),
    "what is tried": ("x = 0", "try: x = int('3')\nexcept ValueError: x = 0\nprint(x)"),
    "what is opened": ("x = 0", "with open('/dev/null') as x: print(x)"),
    "what another scope calls so": ("x = 0", "print([x for x in range(3)], (lambda x: x)(s))"),
    "a star's argument": ("n = 0", "n += 1; print((lambda *n: n)(s))"),
    "a file": ("f = open('/dev/null')", "for line in f: print(line)"),
    "a tool": ("bar = Tool()", "bar.update(1); bar.set_postfix(a=1)"),
    "what is kept": ("kept = {'n': 0}", "kept['n'] += 1; print(kept)"),
    "a part of what is kept": ("kept = Namespace(n=0)", "kept.n += 1; print(kept.n)"),
    "a part of a module": ("", "itertools.n = getattr(itertools, 'n', 0) + 1; print(itertools.n)"),
}
_BEFORE = """
import itertools
from argparse import Namespace
import torch
from carried_tool import Tool
class Own:
    def __init__(self): self.found = []
    def add(self, value): self.found.append(value)
    def all(self): return self.found
"""
_TOOL = """
class Tool:
    def update(self, count): pass
    def set_postfix(self, **told): pass
"""


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """What is found in the text of a script, which is run."""
    (tmp_path / "carried_tool.py").write_text(_TOOL, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def find(text: str) -> list[str]:
        found = list[list[str]]()

        def steps() -> Any:
            frame: FrameType = sys._getframe(1)
            kept = frame.f_locals.get("kept")
            found.append(carried_variables(frame, lambda value: value is kept is not None))
            return iter(range(2))

        file = tmp_path / "script.py"
        file.write_text(text, "utf-8")
        variables = {"__name__": "script", "__file__": str(file), "steps": steps}
        exec(compile(text, str(file), "exec"), variables)
        (one,) = found
        return one

    return find


def _indented(text: str, by: str) -> str:
    return "".join(f"{by}{line}\n" for line in text.splitlines())


@pytest.mark.parametrize("where", ["file", "function"])
@pytest.mark.parametrize("what", _CARRIED | _NOT_CARRIED)
def test_what_a_loop_carries_is_found(carried, what: str, where: str) -> None:
    before, body, *expected = (_CARRIED | _NOT_CARRIED)[what]
    loop = f"{before}\nfor s in steps():\n{_indented(body, '    ')}"
    if where == "function":
        loop = f"def main():\n{_indented(loop, '    ')}main()\n"
    assert carried(_BEFORE + loop) == (expected[0] if expected else [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("for i, s in enumerate(steps()):\n    print(i)\n", ["i"]),
        ("for i, s in enumerate(steps()):\n    print(s)\n", []),
        ("n = 0\npasses = steps()\nwhile next(passes, None):\n    n += 1\n    print(n)\n", []),
        ("n = 0\npasses = steps()\nfor s in passes:\n    n += 1\n    print(n)\n", []),
        (
            "class Trainer:\n    def fit(self):\n        self.n = 0\n"
            "        for s in steps():\n            self.n += 1\n            print(self.n)\n"
            "Trainer().fit()\n",
            ["self.n"],
        ),
        (
            "n = 0\ndef main():\n    global n\n    for s in steps():\n        n += 1\n"
            "        print(n)\nmain()\n",
            ["n"],
        ),
    ],
)
def test_so_is_what_counts_around_it(carried, text: str, expected: list[str]) -> None:
    """Where the loop cannot be seen from where its passes are made, nothing is said."""
    assert carried(text) == expected
