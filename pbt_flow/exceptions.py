"""Errors that a user can mend, and that more than one room raises."""


class PBTError(Exception):
    """Its message is one sentence that names the thing, the rule, the value and the way out."""


class TaskError(PBTError, ValueError):
    """A task that cannot be found, or that does not keep to the contract."""


class StoreError(PBTError, RuntimeError):
    """The tracking server or a run is not what is needed; the message says which and why."""


PATIENCE = 600.0
"""Seconds for which a store may be silent before the run ends."""


class StoreUnavailable(StoreError):
    """The tracking store does not answer just now; what was meant for it can be told later.

    Args:
        reason: What does not answer, and what it says.
        remedy: How the user goes on if it stays away.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


class Diverged(Exception):
    """A task raises it where its numbers are not finite any more, and says which was the first.

    The turn then counts as diverged, as one does whose score is not finite.
    """


class PopulationError(PBTError, RuntimeError):
    """A population that cannot begin or go on; what was committed is safe."""
