"""Decides between KVM and emulation by launching a tiny domain: a host may offer /dev/kvm and still not run guests."""

from __future__ import annotations

import os
import time
import uuid
import xml.etree.ElementTree as ET
from typing import Any

import libvirt
import msgspec

from coriolis.errors import CoriolisError
from coriolis.providers.block import sidecar

PROBE_S = 4.0
"""How long a probe must keep running in its firmware; broken KVM stopped within a second where it was seen."""
POLL_S = 0.2
PROBE_MEMORY_MB = 64
_RECORD = "domain-type"


class Verdict(msgspec.Struct, frozen=True):
    """Remembered for one boot of the host."""

    boot_id: str
    domain_type: str


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def offers_kvm(capabilities: str) -> bool:
    """Whether ``virConnectGetCapabilities`` lists KVM guests."""
    return any(domain.get("type") == "kvm" for domain in ET.fromstring(capabilities).iter("domain"))


def probe_xml(name: str) -> str:
    """A diskless KVM domain that stays in its firmware."""
    return (
        f"<domain type='kvm'><name>{name}</name><memory unit='MiB'>{PROBE_MEMORY_MB}</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>"
        "<devices><memballoon model='none'/></devices></domain>"
    )


def _launch_runs(connection: Any) -> bool:
    """Start a transient domain; whether it still runs after ``PROBE_S``. It is always removed."""
    try:
        domain = connection.createXML(probe_xml(f"coriolis-probe-{uuid.uuid4()}"), libvirt.VIR_DOMAIN_START_AUTODESTROY)
    except libvirt.libvirtError:
        return False
    try:
        deadline = time.monotonic() + PROBE_S
        while time.monotonic() < deadline:
            if domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
                return False
            time.sleep(POLL_S)
        return True
    except libvirt.libvirtError:
        return False
    finally:
        try:
            domain.destroy()
        except libvirt.libvirtError:
            pass


def decide(connection: Any, wanted: str, directory: str) -> str:
    """``kvm`` or ``qemu``. ``auto`` probes once per boot of the host and remembers it in ``directory``."""
    if wanted != "auto":
        return wanted
    path = os.path.join(sidecar.folder(directory), _RECORD)
    try:
        data = sidecar.read_bounded(path)
        known = msgspec.json.decode(data, type=Verdict) if data is not None else None
    except (msgspec.MsgspecError, CoriolisError):
        known = None
    if known is not None and known.boot_id == _boot_id():
        return known.domain_type
    chosen = "kvm" if offers_kvm(connection.getCapabilities()) and _launch_runs(connection) else "qemu"
    sidecar.write_atomically(path, msgspec.json.encode(Verdict(_boot_id(), chosen)))
    return chosen
