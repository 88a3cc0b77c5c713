"""A value of an option as a record holds it, in the types of JSON."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import inspect
import json
import pathlib
import re
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from pbt_flow.utils.values import check_text

PYDANTICS_OWN = (
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
)
"""Types that pydantic knows how to read from JSON and to write as JSON."""


def to_json(value: Any) -> Any:
    """A Python value as a record holds it, in the types of JSON.

    Raises:
        ValueError: JSON has no type for it.
    """
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, np.generic | np.ndarray):
        return to_json(value.tolist())
    # Asked before the numbers: a bool is an int in Python.
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        # Without the conversion a subclass, such as a unit's own number, would be kept.
        number = int(value) if isinstance(value, int) else float(value)
        # Raises ValueError for a number of thousands of digits, which Python refuses to write.
        json.dumps(number)
        return number
    if isinstance(value, str):
        check_text(value)
        return str(value)
    if isinstance(value, pathlib.PurePath):
        return to_json(str(value))
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    if isinstance(value, set | frozenset):
        # Sorted, since the order of a set differs between processes.
        return sorted((to_json(part) for part in value), key=json.dumps)
    if isinstance(value, Mapping):
        return _mapping_to_json(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return {name: to_json(getattr(value, name)) for name in names}
    # The attribute is how a pydantic model is told from other classes.
    if isinstance(value, PYDANTICS_OWN) or hasattr(type(value), "__pydantic_validator__"):
        return to_json(TypeAdapter(type(value)).dump_python(value, mode="json"))
    raise ValueError(f"JSON has nothing for an object of {type(value).__qualname__}")


def _mapping_to_json(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """A mapping as a record holds it.

    Raises:
        ValueError: JSON has no type for a key or a value, or two keys are one text in JSON.
    """
    plain: dict[str, Any] = {}
    for key, value in mapping.items():
        text = _text_of_key(key)
        if text in plain:
            raise ValueError(f"two of its keys are {text!r} in JSON, which has only texts as keys")
        plain[text] = to_json(value)
    return plain


def _text_of_key(key: Any) -> str:
    """The key of a mapping as JSON has it, which has only texts as keys."""
    plain = to_json(key)
    return plain if isinstance(plain, str) else json.dumps(plain)


def recorded_default(default: Any) -> Any:
    """A default as a record holds it. What JSON cannot hold becomes a text in angle brackets.

    The text tells the default from other defaults, and is the same in every process.
    """
    try:
        return to_json(default)
    except (ValueError, RecursionError):
        pass
    if inspect.isclass(default) or inspect.isroutine(default):
        return f"<{default.__module__}.{default.__qualname__}>"
    try:
        text = repr(default)
    except Exception:
        text = type(default).__qualname__
    # An object's address in memory differs between processes.
    return f"<{re.sub(r' at 0x[0-9a-fA-F]+', '', text).strip('<>')}>"
