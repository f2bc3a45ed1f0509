"""One module per task type. Each has ``async def run(context) -> dict`` and nothing else public."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, cast

from coriolis.agent.assignment import TaskContext
from coriolis.errors import Unsupported
from coriolis.model.task import TaskType

TaskFunction = Callable[[TaskContext], Awaitable[dict[str, Any]]]


def task_function(task_type: str) -> TaskFunction:
    """The function of a task type. Raises Unsupported for one this agent does not know (a newer coordinator)."""
    try:
        name = TaskType(task_type).value.lower()
    except ValueError as unknown:
        raise Unsupported(f"this agent does not know task {task_type[:60]!r}; update it") from unknown
    module = import_module(f"{__name__}.{name}")
    return cast(TaskFunction, module.run)
