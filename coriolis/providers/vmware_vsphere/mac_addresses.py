"""Which MAC addresses the NICs of a migrated machine get, known before it is made: the guest is converted for them.

Manual addresses, VMware's reserved prefixes and its range for static ones: vSphere Networking, "Assign a Static MAC
Address" and "VMware OUI Allocation".
"""

from __future__ import annotations

import re
from collections.abc import Collection
from hashlib import sha256
from typing import Any

from pyVmomi import vim

from coriolis.errors import QuotaExceeded
from coriolis.model.resource import InstanceRequest
from coriolis.providers.vmware_vsphere.properties import all_of

STATIC_PREFIX = "00:50:56"
STATIC_LAST = 0x3F
"""Of the fourth byte: 00:50:56:00:00:00 to 00:50:56:3f:ff:ff may be stated by hand, VMware gives out the rest."""
_RESERVED = (STATIC_PREFIX, "00:0c:29", "00:05:69", "00:1c:14")
MAX_TRIES = 64
"""Addresses looked at for one NIC before the range counts as full: of 4 million, half would have to be taken."""
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def manual_mac(mac: str | None) -> str:
    """``mac``, lower case, when vSphere starts a machine that has it as its manual address, else empty."""
    lowered = (mac or "").lower()
    if not _MAC.fullmatch(lowered):
        return ""
    octets = bytes.fromhex(lowered.replace(":", ""))
    static = lowered.startswith(STATIC_PREFIX) and octets[3] <= STATIC_LAST
    reserved = lowered[:8] in _RESERVED and not static
    return "" if reserved or octets[0] & 1 or not any(octets) else lowered


def as_template(request: InstanceRequest) -> bool:
    """Whether a template is wanted: as the user says, else as the origin was one."""
    return bool(request.environment.get("as_template", request.spec.is_template))


def kept_macs(request: InstanceRequest) -> list[str]:
    """The origin's address of each NIC, empty where it is not kept: vSphere does not take it, or the user says so."""
    keeps = request.environment.get("keep_mac", True)
    return [manual_mac(nic.mac_address) if keeps else "" for nic in request.spec.devices.nics]


def needs_others(request: InstanceRequest) -> bool:
    """Whether the machine has a NIC for which an address must be chosen. A template has none: vSphere generates one for
    each machine that is made of it."""
    return not as_template(request) and not all(kept_macs(request))


def macs_of(request: InstanceRequest, taken: Collection[str]) -> tuple[str, ...]:
    """The address that each NIC gets as a manual one; empty: vSphere is to generate it, which only a template wants.

    What is not kept is derived from the machine's id, and thus the job, and the NIC's number, among the static ones.
    ``taken``: addresses of other machines, lower case. Raises QuotaExceeded when the range is full of them.
    """
    found = kept_macs(request)
    if not needs_others(request):
        return tuple(found)
    used = {*taken, *found}
    for number, mac in enumerate(found):
        if not mac:
            found[number] = _static(request.instance_id, number, used)
            used.add(found[number])
    return tuple(found)


def _static(instance_id: str, number: int, used: Collection[str]) -> str:
    for attempt in range(MAX_TRIES):
        octets = sha256(f"{instance_id}/nic-{number}/{attempt}".encode()).digest()
        mac = f"{STATIC_PREFIX}:{octets[0] & STATIC_LAST:02x}:{octets[1]:02x}:{octets[2]:02x}"
        if mac not in used:
            return mac
    raise QuotaExceeded(
        f"NIC {number}: other machines have all {MAX_TRIES} of VMware's static MAC addresses that were tried: give the "
        "machine at the origin an address that is not VMware's"
    )


def macs_of_others(content: Any, instance_id: str) -> set[str]:
    """Addresses of every machine but that one, as far as this user sees them, lower case. Blocking: the devices of all
    machines are read in pages, for no index of vSphere knows addresses."""
    paths = ["config.instanceUuid", "config.hardware.device"]
    return {
        str(device.macAddress).lower()
        for _, values in all_of(content, vim.VirtualMachine, paths)
        if values.get("config.instanceUuid") != instance_id
        for device in values.get("config.hardware.device") or ()
        if isinstance(device, vim.vm.device.VirtualEthernetCard) and device.macAddress
    }
