"""The text form of an instance in an image directory: ``<name>.toml``. Pure."""

from __future__ import annotations

import os
import tomllib
from typing import Annotated, Any

import msgspec
import tomli_w

from coriolis.errors import InvalidInput
from coriolis.model.machine import Devices, Disk, FirmwareType, MachineSpec, Nic, OsType
from coriolis.model.resource import InstanceRequest, Tag

MAX_DESCRIPTION_BYTES = 1 << 20
MAX_DISKS = 64
MAX_NICS = 64
MAX_MEMORY_MB = 64 << 20

Count = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Text = Annotated[str, msgspec.Meta(max_length=1024)]


class DiskEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``file`` is relative to the directory; ``size_bytes``, when given, must be what the image declares."""

    file: Text
    format: Text
    size_bytes: int | None = None


class NicEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    network_name: Text
    mac_address: Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$")] | None = None


class Mark(msgspec.Struct, frozen=True):
    """On instances that we made."""

    instance_id: str
    job_id: str
    role: str

    @property
    def tag(self) -> Tag:
        return Tag(self.job_id, self.role)


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One instance."""

    name: Text
    num_cpu: Count
    memory_mb: Annotated[int, msgspec.Meta(ge=1, le=MAX_MEMORY_MB)]
    os_type: OsType = "linux"
    firmware_type: FirmwareType = "BIOS"
    secure_boot: bool = False
    is_template: bool = False
    hostname: Text = ""
    disks: Annotated[tuple[DiskEntry, ...], msgspec.Meta(max_length=MAX_DISKS)] = ()
    nics: Annotated[tuple[NicEntry, ...], msgspec.Meta(max_length=MAX_NICS)] = ()
    coriolis: Mark | None = None


def parse(text: bytes, where: str) -> Description:
    """Raises InvalidInput that names ``where`` and the field."""
    try:
        description = msgspec.convert(tomllib.loads(text.decode("utf-8")), Description)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise InvalidInput(f"{where} is not an instance description: {error}") from error
    for disk in description.disks:
        check_relative(disk.file, where)
    return description


def check_relative(file: str, where: str) -> None:
    """A disk file is named relative to the directory, without stepping out of it."""
    parts = file.split("/")
    if not file or os.path.isabs(file) or any(part in ("", ".", "..") for part in parts) or "\0" in file:
        raise InvalidInput(f"{where}: disk file {file[:100]!r} must be a plain path inside the directory")


def render(description: Description) -> bytes:
    """The TOML text."""
    document: dict[str, Any] = msgspec.to_builtins(description)
    document = {key: value for key, value in document.items() if value is not None}
    return tomli_w.dumps(document).encode()


def from_request(request: InstanceRequest, files: tuple[DiskEntry, ...], networks: dict[str, str]) -> Description:
    """The description of an instance to make; ``networks`` maps origin to destination names."""
    spec = request.spec
    nics = (NicEntry(networks.get(nic.network_name, nic.network_name), nic.mac_address) for nic in spec.devices.nics)
    return Description(
        name=request.name,
        num_cpu=spec.num_cpu,
        memory_mb=spec.memory_mb,
        os_type=spec.os_type,
        firmware_type=spec.firmware_type,
        secure_boot=spec.secure_boot,
        is_template=spec.is_template,
        hostname=spec.hostname,
        disks=files,
        nics=tuple(nics),
        coriolis=Mark(request.instance_id, request.tag.job_id, request.tag.role),
    )


def disk_id(index: int) -> str:
    """Id of the disk at ``index`` in its description."""
    return f"disk-{index}"


def to_spec(description: Description, instance_id: str, sizes: tuple[int, ...]) -> MachineSpec:
    """The neutral form; ``sizes`` are the disks' virtual sizes."""
    disks = tuple(
        Disk(disk_id(index), size, format=entry.format, unit_number=index, path=entry.file)
        for index, (entry, size) in enumerate(zip(description.disks, sizes, strict=True))
    )
    nics = tuple(
        Nic(nic.network_name, nic.mac_address.lower() if nic.mac_address else None, id=f"nic-{index}")
        for index, nic in enumerate(description.nics)
    )
    return MachineSpec(
        id=instance_id,
        name=description.name,
        num_cpu=description.num_cpu,
        memory_mb=description.memory_mb,
        os_type=description.os_type,
        devices=Devices(disks=disks, nics=nics),
        instance_name=description.name,
        hostname=description.hostname,
        firmware_type=description.firmware_type,
        secure_boot=description.secure_boot,
        is_template=description.is_template,
        power_state="stopped",
    )
