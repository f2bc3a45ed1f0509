"""What a Linux guest should be at its destination: network identity, agents, cloud-init, console, first boot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coriolis.convert.guest import Guest
from coriolis.convert.linux import (
    agents,
    cloud_init,
    console,
    first_boot,
    network_addressing,
    network_pins,
    packages,
    selinux,
    silence,
    user_scripts,
)
from coriolis.convert.linux.content_verify import verify
from coriolis.convert.linux.family import LinuxFamily
from coriolis.convert.plugin import Facts, Finding, Job, Say, Step, System
from coriolis.convert.text import shown

__all__ = ["plan", "plan_scripts", "verify"]

REMOVE, INSTALL, REBUILD = "10-remove-packages", "20-install-packages", "40-initramfs"


def plan_scripts(guest: Guest, job: Job) -> tuple[list[Step], list[Finding]]:
    """The operator's scripts that run before anything of ours, in the guest's tree."""
    after_mount = [script for script in job.scripts if script.phase == "osmorphing_post_os_mount"]

    def run(facts: Facts, say: Say) -> None:
        for script in after_mount:
            user_scripts.run_in_tree(guest, script, say)

    steps = [Step("scripts", f"run {len(after_mount)} scripts in the guest's tree", run)] if after_mount else []
    return steps, user_scripts.findings(job.scripts)


def plan(guest: Guest, family: LinuxFamily, system: System, job: Job) -> tuple[list[Step], list[Finding]]:
    """Steps in the order in which they must be done, and what stands in their way."""
    content = _Content(guest, family, system, job)
    return content.steps(), content.findings()


class _Content:
    """The steps share what is left to the first boot: ``scripts``, by file name."""

    def __init__(self, guest: Guest, family: LinuxFamily, system: System, job: Job) -> None:
        self._guest, self._family, self._system, self._job = guest, family, system, job
        self._pins = network_pins.planned_pins(guest, job.nics)
        self._strangers = agents.strangers(guest, job.platform.name)
        self._needs = packages.needs(guest, family, system, job)
        self._scripts: dict[str, bytes] = {}

    def findings(self) -> list[Finding]:
        found = list(network_addressing.planned(self._guest, self._job.nics).findings)
        for message in self._pins.messages if self._job.nics else ():
            found.append(Finding("warning", "NIC_UNMATCHED", message, "look at the network after the first start"))
        first = [need.name for need in self._needs if need.way == "first boot"]
        if first:
            found.append(
                Finding(
                    "info",
                    "PACKAGES_AT_FIRST_BOOT",
                    f"{', '.join(first)} will be installed at the first start, if the guest reaches its repositories",
                    "a bundle of packages, or network for the appliance, installs them sooner",
                )
            )
        return found

    def steps(self) -> list[Step]:
        job = self._job
        pins = len(self._pins.pairs)
        steps = [Step("network-names", f"bind the names of {pins} network interfaces to their MACs", self._pin)]
        dynamic = [nic.mac for nic in job.nics if nic.addressing == "dhcp"]
        if dynamic:
            steps.append(Step("addresses", f"turn {', '.join(dynamic)} to DHCP", self._address))
        if self._strangers:
            names = ", ".join(one.agent.name for one in self._strangers)
            steps.append(Step("agents", f"stop and remove {names}", self._remove_agents))
        if self._needs:
            ways = ", ".join(f"{need.name} ({need.way})" for need in self._needs)
            steps.append(Step("packages", f"install {ways}", self._install))
        if wants_cloud_init(self._guest, job, self._needs):
            title = f"let cloud-init ask {', '.join(job.platform.datasources)}"
            steps.append(Step("cloud-init", title, self._configure_cloud_init))
        if job.platform.console:
            steps.append(Step("console", f"show the console on {job.platform.console}", self._add_console))
        steps.append(Step("first-boot", "leave to the first start what only the guest can do", self._lay_down))
        return [*steps, Step("labels", "let SELinux label what is new, where it is on", self._label)]

    def _pin(self, facts: Facts, say: Say) -> None:
        facts.pins = network_pins.pin_names(self._guest, self._job.nics, say)

    def _address(self, facts: Facts, say: Say) -> None:
        network_addressing.apply(self._guest, self._job.nics, say)

    def _runs_guest_code(self, facts: Facts) -> bool:
        return self._job.way == "full" or facts.way == "full"

    def _remove_agents(self, facts: Facts, say: Say) -> None:
        tool = self._family.package_tool
        for one in self._strangers:
            say(f"{one.agent.name} belongs to another platform")
            silence.silence(self._guest, one.units, one.agent.services, say)
        names = _unique(name for one in self._strangers for name in one.packages)
        if names and tool and self._runs_guest_code(facts) and packages.remove(self._guest, tool, names, say):
            say(f"removed: {', '.join(map(shown, names))}")
            names = []
        uninstallers = [one.agent.uninstall for one in self._strangers if one.agent.uninstall]
        if (names and tool) or uninstallers:
            units = _unique(unit for one in self._strangers for unit in one.units)
            self._scripts[REMOVE] = first_boot.removal_script(tool, names, units, uninstallers)

    def _install(self, facts: Facts, say: Say) -> None:
        later: list[str] = []
        for need in self._needs:
            way = self._install_one(need, facts, say)
            files = [one.path.name for one in need.files]
            done = [f"{way}: {', '.join(map(shown, files or need.packages))}"]
            facts.packages += done
            say(f"{need.name} by {done[0]}")
            if way != "repositories" and not (way == "bundle" and self._runs_guest_code(facts)):
                later += need.packages
        if later:
            self._scripts[INSTALL] = first_boot.install_script(self._family.package_tool, later)

    def _install_one(self, need: packages.Need, facts: Facts, say: Say) -> packages.Way:
        """The way that was taken in the end."""
        if need.way == "bundle":
            paths = packages.stage(self._guest, need.files)
            if self._runs_guest_code(facts):
                done = packages.install_files(self._guest, self._family.package_tool, paths, say)
                return "bundle" if done else "first boot"
            return "bundle"
        if need.way == "repositories" and packages.install_from_repositories(self._guest, need.packages, say):
            return "repositories"
        return "first boot"

    def _configure_cloud_init(self, facts: Facts, say: Say) -> None:
        cloud_init.configure(self._guest, self._job.platform, self._job.nics, say)

    def _add_console(self, facts: Facts, say: Say) -> None:
        console.add_consoles(self._guest, self._job.platform.console, say)

    def _lay_down(self, facts: Facts, say: Say) -> None:
        own = [script for script in self._job.scripts if script.phase == "replica_first_boot"]
        for number, script in enumerate(own):
            self._scripts[f"30-user-{number:02d}"] = user_scripts.executable(script)
            say(f"script {shown(script.name)} runs at the first start")
        if self._family.rebuild and not self._runs_guest_code(facts):
            self._scripts[REBUILD] = first_boot.rebuild_script(self._family.rebuild)
        first_boot.lay_down(self._guest, dict(sorted(self._scripts.items())), say)

    def _label(self, facts: Facts, say: Say) -> None:
        selinux.request_relabel(self._guest, say)


def wants_cloud_init(guest: Guest, job: Job, needs: Sequence[packages.Need]) -> bool:
    """Whether the platform hands out metadata that cloud-init, there or to come, can ask for."""
    coming = any(need.name == "cloud-init" for need in needs)
    return bool(job.platform.datasources) and (coming or cloud_init.present(guest))


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
