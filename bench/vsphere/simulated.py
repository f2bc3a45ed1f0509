"""The scene: one vcsim (govmomi's simulator, no proxy of ours), a machine with disks, their flat and exported bytes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim

from bench.images import make_image
from bench.scene import OUT
from coriolis.providers.vmware_vsphere.certificate import tls_context
from coriolis.providers.vmware_vsphere.properties import all_of
from coriolis.providers.vmware_vsphere.tasks import wait
from tests.lab.vcsim import PASSWORD, USER, Simulator, vcsim
from tests.lab.vsphere_machine_spec import LabDisk, devices
from tests.lab.vsphere_phony_stream import stream

NAME = "bench"
SHM = Path("/dev/shm")


class Scene(msgspec.Struct, frozen=True):
    """``exported``: the stream-optimised files that leases serve; ``datastore``: the simulator's folder of them."""

    simulator: Simulator
    size: int
    disks: int
    exported: tuple[Path, ...]
    cookie: str

    @property
    def url(self) -> str:
        return f"https://{self.simulator.host}:{self.simulator.port}"

    def flat_url(self) -> str:
        return f"{self.url}/folder/{NAME}/disk1-flat.vmdk?dcPath=DC0&dsName=LocalDS_0"


@contextmanager
def simulator(logs: Path, *options: str, directory: Path | None = None) -> Iterator[Simulator]:
    """vcsim; what it says of broken connections and the like goes to a file of ``logs``."""
    with (
        (logs / "vcsim.log").open("ab") as log,
        vcsim(*options, directory=directory, stderr=log.fileno()) as running,
    ):
        yield running


@contextmanager
def simulated(size: int, disks: int, logs: Path) -> Iterator[Scene]:
    """A powered-on machine whose disks all hold the bench's realistic image; everything in memory."""
    image = make_image("realistic", size, OUT / "images")
    folder = Path(tempfile.mkdtemp(prefix="bench-vsphere-", dir=SHM))
    try:
        with simulator(logs, "-machines", "0", directory=folder) as running:
            info = running.connection_info()
            instance = SmartConnect(
                host=info["host"], port=info["port"], user=USER, pwd=PASSWORD, sslContext=tls_context(info)
            )
            try:
                exported = _machine(instance.RetrieveContent(), image, size, disks)
                yield Scene(running, size, disks, exported, instance._stub.cookie.split(";")[0])
            finally:
                Disconnect(instance)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _machine(content: object, image: Path, size: int, disks: int) -> tuple[Path, ...]:
    ((_, found),) = list(all_of(content, vim.Datastore, ["info"]))
    ((folder, _),) = [pair for pair in all_of(content, vim.Folder, ["name"]) if pair[1]["name"] == "vm"]
    pool = next(all_of(content, vim.ResourcePool, ["name"]))[0]
    specs = [LabDisk(size=size) for _ in range(disks)]
    config = vim.vm.ConfigSpec(
        name=NAME,
        guestId="debian12_64Guest",
        numCPUs=1,
        memoryMB=64,
        version="vmx-19",
        files=vim.vm.FileInfo(vmPathName=f"[LocalDS_0] {NAME}/{NAME}.vmx"),
        deviceChange=devices(specs, [size] * disks, f"[LocalDS_0] {NAME}"),
    )
    vm = wait(content, folder.CreateVM_Task(config=config, pool=pool))
    wait(content, vm.PowerOnVM_Task())
    directory = Path(found["info"].url) / NAME
    first = directory / "disk1.vmdk"
    with image.open("rb") as source, first.open("wb") as target:
        for piece in stream(lambda at, length: os.pread(source.fileno(), length, at), size, [(0, size)]):
            target.write(piece)
    flat = directory / "disk1-flat.vmdk"
    flat.unlink(missing_ok=True)
    shutil.copyfile(image, flat)
    exported = [first]
    for number in range(2, disks + 1):
        one = directory / f"disk{number}.vmdk"
        one.unlink(missing_ok=True)
        os.link(first, one)
        exported.append(one)
    return tuple(exported)
