"""The type of an option: as pydantic reads it, for a controller or for a task, and in words.

There are two types for each option. One is made of parts that any process knows, such as the names
of an enum's members, or a mapping in place of a dataclass: with it a controller checks options
without importing the task's module. The other is what the task asks for: with it a worker makes the
enum's member or the dataclass when it builds a model.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import pathlib
import types
import typing
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, TypeAdapter

from pbt_flow.task.option_values import PYDANTICS_OWN, recorded_default
from pbt_flow.utils.values import is_same_in_json


class Unrecordable:
    """Stands for the type of values that no record can hold: classes, functions, other objects."""


_LIST_TYPES = (
    list,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Collection,
    collections.abc.Iterable,
)
_MAPPING_TYPES = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


def _read_bool(value: Any) -> Any:
    if isinstance(value, str):
        value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
    if not isinstance(value, bool):
        raise ValueError("it is true or false")
    return value


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum) and len(hint) > 0


def _enum_member(kinds: tuple[type[enum.Enum], ...], value: Any) -> Any:
    """The member of one of some enums that a text names. Any other value is returned as it is."""
    for kind in kinds:
        if isinstance(value, str) and value in kind.__members__:
            return kind[value]
    return value


@dataclasses.dataclass(frozen=True)
class _EnumNames:
    """Turns the value of an enum's member into the member's name. A name stays as it is."""

    values: tuple[tuple[str, Any], ...]
    """The name and the value of each member."""

    def __call__(self, value: Any) -> Any:
        # A name goes first: a text may be the name of one member and the value of another.
        if isinstance(value, str) and value in dict(self.values):
            return value
        for name, own in self.values:
            if is_same_in_json(value, own) or (isinstance(value, str) and value == str(own)):
                return name
        return value


@dataclasses.dataclass(frozen=True)
class _FieldNames:
    """Refuses a mapping with a key that is no field: pydantic would ignore a misspelt one."""

    names: tuple[str, ...]

    def __call__(self, value: Any) -> Any:
        unknown = sorted(set(value) - set(self.names)) if isinstance(value, Mapping) else []
        if unknown:
            raise ValueError(f"there is no field {unknown[0]!r}")
        return value


def pydantic_type(hint: Any, *, for_task: bool) -> Any:
    """A type as pydantic is to read it.

    Args:
        hint: The annotation.
        for_task: Whether pydantic is to make what the task asks for. Otherwise the type is made of
            parts that any process knows and JSON can hold.

    Returns:
        The type; `Unrecordable` if JSON cannot hold its values.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    rewrite_part = partial(pydantic_type, for_task=for_task)
    if hint is Any or hint is object:
        return Any
    if hint is None or hint is type(None):
        return None
    if origin is Annotated:
        rewritten = rewrite_part(arguments[0])
        if for_task and rewritten is not Unrecordable:
            return Annotated[(rewritten, *arguments[1:])]
        return rewritten
    # A NewType has the one attribute, and what `type Name = ...` makes has the other.
    for alias in ("__supertype__", "__value__"):
        if hasattr(hint, alias):
            return rewrite_part(getattr(hint, alias))
    if origin is Literal:
        in_json = all(type(choice) in (str, int, bool, type(None)) for choice in arguments)
        return hint if in_json else Unrecordable
    if origin in (Union, types.UnionType):
        return _rewrite_union(arguments, rewrite_part, for_task=for_task)
    container = origin or hint
    if container in (*_LIST_TYPES, set, frozenset, tuple, *_MAPPING_TYPES):
        return _rewrite_container(container, arguments, rewrite_part)
    return _rewrite_class(hint, for_task=for_task) if isinstance(hint, type) else Unrecordable


def _rewrite_union(arguments: tuple[Any, ...], rewrite_part: Any, *, for_task: bool) -> Any:
    """A union of those of its types whose values JSON can hold."""
    parts = [part for part in map(rewrite_part, arguments) if part is not Unrecordable]
    union = Union[tuple(parts)] if parts else Unrecordable  # noqa: UP007 - of a tuple
    if not for_task:
        return union
    # In a union of an enum and a text, a text that is a member's name means the member.
    kinds = tuple(kind for kind in arguments if _is_enum(kind))
    return Annotated[union, BeforeValidator(partial(_enum_member, kinds))]


