"""What goes wrong while an origin is read: expired sessions, refusals, leases that end, broken and silent connections.

vcsim behind the lab's proxy: frozen snapshots, leases' time limits and all faults are the proxy's.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coriolis.errors import CoriolisError
from coriolis.providers.vmware_vsphere import export_lease
from tests.integration.vsphere_frozen import (
    FIRST,
    MIB,
    WAYS,
    Said,
    connected,
    content,
    disk_of,
    frozen,
    read_all,
    source_of,
)
from tests.lab.vsphere_site import Site, vsphere_site


@pytest.fixture
def site(impatient_vsphere: Site) -> Site:
    return impatient_vsphere


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


@pytest.mark.parametrize("fault", ["busy", "expired"])
async def test_a_lease_outlives_a_failed_sign_of_life(site: Site, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Else one hiccup of a vCenter costs a stream of hours, which starts again from its beginning."""
    monkeypatch.setattr(export_lease, "TELL_PROGRESS_S", 0.2)
    site.lease_timeout(1.0)
    site.faults.slow("GET /nfc", 3 * MIB)
    async with (
        frozen(site, f"hiccup {fault}", "export") as (source, snapshot),
        source.open_reader(snapshot, disk_of(snapshot)) as reader,
    ):
        before = site.count("SOAP ExportSnapshot")
        first = await reader.read_at(0, MIB)
        if fault == "busy":
            site.faults.http("SOAP HttpNfcLeaseProgress", 503)
        else:
            site.expire_sessions()
        assert first + (await read_all(reader))[MIB:] == content()
        assert site.count("SOAP ExportSnapshot") == before + 1


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


async def test_a_refusal_takes_no_further_session(site: Site) -> None:
    """A vCenter has some hundreds of sessions; nobody ends one that was left behind."""
    site.faults.http("GET /folder", 403, times=None)
    logins = site.count("SOAP Login ")
    async with (
        frozen(site, "no right", "auto") as (source, snapshot),
        source.open_reader(snapshot, disk_of(snapshot)) as reader,
    ):
        assert await reader.read_at(0, MIB) == content()[:MIB]
    assert site.count("SOAP Login ") == logins + 1


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
