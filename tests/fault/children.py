"""A pass between real task processes of two agents' supervisors; the test is their coordinator.

No etcd, no leader, no libvirt: what is left is what moves the data, so that a kill costs two seconds and not twenty.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from coriolis.agent.assignment import Assignment
from coriolis.agent.supervisor import Supervisor
from coriolis.agent.workplace import Workplace
from coriolis.ids import new_id
from coriolis.model.machine import to_document
from coriolis.model.resource import Tag, VolumeRequest
from coriolis.model.task import Role
from coriolis.providers.registry import load_provider
from coriolis.rpc.gen.coriolis.v1 import types_pb2
from coriolis.rpc.tls import TlsFiles
from tests.unit.agent.pair import agent

MIB = 1 << 20
DISK = "disk-0"
LANE_PROCESS = b"coriolis.agent.lanes.process"


@dataclass
class Attempt:
    """Both parts of the task in one generation, and what became of them."""

    generation: int
    address: asyncio.Future[str]
    ended: dict[str, asyncio.Future[tuple[str, str]]]
    """By role: (state, error message)."""
    pids: dict[str, int] = field(default_factory=dict)


class Children:
    """One disk on its way from ``origin`` to a volume in ``destination``, by as many attempts as it takes."""

    def __init__(
        self, folder: Path, tls: dict[str, TlsFiles], *, transport: str = "auto", rate: float | None = None
    ) -> None:
        self.folder = folder
        self.environment = {"transport": transport}
        self.rates = None if rate is None else {"unlimited": False, "disks": {DISK: rate}}
        self.migration_id = new_id()
        self.attempts: list[Attempt] = []
        self._agents = {
            Role.SOURCE: Supervisor(Workplace("source", folder / "agent-source", tls["source"]), self),
            Role.SINK: Supervisor(Workplace("sink", folder / "agent-sink", tls["sink"]), self),
        }
        for supervisor in self._agents.values():
            supervisor.report = self._reported
        self._results: dict[str, Any] = {}
        self.result: dict[str, Any] = {}

    @property
    def origin(self) -> Path:
        return self.folder / "origin"

    @property
    def destination(self) -> Path:
        return self.folder / "destination"

    @property
    def sink_journal(self) -> Path:
        [found] = (self.folder / "agent-sink").rglob("*.journal")
        return found

    # -- what a coordinator does --------------------------------------------------------------------------------

    async def call(self, assignment: Assignment, method: str, arguments: dict[str, str]) -> dict[str, Any]:
        """Meets Supervisor's Coordinator."""
        if method != "connection_info":
            return {}
        return {"path": str(self.origin if assignment.role == Role.SOURCE else self.destination)}

    def _reported(self, assignment: Assignment, state: str, fields: dict[str, Any]) -> None:
        attempt = self.attempts[assignment.generation - 1]
        match state:
            case "STARTED":
                attempt.pids[assignment.role] = fields["process_id"]
            case "LISTENING":
                attempt.address.set_result(fields["address"])
            case "COMPLETED" | "FAILED":
                attempt.ended[assignment.role].set_result((state, fields.get("error_message", "")))
                if state == "COMPLETED":
                    self.result |= msgspec.json.decode(fields["result_json"])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The two agents and the volume."""
        await self._prepare()
        ready = [asyncio.Event() for _ in self._agents]
        serving = [
            asyncio.create_task(supervisor.serve(event))
            for supervisor, event in zip(self._agents.values(), ready, strict=True)
        ]
        try:
            for event in ready:
                await event.wait()
            yield
        finally:
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

    async def _prepare(self) -> None:
        image = load_provider("image")
        async with image.connect({"path": str(self.origin)}) as connection:
            spec = await connection.inventory.get_instance("vm")
        self.destination.mkdir(exist_ok=True)
        async with image.connect({"path": str(self.destination)}) as connection:
            assert connection.volumes is not None
            [disk] = spec.devices.disks
            request = VolumeRequest(
                "volume", disk.size_bytes, Tag(self.migration_id, "0-disk-0"), environment={"allow_overcommit": True}
            )
            volume = await connection.volumes.create_volume(request)
        self._results = {"export_info": to_document(spec), "volumes": {DISK: msgspec.to_builtins(volume)}}
        self.volume = self.destination / volume.attributes["path"]

    async def attempt(self) -> Attempt:
        """Both parts anew, one generation higher; what still runs of the attempt before is replaced."""
        loop = asyncio.get_running_loop()
        generation = len(self.attempts) + 1
        attempt = Attempt(
            generation, loop.create_future(), {Role.SINK: loop.create_future(), Role.SOURCE: loop.create_future()}
        )
        self.attempts.append(attempt)
        self._agents[Role.SINK].assign(self._assignment(generation, Role.SINK, allowed_identity=agent("source")))
        sink_ended: asyncio.Future[Any] = attempt.ended[Role.SINK]
        listening: asyncio.Future[Any] = attempt.address
        await asyncio.wait([listening, sink_ended], return_when=asyncio.FIRST_COMPLETED)
        assert attempt.address.done(), sink_ended.result()
        self._agents[Role.SOURCE].assign(
            self._assignment(
                generation, Role.SOURCE, peer_address=attempt.address.result(), peer_identity=agent("sink")
            )
        )
        return attempt

    def _assignment(self, generation: int, role: str, **peer: str) -> Assignment:
        given = {
            "environment": self.environment,
            "results": self._results,
            "pass_number": 1,
            "rates": self.rates,
        }
        return Assignment(
            new_id(), "p", self.migration_id, "task", "REPLICATE_DISKS", "vm", 0, role, generation, 1, "image", given,
            **peer,  # type: ignore[arg-type]
        )  # fmt: skip

    async def until_sealed(self, timeout_s: float = 60) -> None:
        """The last attempt ends well on both sides."""
        async with asyncio.timeout(timeout_s):
            outcomes = {role: await ended for role, ended in self.attempts[-1].ended.items()}
        assert all(state == "COMPLETED" for state, _ in outcomes.values()), outcomes

    # -- evidence -----------------------------------------------------------------------------------------------

    @property
    def progress(self) -> types_pb2.DiskProgress:
        return self._agents[Role.SOURCE].progress.get(("task", DISK), types_pb2.DiskProgress())

    async def until_moving(self, fraction: float, total_bytes: int) -> None:
        """Until so much of the disk has been covered by lane processes of both sides, or the attempt is over."""
        attempt = self.attempts[-1]
        while not any(ended.done() for ended in attempt.ended.values()):
            parents = {parent for _, parent in self._lanes()}
            if self.progress.done_bytes >= fraction * total_bytes and len(parents) >= len(attempt.ended):
                return
            await asyncio.sleep(0.02)

    def _lanes(self) -> list[tuple[int, int]]:
        ours = {pid for attempt in self.attempts for pid in attempt.pids.values()}
        return [(pid, parent) for pid, parent in processes(LANE_PROCESS) if parent in ours]

    def lane_processes(self) -> list[int]:
        """Lane processes of this test's task processes, alive."""
        return [pid for pid, _ in self._lanes()]


