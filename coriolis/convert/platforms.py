"""What each target platform asks of a guest: one table, read by every conversion."""

from __future__ import annotations

from dataclasses import dataclass, field

from coriolis.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class TargetPlatform:
    """Kernel modules by the hypervisor's virtual hardware, and what a guest should have there.

    ``required``: without these (as files or built in) the root disk is not found. ``wanted``: added when the guest has
    them. ``network``: found by the real root, so listed for later native rebuilds only. ``agents``: packages by the
    name most distributions give them; ``datasources``: of cloud-init, in the order in which it asks them, empty when
    the platform hands out no metadata; ``console``: the serial console the platform shows, empty when it has none.

    Where a config drive may come, the controllers of CD drives (ahci on q35, ata_piix on i440fx) are wanted early:
    cloud-init's generator looks for the drive before the real root has loaded any driver, and gives up at once.
    """

    name: str
    required: tuple[str, ...]
    wanted: tuple[str, ...]
    network: tuple[str, ...]
    agents: tuple[str, ...] = ()
    datasources: tuple[str, ...] = ()
    console: str = field(default="")

    @property
    def always_has_metadata(self) -> bool:
        """Whether every machine there gets metadata: such a platform wants cloud-init."""
        return "cloud-init" in self.agents

    @property
    def initramfs_modules(self) -> tuple[str, ...]:
        return self.required + self.wanted


PLATFORMS = {
    platform.name: platform
    for platform in (
        TargetPlatform(
            name="kvm",
            required=("virtio_pci", "virtio_blk"),
            wanted=("virtio_scsi", "sd_mod", "sr_mod", "nvme", "ahci", "ata_piix", "virtio_rng"),
            network=("virtio_net",),
            agents=("qemu-guest-agent",),
            datasources=("ConfigDrive", "NoCloud", "None"),
            console="ttyS0,115200n8",
        ),
        TargetPlatform(
            name="openstack",
            required=("virtio_pci", "virtio_blk"),
            wanted=("virtio_scsi", "sd_mod", "sr_mod", "ahci", "ata_piix", "virtio_rng"),
            network=("virtio_net",),
            agents=("qemu-guest-agent", "cloud-init"),
            datasources=("ConfigDrive", "OpenStack", "None"),
            console="ttyS0,115200n8",
        ),
        TargetPlatform(
            name="vmware",
            required=("vmw_pvscsi", "sd_mod"),
            wanted=("mptspi", "mptsas", "ahci", "nvme", "sr_mod"),
            network=("vmxnet3", "e1000e"),
            agents=("open-vm-tools",),
            datasources=("VMware", "OVF", "None"),
        ),
        TargetPlatform(
            name="hyperv",
            required=("hv_vmbus", "hv_storvsc", "sd_mod"),
            wanted=("hv_utils", "hid_hyperv", "hyperv_keyboard", "sr_mod", "ata_piix"),
            network=("hv_netvsc",),
            agents=("hyperv-daemons",),
            datasources=("ConfigDrive", "NoCloud", "None"),
            console="ttyS0,115200n8",
        ),
        TargetPlatform(
            name="azure",
            required=("hv_vmbus", "hv_storvsc", "sd_mod"),
            wanted=("hv_utils", "nvme", "pci_hyperv", "mlx5_core"),
            network=("hv_netvsc", "mana"),
            agents=("walinuxagent", "cloud-init"),
            datasources=("Azure",),
            console="ttyS0,115200n8",
        ),
        TargetPlatform(
            name="aws",
            required=("nvme",),
            wanted=("xen_blkfront", "virtio_blk"),
            network=("ena", "xen_netfront", "ixgbevf"),
            agents=("cloud-init",),
            datasources=("Ec2",),
            console="ttyS0,115200n8",
        ),
        TargetPlatform(
            name="gcp",
            required=("virtio_pci", "virtio_scsi", "sd_mod"),
            wanted=("nvme", "virtio_rng"),
            network=("virtio_net", "gve"),
            agents=("google-guest-agent", "cloud-init"),
            datasources=("GCE",),
            console="ttyS0,38400n8",
        ),
    )
}


def target_platform(name: str) -> TargetPlatform:
    """The platform called ``name``. Raises InvalidInput naming those there are."""
    try:
        return PLATFORMS[name]
    except KeyError:
        raise InvalidInput(f"target platform {name[:40]!r} is not one of: {', '.join(sorted(PLATFORMS))}") from None
