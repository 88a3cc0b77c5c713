"""Addresses of stores as they may be shown."""

from __future__ import annotations

import re

DATABASES = ("postgresql", "mysql", "mssql", "sqlite")
"""Schemes of the databases that MLflow takes as tracking stores."""


def hide_password(text: str) -> str:
    """Return a text with `***` for each password in a URI."""
    # SQLAlchemy reads all up to the @ as the password, also a slash. In other URIs a slash ends the
    # host, and an @ behind it belongs to a path.
    databases = "|".join(DATABASES)
    text = re.sub(rf"(\b(?:{databases})(?:\+\w+)?://[^\s:/@]*):[^\s@]+@", r"\1:***@", text)
    return re.sub(r"(\w://[^\s:/@]*):[^\s/@]+@", r"\1:***@", text)
