"""I12 on what callers are shown: numbers of a pass never fall, and 100% comes only with the seal."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from coriolis.errors import CoriolisError
from coriolis.rpc.gen.coriolis.v1 import types_pb2
from tests.fault.mesh import PROJECT, Mesh

POLL_S = 0.2


@dataclass
class ProgressWatch:
    """Asks for a migration five times a second; ``async with`` owns the questioning, ``check`` judges the answers."""

    mesh: Mesh
    migration_id: str
    project_id: str = PROJECT
    shown: dict[tuple[str, str], list[types_pb2.DiskProgress]] = field(default_factory=dict)

    async def __aenter__(self) -> ProgressWatch:
        self._asking = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._asking.cancel()
        await asyncio.wait([self._asking])

    async def _ask(self) -> None:
        while True:
            try:
                migration = await self.mesh.get(self.migration_id, self.project_id)
            except CoriolisError:
                continue  # an election is going on
            for disk in migration.disks:
                self.shown.setdefault((disk.task_id, disk.disk_id), []).append(disk)
            await asyncio.sleep(POLL_S)

    def check(self) -> None:
        """Raises AssertionError with the two answers that contradict each other."""
        for (_, disk_id), answers in self.shown.items():
            highest = 0
            for answer in answers:
                assert answer.done_bytes >= highest, (
                    f"I12: disk {disk_id} fell from {highest} to {answer.done_bytes} of {answer.total_bytes}"
                )
                highest = answer.done_bytes
                assert answer.done_bytes <= answer.total_bytes, f"I12: disk {disk_id} is past its end: {answer}"
                if answer.total_bytes and answer.done_bytes == answer.total_bytes:
                    assert answer.sealed, f"I12: disk {disk_id} shows 100% before its seal"
