"""Builds the import specification of a migrated machine, and reads back what marks a machine as ours. Pure.

Types and limits: vSphere Web Services API (VirtualMachineImportSpec, VirtualMachineConfigSpec), Configuration Maximums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyVmomi import vim

from coriolis.convert.text import shown
from coriolis.errors import InvalidInput, Unsupported
from coriolis.model.machine import MachineSpec
from coriolis.model.resource import InstanceRequest, Tag
from coriolis.providers.vmware_vsphere.configuration import DISTRIBUTED, OPAQUE
from coriolis.providers.vmware_vsphere.guest_id import guest_id_of
from coriolis.providers.vmware_vsphere.placement import Network, Place
from coriolis.providers.vmware_vsphere.stream_writer import capacity_of

MAX_NAME_CHARS = 80
MAX_NICS = 10
MAX_CONTROLLERS = 4
TAG_KEY, STATE_KEY = "coriolis.tag", "coriolis.state"
IMPORTING, READY = "importing", "ready"

_device = vim.vm.device
_CONTROLLERS: dict[str, tuple[Any, int, int]] = {
    "pvscsi": (_device.ParaVirtualSCSIController, 1000, 15),
    "lsilogic-sas": (_device.VirtualLsiLogicSASController, 1000, 15),
    "sata": (_device.VirtualAHCIController, 15000, 30),
    "nvme": (_device.VirtualNVMEController, 31000, 15),
}
"""Type, first key, disks of each."""
_SCSI_OWN_UNIT = 7
_NICS = {"vmxnet3": _device.VirtualVmxnet3, "e1000e": _device.VirtualE1000e, "e1000": _device.VirtualE1000}


def vsphere_name(name: str) -> str:
    """A name as the API wants it. Raises InvalidInput."""
    escaped = name.replace("%", "%25").replace("/", "%2f").replace("\\", "%5c")
    if not name.strip() or not name.isprintable() or len(escaped) > MAX_NAME_CHARS:
        raise InvalidInput(
            f"instance name {shown(name)}: vSphere takes 1 to {MAX_NAME_CHARS} printable characters, and counts %, / "
            "and \\ as three: give an instance_name"
        )
    return escaped


def controller_of(spec: MachineSpec, wanted: str) -> str:
    """The kind of disk controller: the user's, or the one whose driver the guest has."""
    if wanted:
        return wanted
    known = any(controller.type == "pvscsi" for controller in spec.devices.controllers)
    return "pvscsi" if known or spec.os_type == "linux" else "lsilogic-sas"


def nic_type_of(spec: MachineSpec, wanted: str) -> str:
    """Linux has a driver for vmxnet3; of others only those that ran on VMware's paravirtual devices surely do."""
    if wanted:
        return wanted
    return "vmxnet3" if controller_of(spec, "") == "pvscsi" else "e1000e"


def storage_of(request: InstanceRequest) -> list[str]:
    """The datastore of each disk, by name or id: the volume's own, the origin storage's, or the default."""
    environment, found = request.environment, []
    mapped: Mapping[str, str] = environment.get("storage_map", {})
    for index, disk in enumerate(request.spec.devices.disks):
        of_volume = request.volumes[index].attributes.get("datastore", "") if request.volumes else ""
        wanted = of_volume or mapped.get(disk.storage_backend_identifier, "") or environment.get("datastore", "")
        if not wanted:
            raise InvalidInput(
                f"target_environment names no datastore for disk {shown(disk.id)}: give a datastore, or a storage_map "
                f"with an entry for {shown(disk.storage_backend_identifier) or 'it'}"
            )
        found.append(wanted)
    if not found and environment.get("datastore"):
        found.append(environment["datastore"])
    if not found:
        raise InvalidInput("target_environment names no datastore for the machine's own files")
    return found


def networks_of(request: InstanceRequest) -> list[str]:
    """The network of each NIC, by name or id."""
    network_map = {**request.environment.get("network_map", {}), **request.network_map}
    found = []
    for nic in request.spec.devices.nics:
        wanted = network_map.get(nic.network_name) or network_map.get(nic.network_id)
        if not wanted:
            raise InvalidInput(f"network_map has no entry for the origin network {shown(nic.network_name)}")
        found.append(wanted)
    if len(found) > MAX_NICS:
        raise Unsupported(f"the machine has {len(found)} NICs; vSphere takes at most {MAX_NICS}")
    return found


def disk_places(kind: str, count: int) -> list[tuple[int, int]]:
    """(bus, unit) of each disk. Raises Unsupported when the controllers of a machine cannot hold so many."""
    each = _CONTROLLERS[kind][2]
    if count > MAX_CONTROLLERS * each:
        raise Unsupported(f"the machine has {count} disks; {kind} takes at most {MAX_CONTROLLERS * each}")
    found = []
    for index in range(count):
        bus, unit = divmod(index, each)
        found.append((bus, unit + (1 if kind in ("pvscsi", "lsilogic-sas") and unit >= _SCSI_OWN_UNIT else 0)))
    return found


