"""Population Based Training as an experiment-tracking workflow: members are MLflow runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pbt_flow.exceptions import Diverged, PopulationError
from pbt_flow.population.records import Checkpoint, Donor, Member, Plan, Turn
from pbt_flow.settings import Settings
from pbt_flow.task import Task

if TYPE_CHECKING:
    from pbt_flow.commands.run import load, resume, run, to_study
    from pbt_flow.population.result import Finalist, Result

__version__ = "0.1.0"
__all__ = [
    "Checkpoint",
    "Diverged",
    "Donor",
    "Finalist",
    "Member",
    "Plan",
    "PopulationError",
    "Result",
    "Settings",
    "Task",
    "Turn",
    "load",
    "resume",
    "run",
    "to_study",
]

_LATER = {
    "Finalist": "pbt_flow.population.result",
    "Result": "pbt_flow.population.result",
    "load": "pbt_flow.commands.run",
    "resume": "pbt_flow.commands.run",
    "run": "pbt_flow.commands.run",
    "to_study": "pbt_flow.commands.run",
}


def __getattr__(name: str) -> Any:
    """Import the runner when it is first used: a worker imports this package without it."""
    import importlib

    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
