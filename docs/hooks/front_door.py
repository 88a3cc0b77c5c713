"""The reference of the names that `import pbt_flow` gives, in the order of its `__all__`."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pbt_flow
from pbt_flow import exceptions
from pbt_flow.settings import Settings

HEADS = {
    "functions": "What can be done",
    "classes": "What is taken and returned",
    "errors": "Errors",
}


def kinds() -> dict[str, list[str]]:
    """The public names by what they are."""
    found: dict[str, list[str]] = {kind: [] for kind in HEADS}
    for name in pbt_flow.__all__:
        if hasattr(exceptions, name):
            found["errors"].append(name)
        elif inspect.isclass(getattr(pbt_flow, name)):
            found["classes"].append(name)
        else:
            found["functions"].append(name)
    return found


def markdown() -> str:
    """A heading for each kind of name, and what mkdocstrings puts the docstring of each into."""
    lines = list[str]()
    for kind, names in kinds().items():
        lines += [f"## {HEADS[kind]}", ""]
        if kind == "errors":
            lines += ["```text", *_tree(), "```", ""]
        for name in names:
            lines += list(_entry(name))
    return "\n".join(lines)


def _entry(name: str) -> Iterator[str]:
    if name == "Settings":
        # A field says what it is in its help, as the command line has it.
        yield from _reference(_path(name), name, members=False, show_signature=False)
        yield from settings_table()
        yield from _reference(f"{_path(name)}.for_task", "Settings.for_task", heading_level=4)
        return
    yield from _reference(_path(name), name)
    if name == "join":
        # What it returns has no name at the front door, since nobody makes one.
        yield from _reference("pbt_flow.joining.join.Join", "Join", show_signature=False)


def _reference(path: str, heading: str, **options: bool | int) -> Iterator[str]:
    """What mkdocstrings replaces by a docstring."""
    told = {"heading": heading, "toc_label": heading, **options}
    yield f"::: {path}"
    yield f"    options: {json.dumps(told)}"
    yield ""


def _path(name: str) -> str:
    """Where mkdocstrings is to look for a name: the front door, unless a module is called alike."""
    package = Path(pbt_flow.__file__).parent
    for module, names in pbt_flow._PLACES.items():
        if name in names and (package / module.replace(".", "/") / f"{name}.py").exists():
            return f"pbt_flow.{module}.{name}.{name}"
    return f"pbt_flow.{name}"


def settings_table() -> Iterator[str]:
    """What defines a population: each field of the settings with its default and its help."""
    hints = get_type_hints(Settings)
    yield from ["| setting | type | default | |", "|---|---|---|---|"]
    for one in dataclasses.fields(Settings):
        default = "" if one.default in (None, dataclasses.MISSING) else f"`{one.default!r}`"
        told = [_type(hints[one.name]), default, one.metadata["help"]]
        cells = " | ".join(text.replace("|", "&#124;") for text in told)
        yield f"| `{one.name}` | {cells} |"
    yield ""


def _type(hint: object) -> str:
    """A type as a reader writes it, without the modules that its names are from."""
    text = hint.__name__ if inspect.isclass(hint) else str(hint)
    text = re.sub(r"(\w+\.)+", "", text).removeprefix("Optional")
    return f"`{text}`"


def _tree() -> list[str]:
    """The picture of all errors, as their module begins with it."""
    told = (inspect.getdoc(exceptions) or "").splitlines()
    return [line for line in told if line == "PBTError" or line.startswith(("|", "`"))]
