"""A simulated vSphere site with machines that have real bytes: ``with vsphere_site() as site``.

vcsim (govmomi's) behind a proxy of ours; what of it is real and what phony is told in ``vsphere_phony_cbt``. As a
process of its own it serves demonstrations and kill tests: ``python -m tests.lab.vsphere_site --listen 127.0.0.1:8989
--machine web=disk.qcow2`` prints one JSON line and runs until its input ends.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim

from tests.lab.vcsim import PASSWORD, USER, vcsim
from tests.lab.vsphere_machine_spec import (
    LabDisk,
    LabNic,
    devices,
    escaped,
    fill,
    lab_disk,
    nics,
    size_of,
    tools_options,
)
from tests.lab.vsphere_phony_cbt import Call, PhonyVcenter
from tests.lab.vsphere_phony_certificate import certificate
from tests.lab.vsphere_phony_disks import PhonyDisk
from tests.lab.vsphere_phony_faults import Faults
from tests.lab.vsphere_phony_machines import Machine, Machines


class Site:
    """Machines are told by name or by id (``vm-42``), disks by their place in order of device keys or by the key.

    ``vcenter``: the proxy, for what is set on it directly (``folder_locks``, ``nfc_needs_login``).
    """

    def __init__(
        self,
        vcenter: PhonyVcenter,
        machines: Machines,
        address: tuple[str, int],
        identity: x509.Certificate,
    ) -> None:
        self.vcenter, self.machines = vcenter, machines
        self.host, self.port = address
        self.certificate_pem = identity.public_bytes(serialization.Encoding.PEM).decode()
        digest = identity.fingerprint(hashes.SHA1()).hex().upper()
        self.thumbprint = ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))
        self._ids: dict[str, str] = {}

    # how to reach it

    def connection_info(self, **changes: Any) -> dict[str, Any]:
        """Of a user who trusts this one certificate."""
        own = {"host": self.host, "port": self.port, "username": USER, "password": PASSWORD}
        return {**own, "thumbprint": self.thumbprint, **changes}

    @property
    def faults(self) -> Faults:
        return self.vcenter.faults

    @property
    def calls(self) -> deque[Call]:
        """What clients asked, oldest first: (``SOAP Method vm-1`` or ``GET /folder/...``, Range header, status)."""
        return self.vcenter.calls

    def count(self, part: str) -> int:
        """Requests whose text holds this."""
        return sum(part in call.request for call in list(self.calls))

    # an administrator's doings

    def add_machine(
        self,
        name: str,
        disks: Sequence[LabDisk | bytes | Path | int] = (),
        *,
        guest_id: str = "debian12_64Guest",
        firmware: str = "bios",
        secure_boot: bool = False,
        running: bool = False,
        template: bool = False,
        tools: str = "running",
        folder: str = "",
        directory: str = "",
        nics_: Sequence[LabNic | str] = (LabNic(),),
        cpus: int = 1,
        memory_mb: int = 512,
        version: str = "vmx-19",
        ip: str = "",
        hostname: str = "",
        cbt: bool = False,
    ) -> str:
        """The id (``vm-42``) of a new machine with these disks (an int is a size).

        ``name`` as people write it; ``folder``: path below the datacenter's, made when absent; ``directory`` of the
        datastore, by default like the name; ``tools``: ``running``, ``stopped`` or ``none``.
        """
        wanted = [lab_disk(disk) for disk in disks]
        plain = re.sub(r"[/\\%]", "_", name)
        directory = directory or plain
        datastore = self.machines.all(vim.Datastore)[0].name
        base = f"[{datastore}] {directory}"
        config = vim.vm.ConfigSpec(
            name=plain,
            guestId=guest_id,
            firmware=firmware,
            bootOptions=vim.vm.BootOptions(efiSecureBootEnabled=secure_boot),
            numCPUs=cpus,
            memoryMB=memory_mb,
            version=version,
            changeTrackingEnabled=cbt,
            files=vim.vm.FileInfo(vmPathName=f"{base}/{directory}.vmx"),
            deviceChange=[
                *devices(wanted, [size_of(disk) for disk in wanted], base),
                *nics([LabNic(nic) if isinstance(nic, str) else nic for nic in nics_], self._networks()),
            ],
        )
        clusters = self.machines.all(vim.ClusterComputeResource)
        pool = clusters[0].resourcePool if clusters else self.machines.all(vim.ResourcePool)[0]
        vm = self.machines.wait(self._folder(folder).CreateVM_Task(config=config, pool=pool))
        if name != plain:  # vcsim cannot create a machine with devices under a name that has to be escaped
            self.machines.wait(vm.Rename_Task(escaped(name)))
        self._ids[name] = vm._moId
        machine = self.machines.machine(vm._moId)
        for disk, placed in zip(wanted, self._in_order(machine, wanted), strict=True):
            fill(placed.flat, disk.content)
        self.set_tools(vm._moId, tools, ip, hostname)
        if running:
            self.power(vm._moId, True)
        if template:
            vm.MarkAsTemplate()
        return str(vm._moId)

    def set_tools(self, vm: str, tools: str, ip: str = "", hostname: str = "") -> None:
        identity, extra = self.id(vm), tools_options(tools, ip, hostname)
        self.machines.wait(self._vm(identity).ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=extra)))
        toolless = self.vcenter.answers.toolless
        (toolless.discard if tools == "running" else toolless.add)(identity)

    def stubborn(self, vm: str, on: bool = True) -> None:
        """Its guest ignores a shutdown."""
        ids = self.vcenter.answers.stubborn
        (ids.add if on else ids.discard)(self.id(vm))

    def fail_quiesce(self, vm: str, on: bool = True) -> None:
        """A quiesced snapshot ends in ApplicationQuiesceFault."""
        self.vcenter.simulator.command("quiesce", id=self.id(vm), fail=on)

    def power(self, vm: str, on: bool) -> None:
        one = self._vm(vm)
        self.machines.wait(one.PowerOnVM_Task() if on else one.PowerOffVM_Task())
        if on:
            with self.machines.lock:
                machine = self.machines.machine(self.id(vm))
                if not machine.moments:
                    self.machines.stunned(machine)
                self.machines.tell(machine)

    def is_running(self, vm: str) -> bool:
        return self.vcenter.answers.is_running(self.id(vm))

    def rename(self, vm: str, name: str) -> None:
        identity = self.id(vm)
        self.machines.wait(self._vm(identity).Rename_Task(escaped(name)))
        self._ids = {known: one for known, one in self._ids.items() if one != identity} | {name: identity}

    def move(self, vm: str) -> None:
        """To another host of its cluster. Raises ValueError when there is none."""
        identity = self.id(vm)
        now = self.machines.properties(self._vm(identity), "runtime.host")["runtime.host"]
        cluster = self.machines.properties(now, "parent")["parent"]
        others = [one for one in self.machines.properties(cluster, "host")["host"] if one._moId != now._moId]
        if not others:
            raise ValueError("the cluster has one host")
        self.machines.wait(self._vm(identity).RelocateVM_Task(vim.vm.RelocateSpec(host=others[0])))

    def grow(self, vm: str, disk: int, size: int) -> None:
        """As an administrator does between passes; refused while a snapshot stands."""
        with self.machines.lock:
            placed = self._placed(vm, disk)
            if placed.deltas or size < placed.size or size % 1024:
                raise ValueError("a disk grows by whole KiB, and only while no snapshot stands")
            listed = self.machines.properties(self._vm(vm), "config.hardware.device")["config.hardware.device"]
            device = next(one for one in listed if one.key == placed.key)
            device.capacityInKB, device.capacityInBytes = size // 1024, size
            change = vim.vm.device.VirtualDeviceSpec(operation="edit", device=device)
            self.machines.wait(self._vm(vm).ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))
            self.machines.tell(self.machines.machine(self.id(vm)))

    def snapshot(self, vm: str, name: str) -> str:
        """Somebody else's; its id."""
        identity = self.id(vm)
        with self.machines.lock:
            self.machines.machine(identity)
            made = self.machines.wait(self._vm(identity).CreateSnapshot_Task(name, "", False, False))
            self.machines.froze(identity, made._moId)
            return str(made._moId)

    def remove_snapshot_behind(self, vm: str, name: str) -> None:
        """Of the oldest snapshot of that name, and only that. Raises KeyError."""
        with self.machines.lock:
            identity = next((one for one, called in self._snapshots(vm) if called == name), None)
            if identity is None:
                raise KeyError(name)
            machine = self.machines.machine(self.id(vm))
            self.machines.wait(self.machines.object(vim.vm.Snapshot, identity).RemoveSnapshot_Task(False))
            self.machines.removed(machine, [identity])

    def snapshots(self, vm: str) -> list[str]:
        """Names of those that stand, oldest first."""
        return [name for _, name in self._snapshots(vm)]

    def enable_tracking(self, vm: str, on: bool = True) -> None:
        """Like ReconfigVM_Task with ``changeTrackingEnabled``: disks follow with the next stun."""
        spec = vim.vm.ConfigSpec(changeTrackingEnabled=on)
        self.machines.wait(self._vm(vm).ReconfigVM_Task(spec))
        self.machines.machine(self.id(vm))

    def reset_tracking(self, vm: str) -> None:
        """As a loss of power does: every change id from before is foreign from now on."""
        with self.machines.lock:
            machine = self.machines.machine(self.id(vm))
            for disk in machine.disks.values():
                disk.track()
            self.machines.tell(machine)

    def add_network(self, name: str) -> None:
        """A standard port group on every host."""
        for host in self.machines.all(vim.HostSystem):
            spec = vim.host.PortGroup.Specification(
                name=name, vlanId=0, vswitchName="vSwitch0", policy=vim.host.NetworkPolicy()
            )
            network = self.machines.properties(host, "configManager.networkSystem")["configManager.networkSystem"]
            with suppress(vim.fault.DuplicateName):  # another host has it already: one network for all of them
                network.AddPortGroup(spec)

    def expire_sessions(self) -> None:
        self.vcenter.sessions.expire()

    def expire_after(self, calls: int) -> None:
        """Once, after so many more calls of the API."""
        self.vcenter.sessions.expire_after(calls)

    def lease_timeout(self, seconds: float) -> None:
        """Leases made from now on end in an error after so long without progress; 0 for never."""
        self.vcenter.leases.set_timeout(seconds)

    # what the guest does and sees

    def guest_write(self, vm: str, disk: int, offset: int, data: bytes) -> None:
        with self.machines.lock:
            self._placed(vm, disk).write(offset, data)

    def guest_content(self, vm: str, disk: int = 0, snapshot: str | None = None) -> bytes:
        """All of a disk as it is now, or as the standing snapshot of a name holds it."""
        return b"".join(self._pieces(vm, disk, snapshot))

    def truth(self, vm: str, disk: int = 0, snapshot: str | None = None) -> str:
        """SHA-256 of the same, for large disks."""
        digest = hashlib.sha256()
        for piece in self._pieces(vm, disk, snapshot):
            digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, vm: str, disk: int, snapshot: str | None) -> Iterator[bytes]:
        identity = None if snapshot is None else next(one for one, name in self._snapshots(vm) if name == snapshot)
        machine = self.machines.machine(self.id(vm))
        return self.machines.pieces(machine, self._placed(vm, disk), identity)

    def flat(self, vm: str, disk: int = 0) -> Path:
        """The file that ``/folder`` serves."""
        return self._placed(vm, disk).flat

    def folder_url(self, vm: str, disk: int = 0) -> str:
        """Path and query of the flat extent."""
        name = self._placed(vm, disk).name.replace(".vmdk", "-flat.vmdk")
        datastore, _, path = name.removeprefix("[").partition("] ")
        datacenter = self.machines.all(vim.Datacenter)[0].name
        return f"/folder/{quote(path)}?{urlencode({'dcPath': datacenter, 'dsName': datastore})}"

    def disk_keys(self, vm: str) -> list[int]:
        return sorted(self.machines.machine(self.id(vm)).disks)

    # inner

    def id(self, vm: str) -> str:
        """Raises KeyError."""
        if vm in self._ids:
            return self._ids[vm]
        for one in self.machines.all(vim.VirtualMachine):
            if vm in (one._moId, one.name):
                return str(one._moId)
        raise KeyError(vm)

    def _vm(self, vm: str) -> Any:
        return self.machines.object(vim.VirtualMachine, self.id(vm))

    def _placed(self, vm: str, disk: int) -> PhonyDisk:
        machine = self.machines.machine(self.id(vm))
        return machine.disks[disk if disk >= 100 else sorted(machine.disks)[disk]]

    @staticmethod
    def _in_order(machine: Machine, wanted: Sequence[LabDisk]) -> list[PhonyDisk]:
        by_file = {disk.file(0): disk for disk in machine.disks.values()}
        return [by_file[f"disk{number}.vmdk"] for number in range(1, len(wanted) + 1)]

    def _snapshots(self, vm: str) -> list[tuple[str, str]]:
        values = self.machines.properties(self._vm(vm), "snapshot.rootSnapshotList")
        found, waiting = [], list(values.get("snapshot.rootSnapshotList") or ())
        while waiting:
            one = waiting.pop(0)
            found.append((str(one.snapshot._moId), str(one.name)))
            waiting += list(one.childSnapshotList or ())
        return found

    def _networks(self) -> dict[str, Any]:
        return {one.name: one for one in self.machines.all(vim.Network)}

    def _folder(self, path: str) -> Any:
        found = self.machines.all(vim.Datacenter)[0].vmFolder
        for name in filter(None, path.split("/")):
            there = {one.name: one for one in found.childEntity if isinstance(one, vim.Folder)}
            found = there.get(escaped(name)) or found.CreateFolder(name)
        return found


