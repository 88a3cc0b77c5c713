"""The options of a task: what each takes, how a text of the shell is read, how it is recorded.

An option is a keyword argument of the task's constructor. Its annotation, or else its default, says
what it takes. A population records the value of every option as JSON, whether the user gave it or
not, and builds its models from the record. So a default that changes in the code later changes no
population that has begun.

Pydantic checks and converts the values. There are two types for each option. One is made of parts
that any process knows, such as the names of an enum's members, or a mapping in place of a
dataclass: with it a controller checks options without importing the task's module. The other is
what the task asks for: with it a worker makes the enum's member or the dataclass when it builds a
model.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import inspect
import json
import pathlib
import re
import types
import typing
import uuid
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from pbt_flow.exceptions import OptionError
from pbt_flow.utils.text import did_you_mean, listed
from pbt_flow.utils.values import check_text

NOT_OPTIONS = ("seed", "device")
"""Arguments of every task that are settings of the population, and no options."""
OF_SCRIPTS = "arguments"
"""The option that only a script has, of the tasks that come along: its own command line."""
_WORDS_FOR_NONE = ("none", "null")
"""Words that mean None in the shell, for an option that takes None and takes no text."""


class Unrecordable:
    """Stands for the type of values that no record can hold: classes, functions, other objects."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a task, in parts that any process knows."""

    name: str
    takes: Any
    """The type of the option's values; `Unrecordable` if no record can hold them."""
    default: Any = None
    """The default, as a record holds it; None if there is no default."""
    required: bool = False
    """Whether the option has no default."""

    def read(self, value: Any) -> Any:
        """Turn a value into what a record holds. The user gave it, or it comes from a record.

        A text is read as the shell means it: a number, JSON, or words separated by commas.

        Raises:
            OptionError: The option does not take the value.
        """
        try:
            plain = to_json(value)
        except ValueError as error:
            raise OptionError(
                f"option {self.name} takes {describe(self.takes)}, got {_shortened(value)}: {error}"
            ) from None
        # The default is always taken, even one that no record can hold.
        if not self.required and is_same(plain, self.default):
            return self.default
        if self.takes is Unrecordable:
            raise OptionError(
                f"option {self.name} takes only its default, {self.default}, since no record can "
                f"hold such values, got {_shortened(value)}; let the option take a name, and let "
                "the task look the value up by its name"
            )
        try:
            return _read_value(plain, self.takes)
        except (ValueError, TypeError):
            raise OptionError(
                f"option {self.name} takes {describe(self.takes)}, got {_shortened(value)}"
            ) from None


def _reason_on_one_line(error: Exception) -> str:
    """Why a type does not take a value. Of pydantic's report it has the fields and the reasons."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    reasons = []
    for found in error.errors():
        place = ".".join(map(str, found["loc"]))
        reasons.append(f"{place}: {found['msg']}" if place else found["msg"])
    return "; ".join(reasons)


def is_same(first: Any, second: Any) -> bool:
    """Whether two values of a record are the same. The values 1, 1.0 and True all differ."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def _shortened(value: Any) -> str:
    """A value as it looks in Python, cut if it is long."""
    try:
        text = repr(value)
    except Exception:
        # Python refuses to write a number of thousands of digits, for instance.
        text = f"an object of {type(value).__qualname__}"
    return text if len(text) <= 200 else f"{text[:197]}..."


# --- the options of a class -----------------------------------------------------------------------


@lru_cache(maxsize=256)
def options_of(kind: type[Any]) -> dict[str, Option]:
    """The options of a task class by name, in the order of its constructor."""
    found = {}
    for name, (parameter, hint) in _parameters(kind).items():  # type: ignore[arg-type]
        required = parameter.default is inspect.Parameter.empty
        found[name] = Option(
            name=name,
            takes=_rewrite(hint, for_task=False),
            default=None if required else _recorded_default(parameter.default),
            required=required,
        )
    return found


