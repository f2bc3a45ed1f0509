"""What lets a Linux guest find its root on other hardware: drivers, boot files, the EFI fallback loader."""

from __future__ import annotations

from coriolis.convert.guest import Guest
from coriolis.convert.linux import edits, inject
from coriolis.convert.linux.family import LinuxFamily
from coriolis.convert.plugin import Facts, Finding, Job, Say, Step, System


def plan(guest: Guest, family: LinuxFamily, system: System, job: Job) -> tuple[list[Step], list[Finding]]:
    """Steps in the order in which they must be done, and what stands in their way."""

    def drivers(facts: Facts, say: Say) -> None:
        done = inject.inject_all(guest, job.platform, say)
        facts.way = "fast"
        facts.kernel_versions = [one.version for one in done]
        facts.modules = sorted({name for one in done for name in one.names})

    def boot_files(facts: Facts, say: Say) -> None:
        edits.edit_boot_files(guest, job.platform, say)

    def loader(facts: Facts, say: Say) -> None:
        edits.add_fallback_loader(guest, say)

    steps = [
        Step("drivers", f"add the drivers of {job.platform.name} to every initramfs", drivers),
        Step("boot-files", "name disks by UUID in fstab and boot entries", boot_files),
    ]
    if job.efi:
        steps.append(Step("loader", "make sure that firmware without boot entries finds a loader", loader))
    return steps, []
