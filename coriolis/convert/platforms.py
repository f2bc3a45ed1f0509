"""What each target platform asks of a guest: one table, read by every conversion."""

from __future__ import annotations

from dataclasses import dataclass

from coriolis.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class TargetPlatform:
    """Kernel modules by the hypervisor's virtual hardware.

    ``required``: without these (as files or built in) the root disk is not found. ``wanted``: added when the
    guest has them. ``network``: found by the real root, so listed for later native rebuilds only.
    """

    name: str
    required: tuple[str, ...]
    wanted: tuple[str, ...]
    network: tuple[str, ...]

    @property
    def initramfs_modules(self) -> tuple[str, ...]:
        return self.required + self.wanted


PLATFORMS = {
    "kvm": TargetPlatform(
        name="kvm",
        required=("virtio_pci", "virtio_blk"),
        wanted=("virtio_scsi", "sd_mod", "sr_mod", "nvme", "ahci", "virtio_rng"),
        network=("virtio_net",),
    ),
}


def target_platform(name: str) -> TargetPlatform:
    """The platform called ``name``. Raises InvalidInput naming those there are."""
    try:
        return PLATFORMS[name]
    except KeyError:
        raise InvalidInput(f"target_platform {name!r} is not one of: {', '.join(sorted(PLATFORMS))}") from None
