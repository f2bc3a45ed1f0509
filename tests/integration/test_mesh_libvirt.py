"""A real, running Debian guest moves from one libvirt to another and boots there on virtio."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coriolis.rpc.gen.coriolis.v1 import endpoint_pb2, job_pb2
from tests.fault.mesh import PROJECT, Mesh, endpoint, summary
from tests.lab import guest_domain as lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]
BOOT_TIMEOUT_S = 300
INSPECTION_TIMEOUT_S = 300


@pytest.fixture
def sites() -> Iterator[tuple[Path, Path]]:
    folders = (Path(tempfile.mkdtemp(prefix="cor-a-")), Path(tempfile.mkdtemp(prefix="cor-b-")))
    try:
        yield folders
    finally:
        for folder in folders:
            lab.stop_site(folder)
            shutil.rmtree(folder, ignore_errors=True)


async def test_a_running_guest_migrates_and_boots_on_virtio(tmp_path: Path, sites: tuple[Path, Path]) -> None:
    folder_a, folder_b = sites
    uri_a, uri_b = await asyncio.to_thread(lab.start_site, folder_a), await asyncio.to_thread(lab.start_site, folder_b)
    cached = subprocess.run(  # noqa: ASYNC221  # nothing else runs in this test yet
        [str(lab.LAB / "guest_cache")], check=True, capture_output=True, text=True
    ).stdout.strip()
    disk = folder_a / "pool" / "guest.qcow2"
    shutil.copy(cached, disk)
    disk.chmod(0o600)
    log_a = folder_a / "console" / "origin.log"
    lab.define_guest(uri_a, "src-vm", disk, log_a)
    lab.start_domain(uri_a, "src-vm")
    await asyncio.to_thread(lab.wait_for_login, log_a, BOOT_TIMEOUT_S)

    async with Mesh(tmp_path / "mesh") as mesh:
        request = job_pb2.CreateMigrationRequest(
            origin=endpoint("libvirt", lab.connection_info(uri_a, folder_a), {"shutdown_grace_s": 60}),
            destination=endpoint(
                "libvirt",
                lab.connection_info(uri_b, folder_b),
                {"network_map": {"user": "user"}, "domain_type": "qemu"},
            ),
            instances=["src-vm"],
        )
        await _inspect(mesh, request.origin)
        assert lab.domain_states(uri_a) == {"src-vm": True}
        migration = await mesh.wait(await mesh.migrate(request), timeout_s=600)
    assert migration.status == "COMPLETED", summary(migration)
    print(summary(migration))
    first, second = sorted(migration.disks, key=lambda disk: disk.pass_number)
    assert second.sent_bytes < first.sent_bytes / 2, "the last pass sends only what changed"
    assert lab.domain_states(uri_a) == {"src-vm": False}
    assert lab.domain_states(uri_b) == {"src-vm": True}
    seconds = await asyncio.to_thread(lab.wait_for_login, folder_b / "console" / "src-vm-serial0.log", BOOT_TIMEOUT_S)
    print(f"login prompt on virtio after {seconds:.0f} s")


async def _inspect(mesh: Mesh, origin: endpoint_pb2.Endpoint) -> None:
    """A running machine is looked into without being changed; nothing is left at its origin."""
    started = await mesh.call(
        "StartInspection", job_pb2.StartInspectionRequest(project_id=PROJECT, origin=origin, instance="src-vm")
    )
    inspection_id = started.inspection.id
    async with asyncio.timeout(INSPECTION_TIMEOUT_S):
        while True:
            answer = await mesh.call(
                "GetInspection", job_pb2.GetInspectionRequest(project_id=PROJECT, inspection_id=inspection_id)
            )
            if answer.inspection.status != "RUNNING":
                break
            await asyncio.sleep(1)
    assert answer.inspection.status == "COMPLETED", answer.inspection.message
    found = json.loads(answer.inspection.found_json)
    assert found["system"]["title"].startswith("Debian GNU/Linux 12")
    assert found["convertible"]
    assert {"drivers", "boot-files"} <= {step["name"] for step in found["steps"]}
    print(*answer.inspection.events, sep="\n")
