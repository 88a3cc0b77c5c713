"""The keyword arguments of a class, read from its source: nothing is imported, nothing runs.

It is for answers that must come at once, such as those to the Tab key: an import of torch takes
seconds. What cannot be read off the file's text, such as a base class in another package, is
left out.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path


def constructor_options(
    file: Path, name: str = "", *, without: Sequence[str] = ()
) -> dict[str, list[str]]:
    """The arguments of a class's constructor, each with the words that it takes.

    Args:
        file: The source.
        name: The class; where it is empty, the last class of the file that has a constructor.
        without: Arguments that are left out.

    Returns:
        The words are those of a `Literal`, or `true` and `false` of a `bool`; empty for an
        argument that takes anything else. No arguments where the file cannot be read.
    """
    tree = _tree(file)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    candidates = [name] if name else list(reversed(classes))
    for candidate in candidates:
        constructor = _constructor(candidate, classes)
        if constructor is None:
            continue
        arguments = [*constructor.args.args[1:], *constructor.args.kwonlyargs]
        return {
            one.arg: _words(one.annotation, tree, file)
            for one in arguments
            if one.arg not in without
        }
    return {}


def _tree(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError):
        return ast.Module(body=[], type_ignores=[])


def _constructor(name: str, classes: dict[str, ast.ClassDef]) -> ast.FunctionDef | None:
    """The `__init__` of a class, or the one that it inherits from a class of the same file."""
    waiting, seen = [name], set[str]()
    while waiting:
        found = classes.get(one := waiting.pop(0))
        if found is None or one in seen:
            continue
        seen.add(one)
        for node in found.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return node
        waiting += [base.id for base in found.bases if isinstance(base, ast.Name)]
    return None


def _words(annotation: ast.expr | None, tree: ast.Module, file: Path) -> list[str]:
    """The words that an annotation allows; empty where it allows more than words."""
    if isinstance(annotation, ast.Name):
        if annotation.id == "bool":
            return ["true", "false"]
        annotation = _meaning(annotation.id, tree, file)
    found = list[str]()
    for part in _parts_of_union(annotation):
        if not isinstance(part, ast.Subscript) or ast.unparse(part.value).split(".")[-1] != (
            "Literal"
        ):
            continue
        values = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
        found += [str(one.value) for one in values if isinstance(one, ast.Constant)]
    return found


def _parts_of_union(annotation: ast.expr | None) -> list[ast.expr]:
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return [*_parts_of_union(annotation.left), *_parts_of_union(annotation.right)]
    return [] if annotation is None else [annotation]


def _meaning(name: str, tree: ast.Module, file: Path, depth: int = 0) -> ast.expr | None:
    """What a name of a type stands for, here or in the file beside that it is imported from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
            return node.value
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
            return node.value
        if not isinstance(node, ast.ImportFrom) or depth > 0:
            continue
        for imported in node.names:
            if (imported.asname or imported.name) == name:
                beside = file.parent / f"{(node.module or '').split('.')[-1]}.py"
                return _meaning(imported.name, _tree(beside), beside, depth + 1)
    return None
