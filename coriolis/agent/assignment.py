"""What a task is told and what it may ask of its agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from coriolis.ids import resource_name
from coriolis.model.machine import MachineSpec, from_document
from coriolis.model.resource import Tag, Volume

if TYPE_CHECKING:  # task_state, which is pure, imports this module
    from coriolis.agent.workplace import Workplace
    from coriolis.rpc.gen.coriolis.v1 import types_pb2
    from coriolis.transfer.pace import Pace


class RoadOrder(msgspec.Struct, frozen=True):
    """How the bytes of both sides meet (``Road`` of agent_control.proto). Its representation hides the key."""

    path: str = "dialled"
    relay_address: str = ""
    relay_key: bytes = b""

    def __repr__(self) -> str:
        return f"RoadOrder({self.path!r}, {self.relay_address!r})"


class Assignment(msgspec.Struct, frozen=True):
    """One part of a task for this agent (``Assign`` of agent_control.proto). ``input`` holds no secrets."""

    assignment_id: str
    project_id: str
    migration_id: str
    task_id: str
    task_type: str
    instance: str
    instance_index: int
    role: str
    generation: int
    epoch: int
    provider: str
    input: dict[str, Any]
    peer_address: str = ""
    peer_identity: str = ""
    allowed_identity: str = ""
    road: RoadOrder = RoadOrder()

    @property
    def environment(self) -> dict[str, Any]:
        environment: dict[str, Any] = self.input["environment"]
        return environment

    @property
    def results(self) -> dict[str, Any]:
        results: dict[str, Any] = self.input["results"]
        return results

    @property
    def pass_number(self) -> int:
        return int(self.input["pass_number"])

    def spec(self) -> MachineSpec:
        """The machine as GET_INSTANCE_INFO described it."""
        return from_document(self.results["export_info"])

    def volumes(self) -> dict[str, Volume]:
        """Destination volumes by disk id."""
        return msgspec.convert(self.results.get("volumes", {}), dict[str, Volume])

    def name(self, role: str) -> str:
        """Deterministic resource name for ``role`` of this machine."""
        return resource_name(self.migration_id, self.instance_index, role)

    def tag(self, role: str) -> Tag:
        return Tag(self.migration_id, f"{self.instance_index}-{role}")

    def snapshot_name(self, pass_number: int) -> str:
        return self.name(f"pass-{pass_number}")


class TaskContext(Protocol):
    """A task's only way to the rest of the mesh."""

    @property
    def assignment(self) -> Assignment: ...

    @property
    def workplace(self) -> Workplace: ...

    async def connection_info(self) -> dict[str, Any]:
        """Credentials of this side's endpoint. Raises StaleGeneration when the task was given to another."""
        ...

    async def record(self, kind: str, name: str, side: str, state: str, cloud_id: str = "") -> None:
        """Write a ledger entry; returns when it is stored. Raises StaleGeneration: then do not act."""
        ...

    async def commit_instance(self, instance_id: str) -> None:
        """Make it *the* instance; only then start it. Raises Conflict, StaleGeneration."""
        ...

    def event(self, message: str, level: str = "INFO") -> None: ...

    def progress(self, disk: types_pb2.DiskProgress) -> None: ...

    def listening(self, address: str) -> None: ...

    def pace(self, disk_id: str) -> Pace:
        """What every frame of the disk asks before it is sent; its rate follows what the leader says."""
        ...
