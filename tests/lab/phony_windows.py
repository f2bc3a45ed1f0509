"""Phony Windows guests as trees of files: real hives, our own data, no Windows. They cannot start.

``/c`` is the Windows drive, ``/system`` the partition that firmware starts from, as conversion mounts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.lab.phony_windows_drivers import program
from tests.lab.phony_windows_hives import RELEASES, Card, hive, software_tree, store_tree, system_tree

Changes = Mapping[str, Mapping[str, Any]]


def files_of(
    name: str,
    *,
    efi: bool = False,
    cards: Sequence[Card] = (Card(),),
    architecture: str = "AMD64",
    system: Changes | None = None,
    software: Changes | None = None,
) -> dict[str, bytes]:
    """Path -> content. ``system`` and ``software`` replace or add keys of the hives."""
    release, exe = RELEASES[name], program()
    config = "/c/Windows/System32/config"
    files = {
        f"{config}/SYSTEM": hive({**system_tree(release, cards, architecture), **(system or {})}),
        f"{config}/SOFTWARE": hive({**software_tree(release), **(software or {})}),
        "/c/Windows/System32/WindowsPowerShell/v1.0/powershell.exe": exe,
        "/c/Windows/System32/cmd.exe": exe,
        "/c/Windows/System32/winload.exe": exe,
        "/c/Windows/System32/drivers/pvscsi.sys": program(),
        "/c/Windows/inf/disk.inf": b"[Version]\r\n",
        "/c/Program Files/VMware/VMware Tools/vmtoolsd.exe": exe,
        "/c/pagefile.sys": b"",
    }
    if efi:
        files["/system/EFI/Microsoft/Boot/BCD"] = hive(store_tree())
        files["/system/EFI/Microsoft/Boot/bootmgfw.efi"] = exe + b"boot manager"
    else:
        files["/system/Boot/BCD"] = hive(store_tree())
        files["/system/bootmgr"] = b"BOOTMGR\0"
    return files


def hibernation_file() -> bytes:
    """As Windows leaves it behind when it hibernates or shuts down with fast start-up."""
    return b"HIBR".ljust(4096, b"\0")
