"""The first bytes of a larger volume as a disk of exact size: Cinder counts in GiB, guests in sectors."""

from __future__ import annotations

from coriolis.errors import InvalidInput
from coriolis.providers.base import BlockWriter, RawDescriptor, raw_descriptor
from coriolis.providers.block.ranges import check_range


class Window:
    """Meets ``BlockWriter`` over the first ``size`` bytes of ``inner``."""

    def __init__(self, inner: BlockWriter, size: int) -> None:
        if size > inner.size:
            raise InvalidInput(f"a volume of {inner.size} bytes cannot hold a disk of {size}")
        self._inner, self._size = inner, size

    @property
    def size(self) -> int:
        return self._size

    @property
    def block_size(self) -> int:
        return self._inner.block_size

    async def read_at(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self._size)
        return await self._inner.read_at(offset, length)

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        check_range(offset, memoryview(data).nbytes, self._size)
        await self._inner.write_at(offset, data)

    async def write_zeroes(self, offset: int, length: int) -> None:
        check_range(offset, length, self._size)
        await self._inner.write_zeroes(offset, length)

    async def flush(self) -> None:
        await self._inner.flush()


class RawWindow(Window):
    """Over a raw volume, whose descriptor lanes may use."""

    def descriptor(self) -> RawDescriptor:
        found = raw_descriptor(self._inner)
        assert found is not None  # ``window`` looked
        return found


def window(inner: BlockWriter, size: int) -> Window:
    """The first ``size`` bytes. Raises InvalidInput when there are fewer."""
    return RawWindow(inner, size) if raw_descriptor(inner) is not None else Window(inner, size)
