"""Databases, command lines and the order of start of the OpenStack services."""

from __future__ import annotations

import base64
import os

from tests.lab.openstack.database import schema
from tests.lab.openstack.hypervisor import start_wire
from tests.lab.openstack.parallel import await_all
from tests.lab.openstack.processes import answers, first_time, launch, mark_done, pid_of, run, wait_for
from tests.lab.openstack.settings import PASSWORD, PORTS, PROCESSES, REGION, VIRT, db_url, home, once, say, url


def command(name):
    """The command line of one OpenStack process."""

    def uwsgi(script, service):
        return [
            "/usr/bin/uwsgi_python311",
            "--http-socket",
            f"127.0.0.1:{PORTS[service]}",
            "--wsgi-file",
            script,
            "--master",
            "--processes",
            "1",
            "--threads",
            "8",
            "--enable-threads",
            "--lazy-apps",
            "--need-app",
            "--die-on-term",
            "--buffer-size",
            "65535",
            "--disable-logging",
            "--procname-prefix",
            name + " ",
            "--add-header",
            "Connection: close",
        ]  # it does not keep connections alive

    if name == "keystone":
        return uwsgi("/usr/bin/keystone-wsgi-public", "keystone")
    if name == "barbican-api":
        return uwsgi("/usr/bin/barbican-wsgi-api", "barbican")
    if name == "placement-api":
        return uwsgi("/usr/bin/placement-api", "placement")
    service = name.split("-")[0]
    files = {
        "glance": ["glance/glance-api.conf"],
        "cinder": ["cinder/cinder.conf"],
        "nova": ["nova/nova.conf"],
        "neutron": ["neutron/neutron.conf"],
    }[service]
    files = files + {
        "neutron-server": ["neutron/ml2.ini"],
        "neutron-linuxbridge-agent": ["neutron/linuxbridge.ini"],
        "neutron-dhcp-agent": ["neutron/dhcp.ini"],
    }.get(name, [])
    argv = ["/usr/bin/python3", home("bin", name)]
    if name == "nova-compute" and VIRT != "fake":
        argv = ["/usr/bin/nsenter", "--mount", "--target", str(pid_of("libvirtd")), "--", *argv]
    return argv + [a for f in files for a in ("--config-file", home("etc", f))]


def sync(service):
    """Make or upgrade the database of a service; only at the first start."""
    if not first_time(service):
        return

    def conf(name):
        return "--config-file", home("etc", name)

    log = f"{service}-setup"
    if service == "keystone":
        manage = ["/usr/bin/keystone-manage", *conf("keystone/keystone.conf")]
        schema("keystone", ["keystone"], *manage, "db_sync")
        for repository in ("fernet", "credential"):  # what fernet_setup does, without the wait
            for n in "01":
                once(home("data/keystone", repository, n), lambda: base64.urlsafe_b64encode(os.urandom(32)).decode())
        run(
            log,
            *manage,
            "bootstrap",
            "--bootstrap-password",
            PASSWORD,
            "--bootstrap-region-id",
            REGION,
            "--bootstrap-service-name",
            "keystone",
            "--bootstrap-public-url",
            url("keystone", "/v3"),
            "--bootstrap-internal-url",
            url("keystone", "/v3"),
            "--bootstrap-admin-url",
            url("keystone", "/v3"),
        )
    elif service == "barbican":
        schema("barbican", ["barbican"], "/usr/bin/barbican-db-manage", "-d", db_url("barbican"), "upgrade")
    elif service == "glance":
        schema("glance", ["glance"], "/usr/bin/glance-manage", *conf("glance/glance-api.conf"), "db_sync")
    elif service == "placement":
        schema("placement", ["placement"], "/usr/bin/placement-manage", *conf("placement/placement.conf"), "db", "sync")
    elif service == "cinder":
        schema("cinder", ["cinder"], "/usr/bin/cinder-manage", *conf("cinder/cinder.conf"), "db", "sync")
    elif service == "neutron":
        schema(
            "neutron",
            ["neutron"],
            "/usr/bin/neutron-db-manage",
            *conf("neutron/neutron.conf"),
            *conf("neutron/ml2.ini"),
            "upgrade",
            "heads",
        )
    elif service == "nova":
        manage = ["/usr/bin/nova-manage", *conf("nova/nova.conf")]
        schema("nova", ["nova_api"], *manage, "api_db", "sync")
        run(log, *manage, "cell_v2", "map_cell0", "--database_connection", db_url("nova_cell0"))
        schema("nova", ["nova", "nova_cell0"], *manage, "db", "sync")
        run(log, *manage, "cell_v2", "create_cell", "--name", "cell1", ok=(0, 2))
    mark_done(service)
    say(f"{service}: database made")


def start_service(service, before=(), before_late=()):
    sync(service)
    await_all(before)
    if service == "neutron":
        start_wire()
    # All but the APIs call other services at once: unanswered, they wait long or die.
    late = [
        n
        for n in PROCESSES[service]
        if n.endswith("-agent") or n in ("nova-conductor", "nova-scheduler", "nova-compute")
    ]
    early = [n for n in PROCESSES[service] if n not in late]
    for i, name in enumerate(early):
        launch(name, command(name), port=None if i else service)  # the API comes first
    wait_for(service, early, lambda: answers(service))
    say(f"{service} answers at {url(service)}")
    await_all(before_late)
    for name in late:
        launch(name, command(name))
