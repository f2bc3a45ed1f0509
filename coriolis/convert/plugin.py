"""What a plug-in for one kind of guest system is: ``detect``, ``plan``, ``apply``, ``verify``.

A plug-in decides in ``plan``, which reads and never writes, and acts in the steps of that plan; so a preview is a plan
that nobody applies. ``verify`` reads the disk again and trusts nothing that the steps believe.

Standard library only: plug-ins run in the worker process (see ``coriolis.convert``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from coriolis.convert.guest import Guest
from coriolis.convert.platforms import TargetPlatform

Say = Callable[[str], None]
Severity = Literal["info", "warning", "error"]
Addressing = Literal["keep", "dhcp"]
Way = Literal["auto", "fast", "full"]
Phase = Literal["osmorphing_pre_os_mount", "osmorphing_post_os_mount", "replica_first_boot"]


@dataclass(frozen=True, slots=True)
class Nic:
    """``mac``: lower case with colons. ``name``: as the origin's description has it, may be empty or another's name.

    ``addressing``: ``keep`` leaves the addresses that the guest configures, ``dhcp`` replaces them. ``was``: the MAC
    that the guest knows it by, where the destination gives it another; else empty.
    """

    mac: str
    name: str = ""
    addressing: Addressing = "keep"
    was: str = ""


@dataclass(frozen=True, slots=True)
class Script:
    """An operator's script. ``name`` says where it comes from: ``global`` or ``instance``, and its place there."""

    phase: Phase
    name: str
    payload: str


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked of a conversion.

    ``way``: ``fast`` appends drivers to each initramfs and runs no guest code, ``full`` lets the guest's own tools
    rebuild it in the appliance, ``auto`` takes the fast one unless it cannot hold. ``bundle``: a directory of this
    agent with packages by distribution and version, or empty. ``package_network``: the appliance may fetch packages
    from the distribution's repositories. ``passphrases`` open encrypted disks. ``drivers``: a directory of this
    agent with what was unpacked from the operator's virtio-win ISO, or empty.
    """

    platform: TargetPlatform
    nics: tuple[Nic, ...] = ()
    efi: bool = False
    way: Way = "auto"
    scripts: tuple[Script, ...] = ()
    bundle: str = ""
    package_network: bool = False
    passphrases: tuple[str, ...] = ()
    drivers: str = ""


@dataclass(frozen=True, slots=True)
class System:
    """What a guest is. ``distribution`` and ``version`` as os-release gives them; ``title`` is for people."""

    os_type: Literal["linux", "windows", "unknown"]
    family: str
    distribution: str
    version: str
    title: str
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What an operator should know beforehand. An ``error`` means that conversion refuses the guest.

    ``code`` is stable, in capitals. ``action``: what to do about it.
    """

    severity: Severity
    code: str
    message: str
    action: str = ""


@dataclass(slots=True)
class Facts:
    """What the steps did, for the summary. ``pins``: (MAC, interface name). ``packages``: "way: names"."""

    kernel_versions: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    pins: list[tuple[str, str]] = field(default_factory=list)
    way: str = ""
    packages: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that ``apply`` does; safe to repeat. ``title`` is one sentence for the preview."""

    name: str
    title: str
    run: Callable[[Facts, Say], None]


@dataclass(frozen=True, slots=True)
class Plan:
    system: System
    steps: tuple[Step, ...]
    findings: tuple[Finding, ...] = ()


class Plugin(Protocol):
    """One family of guest systems."""

    @property
    def name(self) -> str: ...

    def detect(self, guest: Guest) -> System | None:
        """What the mounted guest is, None when it is not of this family."""
        ...

    def plan(self, guest: Guest, system: System, job: Job) -> Plan:
        """What conversion would do. Reads only. What stands in the way is a finding, not an exception, where the
        guest can still be looked at; Corrupt when it cannot."""
        ...

    def verify(self, guest: Guest, system: System, job: Job, facts: Facts, say: Say) -> None:
        """Read the guest again. Raises Corrupt when something written is not there, Unsupported when the guest
        still depends on its old hardware."""
        ...


def refusal(findings: Sequence[Finding]) -> str:
    """The reasons why a guest is refused, empty when it is not."""
    errors = [f"{one.message}{': ' + one.action if one.action else ''}" for one in findings if one.severity == "error"]
    return "; ".join(errors)
