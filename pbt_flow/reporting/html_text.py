"""Sentences of a page in HTML, whose lines end between words, and never inside of a number."""

from __future__ import annotations

import re
from html import escape

_WITH_HYPHEN = re.compile(r"(-\d[\d.,]*(?:e[-+]?\d+)?|\d[\d.,]*e-\d+)")
"""A number that a browser would break behind its hyphen, as in 1.3e-07. Split by it, a text has one
at each odd place."""
_JOINT = re.compile(r"([_=])(?=\S|$)")


def prose(text: str) -> str:
    """A sentence in HTML.

    A number that is cut is another number: of 1.28e-07 the beginning says 1.28. So it goes to the
    next line in whole, while a long name of a metric may break behind its _ and =.
    """
    parts = list[str]()
    for place, part in enumerate(_WITH_HYPHEN.split(text)):
        if place % 2:
            # A comma or a full stop behind a number belongs to the sentence.
            number = part.rstrip(".,")
            parts.append(f"<var>{number}</var>{part[len(number) :]}")
        else:
            parts.append(_JOINT.sub(r"\1<wbr>", escape(part)))
    return "".join(parts)
