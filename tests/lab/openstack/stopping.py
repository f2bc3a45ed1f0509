"""Stops what a home started, also what outlives its agents: guests, dnsmasq, namespaces, bridges, mounts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

from tests.lab.openstack.hypervisor import virsh
from tests.lab.openstack.processes import output, pid_of, stop_group
from tests.lab.openstack.settings import HOST_END, PROCESSES, SOCKETS, home, say


def stop_leftovers():
    """What outlives its agent: virtual machines, dnsmasq, namespaces, bridges, mounts."""
    if pid_of("libvirtd"):
        for uuid in virsh("list", "--uuid").stdout.split():
            virsh("destroy", uuid)
    dhcp = home("data/neutron/dhcp")
    networks = os.listdir(dhcp) if os.path.isdir(dhcp) else []
    for net in networks:
        try:
            with open(f"{dhcp}/{net}/pid") as f:
                pid = int(f.read())
            with open(f"/proc/{pid}/cmdline") as f:
                if dhcp in f.read():
                    os.kill(pid, signal.SIGTERM)
            os.unlink(f"{dhcp}/{net}/pid")
        except (OSError, ValueError):
            pass
        output("ip", "netns", "delete", f"qdhcp-{net}")
        output("ip", "link", "delete", f"brq{net[:11]}")
    if networks:  # packet filter rules of the linuxbridge agent
        for tool in "iptables", "ip6tables", "ebtables":
            rules = output(f"{tool}-save").splitlines(keepends=True)
            if any("neutron" in r for r in rules):
                subprocess.run(
                    [f"{tool}-restore"],
                    text=True,
                    stderr=subprocess.DEVNULL,
                    input="".join(r for r in rules if "neutron" not in r),
                )
    if os.path.exists(home("run/wire")):
        output("ip", "link", "delete", HOST_END)
        os.unlink(home("run/wire"))
    with open("/proc/self/mounts") as f:
        for line in f.readlines()[::-1]:
            where = line.split()[1].replace("\\040", " ")
            if where.startswith(home("mnt") + "/"):
                output("/usr/bin/umount", "-l", where)


def stop():
    services = [n for processes in PROCESSES.values() for n in processes]
    stop_group(services, 15)
    stop_leftovers()
    stop_group(["libvirtd", "rabbitmq"], 20)
    stop_group(["epmd", "mysql"], 30)
    shutil.rmtree(SOCKETS, ignore_errors=True)
    say("stopped")
