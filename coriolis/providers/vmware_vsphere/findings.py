"""What stands in the way of reading a machine, or costs something: decided from its properties alone. Pure.

Sources: vSphere Web Services API (VirtualMachineConfigInfo, VirtualDisk backings); VMware, "Virtual Disk Development
Kit Programming Guide", changed block tracking and its limits; vSphere's maximum of 32 snapshots in a chain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pyVmomi import vim

from coriolis.model.finding import Finding, Severity
from coriolis.providers.vmware_vsphere.machine_spec import disks_of, kind_of, os_type
from coriolis.providers.vmware_vsphere.transports import datastore_of

FINDING_PROPERTIES = (
    "config.version",
    "config.guestId",
    "config.template",
    "config.changeTrackingEnabled",
    "config.keyId",
    "config.hardware.device",
    "capability.changeTrackingSupported",
    "guest.toolsRunningStatus",
    "guest.toolsVersionStatus2",
    "runtime.powerState",
    "runtime.connectionState",
    "runtime.consolidationNeeded",
)
MAX_CHAIN = 32
MIN_TRACKING_HARDWARE = 7
INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR
_NO_RANGES = {"vsan": "vSAN", "vvol": "a virtual volume"}


def findings(
    properties: Mapping[str, Any], snapshot_depth: int, datastores: Mapping[str, str], *, vddk: bool
) -> list[Finding]:
    """``snapshot_depth``: of the longest chain. ``datastores``: types by name. ``vddk``: whether the agent has it."""
    devices = properties.get("config.hardware.device") or []
    found = [
        *(finding for disk in disks_of(devices) for finding in _of_disk(disk, datastores, vddk=vddk)),
        *_of_connection(properties),
        *_of_controllers(devices),
        *_of_devices(devices),
        *_of_snapshots(properties, snapshot_depth),
        *_of_tracking(properties, snapshot_depth),
        *_of_guest(properties),
    ]
    order = {ERROR: 0, WARNING: 1, INFO: 2}
    return sorted(found, key=lambda one: order[one.severity])


def _of_disk(disk: Any, datastores: Mapping[str, str], *, vddk: bool) -> Iterator[Finding]:
    key, backing = str(disk.key), disk.backing
    kind = kind_of(disk)
    if kind == "raw_mapping":
        virtual = str(getattr(backing, "compatibilityMode", "")) == "virtualMode"
        yield Finding(
            "raw_device_mapping",
            ERROR if not virtual else WARNING,
            f"it maps a LUN ({'virtual' if virtual else 'physical'} compatibility)",
            "only VDDK or an export reads it; check that they may"
            if virtual
            else "snapshots leave it out: convert it to a VMDK (storage migration while off), or copy the LUN itself",
            key,
        )
    elif kind:
        yield Finding(
            "independent_disk",
            ERROR,
            f"it is {kind.replace('_', ' ')}, so snapshots leave it out",
            "set its mode to dependent while the machine is off",
            key,
        )
    if getattr(backing, "keyId", None) is not None:
        yield Finding(
            "encrypted_disk", ERROR, "vSphere encrypts it", "give it a storage policy without encryption", key
        )
    if str(getattr(backing, "sharing", "")) == "sharingMultiWriter":
        yield Finding(
            "shared_disk",
            ERROR,
            "several machines share it (multi-writer), so it is in no snapshot",
            "migrate the cluster's data with its own means, or stop sharing it",
            key,
        )
    file = getattr(backing, "fileName", "") or ""
    place = _NO_RANGES.get(datastores.get(datastore_of(file), "").lower())
    if place and not vddk:
        yield Finding(
            "no_ranges",
            WARNING,
            f"it is on {place}: without VDDK every pass reads all of it by an export",
            "configure vddk_dir on the agent to read only what changed",
            key,
        )


def _of_connection(properties: Mapping[str, Any]) -> Iterator[Finding]:
    """A machine out of reach has no configuration, or an old one: without disks it would seem to be done at once."""
    state = str(properties.get("runtime.connectionState") or "connected")
    if state != "connected":
        yield Finding(
            "not_connected",
            ERROR,
            f"vSphere cannot reach it: it is {state}",
            "bring its host and datastore back, or register the machine again",
        )


def _of_controllers(devices: list[Any]) -> Iterator[Finding]:
    for one in devices:
        if isinstance(one, vim.vm.device.VirtualSCSIController) and str(one.sharedBus) not in ("noSharing", "None", ""):
            yield Finding(
                "shared_bus",
                ERROR,
                f"SCSI controller {one.busNumber} shares its bus ({one.sharedBus}): such a machine has no snapshots",
                "stop bus sharing while the machine is off",
            )


def _of_devices(devices: list[Any]) -> Iterator[Finding]:
    if any(isinstance(one, vim.vm.device.VirtualPCIPassthrough) for one in devices):
        yield Finding(
            "passthrough_device",
            WARNING,
            "it has a PCI passthrough device, which keeps a running machine out of snapshots and does not move",
            "shut the machine down before the migration",
        )
    if any(isinstance(one, vim.vm.device.VirtualTPM) for one in devices):
        yield Finding(
            "virtual_tpm",
            WARNING,
            "it has a virtual TPM, whose secrets stay behind",
            "have the recovery keys of BitLocker or LUKS at hand, or release the disk's key from the TPM first",
        )


def _of_snapshots(properties: Mapping[str, Any], depth: int) -> Iterator[Finding]:
    if depth >= MAX_CHAIN - 1:
        yield Finding("snapshot_limit", ERROR, f"its chain has {depth} snapshots of 32", "delete old snapshots")
    elif depth:
        yield Finding(
            "has_snapshots",
            WARNING,
            f"it has snapshots ({depth} deep): its present state is migrated, and only VDDK or an export can read it",
            "delete snapshots that are not needed, which also lets change tracking be turned on",
        )
    if properties.get("runtime.consolidationNeeded"):
        yield Finding(
            "needs_consolidation", WARNING, "its disks need consolidation", "consolidate them in vSphere first"
        )


def _of_tracking(properties: Mapping[str, Any], depth: int) -> Iterator[Finding]:
    if properties.get("config.template"):
        return
    version = re.fullmatch(r"vmx-(\d{1,3})", str(properties.get("config.version") or ""))
    if properties.get("capability.changeTrackingSupported") is False or (
        version and int(version[1]) < MIN_TRACKING_HARDWARE
    ):
        yield Finding(
            "no_change_tracking",
            WARNING,
            f"its hardware ({properties.get('config.version') or 'of unknown version'}) cannot track changes, so later "
            "passes read all disks and compare",
            "upgrade its hardware to version 7 or later",
        )
    elif not properties.get("config.changeTrackingEnabled"):
        after = " once the snapshots are gone" if depth else ""
        yield Finding(
            "change_tracking_off",
            WARNING if depth else INFO,
            "changed block tracking is off",
            f"it is turned on with the first pass{after}; until then passes compare digests",
        )


def _of_guest(properties: Mapping[str, Any]) -> Iterator[Finding]:
    running = str(properties.get("runtime.powerState")) == "poweredOn"
    if running and str(properties.get("guest.toolsRunningStatus")) != "guestToolsRunning":
        yield Finding(
            "no_tools",
            WARNING,
            "VMware Tools do not run: snapshots are not quiesced and the guest cannot be asked to shut down",
            "install open-vm-tools, or allow power-off (allow_power_off) for the last pass",
        )
    guest_id = str(properties.get("config.guestId") or "")
    if os_type(guest_id) == "other":
        yield Finding(
            "unknown_guest",
            WARNING,
            f"its guest id {guest_id[:60] or '(none)'} names no system that conversion knows",
            "run `coriolis inspect`, which looks at the disks; set the guest id to what is installed",
        )
    elif os_type(guest_id) not in ("linux", "windows"):
        yield Finding(
            "no_conversion",
            WARNING,
            f"{guest_id[:60]} is not converted: it must have drivers for its new hardware already",
            "install them before the migration",
        )
    if properties.get("config.keyId") is not None:
        yield Finding("encrypted_machine", WARNING, "its home files are encrypted", "its NVRAM and vTPM do not move")
