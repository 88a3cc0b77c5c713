"""Every error that a user can meet, in one picture.

PBTError
|-- SettingsError         a setting that cannot be
|-- SpaceError            a space, or a value in it, that cannot be used
|-- StrategyError         a strategy that does not exist, or that does what it must not
|-- TaskError             a task that cannot be found, or that does not keep to the contract
|   `-- UnusableTask      a task that no member can be trained with, whatever it tries
|-- OptionError           an option of a task that cannot be
|-- StoreError            the tracking store, or a run in it, is not what is needed
|   `-- StoreUnavailable  the tracking store does not answer just now
|-- RecordError           a turn record that cannot be trusted
|-- CheckpointError       a checkpoint that cannot be trusted
|-- StorageError          the place for checkpoints refuses to be written or read
|-- ScheduleError         a schedule that cannot be trusted or used
|-- ComparisonError       populations that cannot be compared
|-- EngineError           no worker can run turns any more
|-- ExportError           a folder that a population cannot be exported to or imported from
|-- ReplayError           a replay that cannot go on, or that was not trained as it should be
`-- PopulationError       a population that cannot begin or go on
    `-- TakenOver         another controller has taken over

`Diverged` is raised by a task whose numbers are not finite any more; it is an outcome of a turn.
"""

from __future__ import annotations


class PBTError(Exception):
    """Its message is one sentence that names the thing, the rule, the value and the way out."""


class SettingsError(PBTError, ValueError):
    """A setting that cannot be; the message names it, its rule and its value."""


class SpaceError(PBTError, ValueError):
    """A space, or a value in it, that cannot be used; the message names the hyperparameter."""


class StrategyError(PBTError, ValueError):
    """A strategy that does not exist or cannot have this setting; the message lists what can."""


class TaskError(PBTError, ValueError):
    """A task that cannot be found, or that does not keep to the contract."""


class UnusableTask(TaskError):
    """A task that no member can be trained with, whatever it tries: the population ends at once."""


class OptionError(PBTError, ValueError):
    """An option that cannot be; the message names it, what it takes, and the value."""


class StoreError(PBTError, RuntimeError):
    """The tracking server or a run is not what is needed; the message says which and why."""


class StoreUnavailable(StoreError):
    """The tracking store does not answer just now; what was meant for it can be told later.

    Args:
        reason: What does not answer, and what it says.
        remedy: How the user goes on if it stays away.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


PATIENCE = 600.0
"""Seconds for which a store may be silent before the run ends."""


class RecordError(PBTError, ValueError):
    """A turn record that cannot be trusted: altered, truncated, or of another version."""


class CheckpointError(PBTError, RuntimeError):
    """A checkpoint that is missing, altered, truncated, or that would run code when loaded."""


class StorageError(PBTError, RuntimeError):
    """The place for checkpoints refuses to be written or read: no turn can be done any more."""


class ScheduleError(PBTError, ValueError):
    """A schedule that cannot be trusted or used; the message says what is wrong with it."""


class ComparisonError(PBTError, ValueError):
    """Populations that cannot be compared."""


class EngineError(PBTError, RuntimeError):
    """The engine cannot run turns any more; the message says why."""


class ExportError(PBTError, RuntimeError):
    """A folder that a population cannot be exported to, or that is no export to be trusted."""


class PopulationError(PBTError, RuntimeError):
    """A population that cannot begin or go on; what was committed is safe."""


class ReplayError(PBTError, RuntimeError):
    """A replay that cannot go on, or that did not train what the schedule says."""


class TakenOver(PopulationError):
    """Another controller has taken over the population; this one must not touch it any more."""


class Diverged(Exception):
    """A task raises it where its numbers are not finite any more, and says which was the first.

    The turn then counts as diverged, as one does whose score is not finite.
    """