@contextmanager
def vsphere_site(*, esx: bool = False, machines: int = 0, listen: str = "127.0.0.1:0") -> Iterator[Site]:
    """``machines``: of vcsim's own, in each pool. Nothing of it outlives the context, neither process nor file."""
    host, _, port = listen.rpartition(":")
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="vsphere-site-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        listening = socket.create_server((host, int(port)))
        stack.callback(listening.close)
        path, identity = certificate(directory)
        vcenter = PhonyVcenter(listening, path, directory)
        address = (host, listening.getsockname()[1])
        options = [
            "-plain",
            "-advertise",
            "https://{}:{}".format(*address),
            "-machines",
            str(machines),
            *(["-esx"] if esx else []),
        ]
        simulator = stack.enter_context(vcsim(*options, *(["-esx"] if esx else []), directory=directory))
        stack.callback(vcenter.close)
        instance = SmartConnect(
            host=simulator.host, port=simulator.port, user=USER, pwd=PASSWORD, protocol="http", connectionPoolTimeout=-1
        )
        stack.callback(Disconnect, instance)
        kept = Machines(simulator, instance.RetrieveContent())
        vcenter.start(simulator, kept)
        yield Site(vcenter, kept, address, identity)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--esx", action="store_true", help="a single ESXi host instead of a vCenter")
    parser.add_argument("--machine", action="append", default=[], metavar="NAME=DISK[,DISK]", help="qcow2 or raw")
    parser.add_argument("--off", action="store_true", help="machines are powered off")
    parser.add_argument("--locks", choices=("live", "chain", "none"), default="live", help="of extents")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind
    with vsphere_site(esx=options.esx, listen=options.listen) as site:
        site.vcenter.folder_locks = options.locks
        made = {}
        for one in options.machine:
            name, _, disks = one.partition("=")
            made[name] = site.add_machine(name, [Path(disk) for disk in disks.split(",")], running=not options.off)
        print(json.dumps({"connection_info": site.connection_info(), "machines": made}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
