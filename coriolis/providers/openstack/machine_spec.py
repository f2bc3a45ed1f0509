"""Documents of Nova, Cinder, Glance and Neutron -> ``MachineSpec``. Pure.

Shapes: Compute API reference 2.67 (servers with details), Block Storage API v3 (volumes), Image API v2, Networking API
v2.0 (ports). All of them were seen with the Zed release.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from coriolis.errors import Conflict, NotFound
from coriolis.model.machine import Controller, Devices, Disk, FirmwareType, MachineSpec, Nic, OsType, PowerState
from coriolis.providers.openstack.cloud_errors import printable

GIB = 1 << 30
ROOT_DISK = "root"
"""Id of the disk of a server that was booted from an image; of all others it is the volume's."""
MAX_NAME_CHARS = 255
MAX_PROPERTIES = 64
MAX_CANDIDATES = 10
MAX_DISKS = 256

Document = Mapping[str, Any]

_STATES: dict[str, PowerState] = {
    "ACTIVE": "running",
    "PASSWORD": "running",
    "REBOOT": "running",
    "HARD_REBOOT": "running",
    "PAUSED": "paused",
    "SUSPENDED": "paused",
    "SHUTOFF": "stopped",
    "SHELVED": "stopped",
    "SHELVED_OFFLOADED": "stopped",
}
_OS_TYPES: tuple[tuple[str, OsType], ...] = (
    ("win", "windows"),
    ("bsd", "bsd"),
    ("solaris", "solaris"),
    ("sles", "linux"),
    ("macos", "osx"),
)


class Surrounding(msgspec.Struct, frozen=True):
    """What servers refer to, by id: ``volumes``, ``images`` (those that still exist), names of networks and groups.

    ``ports``: of each server.
    """

    volumes: Mapping[str, Document] = {}
    images: Mapping[str, Document] = {}
    networks: Mapping[str, str] = {}
    groups: Mapping[str, str] = {}
    ports: Mapping[str, list[Document]] = {}


def image_of(server: Document) -> str:
    """Id of the image that the server's root disk was made of; "" when it boots from a volume."""
    image = server.get("image")
    return str(image.get("id", "")) if isinstance(image, Mapping) else ""


def volumes_of(server: Document) -> list[str]:
    """Ids, in no order that means anything."""
    attached = server.get("os-extended-volumes:volumes_attached") or []
    return [str(one["id"]) for one in attached[:MAX_DISKS]]


def power_state_of(server: Document) -> PowerState:
    return _STATES.get(str(server.get("status")), "unknown")


def spec_of(server: Document, around: Surrounding) -> MachineSpec:
    """Disks are in boot order, NICs in the order of the server's addresses."""
    flavor = server.get("flavor") or {}
    extra: Document = flavor.get("extra_specs") or {}
    volumes = ordered_volumes(server, around.volumes)
    properties = _properties(server, volumes, around.images)
    bus = properties.get("hw_disk_bus", "virtio")
    disks = [_root_disk(server, around.images)] if image_of(server) else []
    disks += [_disk(volume, server) for volume in volumes]
    return MachineSpec(
        id=str(server["id"]),
        name=name_of(server),
        num_cpu=int(flavor.get("vcpus") or 1),
        memory_mb=int(flavor.get("ram") or 1),
        os_type=_os_type(properties),
        devices=Devices(
            disks=tuple(
                msgspec.structs.replace(disk, unit_number=unit, controller_id=bus) for unit, disk in enumerate(disks)
            ),
            nics=tuple(_nics(server, around)),
            controllers=(Controller(bus, bus),),
        ),
        instance_name=name_of(server),
        firmware_type=_firmware(properties),
        secure_boot="required" in (properties.get("os_secure_boot"), extra.get("os:secure_boot")),
        guest_id=properties.get("os_distro", ""),
        flavor_name=printable(flavor.get("original_name", ""), MAX_NAME_CHARS),
        cores_per_socket=_number(properties.get("hw_cpu_cores") or extra.get("hw:cpu_cores")),
        vtpm=bool(properties.get("hw_tpm_version") or extra.get("hw:tpm_version")),
        power_state=power_state_of(server),
        platform_properties=properties,
    )


def name_of(thing: Document) -> str:
    """Of anything; its id when it has no name."""
    return printable(thing.get("name") or "", MAX_NAME_CHARS) or str(thing["id"])


# -- disks -----------------------------------------------------------------------------------------------------------


def device_of(volume: Document, server: Document) -> str:
    """Where the server has the volume, e.g. ``/dev/vdb``; "" when Cinder does not know."""
    for one in volume.get("attachments") or []:
        if one.get("server_id") == server["id"]:
            return printable(one.get("device") or "", 64)
    return ""


