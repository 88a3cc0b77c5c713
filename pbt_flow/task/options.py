"""The options of a task: what each takes, how a text of the shell is read, how it is written down.

An option is a keyword argument of the task's constructor. Its annotation, or else its default, says
what it takes. A population records every option, given or not, as JSON, and builds its models from
the record: a default that changes in the code later changes no population that has begun.

Pydantic reads the values. It is told types that any process knows: the names of an enum, a mapping
for a dataclass. So a controller checks options without importing the task's module. A worker makes
the enum, the dataclass, the path or the tuple of it when it builds a model.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import difflib
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
from pbt_flow.utils.values import check_text

OWN = ("seed", "device")
"""Arguments of every task that are settings of the population, and no options."""
_NOTHING = ("none", "null")
"""Words that stand for no value, where an option may be without one and takes no text."""


class Unwritten:
    """Stands for what no record can hold: a class, a function, an object."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a task, in parts that any process knows."""

    name: str
    takes: Any
    """The type of its values; `Unwritten` where they cannot be written down."""
    default: Any = None
    """Its default, as a record holds it."""
    required: bool = False
    """Whether it has none."""

    def read(self, value: Any) -> Any:
        """A value that a user gave, or that a record holds, as a record holds it.

        A text is read as the shell means it: a number, JSON, or words separated by commas.

        Raises:
            OptionError: The option does not take it.
        """
        try:
            plain = to_json(value)
        except ValueError as error:
            raise OptionError(
                f"option {self.name} takes {describe(self.takes)}, got {_short(value)}: {error}"
            ) from None
        if not self.required and is_same(plain, self.default):
            return self.default
        if self.takes is Unwritten:
            raise OptionError(
                f"option {self.name} takes only its default, {self.default}, since no record can "
                f"hold such values, got {_short(value)}; let it take a name, and look that up"
            )
        try:
            return _read(plain, self.takes)
        except (ValueError, TypeError):
            raise OptionError(
                f"option {self.name} takes {describe(self.takes)}, got {_short(value)}"
            ) from None


def _why(error: Exception) -> str:
    """What a type did not take, in one line: of pydantic's report the fields and the reasons."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    found = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
    return "; ".join(f"{place}: {reason}" if place else reason for place, reason in found)


def is_same(first: Any, second: Any) -> bool:
    """Whether two values of a record are the same; 1, 1.0 and True are three."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # as of a number with too many digits
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
            takes=_rewrite(hint, real=False),
            default=None if required else _written(parameter.default),
            required=required,
        )
    return found


