"""Builds the domain XML of a migrated machine. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import msgspec

from coriolis.errors import InvalidInput, Unsupported
from coriolis.model.machine import Nic
from coriolis.model.resource import InstanceRequest
from coriolis.providers.libvirt.domain_xml import NAMESPACE

USER_NETWORK, NO_NETWORK = "user", "none"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PREFIXES = {"virtio": "vd", "sata": "sd", "scsi": "sd", "ide": "hd"}
MAX_DISKS = 26


class VolumeFile(msgspec.Struct, frozen=True):
    path: str
    format: str


class Shape(msgspec.Struct, frozen=True):
    """What the destination environment decides."""

    domain_type: str
    machine: str = "q35"
    disk_bus: str = "virtio"
    nic_model: str = "virtio"
    console_log: str = ""


def network_of(nic: Nic, network_map: dict[str, str]) -> tuple[str, str]:
    """(kind, name) for a NIC: kind is ``network``, ``bridge``, ``user`` or ``none``. Raises InvalidInput."""
    wanted = network_map.get(nic.network_name) or network_map.get(nic.network_id)
    if not wanted:
        raise InvalidInput(f"network_map has no entry for the origin network {nic.network_name!r}")
    if wanted in (USER_NETWORK, NO_NETWORK):
        return wanted, ""
    kind, separator, name = wanted.partition(":")
    if separator and kind in ("network", "bridge") and name:
        return kind, name
    return "network", wanted


def _add_nic(devices: ET.Element, nic: Nic, network_map: dict[str, str], model: str) -> None:
    kind, name = network_of(nic, network_map)
    interface = ET.SubElement(devices, "interface", type="user" if kind == NO_NETWORK else kind)
    if name:
        ET.SubElement(interface, "source", {kind: name})
    if nic.mac_address:
        ET.SubElement(interface, "mac", address=nic.mac_address)
    ET.SubElement(interface, "model", type=model)
    if kind == NO_NETWORK:
        ET.SubElement(interface, "link", state="down")


def _add_disk(devices: ET.Element, index: int, volume: VolumeFile, bus: str) -> None:
    if index >= MAX_DISKS:
        raise Unsupported(f"at most {MAX_DISKS} disks are supported")
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type=volume.format, discard="unmap")
    ET.SubElement(disk, "source", file=volume.path)
    ET.SubElement(disk, "target", dev=_PREFIXES[bus] + _LETTERS[index], bus=bus)
    ET.SubElement(disk, "boot", order=str(index + 1))


def _add_os(root: ET.Element, request: InstanceRequest, machine: str) -> None:
    spec = request.spec
    os_element = ET.SubElement(root, "os")
    if spec.firmware_type == "EFI":
        os_element.set("firmware", "efi")
    ET.SubElement(os_element, "type", arch="x86_64", machine=machine).text = "hvm"
    if spec.firmware_type == "EFI":
        secure = "yes" if spec.secure_boot else "no"
        firmware = ET.SubElement(os_element, "firmware")
        ET.SubElement(firmware, "feature", enabled=secure, name="secure-boot")
        if spec.secure_boot:
            ET.SubElement(firmware, "feature", enabled="yes", name="enrolled-keys")


def _add_features(root: ET.Element, request: InstanceRequest, domain_type: str) -> None:
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if request.spec.firmware_type == "EFI":
        ET.SubElement(features, "smm", state="on" if request.spec.secure_boot else "off")
    # Emulation offers the most a guest may need; KVM the host's own model.
    ET.SubElement(root, "cpu", mode="host-model" if domain_type == "kvm" else "maximum")
    ET.SubElement(root, "clock", offset="localtime" if request.spec.os_type == "windows" else "utc")


def _add_console(devices: ET.Element, log_file: str) -> None:
    serial = ET.SubElement(devices, "serial", type="pty")
    if log_file:
        ET.SubElement(serial, "log", file=log_file, append="on")
    ET.SubElement(serial, "target", port="0")
    console = ET.SubElement(devices, "console", type="pty")
    ET.SubElement(console, "target", type="serial", port="0")
    # where qemu-guest-agent, which conversion provides for, speaks with the host
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")


def build_domain(
    request: InstanceRequest, volumes: tuple[VolumeFile, ...], network_map: dict[str, str], shape: Shape
) -> str:
    """The XML to define. UUID and tag make a second definition recognisable."""
    ET.register_namespace("coriolis", NAMESPACE)
    root = ET.Element("domain", type=shape.domain_type)
    ET.SubElement(root, "name").text = request.name
    ET.SubElement(root, "uuid").text = request.instance_id
    metadata = ET.SubElement(root, "metadata")
    mark = ET.SubElement(metadata, f"{{{NAMESPACE}}}resource", {"tag": str(request.tag)})
    if request.spec.is_template:  # libvirt has no templates: a domain that says that it is one, and is not started
        mark.set("template", "yes")
        ET.SubElement(root, "title").text = "Template"
    ET.SubElement(root, "memory", unit="MiB").text = str(request.spec.memory_mb)
    ET.SubElement(root, "vcpu").text = str(request.spec.num_cpu)
    _add_os(root, request, shape.machine)
    _add_features(root, request, shape.domain_type)
    devices = ET.SubElement(root, "devices")
    if shape.disk_bus == "scsi":
        ET.SubElement(devices, "controller", type="scsi", index="0", model="virtio-scsi")
    for index, volume in enumerate(volumes):
        _add_disk(devices, index, volume, shape.disk_bus)
    for nic in request.spec.devices.nics:
        _add_nic(devices, nic, network_map, shape.nic_model)
    _add_console(devices, shape.console_log)
    video = ET.SubElement(devices, "video")
    ET.SubElement(video, "model", type="vga")
    rng = ET.SubElement(devices, "rng", model="virtio")
    ET.SubElement(rng, "backend", model="random").text = "/dev/urandom"
    return ET.tostring(root, encoding="unicode")