def processes(marker: bytes) -> list[tuple[int, int]]:
    """(pid, parent's pid) of every process with ``marker`` in its command line; the dead have none."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if marker in (entry / "cmdline").read_bytes():
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found.append((int(entry.name), parent))
        except OSError:
            continue
    return found


async def until_gone(pids: list[int], timeout_s: float = 5) -> None:
    """Until none of the processes is alive; a zombie is not."""
    async with asyncio.timeout(timeout_s):
        while set(pids) & {pid for pid, _ in processes(LANE_PROCESS)}:  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)


def write_origin(folder: Path, size: int, data: list[tuple[int, int]], seed: int) -> Path:
    """An image directory with one instance ``vm``; random bytes at the given (offset, length) ranges."""
    folder.mkdir(parents=True, exist_ok=True)
    disk = folder / "disk.img"
    rng = np.random.default_rng(seed)
    with disk.open("wb") as file:
        file.truncate(size)
        for offset, length in data:
            file.seek(offset)
            file.write(rng.bytes(length))
    (folder / "vm.toml").write_text(
        'name = "vm"\nnum_cpu = 1\nmemory_mb = 64\n[[disks]]\nfile = "disk.img"\nformat = "raw"\n'
    )
    return disk


def digest(path: Path, size: int) -> str:
    """SHA-256 of the first ``size`` bytes; what follows must be zero."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        left = size
        while left:
            block = file.read(min(left, 4 * MIB))
            assert block
            found.update(block)
            left -= len(block)
        assert not any(file.read())
    return found.hexdigest()


def kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return  # it had ended by itself


def seeded(name: str, number: int) -> random.Random:
    """The same draw for the same run; CORIOLIS_FAULT_SEED makes another series."""
    return random.Random(f"{name}-{os.environ.get('CORIOLIS_FAULT_SEED', '1')}-{number}")