def _rewrite_container(container: Any, arguments: tuple[Any, ...], rewrite_part: Any) -> Any:
    parts = [part if part is Ellipsis else rewrite_part(part) for part in arguments]
    if Unrecordable in parts:
        return Unrecordable
    if container in _MAPPING_TYPES:
        key, value = parts or [str, Any]
        return dict[key, value]  # type: ignore[valid-type]
    if container is tuple:
        return tuple[tuple(parts) if arguments else (Any, ...)]  # type: ignore[misc]
    # The abstract types, such as Sequence, are read as lists.
    concrete = container if container in (set, frozenset) else list
    return concrete[parts[0] if parts else Any]


def _rewrite_class(hint: type[Any], *, for_task: bool) -> Any:
    if hint is bool:
        return Annotated[bool, BeforeValidator(_read_bool)]
    if hint in (int, float):
        # Pydantic would read True as 1.
        return Annotated[hint, BeforeValidator(_refuse_bool)]
    if hint is str or hint in PYDANTICS_OWN:
        return hint
    if issubclass(hint, pathlib.PurePath):
        return hint if for_task else str
    if _is_enum(hint):
        if for_task:
            return Annotated[hint, BeforeValidator(partial(_enum_member, (hint,)))]
        members = hint.__members__.items()
        values = tuple((name, recorded_default(member.value)) for name, member in members)
        names = tuple(name for name, _ in values)
        return Annotated[Literal[names], BeforeValidator(_EnumNames(values))]
    fields = _fields_of(hint)
    if fields is None:
        return Unrecordable
    # A typed mapping is a plain dict for the task as well.
    if for_task and not typing.is_typeddict(hint):
        return hint
    return Annotated[dict[str, Any], BeforeValidator(_FieldNames(fields))]


def _fields_of(hint: type[Any]) -> tuple[str, ...] | None:
    """The fields of a dataclass, a pydantic model or a typed mapping; None for another type."""
    if dataclasses.is_dataclass(hint):
        return tuple(field.name for field in dataclasses.fields(hint) if field.init)
    if typing.is_typeddict(hint):
        return tuple(hint.__annotations__)
    fields = getattr(hint, "model_fields", None)
    return None if fields is None else tuple(fields)


@lru_cache(maxsize=512)
def _cached_validator(hint: Any) -> Any:
    return TypeAdapter(hint).validate_python


def validator_of(hint: Any) -> Any:
    """The function that checks and converts values of a type."""
    try:
        return _cached_validator(hint)
    except TypeError:
        # The cache takes no type that cannot be hashed.
        return TypeAdapter(hint).validate_python


def describe(takes: Any) -> str:
    """What an option takes, in words."""
    origin, arguments = get_origin(takes), get_args(takes)
    if takes is Unrecordable:
        return "only its default"
    if takes is Any:
        return "any plain value"
    if takes is None or takes is type(None):
        return "none"
    if origin is Annotated:
        for part in arguments[1:]:
            if isinstance(part, BeforeValidator) and isinstance(part.func, _FieldNames):
                return f"a mapping in JSON with {', '.join(part.func.names)}"
        return describe(arguments[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is dict:
        return "a mapping in JSON"
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {', '.join(map(describe, arguments))}{_how_written(arguments)}"
    if origin in (list, tuple, set, frozenset):
        return f"a list of {describe(arguments[0])}{_how_written(arguments[:1])}"
    return str(takes.__name__)


def _how_written(parts: tuple[Any, ...]) -> str:
    """How a list is written in the shell. A list of lists says it where the inner one is named."""
    return "" if any(map(is_container, parts)) else " (JSON, or separated by commas)"


def is_container(takes: Any) -> bool:
    return get_origin(takes) in (list, tuple, set, frozenset, dict)