def ordered_volumes(server: Document, volumes: Mapping[str, Document]) -> list[Document]:
    """By device name; of a server without image the first bootable one goes before all."""
    found = [volumes[one] for one in volumes_of(server) if one in volumes]
    found.sort(key=lambda volume: (*_device_key(device_of(volume, server)), str(volume["id"])))
    if not image_of(server):
        first = next((one for one in found if str(one.get("bootable")).lower() == "true"), None)
        if first is not None:
            found.remove(first)
            found.insert(0, first)
    return found


def _device_key(device: str) -> tuple[bool, int, str]:
    """``vda`` … ``vdz``, then ``vdaa``; without a device last."""
    name = device.removeprefix("/dev/")
    return (not name, len(name), name)


def _disk(volume: Document, server: Document) -> Disk:
    return Disk(
        id=str(volume["id"]),
        size_bytes=int(volume["size"]) * GIB,
        path=device_of(volume, server),
        storage_backend_identifier=printable(volume.get("volume_type") or "", MAX_NAME_CHARS),
        shareable=bool(volume.get("multiattach")),
        uuid=str(volume["id"]),
    )


def root_size(server: Document, images: Mapping[str, Document]) -> int:
    """Bytes of the local root disk: the flavor's, or the image's when the flavor leaves it open. 0: unknown."""
    stated = int((server.get("flavor") or {}).get("disk") or 0) * GIB
    image = images.get(image_of(server), {})
    return stated or int(image.get("virtual_size") or 0) or int(image.get("min_disk") or 0) * GIB


def _root_disk(server: Document, images: Mapping[str, Document]) -> Disk:
    return Disk(id=ROOT_DISK, size_bytes=root_size(server, images))


# -- the rest --------------------------------------------------------------------------------------------------------


def _properties(server: Document, volumes: list[Document], images: Mapping[str, Document]) -> dict[str, str]:
    """``hw_*`` and ``os_*`` of the image, or of the root volume, which keeps them."""
    image = image_of(server)
    source: Document = images.get(image, {})
    if not image and volumes:
        source = volumes[0].get("volume_image_metadata") or {}
    chosen = sorted(
        key for key in source if re.fullmatch(r"(hw|os)_[A-Za-z0-9_]{1,60}", key) and key != "os_hash_value"
    )
    chosen = [key for key in chosen if key not in ("os_hash_algo", "os_hidden")][:MAX_PROPERTIES]
    return {key: printable(source[key], 255) for key in chosen}


def _os_type(properties: Document) -> OsType:
    stated = str(properties.get("os_type") or properties.get("os_distro") or "").lower()
    return next((ours for part, ours in _OS_TYPES if part in stated), "linux")


def _firmware(properties: Document) -> FirmwareType:
    return "EFI" if properties.get("hw_firmware_type") == "uefi" else "BIOS"


def _number(text: object) -> int:
    return int(str(text)) if re.fullmatch(r"[1-9][0-9]{0,3}", str(text or "")) else 1


def _nics(server: Document, around: Surrounding) -> Iterable[Nic]:
    ports = around.ports.get(str(server["id"]), [])
    order = {mac: place for place, mac in enumerate(_macs(server))}
    ports = sorted(ports, key=lambda port: (order.get(_mac(port), len(order)), str(port.get("created_at", ""))))
    for port in ports:
        network = str(port.get("network_id", ""))
        yield Nic(
            network_name=around.networks.get(network, network),
            mac_address=_mac(port) or None,
            id=str(port["id"]),
            name=printable(port.get("name") or "", MAX_NAME_CHARS),
            network_id=network,
            ip_addresses=tuple(printable(one.get("ip_address", ""), 64) for one in port.get("fixed_ips") or []),
            security_groups=tuple(
                sorted(around.groups[one] for one in port.get("security_groups") or [] if one in around.groups)
            ),
        )


def _mac(port: Document) -> str:
    return str(port.get("mac_address") or "").lower()


def _macs(server: Document) -> list[str]:
    """In the order in which Nova has them: of its addresses."""
    listed = [one for addresses in (server.get("addresses") or {}).values() for one in addresses]
    return list(dict.fromkeys(str(one.get("OS-EXT-IPS-MAC:mac_addr", "")).lower() for one in listed))


def choose(candidates: Iterable[Document], wanted: str) -> str:
    """The id of the one server that ``wanted`` names. Raises NotFound, Conflict with the ids to choose from."""
    known = list(candidates)
    found = [one for one in known if one["id"] == wanted] or [one for one in known if one.get("name") == wanted]
    if not found:
        raise NotFound(f"there is no server {printable(wanted, 100)!r} in the project; give its name or id")
    if len(found) > 1:
        ids = ", ".join(str(one["id"]) for one in found[:MAX_CANDIDATES])
        raise Conflict(f"{len(found)} servers are called {printable(wanted, 100)!r}; name one by its id: {ids}")
    return str(found[0]["id"])
