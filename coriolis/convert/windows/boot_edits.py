"""Edits of the SYSTEM and SOFTWARE hives that let Windows find its disk on new hardware. Pure: hive in, edits out.

Made again over a hive that has them, the edits are the same: ``verify`` does that.

What the entries mean is known from virt-v2v's practice (``docs/design/conversion-windows.md``). Windows before 8 looks
a boot device up in ``Control\\CriticalDeviceDatabase``, later ones in ``DriverDatabase``, which lies at the root of the
hive, not in a control set.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from coriolis.convert.windows.origin_agents import Vendor
from coriolis.convert.windows.platform_needs import SCSI_CLASS, BootDriver, WindowsNeeds
from coriolis.convert.windows.registry import (
    DWORD,
    Edit,
    Hive,
    binary,
    dword,
    expand_sz,
    multi_sz,
    remove_key,
    sz,
)

START_BOOT, START_DISABLED = 0, 4
DEVICE_PATH_KEY = r"Microsoft\Windows\CurrentVersion"
DRIVER_PATH = r"%SystemRoot%\Drivers\VirtIO"
_MATCH = b"\x01\xff\x00\x00"
"""Rank of a hardware ID in ``DeviceIds``."""


def boot_driver_edits(control_sets: Sequence[str], driver: BootDriver, driver_database: bool) -> list[Edit]:
    """Service of a storage driver from the pack, and its device IDs where this Windows looks for them."""
    edits: list[Edit] = []
    for control_set in control_sets:
        service = rf"{control_set}\Services\{driver.name}"
        edits += [
            Edit(service, "Type", dword(1)),
            Edit(service, "Start", dword(START_BOOT)),
            Edit(service, "ErrorControl", dword(1)),
            Edit(service, "Group", sz("SCSI miniport")),
            Edit(service, "ImagePath", expand_sz(rf"system32\drivers\{driver.name}.sys")),
            Edit(rf"{service}\Parameters", "BusType", dword(driver.bus_type)),
            Edit(rf"{service}\Parameters\PnpInterface", "5", dword(1)),
            remove_key(rf"{service}\StartOverride"),  # Windows stops an unused boot driver with it
        ]
        if not driver_database:
            devices = [f"PCI#{device}" for device in driver.devices]
            edits += critical_devices(control_set, [(device, driver.name, SCSI_CLASS) for device in devices])
    return edits + (_driver_database(driver) if driver_database else [])


def critical_devices(control_set: str, devices: Iterable[tuple[str, str, str]]) -> list[Edit]:
    """``devices``: (bus and ID joined by ``#``, service, class)."""
    edits = []
    for device, service, class_guid in devices:
        key = rf"{control_set}\Control\CriticalDeviceDatabase\{device}"
        edits += [Edit(key, "Service", sz(service)), Edit(key, "ClassGUID", sz(class_guid))]
    return edits


def _driver_database(driver: BootDriver) -> list[Edit]:
    inf, package, configuration = _database_names(driver.name)
    top = rf"DriverDatabase\DriverPackages\{package}"
    edits = [
        Edit(rf"DriverDatabase\DriverInfFiles\{inf}", "", multi_sz([package])),
        Edit(rf"DriverDatabase\DriverInfFiles\{inf}", "Active", sz(package)),
        Edit(rf"DriverDatabase\DriverInfFiles\{inf}", "Configurations", multi_sz([configuration])),
        Edit(top, "Version", binary(package_version(SCSI_CLASS))),
        Edit(rf"{top}\Configurations\{configuration}", "ConfigFlags", dword(0)),
        Edit(rf"{top}\Configurations\{configuration}", "Service", sz(driver.name)),
    ]
    for device in driver.devices:
        edits += [
            Edit(rf"DriverDatabase\DeviceIds\PCI\{device}", inf, binary(_MATCH)),
            Edit(rf"{top}\Descriptors\PCI\{device}", "Configuration", sz(configuration)),
        ]
    return edits


def _database_names(driver: str) -> tuple[str, str, str]:
    """(INF, package, configuration): names of our own, that no driver installed later takes."""
    inf = f"coriolis_{driver}.inf"
    return inf, f"{inf}_tmp", f"coriolis_{driver}_conf"


def package_version(class_guid: str) -> bytes:
    """The ``Version`` of a driver package: 8 bytes of kind, its class, 24 zero bytes. Windows 10 needs it."""
    return b"\x00\xff\x09\x00\x00\x00\x00\x00" + uuid.UUID(class_guid).bytes_le + bytes(24)


def in_box_edits(
    system: Hive, control_sets: Sequence[str], needs: WindowsNeeds, driver_database: bool
) -> tuple[list[Edit], list[str]]:
    """(edits, services that must be there and are not): drivers of Windows itself, started at boot."""
    edits: list[Edit] = []
    missing = [name for name in needs.in_box if not has_service(system, control_sets[0], name)]
    for control_set in control_sets:
        for name in (*needs.in_box, *needs.in_box_if_there):
            if has_service(system, control_set, name):
                key = rf"{control_set}\Services\{name}"
                edits += [Edit(key, "Start", dword(START_BOOT)), remove_key(rf"{key}\StartOverride")]
        if not driver_database:
            edits += critical_devices(control_set, needs.in_box_devices)
    return edits, missing


def agent_edits(system: Hive, control_sets: Sequence[str], vendors: Iterable[Vendor]) -> list[Edit]:
    """The services of origin platforms are not started any more; their storage drivers stay as they are."""
    return [
        Edit(rf"{control_set}\Services\{name}", "Start", dword(START_DISABLED))
        for vendor in vendors
        for control_set in control_sets
        for name in vendor.services
        if has_service(system, control_set, name)
    ]


def crash_edits(control_sets: Sequence[str]) -> list[Edit]:
    """A machine that does not start shows why, instead of starting again for ever."""
    return [Edit(rf"{one}\Control\CrashControl", "AutoReboot", dword(0)) for one in control_sets]


def device_path_edit(software: Hive) -> Edit:
    """Windows looks for drivers of new devices beside its own INFs in the directory they were copied to."""
    path = software.text(DEVICE_PATH_KEY, "DevicePath") or r"%SystemRoot%\inf"
    if DRIVER_PATH.lower() not in (one.strip().lower() for one in path.split(";")):
        path = f"{path.rstrip(';')};{DRIVER_PATH}"
    return Edit(DEVICE_PATH_KEY, "DevicePath", expand_sz(path))


def has_service(system: Hive, control_set: str, name: str) -> bool:
    """A service with a start type: a key alone may be left by anything."""
    value = system.get(rf"{control_set}\Services\{name}", "Start")
    return value is not None and value.kind == DWORD
