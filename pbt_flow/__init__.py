"""Population Based Training as an experiment-tracking workflow: members are MLflow runs.

What the command line can do, these functions can: `run`, `resume`, `load`, `report`, `compare`,
`replay`, `register`. Every error that a user can mend is a `PBTError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pbt_flow.exceptions import Diverged, PBTError, PopulationError, StoreError, TaskError
from pbt_flow.population.records import Checkpoint, Donor, Member, Plan, RecordError, Turn
from pbt_flow.settings import Settings, SettingsError
from pbt_flow.space import SpaceError
from pbt_flow.strategies.text import StrategyError
from pbt_flow.task import Task

if TYPE_CHECKING:
    from pbt_flow.commands.replay import ReplayError, replay
    from pbt_flow.commands.replay import resume as resume_replay
    from pbt_flow.commands.run import compare, load, register, resume, run, to_study
    from pbt_flow.commands.run import make_report as report
    from pbt_flow.joining import join
    from pbt_flow.population.checkpoints import CheckpointError
    from pbt_flow.population.result import Finalist, Result
    from pbt_flow.population.schedule import ScheduleError
    from pbt_flow.reporting.comparison import ComparisonError

__version__ = "0.1.0"
__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ComparisonError",
    "Diverged",
    "Donor",
    "Finalist",
    "Member",
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
    "StoreError",
    "StrategyError",
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

_RUN, _REPLAY = "pbt_flow.commands.run", "pbt_flow.commands.replay"
_LATER = {
    "CheckpointError": ("pbt_flow.population.checkpoints", "CheckpointError"),
    "ComparisonError": ("pbt_flow.reporting.comparison", "ComparisonError"),
    "Finalist": ("pbt_flow.population.result", "Finalist"),
    "ReplayError": (_REPLAY, "ReplayError"),
    "Result": ("pbt_flow.population.result", "Result"),
    "ScheduleError": ("pbt_flow.population.schedule", "ScheduleError"),
    "compare": (_RUN, "compare"),
    "join": ("pbt_flow.joining", "join"),
    "load": (_RUN, "load"),
    "register": (_RUN, "register"),
    "replay": (_REPLAY, "replay"),
    "report": (_RUN, "make_report"),
    "resume": (_RUN, "resume"),
    "resume_replay": (_REPLAY, "resume"),
    "run": (_RUN, "run"),
    "to_study": (_RUN, "to_study"),
}


def __getattr__(name: str) -> Any:
    """Import a command when it is first used: a worker imports this package without them."""
    import importlib

    if name in _LATER:
        module, attribute = _LATER[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
