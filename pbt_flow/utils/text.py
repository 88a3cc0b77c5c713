"""Values as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def number(value: Any) -> str:
    """A value as people read it: four significant digits, and a dash for none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def values(named: Mapping[str, Any]) -> str:
    """Named values on one line."""
    return " ".join(f"{name}={number(value)}" for name, value in named.items())


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
