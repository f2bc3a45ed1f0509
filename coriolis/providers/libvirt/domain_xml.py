"""Reads libvirt's domain XML. Pure; the XML comes from libvirt itself, which never emits a document type."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import msgspec

from coriolis.model.machine import Controller, Devices, Disk, FirmwareType, MachineSpec, Nic, OsType

NAMESPACE = "https://coriolis-mesh.github.io/xmlns/libvirt/1"
"""XML namespace of our metadata element ``resource`` with the attributes ``tag`` and, of templates, ``template``."""
_OSINFO = "http://libosinfo.org/xmlns/libvirt/domain/1.0"

_UNIT_BYTES = {"b": 1, "bytes": 1, "KB": 1000, "k": 1 << 10, "KiB": 1 << 10, "MB": 10**6, "M": 1 << 20,
               "MiB": 1 << 20, "GB": 10**9, "G": 1 << 30, "GiB": 1 << 30, "T": 1 << 40, "TiB": 1 << 40}  # fmt: skip
_OS_BY_ID: tuple[tuple[str, OsType], ...] = (
    ("microsoft.com/win", "windows"),
    ("bsd.org", "bsd"),
    ("solaris", "solaris"),
    ("apple.com", "osx"),
)


class DomainDisk(msgspec.Struct, frozen=True):
    """A disk (not a CD-ROM or floppy). ``kind`` is libvirt's source type; ``source`` a path or pool volume."""

    target: str
    bus: str
    kind: str
    format: str
    source: str = ""
    pool: str = ""
    volume: str = ""
    has_backing: bool = False
    shareable: bool = False


class DomainNic(msgspec.Struct, frozen=True):
    network: str
    mac: str


class Domain(msgspec.Struct, frozen=True):
    """What our code needs of a domain."""

    uuid: str
    name: str
    memory_mb: int
    num_cpu: int
    os_type: OsType
    firmware: FirmwareType
    secure_boot: bool
    disks: tuple[DomainDisk, ...]
    other_targets: tuple[str, ...]
    nics: tuple[DomainNic, ...]
    controllers: tuple[Controller, ...]
    tag: str = ""
    is_template: bool = False


def _disk(element: ET.Element) -> DomainDisk:
    source = element.find("source")
    attributes = {} if source is None else source.attrib
    target, driver = element.find("target"), element.find("driver")
    backing = element.find("backingStore")
    return DomainDisk(
        target="" if target is None else target.get("dev", ""),
        bus="" if target is None else target.get("bus", ""),
        kind=element.get("type", ""),
        format="raw" if driver is None else driver.get("type", "raw"),
        source=attributes.get("file") or attributes.get("dev") or "",
        pool=attributes.get("pool", ""),
        volume=attributes.get("volume", ""),
        has_backing=backing is not None and backing.get("type") is not None,
        shareable=element.find("shareable") is not None,
    )


def _nic(element: ET.Element) -> DomainNic:
    source, mac = element.find("source"), element.find("mac")
    attributes = {} if source is None else source.attrib
    network = attributes.get("network") or attributes.get("bridge") or attributes.get("dev", "")
    return DomainNic(network or element.get("type", ""), "" if mac is None else mac.get("address", "").lower())


def _firmware(os_element: ET.Element | None) -> tuple[FirmwareType, bool]:
    if os_element is None:
        return "BIOS", False
    loader = os_element.find("loader")
    is_pflash = loader is not None and loader.get("type") == "pflash"
    secure = loader is not None and loader.get("secure") == "yes"
    if os_element.get("firmware") == "efi" or is_pflash or os_element.find("nvram") is not None:
        return "EFI", secure
    return "BIOS", False


def _memory_mb(root: ET.Element) -> int:
    memory = root.find("memory")
    if memory is None:
        return 0
    return max(1, int(memory.text or "0") * _UNIT_BYTES.get(memory.get("unit", "KiB"), 1 << 10) >> 20)


def _os_type(root: ET.Element) -> OsType:
    element = root.find(f"metadata/{{{_OSINFO}}}libosinfo/{{{_OSINFO}}}os")
    known = "" if element is None else element.get("id", "").lower()
    return next((os_type for part, os_type in _OS_BY_ID if part in known), "linux")


def parse_domain(text: str) -> Domain:
    """Parse the XML of ``virDomainGetXMLDesc``."""
    root = ET.fromstring(text)
    firmware, secure_boot = _firmware(root.find("os"))
    elements = root.findall("devices/disk")
    is_disk = {id(e): e.get("device", "disk") in ("disk", "lun") for e in elements}
    mark = root.find(f"metadata/{{{NAMESPACE}}}resource")
    controllers = root.findall("devices/controller")
    return Domain(
        uuid=root.findtext("uuid", ""),
        name=root.findtext("name", ""),
        memory_mb=_memory_mb(root),
        num_cpu=int(root.findtext("vcpu", "1")),
        os_type=_os_type(root),
        firmware=firmware,
        secure_boot=secure_boot,
        disks=tuple(_disk(e) for e in elements if is_disk[id(e)]),
        other_targets=tuple(_disk(e).target for e in elements if not is_disk[id(e)]),
        nics=tuple(_nic(e) for e in root.findall("devices/interface")),
        controllers=tuple(
            Controller(f"{c.get('type', '')}-{c.get('index', '0')}", c.get("type", ""), int(c.get("index", "0")))
            for c in controllers
            if c.get("type") in ("scsi", "ide", "sata")
        ),
        tag="" if mark is None else mark.get("tag", ""),
        is_template=mark is not None and mark.get("template") == "yes",
    )


def to_spec(domain: Domain, sizes: dict[str, int], power_state: str) -> MachineSpec:
    """The neutral form. ``sizes`` maps disk targets to virtual sizes in bytes; the target is the disk's id."""
    disks = tuple(
        Disk(
            disk.target,
            sizes[disk.target],
            format=disk.format,
            unit_number=index,
            path=disk.source,
            controller_id=disk.bus,
            storage_backend_identifier=disk.pool,
            shareable=disk.shareable,
        )
        for index, disk in enumerate(domain.disks)
    )
    nics = tuple(Nic(nic.network, nic.mac or None, id=f"nic-{i}") for i, nic in enumerate(domain.nics))
    state = power_state if power_state in ("running", "stopped", "paused") else "unknown"
    return MachineSpec(
        id=domain.uuid,
        name=domain.name,
        num_cpu=domain.num_cpu,
        memory_mb=domain.memory_mb,
        os_type=domain.os_type,
        devices=Devices(disks=disks, nics=nics, controllers=domain.controllers),
        instance_name=domain.name,
        firmware_type=domain.firmware,
        secure_boot=domain.secure_boot,
        is_template=domain.is_template,
        power_state=state,  # type: ignore[arg-type]  # narrowed above
    )
