"""What a Linux guest should be at its destination: network identity, agents, cloud-init, first boot."""

from __future__ import annotations

from coriolis.convert.guest import Guest
from coriolis.convert.linux import edits
from coriolis.convert.linux.family import LinuxFamily
from coriolis.convert.plugin import Facts, Finding, Job, Say, Step, System


def plan(guest: Guest, family: LinuxFamily, system: System, job: Job) -> tuple[list[Step], list[Finding]]:
    """Steps in the order in which they must be done, and what stands in their way."""

    def network_names(facts: Facts, say: Say) -> None:
        facts.pins = list(edits.pin_network_names(guest, job.nics, say))

    return [Step("network-names", "let each network interface keep its name", network_names)], []
