"""Images through the whole mesh: REST's gRPC back end, elected coordinator, two agents, chunks over mTLS."""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from coriolis.rpc.gen.coriolis.v1 import job_pb2
from coriolis.transfer.cells import CELL_BYTES
from coriolis.transfer.codec import HEADER_BYTES
from tests.fault.mesh import Mesh, endpoint, summary

MIB = 1 << 20
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with Mesh(tmp_path_factory.mktemp("mesh")) as running:
        yield running


def write_disk(path: Path, size: int, data: list[tuple[int, int]], seed: int = 1) -> None:
    """A sparse raw file with random bytes at the given (offset, length) ranges."""
    rng = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length in data:
            file.seek(offset)
            file.write(rng.randbytes(length))


def describe(folder: Path, name: str, disks: list[tuple[str, str]]) -> None:
    lines = [f'name = "{name}"', "num_cpu = 1", "memory_mb = 512"]
    for file, kind in disks:
        lines += ["[[disks]]", f'file = "{file}"', f'format = "{kind}"']
    lines += ["[[nics]]", 'network_name = "VM Network"', 'mac_address = "52:54:00:00:00:01"']
    (folder / f"{name}.toml").write_text("\n".join(lines) + "\n")


def sha256(path: Path, size: int | None = None) -> str:
    """Of the first ``size`` bytes; what follows must be zero."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = size if size is not None else path.stat().st_size
        while left:
            block = file.read(min(left, MIB))
            digest.update(block)
            left -= len(block)
        assert not any(file.read())
    return digest.hexdigest()


def qemu_convert(raw: Path, made: Path, kind: str, options: list[str]) -> None:
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", kind, *options, str(raw), str(made)], check=True)


def qemu_to_raw(image: Path, raw: Path, kind: str) -> None:
    subprocess.run(["qemu-img", "convert", "-f", kind, "-O", "raw", str(image), str(raw)], check=True)


def request(
    origin: Path, destination: Path, instances: list[str], **environment: object
) -> job_pb2.CreateMigrationRequest:
    return job_pb2.CreateMigrationRequest(
        origin=endpoint("image", {"path": str(origin)}),
        destination=endpoint("image", {"path": str(destination)}, {"network_map": {"VM Network": "x"}, **environment}),
        instances=instances,
        skip_os_morphing=True,
        replication_count=1,
    )


CASES: dict[str, tuple[int, list[tuple[int, int]]]] = {
    "one-mib-minus-one": (MIB - 1, [(0, MIB - 1)]),
    "one-mib": (MIB, [(0, MIB)]),
    "one-mib-plus-one": (MIB + 1, [(5, 70000), (MIB, 1)]),
    "sparse": (300 * MIB, [(3 * MIB + 77, 5 * MIB), (128 * MIB, 4096), (300 * MIB - 512, 512)]),
    "full": (64 * MIB, [(0, 64 * MIB)]),
    "all-zero": (100 * MIB, []),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_raw_disk_arrives_byte_for_byte(mesh: Mesh, tmp_path: Path, case: str) -> None:
    size, data = CASES[case]
    origin, destination = tmp_path / "a", tmp_path / "b"
    origin.mkdir()
    destination.mkdir()
    write_disk(origin / "disk.img", size, data)
    describe(origin, "vm", [("disk.img", "raw")])
    migration = await mesh.wait(await mesh.migrate(request(origin, destination, ["vm"])))
    assert migration.status == "COMPLETED", summary(migration)
    made = destination / "vm.disks" / "disk-0.raw"
    assert sha256(made, size) == sha256(origin / "disk.img")
    [disk] = migration.disks
    assert disk.sealed
    assert disk.done_bytes == disk.total_bytes
    # on the wire: the blocks that hold data, and a header for each cell or run of zeros
    frames = -(-size // CELL_BYTES) if data else 1
    assert disk.sent_bytes <= sum(length for _, length in data) + len(data) * 2 * 65536 + frames * HEADER_BYTES


async def test_an_empty_disk_of_100_gib_takes_seconds_and_sends_nothing(mesh: Mesh, tmp_path: Path) -> None:
    origin, destination = tmp_path / "a", tmp_path / "b"
    origin.mkdir()
    destination.mkdir()
    write_disk(origin / "disk.img", 100 << 30, [])
    describe(origin, "vm", [("disk.img", "raw")])
    wish = request(origin, destination, ["vm"], allow_overcommit=True)
    migration = await mesh.wait(await mesh.migrate(wish), timeout_s=60)
    assert migration.status == "COMPLETED", summary(migration)
    assert migration.disks[0].sent_bytes < 10 * MIB
    made = destination / "vm.disks" / "disk-0.raw"
    assert made.stat().st_size == 100 << 30
    assert made.stat().st_blocks * 512 < MIB


@pytest.mark.parametrize(("kind", "options"), [("qcow2", []), ("vmdk", ["-o", "subformat=streamOptimized"])])
async def test_three_image_disks_arrive_at_once(mesh: Mesh, tmp_path: Path, kind: str, options: list[str]) -> None:
    origin, destination = tmp_path / "a", tmp_path / "b"
    origin.mkdir()
    destination.mkdir()
    for number in range(3):
        raw = tmp_path / f"{number}.raw"
        write_disk(raw, 40 * MIB, [(number * MIB, 9 * MIB), (30 * MIB, 1000 * number + 1)], seed=number)
        qemu_convert(raw, origin / f"{number}.img", kind, options)
    describe(origin, "vm", [(f"{number}.img", kind) for number in range(3)])
    migration = await mesh.wait(await mesh.migrate(request(origin, destination, ["vm"])))
    assert migration.status == "COMPLETED", summary(migration)
    made = [sha256(destination / "vm.disks" / f"disk-{number}.raw") for number in range(3)]
    assert made == [sha256(tmp_path / f"{number}.raw") for number in range(3)]


@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vhdx"])
async def test_a_raw_disk_arrives_in_the_format_asked_for(mesh: Mesh, tmp_path: Path, kind: str) -> None:
    origin, destination = tmp_path / "a", tmp_path / "b"
    origin.mkdir()
    destination.mkdir()
    write_disk(origin / "disk.img", 20 * MIB, [(MIB, 3 * MIB), (20 * MIB - 512, 512)])
    describe(origin, "vm", [("disk.img", "raw")])
    migration = await mesh.wait(await mesh.migrate(request(origin, destination, ["vm"], format=kind)))
    assert migration.status == "COMPLETED", summary(migration)
    raw = tmp_path / "back.raw"
    qemu_to_raw(destination / "vm.disks" / f"disk-0.{kind}", raw, kind)
    assert sha256(raw, 20 * MIB) == sha256(origin / "disk.img")


async def test_a_missing_instance_fails_alone(mesh: Mesh, tmp_path: Path) -> None:
    origin, destination = tmp_path / "a", tmp_path / "b"
    origin.mkdir()
    destination.mkdir()
    write_disk(origin / "disk.img", MIB, [(0, 100)])
    describe(origin, "good", [("disk.img", "raw")])
    migration = await mesh.wait(await mesh.migrate(request(origin, destination, ["good", "absent"])))
    assert migration.status == "ERROR"
    states = {(task.instance, task.task_type): task for task in migration.tasks}
    assert states["good", "FINALIZE_INSTANCE_DEPLOYMENT"].status == "COMPLETED"
    assert "absent" in states["absent", "GET_INSTANCE_INFO"].exception_details
    assert not migration.residue


async def test_a_disk_that_does_not_fit_is_refused_with_sizes_and_leaves_nothing(mesh: Mesh, tmp_path: Path) -> None:
    origin, destination = tmp_path / "a", tmp_path / "b"
    origin.mkdir()
    destination.mkdir()
    write_disk(origin / "disk.img", 10 * MIB, [(0, 100)])
    describe(origin, "vm", [("disk.img", "raw")])
    migration = await mesh.wait(await mesh.migrate(request(origin, destination, ["vm"], max_disk_bytes=MIB)))
    assert migration.status == "ERROR", summary(migration)
    message = " ".join(task.exception_details for task in migration.tasks)
    assert str(10 * MIB) in message
    assert str(MIB) in message
    assert not [path for path in destination.rglob("*") if path.is_file()]
