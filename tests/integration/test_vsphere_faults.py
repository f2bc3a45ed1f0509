"""What goes wrong at an origin: expired sessions, refusals, broken and silent connections, administrators at work.

vcsim behind the lab's proxy: change tracking, frozen snapshots, leases' time limits and all faults are the proxy's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coriolis.errors import ChangeLogLost, CoriolisError, NotFound
from coriolis.model.disk import Extent, Snapshot
from coriolis.providers.base import BlockReader, Connection, SnapshotSource
from coriolis.providers.surroundings import Surroundings
from coriolis.providers.vmware_vsphere import export_lease, folder_reader, stream_reader
from coriolis.providers.vmware_vsphere.provider import VsphereProvider
from tests.lab.vsphere_site import LabDisk, Site, vsphere_site

MIB = 1 << 20
SIZE = 12 * MIB
FIRST, SECOND = "coriolis-faults-pass-1", "coriolis-faults-pass-2"
WAYS = ["datastore", "export"]


@pytest.fixture(scope="module")
def running_site() -> Iterator[Site]:
    with vsphere_site() as running:
        yield running


@pytest.fixture
def site(running_site: Site) -> Iterator[Site]:
    running_site.vcenter.folder_locks = "none"
    yield running_site
    running_site.faults.clear()
    running_site.lease_timeout(300)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_reader, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(folder_reader, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(stream_reader, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(export_lease, "STALL_S", 1.0)


def content(seed: int = 7, size: int = SIZE) -> bytes:
    """Random, with holes."""
    chance, disk = random.Random(seed), bytearray(size)
    for at in range(0, size, 3 * MIB):
        disk[at : at + 2 * MIB] = chance.randbytes(2 * MIB)
    return bytes(disk)


class Said(list[str]):
    def hear(self, message: str, level: str = "INFO") -> None:
        self.append(f"{level} {message}")


@asynccontextmanager
async def connected(site: Site, said: Said | None = None, **environment: str) -> AsyncIterator[Connection]:
    hear = said.hear if said is not None else Said().hear
    around = Surroundings(environment=environment, tell=hear)
    async with VsphereProvider().connect(site.connection_info(), around) as connection:
        yield connection


def source_of(connection: Connection) -> SnapshotSource:
    assert connection.snapshots is not None
    return connection.snapshots


async def read_all(reader: BlockReader, step: int = MIB) -> bytes:
    return b"".join([await reader.read_at(at, min(step, reader.size - at)) for at in range(0, reader.size, step)])


@asynccontextmanager
async def frozen(
    site: Site, name: str, way: str, said: Said | None = None
) -> AsyncIterator[tuple[SnapshotSource, Snapshot]]:
    """A new running machine ``name`` with one disk, and a snapshot of it; both end with the context."""
    identity = site.add_machine(name, [content()], running=True)
    async with connected(site, said, disk_transport=way) as connection:
        source = source_of(connection)
        try:
            yield source, await source.create_snapshot(identity, FIRST, None)
        finally:
            for one in (FIRST, SECOND):
                await source.delete_change_base(identity, one)


def disk_of(snapshot: Snapshot) -> str:
    return snapshot.disks[0].disk_id


@pytest.mark.parametrize("way", WAYS)
async def test_a_session_that_expires_while_a_disk_is_read(site: Site, way: str) -> None:
    async with (
        frozen(site, f"expires {way}", way) as (source, snapshot),
        source.open_reader(snapshot, disk_of(snapshot)) as reader,
    ):
        first = await reader.read_at(0, MIB)
        site.expire_sessions()
        site.faults.cut("GET /nfc", 2 * MIB)
        assert first + (await read_all(reader))[MIB:] == content()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", ["busy", "cut", "stall", "slow"])
async def test_a_connection_that_fails_and_recovers(site: Site, way: str, fault: str) -> None:
    pattern = {"datastore": "GET /folder", "export": "GET /nfc"}[way]
    async with (
        frozen(site, f"{fault} {way}", way) as (source, snapshot),
        source.open_reader(snapshot, disk_of(snapshot)) as reader,
    ):
        match fault:
            case "busy":
                site.faults.http(pattern, 503, times=2)
            case "cut":
                site.faults.cut(pattern, MIB // 2, times=2)
            case "stall":
                site.faults.stall(pattern, 5.0, times=1)
            case "slow":
                site.faults.slow(pattern, 8 * MIB, times=None)
        assert await read_all(reader) == content()
        assert fault == "slow" or site.faults.pending() == 0, "the fault happened"


async def test_a_service_that_stays_away_is_an_error_that_can_be_tried_again(site: Site) -> None:
    async with frozen(site, "stays away", "datastore") as (source, snapshot):
        async with source.open_reader(snapshot, disk_of(snapshot)) as reader:
            site.faults.http("GET /folder", 503, times=None)
            with pytest.raises(CoriolisError) as caught:
                await reader.read_at(0, MIB)
            assert caught.value.retryable
            assert "busy (HTTP 503)" in caught.value.message
        site.faults.clear()


async def test_a_lease_is_kept_alive_while_its_stream_is_slow(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_lease, "TELL_PROGRESS_S", 0.2)
    site.lease_timeout(1.0)
    site.faults.slow("GET /nfc", 3 * MIB)
    async with (
        frozen(site, "slow lease", "export") as (source, snapshot),
        source.open_reader(snapshot, disk_of(snapshot)) as reader,
    ):
        before = site.count("SOAP ExportSnapshot")
        assert await read_all(reader) == content()
        assert site.count("SOAP ExportSnapshot") == before + 1
        assert site.count("HttpNfcLeaseProgress") >= 3


async def test_a_lease_that_ended_is_opened_again(site: Site) -> None:
    site.lease_timeout(0.5)
    site.faults.slow("GET /nfc", 4 * MIB, times=1)
    async with (
        frozen(site, "ended lease", "export") as (source, snapshot),
        source.open_reader(snapshot, disk_of(snapshot)) as reader,
    ):
        assert await read_all(reader) == content()


async def test_leases_are_given_back(site: Site) -> None:
    def counts() -> tuple[int, int]:
        ended = site.count("SOAP HttpNfcLeaseComplete") + site.count("SOAP HttpNfcLeaseAbort")
        return site.count("SOAP ExportSnapshot"), ended

    async with frozen(site, "given back", "export") as (source, snapshot):
        before = counts()
        async with source.open_reader(snapshot, disk_of(snapshot)) as reader:
            assert await reader.read_at(0, MIB) == content()[:MIB]
        assert counts() == (before[0] + 1, before[1] + 1)


async def test_refused_extents_are_exported_instead(site: Site) -> None:
    site.vcenter.folder_locks = "chain"
    said = Said()
    async with (
        frozen(site, "refused", "auto", said) as (source, snapshot),
        source.open_reader(snapshot, disk_of(snapshot)) as reader,
    ):
        assert await read_all(reader) == content()
    (event,) = [one for one in said if "read by" in one]
    assert "read by an export lease" in event
    assert "vddk: no vddk_dir is configured" in event
    assert "datastore: " in event


@pytest.mark.parametrize("way", WAYS)
async def test_a_snapshot_removed_behind_our_back_is_noticed(site: Site, way: str) -> None:
    """What was read may be of two moments; whoever asked must not take it for the snapshot."""
    name = f"behind {way}"
    async with frozen(site, name, way) as (source, snapshot):
        with pytest.raises(NotFound, match="is gone"):  # noqa: PT012 - leaving the context is what raises
            async with source.open_reader(snapshot, disk_of(snapshot)) as reader:
                await reader.read_at(0, MIB)
                site.remove_snapshot_behind(name, FIRST)
        with pytest.raises(NotFound):
            [extent async for extent in source.allocated_extents(snapshot, disk_of(snapshot))]
        another = await source.create_snapshot(snapshot.instance_id, FIRST, None)
        assert another.identity != snapshot.identity


async def test_a_stopped_machine_that_is_started_while_it_is_read(site: Site) -> None:
    site.vcenter.folder_locks = "live"
    identity = site.add_machine("started", [content()])
    async with connected(site) as connection:
        source = source_of(connection)
        snapshot = await source.create_snapshot(identity, FIRST, None)
        assert site.snapshots("started") == [], "a machine that is off needs none"
        with pytest.raises(NotFound, match="started meanwhile"):  # noqa: PT012 - leaving the context is what raises
            async with source.open_reader(snapshot, disk_of(snapshot)) as reader:
                assert await reader.read_at(0, MIB) == content()[:MIB]
                site.power("started", True)
                site.power("started", False)
        again = await source.create_snapshot(identity, FIRST, None)
        assert again.identity != snapshot.identity
        async with source.open_reader(again, disk_of(again)) as reader:
            assert await read_all(reader) == content()


@pytest.mark.parametrize("name", ["with spaces", "a/b\\c", "100%", "Größe 東京", "[brackets] + plus & more"])
async def test_names_that_need_care(site: Site, name: str) -> None:
    identity = site.add_machine(name, [LabDisk(content=content())], running=False, directory=name.replace("/", "_"))
    async with connected(site) as connection:
        spec = await connection.inventory.get_instance(name)
        assert (spec.id, spec.name) == (identity, name)
        source = source_of(connection)
        snapshot = await source.create_snapshot(spec.id, FIRST, None)
        async with source.open_reader(snapshot, disk_of(snapshot)) as reader:
            assert await read_all(reader) == content()


async def test_a_machine_renamed_while_it_is_read(site: Site) -> None:
    async with (
        frozen(site, "old name", "datastore") as (source, snapshot),
        source.open_reader(snapshot, disk_of(snapshot)) as reader,
    ):
        site.rename("old name", "new name")
        assert await read_all(reader) == content()


@pytest.mark.parametrize("way", WAYS)
async def test_a_machine_moved_to_another_host_while_it_is_read(site: Site, way: str) -> None:
    """The old host ends its connections; they are opened again."""
    name = f"moved {way}"
    async with (
        frozen(site, name, way) as (source, snapshot),
        source.open_reader(snapshot, disk_of(snapshot)) as reader,
    ):
        first = await reader.read_at(0, MIB)
        site.move(name)
        site.faults.cut({"datastore": "GET /folder", "export": "GET /nfc"}[way], MIB // 2)
        assert first + (await read_all(reader))[MIB:] == content()


async def test_warm_passes_read_what_changed_and_fall_back_when_the_log_is_lost(site: Site) -> None:
    identity = site.add_machine("warm", [content()], running=True)
    said = Said()
    async with connected(site, said) as connection:
        source = source_of(connection)
        first = await source.create_snapshot(identity, FIRST, None)
        assert first.change_base
        assert any("changed block tracking was turned on" in one for one in said)
        await source.delete_snapshot(identity, FIRST)
        site.guest_write("warm", 0, 5 * MIB, b"new" * 1000)
        second = await source.create_snapshot(identity, SECOND, FIRST)
        changed = [extent async for extent in source.changed_extents(FIRST, second, disk_of(second))]
        assert any(extent.offset <= 5 * MIB < extent.end for extent in changed)
        assert sum(extent.length for extent in changed) < MIB
        await source.delete_change_base(identity, FIRST)
        await source.delete_snapshot(identity, SECOND)
        site.reset_tracking("warm")
        third = await source.create_snapshot(identity, "coriolis-faults-pass-3", SECOND)
        with pytest.raises(ChangeLogLost, match="was reset"):
            [extent async for extent in source.changed_extents(SECOND, third, disk_of(third))]
        await source.delete_change_base(identity, SECOND)
        await source.delete_change_base(identity, "coriolis-faults-pass-3")
        assert await source.find_snapshots(identity) == []
        assert site.snapshots("warm") == []


async def test_the_last_pass_of_a_machine_that_was_shut_down_uses_the_log_too(site: Site) -> None:
    site.vcenter.folder_locks = "live"
    identity = site.add_machine("last pass", [content()], running=True)
    async with connected(site) as connection:
        source, power = source_of(connection), connection.power
        assert power is not None
        await source.create_snapshot(identity, FIRST, None)
        await source.delete_snapshot(identity, FIRST)
        site.guest_write("last pass", 0, 7 * MIB, b"late" * 1000)
        assert await power.shut_down(identity, 10)
        second = await source.create_snapshot(identity, SECOND, FIRST)
        assert site.snapshots("last pass") == []
        changed = [extent async for extent in source.changed_extents(FIRST, second, disk_of(second))]
        assert [extent for extent in changed if extent.end > 7 * MIB]
        assert sum(extent.length for extent in changed) < MIB
        async with source.open_reader(second, disk_of(second)) as reader:
            assert await read_all(reader) == site.guest_content("last pass")
        await source.delete_change_base(identity, FIRST)
        await source.delete_change_base(identity, SECOND)


async def test_answers_of_the_log_that_come_in_many_pieces(site: Site) -> None:
    size = 64 * MIB
    identity = site.add_machine("pieces", [LabDisk(size=size)], running=True)
    async with connected(site) as connection:
        source = source_of(connection)
        await source.create_snapshot(identity, FIRST, None)
        await source.delete_snapshot(identity, FIRST)
        written = sorted(random.Random(4).sample(range(0, size, MIB // 8), 150))
        for at in written:
            site.guest_write("pieces", 0, at, b"x" * 512)
        second = await source.create_snapshot(identity, SECOND, FIRST)
        before = site.count("QueryChangedDiskAreas")
        changed = [extent async for extent in source.changed_extents(FIRST, second, disk_of(second))]
        assert site.count("QueryChangedDiskAreas") > before + 2, "one answer did not hold all"
        assert covers(changed, written)
        for one in (FIRST, SECOND):
            await source.delete_change_base(identity, one)


def covers(extents: list[Extent], places: list[int]) -> bool:
    return all(any(extent.offset <= at < extent.end for extent in extents) for at in places)


async def test_a_guest_that_cannot_be_quiesced_is_frozen_anyway(site: Site) -> None:
    identity = site.add_machine("restless", [content()], running=True)
    site.fail_quiesce("restless")
    async with connected(site) as connection:
        source = source_of(connection)
        snapshot = await source.create_snapshot(identity, FIRST, None)
        assert snapshot.disks[0].size_bytes == SIZE
        await source.delete_change_base(identity, FIRST)


async def test_a_machine_with_somebodys_snapshot(site: Site) -> None:
    """Tracking cannot be turned on; the present state is read, and the other's snapshot stays."""
    identity = site.add_machine("theirs", [content()], running=True)
    site.snapshot("theirs", "before the update")
    site.guest_write("theirs", 0, 0, b"after" * 100)
    now = site.guest_content("theirs")
    async with connected(site) as connection:
        inventory, source = connection.inventory, source_of(connection)
        found = {one.code: one for one in await inventory.examine(identity)}  # type: ignore[attr-defined]
        assert {"has_snapshots", "change_tracking_off"} <= found.keys()
        snapshot = await source.create_snapshot(identity, FIRST, None)
        assert not snapshot.change_base
        async with source.open_reader(snapshot, disk_of(snapshot)) as reader:
            assert await read_all(reader) == now
        await source.delete_change_base(identity, FIRST)
    assert site.snapshots("theirs") == ["before the update"]


