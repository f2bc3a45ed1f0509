"""Reads the flat extent of a disk from its datastore over HTTPS, by ranges, on several connections.

``GET /folder/<path>?dcPath=<datacenter>&dsName=<datastore>`` of a vCenter or ESXi host (vSphere Web Services SDK
Programming Guide, "Accessing Datastore Files"). ESXi limits the rate of each connection, so more than one is used; it
refuses extents that a running machine has open.
"""

from __future__ import annotations

import asyncio
import http.client
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from coriolis.errors import (
    Conflict,
    CoriolisError,
    Corrupt,
    Denied,
    NotFound,
    Throttled,
    TimedOut,
    Unavailable,
)
from coriolis.providers.block.ranges import check_transfer
from coriolis.providers.vmware_vsphere.certificate import Trust
from coriolis.providers.vmware_vsphere.export_messages import Order
from coriolis.providers.vmware_vsphere.range_links import RangeLinks, shares

CONNECTIONS = 4
BLOCK_SIZE = 65536
TIMEOUT_S = 60.0
ATTEMPTS, OPEN_ATTEMPTS = 5, 2
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 8.0


def folder_path(datacenter: str, file: str) -> str:
    """The request's path for ``[datastore] folder/disk-flat.vmdk`` of a datacenter's inventory path."""
    datastore, _, path = file.removeprefix("[").partition("] ")
    return f"/folder/{quote(path)}?{urlencode({'dcPath': datacenter, 'dsName': datastore})}"


class Endpoint:
    """Where and how to ask: ``cookie(stale)`` gives the session's cookie, another one than ``stale``. It blocks."""

    def __init__(self, host: str, port: int, trust: Trust, cookie: Callable[[str], str]) -> None:
        self.host, self.port, self.trust, self.cookie = host, port, trust, cookie

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"


class FolderReader:
    """Meets ``BlockReader``. Made by ``open_folder``; ``close`` ends it."""

    def __init__(self, endpoint: Endpoint, path: str, size: int, connections: int = CONNECTIONS) -> None:
        self._endpoint, self._path, self._size = endpoint, path, size
        host, port, trust = endpoint.host, endpoint.port, endpoint.trust
        self._links = RangeLinks(
            [Order(host, port, path, "", trust, TIMEOUT_S, os.getpid(), share) for share in shares(connections)]
        )
        self._cookie = ""

    @property
    def size(self) -> int:
        return self._size

    @property
    def block_size(self) -> int:
        return BLOCK_SIZE

    async def read_at(self, offset: int, length: int, attempts: int = ATTEMPTS) -> bytes:
        """Raises Unavailable, TimedOut, Throttled, Denied, NotFound, Conflict (another machine has it), Corrupt."""
        check_transfer(offset, length, self._size)
        if not length:
            return b""
        pause, renewed = FIRST_PAUSE_S, False
        if not self._cookie:
            self._cookie = await asyncio.to_thread(self._endpoint.cookie, "")
        for attempt in range(1, attempts + 1):
            cookie = self._cookie
            try:
                return await self._once(offset, length, cookie)
            except Denied:
                if renewed:
                    raise  # it is not the session: the rights are not there
                self._cookie, renewed = await asyncio.to_thread(self._endpoint.cookie, cookie), True
                continue
            except (Unavailable, Throttled, TimedOut):
                if attempt == attempts:
                    raise
            await asyncio.sleep(pause)
            pause = min(MAX_PAUSE_S, 2 * pause)
        raise Unavailable(f"datastore of {self._endpoint.where}: no answer in {attempts} attempts")

    async def _once(self, offset: int, length: int, cookie: str) -> bytes:
        where = self._endpoint.where
        try:
            answer = await self._links.get(offset, length, cookie)
        except (Unavailable, TimedOut) as error:
            raise type(error)(f"datastore of {where}: {error.message}") from error
        if answer.status != http.client.PARTIAL_CONTENT:
            raise refusal(answer.status, answer.body, where)
        return answer.body

    def check_size(self) -> None:
        """Blocking. Raises Corrupt when the server states another size, Unavailable."""
        where = self._endpoint
        context = where.trust.context()
        connection = http.client.HTTPSConnection(where.host, where.port, timeout=TIMEOUT_S, context=context)
        try:
            connection.request("HEAD", self._path, headers={"Cookie": self._endpoint.cookie("")})
            answer = connection.getresponse()
            answer.read()
            stated = answer.getheader("Content-Length", "")
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"datastore of {where.where}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if answer.status == http.client.OK and stated.isdigit() and int(stated) != self._size:
            raise Corrupt(f"the extent on {where.where} has {stated[:20]} bytes, not {self._size}")

    async def close(self) -> None:
        await asyncio.shield(self._links.close())


async def open_folder(endpoint: Endpoint, path: str, size: int, connections: int = CONNECTIONS) -> FolderReader:
    """A reader that has proved by a read of the last bytes that the extent is there, open to us and of that size.

    Raises as ``read_at``; Corrupt when the extent has another size.
    """
    reader = FolderReader(endpoint, path, size, connections)
    try:
        if size:
            await reader.read_at(size - min(size, 512), min(size, 512), attempts=OPEN_ATTEMPTS)
            await asyncio.to_thread(reader.check_size)
    except BaseException:
        await reader.close()
        raise
    return reader


def refusal(status: int, text: bytes, where: str) -> CoriolisError:
    """What an HTTP status of ``/folder`` means."""
    said: Any = ascii(text.decode("utf-8", "replace").strip()[:200])[1:-1]
    match status:
        case 401 | 403:
            return Denied(f"datastore of {where} refuses the extent (HTTP {status}): Datastore.Browse is needed")
        case 404:
            return NotFound(f"datastore of {where} has no such extent (HTTP 404): was the disk moved?")
        case 409 | 423:
            return Conflict(f"datastore of {where} cannot open the extent (HTTP {status}), a machine has it: {said}")
        case 429 | 503:
            return Throttled(f"datastore of {where} is busy (HTTP {status})")
        case 200:
            return Corrupt(f"datastore of {where} ignores ranges and sends the whole file")
        case _:
            return Unavailable(f"datastore of {where} answers HTTP {status}: {said}")
