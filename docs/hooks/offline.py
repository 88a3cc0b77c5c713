"""What a page would fetch from elsewhere, which a reader without a network would miss."""

from __future__ import annotations

import re

_FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*?\bsrc\s*=\s*[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|<link\b(?=[^>]*\brel\s*=\s*[\"']?(?:stylesheet|icon|preload|preconnect|dns-prefetch))"
    r"[^>]*?\bhref\s*=\s*[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|@import\s+(?:url\()?[\"']?((?:https?:)?//[^\"'\s)]+)"
    r"|url\(\s*[\"']?((?:https?:)?//[^\"'\s)]+)"
)


def fetched_from_elsewhere(text: str) -> list[str]:
    """The addresses that a browser would fetch by itself for a page or a style sheet.

    A link that a reader may follow is none of them.
    """
    return sorted({next(filter(None, found)) for found in _FETCHED.findall(text)})
