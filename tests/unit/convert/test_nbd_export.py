"""The export against real clients: libnbd and qemu-img."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from coriolis.convert import nbd_protocol
from coriolis.convert.nbd_export import Counters, export
from coriolis.errors import Corrupt, InvalidInput, Unavailable
from tests.unit.convert.memory_volume import MemoryVolume

nbd = pytest.importorskip("nbd")

SIZE = 3 << 20
CONTENT = random.Random(7).randbytes(SIZE)


@pytest.fixture
def volume() -> MemoryVolume:
    return MemoryVolume(CONTENT)


@pytest.fixture
async def served(volume: MemoryVolume, tmp_path: Path) -> AsyncIterator[tuple[Path, Counters]]:
    path = tmp_path / "s"
    async with export(volume, path, "disk") as counters:
        yield path, counters
    assert not path.exists()


async def with_client(path: Path, work: Callable[[Any], Any], name: str = "disk") -> Any:
    """Run ``work`` with a connected libnbd handle, in a thread: the server needs this loop."""

    def connect_and_work() -> Any:
        handle = nbd.NBD()
        handle.set_export_name(name)
        handle.connect_unix(str(path))
        try:
            return work(handle)
        finally:
            handle.shutdown()

    return await asyncio.to_thread(connect_and_work)


async def test_size_flags_and_block_sizes(served: tuple[Path, Counters]) -> None:
    def work(handle: Any) -> None:
        assert handle.get_size() == SIZE
        assert handle.is_read_only()
        assert handle.can_multi_conn()
        assert not handle.can_trim()
        assert handle.get_block_size(nbd.SIZE_PREFERRED) == 4096
        assert handle.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20

    await with_client(served[0], work)


def finish(handle: Any, cookies: list[int]) -> None:
    """Wait until all commands in flight have succeeded."""
    while cookies:
        handle.poll(-1)
        cookies = [cookie for cookie in cookies if not handle.aio_command_completed(cookie)]


@pytest.mark.parametrize(("offset", "length"), [(0, 512), (513, 4095), (SIZE - 1, 1), (0, SIZE)])
async def test_reads(served: tuple[Path, Counters], offset: int, length: int) -> None:
    data = await with_client(served[0], lambda handle: handle.pread(length, offset))
    assert data == CONTENT[offset : offset + length]
    assert served[1].bytes_read == length


async def test_many_reads_in_flight_are_served_at_once_and_not_mixed_up(
    served: tuple[Path, Counters], volume: MemoryVolume
) -> None:
    volume.delay_s = 0.02
    spots = [(random.Random(i).randrange(SIZE - 70_000), 1 + 997 * i) for i in range(60)]

    def work(handle: Any) -> list[bytearray]:
        buffers = [nbd.Buffer(length) for _, length in spots]
        finish(handle, [handle.aio_pread(b, at) for (at, _), b in zip(spots, buffers, strict=True)])
        return [buffer.to_bytearray() for buffer in buffers]

    found = await with_client(served[0], work)
    assert [bytes(data) for data in found] == [CONTENT[at : at + length] for at, length in spots]
    assert 8 < volume.most_at_once <= 64


async def test_memory_is_bounded_by_bytes_in_flight(tmp_path: Path) -> None:
    volume = MemoryVolume(bytes(32 << 20))
    volume.delay_s = 0.05

    def work(handle: Any) -> None:
        buffers = [nbd.Buffer(32 << 20) for _ in range(6)]
        finish(handle, [handle.aio_pread(buffer, 0) for buffer in buffers])

    async with export(volume, tmp_path / "s", "disk"):
        await with_client(tmp_path / "s", work)
    assert volume.most_at_once == 2


async def refused(path: Path, work: Callable[[Any], Any]) -> str:
    """The errno name of the refusal; the connection must still work afterwards."""

    def attempt(handle: Any) -> str:
        handle.set_strict_mode(0)
        with pytest.raises(nbd.Error) as caught:
            work(handle)
        assert handle.pread(512, 0) == CONTENT[:512]
        return str(caught.value.errno)

    return str(await with_client(path, attempt))


async def test_what_is_refused(served: tuple[Path, Counters]) -> None:
    path = served[0]
    assert await refused(path, lambda handle: handle.pwrite(b"x" * 512, 0)) == "EPERM"
    assert await refused(path, lambda handle: handle.pread(512, SIZE - 511)) == "EINVAL"
    assert await refused(path, lambda handle: handle.pread(512, 1 << 62)) == "EINVAL"
    assert await refused(path, lambda handle: handle.trim(512, 0)) == "EINVAL"
    assert await refused(path, lambda handle: handle.zero(512, 0)) == "EINVAL"


async def test_a_failing_reader_is_an_io_error_and_remembered(
    served: tuple[Path, Counters], volume: MemoryVolume
) -> None:
    path, counters = served
    volume.error = Unavailable("the origin is gone")

    def work(handle: Any) -> str:
        with pytest.raises(nbd.Error) as caught:
            handle.pread(512, 0)
        return str(caught.value.errno)

    assert await with_client(path, work) == "EIO"
    assert counters.error is volume.error


async def test_a_short_read_is_an_error_of_the_reader(tmp_path: Path) -> None:
    class Short(MemoryVolume):
        async def read_at(self, offset: int, length: int) -> bytes:
            return b"x"

    def work(handle: Any) -> None:
        with pytest.raises(nbd.Error):
            handle.pread(512, 0)

    async with export(Short(bytes(4096)), tmp_path / "s", "disk") as counters:
        await with_client(tmp_path / "s", work)
    assert isinstance(counters.error, Corrupt)


async def test_an_unknown_export_is_refused(served: tuple[Path, Counters]) -> None:
    with pytest.raises(nbd.Error, match=r"unknown|not found|No such|has no export"):
        await with_client(served[0], lambda handle: None, name="other")
    assert await with_client(served[0], lambda handle: handle.get_size()) == SIZE


async def test_listing_exports(served: tuple[Path, Counters]) -> None:
    def work() -> list[str]:
        handle, names = nbd.NBD(), []
        handle.set_opt_mode(True)
        handle.connect_unix(str(served[0]))
        handle.opt_list(lambda name, _description: names.append(name))
        handle.opt_abort()
        return names

    assert await asyncio.to_thread(work) == ["disk"]


async def test_the_old_way_to_begin(served: tuple[Path, Counters]) -> None:
    """NBD_OPT_EXPORT_NAME, by hand: libnbd uses GO when the server has it."""
    reader, writer = await asyncio.open_unix_connection(str(served[0]))
    await reader.readexactly(18)
    writer.write(nbd_protocol.CLIENT_FLAGS.pack(1))
    writer.write(nbd_protocol.OPTION.pack(b"IHAVEOPT", 1, 4) + b"disk")
    answer = await reader.readexactly(8 + 2 + 124)
    assert int.from_bytes(answer[:8], "big") == SIZE
    writer.write(nbd_protocol.REQUEST.pack(nbd_protocol.REQUEST_MAGIC, 0, 0, 42, 0, 512))
    reply = await reader.readexactly(16 + 512)
    assert reply[16:] == CONTENT[:512]
    writer.close()


@pytest.mark.parametrize(
    "hostile",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"\0\0\0\3" + b"IHAVEOPT" + b"\0\0\0\7" + b"\xff\xff\xff\xff",
        b"\0\0\0\3" + b"IHAVEOPT" + b"\0\0\0\7" + b"\0\0\0\6" + b"\xff\xff\xff\xff\0\0",
        b"\0\0\0\3" + b"NOTANOPT" + b"\0" * 8,
        b"\0\0\0\3" + (b"IHAVEOPT" + b"\0\0\0\x63" + b"\0\0\0\0") * 100,
    ],
)
async def test_hostile_clients_end_only_their_connection(served: tuple[Path, Counters], hostile: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(served[0]))
    writer.write(hostile)
    writer.write_eof()
    async with asyncio.timeout(5):
        try:
            await reader.read()
        except ConnectionError:
            pass
    writer.close()
    assert await with_client(served[0], lambda handle: handle.pread(512, 0)) == CONTENT[:512]


async def test_a_vanishing_client_does_not_stop_the_export(served: tuple[Path, Counters], volume: MemoryVolume) -> None:
    volume.delay_s = 0.2
    _, writer = await asyncio.open_unix_connection(str(served[0]))
    writer.write(nbd_protocol.CLIENT_FLAGS.pack(3) + nbd_protocol.OPTION.pack(b"IHAVEOPT", 1, 4) + b"disk")
    for cookie in range(10):
        writer.write(nbd_protocol.REQUEST.pack(nbd_protocol.REQUEST_MAGIC, 0, 0, cookie, 0, 65536))
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.transport.abort()
    volume.delay_s = 0
    assert await with_client(served[0], lambda handle: handle.pread(512, 0)) == CONTENT[:512]


async def test_qemu_img_reads_the_same(served: tuple[Path, Counters], tmp_path: Path) -> None:
    command = ["qemu-img", "convert", "-f", "raw", "-O", "raw"]
    source = f"nbd+unix:///disk?socket={served[0]}"
    process = await asyncio.create_subprocess_exec(*command, source, str(tmp_path / "copy"))
    assert await process.wait() == 0
    assert hashlib.sha256((tmp_path / "copy").read_bytes()).digest() == hashlib.sha256(CONTENT).digest()


async def test_a_socket_path_too_long_is_refused(volume: MemoryVolume, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="longer than 100 bytes"):
        async with export(volume, tmp_path / ("x" * 100)):
            pass
