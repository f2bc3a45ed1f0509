"""What an OpenStack origin keeps besides when it may read the Ceph behind Cinder: what goes where, and what is left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coriolis.errors import ChangeLogLost, NotFound
from coriolis.model.finding import Severity
from coriolis.providers.base import ExaminesInstances
from coriolis.providers.surroundings import CinderAccess, Surroundings
from tests.contract.case import BLOCK, Origin
from tests.contract.test_openstack_origin import NAME, killed
from tests.contract.test_origin import FIRST, SECOND, changed, clean_up, content, source_of
from tests.lab.ceph import Ceph
from tests.lab.openstack_site import Cloud

pytestmark = [pytest.mark.lab, pytest.mark.openstack, pytest.mark.ceph]


class Told:
    """Events of the task."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def __call__(self, message: str, level: str = "INFO") -> None:
        self.all.append((level, message))

    def about(self, disk: str) -> list[tuple[str, str]]:
        return [(level, message) for level, message in self.all if disk in message]


@pytest.fixture
def mixed(openstack_ceph: Any, ceph_cloud: tuple[Cloud, Ceph], tmp_path: Path) -> Iterator[tuple[Origin, Told]]:
    """Of its two volumes the first is on NFS, which this agent may attach, the second in Ceph."""
    origin: Origin = openstack_ceph.origin("mixed", tmp_path)
    told, access = Told(), CinderAccess(("nfs",), ceph_cloud[0].home / "mnt" / "cinder")
    origin.surroundings = Surroundings(staging_dir=tmp_path / "staging", cinder=access, tell=told)
    yield origin, told
    assert left(openstack_ceph.sdk, ceph_cloud[1]) == []


def left(sdk: Any, ceph: Ceph) -> list[str]:
    """All that a pass makes, as the project and Ceph show it."""
    found = [f"snapshot {one.name}" for one in sdk.block_storage.snapshots()]
    volumes = [one.name for one in sdk.block_storage.volumes() if one.name and one.name.startswith("coriolis")]
    found += [f"volume {name}" for name in volumes]
    found += [f"image {one.name}" for one in sdk.image.images() if one.name.startswith("coriolis")]
    return found + ceph.snapshots()


async def test_disks_in_ceph_beside_others(
    mixed: tuple[Origin, Told], ceph_cloud: tuple[Cloud, Ceph], openstack_ceph: Any
) -> None:
    origin, told = mixed
    (shared, in_ceph), ceph = origin.truth, ceph_cloud[1]
    assert origin.write is not None
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        assert isinstance(connection.inventory, ExaminesInstances)
        findings = await connection.inventory.examine(origin.instance)
        found = {(one.code, one.disk_id): one.severity for one in findings}
        assert found[("read_from_ceph", in_ceph)] is Severity.INFO
        assert found[("not_read_from_ceph", shared)] is Severity.WARNING
        source = source_of(connection)
        try:
            first = await source.create_snapshot(origin.instance, FIRST, None)
            assert first.change_base
            assert told.about(in_ceph) == [
                ("INFO", f"disk {in_ceph}: read straight from Ceph, which tells what changes"),
            ]
            ((level, why),) = told.about(shared)
            assert (level, f"has no image volume-{shared}@snapshot-" in why) == ("WARNING", True)
            for disk, truth in origin.truth.items():
                assert await content(source, first, disk) == truth
            old = bytes(origin.truth[in_ceph])
            await source.delete_snapshot(origin.instance, FIRST)
            (kept,) = await asyncio.to_thread(lambda: list(openstack_ceph.sdk.block_storage.snapshots()))
            assert kept.volume_id == in_ceph
            assert ceph.snapshots() == [f"volume-{in_ceph}@snapshot-{kept.id}"]
            assert await source.find_snapshots(origin.instance) == [FIRST]
            for disk in origin.truth:
                origin.write(disk, 3 * BLOCK, BLOCK, 0x44)
            second = await source.create_snapshot(origin.instance, SECOND, FIRST)
            with pytest.raises(ChangeLogLost):
                await changed(source, FIRST, second, shared)
            (extent,) = await changed(source, FIRST, second, in_ceph)
            assert (extent.offset, extent.length) == (3 * BLOCK, BLOCK)
            for disk, truth in origin.truth.items():
                assert await content(source, second, disk) == truth
            assert bytes(origin.truth[in_ceph]) != old
        finally:
            await clean_up(source, origin.instance)


