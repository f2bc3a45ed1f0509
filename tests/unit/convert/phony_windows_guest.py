"""Phony Windows guests in directories, and the driver pack of a phony virtio-win."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coriolis.convert.driver_pack import prepare_driver_pack
from coriolis.convert.platforms import target_platform
from coriolis.convert.plugin import Facts, Finding, Job, Plan
from coriolis.convert.plugins import plan_guest
from coriolis.convert.windows.plugin import WindowsPlugin
from coriolis.convert.windows.state import WindowsState, load_state
from coriolis.convert.windows.volume import VolumeFacts
from tests.lab.phony_windows import files_of
from tests.lab.phony_windows_drivers import make_iso
from tests.unit.convert.directory_guest import DirectoryGuest


class PhonyWindowsGuest(DirectoryGuest):
    """A clean volume on a partitioned disk, unless a test says otherwise."""

    def __init__(self, top: Path, efi: bool) -> None:
        super().__init__(top)
        self.volume = VolumeFacts(dirty=False, read_only=False, table="gpt" if efi else "msdos", active=not efi)


def windows(top: Path, name: str, *, efi: bool = False, **options: Any) -> PhonyWindowsGuest:
    guest = PhonyWindowsGuest(top / "guest", efi)
    for path, data in files_of(name, efi=efi, **options).items():
        guest.write(path, data)
    return guest


def job(platform: str = "kvm", *, drivers: Path | str = "", **options: Any) -> Job:
    return Job(platform=target_platform(platform), drivers=str(drivers), **options)


def pack(top: Path, folders: Sequence[str]) -> Path:
    """The driver pack of a phony ISO, made by the agent's own reader."""
    make_iso(top / "virtio-win.iso", top / "iso", folders)
    return prepare_driver_pack(top / "virtio-win.iso", top / "state")


def changed_manifest(directory: Path, change: Any) -> None:
    """Rewrite a pack's manifest by ``change(document)``."""
    path = directory / "manifest.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def converted(guest: DirectoryGuest, what: Job) -> tuple[WindowsState, Facts, Plan]:
    """Through detect, plan, apply and verify; the hives as they are on the disk then."""
    plugin, facts = WindowsPlugin(), Facts()
    system = plugin.detect(guest)
    assert system is not None
    plan = plugin.plan(guest, system, what)
    assert [one for one in plan.findings if one.severity == "error"] == []
    for step in plan.steps:
        step.run(facts, lambda text: None)
    plugin.verify(guest, system, what, facts, lambda text: None)
    return load_state(guest), facts, plan


def findings(guest: DirectoryGuest, what: Job) -> dict[str, Finding]:
    return {one.code: one for one in plan_guest(guest, what).findings}
