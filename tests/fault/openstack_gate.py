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


@dataclass(frozen=True)
class Request:
    """``head``: what is sent to the cloud, the blank line included. ``body``: as it came."""

    method: str
    path: str
    head: bytes
    body: bytes


@dataclass
class Meeting:
    """One request that is waited for. ``reached`` gives what ``who`` makes of the asking TCP port; then the request
    stands still until ``go_on`` is set. ``over``: nothing more comes of it."""

    method: str
    path: re.Pattern[str]
    body: str
    moment: Moment
    late_s: float
    taken: bool = False
    reached: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def is_it(self, asked: Request) -> bool:
        fits = asked.method == self.method and self.path.search(asked.path) is not None
        return not self.taken and fits and self.body.encode() in asked.body

    async def happen(
        self,
        asking: Any,
        target: tuple[str, int],
        asked: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """The exchange, which stands still at its moment."""
        if self.moment in (Moment.BEFORE, Moment.ARRIVES_LATE):
            await self._stand(asking)
        if self.moment is Moment.ARRIVES_LATE:
            await asyncio.sleep(self.late_s)
        elif self.moment is Moment.BEFORE and await _has_gone(reader):
            return
        answer = await _answer(target, asked)
        if self.moment is Moment.UNANSWERED:
            await self._stand(asking)
        writer.write(answer)
        await writer.drain()
        if self.moment is Moment.ANSWERED:
            await self._stand(asking)

    async def _stand(self, asking: Any) -> None:
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
        asked = await _request(reader)
        self.calls.append(f"{asked.method} {asked.path}")
        met = self._awaited
        if met is None or not met.is_it(asked):
            writer.write(await _answer(target, asked))
            await writer.drain()
            return
        met.taken = True
        try:
            # looked up now: once it has its answer it may close the socket
            await met.happen(self.who(writer.get_extra_info("peername")[1]), target, asked, reader, writer)
        finally:
            met.over.set()

    async def end(self) -> None:
        self.open()
        for task in list(self._busy):
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)


async def _request(reader: asyncio.StreamReader) -> Request:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, where, _ = first.split(" ", 2)
    headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
    kept = [line for line in lines if not line.lower().startswith("connection:")]
    passed = "\r\n".join([first, *kept, "Connection: close", "", ""]).encode("latin-1")
    return Request(method, urlsplit(where).path, passed, await _body(reader, headers))


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """As it came: chunks with their sizes."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        length = int(headers.get("content-length", "0"))
        assert length <= MAX_BODY, f"a body of {length} bytes"
        return await reader.readexactly(length)
    body, size = bytearray(), -1
    while size != 0:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        assert len(body) <= MAX_BODY
    return bytes(body)


async def _answer(target: tuple[str, int], asked: Request) -> bytes:
    reader, writer = await asyncio.open_connection(*target)
    try:
        writer.write(asked.head + asked.body)
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
