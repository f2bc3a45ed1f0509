"""The partition that Windows starts from: its BCD store, and the loader that firmware without our entries finds.

BCD is a registry hive. The boot manager ``{9dea862c-...}`` names its default loader in element 23000003; a loader's
element 16000046 is ``graphicsmodedisabled``, with which Windows hangs on OVMF (virt-v2v removes it too).
"""

from __future__ import annotations

from collections.abc import Sequence

from coriolis.convert.guest import Guest
from coriolis.convert.plugin import Finding
from coriolis.convert.windows import registry
from coriolis.convert.windows.paths import BOOT_PARTITION, DRIVE, place
from coriolis.convert.windows.registry import Edit, Hive, remove_key
from coriolis.errors import CoriolisError

BOOT_MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
_DEFAULT_LOADER, _NO_GRAPHICS = "23000003", "16000046"
LOADER = "EFI/Microsoft/Boot/bootmgfw.efi"
FALLBACK = "EFI/Boot/bootx64.efi"


def bcd_path(guest: Guest, efi: bool) -> str | None:
    """The BCD store of the firmware's kind, None when there is none."""
    name = "EFI/Microsoft/Boot/BCD" if efi else "Boot/BCD"
    found = (place(guest, f"{top}/{name}") for top in _tops(efi))
    return next((path for path in found if guest.is_file(path)), None)


def boot_findings(guest: Guest, efi: bool) -> list[Finding]:
    """What keeps the firmware from starting Windows."""
    path = bcd_path(guest, efi)
    kind = "UEFI" if efi else "BIOS"
    if path is None:
        other = bcd_path(guest, not efi) is not None
        why = f"it starts by {'BIOS' if efi else 'UEFI'}" if other else "its boot partition may be on a missing disk"
        return [
            Finding(
                "error",
                "BOOT_FILES_ABSENT",
                f"no boot store (BCD) for {kind} was found: {why}",
                "choose the firmware that the machine has at its origin, and migrate all its disks",
            )
        ]
    try:
        store = registry.load(guest, path)
    except CoriolisError as error:
        return [Finding("error", "BOOT_STORE_DAMAGED", error.message, "repair it in Windows with bcdboot")]
    if not default_loaders(store):
        return [
            Finding("error", "BOOT_STORE_EMPTY", f"the boot store for {kind} starts nothing", "repair it with bcdboot")
        ]
    if efi and fallback_copy(guest) is None and not _has_fallback(guest):
        message = "the EFI system partition has neither EFI/Boot/bootx64.efi nor Microsoft's loader to make it from"
        return [Finding("error", "LOADER_ABSENT", message, "repair it in Windows with bcdboot")]
    return []


def default_loaders(store: Hive) -> list[str]:
    """The loader objects that the boot manager starts by itself."""
    key = rf"Objects\{BOOT_MANAGER}\Elements\{_DEFAULT_LOADER}"
    return [name for name in store.texts(key, "Element") if store.has(rf"Objects\{name}")]


def store_edits(store: Hive) -> list[Edit]:
    return [remove_key(rf"Objects\{name}\Elements\{_NO_GRAPHICS}") for name in default_loaders(store)]


def convert_store(guest: Guest, efi: bool) -> int:
    """Let Windows use the screen that UEFI hands it; bytes written."""
    path = bcd_path(guest, efi)
    if path is None or not efi:
        return 0
    store = registry.load(guest, path)
    edits = store.missing(store_edits(store))
    if not edits:
        return 0
    store.apply(edits)
    return registry.store(guest, path, store)


def fallback_copy(guest: Guest) -> tuple[str, str] | None:
    """(from, to) that make the fallback loader; None when it exists or there is nothing to make it from."""
    if _has_fallback(guest):
        return None
    for top in _tops(efi=True):
        source = place(guest, f"{top}/{LOADER}")
        if guest.is_file(source):
            return source, place(guest, f"{top}/{FALLBACK}")
    return None


def verified(guest: Guest, efi: bool) -> str:
    """What is wrong with the boot partition after conversion, empty when nothing is."""
    path = bcd_path(guest, efi)
    if path is None:
        return "the boot store is gone"
    store = registry.load(guest, path)
    if not default_loaders(store):
        return "the boot store starts nothing"
    if efi and store.missing(store_edits(store)):
        return "the boot store still switches graphics off"
    if efi and not _has_fallback(guest):
        return f"{FALLBACK} is not on the EFI system partition"
    return ""


def _has_fallback(guest: Guest) -> bool:
    return any(guest.is_file(place(guest, f"{top}/{FALLBACK}")) for top in _tops(efi=True))


def _tops(efi: bool) -> Sequence[str]:
    return (BOOT_PARTITION,) if efi else (BOOT_PARTITION, DRIVE)
