"""One login at a Ceph through librados and librbd, on threads; its failures as errors of ours.

Both bindings are the distribution's (python3-rados, python3-rbd: they must match the C libraries) and load when a
connection_info names a Ceph.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from coriolis.errors import CoriolisError, Denied, InvalidInput, NotFound, TimedOut, Unavailable
from coriolis.providers.block.calls import Calls
from coriolis.providers.openstack.ceph_access import (
    CONNECT_TIMEOUT_S,
    OPERATION_TIMEOUT_S,
    CephAccess,
    image_name,
    snapshot_name,
)
from coriolis.providers.openstack.cloud_errors import printable
from coriolis.providers.openstack.rbd_disk import RbdDisk, bindings, translated

T = TypeVar("T")

OPEN_THREADS = 4
SLACK_S = 10.0
"""librados keeps its own limits; beyond them and this nobody waits for it."""
_REFUSED = (errno.EACCES, errno.EPERM)


class CephCluster:
    """Connects at the first use. One failure is for good: whoever tries again makes a new one."""

    def __init__(self, access: CephAccess) -> None:
        self._access = access
        self._calls = Calls(OPEN_THREADS, "ceph")
        self._guard = asyncio.Lock()
        self._rados: Any = None
        self._failed: CoriolisError | None = None
        self._reached: set[tuple[str, str]] = set()

    async def obstacle(self, volume_id: str, size_bytes: int, snapshot_id: str = "") -> str:
        """Why the volume cannot be read here at that snapshot, or as it is; "" when it can: it was really opened."""
        key = (volume_id, snapshot_id)
        if key in self._reached:
            return ""
        try:
            async with self.disk(volume_id, snapshot_id) as disk:
                if disk.size != size_bytes:
                    return f"it has {disk.size} bytes in Ceph, not {size_bytes}"
        except CoriolisError as failed:
            return failed.message
        self._reached.add(key)
        return ""

    async def connect(self) -> None:
        """Raises Unsupported, InvalidInput, Denied, Unavailable, TimedOut, each saying what to do."""
        async with self._guard:
            if self._failed is not None:
                raise self._failed
            if self._rados is None:
                try:
                    await self._run(self._connect, CONNECT_TIMEOUT_S)
                except CoriolisError as failed:
                    self._failed = failed
                    raise

    def _connect(self) -> None:
        access = self._access
        rados, _ = bindings()
        cluster = rados.Rados(rados_id=access.user, conf=access.options())
        try:
            cluster.connect()
        except (rados.Error, ValueError) as failure:
            number = int(getattr(failure, "errno", None) or 0)
            cluster.shutdown()
            where = printable(access.mon_host, 200)
            if number in _REFUSED:
                raise Denied(f"Ceph at {where} refuses {access.who}: check ceph.user and ceph.key") from failure
            if number == errno.ETIMEDOUT:
                raise Unavailable(
                    f"no monitor of Ceph at {where} answered within {CONNECT_TIMEOUT_S} s: check ceph.mon_host, and"
                    " that this agent reaches the storage network"
                ) from failure
            if number == errno.EINVAL:
                raise InvalidInput(
                    f"ceph.mon_host {where} is malformed or no known host, or ceph.key is not as in a keyring"
                ) from failure
            raise Unavailable(f"Ceph at {where} cannot be used: {printable(failure)}") from failure
        self._rados = cluster

    @asynccontextmanager
    async def disk(self, volume_id: str, snapshot_id: str = "") -> AsyncIterator[RbdDisk]:
        """The snapshot of a volume, or the volume as it is. Raises NotFound with the pools looked into, and what
        ``connect`` raises."""
        await self.connect()
        name, snapshot = image_name(volume_id), snapshot_name(snapshot_id) if snapshot_id else ""
        disk = await self._run(lambda: self._opened(name, snapshot), OPERATION_TIMEOUT_S)
        try:
            yield disk
        finally:
            await disk.close()

    def _opened(self, name: str, snapshot: str) -> RbdDisk:
        """Of the first pool that has it."""
        why = []
        for pool in self._access.pools:
            found = self._look(pool, name, snapshot)
            if isinstance(found, RbdDisk):
                return found
            why.append(found)
        raise NotFound("; ".join(why))

    def _look(self, pool: str, name: str, snapshot: str) -> RbdDisk | str:
        """The disk, or why not."""
        rados, rbd = bindings()
        shown = f"pool {printable(pool, 60)}"
        try:
            ioctx = self._rados.open_ioctx(pool)
        except rados.ObjectNotFound:
            return f"Ceph has no {shown}"
        try:
            return RbdDisk(ioctx, name, snapshot)
        except rbd.ImageNotFound:  # which of image and snapshot is absent, librbd does not say
            ioctx.close()
            return f"{shown} of Ceph has no image {name}{'@' + snapshot if snapshot else ''}"
        except rbd.PermissionError:
            ioctx.close()
            return f"Ceph does not let {self._access.who} read {shown}"
        except BaseException:
            ioctx.close()
            raise

    async def _run(self, call: Callable[[], T], timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s + SLACK_S):
                return await self._calls.run(translated, call)
        except TimeoutError as late:
            raise TimedOut(f"Ceph at {printable(self._access.mon_host, 200)} did not answer in time") from late

    async def close(self) -> None:
        def release() -> None:
            if self._rados is not None:
                self._rados.shutdown()

        await self._calls.close(release)
