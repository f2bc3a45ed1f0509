"""From pass to pass: change logs, snapshots of others, administrators and guests at work meanwhile.

vcsim behind the lab's proxy: change tracking, frozen snapshots and all faults are the proxy's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from coriolis.errors import ChangeLogLost, NotFound
from coriolis.model.disk import Extent, Snapshot
from coriolis.providers.base import ExaminesInstances, SnapshotSource
from coriolis.providers.vmware_vsphere import tasks
from tests.integration.vsphere_frozen import (
    FIRST,
    MIB,
    SECOND,
    SIZE,
    WAYS,
    Said,
    connected,
    content,
    disk_of,
    frozen,
    read_all,
    source_of,
)
from tests.lab.vsphere_site import LabDisk, Site


@pytest.fixture
def site(impatient_vsphere: Site) -> Site:
    return impatient_vsphere


async def read_while(source: SnapshotSource, snapshot: Snapshot, happens: Callable[[], None]) -> None:
    """Raises what leaving the reader does."""
    async with source.open_reader(snapshot, disk_of(snapshot)) as reader:
        assert await reader.read_at(0, MIB) == content()[:MIB]
        happens()


@pytest.mark.parametrize("way", WAYS)
async def test_a_snapshot_removed_behind_our_back_is_noticed(site: Site, way: str) -> None:
    """What was read may be of two moments; whoever asked must not take it for the snapshot."""
    name = f"behind {way}"
    async with frozen(site, name, way) as (source, snapshot):
        with pytest.raises(NotFound, match="is gone"):
            await read_while(source, snapshot, lambda: site.remove_snapshot_behind(name, FIRST))
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

        def start_and_stop() -> None:
            site.power("started", True)
            site.power("started", False)

        with pytest.raises(NotFound, match="started meanwhile"):
            await read_while(source, snapshot, start_and_stop)
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


@pytest.mark.parametrize("fault", ["", "GenericVmConfigFault", "SnapshotFault"])
async def test_a_guest_that_cannot_be_quiesced_is_frozen_anyway(site: Site, fault: str) -> None:
    """ "Failed to quiesce the virtual machine" comes as more than one fault."""
    identity = site.add_machine(f"restless{fault}", [content()], running=True, cbt=True)
    if fault:
        site.faults.soap("CreateSnapshot_Task", fault, inner="<reason>Failed to quiesce</reason>" * ("Vm" in fault))
    else:
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
        assert isinstance(inventory, ExaminesInstances)
        found = {one.code: one for one in await inventory.examine(identity)}
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


async def test_a_snapshot_that_a_dead_agent_asked_for_is_removed_when_it_comes(site: Site) -> None:
    """vCenter works on when the agent is gone; the clean-up looked before there was anything to see."""
    identity = site.add_machine("late", [SIZE], running=True)
    async with connected(site, change_tracking="as_is") as dead, connected(site) as another:
        site.vcenter.simulator.command("task_delay", id="CreateSnapshotEx", millis=2000)
        try:
            asked = asyncio.create_task(source_of(dead).create_snapshot(identity, FIRST, None))
            await asyncio.sleep(1)
            assert site.snapshots("late") == [], "it is not there yet"
            await source_of(another).delete_change_base(identity, FIRST)
        finally:
            site.vcenter.simulator.command("task_delay", id="CreateSnapshotEx", millis=0)
        await asyncio.gather(asked, return_exceptions=True)
    assert site.snapshots("late") == []


async def test_a_machine_that_vsphere_works_on_is_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """DRS moves it, or another's backup freezes it: that ends, and is no reason to end a job or to leave a snapshot."""
    monkeypatch.setattr(tasks, "BUSY_POLL_S", 0.05)
    identity = site.add_machine("busy", [SIZE], running=True, cbt=True)
    async with connected(site) as connection:
        source = source_of(connection)
        for method in ("CreateSnapshot_Task", "ReconfigVM_Task", "RemoveSnapshot_Task"):
            site.faults.soap(method, "TaskInProgress", times=3, inner='<task type="Task">task-1</task>')
        snapshot = await source.create_snapshot(identity, FIRST, None)
        assert snapshot.change_base, "its change ids were kept"
        await source.delete_snapshot(identity, FIRST)
        site.faults.soap("ReconfigVM_Task", "TaskInProgress", times=3, inner='<task type="Task">task-1</task>')
        await source.delete_change_base(identity, FIRST)
        assert await source.find_snapshots(identity) == []
        assert connection.power is not None
        site.faults.soap("PowerOffVM_Task", "TaskInProgress", times=3, inner='<task type="Task">task-1</task>')
        await connection.power.power_off(identity)
    assert site.faults.pending() == 0
    assert not site.is_running("busy")


async def test_an_agent_that_died_between_two_snapshots_is_cleaned_up_after(site: Site) -> None:
    identity = site.add_machine("died", [SIZE], running=True)
    site.snapshot("died", f"{FIRST}-stun")
    async with connected(site) as connection:
        source = source_of(connection)
        assert await source.find_snapshots(identity) == [FIRST]
        await source.delete_change_base(identity, FIRST)
    assert site.snapshots("died") == []