async def test_a_key_that_does_not_serve_costs_nothing_but_speed(mixed: tuple[Origin, Told]) -> None:
    origin, told = mixed
    shared, in_ceph = origin.truth
    wrong = {**origin.connection_info["ceph"], "user": "nobody"}
    info = {**origin.connection_info, "ceph": wrong}
    async with origin.provider.connect(info, origin.surroundings) as connection:
        assert isinstance(connection.inventory, ExaminesInstances)
        findings = await connection.inventory.examine(origin.instance)
        said = [str(one) for one in findings if one.code == "not_read_from_ceph"]
        assert len(said) == 2
        assert all("refuses client.nobody: check ceph.user and ceph.key" in one for one in said)
        source = source_of(connection)
        try:
            snapshot = await source.create_snapshot(origin.instance, FIRST, None)
            assert not snapshot.change_base
            assert [level for level, _ in told.about(shared) + told.about(in_ceph)] == ["WARNING", "WARNING"]
            assert await content(source, snapshot, shared) == origin.truth[shared]
            await source.delete_snapshot(origin.instance, FIRST)
            assert await source.find_snapshots(origin.instance) == []
        finally:
            await clean_up(source, origin.instance)
    assert not any(wrong["key"] in message for _, message in told.all)


async def test_a_snapshot_that_somebody_removes_while_it_is_read(
    openstack_ceph: Any, ceph_cloud: tuple[Cloud, Ceph], tmp_path: Path
) -> None:
    """Of bytes that may be zeros nothing is said to be whole."""
    origin: Origin = openstack_ceph.origin("volumes", tmp_path)
    disk = next(iter(origin.truth))
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        source = source_of(connection)
        try:
            snapshot = await source.create_snapshot(origin.instance, FIRST, None)

            async def read() -> None:
                async with source.open_reader(snapshot, disk) as reader:
                    await reader.read_at(0, 4096)
                    for one in await asyncio.to_thread(lambda: list(openstack_ceph.sdk.block_storage.snapshots())):
                        await asyncio.to_thread(openstack_ceph.sdk.delete_volume_snapshot, one.id, wait=True)

            with pytest.raises(NotFound):
                await read()
            again = await source.create_snapshot(origin.instance, FIRST, None)
            assert again.identity != snapshot.identity
            assert msgspec.structs.replace(again, identity="") == msgspec.structs.replace(snapshot, identity="")
        finally:
            await clean_up(source, origin.instance)
    assert left(openstack_ceph.sdk, ceph_cloud[1]) == []


async def test_a_killed_agents_successor_reads_the_same_snapshot(
    openstack_ceph: Any, ceph_cloud: tuple[Cloud, Ceph], tmp_path: Path
) -> None:
    origin: Origin = openstack_ceph.origin("volumes", tmp_path)
    await asyncio.to_thread(killed, origin, "reading", 0.1)
    before = ceph_cloud[1].snapshots()
    assert len(before) == 2
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        source = source_of(connection)
        try:
            snapshot = await source.create_snapshot(origin.instance, NAME, None)
            assert ceph_cloud[1].snapshots() == before
            for disk, truth in origin.truth.items():
                assert await content(source, snapshot, disk) == truth
        finally:
            await source.delete_change_base(origin.instance, NAME)
    assert left(openstack_ceph.sdk, ceph_cloud[1]) == []
