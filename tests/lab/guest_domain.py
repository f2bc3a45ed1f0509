"""The real Debian guest as a domain of a lab libvirt: defined on VMware's hardware, judged by its console's log."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from xml.sax.saxutils import quoteattr

LAB = Path(__file__).resolve().parent
LOGIN_PROMPT = re.compile(r"\S+ login: ")
GUEST_MAC = "00:50:56:9a:11:22"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[c()][B0]?")
_FAILURES = re.compile(r"\(initramfs\)|Kernel panic|Gave up waiting|No bootable device|emergency mode")


class GuestFailed(Exception):
    """The guest did not reach its login prompt; the message ends with its last console lines."""


def start_site(folder: Path) -> str:
    """Start (or find) an isolated libvirt daemon below ``folder`` with a ``default`` pool; returns its URI."""
    site = str(LAB / "libvirt_site")
    subprocess.run([site, "start", str(folder)], check=True, stdout=subprocess.DEVNULL, timeout=180)
    uri = subprocess.run([site, "uri", str(folder)], check=True, capture_output=True, text=True).stdout.strip()
    import libvirt

    libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised; it would print them as well
    pool_dir = folder / "pool"
    pool_dir.mkdir(exist_ok=True)
    with libvirt.open(uri) as connection:
        try:
            pool = connection.storagePoolLookupByName("default")
        except libvirt.libvirtError:
            target = f"<target><path>{pool_dir}</path></target>"
            pool = connection.storagePoolDefineXML(f"<pool type='dir'><name>default</name>{target}</pool>")
        if not pool.isActive():
            pool.create()
    return uri


def stop_site(folder: Path) -> None:
    """Stop the daemon and its domains."""
    subprocess.run([str(LAB / "libvirt_site"), "stop", str(folder)], check=False, timeout=180)


def connection_info(uri: str, folder: Path) -> dict[str, object]:
    """What the ``libvirt`` provider needs for a lab site."""
    return {
        "uri": uri,
        "scratch_dir": str(folder / "scratch"),
        "console_dir": str(folder / "console"),
        "min_scratch_free_bytes": 64 << 20,
    }


def define_guest(uri: str, name: str, disk: Path, console_log: Path, *, memory_mb: int = 768) -> None:
    """A domain as a VMware machine would be: pvscsi disk, vmxnet3 NIC, serial console logged to a file."""
    console_log.parent.mkdir(exist_ok=True)
    xml = f"""
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>{memory_mb}</memory><vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
  <features><acpi/><apic/></features>
  <cpu mode='maximum'/>
  <on_reboot>restart</on_reboot>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>
      <source file={quoteattr(str(disk))}/><target dev='sda' bus='scsi'/></disk>
    <controller type='scsi' model='vmpvscsi'/>
    <interface type='user'><mac address='{GUEST_MAC}'/><model type='vmxnet3'/></interface>
    <serial type='pty'><log file={quoteattr(str(console_log))} append='on'/></serial>
    <console type='pty'/>
  </devices>
</domain>"""
    import libvirt

    with libvirt.open(uri) as connection:
        connection.defineXML(xml)


def start_domain(uri: str, name: str) -> None:
    import libvirt

    with libvirt.open(uri) as connection:
        connection.lookupByName(name).create()


def domain_states(uri: str) -> dict[str, bool]:
    """Every domain's name and whether it is active."""
    import libvirt

    with libvirt.open(uri) as connection:
        return {domain.name(): bool(domain.isActive()) for domain in connection.listAllDomains()}


def domain_xml(uri: str, name: str) -> str:
    import libvirt

    with libvirt.open(uri) as connection:
        return str(connection.lookupByName(name).XMLDesc())


def console_text(log: Path) -> str:
    """The console so far, without terminal escapes."""
    return _ESCAPES.sub("", log.read_text(errors="replace")) if log.exists() else ""


def wait_for_login(log: Path, timeout_s: float) -> float:
    """Seconds until the login prompt stands on the console. Raises GuestFailed early on a panic or initramfs shell."""
    began = time.monotonic()
    while time.monotonic() - began < timeout_s:
        text = console_text(log)
        if LOGIN_PROMPT.search(text):
            return time.monotonic() - began
        if failure := _FAILURES.search(text):
            raise GuestFailed(f"{failure.group(0)}\n{_tail(text)}")
        time.sleep(0.5)
    raise GuestFailed(f"no login prompt after {timeout_s:.0f} s\n{_tail(console_text(log))}")


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-15:])
