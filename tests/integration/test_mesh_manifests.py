"""What a real migration leaves as proof: checked with nothing but the CA; volumes verified against it, also sampled."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from coriolis.cli.exits import Exit
from coriolis.cli.manifests import check
from coriolis.errors import InvalidInput, NotFound
from coriolis.rpc.gen.coriolis.v1 import job_pb2 as pb
from gateway import translate
from tests.fault.mesh import DOMAIN, PROJECT, Mesh, summary
from tests.integration.mesh_calls import MIB, Sites
from tests.integration.test_mesh_image import describe, write_disk
from tests.integration.test_mesh_requests import volumes

pytestmark = pytest.mark.asyncio(loop_scope="module")
SIZE = 30 * MIB + 512


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with Mesh(tmp_path_factory.mktemp("mesh")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def migrated(mesh: Mesh, tmp_path: Path) -> tuple[Sites, str]:
    """Sites with one machine of one disk, and the id of its finished migration."""
    sites = Sites(tmp_path, SIZE)
    write_disk(sites.origin / "disk.img", SIZE, [(0, 3 * MIB), (20 * MIB + 9, 100)])
    describe(sites.origin, "vm", [("disk.img", "raw")])
    migration = await mesh.wait(await mesh.migrate(sites.request()))
    assert migration.status == "COMPLETED", summary(migration)
    return sites, migration.id


async def manifest(mesh: Mesh, migration_id: str, disk_id: str = "disk-0", instance: str = "") -> pb.Manifest:
    request = pb.GetManifestRequest(project_id=PROJECT, migration_id=migration_id, disk_id=disk_id, instance=instance)
    found: pb.Manifest = (await mesh.call("GetManifest", request)).manifest
    return found


async def verified(mesh: Mesh, migration_id: str, **how_much: Any) -> pb.Verification:
    """Its outcome, within a minute."""
    names = {"project_id": PROJECT, "migration_id": migration_id}
    started = await mesh.call("StartVerification", pb.StartVerificationRequest(**names, **how_much))
    deadline = time.monotonic() + 60
    while True:
        asked = pb.GetVerificationRequest(**names, verification_id=started.verification.id)
        found: pb.Verification = (await mesh.call("GetVerification", asked)).verification
        if found.status != "RUNNING":
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.1)


def checked(path: Path, ca: Path) -> Result:
    return CliRunner().invoke(check, [str(path), "--ca", str(ca), "-o", "json"])


def assert_refused(result: Result, why: str) -> None:
    assert result.exit_code == Exit.DIFFERENT, result.output
    assert why in result.output


async def test_a_migration_leaves_a_manifest_that_the_ca_alone_can_check(
    mesh: Mesh, migrated: tuple[Sites, str], tmp_path: Path
) -> None:
    _, migration_id = migrated
    names = {"project_id": PROJECT, "migration_id": migration_id}
    [listed] = (await mesh.call("ListManifests", pb.ListManifestsRequest(**names))).manifests
    assert (listed.instance, listed.disk_id, listed.size_bytes) == ("vm", "disk-0", SIZE)
    assert (listed.data_cells, listed.zero_cells) == (4, 27)
    assert list(listed.signers) == [f"spiffe://{DOMAIN}/agent/{name}" for name in ("site-a", "site-b")]
    assert not listed.statements
    found = await manifest(mesh, migration_id)
    assert found.root == listed.root
    assert len(found.leaves) == 1
    ca = mesh.dir / "ca" / "ca.pem"
    document = tmp_path / "disk.json"
    document.write_text(json.dumps({"manifest": translate.manifest_detail(found)}))
    result = checked(document, ca)
    assert result.exit_code == Exit.OK, result.output
    [told] = json.loads(result.output)["checked"]
    assert (told["result"], told["root"], told["leaves"]) == ("GOOD", found.root, "all")
    [kept] = mesh.dir.rglob("*.manifest")
    result = checked(kept, ca)
    assert result.exit_code == Exit.OK, result.output
    assert json.loads(result.output)["checked"][0]["root"] == found.root

    changed = translate.manifest_detail(found)
    document.write_text(json.dumps({**changed, "root": "0" * 64}))
    assert_refused(checked(document, ca), "root is shown as")
    document.write_text(json.dumps({**changed, "leaves": ["00" * 32]}))
    assert_refused(checked(document, ca), "do not lead to the root")
    other = mesh.certificate("agent", "site-a")  # a certificate is no CA
    document.write_text(json.dumps(changed))
    assert_refused(checked(document, other.cert), "not issued by the CA")


async def test_a_disk_that_was_not_sealed_has_no_manifest(mesh: Mesh, migrated: tuple[Sites, str]) -> None:
    sites, migration_id = migrated
    for wrong in ({"disk_id": "disk-1"}, {"instance": "vm-2"}):
        with pytest.raises(NotFound, match="Manifest of disk"):
            await manifest(mesh, migration_id, **wrong)
    failed = await mesh.wait(await mesh.migrate(sites.request(instances=["none"])))
    request = pb.ListManifestsRequest(project_id=PROJECT, migration_id=failed.id)
    assert not (await mesh.call("ListManifests", request)).manifests


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


async def test_a_flipped_byte_is_found_whole_and_by_a_sample_that_reads_it(
    mesh: Mesh, migrated: tuple[Sites, str]
) -> None:
    sites, migration_id = migrated
    good = await verified(mesh, migration_id, sample="10MiB")
    assert good.status == "COMPLETED", good
    [disk] = good.disks
    assert (disk.checked_cells, disk.cells, disk.size_bytes) == (10, 31, SIZE)
    assert 9 * MIB < disk.checked_bytes <= 10 * MIB
    assert disk.root == (await manifest(mesh, migration_id)).root
    again = await verified(mesh, migration_id, sample="10MiB", seed=good.seed)
    assert again.seed == good.seed
    assert again.disks == good.disks

    [volume] = volumes(sites.destination, SIZE)
    flip(volume, 12 * MIB + 345)
    bad = await verified(mesh, migration_id)
    assert (bad.status, bad.sample) == ("DIFFERS", ""), bad
    assert list(bad.disks[0].differing_cells) == [12]
    assert bad.disks[0].checked_bytes == SIZE
    for seed in (1, 2, 3, 4):
        found = await verified(mesh, migration_id, sample="50%", seed=seed)
        assert found.status == ("DIFFERS" if seed in SEEDS_WITH_CELL_12 else "COMPLETED"), seed
        assert list(found.disks[0].differing_cells) == ([12] if seed in SEEDS_WITH_CELL_12 else [])
    for wrong in ({"sample": "0%"}, {"sample": "x"}, {"seed": 1}, {"sample": "5%", "seed": 1 << 53}):
        with pytest.raises(InvalidInput):
            await verified(mesh, migration_id, **wrong)


SEEDS_WITH_CELL_12 = {1, 2, 3}


async def test_a_manifest_that_was_changed_at_the_agent_verifies_nothing(
    mesh: Mesh, migrated: tuple[Sites, str]
) -> None:
    _, migration_id = migrated
    [kept] = mesh.dir.rglob(f"{migration_id}/0/*.manifest")
    content = kept.read_bytes()
    kept.write_bytes(content.replace(b"site-a", b"site-z", 1))
    refused = await verified(mesh, migration_id)
    assert refused.status == "ERROR"
    assert "statement" in refused.message or "signature" in refused.message or "names" in refused.message, refused
    kept.write_bytes(content)
    assert (await verified(mesh, migration_id)).status == "COMPLETED"
