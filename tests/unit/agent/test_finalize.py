"""What becomes of a machine that is made: started or not, and of the volumes that it came by."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from coriolis.agent.assignment import Assignment
from coriolis.agent.tasks import finalize_instance_deployment as task
from coriolis.model.machine import Devices, Disk, MachineSpec, to_document
from coriolis.model.resource import Instance, InstanceRequest, Volume


class PhonyTarget:
    def __init__(self, unneeded: tuple[str, ...] = ()) -> None:
        self.unneeded = unneeded
        self.started: list[str] = []
        self.deleted: list[str] = []

    async def create_instance(self, request: InstanceRequest) -> Instance:
        return Instance(request.instance_id, request.name, False, self.unneeded)

    async def start(self, instance_id: str) -> None:
        self.started.append(instance_id)

    async def delete_volume(self, volume_id: str) -> None:
        self.deleted.append(volume_id)


class PhonyContext:
    def __init__(self, environment: dict[str, Any], is_template: bool, folder: Any, provider: str = "image") -> None:
        spec = MachineSpec("vm-1", "web", 1, 64, devices=Devices(disks=(Disk("d0", 1024),)), is_template=is_template)
        volumes = {"d0": Volume("v-0", "name-0", 1024)}
        given = {
            "environment": environment,
            "results": {"export_info": to_document(spec), "volumes": msgspec.to_builtins(volumes)},
            "network_map": {},
        }
        self.assignment = Assignment("a", "p", "m", "t", "F", "web", 0, "destination", 1, 1, provider, given)
        self.workplace = SimpleNamespace(discard=lambda path: None, transfer_dir=lambda work: folder)
        self.events: list[str] = []
        self.recorded: list[tuple[str, ...]] = []

    async def record(self, *entry: str) -> None:
        self.recorded.append(entry)

    async def commit_instance(self, instance_id: str) -> None: ...

    def event(self, message: str, level: str = "INFO") -> None:
        self.events.append(message)


def phony_endpoint(monkeypatch: pytest.MonkeyPatch, unneeded: tuple[str, ...] = ()) -> PhonyTarget:
    target = PhonyTarget(unneeded)

    @asynccontextmanager
    async def endpoint(context: Any) -> Any:
        yield SimpleNamespace(instances=target, volumes=target)

    monkeypatch.setattr(task, "open_endpoint", endpoint)
    return target


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
    target = phony_endpoint(monkeypatch)
    context = PhonyContext(environment, is_template, tmp_path)
    result = await task.run(context)  # type: ignore[arg-type]
    assert target.started == ([result["transfer_result"]["id"]] if starts else [])
    assert ("started" in context.events[-1]) is True
    assert ("as a template, not started" in context.events[-1]) == (is_template and not environment)


@pytest.mark.parametrize(("unneeded", "gone"), [((), []), (("another",), []), (("v-0",), ["v-0"])])
async def test_volumes_that_the_machine_needs_no_more_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, unneeded: tuple[str, ...], gone: list[str]
) -> None:
    target, context = phony_endpoint(monkeypatch, unneeded), PhonyContext({}, False, tmp_path)
    await task.run(context)  # type: ignore[arg-type]
    assert target.deleted == gone
    volumes = [entry for entry in context.recorded if entry[0] == "volume"]
    assert volumes == [("volume", "name-0", "destination", "DELETED") for _ in gone]
