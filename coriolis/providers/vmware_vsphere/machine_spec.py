"""From the properties of a virtual machine to ``MachineSpec``. Pure: pyvmomi's objects are only read.

Names of properties: vSphere Web Services API, VirtualMachine (VirtualMachineConfigInfo, GuestInfo).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from pyVmomi import vim

from coriolis.model.machine import Controller, Devices, Disk, FirmwareType, MachineSpec, Nic, OsType, PowerState

MACHINE_PROPERTIES = (
    "name",
    "config.instanceUuid",
    "config.firmware",
    "config.bootOptions",
    "config.template",
    "config.guestId",
    "config.hardware.numCPU",
    "config.hardware.numCoresPerSocket",
    "config.hardware.memoryMB",
    "config.hardware.device",
    "config.nestedHVEnabled",
    "guest.net",
    "guest.hostName",
    "runtime.powerState",
)
_POWER: dict[str, PowerState] = {"poweredOn": "running", "poweredOff": "stopped", "suspended": "paused"}
_OTHER_SYSTEMS: tuple[tuple[str, OsType], ...] = (
    ("win", "windows"),
    ("darwin", "osx"),
    ("freebsd", "bsd"),
    ("solaris", "solaris"),
)
_LINUX = (
    "linux",
    "rhel",
    "centos",
    "debian",
    "ubuntu",
    "sles",
    "suse",
    "fedora",
    "oracle",
    "amazonlinux",
    "rockylinux",
    "almalinux",
    "photon",
    "coreos",
    "asianux",
    "mandriva",
    "vmwarephoton",
)
_BUSES = {
    vim.vm.device.ParaVirtualSCSIController: "pvscsi",
    vim.vm.device.VirtualLsiLogicSASController: "lsisas1068",
    vim.vm.device.VirtualLsiLogicController: "lsilogic",
    vim.vm.device.VirtualBusLogicController: "buslogic",
    vim.vm.device.VirtualNVMEController: "nvme",
    vim.vm.device.VirtualAHCIController: "sata",
    vim.vm.device.VirtualIDEController: "ide",
}


def plain_name(name: str) -> str:
    """A name as people wrote it: the API writes ``/``, ``\\\\`` and ``%`` as ``%2f``, ``%5c``, ``%25``."""
    return unquote(name)


def os_type(guest_id: str) -> OsType:
    """From a VirtualMachineGuestOsIdentifier, e.g. ``debian12_64Guest``."""
    lowered = guest_id.lower()
    for word, kind in _OTHER_SYSTEMS:
        if lowered.startswith(word):
            return kind
    return "linux" if any(word in lowered for word in _LINUX) else "other"


def disks_of(devices: Sequence[Any]) -> list[Any]:
    """The virtual disks, in the order in which a BIOS sees them: by controller, then by unit."""
    buses = {device.key: device.busNumber for device in devices if isinstance(device, vim.vm.device.VirtualController)}
    found = [device for device in devices if isinstance(device, vim.vm.device.VirtualDisk)]
    return sorted(found, key=lambda disk: (disk.controllerKey, buses.get(disk.controllerKey, 0), disk.unitNumber or 0))


def spec_of(identity: str, properties: Mapping[str, Any], networks: Mapping[str, str]) -> MachineSpec:
    """``identity``: the managed object id. ``networks``: names by id of a network or key of a port group."""
    devices = properties.get("config.hardware.device") or []
    addresses = {
        (nic.macAddress or "").lower(): tuple(nic.ipAddress or ()) for nic in properties.get("guest.net") or ()
    }
    boot = properties.get("config.bootOptions")
    guest_id = properties.get("config.guestId") or ""
    firmware: FirmwareType = "EFI" if properties.get("config.firmware") == "efi" else "BIOS"
    name = plain_name(properties["name"])
    return MachineSpec(
        id=identity,
        name=name,
        instance_name=name,
        num_cpu=properties.get("config.hardware.numCPU") or 1,
        cores_per_socket=properties.get("config.hardware.numCoresPerSocket") or 1,
        vtpm=any(isinstance(device, vim.vm.device.VirtualTPM) for device in devices),
        memory_mb=properties.get("config.hardware.memoryMB") or 0,
        os_type=os_type(guest_id),
        guest_id=guest_id,
        hostname=properties.get("guest.hostName") or "",
        firmware_type=firmware,
        secure_boot=bool(getattr(boot, "efiSecureBootEnabled", False)),
        nested_virtualization=bool(properties.get("config.nestedHVEnabled")),
        is_template=bool(properties.get("config.template")),
        power_state=power_state_of(properties.get("runtime.powerState")),
        devices=Devices(
            disks=tuple(_disk(device) for device in disks_of(devices)),
            nics=tuple(
                _nic(device, networks, addresses)
                for device in devices
                if isinstance(device, vim.vm.device.VirtualEthernetCard)
            ),
            controllers=tuple(
                Controller(str(device.key), bus, device.busNumber) for device in devices if (bus := bus_of(device))
            ),
        ),
    )


def bus_of(device: Any) -> str:
    """The name of a disk controller's kind; empty for other devices."""
    return next((name for kind, name in _BUSES.items() if isinstance(device, kind)), "")


