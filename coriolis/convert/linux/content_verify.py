"""Read again what the content steps wrote. Raises Corrupt; trusts nothing that the steps believe but ``facts``."""

from __future__ import annotations

from coriolis.convert.guest import Guest
from coriolis.convert.linux import agents, cloud_init, console, first_boot, network_addressing, network_pins, silence
from coriolis.convert.linux.family import LinuxFamily
from coriolis.convert.linux.installed import has_systemd
from coriolis.convert.plugin import Facts, Job
from coriolis.convert.text import shown
from coriolis.errors import Corrupt


def verify(guest: Guest, family: LinuxFamily, job: Job, facts: Facts) -> None:
    """Names, addresses, silenced agents, datasource, console, and what is left to the first boot."""
    network_pins.verify_pins(guest, facts.pins)
    static = network_addressing.still_static(guest, job.nics)
    if static:
        raise Corrupt(f"addresses were to come by DHCP, but are still static in {shown(static[0])}")
    _verify_agents(guest, job)
    if job.platform.datasources and guest.is_file(cloud_init.DROP_IN):
        cloud_init.verify(guest, job.platform, job.nics)
    elif job.platform.datasources and cloud_init.present(guest):
        raise Corrupt(f"cloud-init is in the guest, but {cloud_init.DROP_IN} is not")
    if job.platform.console:
        silent = console.unchanged(guest, job.platform.console)
        if silent:
            raise Corrupt(f"{shown(silent[0])} does not name the console {job.platform.console}")
    expected = [f"30-user-{n:02d}" for n, _ in enumerate(_first_boot_scripts(job))]
    in_appliance = facts.way == "full" or job.way == "full"
    if any(one.startswith("first boot:") or (one.startswith("bundle:") and not in_appliance) for one in facts.packages):
        expected.append("20-install-packages")
    if family.rebuild and not in_appliance:
        expected.append("40-initramfs")
    first_boot.verify(guest, expected)


def _verify_agents(guest: Guest, job: Job) -> None:
    for one in agents.strangers(guest, job.platform.name):
        loud = [unit for unit in one.units if has_systemd(guest) and not silence.is_silent(guest, unit)]
        if loud:
            raise Corrupt(f"{loud[0]} of {one.agent.name} would still start")


def _first_boot_scripts(job: Job) -> list[str]:
    return [script.name for script in job.scripts if script.phase == "replica_first_boot"]