def arguments_of(kind: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What a constructor is called with, for options as a record holds them.

    An option that is at the default of the code is left to the code.

    Raises:
        OptionError: The class does not take one of them, or not that value.
    """
    known, parameters = options_of(kind), _parameters(kind)  # type: ignore[arg-type]
    arguments = {}
    for name, value in options.items():
        check_known(name, known)
        if not known[name].required and is_same(value, known[name].default):
            continue
        plain = known[name].read(value)
        try:
            arguments[name] = _adapter(_rewrite(parameters[name][1], real=True))(plain)
        except (ValueError, TypeError) as error:
            raise OptionError(f"option {name} cannot be {_short(value)}: {_why(error)}") from None
    return arguments


def check_known(name: str, known: Iterable[str]) -> None:
    """Refuse an option that a task does not have.

    Raises:
        OptionError: It does not; the message says which there are, and which one may be meant.
    """
    names = sorted(known)
    if name in names:
        return
    if name in OWN:
        raise OptionError(
            f"no option {name!r}: it is a setting of the population, given as --{name} and in "
            f"Python as {name}=..., outside of options"
        )
    close = difflib.get_close_matches(name, names, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    raise OptionError(f"no option {name!r}; there are {names}{meant}")


def compare_with_code(
    known: Mapping[str, Option], recorded: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The options that a population goes on with, and what the code has changed since it began.

    Args:
        known: The options of the class as it is now.
        recorded: Those that the population was trained with.
        defaults: What the defaults were when it began; empty for a population of an earlier
            version, which recorded only what was given.

    Returns:
        All options, and a sentence for each thing that the user should know.

    Raises:
        OptionError: The class does not take an option any more, or not its value.
    """
    notes, going_on = [], dict[str, Any]()
    for name, value in recorded.items():
        if name not in known:
            raise OptionError(
                f"option {name}, with which it was trained ({_short(value)}), is not taken by the "
                "task's class any more; bring it back, or start a new population"
            )
        option = known[name]
        going_on[name] = option.read(value)
        if not is_same(going_on[name], value):
            notes.append(
                f"option {name}: {_short(value)} on record is read as {_short(going_on[name])}"
            )
        if name in defaults and not option.required and not is_same(defaults[name], option.default):
            notes.append(
                f"option {name}: the code's default is {_short(option.default)} now and was "
                f"{_short(defaults[name])}; this goes on with {_short(going_on[name])}, as recorded"
            )
    new = {name: option for name, option in known.items() if name not in recorded}
    for name, option in new.items():
        if option.required:
            raise OptionError(
                f"option {name} is required by the task's class now, and there is none on record; "
                "give it a default, or start a new population"
            )
    if new:
        told = ", ".join(f"{name}={_short(option.default)}" for name, option in new.items())
        notes.append(f"options that are not on record take the code's defaults: {told}")
    return {**going_on, **{name: option.default for name, option in new.items()}}, notes


@lru_cache(maxsize=256)
def _parameters(kind: type[Any]) -> dict[str, tuple[inspect.Parameter, Any]]:
    """The constructor's options, each with the type of its values."""
    return {
        name: (parameter, _type_of(kind, parameter))
        for name, parameter in inspect.signature(kind).parameters.items()
        if name not in OWN
        and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


def _type_of(kind: type[Any], parameter: inspect.Parameter) -> Any:
    hint, default = parameter.annotation, parameter.default
    if isinstance(hint, str):
        hint = _looked_up(kind, hint)
    of_default = str if default is parameter.empty else _type_of_value(default)
    if hint is parameter.empty:
        return of_default
    if isinstance(hint, type) and get_origin(of_default) is hint:
        return of_default  # Of a bare `tuple` the default says what its parts are.
    if default is None and hint is not Any:
        return Union[hint, None]  # noqa: UP007 - it may be a text or a form that knows no |
    return hint


def _looked_up(kind: type[Any], hint: str) -> Any:
    """An annotation that is a text, as all are under `from __future__ import annotations`.

    Where a name in it is not there, as one that is imported for type checkers only, the type of
    the default decides.
    """
    holder = types.SimpleNamespace(__annotations__={"it": hint})
    owner = next((base for base in kind.__mro__ if "__init__" in vars(base)), kind)
    names = getattr(inspect.unwrap(vars(owner)["__init__"]), "__globals__", {})
    try:
        return typing.get_type_hints(holder, names, dict(vars(owner)), include_extras=True)["it"]
    except Exception:
        return inspect.Parameter.empty


def _type_of_value(value: Any) -> Any:
    """The type of the values like a default."""
    kind: type[Any] = type(value.item()) if isinstance(value, np.generic) else type(value)
    if value is None:
        return Any
    if kind in (list, tuple, set, frozenset):
        part = _type_of_parts(value)
        return tuple[part, ...] if kind is tuple else kind[part]  # type: ignore[valid-type]
    if kind is dict:
        return dict[_type_of_parts(value), Any]  # type: ignore[misc]
    if isinstance(value, pathlib.PurePath):
        return pathlib.Path
    return kind


def _type_of_parts(values: Iterable[Any]) -> Any:
    found = {_type_of_value(value) for value in values}
    if found == {int, float}:
        return float
    return found.pop() if len(found) == 1 else Any


# --- types ----------------------------------------------------------------------------------------


_LISTS = (
    list,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Collection,
    collections.abc.Iterable,
)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_AS_THEY_ARE = (
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
)


def _not_a_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


def _truth(value: Any) -> Any:
    if isinstance(value, str):
        value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
    if not isinstance(value, bool):
        raise ValueError("it is true or false")
    return value


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum) and len(hint) > 0


def _member(kinds: tuple[type[enum.Enum], ...], value: Any) -> Any:
    """The member of an enum that a name means; any other value as it is."""
    for kind in kinds:
        if isinstance(value, str) and value in kind.__members__:
            return kind[value]
    return value


@dataclasses.dataclass(frozen=True)
class _Names:
    """Takes the name of an enum's member, or its value."""

    values: tuple[tuple[str, Any], ...]

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str) and value in dict(self.values):
            return value
        for name, own in self.values:
            if is_same(value, own) or (isinstance(value, str) and value == str(own)):
                return name
        return value


