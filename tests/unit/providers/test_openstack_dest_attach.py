"""Volumes attached on this host: windows of exact size, formats as stated, what the operator allows, Nova's way."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openstack")
from coriolis.errors import Conflict, HostileImage, InvalidInput, TimedOut, Unavailable, Unsupported
from coriolis.providers.base import raw_descriptor
from coriolis.providers.block.raw_file import raw_writer
from coriolis.providers.openstack import attachment, brick_program
from coriolis.providers.openstack.attachment import BrickAttacher, Device, NovaAttacher, open_device, stated_format
from coriolis.providers.openstack.brick import Brick, host_label
from coriolis.providers.openstack.cinder_volumes import CinderVolumes, Found
from coriolis.providers.openstack.data_path import attacher_here
from coriolis.providers.openstack.window import window
from coriolis.providers.surroundings import CinderAccess, Surroundings

VOLUME, ME, OTHER = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "abc")


async def test_a_window_ends_where_the_disk_ends(tmp_path: Path) -> None:
    path = tmp_path / "volume"
    path.write_bytes(bytes(8192))
    async with raw_writer(str(path)) as whole:
        disk = window(whole, 5000)
        assert disk.size == 5000
        assert raw_descriptor(disk) == raw_descriptor(whole)
        await disk.write_at(4990, b"0123456789")
        await disk.write_zeroes(4995, 5)
        await disk.flush()
        for offset, length in ((4999, 2), (5000, 1)):
            with pytest.raises(InvalidInput):
                await disk.write_at(offset, b"x" * length)
            with pytest.raises(InvalidInput):
                await disk.write_zeroes(offset, length)
            with pytest.raises(InvalidInput):
                await disk.read_at(offset, length)
        with pytest.raises(InvalidInput, match="cannot hold"):
            window(whole, 8193)
    assert path.read_bytes()[4990:5010] == b"01234" + bytes(15)


async def test_formats_are_as_cinder_states(tmp_path: Path) -> None:
    """A guest that writes a qcow2 header into its raw disk changes nothing; a backing file is refused."""
    raw, qcow2, lying = tmp_path / "raw", tmp_path / "qcow2", tmp_path / "lying"
    for path, options in ((qcow2, []), (lying, ["-o", f"backing_file={raw},backing_fmt=raw"])):
        raw.write_bytes(bytes(1 << 20))
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "1M"]
        await asyncio.to_thread(subprocess.run, argv, check=True)
    raw.write_bytes(qcow2.read_bytes()[:65536] + bytes(1 << 20))
    async with open_device(Device(str(raw), "raw", "nfs", str(tmp_path))) as disk:
        assert disk.size == raw.stat().st_size
    async with open_device(Device(str(qcow2), "qcow2", "nfs", str(tmp_path))) as disk:
        assert disk.size == 1 << 20
        await disk.write_at(7, b"inside")
        await disk.flush()
        assert await disk.read_at(7, 6) == b"inside"
    with pytest.raises(HostileImage):
        async with open_device(Device(str(lying), "qcow2", "nfs", str(tmp_path))):
            pass
    assert stated_format({"format": None}) == "raw"
    with pytest.raises(InvalidInput, match="vmdk"):
        stated_format({"format": "vmdk"})


async def test_a_share_cannot_lead_elsewhere(tmp_path: Path) -> None:
    """The cloud names the file; neither dots nor links leave the mount directory."""
    (tmp_path / "mounts").mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"kept")
    os.symlink(secret, tmp_path / "mounts" / "link")
    for name in ("../secret", "link"):
        for fmt in ("raw", "qcow2"):
            with pytest.raises((Unsupported, Conflict, Unavailable)):
                async with open_device(Device(str(tmp_path / "mounts" / name), fmt, "nfs", str(tmp_path / "mounts"))):
                    pass
    assert secret.read_bytes() == b"kept"


async def test_only_what_the_operator_allows_is_attached(tmp_path: Path) -> None:
    brick = Brick(CinderAccess(("nfs",), tmp_path, python="/nowhere/python"))
    with pytest.raises(Unsupported, match=r"attached by local; this agent's operator allows nfs \(cinder_drivers\)"):
        await brick.connect({"driver_volume_type": "local", "device_path": "/dev/sda"})
    with pytest.raises(Unsupported, match="encrypts"):
        await brick.connect({"driver_volume_type": "nfs", "encrypted": True})
    with pytest.raises(Unsupported, match="cinder_python /nowhere/python cannot be run"):
        await brick.connect({"driver_volume_type": "nfs"})


async def test_an_interpreter_without_os_brick(tmp_path: Path) -> None:
    script = tmp_path / "python"
    said = tmp_path / "said"
    said.write_text(json.dumps({"error": "ModuleNotFoundError: No module named 'os_brick'"}))
    script.write_text(f"#!/bin/sh\ncat >/dev/null\nexec cat {said}\n")
    script.chmod(0o755)
    with pytest.raises(Unsupported, match="install python3-os-brick"):
        await Brick(CinderAccess(("nfs",), tmp_path, str(script))).properties()


def test_volumes_in_ceph_become_block_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """os-brick's connector for RBD gives an object in its own process unless it is told to map the image."""
    made: list[tuple[str, dict[str, Any]]] = []

    class Connector:
        def connect_volume(self, connection: dict[str, Any]) -> dict[str, Any]:
            return {"path": "/dev/rbd/volumes/volume-x"}

    def factory(driver: str, root_helper: None, conn: dict[str, Any], **options: Any) -> Connector:
        made.append((driver, options))
        return Connector()

    privileged = types.SimpleNamespace(default=types.SimpleNamespace(set_client_mode=lambda client: None))
    connector = types.SimpleNamespace(InitiatorConnector=types.SimpleNamespace(factory=factory))
    for name, module in (
        ("os_brick", types.SimpleNamespace(privileged=privileged)),
        ("os_brick.privileged", privileged),
        ("os_brick.initiator", types.SimpleNamespace(connector=connector)),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    for driver in ("rbd", "nfs", "iscsi"):
        order = {"command": "connect", "driver": driver, "connection": {}, "mount_dir": "/mounts"}
        assert brick_program._perform(order) == {"path": "/dev/rbd/volumes/volume-x"}
    assert made == [("rbd", {"do_local_attach": True}), ("nfs", {"nfs_mount_point_base": "/mounts"}), ("iscsi", {})]


class PhonyNova:
    """Stands for a session: one volume, servers that have it, attachments that take a look to happen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.holders: list[str] = []
        self.agents: set[str] = {ME}
        self.calls: list[str] = []
        self.where = "phony"
        monkeypatch.setattr(attachment, "ask", self._ask)
        monkeypatch.setattr(
            attachment, "ask_or_none", lambda cloud, service, path: self._ask(cloud, service, "GET", path)
        )
        monkeypatch.setattr(attachment, "remove", self._remove)

    def _ask(self, cloud: Any, service: str, method: str, path: str, body: Any = None) -> Any:
        if path.startswith("/volumes/"):
            held = [{"server_id": one} for one in self.holders]
            return {"volume": {"status": "in-use" if held else "available", "attachments": held}}
        if method == "POST":
            self.calls.append(f"attach {body['volumeAttachment']['volumeId']}")
            self.holders.append(path.split("/")[2])
            return {}
        metadata = {"coriolis_agent": "yes"} if path.split("/")[2] in self.agents else {}
        return {"server": {"id": path.split("/")[2], "metadata": metadata}}

    async def _remove(self, session: Any, service: str, path: str) -> None:
        self.calls.append(f"detach from {path.split('/')[2][0]}")
        self.holders.remove(path.split("/")[2])

    async def read(self, call: Callable[[Any], Any]) -> Any:
        return call(None)

    change = read

    async def until(self, look: Callable[[Any], Any], timeout_s: float, what: str) -> Any:
        found = look(None)
        assert found is not None, what
        return found


async def test_nova_attaches_and_detaches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a killed agent in another server left attached is taken over; somebody's server keeps its volume."""
    nova = PhonyNova(monkeypatch)
    (tmp_path / f"virtio-{VOLUME[:20]}").write_bytes(bytes(4096))
    attacher = NovaAttacher(nova, ME, tmp_path)  # type: ignore[arg-type]
    nova.holders, nova.agents = [OTHER], {ME, OTHER}
    async with attacher.attached(VOLUME) as device:
        assert nova.holders == [ME]
        assert (device.format, device.driver) == ("raw", "nova")
        async with open_device(device) as disk:
            await disk.write_at(0, b"through nova")
    assert nova.calls == ["detach from c", f"attach {VOLUME}", "detach from b"]
    nova.holders, nova.agents = [OTHER], {ME}
    with pytest.raises(Conflict, match="attached to server"):
        async with attacher.attached(VOLUME):
            pass
    assert nova.holders == [OTHER]


@pytest.mark.parametrize(
    "name",
    [
        f"virtio-{VOLUME[:20]}",
        f"virtio-{VOLUME}",
        f"scsi-0QEMU_QEMU_HARDDISK_{VOLUME}",
        f"scsi-0QEMU_QEMU_HARDDISK_{VOLUME[:20]}",  # virtio-scsi under older machine types
    ],
)
async def test_a_disk_is_found_by_its_serial_cut_or_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr(attachment, "DEVICE_TIMEOUT_S", 0.1)
    (tmp_path / name).write_bytes(bytes(4096))
    (tmp_path / f"virtio-{OTHER[:20]}").write_bytes(bytes(4096))
    attacher = NovaAttacher(PhonyNova(monkeypatch), ME, tmp_path)  # type: ignore[arg-type]
    async with attacher.attached(VOLUME) as device:
        assert device.path == str(tmp_path / name)


async def test_what_a_killed_agent_left_attached_through_nova_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server is the agent's own or another agent's: clean-up and the machine's reservation detach it. A server of
    somebody keeps its volume, and so does every server when this agent cannot attach."""
    nova = PhonyNova(monkeypatch)
    attacher = NovaAttacher(nova, ME)  # type: ignore[arg-type]
    held = Found(VOLUME, "disk", "in-use", 1, "", "", {}, server=ME)
    volumes = CinderVolumes(nova, attacher, lambda *_: None)  # type: ignore[arg-type]
    nova.holders = [ME]
    await volumes.free(held)
    assert nova.holders == []
    nova.holders = [OTHER]
    with pytest.raises(Conflict, match="attached to server"):
        await volumes.free(held)
    with pytest.raises(Conflict, match="attached to server"):
        await CinderVolumes(nova, None, lambda *_: None).free(held)  # type: ignore[arg-type]
    assert nova.holders == [OTHER]


class PhonyCinder:
    """Stands for a session. As Cinder's, a volume's attachments are those that are complete."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attachments: dict[str, dict[str, Any]] = {}
        monkeypatch.setattr(attachment, "ask", self._ask)
        monkeypatch.setattr(
            attachment, "ask_or_none", lambda cloud, service, path: self._ask(cloud, service, "GET", path)
        )
        monkeypatch.setattr(attachment, "remove", self._remove)

    def _ask(self, cloud: Any, service: str, method: str, path: str, body: Any = None, params: Any = None) -> Any:
        if path == "/attachments":
            made = {"id": "made", "connection_info": {"driver_volume_type": "iscsi"}, "complete": False}
            self.attachments["made"] = {**made, "device": body["attachment"]["connector"]["mountpoint"]}
            return {"attachment": made}
        if method == "POST":
            self.attachments[path.split("/")[2]]["complete"] = True
            return {}
        if path == "/attachments/detail":
            return {"attachments": list(self.attachments.values())}
        known = [
            {"attachment_id": one["id"], "device": one["device"]}
            for one in self.attachments.values()
            if one["complete"]
        ]
        return {"volume": {"status": "in-use" if self.attachments else "available", "attachments": known}}

    async def _remove(self, session: Any, service: str, path: str) -> None:
        del self.attachments[path.split("/")[2]]

    async def read(self, call: Callable[[Any], Any]) -> Any:
        return call(None)

    change = read

    async def until(self, look: Callable[[Any], Any], timeout_s: float, what: str) -> Any:
        assert look(None), what


async def test_what_a_failed_connection_left_on_this_host_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log-in at a target that stays would show the next volume of that number under the device of this one."""

    class HalfConnected(Brick):
        def __init__(self) -> None:
            self.done: list[str] = []

        async def properties(self) -> dict[str, Any]:
            return {"mountpoint": host_label()}

        async def connect(self, connection: dict[str, Any]) -> dict[str, Any]:
            self.done.append("connect")
            raise TimedOut("os-brick did not connect within 180 s")

        async def disconnect(self, connection: dict[str, Any], device: dict[str, Any]) -> None:
            self.done.append("disconnect")

    cinder, brick = PhonyCinder(monkeypatch), HalfConnected()
    with pytest.raises(TimedOut):
        async with BrickAttacher(cinder, brick).attached(VOLUME):  # type: ignore[arg-type]
            pass
    assert (brick.done, cinder.attachments) == (["connect", "disconnect"], {})


async def test_where_this_agent_is(tmp_path: Path) -> None:
    class PhonySession:
        def __init__(self, known: bool) -> None:
            self.known = known

        async def read(self, call: Callable[[Any], Any]) -> Any:
            return {"server": {}} if self.known else None

    uuid = tmp_path / "product_uuid"
    nowhere = Surroundings()
    assert await attacher_here(PhonySession(True), nowhere, uuid) is None  # type: ignore[arg-type]
    uuid.write_text("Not a UUID")
    assert await attacher_here(PhonySession(True), nowhere, uuid) is None  # type: ignore[arg-type]
    uuid.write_text(f"{ME.upper()}\n")
    assert await attacher_here(PhonySession(False), nowhere, uuid) is None  # type: ignore[arg-type]
    assert isinstance(await attacher_here(PhonySession(True), nowhere, uuid), NovaAttacher)  # type: ignore[arg-type]
