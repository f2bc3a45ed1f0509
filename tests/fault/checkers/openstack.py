"""I1, I2, I4 on a real OpenStack, by its own APIs as admin and by the files of its storage."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import coriolis.keystone  # noqa: F401  # before openstacksdk
from coriolis.providers.openstack.rest import ask, listed
from tests.contract.openstack_destination import Project, connect
from tests.fault.checkers.site import sha256
from tests.lab.openstack_site import Cloud

GONE_S = 120.0
"""Nothing of a job that is no result stands longer than this after its end."""
POLL_S = 1.0


class Evidence:
    """What stands in a project, and every server that it ever had. Blocking."""

    def __init__(self, cloud: Cloud, project: Project) -> None:
        self._share = cloud.home / "data" / "cinder" / "share"
        self._images = cloud.home / "data" / "glance"
        self._project, self._admin = project, connect(cloud.admin)

    def servers_ever(self, name: str) -> list[dict[str, Any]]:
        """Also deleted ones: what Nova remembers of servers of that name."""
        found = []
        for deleted in ("false", "true"):
            query = {
                "all_tenants": "1",
                "deleted": deleted,
                "project_id": self._project.account.project_id,
                "name": f"^{name}$",
            }
            found += listed(self._admin, "compute", "/servers/detail", "servers", query)
        return list({one["id"]: one for one in found}.values())

    def volume_digest(self, volume_id: str, size: int) -> str:
        """SHA-256 of its first ``size`` bytes; AssertionError when anything but zeros follows."""
        return sha256(self._share / f"volume-{volume_id}", size)

    def image_digest(self, image_id: str, size: int) -> str:
        """As ``volume_digest``, of a file of Glance."""
        (path,) = self._images.rglob(image_id)
        return sha256(path, size)

    def listing(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What the project owns, by kind and id; ports without those of Neutron's own and of the router."""
        own = self._project.own
        ports = listed(own, "network", "/ports", "ports")
        found = {
            "servers": listed(own, "compute", "/servers/detail", "servers"),
            "volumes": listed(own, "block_storage", "/volumes/detail", "volumes"),
            "snapshots": listed(own, "block_storage", "/snapshots", "snapshots"),
            "attachments": ask(own, "block_storage", "GET", "/attachments/detail")["attachments"],
            "images": listed(own, "image", "/images", "images", {"visibility": "private"}),
            "ports": [one for one in ports if not one["device_owner"].startswith("network:")],
            "floatingips": listed(own, "network", "/floatingips", "floatingips"),
        }
        return {kind: {str(one["id"]): one for one in things} for kind, things in found.items()}

    def orphans(self, foreign_ports: set[str], template: str = "") -> list[str]:
        """What belongs to no server. ``template``: the image that is wanted instead of one."""
        standing = self.listing()
        servers = standing["servers"]
        kept = {one["id"] for server in servers.values() for one in server["os-extended-volumes:volumes_attached"]}
        ports = {key for key, port in standing["ports"].items() if port["device_id"] in servers} | foreign_ports
        held = {key for key, one in standing["attachments"].items() if one["instance"] in servers}
        addresses = {key for key, one in standing["floatingips"].items() if one["port_id"] in ports}
        fine = {
            "servers": set(servers),
            "volumes": kept,
            "ports": ports,
            "attachments": held,
            "floatingips": addresses,
            "images": {key for key, image in standing["images"].items() if template and image["name"] == template},
        }
        return [
            f"{kind}: {one.get('name') or key} ({one.get('status', '')})"
            for kind, things in standing.items()
            for key, one in things.items()
            if key not in fine.get(kind, set())
        ]

    async def until_clean(self, at_end: float, foreign_ports: set[str], template: str = "") -> float:
        """Seconds since the job's end (monotonic) until no orphan stood. AssertionError with what stands after 120."""
        while left := await asyncio.to_thread(self.orphans, foreign_ports, template):
            assert time.monotonic() < at_end + GONE_S, f"I4: left {GONE_S:.0f} s after the end: {left}"
            await asyncio.sleep(POLL_S)
        return time.monotonic() - at_end


@dataclass
class TrustWatch:
    """Follows all trusts for one account, as admin; ``async with`` owns the questioning."""

    cloud: Cloud
    trustee: str
    present: set[str] = field(default_factory=set)
    ended: dict[str, float] = field(default_factory=dict)
    """When the job of a trust ended, or since then a new leader began: each counts its grace period anew, and the
    promise is of 120 s after the last fault."""
    lasted: dict[str, float] = field(default_factory=dict)
    """Seconds that a trust outlived its job."""

    async def __aenter__(self) -> TrustWatch:
        self._session = self.cloud.admin.session()
        await self.look()
        self._asking = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._asking.cancel()
        await asyncio.wait([self._asking])

    async def look(self) -> set[str]:
        """Ids of the trusts that exist now."""
        identity = {"service_type": "identity", "interface": "public"}
        answer = await asyncio.to_thread(self._session.get, "/OS-TRUST/trusts", endpoint_filter=identity)
        self.present = {str(one["id"]) for one in answer.json()["trusts"] if one["trustee_user_id"] == self.trustee}
        return self.present

    async def _ask(self) -> None:
        while True:
            await self.look()
            for trust in set(self.ended) - self.present - set(self.lasted):
                self.lasted[trust] = time.monotonic() - self.ended[trust]
            await asyncio.sleep(POLL_S)

    def healed(self) -> None:
        """A new leader leads."""
        now = time.monotonic()
        self.ended = {trust: at if trust in self.lasted else now for trust, at in self.ended.items()}

    async def check(self) -> None:
        """Every trust went within 120 s, and none stands of which no job is known."""
        while set(self.ended) - set(self.lasted):
            late = {one for one, at in self.ended.items() if one not in self.lasted and time.monotonic() > at + GONE_S}
            assert not late, f"I4: trusts left {GONE_S:.0f} s after the end of their jobs: {late}"
            assert not self._asking.done(), self._asking.exception()
            await asyncio.sleep(POLL_S)
        slow = {one: seconds for one, seconds in self.lasted.items() if seconds > GONE_S}
        assert not slow, f"I4: trusts outlived their jobs by seconds: {slow}"
        assert not self.present, f"I4: trusts without a job: {self.present}"
