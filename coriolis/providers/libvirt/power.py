"""Meets ``PowerControl`` for libvirt domains."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import libvirt

from coriolis.providers.libvirt.inventory import power_state_of
from coriolis.providers.libvirt.session import Session, get_domain

POLL_S = 1.0
ASK_AGAIN_S = 15.0
"""A guest that still boots misses the first ACPI event."""


class LibvirtPower:
    """``shut_down`` presses the ACPI button; ``power_off`` pulls the plug."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def power_state(self, instance_id: str) -> str:
        return await self._session.run(lambda c: power_state_of(get_domain(c, instance_id)))

    async def shut_down(self, instance_id: str, grace_s: float) -> bool:
        deadline = time.monotonic() + grace_s
        ask_at = 0.0
        while True:
            now = time.monotonic()
            stopped = await self._session.run(partial(_ask, instance_id, now >= ask_at))
            if stopped:
                return True
            if now >= ask_at:
                ask_at = now + ASK_AGAIN_S
            if now >= deadline:
                return False
            await asyncio.sleep(min(POLL_S, max(0.0, deadline - now)))

    async def power_off(self, instance_id: str) -> None:
        await self._session.run(lambda c: stop_now(get_domain(c, instance_id)))

    async def start(self, instance_id: str) -> None:
        await self._session.run(lambda c: start_now(get_domain(c, instance_id)))


def _ask(instance_id: str, ask: bool, connection: Any) -> bool:
    """Whether the domain is stopped; asks it to stop when ``ask``."""
    domain = get_domain(connection, instance_id)
    if not domain.isActive():
        return True
    if ask:
        try:
            domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
        except libvirt.libvirtError:
            if domain.isActive():
                raise
    return not domain.isActive()


def stop_now(domain: Any) -> None:
    """Destroy; success when it is stopped already."""
    try:
        domain.destroy()
    except libvirt.libvirtError:
        if domain.isActive():
            raise


def start_now(domain: Any) -> None:
    """Start, or resume a paused one; success when it runs already."""
    try:
        if not domain.isActive():
            domain.create()
    except libvirt.libvirtError:
        if not domain.isActive():
            raise
    if power_state_of(domain) == "paused":
        domain.resume()
