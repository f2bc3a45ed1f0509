"""Boot a guest disk in QEMU and say from its serial console whether it came up.

``vmware`` is pvscsi + vmxnet3 in slot 192 (the NIC is then called ens192, as on ESXi) with VMware's DMI
strings; ``virtio`` is virtio-blk + virtio-net only; ``virtio-scsi`` has the disk on virtio-scsi. The disk is
opened with ``snapshot=on``: a boot never changes it, unless ``--keep-writes`` asks for that. ``--cdrom`` puts an ISO,
say a config drive, into a SATA drive, as OpenStack does on q35. Exit 0: login prompt reached (and commands run); 1: the
guest failed; 2: timed out. TCG only: the machines of the lab cannot be relied on for KVM.
"""

from __future__ import annotations

import argparse
import json
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
DEFAULT_MAC = "00:50:56:9a:11:22"
LOGIN = "login: "
ANSWER_TIMEOUT_S = 120.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[c()][B0]?")
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-9;?]*|[c()])?\Z")
_FAILURES = re.compile(
    r"\(initramfs\)|ALERT!.*does not exist|Kernel panic|No bootable device|UEFI Interactive Shell"
    r"|BdsDxe: No bootable option|BdsDxe: failed to load|grub rescue>|Gave up waiting"
    r"|[Ee]nter(?:ing)? emergency mode|You are in emergency mode|dracut:/#"
)


@dataclass(frozen=True)
class Machine:
    """The virtual hardware to boot on."""

    disk: Path
    disk_format: str
    profile: str = "virtio"
    uefi: bool = False
    mac: str = DEFAULT_MAC
    memory_mb: int = 1024
    cpus: int = 2
    more_disks: tuple[Path, ...] = ()
    cdrom: Path | None = None
    keeps_writes: bool = False


class BootFailed(Exception):
    """The guest did not come up; the message ends with its last console lines."""


class BootTimedOut(BootFailed):
    """Neither the expected text nor a known failure appeared in time."""


def qemu_command(machine: Machine, run_dir: Path) -> list[str]:
    """The QEMU command line; the console is the unix socket ``run_dir/con``."""
    vmware = machine.profile == "vmware"
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35"]
    command += ["-m", str(machine.memory_mb), "-smp", str(machine.cpus), "-no-reboot"]
    command += ["-accel", "tcg,thread=multi", "-cpu", "max,-hypervisor" if vmware else "max"]
    command += ["-serial", f"unix:{run_dir}/con,server=on,wait=off"]
    how = f"format={machine.disk_format},snapshot={'off' if machine.keeps_writes else 'on'},cache=unsafe"
    for number, disk in enumerate((machine.disk, *machine.more_disks)):
        command += ["-drive", f"id=d{number},if=none,file={disk},{how}"]
    command += ["-netdev", "user,id=n0,net=192.168.77.0/24,host=192.168.77.1,restrict=on"]
    command += _vmware_devices(machine.mac) if vmware else _virtio_devices(machine)
    for number in range(1, len(machine.more_disks) + 1):
        kind = "virtio-blk-pci,drive=d{}" if machine.profile == "virtio" else "scsi-hd,drive=d{},bus=s0.0"
        command += ["-device", kind.format(number)]
    if machine.cdrom:
        command += ["-drive", f"id=cd0,if=none,file={machine.cdrom},format=raw,media=cdrom,readonly=on"]
        command += ["-device", "ide-cd,drive=cd0,bus=ide.0"]
    if machine.uefi:
        shutil.copy(OVMF_VARS, run_dir / "vars.fd")  # empty variables: only the fallback loader can start
        command += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}"]
        command += ["-drive", f"if=pflash,unit=1,format=raw,file={run_dir}/vars.fd"]
    return command


def _vmware_devices(mac: str) -> list[str]:
    # Native PCIe hotplug, so that the slot number names the NIC.
    devices = ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]
    devices += ["-smbios", "type=1,manufacturer=VMware,, Inc.,product=VMware7,,1"]
    devices += ["-device", "pvscsi,id=s0", "-device", "scsi-hd,drive=d0,bus=s0.0,bootindex=0"]
    devices += ["-device", "pcie-root-port,id=rp192,slot=192,chassis=192"]
    return [*devices, "-device", f"vmxnet3,netdev=n0,mac={mac},bus=rp192"]


def _virtio_devices(machine: Machine) -> list[str]:
    devices = ["-device", "virtio-rng-pci", "-device", f"virtio-net-pci,netdev=n0,mac={machine.mac},romfile="]
    if machine.profile == "virtio-scsi":
        scsi = ["-device", "virtio-scsi-pci,id=s0", "-device", "scsi-hd,drive=d0,bus=s0.0,bootindex=0"]
        return [*devices, *scsi]
    return [*devices, "-device", "virtio-blk-pci,drive=d0,bootindex=0"]


def plain_text(data: bytes) -> tuple[str, bytes]:
    """(what a console said without its escapes, the start of an escape that is to be completed)."""
    cut = _UNFINISHED.search(data)
    whole, rest = (data[: cut.start()], data[cut.start() :]) if cut else (data, b"")
    return _ESCAPES.sub("", whole.decode("utf-8", "replace")), rest


