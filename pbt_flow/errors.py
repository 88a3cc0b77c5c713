"""Errors that a user can mend, and that more than one room raises."""


class PBTError(Exception):
    """Its message is one sentence that names the thing, the rule, the value and the way out."""


class StoreError(PBTError, RuntimeError):
    """The tracking server or a run is not what is needed; the message says which and why."""
