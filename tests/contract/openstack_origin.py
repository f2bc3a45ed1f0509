"""OpenStack origins for the contract suite: servers of the lab's real cloud that stay in their firmware.

They are made once and serve all tests; nobody but the tests writes to their disks, so the bytes are known.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openstack.connection

from coriolis.providers.openstack.provider import OpenstackProvider
from coriolis.providers.surroundings import CinderAccess, Surroundings
from tests.contract.case import Origin, make_image, sample_disk
from tests.lab.openstack_site import Account, Cloud

GIB = 1 << 30
FLAVOR = "coriolis-contract"
TIMEOUT_S = 300


class Servers:
    """One project with a server of each kind: ``volumes`` (two), ``image`` (a local root disk), ``mixed`` (two volumes,
    the second one in Ceph).

    With ``ceph`` (of connection_info) volumes are there, and nothing may be attached to read them."""

    def __init__(self, cloud: Cloud, folder: Path, ceph: dict[str, Any] | None = None) -> None:
        self.cloud, self._folder, self._ceph = cloud, folder, ceph
        self._ensure_flavor()
        self.account: Account = cloud.account("member")
        self.sdk: Any = openstack.connection.Connection(session=self.account.session(), region_name=cloud.region)
        self._made: dict[str, tuple[str, dict[str, bytearray]]] = {}

    def _ensure_flavor(self) -> None:
        admin = openstack.connection.Connection(session=self.cloud.admin.session(), region_name=self.cloud.region)
        if admin.compute.find_flavor(FLAVOR) is None:
            admin.compute.create_flavor(name=FLAVOR, vcpus=1, ram=64, disk=1)

    def image(self, seed: int) -> tuple[Any, bytearray]:
        """(image of Glance, its content)."""
        content, path = sample_disk(seed, GIB), self._folder / f"{seed}.qcow2"
        make_image(path, bytes(content), "qcow2")
        made = self.sdk.create_image(
            f"seed-{seed}",
            filename=str(path),
            disk_format="qcow2",
            container_format="bare",
            wait=True,
            timeout=TIMEOUT_S,
        )
        return made, content

    def volume(self, image: Any, kind: str = "") -> Any:
        kind = kind or ("rbd" if self._ceph else "nfs")
        return self.sdk.create_volume(1, image=image.id, volume_type=kind, wait=True, timeout=TIMEOUT_S)

    def server(self, kind: str) -> tuple[str, dict[str, bytearray]]:
        """(id, content by disk), made at the first call."""
        if kind not in self._made:
            mixed = ("nfs", "rbd") if kind == "mixed" else ("", "")
            self._made[kind] = self._image() if kind == "image" else self._volumes(*mixed)
        return self._made[kind]

    def _start(self, **boot: Any) -> Any:
        return self.sdk.create_server(
            f"origin-{len(self._made)}",
            flavor=FLAVOR,
            network="private",
            wait=True,
            auto_ip=False,
            timeout=TIMEOUT_S,
            **boot,
        )

    def _volumes(self, *kinds: str) -> tuple[str, dict[str, bytearray]]:
        images = [self.image(1), self.image(2)]
        volumes = [self.volume(image, kind) for (image, _), kind in zip(images, kinds, strict=True)]
        server = self._start(boot_volume=volumes[0].id)
        self.sdk.attach_volume(server, volumes[1], wait=True, timeout=TIMEOUT_S)
        return server.id, {volume.id: content for volume, (_, content) in zip(volumes, images, strict=True)}

    def _image(self) -> tuple[str, dict[str, bytearray]]:
        image, content = self.image(3)
        return self._start(image=image.id).id, {"root": content}

    def origin(self, kind: str, folder: Path) -> Origin:
        server_id, truth = self.server(kind)

        def write(disk: str, offset: int, length: int, pattern: int) -> None:
            guest_write(self.cloud, server_id, disk, offset, length, pattern)
            truth[disk][offset : offset + length] = bytes([pattern]) * length

        access = CinderAccess(("nfs",), self.cloud.home / "mnt" / "cinder") if self._ceph is None else None
        return Origin(
            OpenstackProvider(),
            {
                "auth_url": self.cloud.auth_url,
                "username": self.account.user,
                "password": self.account.password,
                "project_name": self.account.project,
                **({"ceph": self._ceph} if self._ceph else {}),
            },
            server_id,
            truth,
            write,
            frozenset(truth if self._ceph else ()),
            True,
            Surroundings(staging_dir=folder / "staging", cinder=access),
            GIB,
        )

    def remove(self) -> None:
        for server in list(self.sdk.compute.servers()):
            self.sdk.delete_server(server.id, wait=True, timeout=TIMEOUT_S)
        for volume in list(self.sdk.block_storage.volumes()):
            self.sdk.delete_volume(volume.id, wait=True, timeout=TIMEOUT_S)
        for image in list(self.sdk.image.images(owner=self.account.project_id)):
            self.sdk.delete_image(image.id)


def guest_write(cloud: Cloud, server_id: str, disk: str, offset: int, length: int, pattern: int) -> None:
    """As the guest would, through its device."""
    import xml.etree.ElementTree as ET

    import libvirt
    import libvirt_qemu

    sockets = "/run/openstack-lab-" + hashlib.sha1(str(cloud.home.resolve()).encode()).hexdigest()[:8]
    connection = libvirt.open(f"qemu+unix:///system?socket={sockets}/libvirt/libvirt-sock")
    try:
        domain = connection.lookupByUUIDString(server_id)
        devices = ET.fromstring(domain.XMLDesc(0)).findall("devices/disk")
        found = [one for one in devices if one.findtext("serial", "root") == disk and one.get("device") == "disk"]
        alias = found[0].find("alias")
        assert alias is not None
        path = f"/machine/peripheral/{alias.get('name')}/virtio-backend"
        command = f'qemu-io -d {path} "write -P {pattern} {offset} {length}"'
        mode = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        answer = libvirt_qemu.qemuMonitorCommand(domain, command, mode)
        assert "rror" not in answer, answer
    finally:
        connection.close()


@contextmanager
def openstack_servers(cloud: Cloud, ceph: dict[str, Any] | None = None) -> Iterator[Servers]:
    with tempfile.TemporaryDirectory(prefix="coriolis-contract-") as folder:
        servers = Servers(cloud, Path(folder), ceph)
        try:
            yield servers
        finally:
            servers.remove()
