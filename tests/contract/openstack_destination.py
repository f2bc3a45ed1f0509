"""A project of the lab's OpenStack for the contract suite: its own network, a small flavor, wide quotas."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openstack.connection

import coriolis.keystone  # noqa: F401  # before openstacksdk
from coriolis.providers.openstack.attachment import GIB
from coriolis.providers.openstack.marks import instance_mark
from coriolis.providers.openstack.provider import OpenstackProvider
from coriolis.providers.openstack.rest import ask, listed
from coriolis.providers.surroundings import CinderAccess, Surroundings
from tests.contract.case import Destination
from tests.lab.openstack_site import Account, Cloud

WAYS = ("attach", "upload")
FLAVOR = "coriolis-micro"
NETWORK = "coriolis-lan"
QUOTA_GIB = 5000
WAIT_S = 120.0


class Project:
    """A new project with a member; ``clear`` removes what tests left in it."""

    def __init__(self, cloud: Cloud) -> None:
        self.mount_dir = cloud.home / "mnt" / "cinder"
        self.account = cloud.account("member")
        self._admin = connect(cloud.admin)
        self.own = connect(self.account)
        self._prepare()

    @property
    def connection_info(self) -> dict[str, Any]:
        account = self.account
        return {
            "auth_url": account.auth_url,
            "region_name": account.region,
            "username": account.user,
            "password": account.password,
            "project_name": account.project,
        }

    def _prepare(self) -> None:
        flavor = {"name": FLAVOR, "ram": 128, "vcpus": 1, "disk": 0}
        known = listed(self._admin, "compute", "/flavors", "flavors")
        if FLAVOR not in [one["name"] for one in known]:
            ask(self._admin, "compute", "POST", "/flavors", {"flavor": flavor})
        quota = {"quota_set": {"gigabytes": QUOTA_GIB, "volumes": 50}}
        ask(self._admin, "block_storage", "PUT", f"/os-quota-sets/{self.account.project_id}", quota)
        network = ask(self.own, "network", "POST", "/networks", {"network": {"name": NETWORK}})["network"]
        subnet = {"network_id": network["id"], "cidr": "10.77.0.0/24", "ip_version": 4, "name": f"{NETWORK}-subnet"}
        ask(self.own, "network", "POST", "/subnets", {"subnet": subnet})

    def foreign_volume(self, name: str) -> None:
        ask(self.own, "block_storage", "POST", "/volumes", {"volume": {"name": name, "size": 1}})

    def foreign_instance(self, name: str) -> None:
        """A server that no program of ours made; whether it ever runs does not matter."""
        volume = ask(self.own, "block_storage", "POST", "/volumes", {"volume": {"name": "root", "size": 1}})["volume"]
        path = f"/volumes/{volume['id']}"
        self._until(lambda: ask(self.own, "block_storage", "GET", path)["volume"]["status"] == "available")
        ask(self.own, "block_storage", "POST", f"{path}/action", {"os-set_bootable": {"bootable": True}})
        flavor = next(one for one in listed(self.own, "compute", "/flavors", "flavors") if one["name"] == FLAVOR)
        disk = {"boot_index": 0, "uuid": volume["id"], "source_type": "volume", "destination_type": "volume"}
        server = {
            "name": name,
            "flavorRef": flavor["id"],
            "networks": "none",
            "block_device_mapping_v2": [{**disk, "delete_on_termination": True}],
        }
        ask(self.own, "compute", "POST", "/servers", {"server": server})

    async def is_running(self, instance_id: str) -> bool:
        found = listed(self.own, "compute", "/servers/detail", "servers", {"tags": instance_mark(instance_id)})
        return [one["status"] for one in found] == ["ACTIVE"]

    def clear(self) -> None:
        """Servers, ports, images, snapshots and volumes go; the network stays."""
        for path, key in (("compute:/servers", "servers"), ("network:/ports", "ports"), ("image:/images", "images")):
            service, _, where = path.partition(":")
            query = {"visibility": "private"} if service == "image" else {}
            if service == "network":
                query = {"device_owner": ""}
            for one in listed(self.own, service, where, key, query):
                self._delete(service, f"{where}/{one['id']}")
            if service == "compute":
                self._until(lambda: not listed(self.own, "compute", "/servers", "servers"))
        self._until(self._no_volumes)

    def _no_volumes(self) -> bool:
        """Ask again for those that Cinder still made or detached."""
        left = listed(self.own, "block_storage", "/volumes", "volumes")
        for one in left:
            query = {"volume_id": one["id"]}
            for held in ask(self.own, "block_storage", "GET", "/attachments", params=query)["attachments"]:
                self._delete("block_storage", f"/attachments/{held['id']}")
            self._delete("block_storage", f"/volumes/{one['id']}?cascade=true")
        return not left

    def leftovers(self) -> list[str]:
        """Everything that stands in the project but its network and what Neutron itself put there."""
        found = [f"server {one['name']}" for one in listed(self.own, "compute", "/servers", "servers")]
        found += [f"volume {one['name']}" for one in listed(self.own, "block_storage", "/volumes", "volumes")]
        found += [f"snapshot {one['name']}" for one in listed(self.own, "block_storage", "/snapshots", "snapshots")]
        images = listed(self.own, "image", "/images", "images", {"visibility": "private"})
        found += [f"image {one['name']}" for one in images]
        ports = listed(self.own, "network", "/ports", "ports")
        return found + [f"port {one['name']}" for one in ports if one["name"].startswith("coriolis")]

    def _delete(self, service: str, path: str) -> None:
        try:
            ask(self.own, service, "DELETE", path)
        except openstack.exceptions.HttpException as error:
            if error.response is None or error.response.status_code not in (400, 404, 409):
                raise

    def _until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not reached():
            if time.monotonic() > deadline:
                raise TimeoutError(f"project {self.account.project}: {self.leftovers()}")
            time.sleep(0.5)

    def surroundings(self, staging_dir: Path | None, **more: Any) -> Surroundings:
        """An agent on the storage network: Cinder's own mount of the share serves it too."""
        return Surroundings(staging_dir=staging_dir, cinder=CinderAccess(("nfs",), self.mount_dir), **more)


def connect(account: Account) -> openstack.connection.Connection:
    return openstack.connection.Connection(session=account.session(), region_name=account.region)


def openstack_destination(project: Project, folder: Path, way: str) -> Destination:
    provider, info = OpenstackProvider(), project.connection_info

    def foreign_file(name: str) -> None:
        where = f"{info['auth_url'].split('/')[2].replace(':', '_')}_{project.account.project_id}"
        hidden = folder / "openstack" / where / ".coriolis"
        hidden.mkdir(parents=True, exist_ok=True)
        (hidden / f"{name}.raw.partial").write_bytes(b"not ours")

    return Destination(
        provider,
        info,
        {"data_path": way, "network_map": {"lan": NETWORK}, "flavor_name": FLAVOR},
        project.foreign_volume if way == "attach" else foreign_file,
        project.foreign_instance,
        is_running=project.is_running,
        surroundings=project.surroundings(folder),
        made_at_start=True,
        size_unit=GIB,
        has_terabytes=way == "upload",
    )
