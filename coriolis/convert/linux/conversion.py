"""The steps of a Linux conversion over a mounted guest, in order; each is safe to repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coriolis.convert.linux import edits, inject, network
from coriolis.convert.linux.guest import Guest
from coriolis.convert.linux.verify import verify
from coriolis.convert.platforms import TargetPlatform

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Converted:
    """``modules``: names injected, of all kernels. ``pins``: (MAC, interface name)."""

    kernel_versions: tuple[str, ...]
    modules: tuple[str, ...]
    pins: tuple[tuple[str, str], ...]


def convert_linux(
    guest: Guest, platform: TargetPlatform, nics: Sequence[network.Nic], efi: bool, say: Say
) -> Converted:
    """Make the guest boot on ``platform``, and check that it should.

    Raises Unsupported, Corrupt, QuotaExceeded.
    """
    injections = inject.inject_all(guest, platform, say)
    edits.edit_boot_files(guest, platform, say)
    pins = edits.pin_network_names(guest, nics, say)
    if efi:
        edits.add_fallback_loader(guest, say)
    verify(guest, platform, injections, efi, say)
    return Converted(
        kernel_versions=tuple(one.version for one in injections),
        modules=tuple(sorted({name for one in injections for name in one.names})),
        pins=pins,
    )
