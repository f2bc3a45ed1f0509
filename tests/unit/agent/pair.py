"""Source and sink of one disk in this process, over real gRPC with mTLS; volumes and snapshots in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from coriolis.agent.choose_route import Road, Transport, Ways, choose_route
from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.lanes.hosts import SinkHosts, source_hosts
from coriolis.agent.listener import start_listener
from coriolis.agent.notary import Notary
from coriolis.agent.push_disk import Limits
from coriolis.agent.replicate_source import MAX_CONTROL_BYTES
from coriolis.agent.sink_disk import SinkDisk
from coriolis.agent.source_disk import DiskPlan, PassDisk, SourceDisk, Wiring
from coriolis.agent.task_process import unwrap
from coriolis.errors import QuotaExceeded
from coriolis.model.disk import Extent
from coriolis.model.resource import Volume
from coriolis.rpc.channel import open_channel
from coriolis.rpc.tls import TlsFiles
from coriolis.security.pki import create_ca, issue
from coriolis.transfer.cells import CELL_BYTES, Run, cell_count, complement, covering_runs
from coriolis.transfer.pace import Pace
from coriolis.transfer.sender import Plan

DOMAIN = "test.mesh"
PASS_TIMEOUT_S = 30.0


def agent(name: str) -> str:
    return f"spiffe://{DOMAIN}/agent/{name}"


def certificates(directory: Path, *names: str) -> dict[str, TlsFiles]:
    """Of agents with the given names, by name."""
    create_ca(directory / "ca", DOMAIN)
    return {name: issue(directory / "ca", directory / name, agent(name), ["127.0.0.1"]) for name in names}


class MemoryVolume:
    """Bytes now, and bytes that a power cut would leave. Meets BlockWriter."""

    block_size = 4096

    def __init__(self, size: int) -> None:
        self.now = bytearray(size)
        self.safe = bytes(size)
        self.written_bytes = 0
        self.flushes = 0
        self.room: int | None = None
        self.gate: asyncio.Event | None = None
        self.before_flush: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        return len(self.now)

    async def read_at(self, offset: int, length: int) -> bytes:
        assert offset >= 0
        assert offset + length <= self.size
        return bytes(self.now[offset : offset + length])

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.room is not None and self.written_bytes + len(data) > self.room:
            left = self.room - self.written_bytes
            raise QuotaExceeded(f"writing {len(data)} bytes: no space, {left} bytes left")
        assert offset >= 0
        assert offset + len(data) <= self.size
        self.written_bytes += len(data)
        self.now[offset : offset + len(data)] = data

    async def write_zeroes(self, offset: int, length: int) -> None:
        assert offset >= 0
        assert offset + length <= self.size
        self.now[offset : offset + length] = bytes(length)

    async def flush(self) -> None:
        self.before_flush()
        self.flushes += 1
        self.safe = bytes(self.now)

    def power_cut(self) -> None:
        self.now = bytearray(self.safe)


class MemorySnapshot:
    """An immutable disk. Meets BlockReader."""

    block_size = 4096

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.read_bytes = 0

    @property
    def size(self) -> int:
        return len(self.content)

    async def read_at(self, offset: int, length: int) -> bytes:
        assert offset + length <= self.size
        self.read_bytes += length
        return self.content[offset : offset + length]


def content(size: int, data: list[tuple[int, int]], seed: int = 1) -> bytes:
    """Zeros with random bytes at the given (offset, length) ranges."""
    disk, rng = bytearray(size), random.Random(seed)
    for offset, length in data:
        disk[offset : offset + length] = rng.randbytes(length)
    return bytes(disk)


def full_plan(disk: bytes, *, compare: bool = False) -> DiskPlan:
    """A first pass: cells that hold data are read, the others announced."""
    extents = [
        Extent(start, min(CELL_BYTES, len(disk) - start))
        for start in range(0, len(disk), CELL_BYTES)
        if any(disk[start : start + CELL_BYTES])
    ]
    data = covering_runs(extents, len(disk))
    return DiskPlan(Plan(tuple(data), tuple(complement(data, cell_count(len(disk))))), compare)


def cells_plan(*cells: int, compare: bool = False) -> DiskPlan:
    return DiskPlan(Plan(tuple(Run(cell, 1) for cell in cells)), compare)


class Loopback:
    """A road without detours."""

    path = "dialled"

    def address(self, service: str, port: int) -> str:
        return f"127.0.0.1:{port}"


@dataclass
class Lab:
    """One disk on its way, whose attempts share volume and journals until a test removes them."""

    directory: Path
    tls: dict[str, TlsFiles]
    volume: MemoryVolume
    sink_class: type[SinkDisk] = SinkDisk
    journal_class: type[DiskJournal] = DiskJournal
    fresh_is_zero: bool = True
    transport: Transport = "auto"
    pace: Pace = field(default_factory=Pace)
    road: Road = field(default_factory=lambda: Loopback())
    """Of the lanes; the control channel goes to the port that the source is given."""
    make_notary: Callable[[TlsFiles, str], Notary] = Notary
    """The source's; a test may put a liar in its place."""
    sinks: list[SinkDisk] = field(default_factory=list)

    @property
    def sink_journal(self) -> Path:
        return self.directory / "sink.journal"

    @property
    def source_journal(self) -> Path:
        return self.directory / "source.journal"

    @property
    def manifest(self) -> Path:
        return self.directory / "manifests" / "disk.manifest"

    @asynccontextmanager
    async def sink(
        self, generation: int = 1, pass_number: int = 1, allowed: str = "source"
    ) -> AsyncIterator[tuple[SinkDisk, int]]:
        """A listening sink and its port."""
        volume = Volume("v", "v", self.volume.size, self.fresh_is_zero)
        with self.journal_class(self.sink_journal) as journal:
            disk = self.sink_class(
                "t",
                "d",
                generation,
                pass_number,
                volume,
                self.volume,
                journal,
                self.manifest,
                Notary(self.tls["sink"], agent(allowed)),
            )
            self.sinks.append(disk)
            hosts = SinkHosts(self.tls["sink"], agent(allowed), "127.0.0.1")
            listener = start_listener(self.tls["sink"], "127.0.0.1", {"d": disk}, agent(allowed), hosts.attach)
            listener.lanes_on(await hosts.start([disk]))
            background = [
                asyncio.create_task(disk.flush_regularly()),
                asyncio.create_task(listener.accept_direct(hosts.take)),
            ]
            try:
                yield disk, listener.port
            finally:
                for task in background:
                    task.cancel()
                await asyncio.wait(background)
                await listener.stop(0)
                await hosts.close()

    @asynccontextmanager
    async def source(
        self,
        port: int,
        disk: bytes | MemorySnapshot,
        *,
        generation: int = 1,
        pass_number: int = 1,
        snapshot: str = "s1",
        who: str = "source",
        expects: str = "sink",
    ) -> AsyncIterator[SourceDisk]:
        reader = disk if isinstance(disk, MemorySnapshot) else MemorySnapshot(disk)
        what = PassDisk("t", "d", generation, pass_number, reader.size, snapshot)
        control = partial(
            open_channel,
            f"127.0.0.1:{port}",
            self.tls[who],
            agent(expects),
            max_message_bytes=MAX_CONTROL_BYTES,
            own_connection=True,
        )

        ways = Ways(self.road, port, self.tls[who], agent(expects))
        choose = partial(choose_route, self.transport, ways)
        with DiskJournal(self.source_journal) as journal:
            async with source_hosts(self.tls[who]) as hosts:
                notary = self.make_notary(self.tls[who], agent(expects))
                wiring = Wiring(control, hosts, choose, Limits(2, 2), self.pace, notary)
                yield SourceDisk(what, reader, journal, wiring)

    async def send(
        self,
        disk: bytes | MemorySnapshot,
        plan: DiskPlan,
        *,
        generation: int = 1,
        pass_number: int = 1,
        snapshot: str = "s1",
    ) -> SourceDisk:
        """A whole attempt; raises what the source would report."""
        async with (
            self.sink(generation, pass_number) as (_, port),
            self.source(port, disk, generation=generation, pass_number=pass_number, snapshot=snapshot) as source,
        ):
            await sent(source, plan)
            return source


async def sent(source: SourceDisk, plan: DiskPlan) -> None:
    """``source.send`` within a bound; the one error of nested groups is raised plain."""
    try:
        async with asyncio.timeout(PASS_TIMEOUT_S):
            await source.send(plan)
    except BaseExceptionGroup as group:
        error = unwrap(group)
        if error is None:
            raise
        raise error from group
