"""What a script's loop carries from one pass into the next besides the objects that are kept.

Such as the counter of an early stop, the best score so far or a list of past batches: a checkpoint
holds none of them, so that a copy and a resume begin with what they are before the loop. The text
of the loop is followed once, from its head to its end: a variable is carried if it is there before
the loop, is changed in it, and is read in it before it is sure to have been set in the same pass.
"""

from __future__ import annotations

import ast
import inspect
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from pbt_flow.joining.script_loops import is_in_head, loops_of

_CHANGING = {
    *("add", "append", "appendleft", "clear", "difference_update", "discard", "extend", "insert"),
    *("pop", "popitem", "popleft", "push", "put", "remove", "reverse", "rotate", "setdefault"),
    *("sort", "update"),
}
"""Methods that change the container that they are called on. Of a tensor they end with `_`."""


class _Nothing:
    """Stands for what is not there: it can be called, and so passes for no variable."""


def carried_variables(frame: FrameType, is_kept: Callable[[Any], bool]) -> list[str]:
    """The variables and attributes that a loop carries, as they are written there.

    What is only gathered, as the losses of a curve, is left out: nothing in the loop depends on it.

    Args:
        frame: Where the loop begins: its line is in the loop's head.
        is_kept: Whether a checkpoint holds a value, or the user is told of it otherwise.
    """
    loop = next((one for one in loops_of(frame) if is_in_head(frame.f_lineno, one)), None)
    if loop is None:
        return []
    one_pass = _OnePass()
    if isinstance(loop, ast.For):
        one_pass.known |= set(_written(loop.target))
    else:
        one_pass.read(loop.test)
    one_pass.follow(loop.body)
    found = set(_counter(loop)) & one_pass.used
    for name in (one_pass.early & one_pass.used) - found:
        value = _value(name, frame, is_kept)
        if (
            (name in one_pass.set and not callable(value))
            or (name in one_pass.filled and _is_data(value, frame))
            or (name in one_pass.advanced and _is_iterator(value))
        ):
            found.add(name)
    return sorted(found)


def _counter(loop: ast.For | ast.While) -> Iterator[str]:
    """What `enumerate` counts around the passes."""
    if isinstance(loop, ast.For) and isinstance(loop.target, ast.Tuple):
        head = loop.iter
        if isinstance(head, ast.Call) and _name(head.func) == "enumerate":
            yield from _written(loop.target.elts[0])


def _value(name: str, frame: FrameType, is_kept: Callable[[Any], bool]) -> Any:
    """What a variable, or an attribute of one, is before the loop.

    A class of ours where it is nothing yet, a module's, or in a checkpoint.
    """
    root, *attributes = name.split(".")
    value = frame.f_locals.get(root, frame.f_globals.get(root, _Nothing))
    for attribute in [*attributes, ""]:
        if value is _Nothing or is_kept(value) or inspect.ismodule(value):
            return _Nothing
        if attribute:
            value = inspect.getattr_static(value, attribute, _Nothing)
    return value


def _is_data(value: Any, frame: FrameType) -> bool:
    """Whether what is changed by a method or at an index is data, and no tool such as a bar."""
    is_array = hasattr(type(value), "shape")
    is_own = type(value).__module__ == frame.f_globals.get("__name__")
    return is_array or is_own or isinstance(value, dict | list | set | bytearray | deque)


def _is_iterator(value: Any) -> bool:
    # A file is one too, and nobody learns what is printed into it.
    return hasattr(type(value), "__next__") and not isinstance(value, io.IOBase)


