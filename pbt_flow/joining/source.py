"""What can be read off a script without running it: whether it joins a population."""

from __future__ import annotations

import ast
from pathlib import Path

from pbt_flow.exceptions import TaskError


def is_joining(path: Path) -> bool:
    """Whether a file is a script that joins a population, and defines no task of its own.

    The file is not run to find out: a script without a guard would begin to train.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False  # Whoever imports the file says what is wrong with it.
    package, functions = _names(tree)
    has_join = False
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(map(_is_task, node.bases)):
            return False
        if isinstance(node, ast.Call):
            has_join = has_join or _is_join(node.func, package, functions)
    return has_join


def is_training(path: Path) -> bool:
    """Whether a file has a loop of its own and no class: to import it would be to train.

    A file that cannot be read is none; whoever imports it says what is wrong with it.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    if any(isinstance(node, ast.ClassDef) for node in ast.walk(tree)):
        return False
    return any(isinstance(statement, ast.For | ast.While) for statement in tree.body)


def compile_script(path: Path) -> object:
    """The code of a script.

    Raises:
        TaskError: The file cannot be read, or is not Python.
    """
    try:
        return compile(path.read_bytes(), str(path), "exec")
    except (OSError, SyntaxError, ValueError) as error:
        raise TaskError(f"script {path} cannot be read: {error}") from error


def _names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """By which names a file knows `pbt_flow`, and by which ones its `join`."""
    package, functions = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "pbt_flow":
                    package.add(alias.asname or "pbt_flow")
        elif isinstance(node, ast.ImportFrom) and node.module in ("pbt_flow", "pbt_flow.joining"):
            joins = [alias for alias in node.names if alias.name == "join"]
            functions.update(alias.asname or alias.name for alias in joins)
    return package, functions


def _is_join(function: ast.expr, package: set[str], functions: set[str]) -> bool:
    if isinstance(function, ast.Name):
        return function.id in functions
    if not (isinstance(function, ast.Attribute) and function.attr == "join"):
        return False
    return isinstance(function.value, ast.Name) and function.value.id in package


def _is_task(base: ast.expr) -> bool:
    name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
    return name == "Task"
