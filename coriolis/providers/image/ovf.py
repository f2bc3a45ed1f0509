"""Reads an OVF descriptor (DMTF DSP0243 1.1, 2.1). Pure; document types and entities are refused."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from xml.parsers import expat

import msgspec

from coriolis.errors import Corrupt, HostileImage, Unsupported
from coriolis.model.machine import FirmwareType, OsType

MAX_ITEMS = 1024
_CPU, _MEMORY, _ETHERNET, _DISK = "3", "4", "10", "17"
_UNITS = re.compile(r"^byte\s*\*\s*(?:2\^(\d{1,2})|(\d{1,12}))$")
_FORMATS = (
    ("vmdk", "vmdk"),
    ("qcow2", "qcow2"),
    ("vhdx", "vhdx"),
    ("vhd", "vpc"),
)


class OvfDisk(msgspec.Struct, frozen=True):
    file: str
    format: str
    size_bytes: int


class OvfNic(msgspec.Struct, frozen=True):
    network_name: str
    mac_address: str | None


class Ovf(msgspec.Struct, frozen=True):
    """What an OVF says of its one virtual system."""

    name: str
    num_cpu: int
    memory_mb: int
    os_type: OsType
    firmware_type: FirmwareType
    disks: tuple[OvfDisk, ...]
    nics: tuple[OvfNic, ...]


def parse_xml(text: bytes) -> ET.Element:
    """The document's root. A document type declaration, which entities need, is refused before anything expands."""

    def refuse(*_: object) -> None:
        raise HostileImage("the OVF descriptor declares a document type; remove it")

    guard = expat.ParserCreate()
    guard.StartDoctypeDeclHandler = refuse
    try:
        guard.Parse(text, True)
        return ET.fromstring(text)
    except (expat.ExpatError, ET.ParseError, RecursionError, ValueError, LookupError) as error:
        raise Corrupt(f"the OVF descriptor is not XML: {error}") from error


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]


def _all(root: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in root.iter() if _local(element.tag) == name][:MAX_ITEMS]


def _get(element: ET.Element, name: str) -> str:
    return next((value for key, value in element.attrib.items() if _local(key) == name), "")


def _child(element: ET.Element, name: str) -> str:
    return next(((child.text or "").strip() for child in element if _local(child.tag) == name), "")


def _positive(text: str, what: str) -> int:
    if not re.fullmatch(r"\d{1,15}", text) or int(text) == 0:
        raise Corrupt(f"the OVF descriptor states {text[:40]!r} as {what}")
    return int(text)


def unit_bytes(text: str) -> int:
    """Bytes per unit: ``byte * 2^20``, ``MegaBytes``; empty means bytes."""
    plain = {"": 1, "byte": 1, "kilobytes": 1 << 10, "megabytes": 1 << 20, "gigabytes": 1 << 30}
    if text.lower() in plain:
        return plain[text.lower()]
    match = _UNITS.match(text)
    if not match:
        raise Corrupt(f"the OVF descriptor has the unknown unit {text[:40]!r}")
    return 1 << int(match[1]) if match[1] else int(match[2])


def _format(uri: str) -> str:
    for part, name in _FORMATS:
        if part in uri.lower():
            return name
    raise Unsupported(f"the OVF states the disk format {uri[:100]!r}, which is not supported")


def _disks(root: ET.Element, items: list[ET.Element]) -> tuple[OvfDisk, ...]:
    files = {_get(file, "id"): file for file in _all(root, "File")}
    disks = {_get(disk, "diskId"): disk for disk in _all(root, "Disk")}
    found = []
    for item in items:
        resource = _child(item, "HostResource")
        if _child(item, "ResourceType") != _DISK or not resource:
            continue
        disk = disks.get(resource.rsplit("/", 1)[-1])
        file = files.get(_get(disk, "fileRef")) if disk is not None else None
        if disk is None or file is None:
            raise Unsupported("the OVF has a disk without a file")
        if _get(file, "compression") not in ("", "identity") or _get(file, "chunkSize") or _get(disk, "parentRef"):
            raise Unsupported("the OVF has a compressed, split or differencing disk: export it as a single file")
        size = _positive(_get(disk, "capacity"), "a disk's capacity") * unit_bytes(
            _get(disk, "capacityAllocationUnits")
        )
        found.append(OvfDisk(_get(file, "href"), _format(_get(disk, "format")), size))
    return tuple(found)


def _nic(item: ET.Element) -> OvfNic:
    address = _child(item, "Address").lower()
    known = re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", address)
    return OvfNic(_child(item, "Connection")[:1024], address if known else None)


def _os_type(root: ET.Element) -> OsType:
    section = next(iter(_all(root, "OperatingSystemSection")), None)
    text = "" if section is None else f"{_get(section, 'osType')} {_child(section, 'Description')}".lower()
    if "windows" in text:
        return "windows"
    if "bsd" in text:
        return "bsd"
    return "solaris" if "solaris" in text else "linux"


def _is_efi(root: ET.Element) -> bool:
    return any(_get(e, "key") == "firmware" and _get(e, "value").lower() == "efi" for e in _all(root, "Config"))


def parse_ovf(text: bytes) -> Ovf:
    """Raises HostileImage, Corrupt, Unsupported with the reason."""
    root = parse_xml(text)
    systems = _all(root, "VirtualSystem")
    if len(systems) != 1:
        raise Unsupported(f"the OVF describes {len(systems)} virtual systems; export one at a time")
    system = systems[0]
    items = [e for e in system.iter() if _local(e.tag) in ("Item", "StorageItem", "EthernetPortItem")][:MAX_ITEMS]
    cpu = next((i for i in items if _child(i, "ResourceType") == _CPU), None)
    memory = next((i for i in items if _child(i, "ResourceType") == _MEMORY), None)
    if cpu is None or memory is None:
        raise Corrupt("the OVF states no processors or no memory")
    memory_bytes = _positive(_child(memory, "VirtualQuantity"), "memory") * unit_bytes(
        _child(memory, "AllocationUnits") or "MegaBytes"
    )
    return Ovf(
        name=(_child(system, "Name") or _get(system, "id"))[:1024],
        num_cpu=_positive(_child(cpu, "VirtualQuantity"), "number of processors"),
        memory_mb=max(1, memory_bytes >> 20),
        os_type=_os_type(system),
        firmware_type="EFI" if _is_efi(system) else "BIOS",
        disks=_disks(root, items),
        nics=tuple(_nic(item) for item in items if _child(item, "ResourceType") == _ETHERNET),
    )
