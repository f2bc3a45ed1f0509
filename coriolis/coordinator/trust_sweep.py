"""Removes trusts that no job needs. Keystone's own list says which there are, so none is forgotten.

That covers the end of a job, its deletion, renewed credentials, a gateway that died between trust and job, and every
change of leaders in between: nothing has to be remembered. It is why no two meshes may share an account at Keystone.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from coriolis.clock import Clock
from coriolis.coordinator.driver import Driver
from coriolis.coordinator.vault import Vault
from coriolis.errors import CoriolisError, CredentialsLost
from coriolis.model.job import Migration

log = structlog.get_logger(__name__)

SWEEP_S = 10.0
GRACE_S = 30.0
"""How long a trust may be without use: the gateway makes it right before the job, or before a verification of an ended
one. Both together keep the promise of 120 s."""
MAX_REMOVED_AT_ONCE = 200
MAX_REMEMBERED = 10_000


class Trusts(Protocol):
    """See ``coriolis.keystone.trusts.Delegations``."""

    async def mine(self) -> list[str]: ...

    async def remove(self, trust_id: str) -> None: ...


def needing(driver: Driver) -> list[Migration]:
    """Migrations with work to do: their own, inspections and verifications, and what the janitor has to remove."""
    stored = [
        migration
        for migration in driver.migrations.values()
        if any(not run.terminal or run.residue() for run in driver.runs(migration.id))
    ]
    return stored + driver.served_in_memory()


class TrustSweep:
    """One per leadership term."""

    def __init__(self, trusts: Trusts, vault: Vault, driver: Driver, clock: Clock) -> None:
        self._trusts = trusts
        self._vault = vault
        self._driver = driver
        self._clock = clock
        self._unused_since: dict[str, float] = {}
        self._unremovable: set[str] = set()

    async def serve(self) -> None:
        """Sweep regularly, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self.sweep()
            except CoriolisError as failed:
                log.warning("trusts not looked at", reason=failed.message)

    async def sweep(self) -> None:
        """Remove what no job needs, or remember since when. Raises Unavailable."""
        listed = await self._trusts.mine()
        used = {self._vault.trust_of(migration) for migration in needing(self._driver)}
        now = self._clock.monotonic()
        self._unused_since = {
            trust_id: self._unused_since.get(trust_id, now) for trust_id in listed if trust_id not in used
        }
        late = [trust_id for trust_id, since in self._unused_since.items() if now - since >= GRACE_S]
        for trust_id in late[:MAX_REMOVED_AT_ONCE]:
            await self._remove(trust_id)

    async def _remove(self, trust_id: str) -> None:
        try:
            await self._trusts.remove(trust_id)
        except CredentialsLost as refused:
            # its owner cannot act any more, so nobody can use it; it ends with its own time limit
            if trust_id not in self._unremovable and len(self._unremovable) < MAX_REMEMBERED:
                self._unremovable.add(trust_id)
                log.warning("a trust cannot be removed, and is of no use either", reason=refused.message)
