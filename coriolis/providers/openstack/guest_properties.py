"""What Nova is told of the guest by properties of its root volume or image. Pure.

Names and values: Glance, "Useful image properties".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coriolis.errors import InvalidInput
from coriolis.model.machine import MachineSpec

MAX_VIRTIO_DISKS = 20
"""Beyond it a machine gets virtio-scsi: PCI slots end at some 26."""
_OS_TYPES = {"windows": "windows", "linux": "linux"}


def disk_bus(spec: MachineSpec, environment: Mapping[str, Any]) -> str:
    """``virtio``, ``scsi`` or ``sata``."""
    asked = str(environment.get("disk_bus", ""))
    return asked or ("scsi" if len(spec.devices.disks) > MAX_VIRTIO_DISKS else "virtio")


def guest_properties(spec: MachineSpec, environment: Mapping[str, Any]) -> dict[str, str]:
    """Raises InvalidInput when the wishes contradict each other."""
    bus, machine = disk_bus(spec, environment), str(environment.get("machine", ""))
    found = {
        "hw_disk_bus": bus,
        "hw_vif_model": str(environment.get("nic_model", "virtio")),
        "hw_qemu_guest_agent": "yes",
    }
    if bus == "scsi":
        found["hw_scsi_model"] = "virtio-scsi"
    if spec.os_type in _OS_TYPES:
        found["os_type"] = _OS_TYPES[spec.os_type]
    if spec.firmware_type == "EFI":
        if machine == "pc":
            raise InvalidInput("machine pc cannot run EFI firmware here: use q35")
        found["hw_firmware_type"] = "uefi"
        found["hw_machine_type"] = "q35"
        if spec.secure_boot:
            found["os_secure_boot"] = "required"
    elif machine:
        found["hw_machine_type"] = machine
    if spec.vtpm:
        found |= {"hw_tpm_version": "2.0", "hw_tpm_model": "tpm-crb"}
    return found