class _OnePass:
    """The names that one pass of a loop reads and writes."""

    def __init__(self) -> None:
        self.known = set[str]()
        """What is sure to have been set in this pass, at the place that is followed."""
        self.early = set[str]()
        """What is read before it is sure to have been set."""
        self.set = set[str]()
        self.filled = set[str]()
        """What is changed by a method, or at an index."""
        self.advanced = set[str]()
        """What is drawn from, as by `next`."""
        self.used = set[str]()
        """What is read for something else than its own next value."""

    def follow(self, body: Iterable[ast.stmt]) -> bool:
        """Follow statements in their order; whether the end is reached."""
        return all(self._follow_one(statement) for statement in body)

    def _follow_one(self, statement: ast.stmt) -> bool:
        if isinstance(statement, ast.If | ast.Match):
            return self._branch(statement)
        if isinstance(statement, ast.For | ast.AsyncFor):
            self.read(statement.iter)
            self._advance(statement.iter)
            self._write(_written(statement.target))
        elif isinstance(statement, ast.While):
            self.read(statement.test)
        elif isinstance(statement, ast.With | ast.AsyncWith):
            for item in statement.items:
                self.read(item.context_expr)
                if item.optional_vars is not None:
                    self._write(_written(item.optional_vars))
            return self.follow(statement.body)
        elif isinstance(statement, ast.Try):
            before = set(self.known)
            reached = self.follow(statement.body) and self.follow(statement.orelse)
            after = self.known
            for handler in statement.handlers:
                self.known = set(before)
                self.follow(handler.body)
            self.known = after
            return self.follow(statement.finalbody) and reached
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._write([statement.name])
            return True
        else:
            return self._follow_plain(statement)
        # A loop inside is taken to run at least once, and to its end.
        self.follow(statement.body)
        self.follow(statement.orelse)
        return True

    def _branch(self, statement: ast.If | ast.Match) -> bool:
        if isinstance(statement, ast.If):
            self.read(statement.test)
            bodies = [statement.body, statement.orelse]
        else:
            self.read(statement.subject)
            bodies = [case.body for case in statement.cases] + [[]]
        before = set(self.known)
        ends: list[set[str]] = []
        for body in bodies:
            self.known = set(before)
            if self.follow(body):
                ends.append(self.known)
        self.known = set.intersection(*ends) if ends else before
        return bool(ends)

    def _follow_plain(self, statement: ast.stmt) -> bool:
        """A statement without statements inside of it."""
        targets: list[ast.expr] = []
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AugAssign | ast.AnnAssign):
            targets = [statement.target]
        if not targets:
            self._read_alone(statement)
            return not isinstance(statement, ast.Return | ast.Raise | ast.Continue | ast.Break)
        value = getattr(statement, "value", None)
        written = [name for target in targets for name in _written(target)]
        if isinstance(statement, ast.AugAssign):
            self._note_early(written)
        if value is not None:
            self.read(value, own=written if len(written) == 1 else ())
            self._write(written)
        for target in targets:
            for part in ast.walk(target):
                if isinstance(part, ast.Subscript):
                    self._fill(_name(part.value))
                    self.read(part.slice)
        return True

    def _read_alone(self, statement: ast.stmt) -> None:
        """A statement that sets nothing; a call that changes its owner is no use of what it had."""
        call = getattr(statement, "value", None)
        if not isinstance(statement, ast.Expr) or not isinstance(call, ast.Call):
            self.read(statement)
        elif owner := _changed_by(call):
            self._fill(owner)
            for given in [*call.args, *(one.value for one in call.keywords)]:
                self.read(given)
        else:
            self.read(call)

    def read(self, node: ast.AST, own: Iterable[str] = ()) -> None:
        """Note what an expression reads, in its order.

        Args:
            node: The expression.
            own: The names that are set to it: they are not used for anything else.
        """
        if (bound := _bound_in(node)) is not None:
            for generator in getattr(node, "generators", ()):
                self.read(generator.iter)  # It is outside: what it is called inside hides nothing.
            outside, used = self.known, set(self.used)
            self.known = outside | bound
            for child in ast.iter_child_nodes(node):
                self.read(child, own)
            self.known = outside
            self.used -= bound - used
            return
        if isinstance(node, ast.Call):
            if owner := _changed_by(node):
                self._fill(owner)
            if _name(node.func) == "next" and node.args:
                self._advance(node.args[0])
        if (name := _name(node)) and isinstance(getattr(node, "ctx", None), ast.Load):
            prefixes = _prefixes(name)
            self._note_early(prefixes)
            self.used |= set(prefixes) - set(own)
            return
        for child in ast.iter_child_nodes(node):
            self.read(child, own)
        if isinstance(node, ast.NamedExpr):
            self._write(_written(node.target))

    def _note_early(self, names: Iterable[str]) -> None:
        self.early |= {name for name in names if not self.known.intersection(_prefixes(name))}

    def _advance(self, iterator: ast.expr) -> None:
        if name := _name(iterator):
            self.advanced.add(name)

    def _fill(self, name: str) -> None:
        if name:
            self._note_early([name])
            self.filled.add(name)

    def _write(self, names: Iterable[str]) -> None:
        names = list(names)
        self.set |= set(names)
        self.known |= set(names)


def _name(node: ast.AST | None) -> str:
    """A variable, or an attribute of one, as it is written; empty if it is none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := _name(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def _prefixes(name: str) -> list[str]:
    """An attribute and all that it is an attribute of: a, a.b, a.b.c."""
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _written(target: ast.expr) -> Iterator[str]:
    """The names that are set where a value goes to a target."""
    if isinstance(target, ast.Tuple | ast.List):
        for part in target.elts:
            yield from _written(part)
    elif isinstance(target, ast.Starred):
        yield from _written(target.value)
    elif name := _name(target):
        yield name


def _bound_in(node: ast.AST) -> set[str] | None:
    """The names that an expression with a scope of its own sets for itself; None if it has none."""
    if isinstance(node, ast.Lambda):
        return {one.arg for one in ast.walk(node.args) if isinstance(one, ast.arg)}
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        return {name for one in node.generators for name in _written(one.target)}
    return None


def _changed_by(call: ast.expr | None) -> str:
    """The name of what a call is known to change, since it is a method of it; empty if none is."""
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return ""
    method = call.func.attr
    in_place = method.endswith("_") and not method.endswith("__")
    return _name(call.func.value) if in_place or method in _CHANGING else ""
