"""What lets a Linux guest find its root on other hardware: drivers, boot files, the EFI fallback loader."""

from __future__ import annotations

from coriolis.convert.guest import Guest
from coriolis.convert.linux import bootconfig, inject, kernels, rebuild, sealed
from coriolis.convert.linux.family import LinuxFamily
from coriolis.convert.plugin import Facts, Finding, Job, Say, Step, System
from coriolis.convert.text import shown
from coriolis.errors import Corrupt, QuotaExceeded, Unsupported


def plan(guest: Guest, family: LinuxFamily, system: System, job: Job) -> tuple[list[Step], list[Finding]]:
    """Steps in the order in which they must be done, and what stands in their way."""
    found = kernels.installed(guest)

    def drivers(facts: Facts, say: Say) -> None:
        for sentence in found.left:
            say(sentence)
        if not _fast(guest, family, job, found, facts, say):
            _full(guest, family, job, found, facts, say)

    def boot_files(facts: Facts, say: Say) -> None:
        bootconfig.edit_boot_files(guest, job.platform, say)
        if facts.way == "full":
            rebuild.rebuild_loader(guest, family, say)
            bootconfig.edit_boot_files(guest, job.platform, say)  # what the guest's tool wrote

    def loader(facts: Facts, say: Say) -> None:
        bootconfig.add_fallback_loader(guest, say)

    how = "by the guest's own tools" if job.way == "full" else "to every initramfs"
    steps = [
        Step("drivers", f"add the drivers of {job.platform.name} {how} ({_names(found)})", drivers),
        Step("boot-files", "name disks by UUID in fstab, crypttab and boot entries", boot_files),
    ]
    if job.efi:
        steps.append(Step("loader", "make sure that firmware without boot entries finds a loader", loader))
    return steps, [*sealed.findings(guest, found), *_kernel_findings(guest, job, found)]


def _fast(guest: Guest, family: LinuxFamily, job: Job, found: kernels.Kernels, facts: Facts, say: Say) -> bool:
    """Whether the fast way was taken. Where it cannot hold and the full way is open, the reason is said."""
    if job.way == "full":
        return False
    try:
        done = inject.inject_all(guest, job.platform, found.images, say)
    except (Unsupported, Corrupt, QuotaExceeded) as error:
        if job.way == "fast" or not rebuild.command_for(guest, family):
            raise
        say(f"the fast way cannot hold, the guest's own tools are used: {error.message}")
        return False
    for version in found.bare:
        say(f"left alone: kernel {shown(version)} has no initramfs")
    facts.way = "fast"
    facts.kernel_versions = [one.version for one in done]
    facts.modules = sorted({name for one in done for name in one.names})
    return True


def _full(guest: Guest, family: LinuxFamily, job: Job, found: kernels.Kernels, facts: Facts, say: Say) -> None:
    bootconfig.list_drivers(guest, job.platform, say)
    images = rebuild.rebuild_all(guest, family, job.platform, found, say)
    facts.way = "full"
    facts.kernel_versions = [one.version for one in images]
    closures = [kernels.needed_modules(guest, job.platform, one.version) for one in images]
    facts.modules = sorted({name for closure in closures for name in closure.names})


def _names(found: kernels.Kernels) -> str:
    names = [shown(one.path) for one in found.images]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none is there yet"


def _kernel_findings(guest: Guest, job: Job, found: kernels.Kernels) -> list[Finding]:
    out = [Finding("info", "GUEST_IMAGE_LEFT", sentence) for sentence in found.left]
    for version in sorted({one.version for one in found.images}):
        try:
            kernels.needed_modules(guest, job.platform, version)
        except Unsupported as error:
            out.append(
                Finding(
                    "error",
                    "GUEST_KERNEL_LACKS_DRIVER",
                    error.message,
                    "install a kernel that has it and remove this one, or choose another target platform",
                )
            )
    return out