async def test_a_disk_that_grew_has_its_new_size_in_the_next_snapshot(site: Site) -> None:
    identity = site.add_machine("grows", [content()], running=True)
    async with connected(site) as connection:
        source = source_of(connection)
        await source.create_snapshot(identity, FIRST, None)
        await source.delete_snapshot(identity, FIRST)
        site.grow("grows", 0, SIZE + MIB)
        second = await source.create_snapshot(identity, SECOND, FIRST)
        assert second.disks[0].size_bytes == SIZE + MIB  # the pass then ends with a message (check_same_disks)
        for one in (FIRST, SECOND):
            await source.delete_change_base(identity, one)


async def test_a_stubborn_guest_is_powered_off(site: Site) -> None:
    identity = site.add_machine("stubborn", [SIZE], running=True)
    site.stubborn("stubborn")
    async with connected(site) as connection:
        assert connection.power is not None
        assert not await connection.power.shut_down(identity, 1.0)
        await connection.power.power_off(identity)
        await connection.power.power_off(identity)
        assert await connection.power.power_state(identity) == "stopped"
        await connection.power.start(identity)
        assert site.is_running("stubborn")


async def test_an_agent_that_died_between_two_snapshots_is_cleaned_up_after(site: Site) -> None:
    identity = site.add_machine("died", [SIZE], running=True)
    site.snapshot("died", f"{FIRST}-stun")
    async with connected(site) as connection:
        source = source_of(connection)
        assert await source.find_snapshots(identity) == [FIRST]
        await source.delete_change_base(identity, FIRST)
    assert site.snapshots("died") == []


