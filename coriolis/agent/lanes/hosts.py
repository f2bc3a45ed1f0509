"""The lane hosts of one task, and which of them serves which disk."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from coriolis.agent.data_port import PortRange
from coriolis.agent.lanes.host_link import HostLink
from coriolis.agent.lanes.loop_io import LoopReader
from coriolis.agent.lanes.messages import AttachDisk, HostStart, TakeConnection
from coriolis.agent.lanes.read_ahead import AheadRoom
from coriolis.agent.lanes.sink_host import ServedDisk, SinkHost
from coriolis.agent.lanes.source_host import SourceHost
from coriolis.agent.sink_disk import SinkDisk
from coriolis.errors import Unavailable
from coriolis.providers.base import BlockReader, raw_descriptor
from coriolis.rpc.tls_files import TlsFiles

MAX_PROCESSES = 4
WORTH_A_PROCESS_BYTES = 256 << 20
"""Smaller disks are done before another interpreter is up."""


def lane_processes() -> int:
    """Processes for lanes on either side: half of the cores, since the other side or its storage may share them."""
    return max(1, min(MAX_PROCESSES, len(os.sched_getaffinity(0)) // 2))


class SourceHosts:
    """Processes for disks that have a descriptor, a thread for each other disk."""

    def __init__(self, tls: TlsFiles) -> None:
        self._tls = tls
        self._processes: list[HostLink] = []
        self._threads: list[HostLink] = []
        self._starting = asyncio.Lock()
        self._room = AheadRoom()
        self._preparing: asyncio.Task[list[HostLink]] | None = None

    async def links_for(self, disk: AttachDisk, reader: BlockReader) -> list[HostLink]:
        """Hosts that can send ``disk`` now."""
        raw = raw_descriptor(reader)
        if raw is None or disk.size_bytes < WORTH_A_PROCESS_BYTES:
            link = HostLink()
            self._threads.append(link)
            readers = {disk.disk_id: LoopReader(reader, asyncio.get_running_loop(), self._room)}
            link.start_thread(lambda end: SourceHost(end, self._tls, readers if raw is None else {}).run())
            links = [link]
        else:
            links = await self._started()
        attach = AttachDisk(
            disk.disk_id, disk.size_bytes, disk.generation, raw.label if raw else "", raw.identity if raw else ""
        )
        for link in links:
            link.send(attach, [raw.number] if raw else [])
        return links

    def prepare(self, disk_bytes: Sequence[int]) -> None:
        """Begin to start processes if disks of these sizes may want them: an interpreter takes longer than a plan."""
        if any(size >= WORTH_A_PROCESS_BYTES for size in disk_bytes):
            self._preparing = asyncio.create_task(self._started())

    async def _started(self) -> list[HostLink]:
        async with self._starting:
            while len(self._processes) < lane_processes():
                link = HostLink()
                self._processes.append(link)
                await link.start_process(HostStart("source", os.getpid(), self._tls))
        return self._processes

    async def close(self) -> None:
        if self._preparing is not None:
            await asyncio.wait([self._preparing])
        await asyncio.gather(*(link.close() for link in (*self._processes, *self._threads)))


@asynccontextmanager
async def source_hosts(tls: TlsFiles, disk_bytes: Sequence[int] = ()) -> AsyncIterator[SourceHosts]:
    """The hosts of a source task, for disks of these sizes; none of them outlives it."""
    hosts = SourceHosts(tls)
    hosts.prepare(disk_bytes)
    try:
        yield hosts
    finally:
        await hosts.close()


class SinkHosts:
    """Hosts for lanes: processes where every volume has a descriptor, else one thread."""

    def __init__(self, tls: TlsFiles, allowed: str, bind_host: str, ports: PortRange | None = None) -> None:
        self._tls, self._allowed, self._bind_host, self._ports = tls, allowed, bind_host, ports
        self._links: list[HostLink] = []
        self._served: dict[str, ServedDisk] = {}
        self._next = 0
        self._in_processes = False

    async def start(self, disks: list[SinkDisk]) -> list[int]:
        """Begin to serve ``disks`` once they are opened; returns the ports of the processes' gRPC servers."""
        large = any(disk.volume_bytes >= WORTH_A_PROCESS_BYTES for disk in disks)
        self._in_processes = large and all(disk.descriptor() is not None for disk in disks)
        serving: list[asyncio.Future[int]] = []
        for _ in range(lane_processes() if self._in_processes else 1):
            link = HostLink()
            link.takers.update({disk.disk_id: disk.take for disk in disks})
            link.on_end.append(_fail_all(disks))
            self._links.append(link)
            if self._in_processes:
                serving.append(link.serving)
                ports = (self._ports.first, self._ports.last) if self._ports else (0, 0)
                start = HostStart("sink", os.getpid(), self._tls, self._allowed, self._bind_host, ports)
                await link.start_process(start)
            else:
                link.start_thread(lambda end: SinkHost(end, self._tls, self._allowed, self._served).run())
        return [await port for port in serving]

    def attach(self, disk: SinkDisk) -> None:
        """Serve a disk that its source has opened."""
        assert disk.opened is not None
        served = disk.opened.served
        raw = disk.descriptor()
        if raw is None or not self._in_processes:
            self._served[disk.disk_id] = served
            return
        number, label = raw
        message = AttachDisk(disk.disk_id, served.intake.size_bytes, disk.generation, label)
        for link in self._links:
            link.send(message, [number, disk.opened.touched_descriptor, disk.lock_descriptor])

    def take(self, connection: socket.socket) -> None:
        """Give an accepted connection to the next host."""
        link = self._links[self._next % len(self._links)]
        self._next += 1
        link.send(TakeConnection(), [connection.fileno()])
        connection.close()

    async def close(self) -> None:
        await asyncio.gather(*(link.close() for link in self._links))


def _fail_all(disks: list[SinkDisk]) -> Callable[[], None]:
    def fail() -> None:
        for disk in disks:
            disk.fail(Unavailable("a lane host's process ended"))

    return fail
