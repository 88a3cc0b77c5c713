"""What the user called this program: said before anything that takes long is imported."""

from __future__ import annotations

import sys
from pathlib import Path


def program() -> str:
    """The program as it is called in what it says of itself."""
    name = Path(sys.argv[0]).name
    return "pbt-flow" if name.startswith("pbt-flow") else "python -m pbt_flow"
