"""Specifications of machines as an administrator's script writes them for CreateVM_Task."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyVmomi import vim

CONVERT_TIMEOUT_S = 600
Bus = Literal["pvscsi", "lsilogic", "lsisas1068", "buslogic", "sata", "nvme", "ide"]
_CONTROLLERS: dict[str, tuple[Any, int, int, int]] = {
    # type, first key, first key of its disks, keys of a bus
    "pvscsi": (vim.vm.device.ParaVirtualSCSIController, 1000, 2000, 16),
    "lsilogic": (vim.vm.device.VirtualLsiLogicController, 1000, 2000, 16),
    "lsisas1068": (vim.vm.device.VirtualLsiLogicSASController, 1000, 2000, 16),
    "buslogic": (vim.vm.device.VirtualBusLogicController, 1000, 2000, 16),
    "sata": (vim.vm.device.VirtualAHCIController, 15000, 16000, 30),
    "nvme": (vim.vm.device.VirtualNVMEController, 31000, 32000, 15),
    "ide": (vim.vm.device.VirtualIDEController, 200, 3000, 2),
}

_TOOLS = {
    "running": ("guestToolsRunning", "guestToolsCurrent"),
    "stopped": ("guestToolsNotRunning", "guestToolsCurrent"),
    "none": ("guestToolsNotRunning", "guestToolsNotInstalled"),
}


@dataclass(frozen=True)
class LabDisk:
    """``content``: bytes, a raw or qcow2 file, or nothing. ``size``: bytes; of the content when absent.

    ``mode``: VirtualDiskMode, e.g. ``independent_persistent``. ``bus_number`` and ``unit`` are chosen when absent.
    """

    content: bytes | Path | None = None
    size: int = 0
    bus: Bus = "pvscsi"
    bus_number: int = 0
    unit: int | None = None
    thin: bool = True
    mode: str = "persistent"
    sharing: str = "sharingNone"


@dataclass(frozen=True)
class LabNic:
    network: str = "VM Network"
    mac: str = ""


def escaped(name: str) -> str:
    """As the API writes a name."""
    return name.replace("%", "%25").replace("/", "%2f").replace("\\", "%5c")


def devices(disks: Sequence[LabDisk], sizes: Sequence[int], base: str) -> list[Any]:
    """Controllers and disks, to be added; ``base``: ``[datastore] folder``, where ``diskN.vmdk`` are made."""
    changes, made, units = [], set(), dict[tuple[int, int], int]()
    for number, (disk, size) in enumerate(zip(disks, sizes, strict=True), 1):
        kind, controller_key, disk_key, width = _CONTROLLERS[disk.bus]
        controller = controller_key + disk.bus_number
        if controller not in made and disk.bus != "ide":  # every machine has its IDE controllers already
            made.add(controller)
            device = kind(key=controller, busNumber=disk.bus_number)
            if controller_key == 1000:
                device.sharedBus = "noSharing"
            changes.append(_add(device))
        following = units.get((controller_key, disk.bus_number), 0)
        unit = disk.unit if disk.unit is not None else following
        if controller_key == 1000 and unit == 7:
            unit = 8  # the controller's own
        units[(controller_key, disk.bus_number)] = unit + 1
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName=f"{base}/disk{number}.vmdk", diskMode=disk.mode, thinProvisioned=disk.thin, sharing=disk.sharing
        )
        device = vim.vm.device.VirtualDisk(
            key=disk_key + width * disk.bus_number + unit,
            controllerKey=controller,
            unitNumber=unit,
            backing=backing,
            capacityInKB=size // 1024,
            capacityInBytes=size,
        )
        changes.append(_add(device, file="create"))
    return changes


def nics(wanted: Sequence[LabNic], networks: dict[str, Any]) -> list[Any]:
    """``networks``: by name; distributed port groups too. Raises KeyError for an unknown one."""
    changes = []
    for number, nic in enumerate(wanted):
        network = networks[nic.network]
        if isinstance(network, vim.dvs.DistributedVirtualPortgroup):
            switch: Any = network.config.distributedVirtualSwitch
            port = vim.dvs.PortConnection(portgroupKey=network.key, switchUuid=switch.uuid)
            backing = vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port)
        else:
            backing = vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName=nic.network, network=network)
        card = vim.vm.device.VirtualVmxnet3(key=4000 + number, unitNumber=7 + number, backing=backing)
        if nic.mac:
            card.addressType, card.macAddress = "manual", nic.mac
        changes.append(_add(card))
    return changes


def _add(device: Any, file: str | None = None) -> Any:
    spec: Any = vim.vm.device.VirtualDeviceSpec(operation="add", device=device)
    if file:
        spec.fileOperation = file
    return spec


def lab_disk(disk: LabDisk | bytes | Path | int) -> LabDisk:
    """An int is a size, the others a content."""
    if isinstance(disk, LabDisk):
        return disk
    return LabDisk(size=disk) if isinstance(disk, int) else LabDisk(disk)


def size_of(disk: LabDisk) -> int:
    if disk.size:
        return disk.size
    if isinstance(disk.content, Path):
        said = subprocess.run(
            ["qemu-img", "info", "--output=json", str(disk.content)], check=True, capture_output=True, timeout=60
        ).stdout
        return int(json.loads(said)["virtual-size"])
    return -(-len(disk.content or b"") // 1024) * 1024


def fill(flat: Path, content: bytes | Path | None) -> None:
    if isinstance(content, Path):
        subprocess.run(
            ["qemu-img", "convert", "-n", "-O", "raw", "--target-is-zero", str(content), str(flat)],
            check=True,
            timeout=CONVERT_TIMEOUT_S,
        )
    elif content:
        with flat.open("r+b") as file:
            file.write(content)


def tools_options(tools: str, ip: str, hostname: str) -> list[Any]:
    """What vcsim is to say of a guest. ``tools``: ``running``, ``stopped`` or ``none``."""
    running, version = _TOOLS[tools]
    values = {"SET.guest.toolsRunningStatus": running, "SET.guest.toolsVersionStatus2": version}
    if ip:
        values["SET.guest.ipAddress"] = ip
    if hostname:
        values["SET.guest.hostName"] = hostname
    return [vim.option.OptionValue(key=key, value=value) for key, value in values.items()]
