"""What a converted Windows has, for one job: edits of its hives, and files. Steps make it so, ``verify`` compares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from coriolis.convert.guest import Guest
from coriolis.convert.plugin import Finding, Job
from coriolis.convert.text import shown
from coriolis.convert.windows import boot_edits, first_boot, network, network_script, origin_agents
from coriolis.convert.windows.bundle import BundleFile, bundle_files
from coriolis.convert.windows.pack import Pack, PackedDriver, PackFile
from coriolis.convert.windows.paths import DRIVE, WINDOWS, Places
from coriolis.convert.windows.platform_needs import NEEDS, VIRTIO_DRIVERS, WindowsNeeds
from coriolis.convert.windows.registry import Edit
from coriolis.convert.windows.state import WindowsState
from coriolis.errors import InvalidInput

DRIVERS = f"{WINDOWS}/Drivers/VirtIO"
SYSTEM_DRIVERS = f"{WINDOWS}/System32/drivers"
POWERSHELL = f"{WINDOWS}/System32/WindowsPowerShell/v1.0/powershell.exe"
SPARE_BYTES = 64 << 20
"""Left free on the Windows drive beside what is written."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """``path`` in the guest; ``data`` reads the content and checks its source."""

    path: str
    sha256: str
    size: int
    data: Callable[[], bytes]


@dataclass(slots=True)
class Wanted:
    system: list[Edit] = field(default_factory=list)
    software: list[Edit] = field(default_factory=list)
    drivers: list[NewFile] = field(default_factory=list)
    first_boot: list[NewFile] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    pins: list[tuple[str, str]] = field(default_factory=list)

    def refuse(self, code: str, message: str, action: str = "") -> None:
        self.findings.append(Finding("error", code, message, action))


def wanted(guest: Guest, state: WindowsState, job: Job) -> Wanted:
    """Reads only. The same again for a guest that has it all."""
    needs = NEEDS.get(job.platform.name)
    result = Wanted()
    if needs is None:
        result.refuse("PLATFORM_UNKNOWN", f"nothing is known of Windows on {job.platform.name}")
        return result
    pack, places = _pack(job, result), Places(guest)
    _boot(state, needs, job, result)
    _pack_drivers(places, state, needs, pack, result)
    scripts: dict[str, bytes] = {}
    _bundled_drivers(places, state, needs, job, result)
    if result.drivers:
        result.software.append(boot_edits.device_path_edit(state.software))
        scripts["100-drivers.ps1"] = first_boot.powershell(first_boot.DRIVERS)
    _addresses(state, job, result, scripts)
    _agents(places, state, needs, job, pack, result, scripts)
    _user_scripts(job, result, scripts)
    _first_boot(guest, places, state, result, scripts)
    _room(guest, result)
    return result


def _pack(job: Job, result: Wanted) -> Pack | None:
    try:
        return Pack(Path(job.drivers)) if job.drivers else None
    except InvalidInput as error:
        result.refuse("DRIVER_PACK_UNUSABLE", error.message, "give the virtio-win ISO again")
        return None


def _boot(state: WindowsState, needs: WindowsNeeds, job: Job, result: Wanted) -> None:
    database = state.version.has_driver_database
    for driver in needs.boot_drivers:
        result.system += boot_edits.boot_driver_edits(state.control_sets, driver, database)
        result.modules.append(driver.name)
    edits, missing = boot_edits.in_box_edits(state.system, state.control_sets, needs, database)
    result.system += edits + boot_edits.crash_edits(state.control_sets)
    result.system += boot_edits.agent_edits(state.system, state.control_sets, origin_agents.foreign(needs.native))
    result.modules += [name for name in needs.in_box if name not in missing]
    if state.version.build < needs.oldest:
        result.refuse("WINDOWS_TOO_OLD", needs.oldest_why, f"choose another destination than {job.platform.name}")
    elif missing:
        result.refuse(
            "DRIVER_ABSENT", f"this Windows lacks its own driver {', '.join(missing)}, which {job.platform.name} needs"
        )
    if job.platform.name == "hyperv" and job.efi and not database:
        result.refuse("GENERATION_2", "Windows before 8 does not start in a machine of generation 2 (UEFI)")
    if job.platform.name == "vmware":
        message = "the disk must be on an LSI Logic SAS controller: pvscsi and vmxnet3 come with VMware Tools"
        result.findings.append(Finding("info", "VMWARE_TOOLS", message, "install VMware Tools after the migration"))


def _pack_drivers(places: Places, state: WindowsState, needs: WindowsNeeds, pack: Pack | None, result: Wanted) -> None:
    if not needs.needs_pack:
        return
    if pack is None:
        if not result.findings or result.findings[0].code != "DRIVER_PACK_UNUSABLE":
            message = "Windows has no virtio drivers, and this agent was given no virtio-win ISO"
            result.refuse("DRIVER_PACK_ABSENT", message, "set the path of a virtio-win ISO at the agent")
        return
    version = state.version
    required = {driver.name.lower() for driver in needs.boot_drivers} | {name.lower() for name in needs.packed}
    absent = []
    files: dict[str, PackFile] = {}
    for name in VIRTIO_DRIVERS:
        driver = pack.find(name, version.folder, version.architecture)
        if driver is None:
            absent += [name] if name.lower() in required else []
            continue
        _add_driver(places, pack, driver, files, result)
        if name.lower() in (one.name for one in needs.boot_drivers) and not driver.embedded_signature:
            message = f"{name}.sys carries no signature of its own: Windows may refuse to start with it"
            result.findings.append(Finding("warning", "DRIVER_SIGNATURE", message, "use a signed virtio-win release"))
    if absent:
        where = f"{version.folder}/{version.architecture}"
        message = f"the driver pack ({shown(pack.source)}) has no usable {', '.join(absent)} for {where}"
        result.refuse(
            "DRIVER_ABSENT", message, "use a virtio-win ISO that has them (its notes name the Windows versions)"
        )


def _add_driver(places: Places, pack: Pack, driver: PackedDriver, files: dict[str, PackFile], result: Wanted) -> None:
    for name, file in driver.files.items():
        known = files.setdefault(name.lower(), file)
        if known.sha256 != file.sha256:
            message = f"{shown(name)} of {driver.driver} differs from another driver's file of the same name"
            result.refuse("DRIVER_FILES_DIFFER", message, "use another release of virtio-win")
        elif known is file:
            targets = [DRIVERS] + ([SYSTEM_DRIVERS] if name.lower().endswith(".sys") else [])
            result.drivers += [
                NewFile(places(f"{top}/{name.lower()}"), file.sha256, file.size, partial(pack.read, file))
                for top in targets
            ]
    result.packages.append(f"driver pack: {driver.driver} {driver.version}")


def _bundled_drivers(places: Places, state: WindowsState, needs: WindowsNeeds, job: Job, result: Wanted) -> None:
    found = bundle_files(job.bundle, f"windows/drivers/{job.platform.name}/{state.version.architecture}")
    if needs.bundled and not any(one.name.lower().endswith(".inf") for one in found):
        message = f"Windows has no network driver for {job.platform.name}, and the bundle brings none"
        where = f"windows/drivers/{job.platform.name}/{state.version.architecture}"
        result.refuse("DRIVER_BUNDLE_ABSENT", message, f"put its files (.inf, .sys, .cat) into {where} of the bundle")
    result.drivers += [_from_bundle(places, one, DRIVERS) for one in found]
    result.packages += [f"bundle: {one.name}" for one in found if one.name.lower().endswith(".inf")]


def _from_bundle(places: Places, file: BundleFile, top: str) -> NewFile:
    return NewFile(places(f"{top}/{file.name}"), file.sha256, file.size, file.read)


def _addresses(state: WindowsState, job: Job, result: Wanted, scripts: dict[str, bytes]) -> None:
    settings, findings = network.settings(network.adapters(state.system, state.current), job.nics)
    result.findings += findings
    text = network_script.script(settings)
    if text:
        scripts["200-network.ps1"] = first_boot.powershell(text)
    for one in settings:
        addresses = one.addresses.addresses if one.addresses else ()
        result.pins.append((one.mac, ", ".join(f"{ip}/{bits}" for ip, bits in addresses) or "dhcp"))


def _agents(
    places: Places,
    state: WindowsState,
    needs: WindowsNeeds,
    job: Job,
    pack: Pack | None,
    result: Wanted,
    scripts: dict[str, bytes],
) -> None:
    programs, stay = origin_agents.installed(state.software, origin_agents.foreign(needs.native))
    if programs:
        scripts["300-origin-agents.ps1"] = first_boot.powershell(first_boot.removal(programs))
    for title in stay:
        message = f"{shown(title)} has no uninstaller that runs by itself"
        result.findings.append(Finding("warning", "AGENT_STAYS", message, "remove it by hand"))
    agent = pack.agent(state.version.architecture) if pack and needs.qemu_agent else None
    if pack and agent:
        name = "qemu-ga.msi"
        target = places(f"{first_boot.PACKAGES}/{name}")
        result.first_boot.append(NewFile(target, agent.sha256, agent.size, partial(pack.read, agent)))
        scripts["400-qemu-guest-agent.ps1"] = first_boot.powershell(first_boot.install_msi(name))
        result.packages.append("first boot: qemu-guest-agent")
    found = bundle_files(job.bundle, f"windows/cloudbase-init/{state.version.architecture}")
    installer = next((one for one in found if one.name.lower().endswith(".msi")), None)
    if installer and needs.metadata:
        target = places(f"{first_boot.PACKAGES}/cloudbase-init.msi")
        result.first_boot.append(NewFile(target, installer.sha256, installer.size, installer.read))
        text = first_boot.install_cloudbase("cloudbase-init.msi", needs.metadata)
        scripts["500-cloudbase-init.ps1"] = first_boot.powershell(text)
        result.packages.append("first boot: cloudbase-init")
    elif "cloud-init" in job.platform.agents:
        where = f"windows/cloudbase-init/{state.version.architecture}"
        message = "cloudbase-init is not installed: the bundle has no installer of it"
        result.findings.append(Finding("info", "CLOUDBASE_ABSENT", message, f"put its .msi into {where} of the bundle"))


def _user_scripts(job: Job, result: Wanted, scripts: dict[str, bytes]) -> None:
    for one in job.scripts:
        if one.phase == "osmorphing_post_os_mount":
            message = f"the script {shown(one.name)} is not run in the mounted guest: nothing runs Windows code there"
            action = "give it as a script of phase replica_first_boot"
            result.findings.append(Finding("warning", "SCRIPT_PHASE", message, action))
    chosen = [one for one in job.scripts if one.phase == "replica_first_boot"]
    if len(chosen) > first_boot.MAX_SCRIPTS:
        result.refuse("SCRIPTS_TOO_MANY", f"{len(chosen)} scripts for the first boot, at most {first_boot.MAX_SCRIPTS}")
    scripts.update(first_boot.user_script(one, number) for number, one in enumerate(chosen))


def _first_boot(guest: Guest, places: Places, state: WindowsState, result: Wanted, scripts: dict[str, bytes]) -> None:
    if not scripts:
        return
    if not guest.is_file(places(POWERSHELL)):
        names = ", ".join(sorted(scripts))
        result.refuse("POWERSHELL_ABSENT", f"this Windows has no PowerShell, which the first boot needs for: {names}")
    files = {
        "firstboot.cmd": first_boot.command_file(first_boot.LAUNCHER),
        "run.ps1": first_boot.powershell(first_boot.RUNNER),
        **{f"scripts/{name}": data for name, data in scripts.items()},
    }
    result.first_boot += [_text_file(places(f"{first_boot.TOP}/{name}"), data) for name, data in files.items()]
    result.system += first_boot.service_edits(state.control_sets)


def _text_file(path: str, data: bytes) -> NewFile:
    return NewFile(path, hashlib.sha256(data).hexdigest(), len(data), lambda: data)


def _room(guest: Guest, result: Wanted) -> None:
    needed = sum(one.size for one in (*result.drivers, *result.first_boot)) + SPARE_BYTES
    free = guest.free_bytes(DRIVE)
    if free < needed:
        message = f"the Windows drive has {free >> 20} MiB free, {needed >> 20} MiB are needed"
        result.refuse("NO_ROOM", message, "free space on it")
