"""Ports for the NICs of a machine, made before it: they keep its MAC and addresses, and floating IPs lead to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from coriolis.convert.text import shown
from coriolis.errors import Conflict, Denied
from coriolis.model.resource import InstanceRequest, Tag
from coriolis.providers.openstack import marks
from coriolis.providers.openstack.network_choice import NicPlace, port_body
from coriolis.providers.openstack.placing import Prepared
from coriolis.providers.openstack.rest import ask, listed, make_once, remove
from coriolis.providers.openstack.session import Cloud, Session

FIELDS = ["id", "name", "description", "mac_address", "device_id"]


class Ports:
    """A port is named for the machine and the number of its NIC; its description is the machine's tag."""

    def __init__(self, session: Session, tell: Callable[..., None]) -> None:
        self._session, self._tell = session, tell

    async def reserve(self, request: InstanceRequest, prepared: Prepared) -> list[Mapping[str, Any]]:
        """The ports in the order of the NICs."""
        made = []
        for number, nic in enumerate(prepared.nics):
            name = marks.port_name(request.instance_id, number)
            made.append(await self._port(request, nic, name, prepared.groups_of(number)))
        return made

    async def make(self, request: InstanceRequest, prepared: Prepared) -> tuple[str, ...]:
        """Ids in the order of the NICs, with a floating IP at the first if one is asked for."""
        made = [str(port["id"]) for port in await self.reserve(request, prepared)]
        for number, nic in enumerate(prepared.nics):
            if prepared.groups_of(number) and not nic.filtered:
                self._tell(f"NIC {number} gets no security group: its network has no port security", "WARNING")
            if nic.lost_ips:
                self._tell(
                    f"NIC {number} cannot keep {shown(', '.join(nic.lost_ips))}: its subnet has others", "WARNING"
                )
        if prepared.pool and made:
            await self._floating(made[0], prepared.pool, request.tag)
        return tuple(made)

    async def _port(
        self, request: InstanceRequest, nic: NicPlace, name: str, groups: Sequence[str]
    ) -> Mapping[str, Any]:
        def look(cloud: Cloud) -> Mapping[str, Any] | None:
            return _ours(cloud, name, str(request.tag))

        keep_mac = request.environment.get("keep_mac")
        bodies = [port_body(nic, name, str(request.tag), groups, mac=mac) for mac in (True, False)]
        if keep_mac is not False and nic.mac:
            try:
                return await make_once(self._session, look, lambda cloud: _make(cloud, bodies[0]))
            except (Denied, Conflict) as refused:
                standing = await self._session.read(look)
                if standing is not None:  # another agent made it meanwhile
                    return standing
                if keep_mac or not _of_mac(refused):
                    raise
                self._tell(
                    f"a NIC does not keep its MAC address {nic.mac}: {refused.message}; Neutron chooses one", "WARNING"
                )
        return await make_once(self._session, look, lambda cloud: _make(cloud, bodies[1]))

    async def _floating(self, port: str, pool: str, tag: Tag) -> None:
        def look(cloud: Cloud) -> Any:
            found = listed(cloud, "network", "/floatingips", "floatingips", {"port_id": port})
            return found[0] if found else None

        body = {"floatingip": {"floating_network_id": pool, "port_id": port, "description": str(tag)}}
        made = await make_once(
            self._session, look, lambda cloud: ask(cloud, "network", "POST", "/floatingips", body)["floatingip"]
        )
        self._tell(f"the machine is reached at the floating IP {shown(made['floating_ip_address'])}")

    async def delete(self, instance_id: str, but: Sequence[str] = ()) -> None:
        """With their floating IPs; all ``but`` these."""
        for port in await self._session.read(lambda cloud: _of_instance(cloud, instance_id)):
            if port["id"] in but:
                continue
            query = {"port_id": port["id"]}
            look = partial(listed, service="network", path="/floatingips", key="floatingips", params=query)
            for address in await self._session.read(look):
                if Tag.parse(address.get("description") or "") is not None:
                    await remove(self._session, "network", f"/floatingips/{address['id']}")
            await remove(self._session, "network", f"/ports/{port['id']}")

    async def jobs_of(self, instance_id: str) -> set[str]:
        """Ids of the jobs in the descriptions of a machine's ports."""
        ports = await self._session.read(lambda cloud: _of_instance(cloud, instance_id))
        return {tag.job_id for port in ports if (tag := Tag.parse(port["description"])) is not None}

    async def of_job(self, job_id: str) -> dict[str, Tag]:
        """Machines that have ports of that job: {derived id: tag}."""
        found: dict[str, Tag] = {}
        for port in await self._session.read(_all):
            tag = Tag.parse(port.get("description") or "")
            if tag is not None and tag.job_id == job_id:
                found[instance_of(port["name"])] = tag
        return found


def instance_of(name: str) -> str:
    """The derived id in a port's name."""
    return name.removeprefix("coriolis-").rpartition("-nic-")[0]


def _of_mac(refused: Denied | Conflict) -> bool:
    """Whether the MAC address may be why: the address of somebody else's NIC, or a network that is only shared."""
    return isinstance(refused, Denied) or "mac" in refused.message.lower()


def _make(cloud: Cloud, body: Mapping[str, Any]) -> Mapping[str, Any]:
    made: Mapping[str, Any] = ask(cloud, "network", "POST", "/ports", {"port": body})["port"]
    return made


def _ours(cloud: Cloud, name: str, tag: str) -> Mapping[str, Any] | None:
    found = listed(cloud, "network", "/ports", "ports", {"name": name, "fields": FIELDS})
    mine = sorted((one for one in found if one.get("description") == tag), key=lambda one: str(one["id"]))
    return mine[0] if mine else None


def _all(cloud: Cloud) -> list[Mapping[str, Any]]:
    found = listed(cloud, "network", "/ports", "ports", {"fields": FIELDS})
    return [one for one in found if str(one.get("name") or "").startswith("coriolis-")]


def _of_instance(cloud: Cloud, instance_id: str) -> list[Mapping[str, Any]]:
    return [
        one
        for one in _all(cloud)
        if instance_of(one["name"]) == instance_id and Tag.parse(one.get("description") or "") is not None
    ]
