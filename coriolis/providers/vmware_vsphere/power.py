"""Meets ``PowerControl``: asks the guest through its tools, or pulls the plug."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pyVmomi import vim

from coriolis.providers.vmware_vsphere.machine_spec import power_state_of
from coriolis.providers.vmware_vsphere.properties import some
from coriolis.providers.vmware_vsphere.session import Session
from coriolis.providers.vmware_vsphere.snapshots import machine
from coriolis.providers.vmware_vsphere.tasks import run

POLL_S = 1.0
ASK_AGAIN_S = 30.0
"""Tools that are just starting lose a request."""
TASK_TIMEOUT_S = 300.0
_NO_TOOLS = (vim.fault.ToolsUnavailable, vim.fault.InvalidPowerState, vim.fault.TaskInProgress)


class VspherePower:
    """Instance ids are managed object ids."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def power_state(self, instance_id: str) -> str:
        return await self._session.run(lambda content: _state(content, instance_id))

    async def shut_down(self, instance_id: str, grace_s: float) -> bool:
        deadline, ask_at = time.monotonic() + grace_s, 0.0
        while True:
            if await self.power_state(instance_id) == "stopped":
                return True
            now = time.monotonic()
            if now >= ask_at:
                await self._session.run(lambda content: _ask(content, instance_id))
                ask_at = now + ASK_AGAIN_S
            if now >= deadline:
                return await self.power_state(instance_id) == "stopped"
            await asyncio.sleep(min(POLL_S, max(0.0, deadline - now)))

    async def power_off(self, instance_id: str) -> None:
        await self._session.run(lambda content: _turn(content, instance_id, on=False), TASK_TIMEOUT_S)

    async def start(self, instance_id: str) -> None:
        await self._session.run(lambda content: _turn(content, instance_id, on=True), TASK_TIMEOUT_S)


def _state(content: Any, instance_id: str) -> str:
    values = next(some(content, [machine(content, instance_id)], ["runtime.powerState"]))[1]
    return power_state_of(values.get("runtime.powerState"))


def _ask(content: Any, instance_id: str) -> None:
    """Without tools nobody hears it; the grace period then passes."""
    try:
        machine(content, instance_id).ShutdownGuest()
    except _NO_TOOLS:
        return


def _turn(content: Any, instance_id: str, *, on: bool) -> None:
    vm, wanted = machine(content, instance_id), "running" if on else "stopped"
    if _state(content, instance_id) == wanted:
        return
    try:
        run(content, vm.PowerOnVM_Task if on else vm.PowerOffVM_Task, TASK_TIMEOUT_S - 60)
    except vim.fault.InvalidPowerState:
        if _state(content, instance_id) != wanted:
            raise  # otherwise somebody else was quicker
