"""All plug-ins, and the course of a conversion over a mounted guest."""

from __future__ import annotations

from collections.abc import Callable

from coriolis.convert.guest import Guest
from coriolis.convert.linux.plugin import linux_plugins
from coriolis.convert.plugin import Facts, Finding, Job, Plan, Plugin, Say, System, refusal
from coriolis.convert.windows.plugin import WindowsPlugin
from coriolis.errors import Unsupported


def plugins() -> tuple[Plugin, ...]:
    """In the order in which they are asked; the last Linux one takes any Linux."""
    return (WindowsPlugin(), *linux_plugins())


def find_plugin(guest: Guest) -> tuple[Plugin, System]:
    """The first plug-in that knows the guest, and what it says of it. Raises Unsupported."""
    for plugin in plugins():
        system = plugin.detect(guest)
        if system is not None:
            return plugin, system
    raise Unsupported("no plug-in knows the system on the guest's disks; it can be moved with skip_os_morphing")


def plan_guest(guest: Guest, job: Job) -> Plan:
    """What conversion would do, and what it found. Reads only. Raises Unsupported, Corrupt."""
    plugin, system = find_plugin(guest)
    return plugin.plan(guest, system, job)


def preview(mount: Callable[[], Guest], job: Job) -> Plan:
    """``plan_guest`` of what ``mount`` gives.

    What cannot be converted, even mounted, is a plan without steps and one finding that says why; Corrupt passes.
    """
    try:
        return plan_guest(mount(), job)
    except Unsupported as refused:
        unknown = System("unknown", "unknown", "", "", "unknown system")
        why = Finding(
            "error",
            "GUEST_NOT_CONVERTIBLE",
            refused.message,
            "skip_os_morphing moves the machine as it is",
        )
        return Plan(unknown, (), (why,))


def convert_guest(guest: Guest, job: Job, say: Say) -> tuple[System, Facts]:
    """Plan, apply, verify. Raises Unsupported, Corrupt, QuotaExceeded."""
    plugin, system = find_plugin(guest)
    say(f"{system.title} found")
    plan = plugin.plan(guest, system, job)
    for finding in plan.findings:
        say(f"{finding.severity}: {finding.message}{'; ' + finding.action if finding.action else ''}")
    reason = refusal(plan.findings)
    if reason:
        raise Unsupported(reason)
    facts = Facts()
    for step in plan.steps:
        step.run(facts, say)
    plugin.verify(guest, system, job, facts, say)
    return system, facts
