"""The request that the product was described with, word for word: four machines of a vCenter to a real OpenStack.

Real: Keystone, Barbican, Nova (QEMU), Neutron, Cinder, gateway, coordinator, agents, the guest called "CentOS 7" (a
Debian with VMware's drivers only). Phony: the vCenter (vcsim behind the lab's proxy), and the guests under the other
names, which convert and cannot boot.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.keystone_mesh import END, KeystoneMesh, keystone_mesh
from tests.lab.guest_domain import LAB
from tests.lab.openstack_site import Account, Cloud
from tests.lab.vsphere_site import LabDisk, LabNic, Site, vsphere_site

pytestmark = [
    pytest.mark.lab,
    pytest.mark.openstack,
    pytest.mark.openstack_in_ci,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(2400),
]

INSTANCES = ["CentOS 7", "RHEL 7.2", "Ubuntu 14.04", "WS 2012 R2"]
PUBLIC_MAC, PRIVATE_MAC = "00:50:56:10:00:01", "00:50:56:10:00:02"
LOGIN_S, PING_S, DELETE_S = 420.0, 120.0, 120.0
MIGRATION_S = 1500.0


@pytest.fixture(scope="module")
def vcenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With the four machines; the real guest runs."""
    folder = tmp_path_factory.mktemp("guests")
    phony = {
        "RHEL 7.2": ([str(LAB / "make_phony_linux"), "--plain", "rhel7"], "rhel7_64Guest"),
        "Ubuntu 14.04": ([str(LAB / "make_phony_linux"), "--plain", "ubuntu1404"], "ubuntu64Guest"),
        "WS 2012 R2": ([str(LAB / "make_phony_windows"), "--version", "win2k12r2"], "windows8Server64Guest"),
    }
    with vsphere_site() as site:
        site.vcenter.folder_locks = "none"
        site.add_network("VM Network Local")
        real = run([str(LAB / "guest_cache"), "--dhcp", "--hostname", "centos-7"]).strip()
        nics = [LabNic("VM Network Local", PUBLIC_MAC), LabNic("VM Network", PRIVATE_MAC)]
        site.add_machine("CentOS 7", [Path(real)], guest_id="centos7_64Guest", running=True, nics_=nics, memory_mb=1024)
        for number, (name, (command, guest_id)) in enumerate(phony.items()):
            disk = folder / f"{number}.img"
            run([*command, str(disk)])
            nic = LabNic("VM Network", f"00:50:56:10:00:1{number}")
            site.add_machine(name, [LabDisk(content=disk)], guest_id=guest_id, nics_=[nic])
        yield site


def run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=900).stdout


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(whole_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KeystoneMesh]:
    folder = tmp_path_factory.mktemp("founding")
    drivers = folder / "virtio-win.iso"
    run([str(LAB / "make_phony_virtio_win"), str(drivers)])
    staging = folder / "staging"
    staging.mkdir()
    settings = {
        "staging_dir": str(staging),
        "virtio_win": str(drivers),
        "cinder_drivers": ["nfs"],
        "cinder_mount_dir": str(whole_cloud.home / "mnt" / "cinder"),
    }
    sites = dict.fromkeys(("site-a", "site-b"), settings)
    async with keystone_mesh(whole_cloud, folder, agent_settings=sites) as mesh:
        yield mesh


def founding_request(secret_id: str, instances: list[str]) -> dict[str, Any]:
    """As the product's owner wrote it."""
    return {
        "migration": {
            "origin": {"type": "vmware_vsphere", "connection_info": {"secret_id": secret_id}},
            "destination": {
                "type": "openstack",
                "target_environment": {
                    "flavor_name": "m1.small",
                    "network_map": {"VM Network": "private", "VM Network Local": "public"},
                },
            },
            "instances": instances,
        }
    }


class Tenant:
    """What its user sees of the cloud."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._session = account.session()

    def get(self, service: str, path: str) -> Any:
        return self._session.get(path, endpoint_filter={"service_type": service, "interface": "public"}).json()

    def post(self, service: str, path: str, body: dict[str, Any]) -> Any:
        where = {"service_type": service, "interface": "public"}
        answer = self._session.post(path, json=body, endpoint_filter=where)
        return answer.json() if answer.content else {}

    def allow_ping(self) -> None:
        """In the project's default group, which lets nothing in."""
        groups = self.get("network", f"/v2.0/security-groups?project_id={self.account.project_id}")["security_groups"]
        default = next(group for group in groups if group["name"] == "default")
        rule = {"direction": "ingress", "protocol": "icmp", "ethertype": "IPv4", "security_group_id": default["id"]}
        self.post("network", "/v2.0/security-group-rules", {"security_group_rule": rule})

    def servers(self) -> dict[str, dict[str, Any]]:
        return {server["name"]: server for server in self.get("compute", "/servers/detail")["servers"]}

    def delete_servers(self) -> None:
        """With their ports: phony guests keep a core busy each, for as long as they are there."""
        where = {"endpoint_filter": {"service_type": "compute", "interface": "public"}}
        for server in self.servers().values():
            self._session.delete(f"/servers/{server['id']}", **where)
        deadline = time.monotonic() + DELETE_S
        while self.servers():
            assert time.monotonic() < deadline, list(self.servers())
            time.sleep(1)
        where = {"endpoint_filter": {"service_type": "network", "interface": "public"}}
        for port in self.get("network", f"/v2.0/ports?project_id={self.account.project_id}")["ports"]:
            if port["name"].startswith("coriolis-"):
                self._session.delete(f"/v2.0/ports/{port['id']}", **where)

    def console(self, server_id: str) -> str:
        body = {"os-getConsoleOutput": {"length": 400}}
        return str(self.post("compute", f"/servers/{server_id}/action", body)["output"])


