"""What runs: processes, memory, endpoints."""

from __future__ import annotations

import os

from tests.lab.openstack.processes import answers, pid_of
from tests.lab.openstack.settings import CATALOG, PASSWORD, PROCESSES, REGION, home, url


def memory_of_group(pid):
    """RSS and PSS (shared pages divided among those that share them) in MiB."""
    rss = pss = 0
    for d in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{d}/stat") as f:
                if int(f.read().rsplit(")", 1)[1].split()[2]) != pid:
                    continue
            with open(f"/proc/{d}/smaps_rollup") as f:
                kib = {line.split()[0]: int(line.split()[1]) for line in f if line.endswith("kB\n")}
            rss, pss = rss + kib["Rss:"] / 1024, pss + kib["Pss:"] / 1024
        except (OSError, IndexError, KeyError):
            pass
    return rss, pss


def status():
    rss = pss = up = down = 0
    infra = ["mysql", "epmd", "rabbitmq", "libvirtd"]
    print(f"{'process':28}{'pid':>8}{'RSS MiB':>10}{'PSS MiB':>10}")
    for name in infra + [n for processes in PROCESSES.values() for n in processes]:
        pid = pid_of(name)
        if not pid and not os.path.exists(home("run", name + ".pid")):
            continue
        r, p = memory_of_group(pid) if pid else (0, 0)
        rss, pss, up, down = rss + r, pss + p, up + bool(pid), down + (not pid)
        print(f"{name:28}{pid or 'DEAD':>8}{r:10.0f}{p:10.0f}")
    print(f"{'total':28}{'':8}{rss:10.0f}{pss:10.0f}\n")
    for s in PROCESSES:
        if any(os.path.exists(home("run", n + ".pid")) for n in PROCESSES[s]):
            code = answers(s)
            down += not code
            print(f"{s:12}{url(s, CATALOG[s][1]):45}{code or 'NO ANSWER'}")
    if not up:
        print("nothing runs")
    return 1 if down or not up else 0


def print_env(project):
    for k, v in {
        "OS_AUTH_URL": url("keystone", "/v3"),
        "OS_IDENTITY_API_VERSION": "3",
        "OS_USERNAME": project,
        "OS_PASSWORD": PASSWORD,
        "OS_PROJECT_NAME": project,
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_REGION_NAME": REGION,
        "OS_INTERFACE": "public",
    }.items():
        print(f"export {k}='{v}'")
