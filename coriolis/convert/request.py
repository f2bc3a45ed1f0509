"""Values of a conversion: what is asked for and what was done."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from coriolis.model.machine import FirmwareType, MachineSpec, OsType


class NicIdentity(msgspec.Struct, frozen=True):
    """``mac``: lower case with colons.

    ``name_hint``: the interface's name in the guest, if the origin knows it.
    """

    mac: str
    name_hint: str = ""


class ConversionRequest(msgspec.Struct, frozen=True):
    """``replica_identity`` changes whenever the replica's content might; it must not be empty.

    ``nics`` in the order of the machine spec. ``target_platform`` is a name in ``platforms.PLATFORMS``.
    """

    os_type: OsType
    target_platform: str
    firmware_type: FirmwareType
    replica_identity: str
    nics: tuple[NicIdentity, ...] = ()


def request_for(spec: MachineSpec, target_platform: str, replica_identity: str) -> ConversionRequest:
    """The request for a machine as its origin describes it; interfaces without a known MAC are left out."""
    nics = tuple(NicIdentity(nic.mac_address.lower(), nic.name) for nic in spec.devices.nics if nic.mac_address)
    return ConversionRequest(spec.os_type, target_platform, spec.firmware_type, replica_identity, nics)


class ConversionSettings(msgspec.Struct, frozen=True):
    """How to run. ``state_dir`` remembers the accelerator of this machine; None: the work directory does."""

    state_dir: Path | None = None
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    memory_mb: int = 1024


class DiskChange(msgspec.Struct, frozen=True):
    """What conversion wrote to one disk: ``data_bytes`` of content, ``zero_bytes`` as zero ranges."""

    disk_index: int
    extents: int
    data_bytes: int
    zero_bytes: int


class ConversionSummary(msgspec.Struct, frozen=True):
    """``pins``: (MAC, interface name) written.

    ``seconds``: of the conversion itself, without writing back.
    """

    distribution: str
    kernel_versions: tuple[str, ...]
    modules: tuple[str, ...]
    pins: tuple[tuple[str, str], ...]
    accelerator: str
    times: dict[str, float]
    seconds: float


class ConversionResult(msgspec.Struct, frozen=True):
    """``reapplied``: a former run had converted; its delta was written again."""

    disks: tuple[DiskChange, ...]
    summary: ConversionSummary
    messages: tuple[str, ...]
    reapplied: bool = False