@pytest.fixture(scope="module")
def tenant(running: KeystoneMesh) -> Iterator[Tenant]:
    # advsvc: whoever may state the MAC of a port on a network of somebody else (Neutron policy create_port:mac_address)
    found = Tenant(running.cloud.account("member", "creator", "advsvc"))
    quota = {"quota_set": {"cores": 40, "instances": 20, "ram": 60000}}
    where = {"service_type": "compute", "interface": "public"}
    running.cloud.admin.session().put(f"/os-quota-sets/{found.account.project_id}", json=quota, endpoint_filter=where)
    found.allow_ping()
    yield found
    found.delete_servers()


@pytest.fixture
def another(running: KeystoneMesh) -> Iterator[Tenant]:
    """A project of its own: in the other one servers of these names exist, which is refused before a byte moves."""
    found = Tenant(running.cloud.account("member", "creator"))
    yield found
    found.delete_servers()


async def test_the_founding_request(running: KeystoneMesh, vcenter: Site, tenant: Tenant) -> None:
    who = tenant.account
    secret = running.store_secret(who, json.dumps(vcenter.connection_info()), "vcenter")
    with running.client(who) as client:
        answer = client.post("/migrations", json=founding_request(secret, INSTANCES))
        assert answer.status_code == 200, answer.text
        made = answer.json()["migration"]
        assert made["id"] in [one["id"] for one in client.get("/migrations").json()["migrations"]]
    ended = await running.wait(who, made["id"], lambda found: found["status"] in END, timeout_s=MIGRATION_S)
    told = [(task["instance"], task["task_type"], task["exception_details"]) for task in ended["tasks"]]
    assert ended["status"] == "COMPLETED", json.dumps([one for one in told if one[2]], indent=1)
    assert ended["destination"]["connection_info"] == {}, "the caller's token served"
    servers = tenant.servers()
    assert set(servers) == set(INSTANCES)
    real = servers["CentOS 7"]
    addresses = {
        one["OS-EXT-IPS-MAC:mac_addr"]: (net, one["addr"]) for net, all_ in real["addresses"].items() for one in all_
    }
    assert {mac: net for mac, (net, _) in addresses.items()} == {PUBLIC_MAC: "public", PRIVATE_MAC: "private"}
    await boots(tenant, real["id"])
    await answers_ping(addresses[PUBLIC_MAC][1])
    with running.client(who) as client:
        assert client.delete(f"/migrations/{made['id']}").status_code in (200, 202, 204)
        assert client.get(f"/migrations/{made['id']}").status_code == 404
    assert set(tenant.servers()) == set(INSTANCES), "the machines stay when their migration is forgotten"


async def boots(tenant: Tenant, server_id: str) -> None:
    deadline = time.monotonic() + LOGIN_S
    while "login:" not in (text := await asyncio.to_thread(tenant.console, server_id)):
        assert time.monotonic() < deadline, f"no login prompt:\n{text[-3000:]}"
        await asyncio.sleep(3)


async def answers_ping(address: str) -> None:
    deadline = time.monotonic() + PING_S
    while not await asyncio.to_thread(echoes, address):
        assert time.monotonic() < deadline, f"{address} does not answer"
        await asyncio.sleep(1)


def echoes(address: str) -> bool:
    """Whether an ICMP echo request (RFC 792) is answered within two seconds. Not every machine has ping(8)."""
    request = struct.pack("!BBHHH", 8, 0, 0, 0x4321, 1)
    words = sum(struct.unpack("!4H", request))
    request = struct.pack("!BBHHH", 8, 0, ~(words + (words >> 16)) & 0xFFFF, 0x4321, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(2)
        raw.sendto(request, (address, 0))
        try:
            while True:
                packet, (sender, _) = raw.recvfrom(1024)
                if sender == address and packet[20] == 0:
                    return True
        except TimeoutError:
            return False


async def test_one_wrong_name_among_four_fails_alone_and_another_is_cancelled(
    running: KeystoneMesh, vcenter: Site, another: Tenant
) -> None:
    who = another.account
    secret = running.store_secret(who, json.dumps(vcenter.connection_info()), "vcenter")
    asked = founding_request(secret, ["RHEL 7.2", "no such machine", "Ubuntu 14.04", "WS 2012 R2"])
    asked["migration"]["skip_os_morphing"] = True
    with running.client(who) as client:
        wrong = client.post("/migrations", json=asked).json()["migration"]
    ended = await running.wait(who, wrong["id"], lambda found: found["status"] in END, timeout_s=MIGRATION_S)
    assert ended["status"] == "ERROR"
    failed = {task["instance"]: task["exception_details"] for task in ended["tasks"] if task["status"] == "ERROR"}
    assert list(failed) == ["no such machine"], failed
    finished = [task for task in ended["tasks"] if task["task_type"] == "FINALIZE_INSTANCE_DEPLOYMENT"]
    assert sorted(task["status"] for task in finished) == ["COMPLETED"] * 3 + ["UNSCHEDULED"]
    with running.client(who) as client:
        made = client.post("/migrations", json=founding_request(secret, ["CentOS 7"])).json()["migration"]
        assert client.post(f"/migrations/{made['id']}/actions", json={"cancel": None}).status_code == 204
    ended = await running.wait(who, made["id"], lambda found: found["status"] in END, timeout_s=300)
    assert ended["status"] == "CANCELED"
