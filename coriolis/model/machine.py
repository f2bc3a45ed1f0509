"""The neutral description of a machine: ``export_info`` on the wire (docs/api.md, VM description).

Field names are those of the published interchange document. Unknown keys of a document are ignored on reading.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from coriolis.model.network import CloudConfiguration

OsType = Literal["bsd", "linux", "osx", "solaris", "windows", "other"]
FirmwareType = Literal["BIOS", "EFI"]
PowerState = Literal["running", "stopped", "paused", "unknown"]


class Disk(msgspec.Struct, frozen=True, omit_defaults=True):
    """``size_bytes`` is the virtual size as the guest sees it. ``uuid``: the identity that the guest may see.

    ``kind``: ``raw_mapping``, ``independent_persistent``, ``independent_nonpersistent`` where a disk is not plain.
    """

    id: str
    size_bytes: int
    format: str = "raw"
    unit_number: int = 0
    path: str = ""
    controller_id: str = ""
    storage_backend_identifier: str = ""
    allocation_type: Literal["static", "dynamic"] = "dynamic"
    shareable: bool = False
    uuid: str = ""
    kind: str = ""


class Nic(msgspec.Struct, frozen=True, omit_defaults=True):
    """``mac_address`` is lower case with colons, or None when the origin does not know it.

    ``security_groups``: by name, where a cloud filters packets at the port.
    """

    network_name: str
    mac_address: str | None
    id: str = ""
    name: str = ""
    network_id: str = ""
    ip_addresses: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()


class Controller(msgspec.Struct, frozen=True):
    id: str
    type: str
    bus_number: int = 0


class Devices(msgspec.Struct, frozen=True):
    """All six lists are always present on the wire."""

    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    controllers: tuple[Controller, ...] = ()
    cdroms: tuple[dict[str, Any], ...] = ()
    floppies: tuple[dict[str, Any], ...] = ()
    serial_ports: tuple[dict[str, Any], ...] = ()


class MachineSpec(msgspec.Struct, frozen=True):
    """What an origin knows of an instance and a destination needs to build it again."""

    id: str
    name: str
    num_cpu: int
    memory_mb: int
    os_type: OsType = "linux"
    nested_virtualization: bool = False
    devices: Devices = msgspec.field(default_factory=Devices)
    instance_name: str = ""
    hostname: str = ""
    firmware_type: FirmwareType = "BIOS"
    secure_boot: bool = False
    guest_id: str = ""
    flavor_name: str = ""
    dynamic_memory_enabled: bool = False
    is_template: bool = False
    cores_per_socket: int = 1
    vtpm: bool = False
    power_state: PowerState = "unknown"
    configuration: CloudConfiguration | msgspec.UnsetType = msgspec.UNSET
    """The networks and security groups that it uses, where its cloud describes them."""
    platform_properties: dict[str, str] = {}
    """Of the origin's own kind, such as an OpenStack image's ``hw_disk_bus``: for a destination of the same kind."""


def to_document(spec: MachineSpec) -> dict[str, Any]:
    """The JSON document of ``spec``."""
    document: dict[str, Any] = msgspec.to_builtins(spec)
    return document


def from_document(document: dict[str, Any]) -> MachineSpec:
    """Parse a document; raises ``msgspec.ValidationError`` naming the path of the wrong field."""
    return msgspec.convert(document, MachineSpec)
