"""What a task has returned, read strictly: scores, metrics and sentences, as records hold them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pbt_flow.task import Task
from pbt_flow.utils.means import mean
from pbt_flow.utils.reasons import in_short, reason_of


def printable(text: str) -> str:
    """A text with escapes for what files and databases refuse: zero bytes and lone surrogates."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def read_score(returned: Any) -> tuple[float, tuple[float, ...]]:
    """The score, and the sample that it is the mean of, from what `Task.evaluate` returned.

    The sample of a single number is empty.

    Raises:
        TypeError: `evaluate` returned neither a number nor a sequence of at least one number.
    """
    try:
        if isinstance(returned, str | bytes | Mapping):
            raise TypeError
        # A tensor without dimensions has `__len__`, which raises: it counts as a number.
        if getattr(returned, "ndim", 1) == 0 or not hasattr(returned, "__len__"):
            return float(returned), ()
        sample = tuple(float(value) for value in returned)
        if not sample:
            raise TypeError
        return mean(sample), sample
    except (TypeError, ValueError):
        raise TypeError(
            f"evaluate() must return a number or a sequence of numbers, got {in_short(returned)}"
        ) from None
    except OverflowError:
        raise TypeError(
            f"evaluate() must return numbers that a float can hold, got {in_short(returned)}"
        ) from None


def read_metrics(returned: Any, what: str) -> dict[str, float]:
    """The metrics that a task's method returned, as floats; none if it returned None.

    Their names are such as files and databases take.

    Args:
        returned: What the method returned.
        what: The method, for the message.

    Raises:
        TypeError: The method returned no mapping, or one of its metrics is no number. The message
            names the metric.
        ValueError: Two names are written alike, such as 1 and "1".
    """
    if returned is None:
        return {}
    try:
        plain = dict(returned)
    except (TypeError, ValueError):
        raise TypeError(
            f"{what} must return a mapping of names to numbers, got {in_short(returned)}"
        ) from None
    found: dict[str, float] = {}
    for name, value in _under_printable_names(plain, what).items():
        try:
            found[name] = float(value)
        except Exception as error:
            raise TypeError(
                f"{what} must return a mapping of names to numbers that a float can hold: the "
                f"metric {in_short(name)} is {in_short(value)} ({reason_of(error)})"
            ) from error
    return found


def _under_printable_names(metrics: dict[Any, Any], what: str) -> dict[str, Any]:
    # A lone surrogate in a metric's name would stop every message to MLflow that has the name.
    names = {name: printable(str(name)) for name in metrics}
    for written, count in Counter(names.values()).items():
        if count > 1:
            raise ValueError(
                f"{what} returned {count} metrics whose names are written {written!r}; name "
                "metrics by texts that differ"
            )
    return {names[name]: value for name, value in metrics.items()}


_LONGEST_SENTENCE = 1000


def read_understood(task: Task) -> dict[str, str]:
    """What the task understood: each topic, and the sentence on it, on one line.

    These sentences are for people, and must not stop the training. So an error in `understood`
    becomes a sentence itself.
    """
    try:
        told = dict(task.understood())
        return {_topic_name(str(topic)): _on_one_line(str(text)) for topic, text in told.items()}
    except (Exception, SystemExit) as error:
        reason = _on_one_line(reason_of(error))
        return {"understood": f"understood() must return a sentence for each topic: {reason}"}


def _topic_name(text: str) -> str:
    """A topic as it can be part of a tag's name in MLflow."""
    return re.sub(r"[^\w\-. ]", "_", _on_one_line(text))[:100] or "_"


def _on_one_line(text: str) -> str:
    """A text on one line, cut if it is long."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _LONGEST_SENTENCE else f"{line[: _LONGEST_SENTENCE - 1]}…"
