"""The order of a start: what waits for what."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from tests.lab.openstack.configuration import write_configuration
from tests.lab.openstack.database import start_mysql
from tests.lab.openstack.hypervisor import start_libvirt
from tests.lab.openstack.message_bus import start_rabbitmq
from tests.lab.openstack.parallel import await_all, background, finish
from tests.lab.openstack.processes import first_time, mark_done, run
from tests.lab.openstack.services import start_service
from tests.lab.openstack.settings import (
    CATALOG,
    CEPH,
    NEEDS,
    PASSWORD,
    REGION,
    SETTING,
    SETTINGS,
    TIMEOUT,
    VIRT,
    Failed,
    home,
    say,
    url,
    write,
)
from tests.lab.openstack.shims import write_shims

SEED = Path(__file__).with_name("seed.py")


def seed(step, services=(), only_once=False):
    orders = {
        "step": step,
        "auth_url": url("keystone", "/v3"),
        "password": PASSWORD,
        "region": REGION,
        "timeout": TIMEOUT,
        "backends": ["nfs", "rbd"] if CEPH else ["nfs"],
        "catalog": {s: (kind, url(s, path)) for s, (kind, path) in CATALOG.items() if s in services},
    }
    orders = json.dumps(orders).encode()
    mark = f"{step}-{hashlib.sha1(orders + SEED.read_bytes()).hexdigest()[:12]}"
    if only_once and not first_time(mark):
        return
    run("seed", "/usr/bin/python3", home("bin/seed.py"), stdin=orders)
    mark_done(mark)


def start(wanted):
    """Start these services and what they need, side by side where nothing forbids it."""
    services, queue = set(), list(wanted)
    while queue:
        s = queue.pop()
        if s not in services:
            services.add(s)
            queue += NEEDS[s]
    programs = ["/usr/bin/keystone-manage", "/usr/sbin/mariadbd"]
    if "nova" in services:
        programs += ["/usr/bin/nova-manage", "/usr/lib/rabbitmq/bin/rabbitmq-server"]
    if missing := [program for program in programs if not os.path.exists(program)]:
        raise Failed(f"not installed: {', '.join(missing)}; `make openstack-lab` installs them")
    write(SETTINGS, json.dumps(SETTING, indent=1) + "\n")
    write_configuration()
    write_shims()
    write(home("bin/seed.py"), SEED.read_text())

    def identity():
        start_service("keystone")
        seed("identity", services, only_once=True)
        say("users, projects, roles and catalog are there")

    def service_and_objects(s):
        uses_bus = s in ("cinder", "neutron", "nova")
        start_service(s, [bus] if uses_bus else [], [ids, placement, virt] if s == "nova" else [])
        await_all([ids])
        if uses_bus:
            seed(s)
            say(f"{s}: its parts are up, its objects are there")
        if s == "nova":
            run(
                "nova-setup",
                "/usr/bin/nova-manage",
                "--config-file",
                home("etc/nova/nova.conf"),
                "cell_v2",
                "discover_hosts",
            )
            seed("nova-ready")

    infra = background("mariadb", start_mysql)
    bus = background("rabbitmq", start_rabbitmq) if services & {"cinder", "neutron", "nova"} else None
    virt = background("libvirt", start_libvirt) if "nova" in services and VIRT != "fake" else None
    finish(infra)
    ids = background("keystone", identity)
    placement = background("placement", service_and_objects, "placement") if "placement" in services else None
    finish(
        ids, placement, *[background(s, service_and_objects, s) for s in sorted(services - {"keystone", "placement"})]
    )
    say(f"ready: {' '.join(sorted(services))}")
