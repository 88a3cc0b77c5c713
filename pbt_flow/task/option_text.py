"""The value of an option from what the user gave: a text is read as the shell means it."""

from __future__ import annotations

import json
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pbt_flow.task.option_types import is_container, validator_of
from pbt_flow.task.option_values import to_json

_WORDS_FOR_NONE = ("none", "null")
"""Words that mean None in the shell, for an option that takes None and takes no text."""


def read_value(value: Any, takes: Any) -> Any:
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
    return to_json(validator_of(takes)(value))


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
        if takes_text and is_container(kind) and text[:1] not in ("[", "{", "("):
            continue
        try:
            return read_value(text, kind)
        except (ValueError, TypeError):
            continue
    raise ValueError("none of them reads it")


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
    if any(map(is_container, kinds)):
        raise ValueError("a list of lists is written in JSON")
    if len(kinds) == 1:
        kinds = kinds * len(words)
    return [read_value(word, kind) for word, kind in zip(words, kinds, strict=True)]
