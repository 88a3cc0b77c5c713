"""Which versions a population begins with, and an export is written by."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform

_PACKAGES = ("pbt-flow", "mlflow", "optuna", "torch", "numpy")


def present_versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on, as far as they exist."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
