"""The values that a choice may have: what JSON can hold, and what reads back from it as it was.

A value is a number, a text, a bool or None, or a tuple, a list or a mapping of such values. NumPy's
numbers and texts are taken as Python's own. JSON has one form for tuples and lists: a value that
comes back from it is found again among the choices by what it holds (`identity`), and a space
writes down which of its choices are tuples (`with_tuples`).
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
    """The value in Python's own types, as a copy.

    Raises:
        ValueError: JSON cannot hold it, or would bring it back as another; the message says why,
            and what to give in its place.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise ValueError("it is nested without end; write its parts as one text") from None


def _plain(value: Any) -> Value:
    kind = type(value)
    if kind in _SCALARS:
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
    """Refuse a text that some file or database would not take.

    Raises:
        ValueError: It has a lone surrogate or a null character.
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
    """Why a value cannot be written down, and what to give in its place."""
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
    for base in (tuple, list, dict, str, int, float):
        if isinstance(value, base):
            return f"JSON would bring {_kind(value)} back as {base.__name__}; give that"
    if isinstance(value, Mapping):
        return f"JSON cannot hold {_kind(value)}; give a dict"
    return f"JSON cannot hold {_kind(value)}; give a name or a number in its place"


def _kind(value: Any) -> str:
    return f"an object of {type(value).__module__}.{type(value).__qualname__}"


def identity(value: Any) -> Hashable:
    """What tells two values apart: 1, 1.0 and True are three, and (1, 2) and [1, 2] are one."""
    kind = type(value)
    if kind in _SCALARS:
        return kind, repr(value)  # -0.0 is equal to 0.0, and another value all the same
    if isinstance(value, np.generic):
        return identity(value.item()) if type(value.item()) in _SCALARS else id(value)
    try:
        return json.dumps(value, sort_keys=True, default=_number)
    except (TypeError, ValueError, RecursionError):
        return id(value)  # No value of a choice: it is equal to none of them.


def _number(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError


def is_container(value: Any) -> bool:
    """Whether a value holds others, so that it can be changed or cannot be hashed."""
    return isinstance(value, tuple | list | dict)


def has_tuples(value: Any) -> bool:
    """Whether JSON would bring the value, or a part of it, back as a list where it is a tuple."""
    if isinstance(value, dict):
        return any(map(has_tuples, value.values()))
    return isinstance(value, tuple) or (isinstance(value, list) and any(map(has_tuples, value)))


def with_tuples(value: Any) -> Any:
    """The value for JSON with the kind of each container: `{"tuple": [1, {"list": [2]}]}`."""
    if isinstance(value, dict):
        return {"dict": {key: with_tuples(part) for key, part in value.items()}}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [with_tuples(part) for part in value]}
    return value


def from_tuples(written: Any) -> Value:
    """The inverse of `with_tuples`.

    Raises:
        ValueError: It is not what `with_tuples` writes.
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
    """The value for strict JSON, where the text `inf` or `-inf` stands for what is infinite."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [finite(part) for part in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