class Console:
    """A running guest behind its serial console. Use as a context manager: QEMU ends with the block."""

    def __init__(self, machine: Machine, log: IO[bytes] | None = None) -> None:
        self._machine = machine
        self._log = log
        self._rest = b""
        self.text = ""

    def __enter__(self) -> Console:
        self._dir = Path(tempfile.mkdtemp(prefix="boot-guest."))
        command = qemu_command(self._machine, self._dir)
        self._qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while not (self._dir / "con").exists():
            if self._qemu.poll() is not None:
                raise BootFailed(f"qemu: {self._stderr()}")
            time.sleep(0.05)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(self._dir / "con"))
        return self

    def __exit__(self, *_: object) -> None:
        self._qemu.terminate()
        self._qemu.wait()
        shutil.rmtree(self._dir, ignore_errors=True)

    def wait_for(self, expected: str, timeout_s: float, *, start: int = 0, failures: bool = True) -> None:
        """Return once the regular expression appears after character ``start`` of the console's text."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if select.select([self._socket], [], [], 0.5)[0]:
                self._heard(self._socket.recv(65536))
            if re.search(expected, self.text[start:]):
                return
            failure = _FAILURES.search(self.text) if failures else None
            if failure:
                raise BootFailed(f"{failure.group(0)}\n{self._tail()}")
            if self._qemu.poll() is not None:
                raise BootFailed(f"qemu ended: {self._stderr()}\n{self._tail()}")
        raise BootTimedOut(f"no {expected!r} within {timeout_s:.0f} s\n{self._tail()}")

    def log_in(self, user: str, password: str) -> None:
        for text, answer in ((user, "assword: "), (password, r"[#$] ")):
            start = len(self.text)
            self._socket.sendall(text.encode() + b"\n")
            self.wait_for(answer, ANSWER_TIMEOUT_S, start=start, failures=False)
        self.run("PS1=; stty -echo cols 200")

    def answer(self, text: str) -> None:
        """Type a line, say a passphrase."""
        self._socket.sendall(text.encode() + b"\n")

    def run(self, command: str, timeout_s: float = ANSWER_TIMEOUT_S) -> tuple[int, str]:
        """Run a shell command in the guest; its exit status and what it printed."""
        start, mark = len(self.text), f"done-{time.monotonic_ns()}-"
        # The mark is sent in two parts: the echoed command must not look like the answer.
        self._socket.sendall(f"{command}; echo '{mark[:5]}''{mark[5:]}'$?\n".encode())
        self.wait_for(rf"{mark}\d+\s", timeout_s, start=start, failures=False)
        output, _, rest = self.text[start:].replace("\r", "").partition(mark)
        return int(re.match(r"\d+", rest)[0]), output.strip()  # type: ignore[index]

    def power_off(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Shut the guest down, as root, and wait for the end of QEMU. Raises BootTimedOut."""
        self._socket.sendall(b"systemctl poweroff\n")
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not select.select([self._socket], [], [], 0.5)[0]:
                continue
            data = self._socket.recv(65536)
            if not data:  # QEMU is gone, and its console with it
                self._qemu.wait(timeout=10)
                return
            self._heard(data)
        raise BootTimedOut(f"still up after {timeout_s:.0f} s\n{self._tail()}")

    def _heard(self, data: bytes) -> None:
        if self._log:
            self._log.write(data)
        plain, self._rest = plain_text(self._rest + data)
        self.text += plain

    def _stderr(self) -> str:
        self._qemu.wait(timeout=5)
        return (self._qemu.stderr.read() if self._qemu.stderr else "")[-300:].strip()

    def _tail(self) -> str:
        return "\n".join("   | " + line for line in self.text.strip().splitlines()[-12:])


def format_of(disk: Path) -> str:
    """What qemu-img takes the disk for. For the lab's own disks only: a product never probes formats."""
    info = subprocess.check_output(["qemu-img", "info", "-U", "--output=json", str(disk)])
    return str(json.loads(info)["format"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("disk", type=Path)
    parser.add_argument("--disk", type=Path, action="append", default=[], dest="more_disks", metavar="FURTHER_DISK")
    parser.add_argument("--cdrom", type=Path, metavar="ISO")
    parser.add_argument("--keep-writes", action="store_true", help="let the guest write to its disks")
    parser.add_argument("--profile", choices=["vmware", "virtio", "virtio-scsi"], default="virtio")
    parser.add_argument("--uefi", action="store_true")
    parser.add_argument("--format")
    parser.add_argument("--mac", default=DEFAULT_MAC)
    parser.add_argument("--memory-mb", type=int, default=1024)
    parser.add_argument("--login", metavar="USER:PASSWORD")
    parser.add_argument("--run", action="append", default=[], metavar="COMMAND")
    parser.add_argument("--timeout", type=float, default=400, metavar="SECONDS")
    parser.add_argument("--log", type=argparse.FileType("wb"))
    args = parser.parse_args()
    machine = Machine(
        disk=args.disk,
        disk_format=args.format or format_of(args.disk),
        profile=args.profile,
        uefi=args.uefi,
        mac=args.mac,
        memory_mb=args.memory_mb,
        more_disks=tuple(args.more_disks),
        cdrom=args.cdrom,
        keeps_writes=args.keep_writes,
    )
    started = time.monotonic()
    try:
        with Console(machine, args.log) as console:
            console.wait_for(LOGIN, args.timeout)
            print(f"{args.profile}: login prompt after {time.monotonic() - started:.0f} s")
            if args.login:
                console.log_in(*args.login.split(":", 1))
            for command in args.run:
                status, output = console.run(command)
                print(f"$ {command}\n{output}\nrc={status}")
    except BootTimedOut as error:
        print(error)
        return 2
    except BootFailed as error:
        print(f"{args.profile}: failed after {time.monotonic() - started:.0f} s: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