def arguments_of(kind: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a task's constructor, for options as a record holds them.

    An option that is at the code's default is left out.

    Raises:
        OptionError: The class does not take one of the options, or not its value.
    """
    known, parameters = options_of(kind), _parameters(kind)  # type: ignore[arg-type]
    arguments = {}
    for name, value in options.items():
        check_known(name, known)
        # Left to the code, which may have a default that no record can hold.
        if not known[name].required and is_same(value, known[name].default):
            continue
        plain = known[name].read(value)
        _, hint = parameters[name]
        try:
            make = _validator_of(_rewrite(hint, for_task=True))
            arguments[name] = make(plain)
        except (ValueError, TypeError) as error:
            reason = _reason_on_one_line(error)
            raise OptionError(f"option {name} cannot be {_shortened(value)}: {reason}") from None
    return arguments


def check_known(name: str, known: Iterable[str]) -> None:
    """Check that a task has an option.

    Raises:
        OptionError: The task has no such option. The message says which options there are, and
            which one the user may have meant.
    """
    names = sorted(known)
    if name in names:
        return
    if name in NOT_OPTIONS:
        raise OptionError(
            f"no option {name!r}: it is a setting of the population, given as --{name} and in "
            f"Python as {name}=..., outside of options"
        )
    if name == OF_SCRIPTS:
        raise OptionError(
            "no arguments of its own, which only a script has; its options are given as "
            f"--set NAME=VALUE, and not behind --; there are {listed(names)}"
        )
    raise OptionError(f"no option {name!r}{did_you_mean(name, names)}; there are {listed(names)}")


def compare_with_code(
    known: Mapping[str, Option], recorded: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Compare the options on record with the options that the task's class has now.

    Args:
        known: The options of the class as it is now.
        recorded: The options that the population was trained with.
        defaults: The defaults when the population began; empty for a population of an earlier
            version, which recorded only the options that were given.

    Returns:
        All options that the population goes on with, and a sentence for each thing that the user
        should know.

    Raises:
        OptionError: The class no longer takes an option, or not its value.
    """
    notes: list[str] = []
    options: dict[str, Any] = {}
    for name, value in recorded.items():
        if name not in known:
            raise OptionError(
                f"option {name}, with which the population was trained ({_shortened(value)}), is "
                "not taken by the task's class any more; bring the option back, or start a new "
                "population"
            )
        option = known[name]
        options[name] = option.read(value)
        if not is_same(options[name], value):
            notes.append(
                f"option {name}: {_shortened(value)} on record is read as "
                f"{_shortened(options[name])}"
            )
        if name in defaults and not option.required and not is_same(defaults[name], option.default):
            notes.append(
                f"option {name}: the code's default is {_shortened(option.default)} now and was "
                f"{_shortened(defaults[name])}; this goes on with {_shortened(options[name])}, as "
                "recorded"
            )
    new = {name: option for name, option in known.items() if name not in recorded}
    for name, option in new.items():
        if option.required:
            raise OptionError(
                f"option {name} is required by the task's class now, and has no value on record; "
                "give it a default, or start a new population"
            )
        options[name] = option.default
    if new:
        told = ", ".join(f"{name}={_shortened(option.default)}" for name, option in new.items())
        notes.append(f"options that are not on record take the code's defaults: {told}")
    return options, notes


@lru_cache(maxsize=256)
def _parameters(kind: type[Any]) -> dict[str, tuple[inspect.Parameter, Any]]:
    """The constructor's parameters that are options, each with the type of its values."""
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        can_be_named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if can_be_named and name not in NOT_OPTIONS:
            found[name] = parameter, _type_of(kind, parameter)
    return found


def _type_of(kind: type[Any], parameter: inspect.Parameter) -> Any:
    """The type of a parameter: its annotation, or else the type of its default."""
    hint, default = parameter.annotation, parameter.default
    if isinstance(hint, str):
        hint = _resolve_annotation(kind, hint)
    of_default = str if default is parameter.empty else _type_of_value(default)
    if hint is parameter.empty:
        return of_default
    if isinstance(hint, type) and get_origin(of_default) is hint:
        # The annotation is a bare `tuple`, say: the default says what its parts are.
        return of_default
    if default is None and hint is not Any:
        # Not `hint | None`: some annotations, such as a text, have no operator |.
        return Union[hint, None]  # noqa: UP007
    return hint


def _resolve_annotation(kind: type[Any], hint: str) -> Any:
    """The type that an annotation in the form of a text names.

    All annotations of a file with `from __future__ import annotations` have that form. A name in it
    may not exist at run time, such as one that is imported for type checkers only. The result is
    then `Parameter.empty`, so that the type of the default decides.
    """
    holder = types.SimpleNamespace(__annotations__={"it": hint})
    owner = next((base for base in kind.__mro__ if "__init__" in vars(base)), kind)
    names = getattr(inspect.unwrap(vars(owner)["__init__"]), "__globals__", {})
    try:
        return typing.get_type_hints(holder, names, dict(vars(owner)), include_extras=True)["it"]
    except Exception:
        return inspect.Parameter.empty


def _type_of_value(value: Any) -> Any:
    """The type of an option whose default is `value`, and which has no annotation."""
    kind: type[Any] = type(value.item()) if isinstance(value, np.generic) else type(value)
    if value is None:
        return Any
    if kind in (list, tuple, set, frozenset):
        part = _common_type(value)
        return tuple[part, ...] if kind is tuple else kind[part]  # type: ignore[valid-type]
    if kind is dict:
        return dict[_common_type(value), Any]  # type: ignore[misc]
    if isinstance(value, pathlib.PurePath):
        return pathlib.Path
    return kind


def _common_type(values: Iterable[Any]) -> Any:
    """The one type that all values have; Any if they have no type in common."""
    found = {_type_of_value(value) for value in values}
    if found == {int, float}:
        return float
    return found.pop() if len(found) == 1 else Any


# --- types ----------------------------------------------------------------------------------------


_LIST_TYPES = (
    list,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Collection,
    collections.abc.Iterable,
)
_MAPPING_TYPES = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_PYDANTICS_OWN = (
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
)
"""Types that pydantic knows how to read from JSON and to write as JSON."""


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
            if is_same(value, own) or (isinstance(value, str) and value == str(own)):
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


def _rewrite(hint: Any, *, for_task: bool) -> Any:
    """A type as pydantic is to read it.

    Args:
        hint: The annotation.
        for_task: Whether pydantic is to make what the task asks for. Otherwise the type is made of
            parts that any process knows and JSON can hold.

    Returns:
        The type; `Unrecordable` if JSON cannot hold its values.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    rewrite_part = partial(_rewrite, for_task=for_task)
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
    if hint is str or hint in _PYDANTICS_OWN:
        return hint
    if issubclass(hint, pathlib.PurePath):
        return hint if for_task else str
    if _is_enum(hint):
        if for_task:
            return Annotated[hint, BeforeValidator(partial(_enum_member, (hint,)))]
        members = hint.__members__.items()
        values = tuple((name, _recorded_default(member.value)) for name, member in members)
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


def _validator_of(hint: Any) -> Any:
    """The function that checks and converts values of a type."""
    try:
        return _cached_validator(hint)
    except TypeError:
        # The cache takes no type that cannot be hashed.
        return TypeAdapter(hint).validate_python


def _how_written(parts: tuple[Any, ...]) -> str:
    """How a list is written in the shell. A list of lists says it where the inner one is named."""
    return "" if any(map(_is_container, parts)) else " (JSON, or separated by commas)"


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


# --- values ---------------------------------------------------------------------------------------


def _read_value(value: Any, takes: Any) -> Any:
    """A plain value of an option as a record holds it.

    Raises:
        ValueError: The value is not of the type `takes`.
        TypeError: The value is not of the type `takes`.
    """
    if isinstance(value, str):
        origin, arguments = get_origin(takes), get_args(takes)
        if origin in (Union, types.UnionType):
            return _read_one_of(value, arguments)
        value = _from_text(value, takes)
    return to_json(_validator_of(takes)(value))


def _read_one_of(text: str, kinds: tuple[Any, ...]) -> Any:
    """A text as a value of the first of several types that takes it.

    Raises:
        ValueError: None of the types takes it.
    """
    takes_text = str in kinds
    if type(None) in kinds and not takes_text and text.lower() in _WORDS_FOR_NONE:
        return None
    others = [kind for kind in kinds if kind is not type(None) and kind is not str]
    # `str` is tried last, since it takes every text.
    for kind in [*others, str] if takes_text else others:
        # A single word could be a list of one word too. In a union with `str` a list must look like
        # a list.
        if takes_text and _is_container(kind) and text[:1] not in ("[", "{", "("):
            continue
        try:
            return _read_value(text, kind)
        except (ValueError, TypeError):
            continue
    raise ValueError("none of them reads it")


def _is_container(takes: Any) -> bool:
    return get_origin(takes) in (list, tuple, set, frozenset, dict)


def _from_text(text: str, takes: Any) -> Any:
    """What a text of the shell means for a type."""
    origin, arguments = get_origin(takes), get_args(takes)
    if origin is Annotated:
        return _from_text(text, arguments[0])
    if takes is Any:
        try:
            read = json.loads(text, parse_constant=_refuse_constant)
        except ValueError:
            return text
        # A text in quotes keeps them: without them the record might be read as a number.
        return text if isinstance(read, str) else read
    if origin is Literal:
        return next((choice for choice in arguments if text == _shell_text(choice)), text)
    if origin is dict:
        return json.loads(text)
    if origin in (list, tuple, set, frozenset):
        return _list_from_text(text.strip(), arguments)
    return text


def _shell_text(value: Any) -> str:
    """How a choice is written in the shell."""
    return value if isinstance(value, str) else json.dumps(value)


def _refuse_constant(word: str) -> Any:
    """Refuse NaN and Infinity, which Python reads as JSON and the JSON standard does not have."""
    raise ValueError(f"{word} is a word here")


def _list_from_text(text: str, arguments: tuple[Any, ...]) -> Any:
    """A list that is written as JSON, or as words separated by commas, perhaps in parentheses.

    Args:
        text: The text.
        arguments: The types of the list's parts: one for all, or one for each.
    """
    if text.startswith("["):
        return json.loads(text)
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip().removesuffix(",")
    words = [word.strip() for word in text.split(",")] if text else []
    one_for_each = Ellipsis not in arguments and len(arguments) > 1
    kinds = arguments if one_for_each else arguments[:1]
    if any(map(_is_container, kinds)):
        raise ValueError("a list of lists is written in JSON")
    if len(kinds) == 1:
        kinds = kinds * len(words)
    return [_read_value(word, kind) for word, kind in zip(words, kinds, strict=True)]


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
    if isinstance(value, _PYDANTICS_OWN) or hasattr(type(value), "__pydantic_validator__"):
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


def _recorded_default(default: Any) -> Any:
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
