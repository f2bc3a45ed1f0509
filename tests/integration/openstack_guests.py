"""Servers that run in a project of the lab's OpenStack, for migrations to leave from, with disks of known content."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coriolis.providers.openstack.rest import ask, listed
from tests.contract.openstack_destination import NETWORK, Project, connect
from tests.contract.openstack_origin import guest_write
from tests.integration.test_openstack_destination import ROOT, console_says
from tests.lab.openstack_site import Cloud

MIB, GIB = 1 << 20, 1 << 30
FLAVOR = "coriolis-tiny"
TIMEOUT_S = 240
MACS = {"pair": "52:54:00:77:0a:01", "local": "52:54:00:77:0a:02"}
ADDRESSES = {"pair": "10.77.0.41", "local": "10.77.0.42"}
SYSTEM = "ubuntu1404"
"""Phony, on the second disk of ``pair``: it can be looked into. The server boots from the first one."""
DATA_AT, DATA_LENGTH = 1000 * MIB, 16 * MIB
"""Where that disk has what does not compress."""
FREE_AT = 920 * MIB
"""From here on, for 64 MiB, no disk has anything."""


@dataclass(frozen=True)
class Guest:
    """``truth``: a sparse file per disk with what the guest sees now; the disks in the guest's order."""

    name: str
    id: str
    mac: str
    address: str
    truth: dict[str, Path]

    def holds(self, number: int, found: Path) -> None:
        """Assert that a raw file has the bytes of the guest's disk; what is beyond the disk's end must be zeros."""
        wanted = list(self.truth.values())[number]
        command = ["qemu-img", "compare", "-U", "-f", "raw", "-F", "raw", str(wanted), str(found)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{self.name}, disk {number}: {done.stdout}{done.stderr}"


class Guests:
    """Two servers of a project: ``pair`` boots from a volume and has another, ``local`` has its image's local disk."""

    def __init__(self, cloud: Cloud, folder: Path, volume_type: str | None = None) -> None:
        self.cloud, self._folder, self._volume_type = cloud, folder, volume_type
        self.project = Project(cloud)
        self._sdk: Any = self.project.own
        admin: Any = connect(cloud.admin)
        if admin.compute.find_flavor(FLAVOR) is None:
            admin.compute.create_flavor(name=FLAVOR, vcpus=1, ram=128, disk=1)
        maker = [str(ROOT / "tests/lab/make_tiny_guest"), str(folder / "tiny.qcow2"), str(folder / "tiny.raw")]
        subprocess.run(maker, check=True, timeout=120, cwd=ROOT, capture_output=True)
        self._write_data(folder / "data.raw")
        # the guest does not hear the button, so that Nova pulls the plug after this time
        system = self._image("tiny", folder / "tiny.raw", os_shutdown_timeout="2")
        data = self._image("data", folder / "data.raw")
        self._seeds = {system.id, data.id}
        self.pair = self._pair(system, data)
        self.local = self._local(system)
        self.all = (self.pair, self.local)

    def _write_data(self, path: Path) -> None:
        system = path.with_suffix(".system")
        make = [str(ROOT / "tests/lab/make_phony_linux"), "--plain", SYSTEM, str(system)]
        subprocess.run(make, check=True, timeout=120, cwd=ROOT, capture_output=True)
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(system), str(path)], check=True)
        assert path.stat().st_size <= FREE_AT
        with path.open("r+b") as file:
            file.truncate(GIB)
            file.seek(DATA_AT)
            file.write(random.Random(1).randbytes(DATA_LENGTH))

    def _image(self, name: str, raw: Path, **properties: str) -> Any:
        packed = raw.with_suffix(".qcow2")
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-f", "raw", str(raw), str(packed)], check=True)
        about = {"disk_format": "qcow2", "container_format": "bare", "wait": True, "timeout": TIMEOUT_S}
        return self._sdk.create_image(name, filename=str(packed), **about, **properties)

    def _pair(self, system: Any, data: Any) -> Guest:
        about = {"volume_type": self._volume_type, "wait": True, "timeout": TIMEOUT_S}
        made = [self._sdk.create_volume(1, image=one.id, **about) for one in (system, data)]
        server = self._start("pair", boot_volume=made[0].id)
        self._sdk.attach_volume(server, made[1], wait=True, timeout=TIMEOUT_S)
        return self._guest("pair", server.id, {made[0].id: "tiny.raw", made[1].id: "data.raw"})

    def _local(self, system: Any) -> Guest:
        return self._guest("local", self._start("local", image=system.id).id, {"root": "tiny.raw"})

    def _start(self, name: str, **boot: Any) -> Any:
        network = next(one for one in listed(self._sdk, "network", "/networks", "networks") if one["name"] == NETWORK)
        fixed = [{"subnet_id": network["subnets"][0], "ip_address": ADDRESSES[name]}]
        port = {"network_id": network["id"], "mac_address": MACS[name], "fixed_ips": fixed, "name": name}
        made = ask(self._sdk, "network", "POST", "/ports", {"port": port})["port"]
        nics = [{"port-id": made["id"]}]
        about = {"flavor": FLAVOR, "nics": nics, "wait": True, "auto_ip": False, "timeout": TIMEOUT_S}
        return self._sdk.create_server(name, **about, **boot)

    def _guest(self, name: str, server: str, disks: dict[str, str]) -> Guest:
        truth = {}
        for disk, content in disks.items():
            truth[disk] = self._folder / f"{name}-{disk}.raw"
            subprocess.run(["cp", "--sparse=always", str(self._folder / content), str(truth[disk])], check=True)
            with truth[disk].open("r+b") as file:
                file.truncate(GIB)
        return Guest(name, server, MACS[name], ADDRESSES[name], truth)

    def write(self, guest: Guest, number: int, offset: int, length: int, pattern: int) -> None:
        """As the running guest would, through its device."""
        disk, path = list(guest.truth.items())[number]
        guest_write(self.cloud, guest.id, disk, offset, length, pattern)
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([pattern]) * length)

    def status(self, guest: Guest) -> str:
        return str(ask(self._sdk, "compute", "GET", f"/servers/{guest.id}")["server"]["status"])

    def run(self) -> None:
        """Start those that a migration stopped, and wait until all say so on their consoles."""
        for guest in self.all:
            if self.status(guest) == "SHUTOFF":
                ask(self._sdk, "compute", "POST", f"/servers/{guest.id}/action", {"os-start": None})
        for guest in self.all:
            self._until(lambda guest=guest: self.status(guest) == "ACTIVE")
            assert console_says(self.project, guest.id, guest.address), guest.name

    def _until(self, reached: Callable[[], bool]) -> None:
        self.project._until(reached)

    def leftovers(self, staging: Path) -> list[str]:
        """What a migration made here, in whatever state: snapshots, copies, images, attachments, staged files."""
        own, kept = self._sdk, {disk for guest in self.all for disk in guest.truth}
        found = [f"snapshot {one['name']}" for one in listed(own, "block_storage", "/snapshots", "snapshots")]
        volumes = listed(own, "block_storage", "/volumes", "volumes")
        found += [f"volume {one['name']}" for one in volumes if one["id"] not in kept]
        images = listed(own, "image", "/images", "images", {"visibility": "private"})
        found += [f"image {one['name']}" for one in images if one["id"] not in self._seeds]
        held = ask(own, "block_storage", "GET", "/attachments")["attachments"]
        servers = {guest.id for guest in self.all}
        found += [f"attachment of {one['volume_id']}" for one in held if one["instance"] not in servers]
        return found + [f"file {path.name}" for path in staging.rglob("*") if path.is_file()]

    def remove_copy(self, server_id: str) -> None:
        """A server that a migration made in this very project, its volumes and ports."""
        own = self._sdk
        ports = listed(own, "network", "/ports", "ports", {"device_id": server_id})
        ask(own, "compute", "DELETE", f"/servers/{server_id}")
        kept = {disk for guest in self.all for disk in guest.truth}
        self._until(lambda: not [one for one in own.compute.servers() if one.id == server_id])
        for port in ports:
            ask(own, "network", "DELETE", f"/ports/{port['id']}")
        for volume in [one for one in own.block_storage.volumes() if one.id not in kept]:
            own.delete_volume(volume.id, wait=True, timeout=TIMEOUT_S)

    def remove(self) -> None:
        clear_all(self.project)


def clear_all(project: Project) -> None:
    """Also its network, whose DHCP server would go on in a cloud that stays."""
    project.clear()
    for one in listed(project.own, "network", "/networks", "networks", {"project_id": project.account.project_id}):
        ask(project.own, "network", "DELETE", f"/networks/{one['id']}")
