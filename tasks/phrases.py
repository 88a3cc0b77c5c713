"""Numbers and names in sentences that a person reads: `1,234 images`, `cat 120, dog 98`."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> count(1, "image"), count(1234, "image"), count(2, "copy", "copies")
    ('1 image', '1,234 images', '2 copies')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def shown(text: str, most: int = 40) -> str:
    """A text or a name from outside as a part of one line: printable, and not too long.

    Line breaks and other control characters would tear a line apart, and half a surrogate (a file
    name that is not UTF-8) cannot be printed: these become question marks. Marks of direction would
    turn the rest of the line around: they go, with all that only tells how to write.

    >>> shown("one\\ntwo"), shown("x" * 50, most=8)
    ('one two', 'xxxxxxx…')
    """
    spaced = "".join(" " if c.isspace() else c for c in text)
    seen = (c for c in spaced if unicodedata.category(c) != "Cf")
    kept = "".join("?" if unicodedata.category(c)[0] == "C" else c for c in seen)
    line = " ".join(kept.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def listed(items: Sequence[str], most: int = 8) -> str:
    """Items in a row, and how many more there are.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c", "d"], most=2)
    ('a, b, c', 'a, b and 2 more')
    """
    more = len(items) - most
    return ", ".join(items) if more <= 0 else f"{', '.join(items[:most])} and {more:,} more"


def counted(counts: Iterable[tuple[str, int]], most: int = 8) -> str:
    """Names with their numbers, the greatest first.

    >>> counted([("dog", 98), ("cat", 1200)])
    'cat 1,200, dog 98'
    """
    ordered = sorted(counts, key=lambda pair: (-pair[1], pair[0]))
    return listed([f"{shown(name)} {number:,}" for name, number in ordered], most)


def megabytes(size: int) -> str:
    """A number of bytes in words.

    >>> megabytes(26_421_880), megabytes(29_515)
    ('26.4 MB', '0.03 MB')
    """
    return f"{size / 1e6:.3g} MB" if size >= 1e6 else f"{size / 1e6:.1g} MB"
