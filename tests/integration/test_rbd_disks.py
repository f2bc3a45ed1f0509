"""RBD images read through a real Ceph: bytes, what is allocated, what changed, and what can be in the way."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from coriolis.errors import ChangeLogLost, CoriolisError, Denied, InvalidInput, NotFound, Unavailable, Unsupported
from coriolis.model.disk import ExtentKind
from coriolis.providers.openstack import ceph_access, rbd_disk
from coriolis.providers.openstack.ceph_access import CephAccess, image_name, snapshot_name
from coriolis.providers.openstack.ceph_cluster import CephCluster
from coriolis.providers.openstack.rbd_disk import RbdDisk
from coriolis.providers.openstack.rbd_extents import GRAIN
from tests.contract.test_origin import check_gapless
from tests.lab.ceph import POOLS, PROGRAMS, Ceph, ceph_site

rbd: Any = pytest.importorskip("rbd")
pytestmark = [pytest.mark.ceph, pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason="needs make ceph-lab")]

MIB = 1 << 20
OBJECT = 4 * MIB
ODD_SIZE = 41 * MIB + 12288 + 512
"""Neither a multiple of an object nor of a page."""
NO_FAST_DIFF = 1  # RBD_FEATURE_LAYERING alone, as Cinder's volumes had before object maps


@pytest.fixture(scope="module")
def ceph() -> Iterator[Ceph]:
    with ceph_site() as running:
        yield running


@pytest.fixture(scope="module")
def reader(ceph: Ceph) -> CephAccess:
    """With the capabilities that the documentation asks for."""
    return CephAccess(ceph.mon_host, "coriolis", ceph.user("coriolis"), POOLS)


class Volume:
    """An image as Cinder makes one, and what is in it."""

    def __init__(self, ioctx: Any, size: int, features: int | None = None) -> None:
        self.id, self._ioctx = str(uuid.uuid4()), ioctx
        rbd.RBD().create(ioctx, image_name(self.id), size, old_format=False, features=features)
        self.truth = bytearray(size)

    @classmethod
    def clone(cls, ioctx: Any, parent: Volume, snapshot: str, into: Any) -> Volume:
        """As Cinder makes a volume of an image of Glance's."""
        made = cls.__new__(cls)
        made.id, made._ioctx = str(uuid.uuid4()), into
        rbd.RBD().clone(ioctx, image_name(parent.id), snapshot_name(snapshot), into, image_name(made.id))
        made.truth = bytearray(parent.truth)
        return made

    def write(self, offset: int, data: bytes) -> None:
        with rbd.Image(self._ioctx, image_name(self.id)) as image:
            image.write(data, offset)
        self.truth[offset : offset + len(data)] = data

    def discard(self, offset: int, length: int) -> None:
        with rbd.Image(self._ioctx, image_name(self.id)) as image:
            image.discard(offset, length)
            self.truth[offset : offset + length] = image.read(offset, length)

    def freeze(self) -> str:
        made = str(uuid.uuid4())
        with rbd.Image(self._ioctx, image_name(self.id)) as image:
            image.create_snap(snapshot_name(made))
            image.protect_snap(snapshot_name(made))
        return made

    def thaw(self, snapshot: str) -> None:
        with rbd.Image(self._ioctx, image_name(self.id)) as image:
            image.unprotect_snap(snapshot_name(snapshot))
            image.remove_snap(snapshot_name(snapshot))


@pytest.fixture
def pools(ceph: Ceph) -> Iterator[dict[str, Any]]:
    cluster = ceph.connect()
    opened = {pool: cluster.open_ioctx(pool) for pool in POOLS}
    yield opened
    for one in opened.values():
        one.close()
    cluster.shutdown()


