"""Guests whose boot files are sealed, so that no change to them would hold: each is an error with what to do."""

from __future__ import annotations

import re

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.linux import bootconfig, kernels
from coriolis.convert.plugin import Finding

_OSTREE = ("/ostree/repo", "/sysroot/ostree/repo")
_UKI_DIRECTORIES = ("/boot/efi/EFI/Linux", "/efi/EFI/Linux", "/boot/EFI/Linux")
_VERITY = re.compile(r"(?<![\w.-])(?:roothash|usrhash|systemd\.verity[\w]*)=")
_ENFORCED = re.compile(r"(?m)^[ \t]*(?:set[ \t]+)?check_signatures=[\"']?enforce")
_TPM = re.compile(r"(?m)^[^#\n]*\btpm2-device=")


def findings(guest: Guest, found: kernels.Kernels) -> list[Finding]:
    """What stands in the way of a changed initramfs, and what will ask for a person afterwards."""
    out = []
    texts = [read_text(guest, path) for path in bootconfig.boot_configs(guest)]
    if any(guest.is_dir(path) for path in _OSTREE) or any("ostree=" in text for text in texts):
        out.append(
            Finding(
                "error",
                "GUEST_IMAGE_BASED",
                "the guest is image-based (ostree): its boot files belong to signed deployments",
                "add the target's drivers to its image with rpm-ostree or bootc before the migration, "
                "or use skip_os_morphing",
            )
        )
    if any(_VERITY.search(text) for text in texts):
        out.append(
            Finding(
                "error",
                "GUEST_VERITY",
                "the guest's root is sealed by dm-verity: its files cannot be changed",
                "build its image with the target's drivers, or use skip_os_morphing",
            )
        )
    if any(_ENFORCED.search(text) for text in texts):
        out.append(
            Finding(
                "error",
                "GUEST_SIGNED_INITRAMFS",
                "the guest's GRUB accepts signed files only (check_signatures=enforce)",
                "switch it off for the migration and sign the new initramfs afterwards",
            )
        )
    unified = [name for top in _UKI_DIRECTORIES for name in guest.listdir(top) if name.lower().endswith(".efi")]
    if unified and not found.images:
        out.append(
            Finding(
                "error",
                "GUEST_UNIFIED_KERNEL",
                "the guest boots unified kernel images only: kernel and initramfs in one signed file",
                "build them with the target's drivers in the guest before the migration, or use skip_os_morphing",
            )
        )
    elif unified:
        out.append(
            Finding("warning", "GUEST_UNIFIED_KERNEL", "unified kernel images of the guest are left as they are")
        )
    if _TPM.search(read_text(guest, "/etc/crypttab")):
        out.append(
            Finding(
                "warning",
                "GUEST_TPM_BOUND",
                "an encrypted disk of the guest is opened by the TPM of its old machine",
                "have a passphrase or recovery key at hand for the first start",
            )
        )
    return out