def import_spec(request: InstanceRequest, place: Place, sizes: Iterable[int], macs: Sequence[str]) -> Any:
    """``sizes``: bytes of each disk; ``macs``: of each NIC, empty for one that vSphere generates.

    Raises InvalidInput, Unsupported, QuotaExceeded."""
    environment, spec = request.environment, request.spec
    config = vim.vm.ConfigSpec(
        name=vsphere_name(request.name),
        instanceUuid=request.instance_id,
        annotation=f"{request.tag}\nMigrated by Coriolis from {shown(spec.name)}",
        guestId=guest_id_of(spec, environment.get("guest_id", "")),
        numCPUs=spec.num_cpu,
        memoryMB=-(-spec.memory_mb // 4) * 4,  # vSphere counts memory in steps of 4 MiB
        firmware="efi" if spec.firmware_type == "EFI" else "bios",
        nestedHVEnabled=spec.nested_virtualization,
        files=vim.vm.FileInfo(vmPathName=f"[{place.stores[0].name}]"),
        extraConfig=marks(request.tag, IMPORTING),
        deviceChange=[_added(one) for one in _devices(request, place, list(sizes), macs)],
    )
    if spec.firmware_type == "EFI":
        config.bootOptions = vim.vm.BootOptions(efiSecureBootEnabled=spec.secure_boot)
    if version := environment.get("hardware_version"):
        config.version = version
    if cores := environment.get("cores_per_socket"):
        if spec.num_cpu % cores:
            raise InvalidInput(f"cores_per_socket {cores} does not divide the machine's {spec.num_cpu} processors")
        config.numCoresPerSocket = cores
    return vim.vm.VmImportSpec(configSpec=config)


def _devices(request: InstanceRequest, place: Place, sizes: list[int], macs: Sequence[str]) -> list[Any]:
    environment = request.environment
    kind = controller_of(request.spec, environment.get("disk_controller", ""))
    made, first_key, _ = _CONTROLLERS[kind]
    places = disk_places(kind, len(sizes))
    devices: list[Any] = []
    for bus in sorted({bus for bus, _ in places} or {0}):
        controller = made(key=first_key + bus, busNumber=bus)
        if kind in ("pvscsi", "lsilogic-sas"):
            controller.sharedBus = _device.VirtualSCSIController.Sharing.noSharing
        devices.append(controller)
    allocation = environment.get("disk_allocation", "thin")
    for index, (size, (bus, unit)) in enumerate(zip(sizes, places, strict=True)):
        capacity = capacity_of(size)
        backing = _device.VirtualDisk.FlatVer2BackingInfo(
            fileName=f"[{place.stores[index].name}]",
            diskMode="persistent",
            thinProvisioned=allocation == "thin",
            eagerlyScrub=allocation == "eager",
        )
        devices.append(
            _device.VirtualDisk(
                key=2000 + index,
                controllerKey=first_key + bus,
                unitNumber=unit,
                capacityInBytes=capacity,
                capacityInKB=capacity // 1024,
                backing=backing,
            )
        )
    nic_type = _NICS[nic_type_of(request.spec, environment.get("nic_type", ""))]
    for index, (mac, network) in enumerate(zip(macs, place.networks, strict=True)):
        card = nic_type(key=4000 + index, backing=_plug(network), addressType="manual" if mac else "generated")
        if mac:
            card.macAddress = mac
        card.connectable = _device.VirtualDevice.ConnectInfo(
            startConnected=True, allowGuestControl=True, connected=False
        )
        devices.append(card)
    return devices


def _plug(network: Network) -> Any:
    card = _device.VirtualEthernetCard
    if network.kind == DISTRIBUTED:
        port = vim.dvs.PortConnection(portgroupKey=network.key, switchUuid=network.switch)
        return card.DistributedVirtualPortBackingInfo(port=port)
    if network.kind == OPAQUE:
        return card.OpaqueNetworkBackingInfo(opaqueNetworkId=network.key, opaqueNetworkType=network.switch)
    return card.NetworkBackingInfo(deviceName=network.name)


def _added(device: Any) -> Any:
    operation = "create" if isinstance(device, _device.VirtualDisk) else None
    return _device.VirtualDeviceSpec(operation="add", fileOperation=operation, device=device)


def marks(tag: Tag, state: str) -> list[Any]:
    """Extra configuration that says whose the machine is and whether its disks are whole."""
    values = {TAG_KEY: str(tag), STATE_KEY: state}
    return [vim.option.OptionValue(key=key, value=value) for key, value in values.items()]


def marks_of(extra: Iterable[Any]) -> tuple[str, str]:
    """(tag, state) of a machine's extra configuration; empty when it is not ours."""
    values = {one.key: str(one.value) for one in extra if one.key in (TAG_KEY, STATE_KEY)}
    return values.get(TAG_KEY, ""), values.get(STATE_KEY, "")


def tag_in(annotation: str) -> Tag | None:
    """The tag that the first line of a machine's notes states."""
    return Tag.parse(annotation.split("\n", 1)[0])
