"""The base of all errors that a user can mend."""


class PBTError(Exception):
    """Its message is one sentence that names the thing, the rule, the value and the way out."""
