"""How the words of a command are read: the value of a setting, a flag, options of the task.

An MLproject hands over every parameter, so an empty text counts as not given.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pbt_flow.settings import NONE


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command, and those behind `--`, which are for the script that it trains."""
    end = list(words).index("--") if "--" in words else len(words)
    return list(words[:end]), list(words[end + 1 :])


def with_flags(words: Sequence[str]) -> list[str]:
    """The words of a command, where a bare --unequal does not take the run id behind it.

    An MLproject hands over a value, and argparse takes the next word for one.
    """
    found = list(words)
    for place, word in enumerate(words):
        following = words[place + 1].lower() if place + 1 < len(words) else ""
        if word == "--unequal" and following not in _FLAGS:
            found[place] = "--unequal=true"
    return found


_YES, _NO = ("true", "1", "yes", "on"), ("", "false", "0", "no", "off")
_FLAGS = {*_YES, *_NO} - {""}
"""What may stand behind a flag."""


def reader_of(name: str, hint: Any) -> Any:
    """What reads the value of a setting from a word; `hint` is the type of its field."""
    if name == "initial":
        return _json
    possible = get_args(hint) or (hint,)
    kinds = [kind for kind in possible if kind in (int, float)]
    if not kinds:
        return str

    def read(text: str) -> Any:
        if text == NONE and type(None) in possible:
            return NONE
        if not text:
            return None
        try:
            return kinds[0](text)
        except ValueError:
            what = "a whole number" if kinds[0] is int else "a number"
            also = f" or {NONE}" if type(None) in possible else ""
            raise argparse.ArgumentTypeError(f"must be {what}{also}, got {text!r}") from None

    return read


def flag(text: str) -> bool | None:
    """A flag of an MLproject, where it has a value."""
    if text.lower() in _NO:
        return None
    if text.lower() in _YES:
        return True
    raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")


def flag_or_text(text: str) -> bool | str | None:
    """A flag that may also name something."""
    try:
        return flag(text)
    except argparse.ArgumentTypeError:
        return text


def _json(text: str) -> Any:
    """Initial points: a JSON list of objects, or `@file.json`."""
    if not text:
        return None
    try:
        written = Path(text[1:]).read_text("utf-8") if text.startswith("@") else text
        points = json.loads(written, object_pairs_hook=_each_once)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise argparse.ArgumentTypeError('must be a list of objects, as in [{"lr": 0.001}]')
    return points


def read_config(text: str) -> dict[str, Any]:
    """The settings in a file; those that are empty count as not given.

    What `run --dry-run --json` prints, and the `population.json` of a population, are such files.
    """
    if not text:
        return {}
    import yaml  # type: ignore[import-untyped]  # It comes with MLflow.

    try:
        # JSON is YAML as well, but for numbers such as 1e-3, which YAML takes for words.
        content = Path(text).read_text("utf-8")
        if text.endswith(".json"):
            found = json.loads(content, object_pairs_hook=_each_once)
        else:
            _check_names(yaml.compose(content, yaml.SafeLoader), set())
            found = yaml.safe_load(content)
    except (OSError, ValueError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: {told}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} must map settings to values")
    if isinstance(found.get("settings"), dict):
        found = found["settings"]
    return {str(name): value for name, value in found.items() if value not in (None, "", [], {})}


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return pairs as a mapping.

    Raises:
        ValueError: A name stands there twice: the last value would silently be taken.
    """
    found = dict[str, Any]()
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name} is given twice")
        found[name] = value
    return found


def _check_names(node: Any, seen: set[int]) -> None:
    """Look at a part of a YAML file, and at all that is in it.

    Raises:
        ValueError: A mapping has a name twice.
    """
    # An alias leads to a part that stands elsewhere, and may lead to what it stands in.
    if node is None or node.id == "scalar" or id(node) in seen:
        return
    seen.add(id(node))
    inside = list(node.value)
    if node.id == "mapping":
        _each_once([(name.value, value) for name, value in inside if name.id == "scalar"])
        inside = [part for pair in inside for part in pair]
    for part in inside:
        _check_names(part, seen)


class GivenOnce(argparse._StoreAction):
    """Stores the value of an option; of two that differ, the first would silently be dropped."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest, None)
        # An empty one counts as not given.
        if option_string and before not in (None, "", values):
            both = f", as {before} and as {values}" if isinstance(before, str | int | float) else ""
            raise argparse.ArgumentError(self, f"given twice{both}")
        super().__call__(parser, namespace, values, option_string)


class TaskOptions(argparse._AppendAction):
    """Collects `--set a=1 --set b=2 c=3`; an MLproject hands over all of them as one text."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        collected = dict(getattr(namespace, self.dest))
        # A value may hold spaces, as a path does: an option ends where the next one begins.
        items = list[str]()
        for text in values:
            items += _split_options(text.strip())
        for item in items:
            key, equals, value = item.partition("=")
            if not equals or not key:
                parser.error(f"--set takes KEY=VALUE, got {item!r}")
            if collected.get(key, value) != value:
                parser.error(f"--set: {key} is given twice, as {collected[key]} and as {value}")
            collected[key] = value
        setattr(namespace, self.dest, collected)


def _split_options(text: str) -> list[str]:
    """The options in one text: each begins where a name with = does, except inside of JSON."""
    found = list[str]()
    for part in re.split(r"(?<!\s)(?=\s+[^\W\d]\w*=)", text):
        inside = found[-1].partition("=")[2] if found else ""
        if inside[:1] in ("{", "[") and not _is_json(inside):
            found[-1] += part
        elif part.strip():
            found.append(part.strip())
    return found


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
