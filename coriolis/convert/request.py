"""Values of a conversion: what is asked for and what was done."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from coriolis.model.machine import FirmwareType, MachineSpec, OsType
from coriolis.model.user_scripts import UserScript

Way = Literal["auto", "fast", "full"]
Addressing = Literal["keep", "dhcp"]


class NicIdentity(msgspec.Struct, frozen=True):
    """``mac``: lower case with colons.

    ``name_hint``: the interface's name in the guest, if the origin knows it. ``addressing``: ``keep`` leaves what the
    guest configures, ``dhcp`` replaces it. ``was``: the origin's MAC, where the destination gives another; else empty.
    """

    mac: str
    name_hint: str = ""
    addressing: Addressing = "keep"
    was: str = ""


class ConversionRequest(msgspec.Struct, frozen=True):
    """``replica_identity`` changes whenever the replica's content might; it must not be empty.

    ``nics`` in the order of the machine spec. ``target_platform`` is a name in ``platforms.PLATFORMS``. ``way`` and
    ``package_network`` as in ``plugin.Job``.
    """

    os_type: OsType
    target_platform: str
    firmware_type: FirmwareType
    replica_identity: str
    nics: tuple[NicIdentity, ...] = ()
    way: Way = "auto"
    scripts: tuple[UserScript, ...] = ()
    package_network: bool = False


class ConversionOptions(msgspec.Struct, frozen=True):
    """``conversion`` of a target_environment. ``nics``: addressing by MAC, where it is not that of all.

    ``platform``: a name in ``platforms.PLATFORMS`` instead of the destination provider's own, for images that go on.
    """

    way: Way = "auto"
    addressing: Addressing = "keep"
    nics: dict[str, Addressing] = {}
    platform: str = ""
    package_network: bool = False
    proof_of_boot: bool = False


def request_for(
    spec: MachineSpec,
    target_platform: str,
    replica_identity: str,
    options: ConversionOptions | None = None,
    scripts: Sequence[UserScript] = (),
    macs: Sequence[str] = (),
) -> ConversionRequest:
    """The request for a machine as its origin describes it; interfaces without a known MAC are left out.

    ``macs``: those that the machine will have, in the order of its NICs, where the destination says so beforehand.
    ``ConversionOptions.nics`` names interfaces by the origin's.
    """
    options = options or ConversionOptions()
    origins = [(nic.mac_address or "").lower() for nic in spec.devices.nics]
    nics = tuple(
        NicIdentity(mac, nic.name, options.nics.get(was, options.addressing), was if was != mac else "")
        for nic, was, mac in zip(spec.devices.nics, origins, macs or origins, strict=True)
        if mac
    )
    return ConversionRequest(
        os_type=spec.os_type,
        target_platform=target_platform,
        firmware_type=spec.firmware_type,
        replica_identity=replica_identity,
        nics=nics,
        way=options.way,
        scripts=tuple(scripts),
        package_network=options.package_network,
    )


class ConversionSettings(msgspec.Struct, frozen=True):
    """How to run. ``state_dir`` remembers the accelerator of this machine; None: the work directory does.

    ``bundle_dir`` holds the operator's packages by distribution and version, ``drivers_dir`` what was unpacked from a
    virtio-win ISO. ``passphrases`` open encrypted disks; they are no part of what is saved.
    """

    state_dir: Path | None = None
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    memory_mb: int = 1024
    bundle_dir: Path | None = None
    drivers_dir: Path | None = None
    passphrases: tuple[str, ...] = ()


def is_mac(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", text) is not None


def job_document(request: ConversionRequest, settings: ConversionSettings) -> dict[str, Any]:
    """The fields of ``plugin.Job`` as JSON for the worker."""
    return {
        "platform": request.target_platform,
        "nics": [
            {"mac": nic.mac, "name": nic.name_hint, "addressing": nic.addressing, "was": nic.was}
            for nic in request.nics
        ],
        "efi": request.firmware_type == "EFI",
        "way": request.way,
        "scripts": [msgspec.to_builtins(script) for script in request.scripts],
        "bundle": str(settings.bundle_dir or ""),
        "package_network": request.package_network,
        "passphrases": list(settings.passphrases),
        "drivers": str(settings.drivers_dir or ""),
    }


class DiskChange(msgspec.Struct, frozen=True):
    """What conversion wrote to one disk: ``data_bytes`` of content, ``zero_bytes`` as zero ranges."""

    disk_index: int
    extents: int
    data_bytes: int
    zero_bytes: int


class GuestSystem(msgspec.Struct, frozen=True):
    """What the guest is, as ``plugin.System``."""

    os_type: str
    family: str
    distribution: str
    version: str
    title: str
    architecture: str = ""


class ConversionFacts(msgspec.Struct, frozen=True):
    """What was done, as ``plugin.Facts``."""

    kernel_versions: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    pins: tuple[tuple[str, str], ...] = ()
    way: str = ""
    packages: tuple[str, ...] = ()


class ConversionSummary(msgspec.Struct, frozen=True):
    """``seconds``: of the conversion itself, without writing back."""

    system: GuestSystem
    done: ConversionFacts
    accelerator: str
    times: dict[str, float]
    seconds: float


class ConversionResult(msgspec.Struct, frozen=True):
    """``reapplied``: a former run had converted; its delta was written again."""

    disks: tuple[DiskChange, ...]
    summary: ConversionSummary
    messages: tuple[str, ...]
    reapplied: bool = False
