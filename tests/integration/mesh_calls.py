"""Short ways to call a mesh's leader, and small machines for it to migrate."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from coriolis.rpc.channel import open_channel
from coriolis.rpc.gen.coriolis.v1 import endpoint_pb2, endpoint_pb2_grpc, job_pb2, job_pb2_grpc
from coriolis.rpc.status import to_error
from tests.fault.mesh import PROJECT, Mesh, endpoint, summary
from tests.integration.test_mesh_image import describe, write_disk

MIB = 1 << 20
FOREIGN = "f" * 32
ABSENT = "11111111-2222-4333-8444-555555555555"


@asynccontextmanager
async def leader_channel(mesh: Mesh) -> AsyncIterator[grpc.aio.Channel]:
    _, address = await mesh.leader()
    assert address, "no leader"
    async with open_channel(address, mesh.tls, expected_role="coordinator") as channel:
        yield channel


async def put_secret(mesh: Mesh, payload: dict[str, Any], project: str = PROJECT) -> str:
    """Keep a connection info; its secret id."""
    async with leader_channel(mesh) as channel:
        stub = endpoint_pb2_grpc.SecretServiceStub(channel)
        request = endpoint_pb2.PutSecretRequest(project_id=project, name="s", payload_json=json.dumps(payload))
        answer = await stub.PutSecret(request, timeout=5)
    return str(answer.secret.id)


async def watch(mesh: Mesh, migration_id: str, project: str = PROJECT) -> list[job_pb2.WatchMigrationResponse]:
    """All events until the leader ends the stream; our error when it refuses."""
    async with leader_channel(mesh) as channel:
        request = job_pb2.WatchMigrationRequest(project_id=project, migration_id=migration_id)
        try:
            return [event async for event in job_pb2_grpc.JobServiceStub(channel).WatchMigration(request, timeout=60)]
        except grpc.aio.AioRpcError as failed:
            raise to_error(failed) from failed


async def until_running(mesh: Mesh, migration_id: str, task_type: str, timeout_s: float = 60) -> job_pb2.Migration:
    """The migration as soon as the newest task of that type runs."""
    deadline = time.monotonic() + timeout_s
    while True:
        migration = await mesh.get(migration_id)
        tasks = [task for task in migration.tasks if task.task_type == task_type]
        if tasks and any(task.status in ("RUNNING", "COMPLETED") for task in tasks):
            return migration
        assert migration.status == "RUNNING", summary(migration)
        assert time.monotonic() < deadline, summary(migration)
        await asyncio.sleep(0.05)


async def cancel(mesh: Mesh, migration_id: str) -> None:
    await mesh.call("CancelMigration", job_pb2.CancelMigrationRequest(project_id=PROJECT, migration_id=migration_id))


async def delete(mesh: Mesh, migration_id: str) -> None:
    await mesh.call("DeleteMigration", job_pb2.DeleteMigrationRequest(project_id=PROJECT, migration_id=migration_id))


class Sites:
    """An image directory with one machine ``vm``, and an empty destination."""

    def __init__(self, folder: Path, size: int = 2 * MIB) -> None:
        self.origin, self.destination = folder / "a", folder / "b"
        self.origin.mkdir()
        self.destination.mkdir()
        self.size = size
        write_disk(self.origin / "disk.img", size, [(0, size)])
        describe(self.origin, "vm", [("disk.img", "raw")])
        self._before = self.listing(self.origin)

    def request(self, **changes: Any) -> job_pb2.CreateMigrationRequest:
        """A migration of ``vm``; ``changes`` replace fields."""
        fields: dict[str, Any] = {
            "origin": endpoint("image", {"path": str(self.origin)}),
            "destination": endpoint("image", {"path": str(self.destination)}, {"network_map": {"VM Network": "x"}}),
            "instances": ["vm"],
            "skip_os_morphing": True,
            "replication_count": 1,
            **changes,
        }
        return job_pb2.CreateMigrationRequest(**fields)

    @staticmethod
    def listing(folder: Path) -> dict[str, tuple[int, int]]:
        """Size and time of change of every file."""
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}

    def assert_as_before(self) -> None:
        """The origin is untouched and the destination holds no file of ours (I3, I4)."""
        assert self.listing(self.origin) == self._before
        assert self.listing(self.destination) == {}


def agent_files(mesh: Mesh, migration_id: str) -> list[str]:
    """What agents still keep of a migration on their own disks."""
    found = []
    for folder, folders, files in os.walk(mesh.dir):
        found += [os.path.join(folder, name) for name in (*folders, *files) if migration_id in name]
    return found