def power_state_of(state: Any) -> PowerState:
    """From a VirtualMachinePowerState."""
    return _POWER.get(str(state), "unknown")


def size_of(device: Any) -> int:
    """Bytes of a virtual disk."""
    return int(device.capacityInBytes or (device.capacityInKB or 0) * 1024)


def kind_of(device: Any) -> str:
    """``Disk.kind``: what keeps a disk out of snapshots, or empty."""
    backing = device.backing
    if isinstance(
        backing,
        vim.vm.device.VirtualDisk.RawDiskMappingVer1BackingInfo | vim.vm.device.VirtualDisk.RawDiskVer2BackingInfo,
    ):
        return "raw_mapping"
    mode = str(getattr(backing, "diskMode", "") or "")
    return mode if mode.startswith("independent") else ""


def _disk(device: Any) -> Disk:
    backing = device.backing
    return Disk(
        id=str(device.key),
        size_bytes=size_of(device),
        format="vmdk",
        unit_number=device.unitNumber or 0,
        path=getattr(backing, "fileName", "") or "",
        controller_id=str(device.controllerKey),
        storage_backend_identifier=_datastore(getattr(backing, "fileName", "") or ""),
        allocation_type="dynamic" if getattr(backing, "thinProvisioned", False) else "static",
        shareable=getattr(backing, "sharing", "") == "sharingMultiWriter",
        uuid=getattr(backing, "uuid", "") or "",
        kind=kind_of(device),
    )


def _datastore(path: str) -> str:
    """``ds1`` of ``[ds1] vm/disk.vmdk``."""
    return path[1 : path.index("]")] if path.startswith("[") and "]" in path else ""


def _nic(device: Any, networks: Mapping[str, str], addresses: Mapping[str, tuple[str, ...]]) -> Nic:
    mac = (device.macAddress or "").lower()
    identity = network_id(device.backing)
    label = getattr(device.deviceInfo, "label", "") if device.deviceInfo else ""
    return Nic(
        network_name=networks.get(identity) or plain_name(getattr(device.backing, "deviceName", "") or identity),
        mac_address=mac or None,
        id=str(device.key),
        name=label or "",
        network_id=identity,
        ip_addresses=addresses.get(mac, ()),
    )


def network_id(backing: Any) -> str:
    """What a NIC is plugged into: the id of a network, the key of a distributed port group, or an opaque network's."""
    if isinstance(backing, vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo):
        return str(backing.port.portgroupKey or "")
    if isinstance(backing, vim.vm.device.VirtualEthernetCard.OpaqueNetworkBackingInfo):
        return str(backing.opaqueNetworkId or "")
    network = getattr(backing, "network", None)
    return str(network._moId) if network is not None else ""
