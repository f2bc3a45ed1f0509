"""What a proof of boot decides: the throw-away domain, and when a console shows that a machine is up."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

pytest.importorskip("libvirt")

from coriolis.model.machine import Devices, Disk, MachineSpec, Nic
from coriolis.model.resource import InstanceRequest, Tag
from coriolis.providers.libvirt.boot_proof import at_prompt, proof_domain, proof_name, screen
from coriolis.providers.libvirt.domain_build import Shape, VolumeFile

JOB = "00000000-0000-4000-8000-000000000001"


def request() -> InstanceRequest:
    devices = Devices(
        disks=(Disk("a", 1 << 30), Disk("b", 1 << 30)), nics=(Nic("lan", "52:54:00:00:00:01"), Nic("dmz", None))
    )
    return InstanceRequest("vm", JOB, Tag(JOB, "0-instance"), MachineSpec("i", "vm", 2, 512, devices=devices), ())


def test_the_throw_away_domain_writes_nowhere_and_reaches_nobody() -> None:
    files = (VolumeFile("/pool/a", "raw"), VolumeFile("/pool/b", "qcow2"))
    root = ET.fromstring(proof_domain(request(), files, Shape("qemu", console_log="/c/log")))
    assert root.findtext("name") == proof_name(request()) != "vm"
    assert root.findtext("uuid") != JOB
    assert root.find("metadata") is None, "no clean-up shall take it for a machine of the job"
    assert [disk.find("transient") is not None for disk in root.iter("disk")] == [True, True]
    interfaces = list(root.iter("interface"))
    assert [link.get("state") for nic in interfaces for link in nic.iter("link")] == ["down", "down"]
    assert [mac.get("address") for mac in root.iter("mac")] == ["52:54:00:00:00:01"], "pins by MAC must hold here too"
    channels = [target.get("name") for channel in root.iter("channel") for target in channel.iter("target")]
    assert channels == ["org.qemu.guest_agent.0"]


@pytest.mark.parametrize(
    ("log", "up"),
    [
        (b"Debian GNU/Linux 12 host ttyS0\r\n\r\nhost login: ", True),
        (b"\x1b[2J\x1b[1;1Hlocalhost login:", True),
        (b"login: host", False),
        (b"[    5.0] audit: login: x\r\n[ OK ] Started", False),
        (b"", False),
        (b"(initramfs) ", False),
    ],
)
def test_a_prompt(log: bytes, up: bool) -> None:
    assert at_prompt(log) is up


def test_a_screen_is_bounded_and_printable() -> None:
    log = b"\x1b]0;title\x07" + b"old\r\n" * 100 + b"\x1b[31mlast\x1b[0m \x00line\r\n"
    shown = screen(log)
    assert shown.endswith("last ?line")
    assert shown.count("\n") == 24
    assert len(screen(b"x" * 100_000)) <= 1000
