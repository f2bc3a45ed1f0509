"""What each service needs to have in it: users, catalog, networks, a flavor. Idempotent; orders come on stdin.

Runs under Debian's Python, which has keystoneauth; see ``services.seed``.
"""

from __future__ import annotations

import json
import sys
import time

from keystoneauth1 import session
from keystoneauth1.exceptions import ClientException
from keystoneauth1.identity import v3

o = json.load(sys.stdin)
auth = v3.Password(
    auth_url=o["auth_url"],
    username="admin",
    password=o["password"],
    project_name="admin",
    user_domain_name="Default",
    project_domain_name="Default",
)
sess = session.Session(auth=auth)


def call(kind, method, path, body=None, **kw):
    r = sess.request(
        path,
        method,
        json=body,
        endpoint_filter={"service_type": kind, "interface": "public", "region_name": o["region"]},
        **kw,
    )
    return r.json() if r.content else None


def ident(method, path, body=None):
    return call("identity", method, path, body)


def wait(what, probe):
    end = time.time() + o["timeout"]
    while True:
        try:
            got = probe()
        except ClientException as e:
            got, what = None, f"{what.split(' (')[0]} ({e})"
        if got:
            return got
        if time.time() > end:
            sys.exit("openstack-lab: waited in vain for " + what)
        time.sleep(0.3)


if o["step"] == "identity":

    def ensure(plural, have, name, **fields):
        if name not in have:
            have[name] = ident("POST", "/" + plural, {plural[:-1]: dict(fields, name=name)})[plural[:-1]]["id"]
        return have[name]

    def listed(path):
        return {x["name"]: x["id"] for x in ident("GET", "/" + path)[path.split("?")[0]]}

    dom = {"domain_id": "default"}
    projects, users, roles = listed("projects?domain_id=default"), listed("users?domain_id=default"), listed("roles")
    for p in ("admin", "service", "demo"):
        ensure("projects", projects, p, **dom)
    for r in ("admin", "member", "reader", "service", "creator"):
        ensure("roles", roles, r)

    def grant(project, user, *names):
        ensure("users", users, user, password=o["password"], **dom)
        for r in names:
            ident("PUT", f"/projects/{projects[project]}/users/{users[user]}/roles/{roles[r]}")

    services = listed("services")
    have = {(e["service_id"], e["interface"]): e for e in ident("GET", "/endpoints")["endpoints"]}
    for s, (kind, where) in o["catalog"].items():
        if s != "keystone":
            grant("service", s, "admin", "service")
        sid = ensure("services", services, s, type=kind)
        for i in ("public", "internal"):
            e = have.get((sid, i))
            if not e:
                ident(
                    "POST",
                    "/endpoints",
                    {"endpoint": {"service_id": sid, "interface": i, "region_id": o["region"], "url": where}},
                )
            elif e["url"] != where:  # the ports were changed
                ident("PATCH", "/endpoints/" + e["id"], {"endpoint": {"url": where}})
    grant("demo", "demo", "member", "creator")
    grant("admin", "admin", "creator")
    grant("demo", "admin", "admin", "creator")

if o["step"] == "cinder":
    wait(
        "cinder-volume and cinder-scheduler to be up",
        lambda: (
            {"cinder-volume", "cinder-scheduler"}
            <= {s["binary"] for s in call("volumev3", "GET", "/os-services")["services"] if s["state"] == "up"}
        ),
    )
    types = [t["name"] for t in call("volumev3", "GET", "/types")["volume_types"]]
    for backend in o["backends"]:
        if backend not in types:
            specs = {"volume_backend_name": backend}
            call("volumev3", "POST", "/types", {"volume_type": {"name": backend, "extra_specs": specs}})

if o["step"] == "neutron":
    wait(
        "the neutron agents to be alive",
        lambda: (
            {"neutron-linuxbridge-agent", "neutron-dhcp-agent"}
            <= {a["binary"] for a in call("network", "GET", "/v2.0/agents")["agents"] if a["alive"]}
        ),
    )
    admin = sess.get_project_id()
    have = {n["name"]: n for n in call("network", "GET", "/v2.0/networks?project_id=" + admin)["networks"]}
    for name, net, subnet in (
        ("private", {}, {"cidr": "10.0.0.0/24"}),
        (
            "public",
            {"router:external": True, "provider:network_type": "flat", "provider:physical_network": "public"},
            {"cidr": "172.24.4.0/24", "gateway_ip": "172.24.4.1"},
        ),
    ):
        n = (
            have.get(name)
            or call("network", "POST", "/v2.0/networks", {"network": dict(net, name=name, shared=True)})["network"]
        )
        if not n["subnets"]:
            call(
                "network",
                "POST",
                "/v2.0/subnets",
                {"subnet": dict(subnet, ip_version=4, name=name + "-subnet", network_id=n["id"], enable_dhcp=True)},
            )
    wait(
        "the DHCP ports of both networks",
        lambda: (
            len(
                [
                    p
                    for p in call("network", "GET", "/v2.0/ports?device_owner=network:dhcp")["ports"]
                    if p["status"] == "ACTIVE"
                ]
            )
            >= 2
        ),
    )

if o["step"] == "nova":
    if not any(f["name"] == "m1.small" for f in call("compute", "GET", "/flavors")["flavors"]):
        call(
            "compute",
            "POST",
            "/flavors",
            {"flavor": {"name": "m1.small", "id": "2", "ram": 2048, "vcpus": 1, "disk": 20}},
        )
    wait(
        "nova-compute, nova-conductor and nova-scheduler to be up",
        lambda: (
            {"nova-compute", "nova-conductor", "nova-scheduler"}
            <= {s["binary"] for s in call("compute", "GET", "/os-services")["services"] if s["state"] == "up"}
        ),
    )

if o["step"] == "nova-ready":
    wait("a hypervisor", lambda: call("compute", "GET", "/os-hypervisors")["hypervisors"])

    def inventory():
        for rp in call("placement", "GET", "/resource_providers")["resource_providers"]:
            if call("placement", "GET", f"/resource_providers/{rp['uuid']}/inventories")["inventories"]:
                return True
        return False

    wait("the inventory of the hypervisor in placement", inventory)