@pytest.fixture
def new_volume(pools: dict[str, Any]) -> Any:
    def make(size: int = ODD_SIZE, features: int | None = None, seed: int = 1) -> Volume:
        volume, chance = Volume(pools["volumes"], size, features), random.Random(seed)
        for offset, length in ((0, 100_000), (OBJECT - 4096, 8192), (size // 2 + 513, 5 * MIB), (size - 512, 512)):
            volume.write(offset, chance.randbytes(length))
        return volume

    return make


@asynccontextmanager
async def opened(access: CephAccess, volume: Volume, snapshot: str) -> AsyncIterator[RbdDisk]:
    cluster = CephCluster(access)
    try:
        async with cluster.disk(volume.id, snapshot) as disk:
            yield disk
    finally:
        await cluster.close()


async def content(disk: RbdDisk) -> bytes:
    step = 1_000_001
    pieces = [disk.read_at(at, min(step, disk.size - at)) for at in range(0, disk.size, step)]
    return b"".join(await asyncio.gather(*pieces))


async def test_every_byte_of_a_snapshot_while_the_guest_writes(reader: CephAccess, new_volume: Any) -> None:
    volume = new_volume()
    before, snapshot = bytes(volume.truth), volume.freeze()
    volume.write(0, b"later" * 1000)
    async with opened(reader, volume, snapshot) as disk:
        assert disk.size == ODD_SIZE
        assert await content(disk) == before
        assert await disk.read_at(ODD_SIZE, 0) == b""
        for offset, length in ((ODD_SIZE, 1), (ODD_SIZE - 1, 2), (-1, 1)):
            with pytest.raises(InvalidInput):
                await disk.read_at(offset, length)
        await disk.check_stands()


@pytest.fixture(params=["one window", "many windows"])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a disk that is asked about in pieces, none ends where an object does."""
    if request.param == "many windows":
        monkeypatch.setattr(rbd_disk, "FAST_WINDOW", 3 * MIB)
        monkeypatch.setattr(rbd_disk, "PRECISE_WINDOW", MIB + 4096)


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize("features", [None, NO_FAST_DIFF])
async def test_what_is_not_allocated_is_zero(reader: CephAccess, new_volume: Any, features: int | None) -> None:
    volume = new_volume(features=features)
    async with opened(reader, volume, volume.freeze()) as disk:
        for start in (0, 1, OBJECT, ODD_SIZE // 2 + 511, ODD_SIZE - 1, ODD_SIZE):
            found = [extent async for extent in disk.allocated(start)]
            check_gapless(found, start, ODD_SIZE)
            holes = [extent for extent in found if extent.kind is not ExtentKind.DATA]
            assert all(not any(volume.truth[one.offset : one.end]) for one in holes)
            if start == 0:
                assert sum(one.length for one in holes) > ODD_SIZE // 3
        with pytest.raises(InvalidInput):
            [extent async for extent in disk.allocated(ODD_SIZE + 1)]


def changed_grains(old: bytes, new: bytes) -> set[int]:
    return {at // GRAIN for at in range(0, len(old), GRAIN) if old[at : at + GRAIN] != new[at : at + GRAIN]}


async def check_changes(access: CephAccess, volume: Volume, old: bytes, since: str, snapshot: str) -> set[int]:
    """Grains reported, which must hold all that a comparison of all bytes finds, from any start."""
    async with opened(access, volume, snapshot) as disk:
        now = await content(disk)
        for start in (0, len(now) // 2):
            found = [extent async for extent in disk.changed(snapshot_name(since), start)]
            assert all(one.end <= two.offset for one, two in itertools.pairwise(found))
            assert all(start <= one.offset and one.end <= len(now) for one in found)
            grains = {grain for one in found for grain in range(one.offset // GRAIN, -(-one.end // GRAIN))}
            assert {grain for grain in changed_grains(old, now) if grain > start // GRAIN} <= grains
            if start == 0:
                reported = grains
    assert changed_grains(old, now) <= reported
    return reported


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize("features", [None, NO_FAST_DIFF])
async def test_changes_equal_a_comparison_of_all_bytes(
    reader: CephAccess, new_volume: Any, features: int | None
) -> None:
    """Passes one after the other, each base removed once the next was read, as the coordinator does."""
    volume, chance = new_volume(features=features), random.Random(7)
    base, old = volume.freeze(), bytes(volume.truth)
    for _ in range(4):
        for _ in range(6):
            offset = chance.randrange(0, ODD_SIZE - 70_000)
            volume.write(offset, chance.randbytes(chance.randrange(1, 70_000)))
        volume.write(ODD_SIZE - 100, bytes([chance.randrange(1, 256)]) * 100)
        snapshot, new = volume.freeze(), bytes(volume.truth)
        volume.write(0, chance.randbytes(100))  # after the snapshot: none of its changes
        reported = await check_changes(reader, volume, old, base, snapshot)
        # an object that grew is told from its former end on: one grain that holds that end, and what nobody wrote
        changed, objects = changed_grains(old, new), OBJECT // GRAIN
        surplus = {grain for grain in reported - changed if any(new[grain * GRAIN : (grain + 1) * GRAIN])}
        assert len(surplus) <= len({grain // objects for grain in changed})
        assert {grain // objects for grain in reported} == {grain // objects for grain in changed}
        assert len(reported) * GRAIN < ODD_SIZE // 3
        volume.thaw(base)
        base, old = snapshot, new


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize("features", [None, NO_FAST_DIFF])
async def test_discards_are_changes(reader: CephAccess, new_volume: Any, features: int | None) -> None:
    volume = new_volume(features=features)
    base, old = volume.freeze(), bytes(volume.truth)
    volume.discard(0, 2 * OBJECT)
    volume.discard(ODD_SIZE // 2 + MIB, 512 * 1024)
    volume.discard(30 * MIB, MIB)  # nothing was there
    assert bytes(volume.truth) != old
    await check_changes(reader, volume, old, base, volume.freeze())


async def test_what_changed_and_changed_back_is_still_told(reader: CephAccess, new_volume: Any) -> None:
    """A pass that failed in between may have sent what was there for a while."""
    volume = new_volume()
    base, old = volume.freeze(), bytes(volume.truth)
    volume.write(10 * MIB, b"x" * GRAIN)
    between = volume.freeze()
    volume.write(10 * MIB, old[10 * MIB : 10 * MIB + GRAIN])
    snapshot = volume.freeze()
    volume.thaw(between)
    assert changed_grains(old, bytes(volume.truth)) == set()
    assert 10 * MIB // GRAIN in await check_changes(reader, volume, old, base, snapshot)


@pytest.mark.usefixtures("window")
async def test_a_volume_of_an_image_in_another_pool(reader: CephAccess, new_volume: Any, pools: dict[str, Any]) -> None:
    """Copy on write: what was never written stands in the parent."""
    parent = Volume(pools["images"], ODD_SIZE)
    parent.write(0, random.Random(3).randbytes(6 * MIB))
    parent.write(20 * MIB, random.Random(4).randbytes(MIB))
    volume = Volume.clone(pools["images"], parent, parent.freeze(), pools["volumes"])
    volume.write(5 * MIB, b"ours" * 1000)
    volume.discard(20 * MIB, OBJECT)
    base, old = volume.freeze(), bytes(volume.truth)
    async with opened(reader, volume, base) as disk:
        assert await content(disk) == old
        found = [extent async for extent in disk.allocated(0)]
        check_gapless(found, 0, ODD_SIZE)
        assert all(not any(old[one.offset : one.end]) for one in found if one.kind is not ExtentKind.DATA)
        assert sum(one.length for one in found if one.kind is ExtentKind.DATA) < ODD_SIZE // 2
    volume.write(2 * MIB, b"first write to this object" * 10)
    volume.write(38 * MIB, b"beyond the parent's data")
    await check_changes(reader, volume, old, base, volume.freeze())


async def test_a_base_that_is_gone_is_a_lost_log(reader: CephAccess, new_volume: Any) -> None:
    volume = new_volume()
    base = volume.freeze()
    snapshot = volume.freeze()
    volume.thaw(base)
    async with opened(reader, volume, snapshot) as disk:
        with pytest.raises(ChangeLogLost, match=base):
            [extent async for extent in disk.changed(snapshot_name(base), 0)]


async def test_a_snapshot_that_is_removed_while_it_is_read(
    reader: CephAccess, new_volume: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = new_volume()
    snapshot = volume.freeze()
    async with opened(reader, volume, snapshot) as disk:
        await disk.read_at(0, 4096)
        volume.thaw(snapshot)
        with pytest.raises(NotFound, match=snapshot):
            await disk.check_stands()
        monkeypatch.setattr(rbd_disk, "STANDS_S", 0.0)
        with pytest.raises(NotFound):
            await disk.read_at(0, 4096)
    with pytest.raises(NotFound, match=f"no image volume-{volume.id}@snapshot-{snapshot}"):
        async with opened(reader, volume, snapshot):
            pass


async def test_volumes_that_are_somewhere_else(ceph: Ceph, reader: CephAccess, new_volume: Any) -> None:
    volume = new_volume()
    snapshot = volume.freeze()
    elsewhere = CephAccess(reader.mon_host, reader.user, reader.key, ("images", "no-such-pool"))
    with pytest.raises(NotFound) as caught:
        async with opened(elsewhere, volume, snapshot):
            pass
    assert "pool images of Ceph has no image" in caught.value.message
    assert "Ceph has no pool no-such-pool" in caught.value.message
    narrow = {"mon": "profile rbd", "osd": "profile rbd-read-only pool=images"}
    stranger = CephAccess(reader.mon_host, "stranger", ceph.user("stranger", narrow), POOLS)
    with pytest.raises(NotFound, match=r"does not let client\.stranger read pool volumes"):
        async with opened(stranger, volume, snapshot):
            pass


async def test_the_documented_user_can_only_read(reader: CephAccess, new_volume: Any) -> None:
    rados: Any = pytest.importorskip("rados")
    volume = new_volume()
    cluster = rados.Rados(rados_id=reader.user, conf=reader.options())
    cluster.connect()
    try:
        with cluster.open_ioctx("volumes") as ioctx, pytest.raises(rbd.PermissionError):
            rbd.RBD().create(ioctx, "mine", MIB)
        with cluster.open_ioctx("volumes") as ioctx, pytest.raises(rbd.PermissionError):
            rbd.RBD().remove(ioctx, image_name(volume.id))
    finally:
        cluster.shutdown()


async def failure(access: CephAccess) -> CoriolisError:
    cluster = CephCluster(access)
    began = time.monotonic()
    try:
        with pytest.raises(CoriolisError) as first:
            await cluster.connect()
        with pytest.raises(type(first.value)):  # at once: the first failure is for good
            await cluster.connect()
    finally:
        await cluster.close()
    assert access.key not in str(first.value)
    assert time.monotonic() - began < ceph_access.CONNECT_TIMEOUT_S + 5
    return first.value


async def test_a_wrong_key_and_an_unknown_user(ceph: Ceph, reader: CephAccess) -> None:
    wrong = CephAccess(reader.mon_host, reader.user, ceph.user("somebody-else"), POOLS)
    found = await failure(wrong)
    assert isinstance(found, Denied)
    assert "refuses client.coriolis: check ceph.user and ceph.key" in str(found)
    assert isinstance(await failure(CephAccess(reader.mon_host, "nobody", reader.key, POOLS)), Denied)
    malformed = await failure(CephAccess(reader.mon_host, reader.user, "no base64", POOLS))
    assert isinstance(malformed, InvalidInput), malformed


@contextmanager
def silent_port() -> Iterator[int]:
    """It takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield server.getsockname()[1]


async def test_monitors_out_of_reach_cost_a_bounded_time(reader: CephAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceph_access, "CONNECT_TIMEOUT_S", 3)
    with silent_port() as port:
        found = await failure(CephAccess(f"v2:127.0.0.1:{port}", reader.user, reader.key, POOLS))
    assert isinstance(found, Unavailable)
    assert "check ceph.mon_host" in str(found)
    refused = await failure(CephAccess(f"v2:127.0.0.1:{port}", reader.user, reader.key, POOLS))
    assert isinstance(refused, Unavailable)
    unknown = await failure(CephAccess("no-such-host.invalid", reader.user, reader.key, POOLS))
    assert isinstance(unknown, InvalidInput)
    assert "ceph.mon_host no-such-host.invalid" in str(unknown)


async def test_without_debians_modules(reader: CephAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rbd", None)
    found = await failure(reader)
    assert isinstance(found, Unsupported)
    assert "python3-rbd" in str(found)


async def test_reads_of_osds_that_do_not_answer_are_bounded(
    ceph: Ceph, reader: CephAccess, new_volume: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The OSD is stopped, not ended: nothing tells the client."""
    monkeypatch.setattr(ceph_access, "OPERATION_TIMEOUT_S", 2)
    volume = new_volume()
    async with opened(reader, volume, volume.freeze()) as disk:
        ceph.osd.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable):
                await disk.read_at(0, 4096)
        finally:
            ceph.osd.send_signal(signal.SIGCONT)
        assert await disk.read_at(0, 4096) == volume.truth[:4096]
