"""Meets ``PowerControl`` for servers of Nova.

``os-stop`` presses the guest's power button; after ``shutdown_timeout`` of Nova's own (60 s by default) the host pulls
the plug itself, which no tenant can prevent. What this provider promises is only not to ask for more than that.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from openstack import exceptions as sdk

from coriolis.errors import Conflict
from coriolis.model.machine import PowerState
from coriolis.providers.openstack.cloud_errors import printable
from coriolis.providers.openstack.inventory import server_by_id
from coriolis.providers.openstack.machine_spec import Document, power_state_of
from coriolis.providers.openstack.rest import ask
from coriolis.providers.openstack.session import POLL_S, Cloud, Session

STOP_TIMEOUT_S = 300.0
START_TIMEOUT_S = 300.0
BUSY_S = 120.0
"""Nova refuses with 409 while another task of the server runs, e.g. a snapshot."""


class OpenstackPower:
    """A server that is shelved or in error is neither started nor stopped: Conflict says its state."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def power_state(self, instance_id: str) -> str:
        return await self._session.read(lambda cloud: _state(server_by_id(cloud, instance_id)))

    async def shut_down(self, instance_id: str, grace_s: float) -> bool:
        await self._act(instance_id, {"os-stop": None}, "stopped")
        deadline = time.monotonic() + grace_s
        while await self.power_state(instance_id) != "stopped":
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
        return True

    async def power_off(self, instance_id: str) -> None:
        """Nova has no harder stop for tenants: the same, and a longer wait than Nova's own. Raises TimedOut."""
        await self._act(instance_id, {"os-stop": None}, "stopped")
        await self._until(instance_id, "stopped", STOP_TIMEOUT_S)

    async def start(self, instance_id: str) -> None:
        state = await self.power_state(instance_id)
        if state == "paused":
            status = await self._session.read(lambda cloud: str(server_by_id(cloud, instance_id)["status"]))
            await self._act(instance_id, {"resume" if status == "SUSPENDED" else "unpause": None}, "running")
        else:
            await self._act(instance_id, {"os-start": None}, "running")
        await self._until(instance_id, "running", START_TIMEOUT_S)

    async def _until(self, instance_id: str, wanted: PowerState, timeout_s: float) -> None:
        def reached(cloud: Cloud) -> bool | None:
            server = server_by_id(cloud, instance_id)
            if server.get("status") == "ERROR":
                raise _in_error(server)
            return True if _state(server) == wanted else None

        await self._session.until(reached, timeout_s, f"server {instance_id} {wanted}")

    async def _act(self, instance_id: str, action: dict[str, Any], wanted: PowerState) -> None:
        """Ask once the server is not busy; nothing when it is as wanted or already on its way there."""

        def ask_it(cloud: Cloud) -> bool | None:
            server = server_by_id(cloud, instance_id)
            if _state(server) == wanted or _on_its_way(server, wanted):
                return True
            try:
                ask(cloud, "compute", "POST", f"/servers/{instance_id}/action", action)
            except sdk.ConflictException:
                if server.get("OS-EXT-STS:task_state"):
                    return None
                raise
            return True

        await self._session.until(ask_it, BUSY_S, f"a pause in what Nova does with server {instance_id}")


def _state(server: Document) -> PowerState:
    return power_state_of(server)


def _on_its_way(server: Document, wanted: PowerState) -> bool:
    return server.get("OS-EXT-STS:task_state") in {"stopped": ("powering-off",), "running": ("powering-on",)}.get(
        wanted, ()
    )


def _in_error(server: Document) -> Conflict:
    said = printable((server.get("fault") or {}).get("message", ""), 200)
    return Conflict(f"server {server['id']} is in error: {said or 'Nova says no more'}")
