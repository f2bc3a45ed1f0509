"""libvirtd in a mount namespace of its own, and the wire between this machine and the network "public"."""

from __future__ import annotations

import os
import subprocess

from tests.lab.openstack.processes import launch, run, stop_group, wait_for
from tests.lab.openstack.settings import (
    CEPH,
    CEPH_SECRET,
    HOME,
    HOST_CIDR,
    HOST_END,
    NEUTRON_END,
    SOCKETS,
    Failed,
    home,
    say,
    write,
)

# it neither meets another libvirtd on this machine nor needs /etc/libvirt changed.
# nova-compute lives in the same namespace: what it mounts there, QEMU sees.
LIBVIRT_DIRS = {
    "/etc/libvirt": "etc/libvirt",
    "/var/lib/libvirt": "data/libvirt/lib",
    "/var/cache/libvirt": "data/libvirt/cache",
    "/var/log/libvirt": "log/libvirt",
}
LIBVIRT_URI = f"qemu+unix:///system?socket={SOCKETS}/libvirt/libvirt-sock"
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
"""


def virsh(*args):
    return subprocess.run(
        ["/usr/bin/virsh", "-c", LIBVIRT_URI, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def start_libvirt():
    write(home("etc/libvirt/qemu.conf"), QEMU_CONF)
    binds = {**{k: home(v) for k, v in LIBVIRT_DIRS.items()}, "/run/libvirt": f"{SOCKETS}/libvirt"}
    for system, ours in binds.items():
        os.makedirs(system, exist_ok=True)
        os.makedirs(ours, exist_ok=True)
    script = "set -e\n" + "".join(f"/usr/bin/mount --bind '{ours}' '{system}'\n" for system, ours in binds.items())
    script += f"exec /usr/sbin/libvirtd --config '{home('etc/libvirtd.conf')}' --pid-file '{SOCKETS}/libvirtd.pid'\n"
    if launch("libvirtd", ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script]):
        stop_group(["nova-compute"], 15)  # it would be in the namespace of a dead libvirtd
    wait_for("libvirtd", ["libvirtd"], lambda: virsh("version").returncode == 0)
    if CEPH:
        keep_ceph_key()
    say("libvirt is up")


def keep_ceph_key():
    """Where QEMU gets it from for Cinder's volumes."""
    usage = "<usage type='ceph'><name>client.cinder</name></usage>"
    secret = f"<secret ephemeral='no' private='yes'><uuid>{CEPH_SECRET}</uuid>{usage}</secret>"
    write(home("run/ceph-secret.xml"), secret)
    with open(f"{CEPH}/client.cinder.keyring") as f:
        write(home("run/ceph-secret.key"), f.read().rpartition("key = ")[2].strip())
    for command in (
        ["secret-define", home("run/ceph-secret.xml")],
        ["secret-set-value", CEPH_SECRET, "--file", home("run/ceph-secret.key")],
    ):
        if virsh(*command).returncode:
            raise Failed(f"libvirt does not take the key of Ceph ({command[0]})")


def start_wire():
    """A veth pair: neutron bridges one end into the network "public", this host has the other.

    Two homes would answer for the same addresses, and each other's stop would take the network away.
    """
    device = f"/sys/class/net/{HOST_END}"
    if os.path.exists(device) and not os.path.exists(home("run/wire")):
        with open(f"{device}/ifalias") as f:
            other = f.read().strip()
        if os.path.isdir(other):
            raise Failed(f"one home with Neutron per machine, and {other} is one: stop it, or share it")
        run("network", "ip", "link", "delete", HOST_END)  # its home is gone
    if not os.path.exists(device):
        run("network", "ip", "link", "add", HOST_END, "type", "veth", "peer", "name", NEUTRON_END)
        run("network", "ip", "addr", "add", HOST_CIDR, "dev", HOST_END)
        run("network", "ip", "link", "set", HOST_END, "alias", HOME)
        write(home("run/wire"), "")  # ours, so stop removes it
    for end in HOST_END, NEUTRON_END:
        run("network", "ip", "link", "set", end, "up")
