"""Stands between the agents and a real OpenStack, so that a test knows when a request is made and can strike there.

The cloud's services get a region of their own in Keystone's catalog, whose endpoints are gates on loopback. A gate
passes requests on as they are, ``Host`` included, so the links in answers lead back to it.
"""

from __future__ import annotations

import asyncio
import copy
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tests.fault.openstack_seeds import Moment
from tests.lab.openstack_site import Cloud

SERVICES = ("compute", "volumev3", "network", "image")
MAX_HEAD = 64 << 10
MAX_BODY = 64 << 20
MAX_ANSWER = 64 << 20


@dataclass
class Meeting:
    """One request that is waited for. ``reached`` gives what ``who`` makes of the asking TCP port; then the request
    stands still until ``go_on`` is set."""

    method: str
    path: re.Pattern[str]
    body: str
    moment: Moment
    late_s: float
    reached: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def is_it(self, method: str, path: str, body: bytes) -> bool:
        return (
            not self.reached.done()
            and method == self.method
            and self.path.search(path) is not None
            and self.body.encode() in body
        )

    async def stand(self, asking: Any) -> None:
        if not self.reached.done():
            self.reached.set_result(asking)
            await self.go_on.wait()


@dataclass
class Gates:
    """``cloud``: the same one, in the region of the gates. ``calls``: every request as ``METHOD path``."""

    cloud: Cloud
    who: Callable[[int], Any] = lambda port: port
    calls: list[str] = field(default_factory=list)
    broken: list[Exception] = field(default_factory=list)
    """What went wrong in the gates themselves."""
    _awaited: Meeting | None = None
    _busy: set[asyncio.Task[None]] = field(default_factory=set)

    def meet(self, method: str, path: str, moment: Moment, *, body: str = "", late_s: float = 0) -> Meeting:
        """Await the next request whose path ends with the regular expression and whose body has that text."""
        self._awaited = Meeting(method, re.compile(f"{path}$"), body, moment, late_s)
        return self._awaited

    def open(self) -> None:
        """Await nothing any more, and let go what stands."""
        if self._awaited is not None:
            self._awaited.go_on.set()
        self._awaited = None

    async def serve(self, target: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            await self._exchange(target, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # either side died: that is what these tests do
        except Exception as error:
            self.broken.append(error)
            raise
        finally:
            self._busy.discard(task)
            writer.close()

    async def _exchange(
        self, target: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One request, one answer, and the connection ends."""
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, where, _ = first.split(" ", 2)
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
        body = await _body(reader, headers)
        path = urlsplit(where).path
        self.calls.append(f"{method} {path}")
        met = self._awaited if self._awaited is not None and self._awaited.is_it(method, path, body) else None
        # looked up now: once it has its answer it may close the socket
        asking = self.who(writer.get_extra_info("peername")[1]) if met is not None else None
        if met is not None and met.moment in (Moment.BEFORE, Moment.ARRIVES_LATE):
            await met.stand(asking)
            if met.moment is Moment.ARRIVES_LATE:
                await asyncio.sleep(met.late_s)
            elif await _has_gone(reader):
                return
        kept = [line for line in lines if not line.lower().startswith("connection:")]
        answer = await _asked(target, "\r\n".join([first, *kept, "Connection: close", "", ""]).encode("latin-1"), body)
        if met is not None and met.moment is Moment.UNANSWERED:
            await met.stand(asking)
        writer.write(answer)
        await writer.drain()
        if met is not None and met.moment is Moment.ANSWERED:
            await met.stand(asking)

    async def end(self) -> None:
        self.open()
        for task in list(self._busy):
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """As it came: chunks with their sizes."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        length = int(headers.get("content-length", "0"))
        assert length <= MAX_BODY, f"a body of {length} bytes"
        return await reader.readexactly(length)
    body = bytearray()
    while True:
        line = await reader.readuntil(b"\r\n")
        body += line + await reader.readexactly(int(line.split(b";")[0], 16) + 2)
        assert len(body) <= MAX_BODY
        if int(line.split(b";")[0], 16) == 0:
            return bytes(body)


async def _asked(target: tuple[str, int], head: bytes, body: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*target)
    try:
        writer.write(head + body)
        await writer.drain()
        answer = bytearray()
        while block := await reader.read(1 << 16):
            answer += block
            assert len(answer) <= MAX_ANSWER
        return bytes(answer)
    finally:
        writer.close()


async def _has_gone(reader: asyncio.StreamReader) -> bool:
    """Whether the asking process died: the kernel closed its socket."""
    try:
        async with asyncio.timeout(0.2):
            return not await reader.read(1)
    except TimeoutError:
        return False
    except OSError:
        return True


@asynccontextmanager
async def gates_before(cloud: Cloud) -> AsyncIterator[Gates]:
    """Gates for Nova, Cinder, Neutron and Glance; what else the catalog offers is in the new region as it is."""
    mine = copy.copy(cloud)
    mine.region = f"gates-{uuid.uuid4().hex[:8]}"
    gates, servers, made = Gates(mine), [], []
    known: dict[str, Any] = {one["id"]: one for one in cloud.identity("GET", "/services")["services"]}
    points = cloud.identity("GET", f"/endpoints?interface=public&region_id={cloud.region}")["endpoints"]
    cloud.identity("POST", "/regions", {"region": {"id": mine.region}})
    try:
        for point in points:
            url = point["url"]
            if known[point["service_id"]]["type"] in SERVICES:
                address = urlsplit(url)
                assert address.hostname
                assert address.port
                target = (address.hostname, address.port)
                server = await asyncio.start_server(partial(gates.serve, target), "127.0.0.1", 0, limit=MAX_HEAD)
                servers.append(server)
                url = urlunsplit(address._replace(netloc=f"127.0.0.1:{server.sockets[0].getsockname()[1]}"))
            body = {
                "service_id": point["service_id"],
                "interface": "public",
                "region_id": mine.region,
                "url": url,
            }
            made.append(cloud.identity("POST", "/endpoints", {"endpoint": body})["endpoint"]["id"])
        yield gates
    finally:
        for server in servers:
            server.close()
        await gates.end()
        for one in made:
            cloud.identity("DELETE", f"/endpoints/{one}")
        cloud.identity("DELETE", f"/regions/{mine.region}")


def holder_of(port: int, pids: list[int]) -> int:
    """Which of these processes has the TCP socket with that local port on loopback; 0 for none."""
    wanted = f"0100007F:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1] == wanted}
    for pid in pids:
        try:
            links = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue  # it ended meanwhile
        if links & sockets:
            return pid
    return 0
