"""A template is made at the destination and never started there unasked."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from coriolis.agent.assignment import Assignment
from coriolis.agent.tasks import finalize_instance_deployment as task
from coriolis.model.machine import MachineSpec, to_document
from coriolis.model.resource import Instance, InstanceRequest


class PhonyTarget:
    def __init__(self) -> None:
        self.started: list[str] = []

    async def create_instance(self, request: InstanceRequest) -> Instance:
        return Instance(request.instance_id, request.name, running=False)

    async def start(self, instance_id: str) -> None:
        self.started.append(instance_id)


class PhonyContext:
    def __init__(self, environment: dict[str, Any], is_template: bool, folder: Any) -> None:
        spec = MachineSpec("vm-1", "web", 1, 64, is_template=is_template)
        given = {"environment": environment, "results": {"export_info": to_document(spec)}, "network_map": {}}
        self.assignment = Assignment("a", "p", "m", "t", "F", "web", 0, "destination", 1, 1, "image", given)
        self.workplace = SimpleNamespace(discard=lambda path: None, transfer_dir=lambda work: folder)
        self.events: list[str] = []

    async def record(self, *entry: str) -> None: ...

    async def commit_instance(self, instance_id: str) -> None: ...

    def event(self, message: str, level: str = "INFO") -> None:
        self.events.append(message)


@pytest.mark.parametrize(
    ("environment", "is_template", "starts"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"start_instance": True}, True, True),
        ({"start_instance": False}, False, False),
        ({"start_instance": False}, True, False),
    ],
)
async def test_what_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, environment: dict[str, Any], is_template: bool, starts: bool
) -> None:
    target = PhonyTarget()

    @asynccontextmanager
    async def endpoint(context: Any) -> Any:
        yield SimpleNamespace(instances=target)

    monkeypatch.setattr(task, "open_endpoint", endpoint)
    context = PhonyContext(environment, is_template, tmp_path)
    result = await task.run(context)  # type: ignore[arg-type]
    assert target.started == ([result["transfer_result"]["id"]] if starts else [])
    assert ("started" in context.events[-1]) is True
    assert ("as a template, not started" in context.events[-1]) == (is_template and not environment)
