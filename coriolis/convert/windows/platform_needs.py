"""What each target platform asks of a Windows guest: drivers it must start with, drivers to bring, agents to add.

Sources of device IDs and of the services' parameters: viostor.inx and vioscsi.inx of virtio-win's public repository; of
in-box drivers: the names Windows itself gives their services.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SCSI_CLASS = "{4d36e97b-e325-11ce-bfc1-08002be10318}"
SYSTEM_CLASS = "{4d36e97d-e325-11ce-bfc1-08002be10318}"


@dataclass(frozen=True, slots=True)
class BootDriver:
    """A storage driver from the pack. ``devices``: PCI IDs, most exact first. ``bus_type``: as its INF sets it."""

    name: str
    devices: tuple[str, ...]
    bus_type: int


VIOSTOR = BootDriver(
    "viostor",
    (
        "VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00",
        "VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01",
        "VEN_1AF4&DEV_1001",
        "VEN_1AF4&DEV_1042",
    ),
    1,
)
VIOSCSI = BootDriver(
    "vioscsi",
    (
        "VEN_1AF4&DEV_1004&SUBSYS_00081AF4&REV_00",
        "VEN_1AF4&DEV_1048&SUBSYS_11001AF4&REV_01",
        "VEN_1AF4&DEV_1004",
        "VEN_1AF4&DEV_1048",
    ),
    10,
)
VIRTIO_DRIVERS = ("viostor", "vioscsi", "NetKVM", "Balloon", "viorng", "vioserial", "pvpanic")
"""Folders of a virtio-win ISO that are taken."""


@dataclass(frozen=True, slots=True)
class WindowsNeeds:
    """``boot_drivers``: from the pack, all needed. ``packed``: folders of the pack that must be there besides.

    ``in_box``: services of Windows itself, all must exist; ``in_box_if_there``: started early where they
    exist. ``in_box_devices``: (bus#ID, service, class) for Windows before 8, which starts no unlisted device early.
    ``oldest``: first build whose own drivers suffice. ``bundled``: the operator's bundle must bring network drivers.
    ``native``: vendors whose agents belong here (``origin_agents``). ``metadata``: services of cloudbase-init.
    """

    boot_drivers: tuple[BootDriver, ...] = ()
    packed: tuple[str, ...] = ()
    in_box: tuple[str, ...] = ()
    in_box_if_there: tuple[str, ...] = ()
    in_box_devices: tuple[tuple[str, str, str], ...] = ()
    oldest: int = 0
    oldest_why: str = ""
    bundled: bool = False
    native: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    qemu_agent: bool = False

    @property
    def needs_pack(self) -> bool:
        return bool(self.boot_drivers)


_CLOUDBASE = "cloudbaseinit.metadata.services"
_CONFIG_DRIVE = f"{_CLOUDBASE}.configdrive.ConfigDriveService"
_NO_CLOUD = f"{_CLOUDBASE}.nocloudservice.NoCloudConfigDriveService"
_HTTP = f"{_CLOUDBASE}.httpservice.HttpService"
_NVME = ("stornvme", "storahci")
_HYPERV_EARLY = ("storflt", "atapi", "intelide", "pciide", "msahci", "storahci")
"""Hyper-V's first generation starts from an emulated IDE disk."""
_HYPERV_DEVICES = (
    ("VMBUS#{ba6163d9-04a1-4d29-b605-72e2ffb1dc7f}", "storvsc", SCSI_CLASS),
    ("ACPI#VMBUS", "vmbus", SYSTEM_CLASS),
)

NEEDS: Mapping[str, WindowsNeeds] = {
    "kvm": WindowsNeeds(
        boot_drivers=(VIOSTOR, VIOSCSI),
        packed=("NetKVM",),
        in_box_if_there=_NVME,
        native=("qemu",),
        metadata=(_CONFIG_DRIVE, _NO_CLOUD),
        qemu_agent=True,
    ),
    "openstack": WindowsNeeds(
        boot_drivers=(VIOSTOR, VIOSCSI),
        packed=("NetKVM",),
        native=("qemu",),
        metadata=(_CONFIG_DRIVE, _HTTP),
        qemu_agent=True,
    ),
    "gcp": WindowsNeeds(
        boot_drivers=(VIOSCSI,),
        packed=("NetKVM",),
        in_box_if_there=_NVME,
        native=("gcp",),
        metadata=(f"{_CLOUDBASE}.gceservice.GCEService",),
    ),
    "aws": WindowsNeeds(
        in_box=("stornvme",),
        oldest=9600,
        oldest_why="Windows before 8.1 and Server 2012 R2 has no NVMe driver of its own",
        bundled=True,
        native=("aws",),
        metadata=(f"{_CLOUDBASE}.ec2service.EC2Service",),
    ),
    "vmware": WindowsNeeds(
        in_box=("LSI_SAS",),
        in_box_if_there=_NVME,
        in_box_devices=(("PCI#VEN_1000&DEV_0054", "LSI_SAS", SCSI_CLASS),),
        native=("vmware",),
        metadata=(f"{_CLOUDBASE}.vmwareguestinfoservice.VMwareGuestInfoService",),
    ),
    "hyperv": WindowsNeeds(
        in_box=("storvsc", "vmbus"),
        in_box_if_there=_HYPERV_EARLY,
        in_box_devices=_HYPERV_DEVICES,
        metadata=(_CONFIG_DRIVE, _NO_CLOUD),
    ),
    "azure": WindowsNeeds(
        in_box=("storvsc", "vmbus"),
        in_box_if_there=_HYPERV_EARLY,
        in_box_devices=_HYPERV_DEVICES,
        native=("azure",),
        metadata=(f"{_CLOUDBASE}.azureservice.AzureService",),
    ),
}
