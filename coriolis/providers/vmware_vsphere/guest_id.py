"""vSphere's name for the guest's system (VirtualMachineGuestOsIdentifier). Pure."""

from __future__ import annotations

import difflib

from pyVmomi import vim

from coriolis.convert.text import shown
from coriolis.errors import InvalidInput
from coriolis.model.machine import MachineSpec

KNOWN = frozenset(str(one) for one in vim.vm.GuestOsDescriptor.GuestOsIdentifier.values)
_BY_WORD = (
    ("ubuntu", "ubuntu64Guest"),
    ("debian", "debian10_64Guest"),
    ("centos", "centos7_64Guest"),
    ("rocky", "rhel8_64Guest"),
    ("alma", "rhel8_64Guest"),
    ("oracle", "oracleLinux64Guest"),
    ("rhel", "rhel7_64Guest"),
    ("redhat", "rhel7_64Guest"),
    ("opensuse", "opensuse64Guest"),
    ("sles", "sles12_64Guest"),
    ("fedora", "fedora64Guest"),
)
"""Old enough that every supported vSphere knows them; what they change is only the machine's defaults."""
_BY_SYSTEM = {
    "linux": "otherLinux64Guest",
    "windows": "windows9Server64Guest",
    "bsd": "freebsd64Guest",
    "solaris": "solaris11_64Guest",
    "osx": "darwin16_64Guest",
    "other": "otherGuest64",
}


def guest_id_of(spec: MachineSpec, wanted: str) -> str:
    """``wanted`` by the user, or the origin's own when vSphere has it, or the nearest. Raises InvalidInput."""
    if wanted:
        if wanted not in KNOWN:
            near = ", ".join(difflib.get_close_matches(wanted, sorted(KNOWN), 5, 0.4)) or "see docs"
            raise InvalidInput(f"guest_id {shown(wanted)} is none of vSphere's; near to it: {near}")
        return wanted
    if spec.guest_id in KNOWN:
        return spec.guest_id
    hint = spec.guest_id.lower()
    if spec.os_type == "linux":
        return next((known for word, known in _BY_WORD if word in hint), _BY_SYSTEM["linux"])
    return _BY_SYSTEM[spec.os_type]
