"""Values as texts for people."""

from __future__ import annotations

from collections.abc import Mapping
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
