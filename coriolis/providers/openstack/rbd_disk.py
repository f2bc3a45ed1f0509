"""One RBD image at one snapshot: its bytes, what of it is allocated, what changed since another snapshot.

librbd's ``diff_iterate`` compares with the OSDs' own record of snapshots, so it needs no tracking on the guest's side.
With the feature fast-diff whole objects are told from the object map at once; librbd itself goes object by object where
that map is marked invalid. Source: librbd of Ceph Pacific, ``rbd_diff_iterate2``.
"""

from __future__ import annotations

import errno
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from coriolis.errors import ChangeLogLost, CoriolisError, Corrupt, Denied, NotFound, Unavailable, Unsupported
from coriolis.model.disk import Extent, ExtentKind
from coriolis.providers.block.calls import Calls
from coriolis.providers.block.ranges import check_start, check_transfer, gapless
from coriolis.providers.openstack.cloud_errors import printable
from coriolis.providers.openstack.rbd_extents import grains, windows

T = TypeVar("T")

THREADS = 8
"""Reads in flight: each waits for an OSD, and neighbours mostly for another one."""
BLOCK_SIZE = 4096
STANDS_S = 5.0
"""So often a reader makes sure that its snapshot still stands: RADOS reads zeros where one was removed."""
FAST_WINDOW = 1 << 40
PRECISE_WINDOW = 16 << 30
"""Bytes of the disk per call: bounds how many ranges one answer has, and how long cancelling takes."""


def bindings() -> tuple[Any, Any]:
    """The modules rados and rbd. Raises Unsupported."""
    try:
        import rados
        import rbd
    except ImportError as absent:
        raise Unsupported(
            "librados and librbd are not there for this agent's Python: install python3-rados and python3-rbd"
            " (a virtual environment needs --system-site-packages)"
        ) from absent
    return rados, rbd


def translated(call: Callable[[], T]) -> T:
    """``call``, whose failures are errors of ours."""
    rados, rbd = bindings()
    try:
        return call()
    except (rados.Error, rbd.Error) as failure:
        raise from_failure(failure) from failure


def from_failure(failure: Exception) -> CoriolisError:
    """By its errno, which librados' and librbd's errors have."""
    number = int(getattr(failure, "errno", None) or 0)
    said = printable(failure)
    if number == errno.ENOENT:
        return NotFound(f"Ceph has not what was asked for: {said}")
    if number in (errno.EACCES, errno.EPERM):
        return Denied(
            f"Ceph refuses: {said}; the user needs profile rbd-read-only on the pool and on its parents' pools"
        )
    if number == errno.EIO:
        return Corrupt(f"Ceph cannot read its own data: {said}")
    return Unavailable(f"Ceph failed: {said}")


class RbdDisk:
    """Meets ``BlockReader``. Opened read-only; takes over ``ioctx``. Blocking to construct."""

    def __init__(self, ioctx: Any, name: str, snapshot: str) -> None:
        self._ioctx, self._name, self._snapshot = ioctx, name, snapshot
        self._image = self._open()
        self._size = int(self._image.size())
        self._calls = Calls(THREADS, "rbd")
        self._stood_at = time.monotonic()

    def _open(self) -> Any:
        _, rbd = bindings()
        return rbd.Image(self._ioctx, self._name, snapshot=self._snapshot or None, read_only=True)

    @property
    def size(self) -> int:
        return self._size

    @property
    def block_size(self) -> int:
        return BLOCK_SIZE

    async def read_at(self, offset: int, length: int) -> bytes:
        """Raises NotFound when the snapshot was removed meanwhile."""
        check_transfer(offset, length, self._size)
        return await self._calls.run(translated, lambda: self._read(offset, length))

    def _read(self, offset: int, length: int) -> bytes:
        data = bytes(self._image.read(offset, length)) if length else b""
        if len(data) != length:
            raise Corrupt(f"{self._name}: Ceph gave {len(data)} bytes at {offset} instead of {length}")
        if time.monotonic() - self._stood_at > STANDS_S:
            self._check_stands()
        return data

    async def check_stands(self) -> None:
        """Raises NotFound when the snapshot does not stand any more: what was read since the last look may be zeros."""
        await self._calls.run(translated, self._check_stands)

    def _check_stands(self) -> None:
        began = time.monotonic()
        self._open().close()  # looks anew; names hold ids of Cinder's, so none comes back with other content
        self._stood_at = began

    async def allocated(self, starting_offset: int) -> AsyncIterator[Extent]:
        """All ranges from ``starting_offset``, parents' data included: increasing, disjoint, without gaps."""
        check_start(starting_offset, self._size)
        fast = await self._calls.run(translated, self._has_fast_diff)
        for first, last in windows(starting_offset, self._size, FAST_WINDOW if fast else PRECISE_WINDOW):
            found = await self._diff(first, last, None, fast)
            for extent in gapless((Extent(at, end - at) for at, end in found), first, last):
                yield extent

    async def changed(self, since: str, starting_offset: int) -> AsyncIterator[Extent]:
        """Grains that may differ from snapshot ``since`` of this image; what was discarded is among them.

        Raises ChangeLogLost when the image has no such snapshot (any more)."""
        check_start(starting_offset, self._size)
        if since not in await self._calls.run(translated, self._snapshots):
            raise ChangeLogLost(f"{self._name} has no snapshot {since} any more")
        fast = await self._calls.run(translated, self._has_fast_diff)
        for first, last in windows(starting_offset, self._size, FAST_WINDOW if fast else PRECISE_WINDOW):
            objects = await self._diff(first, last, since, fast)
            if not fast:
                for extent in _extents(objects):
                    yield extent
                continue
            for begin, end in objects:  # what changed within them the OSDs know by the byte
                for part in windows(begin, end, PRECISE_WINDOW):
                    for extent in _extents(await self._diff(*part, since, fast=False)):
                        yield extent

    async def _diff(self, first: int, last: int, since: str | None, fast: bool) -> list[tuple[int, int]]:
        def ask() -> list[tuple[int, int]]:
            found: list[tuple[int, int]] = []

            def note(offset: int, length: int, exists: bool) -> None:
                if exists or since is not None:
                    found.append((offset, length))

            self._image.diff_iterate(first, last - first, since, note, include_parent=True, whole_object=fast)
            return grains(found, first, last)

        return await self._calls.run(translated, ask)

    def _snapshots(self) -> set[str]:
        return {str(one["name"]) for one in self._image.list_snaps()}

    def _has_fast_diff(self) -> bool:
        _, rbd = bindings()
        invalid = rbd.RBD_FLAG_FAST_DIFF_INVALID | rbd.RBD_FLAG_OBJECT_MAP_INVALID
        return bool(self._image.features() & rbd.RBD_FEATURE_FAST_DIFF) and not self._image.flags() & invalid

    async def close(self) -> None:
        def release() -> None:
            self._image.close()
            self._ioctx.close()

        await self._calls.close(release)


def _extents(found: list[tuple[int, int]]) -> list[Extent]:
    return [Extent(first, last - first, ExtentKind.DATA) for first, last in found]
