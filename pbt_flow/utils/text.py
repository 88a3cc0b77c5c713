"""Values as texts for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def number(value: Any) -> str:
    """Return a value as a text: a float with four significant digits, and a dash for None."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def values(named: Mapping[str, Any]) -> str:
    """Return named values as a text of one line."""
    return " ".join(f"{name}={number(value)}" for name, value in named.items())


def duration(seconds: float) -> str:
    """Return a duration as a text: 45 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def age(seconds: float) -> str:
    """How long ago something was, in its largest unit: 45 s, 3 min, 2 h, 12 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def byte_count(number: float) -> str:
    """A number of bytes as people read it: 512 B, 1.4 MB, 23 GB."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while number >= 1000 and len(units) > 1:
        number /= 1000
        units.pop(0)
    return f"{number:.3g} {units[0]}"


def turn_count(number: int) -> str:
    """A number of turns, in words."""
    return counted(number, "turn")


def counted(number: int, noun: str) -> str:
    """A number of things, as in "1 step" and "1,000 steps"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Iterable[object]) -> str:
    """Names as an enumeration in a sentence: 'a', 'b', 'c'; without quotes if they are numbers."""
    return ", ".join(map(repr, names)) or "none"


def shortened(value: object, most: int = 200) -> str:
    """A value as it looks in Python, cut to some characters."""
    try:
        text = repr(value)
    except Exception:
        # Python refuses to write a number of thousands of digits, for instance.
        text = f"an object of {type(value).__qualname__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The name that a misspelt word is nearest to; None if none is near."""
    plain = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), plain, n=1, cutoff=0.7)
    if not near:
        # In a short word, two letters that changed places are a third of it: tyo is toy.
        near = [name for name in plain if name and sorted(name) == sorted(word.lower())]
    return plain[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What a misspelt word was meant to be, in brackets behind it; empty if nothing is near.

    In brackets, so that the sentence goes on behind the question mark.
    """
    near = nearest(word, known)
    return f" (did you mean {near}?)" if near else ""
