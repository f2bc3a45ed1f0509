from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import coriolis
from coriolis.convert.request import ConversionOptions, NicIdentity, is_mac, request_for
from coriolis.model.machine import Devices, MachineSpec, Nic


def test_a_request_from_a_machine_spec() -> None:
    nics = (Nic("net", "00:50:56:9A:11:22", name="ens192"), Nic("net", None), Nic("net", "00:50:56:9a:11:23"))
    spec = MachineSpec("i", "vm", 1, 512, devices=Devices(nics=nics), firmware_type="EFI")
    request = request_for(spec, "kvm", "replica")
    assert request.nics == (NicIdentity("00:50:56:9a:11:22", "ens192"), NicIdentity("00:50:56:9a:11:23"))
    assert (request.os_type, request.firmware_type, request.replica_identity) == ("linux", "EFI", "replica")


def test_macs_that_the_destination_gives_instead() -> None:
    """Where it keeps them nothing changed; addressing is asked for by the origin's."""
    first, second, new = "00:50:56:9a:11:22", "00:50:56:9a:11:23", "fa:16:3e:00:00:01"
    nics = (Nic("net", first.upper()), Nic("net", second), Nic("net", None))
    spec = MachineSpec("i", "vm", 1, 512, devices=Devices(nics=nics))
    options = ConversionOptions(nics={first: "dhcp"})
    request = request_for(spec, "kvm", "replica", options, macs=(new, second, "fa:16:3e:00:00:02"))
    assert request.nics == (
        NicIdentity(new, addressing="dhcp", was=first),
        NicIdentity(second),
        NicIdentity("fa:16:3e:00:00:02"),
    )


def test_the_worker_needs_nothing_but_the_standard_library() -> None:
    """It may run under a Python that has libguestfs and none of our dependencies."""
    command = [sys.executable, "-S", "-P", "-c", "import coriolis.convert.guest_worker"]
    top = str(Path(coriolis.__file__).parent.parent)
    done = subprocess.run(command, env={"PYTHONPATH": top}, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr


MAC = "00:50:56:9a:11:22"


@pytest.mark.parametrize(("text", "good"), [(MAC, True), (MAC.upper(), False), (MAC + "\n", False), ("x", False)])
def test_macs(text: str, good: bool) -> None:
    assert is_mac(text) is good