@dataclasses.dataclass(frozen=True)
class _Fields:
    """Takes a mapping whose keys are fields: pydantic would drop one that is misspelt."""

    names: tuple[str, ...]

    def __call__(self, value: Any) -> Any:
        unknown = sorted(set(value) - set(self.names)) if isinstance(value, Mapping) else []
        if unknown:
            raise ValueError(f"there is no field {unknown[0]!r}")
        return value


def _rewrite(hint: Any, *, real: bool) -> Any:
    """A type as pydantic is to read it.

    Args:
        hint: The annotation.
        real: Whether to make what the task asks for; else the same in parts that any process knows
            and JSON can hold.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    inner = partial(_rewrite, real=real)
    if hint is Any or hint is object:
        return Any
    if hint is None or hint is type(None):
        return None
    if origin is Annotated:
        made = inner(arguments[0])
        return Annotated[(made, *arguments[1:])] if real and made is not Unwritten else made
    for alias in ("__supertype__", "__value__"):  # NewType, and `type Name = ...`
        if hasattr(hint, alias):
            return inner(getattr(hint, alias))
    if origin is Literal:
        fine = all(type(one) in (str, int, bool, type(None)) for one in arguments)
        return hint if fine else Unwritten
    if origin in (Union, types.UnionType):
        parts = [part for part in map(inner, arguments) if part is not Unwritten]
        union = Union[tuple(parts)] if parts else Unwritten  # noqa: UP007 - of a tuple
        kinds = tuple(kind for kind in arguments if _is_enum(kind))
        # Of an enum and a text, a text that is a member's name means the member.
        return Annotated[union, BeforeValidator(partial(_member, kinds))] if real else union
    container = origin or hint
    if container in (*_LISTS, set, frozenset, tuple, *_MAPPINGS):
        return _rewrite_container(container, arguments, inner)
    return _rewrite_leaf(hint, real=real) if isinstance(hint, type) else Unwritten


def _rewrite_container(container: Any, arguments: tuple[Any, ...], inner: Any) -> Any:
    parts = [part if part is Ellipsis else inner(part) for part in arguments]
    if Unwritten in parts:
        return Unwritten
    if container in _MAPPINGS:
        key, value = parts or [str, Any]
        return dict[key, value]  # type: ignore[valid-type]
    if container is tuple:
        return tuple[tuple(parts) if arguments else (Any, ...)]  # type: ignore[misc]
    made = container if container in (set, frozenset) else list
    return made[parts[0] if parts else Any]


def _rewrite_leaf(hint: type[Any], *, real: bool) -> Any:
    if hint is bool:
        return Annotated[bool, BeforeValidator(_truth)]
    if hint in (int, float):
        return Annotated[hint, BeforeValidator(_not_a_bool)]
    if hint is str or hint in _AS_THEY_ARE:
        return hint
    if issubclass(hint, pathlib.PurePath):
        return hint if real else str
    if _is_enum(hint):
        if real:
            return Annotated[hint, BeforeValidator(partial(_member, (hint,)))]
        values = tuple((name, _written(member.value)) for name, member in hint.__members__.items())
        names = tuple(name for name, _ in values)
        return Annotated[Literal[names], BeforeValidator(_Names(values))]
    fields = _fields_of(hint)
    if fields is None:
        return Unwritten
    if real and not typing.is_typeddict(hint):
        return hint
    return Annotated[dict[str, Any], BeforeValidator(_Fields(fields))]


def _fields_of(hint: type[Any]) -> tuple[str, ...] | None:
    """The fields of a dataclass, a model of pydantic's or a typed mapping; None of another type."""
    if dataclasses.is_dataclass(hint):
        return tuple(field.name for field in dataclasses.fields(hint) if field.init)
    if typing.is_typeddict(hint):
        return tuple(hint.__annotations__)
    fields = getattr(hint, "model_fields", None)
    return None if fields is None else tuple(fields)


@lru_cache(maxsize=512)
def _validator(hint: Any) -> Any:
    return TypeAdapter(hint).validate_python


def _adapter(hint: Any) -> Any:
    """What reads values of a type."""
    try:
        return _validator(hint)
    except TypeError:  # It cannot be hashed.
        return TypeAdapter(hint).validate_python


