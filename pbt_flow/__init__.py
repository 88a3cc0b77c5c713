"""Population Based Training as an experiment-tracking workflow: members are MLflow runs.

What the command line can do, these functions can: `run`, `resume`, `load`, `report`, `compare`,
`replay`, `register`. Every error that a user can mend is a `PBTError`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbt_flow.exceptions import (
    CheckpointError,
    ComparisonError,
    Diverged,
    EngineError,
    ExportError,
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
    UnusableTask,
)
from pbt_flow.utils.collection import collection_paused
from pbt_flow.utils.folder_finder import FolderFinder

if TYPE_CHECKING:
    from pbt_flow.commands.catalogue import list_populations, show
    from pbt_flow.commands.compare import compare
    from pbt_flow.commands.dry_run import dry_run
    from pbt_flow.commands.export_winner import export_winner
    from pbt_flow.commands.load import load, to_study
    from pbt_flow.commands.manage import delete, stop
    from pbt_flow.commands.register import register
    from pbt_flow.commands.replay import replay
    from pbt_flow.commands.replay import resume as resume_replay
    from pbt_flow.commands.report import report
    from pbt_flow.commands.run import resume, run
    from pbt_flow.commands.transfer import export_population, import_population
    from pbt_flow.commands.ui import ui
    from pbt_flow.commands.watch import watch
    from pbt_flow.joining import join
    from pbt_flow.population.finalist import Finalist
    from pbt_flow.population.history import History
    from pbt_flow.population.records import Checkpoint, Donor, Member, Plan, Turn
    from pbt_flow.population.result import Result
    from pbt_flow.settings import Settings
    from pbt_flow.task import Task
    from pbt_flow.training.turn_callbacks import STOP

__version__ = "0.2.0.dev0"
PACKAGE = "pbt_flow.tasks"
"""The package of the tasks that come along; `pbt_flow.task.bundled` has their names."""
FIRST_WORDS = '"""The tasks that come with pbt_flow'
"""What that package begins with, in each version: a user's package does not."""
# In a clone it lies beside this package. At the end of the finders, so that what is installed as
# `pbt_flow.tasks` goes before a folder that happens to lie there.
sys.meta_path.append(
    FolderFinder(PACKAGE, Path(__file__).resolve().parents[1] / "tasks", FIRST_WORDS)
)
__all__ = [
    # what can be done, in the order in which a population meets it
    "run",
    "join",
    "dry_run",
    "resume",
    "stop",
    "list_populations",
    "show",
    "watch",
    "ui",
    "load",
    "report",
    "compare",
    "to_study",
    "replay",
    "resume_replay",
    "register",
    "export_population",
    "import_population",
    "export_winner",
    "delete",
    # what is taken and returned
    "STOP",
    "Task",
    "Settings",
    "History",
    "Result",
    "Finalist",
    "Member",
    "Plan",
    "Donor",
    "Turn",
    "Checkpoint",
    # errors
    "PBTError",
    "SettingsError",
    "SpaceError",
    "StrategyError",
    "TaskError",
    "OptionError",
    "UnusableTask",
    "StoreError",
    "StoreUnavailable",
    "RecordError",
    "CheckpointError",
    "StorageError",
    "ScheduleError",
    "ExportError",
    "ComparisonError",
    "EngineError",
    "ReplayError",
    "PopulationError",
    "TakenOver",
    "Diverged",
]

_PLACES = {
    "commands.catalogue": ("list_populations", "show"),
    "commands.compare": ("compare",),
    "commands.dry_run": ("dry_run",),
    "commands.export_winner": ("export_winner",),
    "commands.load": ("load", "to_study"),
    "commands.manage": ("delete", "stop"),
    "commands.register": ("register",),
    "commands.replay": ("replay", "resume_replay"),
    "commands.report": ("report",),
    "commands.run": ("resume", "run"),
    "commands.transfer": ("export_population", "import_population"),
    "commands.ui": ("ui",),
    "commands.watch": ("watch",),
    "joining": ("join",),
    "population.records": ("Checkpoint", "Donor", "Member", "Plan", "Turn"),
    "population.finalist": ("Finalist",),
    "population.history": ("History",),
    "population.result": ("Result",),
    "settings": ("Settings",),
    "task": ("Task",),
    "training.turn_callbacks": ("STOP",),
}
"""Where each name of the front door is to be found."""
_THERE = {"resume_replay": "resume"}
"""What a name is called in its module, where that differs."""


def __getattr__(name: str) -> Any:
    """Import what a name stands for when it is first used.

    A worker imports this package without commands, and the command line is ready for Ctrl-C before
    the libraries are imported.
    """
    import importlib

    for module, names in _PLACES.items():
        if name in names:
            with collection_paused():
                place = importlib.import_module(f"pbt_flow.{module}")
            found = getattr(place, _THERE.get(name, name))
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names of the front door, whether or not they have been used."""
    return sorted({*globals(), *__all__})
