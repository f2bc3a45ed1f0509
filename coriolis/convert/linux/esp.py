"""The loader that firmware without our NVRAM entries finds: ``EFI/BOOT/BOOTX64.EFI``. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FALLBACK = "bootx64.efi"
_FIRST_LOADERS = ("shimx64.efi", "shim.efi", "grubx64.efi", "grub.efi")
_COMPANIONS = ("grubx64.efi", "grub.efi", "mmx64.efi", "mokmanager.efi", "grub.cfg")


def has_fallback(listing: Mapping[str, Sequence[str]]) -> bool:
    """``listing``: directories below ``EFI`` with their file names, in the case they have on the disk."""
    return any(FALLBACK in (name.lower() for name in files) for top, files in listing.items() if top.lower() == "boot")


def fallback_copies(listing: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """(from, to) below ``EFI`` that make the fallback loader; empty when it exists or no loader is known.

    shim starts GRUB from its own directory, so what lies beside it goes along.
    """
    if has_fallback(listing):
        return []
    boot = next((top for top in listing if top.lower() == "boot"), "BOOT")
    for vendor, files in sorted(listing.items()):
        by_lower = {name.lower(): name for name in files}
        first = next((by_lower[name] for name in _FIRST_LOADERS if name in by_lower), None)
        if first is None or vendor.lower() in ("boot", "microsoft"):
            continue
        copies = [(f"{vendor}/{first}", f"{boot}/BOOTX64.EFI")]
        rest = (by_lower[name] for name in _COMPANIONS if name in by_lower and by_lower[name] != first)
        return copies + [(f"{vendor}/{name}", f"{boot}/{name}") for name in rest]
    return []
