"""A learning problem: what it is, how it is named, what it declares, what it takes.

What users and other wings need is imported from here.
"""

from pbt_flow.exceptions import TaskError
from pbt_flow.task.base import Task
from pbt_flow.task.declaration import (
    Declaration,
    TaskSpec,
    build_task,
    check_class,
    check_found,
    check_options,
    check_task,
    complete_options,
    declare,
    recorded_options,
)
from pbt_flow.task.naming import GROUP, find_task, is_same_task, name_task

__all__ = [
    "GROUP",
    "Declaration",
    "Task",
    "TaskError",
    "TaskSpec",
    "build_task",
    "check_class",
    "check_found",
    "check_options",
    "check_task",
    "complete_options",
    "declare",
    "find_task",
    "is_same_task",
    "name_task",
    "recorded_options",
]
