"""A running server whose volumes are in a real Ceph leaves through the whole mesh in two passes."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("openstack")
from tests.fault.mesh import Mesh, endpoint, summary
from tests.integration.openstack_guests import MIB, Guests
from tests.integration.test_mesh_openstack_origin import (
    CHANGED,
    READ_LIMIT,
    assert_small_second_pass,
    request,
    says_up,
    write_while_frozen,
)
from tests.lab import guest_domain
from tests.lab.ceph import Ceph
from tests.lab.openstack_site import Cloud

pytestmark = [pytest.mark.lab, pytest.mark.openstack, pytest.mark.ceph, pytest.mark.timeout(900)]

OBJECT = 4 * MIB
"""Of RBD: what was never written before one write into it may be told whole."""


@pytest.fixture(scope="module")
def guests(ceph_cloud: tuple[Cloud, Ceph], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """``pair`` alone: it boots from a volume in Ceph and has another there."""
    made = Guests(ceph_cloud[0], tmp_path_factory.mktemp("guests"), "rbd")
    made.all = (made.pair,)
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def libvirt_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cor-c-"))
    try:
        yield folder
    finally:
        guest_domain.stop_site(folder)
        shutil.rmtree(folder, ignore_errors=True)


async def test_the_second_pass_reads_only_what_changed(
    guests: Guests, ceph_cloud: tuple[Cloud, Ceph], tmp_path: Path, libvirt_folder: Path
) -> None:
    """The agents may attach nothing; the key is nowhere but in their memory."""
    ceph, uri = ceph_cloud[1], await asyncio.to_thread(guest_domain.start_site, libvirt_folder)
    info = guest_domain.connection_info(uri, libvirt_folder)
    destination = endpoint("libvirt", info, {"network_map": {"coriolis-lan": "user"}, "domain_type": "qemu"})
    asked, secret = request(guests, destination, "pair"), ceph.connection_info()
    origin = {**guests.project.connection_info, "ceph": secret}
    asked.origin.CopyFrom(endpoint("openstack", origin))
    folder = tmp_path / "mesh"
    await asyncio.to_thread(guests.run)
    async with Mesh(folder, read_limit=READ_LIMIT) as mesh:
        migration_id = await mesh.migrate(asked)
        migration = await write_while_frozen(mesh, migration_id, guests, 0xC3)
    assert migration.status == "COMPLETED", summary(migration)
    print(summary(migration))
    assert_small_second_pass(migration, guests.all)
    for number, disk_id in enumerate(guests.pair.truth):
        second = next(one for one in migration.disks if (one.disk_id, one.pass_number) == (disk_id, 2))
        writes = sum(disk == number for disk, _ in CHANGED)
        print(f"disk {number}: pass 2 read {second.read_bytes} bytes for {writes} writes")
        assert 0 < second.read_bytes <= writes * (OBJECT + 2 * MIB)
    said = [event.message for task in migration.tasks for event in task.events]
    assert len([one for one in said if "read straight from Ceph" in one]) >= 2, said
    assert guests.leftovers(tmp_path / "staging") == []
    assert ceph.snapshots() == []
    assert guests.status(guests.pair) == "SHUTOFF"
    for number in range(2):
        guests.pair.holds(number, libvirt_folder / "pool" / f"coriolis-{migration_id}-0-disk-{number}")
    await asyncio.to_thread(says_up, libvirt_folder / "console" / "pair-serial0.log", 2)
    shown = json.loads(migration.origin.connection_info_json)["ceph"]
    assert shown == {**secret, "key": "***"}
    written = [path for path in folder.rglob("*") if path.is_file() and secret["key"].encode() in path.read_bytes()]
    assert written == []