async def test_a_single_host_without_a_vcenter(tmp_path: Path) -> None:
    with vsphere_site(esx=True) as host:
        host.vcenter.folder_locks = "none"
        identity = host.add_machine("alone", [content()], running=True)
        for way in WAYS:
            async with connected(host, disk_transport=way) as connection:
                assert (await connection.inventory.get_instance("alone")).id == identity
                source = source_of(connection)
                snapshot = await source.create_snapshot(identity, FIRST, None)
                async with source.open_reader(snapshot, disk_of(snapshot)) as reader:
                    assert await read_all(reader) == content()
                await source.delete_change_base(identity, FIRST)


async def test_disks_are_exported_side_by_side_each_by_its_own_lease(site: Site) -> None:
    disks = [content(seed) for seed in range(4)]
    identity = site.add_machine("four", disks, running=True)
    async with connected(site, disk_transport="export") as connection:
        source = source_of(connection)
        snapshot = await source.create_snapshot(identity, FIRST, None)
        before = site.count("SOAP ExportSnapshot")

        async def read(disk: str) -> bytes:
            async with source.open_reader(snapshot, disk) as reader:
                return await read_all(reader)

        assert await asyncio.gather(*(read(disk.disk_id) for disk in snapshot.disks)) == disks
        assert site.count("SOAP ExportSnapshot") == before + 4
        await source.delete_change_base(identity, FIRST)
