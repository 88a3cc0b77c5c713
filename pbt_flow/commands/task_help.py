"""What a task takes and searches, for whoever asks for help with it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from pbt_flow.task import declare, find_task
from pbt_flow.task.option_types import describe
from pbt_flow.utils.text import number


def task_help(task: str) -> str:
    """The options, the space and the usual settings of a task.

    Raises:
        TaskError: It is not found, or its declarations contradict each other.
    """
    told = declare(task)
    said = inspect.getdoc(find_task(task)) or ""
    lines = [f"task {told.label}: {said.splitlines()[0] if said else 'it has no description'}"]
    lines += ["", f"what is searched ({told.direction} the score)"]
    lines += [f"  {name}: {domain_in_words(domain)}" for name, domain in told.space.items()]
    if told.options:
        lines += ["", "its options, as --set KEY=VALUE"]
    for name, option in told.options.items():
        default = "required" if option.required else f"default {number(option.default)}"
        lines.append(f"  {name}: {describe(option.takes)} ({default})")
    lines += _usual("its own defaults", told.defaults)
    lines += _usual("with --quick", told.quick)
    return "\n".join(lines)


def _usual(title: str, settings: Mapping[str, Any]) -> list[str]:
    """Settings that a task brings along, under a heading; nothing where there are none."""
    if not settings:
        return []
    return ["", title, *(f"  {name}={number(value)}" for name, value in settings.items())]


def domain_in_words(domain: BaseDistribution) -> str:
    """The values that a hyperparameter may have."""
    if isinstance(domain, CategoricalDistribution):
        return "one of " + ", ".join(map(repr, domain.choices))
    low, high = domain.low, domain.high  # type: ignore[attr-defined]
    text = f"{number(low)} to {number(high)}"
    if getattr(domain, "log", False):
        text += ", logarithmic"
    step = getattr(domain, "step", None)
    if isinstance(low, int) and step == 1:
        return f"{text}, whole numbers"
    return text if step is None else f"{text} in steps of {number(step)}"