def _how_written(parts: tuple[Any, ...]) -> str:
    """How a list is written in the shell; a list of lists says it of what is inside."""
    return "" if any(map(_is_container, parts)) else " (JSON, or separated by commas)"


def describe(takes: Any) -> str:
    """What an option takes, in words."""
    origin, arguments = get_origin(takes), get_args(takes)
    if takes is Unwritten:
        return "only its default"
    if takes is Any:
        return "any plain value"
    if takes is None or takes is type(None):
        return "none"
    if origin is Annotated:
        fields = [part.func for part in arguments[1:] if isinstance(part, BeforeValidator)]
        for told in fields:
            if isinstance(told, _Fields):
                return f"a mapping in JSON with {', '.join(told.names)}"
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


def _read(value: Any, takes: Any) -> Any:
    """A plain value as an option's record holds it.

    Raises:
        ValueError: It is not of that type.
        TypeError: It is not of that type.
    """
    if isinstance(value, str):
        origin, arguments = get_origin(takes), get_args(takes)
        if origin in (Union, types.UnionType):
            return _read_one_of(value, arguments)
        value = _from_text(value, takes)
    return to_json(_adapter(takes)(value))


def _read_one_of(text: str, kinds: tuple[Any, ...]) -> Any:
    """A text as the first of several types that reads it; a text is last, since it reads all."""
    takes_text = str in kinds
    if type(None) in kinds and not takes_text and text.lower() in _NOTHING:
        return None
    for kind in sorted((kind for kind in kinds if kind is not type(None)), key=lambda k: k is str):
        # A single word is a list of one word as well; beside a text it must look like a list.
        if takes_text and _is_container(kind) and text[:1] not in ("[", "{", "("):
            continue
        try:
            return _read(text, kind)
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
            read = json.loads(text, parse_constant=_no_number)
        except ValueError:
            return text
        # A text in quotes stays as it is: without them it might be read as a number next time.
        return text if isinstance(read, str) else read
    if origin is Literal:
        return next((one for one in arguments if text == _spelt(one)), text)
    if origin is dict:
        return json.loads(text)
    if origin in (list, tuple, set, frozenset):
        return _list_from_text(text.strip(), arguments)
    return text


def _spelt(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is a word here")


def _list_from_text(text: str, arguments: tuple[Any, ...]) -> Any:
    if text.startswith("["):
        return json.loads(text)
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip().removesuffix(",")
    words = [word.strip() for word in text.split(",")] if text else []
    kinds = arguments if Ellipsis not in arguments and len(arguments) > 1 else arguments[:1]
    if any(map(_is_container, kinds)):
        raise ValueError("a list of lists is written in JSON")
    if len(kinds) == 1:
        kinds = kinds * len(words)
    return [_read(word, kind) for word, kind in zip(words, kinds, strict=True)]


def to_json(value: Any) -> Any:
    """A value of Python's as a record holds it: what JSON has.

    Raises:
        ValueError: JSON has nothing for it.
    """
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, np.generic | np.ndarray):
        return to_json(value.tolist())
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        number = int(value) if isinstance(value, int) else float(value)
        json.dumps(number)  # Python writes no number of more than some thousand digits.
        return number
    if isinstance(value, str):
        check_text(value)
        return str(value)
    if isinstance(value, pathlib.PurePath):
        return to_json(str(value))
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    if isinstance(value, set | frozenset):
        # Sorted, since a set has another order in each process.
        return sorted((to_json(part) for part in value), key=json.dumps)
    if isinstance(value, Mapping):
        return {_key(key): to_json(part) for key, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: to_json(getattr(value, f.name)) for f in fields if f.init}
    if isinstance(value, _AS_THEY_ARE) or hasattr(type(value), "__pydantic_validator__"):
        return to_json(TypeAdapter(type(value)).dump_python(value, mode="json"))
    raise ValueError(f"JSON has nothing for an object of {type(value).__qualname__}")


def _key(key: Any) -> str:
    plain = to_json(key)
    return plain if isinstance(plain, str) else json.dumps(plain)


def _written(default: Any) -> Any:
    """A default as a record holds it; of what JSON cannot hold, a text that tells it apart."""
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
    # Where an object lies in memory is another place in each process.
    return f"<{re.sub(r' at 0x[0-9a-fA-F]+', '', text).strip('<>')}>"
