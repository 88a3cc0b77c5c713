"""The values that a choice may have: those that come back from JSON as they were.

A value is a number, a text, a bool or None, or a tuple, a list or a dict of such values. NumPy's
numbers and texts count as Python's own. JSON has one form for tuples and lists. A value that comes
back from JSON is therefore found among the choices by its content (`identity`), and a space writes
which of its choices are tuples (`with_tuples`).
"""

from __future__ import annotations

import enum
import inspect
import json
import math
import sys
from collections.abc import Hashable, Mapping
from typing import Any, TypeAlias

import numpy as np

Value: TypeAlias = float | int | str | bool | tuple[Any, ...] | list[Any] | dict[str, Any] | None

_SCALARS = (str, int, float, bool, type(None))


def plain(value: Any) -> Value:
    """Return the value in Python's own types, as a copy.

    Raises:
        ValueError: JSON cannot hold the value, or would bring it back as another. The message says
            why, and what to give in its place.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise ValueError("it is nested without end; write its parts as one text") from None


def _plain(value: Any) -> Value:
    kind = type(value)
    if kind in _SCALARS:
        # Only a NaN differs from itself.
        if value != value:
            raise ValueError(
                "a NaN is equal to nothing, not even to itself; give None or a word in its place"
            )
        if kind is str:
            check_text(value)
        elif kind is int and abs(value) > sys.float_info.max:
            raise ValueError("it is too great for a float, as which MLflow and Optuna know it")
        return value  # type: ignore[no-any-return]
    if isinstance(value, np.generic) and type(value.item()) in _SCALARS:
        return _plain(value.item())
    if kind in (tuple, list):
        return kind(_plain(part) for part in value)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise ValueError(f"JSON has no key {key!r}; write the keys of a mapping as text")
            check_text(key)
        return {key: _plain(part) for key, part in value.items()}
    raise ValueError(_remedy(value))


def check_text(text: str) -> None:
    """Refuse a text that a file or a database would not take.

    Raises:
        ValueError: The text has a lone surrogate or a null character.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(
            f"the text {text!r} has a lone surrogate, which no file can hold; take it out"
        ) from None
    if "\0" in text:
        raise ValueError(
            f"the text {text!r} has a null character, which a database refuses; take it out"
        )


def _remedy(value: Any) -> str:
    """Say why JSON cannot hold a value, and what to give in its place."""
    if isinstance(value, enum.Enum):
        return f"JSON cannot hold a member of an enum; give its name, {value.name!r}"
    if inspect.isclass(value) or callable(value):
        name = getattr(value, "__name__", type(value).__name__)
        what = "a class" if inspect.isclass(value) else "a function"
        return f"JSON cannot hold {what}; give a name, such as {name!r}, and look it up in train"
    if hasattr(value, "tolist"):
        return f"JSON cannot hold {_kind(value)}; give its numbers, as of .tolist()"
    if isinstance(value, bytes):
        return "JSON cannot hold bytes; give a text, as of .decode()"
    if isinstance(value, set | frozenset):
        return "JSON cannot hold a set; give a sorted list"
    # What is left of these types is of a subclass, such as a named tuple.
    for base in (tuple, list, dict, str, int, float):
        if isinstance(value, base):
            return f"JSON would bring {_kind(value)} back as {base.__name__}; give that"
    if isinstance(value, Mapping):
        return f"JSON cannot hold {_kind(value)}; give a dict"
    return f"JSON cannot hold {_kind(value)}; give a name or a number in its place"


def _kind(value: Any) -> str:
    return f"an object of {type(value).__module__}.{type(value).__qualname__}"


def identity(value: Any) -> Hashable:
    """Return a key that is the same for two values if they are the same choice.

    1, 1.0 and True are three choices; (1, 2) and [1, 2] are one.
    """
    kind = type(value)
    if kind in _SCALARS:
        # By their repr, since 0.0 == -0.0, though these are two choices.
        return kind, repr(value)
    if isinstance(value, np.generic):
        return identity(value.item()) if type(value.item()) in _SCALARS else id(value)
    try:
        return json.dumps(value, sort_keys=True, default=_from_numpy)
    except (TypeError, ValueError, RecursionError):
        # Such a value cannot be a choice, so its key must differ from those of all choices.
        return id(value)


def is_same_in_json(first: Any, second: Any) -> bool:
    """Whether two values are the same in JSON, where a tuple is a list; 1, 1.0 and True differ."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def _from_numpy(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError


def is_container(value: Any) -> bool:
    """Whether a value holds other values: a tuple, a list or a dict."""
    return isinstance(value, tuple | list | dict)


def has_tuples(value: Any) -> bool:
    """Whether the value, or a part of it, is a tuple, which JSON would bring back as a list."""
    if isinstance(value, dict):
        return any(map(has_tuples, value.values()))
    return isinstance(value, tuple) or (isinstance(value, list) and any(map(has_tuples, value)))


def with_tuples(value: Any) -> Any:
    """Return the value for JSON, with the kind of each container: `{"tuple": [1, 2]}`."""
    if isinstance(value, dict):
        return {"dict": {key: with_tuples(part) for key, part in value.items()}}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [with_tuples(part) for part in value]}
    return value


def from_tuples(written: Any) -> Value:
    """Return the value that `with_tuples` wrote.

    Raises:
        ValueError: `with_tuples` writes nothing like it.
    """
    if not isinstance(written, dict):
        if isinstance(written, list):
            raise ValueError(f"not a value with its kinds: {written!r:.80}")
        return written  # type: ignore[no-any-return]
    if len(written) == 1:
        ((kind, parts),) = written.items()
        if kind == "dict" and isinstance(parts, dict):
            return {key: from_tuples(part) for key, part in parts.items()}
        if kind in ("tuple", "list") and isinstance(parts, list):
            read = [from_tuples(part) for part in parts]
            return tuple(read) if kind == "tuple" else read
    raise ValueError(f"not a value with its kinds: {written!r:.80}")


def finite(value: Any) -> Any:
    """Return the value for strict JSON, with the text `inf` or `-inf` for an infinite number."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [finite(part) for part in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
