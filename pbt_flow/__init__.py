"""Population Based Training as an experiment-tracking workflow: members are MLflow runs.

What the command line can do, these functions can: `run`, `resume`, `load`, `report`, `compare`,
`replay`, `register`. Every error that a user can mend is a `PBTError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pbt_flow.exceptions import (
    CheckpointError,
    ComparisonError,
    Diverged,
    EngineError,
    OptionError,
    PBTError,
    PopulationError,
    RecordError,
    ReplayError,
    ScheduleError,
    SettingsError,
    SpaceError,
    StorageError,
    StoreError,
    StoreUnavailable,
    StrategyError,
    TakenOver,
    TaskError,
)
from pbt_flow.population.records import Checkpoint, Donor, Member, Plan, Turn
from pbt_flow.settings import Settings
from pbt_flow.task import Task

if TYPE_CHECKING:
    from pbt_flow.commands.compare import compare
    from pbt_flow.commands.load import load, to_study
    from pbt_flow.commands.register import register
    from pbt_flow.commands.replay import replay
    from pbt_flow.commands.replay import resume as resume_replay
    from pbt_flow.commands.report import report
    from pbt_flow.commands.run import resume, run
    from pbt_flow.joining import join
    from pbt_flow.population.result import Finalist, Result

__version__ = "0.1.0"
__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ComparisonError",
    "Diverged",
    "Donor",
    "EngineError",
    "Finalist",
    "Member",
    "OptionError",
    "PBTError",
    "Plan",
    "PopulationError",
    "RecordError",
    "ReplayError",
    "Result",
    "ScheduleError",
    "Settings",
    "SettingsError",
    "SpaceError",
    "StorageError",
    "StoreError",
    "StoreUnavailable",
    "StrategyError",
    "TakenOver",
    "Task",
    "TaskError",
    "Turn",
    "compare",
    "join",
    "load",
    "register",
    "replay",
    "report",
    "resume",
    "resume_replay",
    "run",
    "to_study",
]

_LATER = {
    "Finalist": ("pbt_flow.population.result", "Finalist"),
    "Result": ("pbt_flow.population.result", "Result"),
    "compare": ("pbt_flow.commands.compare", "compare"),
    "join": ("pbt_flow.joining", "join"),
    "load": ("pbt_flow.commands.load", "load"),
    "register": ("pbt_flow.commands.register", "register"),
    "replay": ("pbt_flow.commands.replay", "replay"),
    "report": ("pbt_flow.commands.report", "report"),
    "resume": ("pbt_flow.commands.run", "resume"),
    "resume_replay": ("pbt_flow.commands.replay", "resume"),
    "run": ("pbt_flow.commands.run", "run"),
    "to_study": ("pbt_flow.commands.load", "to_study"),
}


def __getattr__(name: str) -> Any:
    """Import a command when it is first used: a worker imports this package without them."""
    import importlib

    if name in _LATER:
        module, attribute = _LATER[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
